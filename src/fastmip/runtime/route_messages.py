"""Netlink messages about links, neighbours, routes and rules: bytes <-> values, no socket.

Only what decides where an IPv4 packet leaves. pyroute2 takes a third of a millisecond for one
such message; a full routing table has a million of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# linux/netlink.h, rtnetlink.h, neighbour.h, fib_rules.h
NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 2, 3, 4
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_REPLACE, NLM_F_CREATE, NLM_F_APPEND, NLM_F_DUMP = 0x100, 0x400, 0x800, 0x300
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR = 20, 21
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWNEXTHOP, RTM_DELNEXTHOP = 104, 105
RTN_UNICAST, RTN_THROW = 1, 9
ARPHRD_ETHER = 1
IFF_UP, IFF_LOOPBACK, IFF_NOARP = 0x1, 0x8, 0x80
_CARRIER = 0x1 | 0x40 | 0x10000  # IFF_UP, IFF_RUNNING, IFF_LOWER_UP
_AF_INET = 2
_RTM_F_CLONED = 0x200
_RTNH_F_UNUSABLE = 0x1 | 0x20  # dead, unresolved; whether a link is down, it says itself
_NTF_USE = 0x01
_NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
"""Reachable, stale, delay, probe, no ARP, permanent: there is a MAC to send to."""
_NUD_STALE = 0x04
_FIB_RULE_INVERT = 0x2
_FR_ACT_TO_TBL = 1
_NO_SUPPRESS = 0xFFFFFFFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_NEIGHBOUR = struct.Struct("=B3xiHBB")  # struct ndmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg; of rules the same with other names
_HOP = struct.Struct("=HBBi")  # struct rtnexthop


class Message(NamedTuple):
    """One netlink message."""

    kind: int
    flags: int
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True)
class LinkNews:
    """An interface as it is now."""

    index: int
    mac: bytes
    """Six bytes; empty where frames need another header than Ethernet's, or no neighbour."""
    mtu: int
    is_up: bool
    has_carrier: bool


@dataclass(frozen=True, slots=True)
class NeighbourNews:
    """A neighbour as it is now."""

    index: int
    address: int
    mac: bytes
    """Empty while there is none."""
    is_stale: bool


@dataclass(frozen=True, slots=True)
class NextHop:
    """One way of a route."""

    index: int
    gateway: int
    """0 on the link itself."""
    weight: int = 1
    is_dead: bool = False


@dataclass(frozen=True, slots=True)
class RouteNews:
    """A route; equal ones are the same route to the kernel, too."""

    table: int
    prefix: int
    length: int
    priority: int
    tos: int
    kind: int
    """RTN_UNICAST, RTN_THROW, or one of those that are the kernel's business."""
    hops: tuple[NextHop, ...]
    """Empty where the kernel does more than send to an IPv4 neighbour."""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class RuleNews:
    """A policy rule."""

    priority: int
    table: int
    """0: what it does is not looking into a table."""
    source: tuple[int, int] = (0, 0)
    destination: tuple[int, int] = (0, 0)
    iif: str = ""
    oif: str = ""
    mark: int = 0
    mark_mask: int = 0
    suppress: int = -1
    """Routes of at most this prefix length are passed over."""
    is_inverted: bool = False
    is_odd: bool = False
    """It selects by something a destination table cannot show (ports, users, TOS)."""
    is_vrf: bool = False
    """It serves sockets and links that belong to a VRF, and nobody else."""


