"""Broadcasts of the home network reach the nodes that asked for them (RFC 5944 4.3)."""

from __future__ import annotations

import pytest
from tests.engine.lab import CARE_OF, HOME_AGENT, NODE, OTHER_CARE_OF, a, assert_balanced
from tests.reference.encapsulations import GRE, MINIMAL, Method
from tests.reference.ipv4 import header
from tests.reference.tunnels import HOME, TUNNEL, Binding

from fastmip import _dataplane

PACKET = header(a("10.1.0.50"), a("10.1.0.255"), 17, 12, ttl=1) + bytes(12)
CO_LOCATED = Binding(CARE_OF, HOME_AGENT, broadcasts=True)
AT_AN_AGENT = Binding(OTHER_CARE_OF, HOME_AGENT, broadcasts=True, nested=True)


def engine_with(*chains: list[Binding], max_bindings: int = 64) -> _dataplane.Engine:
    """A home agent; the chains belong to home addresses one after the other."""
    engine = _dataplane.Engine(max_bindings=max_bindings, local_addresses=[HOME_AGENT])
    for number, chain in enumerate(chains):
        engine.restore(b"".join(binding.record(NODE + number) for binding in chain))
    return engine


def sent(engine: _dataplane.Engine) -> list[bytes]:
    """What left through tunnels."""
    return _dataplane.MemoryPort(engine).take(TUNNEL)


def test_only_tunnels_that_asked_get_a_copy_rfc5944_4_3() -> None:
    engine = engine_with([CO_LOCATED], [Binding(CARE_OF + 1, HOME_AGENT)])
    assert (engine.listeners(), engine.broadcast(PACKET)) == (1, 1)
    assert sent(engine) == [CO_LOCATED.wrap(PACKET)]
    assert engine.counters()["encapsulated-copy"] == (1, len(PACKET))
    assert_balanced(engine)


def test_without_a_co_located_address_it_is_nested_for_the_home_address_rfc5944_4_3() -> None:
    engine = engine_with([AT_AN_AGENT])
    assert engine.broadcast(PACKET) == 1
    nested = header(HOME_AGENT, NODE, 4, len(PACKET), fragment=0x4000) + PACKET
    assert sent(engine) == [AT_AN_AGENT.wrap(nested)]


@pytest.mark.parametrize("method", [Method(GRE), Method(MINIMAL), Method(4, None, 4434, 434)])
def test_broadcasts_go_by_the_negotiated_encapsulation(method: Method) -> None:
    binding = Binding(CARE_OF, HOME_AGENT, broadcasts=True, method=method)
    engine = engine_with([binding])
    assert engine.broadcast(PACKET) == 1
    assert sent(engine) == [binding.wrap(PACKET)]


def test_every_simultaneous_binding_is_asked_for_itself() -> None:
    engine = engine_with([Binding(CARE_OF, HOME_AGENT), AT_AN_AGENT])
    assert engine.broadcast(PACKET) == 1
    assert len(sent(engine)) == 1


def test_nobody_listens_any_more_after_a_change() -> None:
    engine = engine_with([CO_LOCATED])
    engine.publish(engine.prepare(Binding(CARE_OF, HOME_AGENT).record(NODE)))
    assert (engine.listeners(), engine.broadcast(PACKET)) == (0, 0)
    engine.publish(engine.prepare(CO_LOCATED.record(NODE)))
    assert engine.listeners() == 1
    engine.remove(NODE)
    assert (engine.listeners(), engine.broadcast(PACKET), sent(engine)) == (0, 0, [])


def test_expired_tunnels_get_nothing() -> None:
    engine = engine_with([Binding(CARE_OF, HOME_AGENT, broadcasts=True, expires_ns=1)])
    assert (engine.broadcast(PACKET), sent(engine)) == (0, [])


def test_a_call_is_bounded_and_the_next_goes_on_with_the_others() -> None:
    chains = [[Binding(CARE_OF + n, HOME_AGENT, broadcasts=True)] for n in range(1500)]
    engine = engine_with(*chains, max_bindings=2000)
    assert engine.broadcast(PACKET) == 1024
    first = {packet[16:20] for packet in sent(engine)}
    assert engine.broadcast(PACKET) == 1024
    second = {packet[16:20] for packet in sent(engine)}
    assert (len(first), len(second), len(first | second)) == (1024, 1024, 1500)
    assert_balanced(engine)


def test_nobody_is_told_that_a_broadcast_was_too_big_rfc1122_3_2_2() -> None:
    engine = engine_with([Binding(CARE_OF, HOME_AGENT, mtu=576, broadcasts=True)])
    big = header(a("10.1.0.50"), a("10.1.0.255"), 17, 1000, fragment=0x4000) + bytes(1000)
    assert engine.broadcast(big) == 0
    counters = engine.counters()
    assert counters["drop-too-big"] == (1, len(big))
    assert counters["icmp-sent"] == (0, 0)
    assert engine.events()["icmp-forbidden"] == 1
    assert _dataplane.MemoryPort(engine).take(HOME) == []
    assert_balanced(engine)


@pytest.mark.parametrize("packet", [b"", PACKET[:19], PACKET[:25], b"\x65" + PACKET[1:]])
def test_what_is_no_packet_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError, match="no IPv4 packet"):
        engine_with([CO_LOCATED]).broadcast(packet)
