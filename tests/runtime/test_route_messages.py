"""Netlink messages about routing: whatever comes is read to an end, and rightly."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.handmade import address

from fastmip.runtime import route_messages as messages
from fastmip.runtime.route_messages import LinkNews, NeighbourNews, NextHop, RouteNews, RuleNews

MAC = bytes.fromhex("020000000001")


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def ip(text: str) -> bytes:
    return address(text).to_bytes(4)


def number(value: int) -> bytes:
    return struct.pack("=I", value)


def route_body(length: int, *attributes: bytes, kind: int = 1, flags: int = 0) -> bytes:
    header = struct.pack("=BBBBBBBBI", 2, length, 0, 0, 254, 3, 0, kind, flags)
    return header + b"".join(attributes)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_to_an_end(data: bytes) -> None:
    for message in messages.split(data):
        assert len(message.body) <= len(data)
    for read in (messages.read_link, messages.read_neighbour):
        read(data)
    messages.read_route(data)
    messages.read_rule(data)


@given(st.binary(max_size=80))
def test_any_attributes_are_read_to_an_end(data: bytes) -> None:
    messages.read_route(route_body(24) + data)
    messages.read_route(route_body(24, attribute(9, data)))
    messages.read_rule(struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0) + data)


def test_a_route_through_a_gateway() -> None:
    body = route_body(
        24,
        attribute(15, number(1000)),
        attribute(1, ip("198.51.100.0")),
        attribute(6, number(20)),
        attribute(8, attribute(2, number(1400))),
        attribute(5, ip("10.1.0.2")),
        attribute(4, number(3)),
    )
    hops = (NextHop(3, address("10.1.0.2")),)
    assert messages.read_route(body) == RouteNews(
        1000, address("198.51.100.0"), 24, 20, 0, 1, hops, 1400
    )


def test_hops_of_a_multipath_route() -> None:
    hops = b""
    for index, weight, flags in ((3, 2, 0), (4, 0, 1)):
        gateway = attribute(5, ip(f"10.{index}.0.1"))
        hops += struct.pack("=HBBi", 8 + len(gateway), flags, weight, index) + gateway
    route = messages.read_route(route_body(0, attribute(9, hops)))
    assert route is not None
    assert route.hops == (
        NextHop(3, address("10.3.0.1"), 3),
        NextHop(4, address("10.4.0.1"), 1, is_dead=True),
    )


def test_routes_only_the_kernel_can_do_have_no_hops() -> None:
    via_ipv6 = attribute(18, struct.pack("=H", 10) + bytes(16))
    for body in (
        route_body(24, attribute(4, number(3)), kind=6),
        route_body(24, attribute(4, number(3)), via_ipv6),
        route_body(24, attribute(4, number(3)), attribute(22, b"1234")),
    ):
        route = messages.read_route(body)
        assert route is not None
        assert route.hops == ()
    assert messages.read_route(route_body(24, flags=0x200)) is None, "a cached route"


def test_a_link_has_a_mac_where_it_has_ethernet_neighbours() -> None:
    def link(hardware: int, flags: int) -> LinkNews | None:
        header = struct.pack("=BxHiII", 0, hardware, 5, flags, 0)
        return messages.read_link(header + attribute(1, MAC) + attribute(4, number(1500)))

    up = 0x1 | 0x40 | 0x10000
    assert link(1, up) == LinkNews(5, MAC, 1500, True, True)
    assert link(1, 0x1) == LinkNews(5, MAC, 1500, True, False)
    assert link(1, up | 0x80) == link(772, up) == LinkNews(5, b"", 1500, True, True)


def test_a_neighbour_has_a_mac_while_the_kernel_would_send_to_it() -> None:
    def neighbour(state: int) -> NeighbourNews | None:
        header = struct.pack("=B3xiHBB", 2, 5, state, 0, 1)
        return messages.read_neighbour(header + attribute(1, ip("10.1.0.2")) + attribute(2, MAC))

    there = address("10.1.0.2")
    for state in (0x02, 0x08, 0x10, 0x80):
        assert neighbour(state) == NeighbourNews(5, there, MAC, False)
    assert neighbour(0x04) == NeighbourNews(5, there, MAC, True)
    for state in (0x01, 0x20, 0):
        assert neighbour(state) == NeighbourNews(5, there, b"", False)


def test_a_rule() -> None:
    header = struct.pack("=BBBBBBBBI", 2, 24, 8, 0, 254, 0, 0, 1, 2)
    body = header + attribute(1, ip("10.2.3.4")) + attribute(2, ip("10.9.9.9"))
    body += attribute(6, number(99)) + attribute(10, number(0x434)) + attribute(3, b"eth0\0")
    body += attribute(14, number(0))
    assert messages.read_rule(body) == RuleNews(
        priority=99,
        table=254,
        source=(address("10.0.0.0"), 8),
        destination=(address("10.2.3.0"), 24),
        iif="eth0",
        mark=0x434,
        mark_mask=0xFFFFFFFF,
        suppress=0,
        is_inverted=True,
    )
    ports = messages.read_rule(header + attribute(24, b"\0\x35\0\x35"))
    assert ports is not None
    assert ports.is_odd