def split(data: bytes) -> Iterator[Message]:
    """The messages of a datagram, up to what is cut short."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        yield Message(kind, flags, sequence, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def _attributes(body: bytes, offset: int) -> dict[int, bytes]:
    found = {}
    while offset + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4 or offset + length > len(body):
            break
        found[kind & 0x3FFF] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _number(value: bytes | None, default: int = 0) -> int:
    return default if value is None or len(value) != 4 else struct.unpack("=I", value)[0]


def _address(value: bytes | None) -> int:
    return 0 if value is None or len(value) != 4 else int.from_bytes(value)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.rstrip(b"\0").decode("utf-8", "replace")


def read_link(body: bytes) -> LinkNews | None:
    """RTM_NEWLINK and RTM_DELLINK; None for what is none."""
    if len(body) < _LINK.size:
        return None
    family, hardware, index, flags, _ = _LINK.unpack_from(body)
    if family != 0:  # a bridge's word about its ports
        return None
    attributes = _attributes(body, _LINK.size)
    mac = attributes.get(1, b"")
    is_ethernet = hardware == ARPHRD_ETHER and len(mac) == 6
    has_neighbours = is_ethernet and not flags & (IFF_LOOPBACK | IFF_NOARP)
    return LinkNews(
        index,
        mac if has_neighbours else b"",
        _number(attributes.get(4)),
        bool(flags & IFF_UP),
        flags & _CARRIER == _CARRIER,
    )


def read_neighbour(body: bytes) -> NeighbourNews | None:
    """RTM_NEWNEIGH and RTM_DELNEIGH; None for what is no IPv4 neighbour."""
    if len(body) < _NEIGHBOUR.size:
        return None
    family, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    attributes = _attributes(body, _NEIGHBOUR.size)
    if family != _AF_INET or len(attributes.get(1, b"")) != 4:
        return None
    mac = attributes.get(2, b"")
    is_valid = bool(state & _NUD_VALID) and len(mac) == 6
    address = _address(attributes[1])
    return NeighbourNews(index, address, mac if is_valid else b"", bool(state & _NUD_STALE))


def read_route(body: bytes) -> RouteNews | None:
    """RTM_NEWROUTE and RTM_DELROUTE; None for what is no IPv4 route."""
    if len(body) < _ROUTE.size:
        return None
    family, length, _, tos, table, _, _, kind, flags = _ROUTE.unpack_from(body)
    if family != _AF_INET or length > 32 or flags & _RTM_F_CLONED:
        return None
    attributes = _attributes(body, _ROUTE.size)
    metrics = _attributes(attributes.get(8, b""), 0)
    hops: tuple[NextHop, ...] = ()
    if kind == RTN_UNICAST:
        if 9 in attributes:
            hops = _read_multipath(attributes[9])
        elif not _is_special(attributes):
            hops = (
                NextHop(
                    _number(attributes.get(4)),
                    _address(attributes.get(5)),
                    is_dead=bool(flags & _RTNH_F_UNUSABLE),
                ),
            )
    return RouteNews(
        _number(attributes.get(15), table),
        _address(attributes.get(1)) & _mask(length),
        length,
        _number(attributes.get(6)),
        tos,
        kind,
        hops,
        _number(metrics.get(2)),
    )


def _is_special(attributes: dict[int, bytes]) -> bool:
    """A gateway of another family (RTA_VIA) or an encapsulation of the kernel (RTA_ENCAP)."""
    return 18 in attributes or 22 in attributes


def _read_multipath(data: bytes) -> tuple[NextHop, ...]:
    hops = []
    offset = 0
    while offset + _HOP.size <= len(data):
        length, flags, weight, index = _HOP.unpack_from(data, offset)
        if length < _HOP.size or offset + length > len(data):
            return ()
        attributes = _attributes(data[offset : offset + length], _HOP.size)
        if _is_special(attributes):
            return ()
        gateway = _address(attributes.get(5))
        hops.append(NextHop(index, gateway, weight + 1, bool(flags & _RTNH_F_UNUSABLE)))
        offset += (length + 3) & ~3
    return tuple(hops)


def read_rule(body: bytes) -> RuleNews | None:
    """RTM_NEWRULE; None for what is no IPv4 rule."""
    if len(body) < _ROUTE.size:
        return None
    family, to_length, from_length, tos, table, _, _, action, flags = _ROUTE.unpack_from(body)
    if family != _AF_INET or to_length > 32 or from_length > 32:
        return None
    attributes = _attributes(body, _ROUTE.size)
    suppress = _number(attributes.get(14), _NO_SUPPRESS)
    mark = _number(attributes.get(10))
    # Suppressing by interface group, tunnel, user, protocol, ports, DSCP, flow label: odd ones.
    odd = {12, 13, 20, *range(22, 31)} & attributes.keys()
    return RuleNews(
        priority=_number(attributes.get(6)),
        table=_number(attributes.get(15), table) if action == _FR_ACT_TO_TBL else 0,
        source=(_address(attributes.get(2)) & _mask(from_length), from_length),
        destination=(_address(attributes.get(1)) & _mask(to_length), to_length),
        iif=_text(attributes.get(3)),
        oif=_text(attributes.get(17)),
        mark=mark,
        mark_mask=_number(attributes.get(16), 0xFFFFFFFF if mark else 0),
        suppress=-1 if suppress == _NO_SUPPRESS else suppress,
        is_inverted=bool(flags & _FIB_RULE_INVERT),
        is_odd=bool(tos or _is_odd(attributes, odd)),
        is_vrf=bool(attributes.get(19, b"\0") != b"\0"),
    )


def _is_odd(attributes: dict[int, bytes], odd: set[int]) -> bool:
    """Whether selectors among ``odd`` select anything; the kernel names some that do not."""
    nothing = {20: b"\0\0\0\0\xff\xff\xff\xff", 13: b"\xff\xff\xff\xff"}
    return any(attributes[kind] != nothing.get(kind) for kind in odd)


def _mask(length: int) -> int:
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF


def dump_request(kind: int, sequence: int) -> bytes:
    """Ask for everything of a kind (RTM_GET...)."""
    body = _LINK.pack(0, 0, 0, 0, 0) if kind == RTM_GETLINK else struct.pack("=B11x", _AF_INET)
    header = _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0)
    return header + body


def use_request(index: int, address: int, sequence: int) -> bytes:
    """Tell the kernel that a neighbour is in use: it asks for one that is missing or stale."""
    body = struct.pack("=B3xiHBB", _AF_INET, index, 0, _NTF_USE, 0)
    body += struct.pack("=HH4s", 8, 1, address.to_bytes(4))
    flags = NLM_F_REQUEST | NLM_F_CREATE
    return _HEADER.pack(_HEADER.size + len(body), RTM_NEWNEIGH, flags, sequence, 0) + body
