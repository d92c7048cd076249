"""The engine as a foreign agent: to visitors, from visitors, and nothing else (RFC 5944, 3024)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.lab import (
    CORRESPONDENT,
    HOME_AGENT,
    NODE,
    OTHER_NODE,
    a,
    assert_balanced,
    engine_for,
)
from tests.reference.encapsulations import GRE, IPIP, MINIMAL, Method, wrapped
from tests.reference.ipv4 import change, header
from tests.reference.tunnels import DONE_TTL, HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane

CARE_OF, LINK_ADDRESS = a("10.3.1.1"), a("10.3.9.1")
"""The foreign agent's: advertised, and on the visitors' link."""
TO_VISITOR = header(CORRESPONDENT, NODE, 17, 8, ttl=9) + bytes(8)
FROM_VISITOR = header(NODE, CORRESPONDENT, 17, 8, ttl=9) + bytes(8)
METHODS = [Method(), Method(GRE), Method(MINIMAL), Method(IPIP, None, 434, 434)]


class Lab:
    """A foreign agent with one visitor."""

    def __init__(
        self, *, done: int = DONE_TTL, method: Method | None = None, **fields: Any
    ) -> None:
        self.binding = Binding(HOME_AGENT, CARE_OF, method=method or Method(), **fields)
        own = (CARE_OF, LINK_ADDRESS)
        self.engine = engine_for(Twin("foreign-agent", own, {NODE: [self.binding]}))
        self.port = _dataplane.MemoryPort(self.engine, done=done)

    def run(self, side: int, packet: bytes) -> tuple[str, list[bytes], list[bytes]]:
        """Verdict, and what left to the home side and through tunnels."""
        (verdict,) = self.port.inject(side, [packet])
        assert_balanced(self.engine)
        return verdict, self.port.take(HOME), self.port.take(TUNNEL)


def tunnelled(
    inner: bytes, source: int = HOME_AGENT, destination: int = CARE_OF, method: Method | None = None
) -> bytes:
    """A tunnel packet to the foreign agent."""
    return wrapped(inner, method or Method(), source, destination, 64, 0)


@pytest.mark.parametrize("method", METHODS)
def test_packets_for_a_visitor_are_decapsulated_rfc5944_4_2_2(method: Method) -> None:
    packet = tunnelled(TO_VISITOR, method=method)
    assert Lab(method=method).run(TUNNEL, packet) == ("decapsulated", [TO_VISITOR], [])
    forwarded = Lab(done=0, method=method).run(TUNNEL, packet)
    assert forwarded == ("decapsulated", [change(TO_VISITOR, ttl=8)], [])


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (tunnelled(change(TO_VISITOR)[:16] + b"\x0a\x01\0\x63" + TO_VISITOR[20:]), "checksum"),
        (tunnelled(header(CORRESPONDENT, OTHER_NODE, 17, 0)), "drop-no-binding"),
        (tunnelled(header(CORRESPONDENT, a("255.255.255.255"), 17, 0)), "drop-no-binding"),
        (tunnelled(TO_VISITOR, source=CORRESPONDENT), "drop-care-of-address"),
        (tunnelled(TO_VISITOR, destination=LINK_ADDRESS), "drop-tunnel-end"),
        (tunnelled(TO_VISITOR, method=Method(GRE)), "drop-encapsulation"),
    ],
    ids=["damaged", "no visitor", "broadcast", "not the home agent", "other address", "gre"],
)
def test_anything_else_is_dropped_without_a_word_rfc5944_4_2_2(packet: bytes, verdict: str) -> None:
    found, home, tunnel = Lab().run(TUNNEL, packet)
    assert found.endswith(verdict)
    assert (home, tunnel) == ([], [])  # no ICMP unreachable


@pytest.mark.parametrize("method", METHODS)
def test_a_visitors_packets_are_reverse_tunnelled_directly_rfc3024_5_1(method: Method) -> None:
    lab = Lab(method=method)
    found = lab.run(HOME, FROM_VISITOR)
    assert found == ("encapsulated", [], [lab.binding.wrap(FROM_VISITOR)])


@pytest.mark.parametrize(
    ("fields", "packet"),
    [
        ({"reverse": False}, FROM_VISITOR),
        ({"nested": True}, FROM_VISITOR),
        ({}, header(NODE, a("224.0.0.5"), 17, 0)),
        ({}, header(NODE, a("255.255.255.255"), 17, 0)),
    ],
    ids=["without T", "encapsulating delivery", "multicast", "broadcast"],
)
def test_what_must_not_be_reverse_tunnelled_is_routed_rfc3024_5_2_1(
    fields: dict[str, Any], packet: bytes
) -> None:
    assert Lab(**fields).run(HOME, packet) == ("returned-not-reverse", [packet], [])


def test_others_are_no_visitors_and_routed_normally() -> None:
    stranger = header(OTHER_NODE, CORRESPONDENT, 17, 0)
    assert Lab().run(HOME, stranger) == ("returned-no-binding", [stranger], [])
    gone = Lab(expires_ns=1).run(HOME, FROM_VISITOR)
    assert gone == ("returned-expired", [FROM_VISITOR], [])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("destination", [CARE_OF, LINK_ADDRESS])
def test_encapsulating_delivery_is_tunnelled_again_rfc3024_5_2(
    method: Method, destination: int
) -> None:
    lab = Lab(method=method, nested=True)
    for sent in (Method(), Method(method.encapsulation)):
        packet = tunnelled(FROM_VISITOR, NODE, destination, sent)
        again = lab.binding.wrap(change(FROM_VISITOR, ttl=8))
        assert lab.run(TUNNEL, packet) == ("reencapsulated", [], [again])


def test_broadcasts_and_multicasts_go_by_encapsulating_delivery_rfc3024_5_3() -> None:
    lab = Lab(nested=True)
    packet = header(NODE, a("224.0.0.5"), 17, 0, ttl=9)
    again = lab.binding.wrap(change(packet, ttl=8))
    found = lab.run(TUNNEL, tunnelled(packet, NODE, LINK_ADDRESS))
    assert found == ("reencapsulated", [], [again])


@pytest.mark.parametrize(
    ("fields", "packet", "verdict"),
    [
        ({"nested": True}, tunnelled(FROM_VISITOR, NODE, CORRESPONDENT), "drop-tunnel-end"),
        ({"nested": True, "expires_ns": 1}, tunnelled(FROM_VISITOR, NODE), "drop-expired"),
        ({"nested": True, "reverse": 0}, tunnelled(FROM_VISITOR, NODE), "drop-not-reverse"),
        (
            {"nested": True},
            tunnelled(FROM_VISITOR, NODE, method=Method(GRE)),
            "drop-encapsulation",
        ),
        ({}, tunnelled(FROM_VISITOR, NODE), "drop-no-binding"),
        ({"nested": True}, tunnelled(FROM_VISITOR, OTHER_NODE), "drop-no-binding"),
    ],
    ids=["not to us", "expired", "without T", "gre", "direct delivery", "another's source"],
)
def test_delivery_is_checked_rfc3024_5_2_1(
    fields: dict[str, Any], packet: bytes, verdict: str
) -> None:
    assert Lab(**fields).run(TUNNEL, packet) == (verdict, [], [])


def test_a_nested_broadcast_reaches_the_visitor_as_a_packet_to_it_rfc5944_4_3() -> None:
    nested = header(HOME_AGENT, NODE, 4, 20) + header(CORRESPONDENT, a("10.1.0.255"), 17, 0)
    assert Lab().run(TUNNEL, tunnelled(nested)) == ("decapsulated", [nested], [])


def test_the_visitor_takes_the_nested_broadcast_out_rfc5944_4_4() -> None:
    """Through an agent's care-of address its only tunnel ends at its home address."""
    broadcast = header(CORRESPONDENT, a("255.255.255.255"), 17, 0)
    nested = header(HOME_AGENT, NODE, 4, 20) + broadcast
    twin = Twin("mobile-node", (), {NODE: [Binding(HOME_AGENT, NODE)]}, DONE_TTL)
    port = _dataplane.MemoryPort(engine_for(twin), done=DONE_TTL)
    assert port.inject(TUNNEL, [nested]) == ["decapsulated"]
    assert port.take(HOME) == [broadcast]


def test_a_node_delivers_encapsulated_to_its_foreign_agent_rfc3024_5_2_2() -> None:
    twin = Twin("mobile-node", (), {NODE: [Binding(LINK_ADDRESS, NODE)]}, DONE_TTL)
    port = _dataplane.MemoryPort(engine_for(twin), done=DONE_TTL)
    assert port.inject(HOME, [FROM_VISITOR]) == ["encapsulated"]
    assert port.take(TUNNEL) == [tunnelled(FROM_VISITOR, NODE, LINK_ADDRESS)]
