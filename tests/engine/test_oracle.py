"""Bytes judged by scapy: what the engine builds is what a foreign implementation builds."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption_RR
from scapy.packet import Raw
from tests.engine.lab import CARE_OF, HOME_AGENT, NODE, a, assert_balanced, engine_for
from tests.reference.tunnels import DONE_TTL, HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane

HOME_AGENT_TWIN = Twin("home-agent", (HOME_AGENT,), {NODE: [Binding(CARE_OF, HOME_AGENT)]})


def packet(**fields: Any) -> IP:
    """Correspondent to mobile node."""
    return IP(src="10.9.0.7", dst="10.1.0.5", **fields) / UDP(sport=7, dport=9) / Raw(b"moving")


def port(twin: Twin = HOME_AGENT_TWIN, done: int = 0) -> _dataplane.MemoryPort:
    """A memory port on a fresh engine."""
    return _dataplane.MemoryPort(engine_for(twin), done=done)


@pytest.mark.parametrize("tos", range(0, 256, 5))
def test_encapsulation_is_scapys_rfc2003_3_1(tos: int) -> None:
    to_node = port()
    assert to_node.inject(HOME, [bytes(packet(ttl=9, tos=tos, id=77))]) == ["encapsulated"]
    outer = IP(src="10.1.0.1", dst="10.3.1.20", proto=4, ttl=64, tos=tos, flags="DF", id=0)
    assert to_node.take(TUNNEL) == [bytes(outer / packet(ttl=8, tos=tos, id=77))]


def test_inner_options_stay_inside_rfc2003_3_1() -> None:
    inner = packet(ttl=9, options=[IPOption_RR(routers=["10.0.0.9"] * 3)])
    to_node = port()
    assert to_node.inject(HOME, [bytes(inner)]) == ["encapsulated"]
    (left,) = to_node.take(TUNNEL)
    inner.ttl = 8
    assert IP(left).ihl == 5
    assert bytes(IP(left).payload) == bytes(inner)


def test_local_packet_keeps_its_ttl_rfc2003_3_1() -> None:
    to_node = port(done=DONE_TTL)
    to_node.inject(HOME, [bytes(packet(ttl=1))])
    assert IP(to_node.take(TUNNEL)[0]).payload.ttl == 1


def test_time_exceeded_is_scapys_rfc2003_3_1() -> None:
    original = bytes(packet(ttl=1))
    to_node = port()
    assert to_node.inject(HOME, [original]) == ["drop-ttl"]
    expected = IP(src="10.1.0.1", dst="10.9.0.7", tos=0xC0, id=1, ttl=64) / ICMP(type=11, code=0)
    assert to_node.take(HOME) == [bytes(expected / Raw(original))]


def test_fragmentation_needed_is_scapys_and_carries_the_tunnel_budget_rfc2003_5_1() -> None:
    original = packet(flags="DF", ttl=9) / Raw(b"x" * 1500)
    to_node = port()
    assert to_node.inject(HOME, [bytes(original)]) == ["drop-too-big"]
    original.ttl = 8  # quoted as it would have been forwarded
    quote = Raw(bytes(original)[:548])
    error = ICMP(type=3, code=4, nexthopmtu=1480)
    expected = IP(src="10.1.0.1", dst="10.9.0.7", tos=0xC0, id=1, ttl=64) / error / quote
    assert to_node.take(HOME) == [bytes(expected)]


def test_fragments_are_reassembled_by_scapy_and_fit_the_path_rfc2003_5_1() -> None:
    from scapy.layers.inet import defragment  # noqa: PLC0415 - slow import, one test

    original = IP(src="10.9.0.7", dst="10.1.0.5", id=4242, ttl=9) / UDP() / Raw(b"y" * 4000)
    to_node = port()
    assert to_node.inject(HOME, [bytes(original)]) == ["encapsulated-fragments"]
    left = [IP(p) for p in to_node.take(TUNNEL)]
    assert len(left) == 3
    assert all(len(bytes(p)) <= 1500 and p.flags.DF for p in left)
    (whole,) = defragment(  # type: ignore[no-untyped-call]
        [p.payload for p in left]
    )
    assert bytes(whole[UDP].payload) == b"y" * 4000


def test_decapsulation_is_scapys_rfc2003_3_1() -> None:
    inner = IP(src="10.1.0.5", dst="10.9.0.7", ttl=9) / UDP() / Raw(b"back")
    engine = engine_for(HOME_AGENT_TWIN)
    from_node = _dataplane.MemoryPort(engine, done=DONE_TTL)
    tunnelled = bytes(IP(src="10.3.1.20", dst="10.1.0.1") / inner)
    assert from_node.inject(TUNNEL, [tunnelled]) == ["decapsulated"]
    assert from_node.take(HOME) == [bytes(inner)]
    (traffic,) = engine.traffic(a("10.1.0.5"))
    assert (traffic["received_packets"], traffic["received_bytes"]) == (1, len(bytes(inner)))
    assert_balanced(engine)
