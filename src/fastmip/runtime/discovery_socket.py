"""Agent discovery on the wire: ICMP router advertisements and solicitations (RFC 5944 2).

One class for agents, which hear solicitations, and for mobile nodes, which hear advertisements.
A packet socket for each link tells what a raw ICMP socket does not: the sender's link-layer
address. A filter in the kernel lets nothing else through.

Refused and counted here, because the rule is the same for everybody: a time to live other than
1 (RFC 5944 2.1 and 2.2; RFC 3543 6.1: nobody farther away can forge one), a damaged IPv4
header, a link-layer source that names a group. The ICMP checksum is the codec's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterable
from enum import Enum

from fastmip.agents.effects import Arrival, Endpoint, SendIcmp
from fastmip.runtime.arp import attach_filter, neighbour_mac
from fastmip.runtime.link_layer import (
    ETH_P_IP,
    IPV4_HEADER_LEN,
    LinkSender,
    checksum,
    group_mac,
    icmp_packet,
)
from fastmip.runtime.logging import get_logger
from fastmip.runtime.service import StartError
from fastmip.wire.addresses import parse_address

ALL_HOSTS = parse_address("224.0.0.1")
ALL_ROUTERS = parse_address("224.0.0.2")
MOBILE_AGENTS = parse_address("224.0.0.11")
"""All mobility agents on the link (RFC 5944 2.3)."""
DISCOVERY_TTL = 1

_BATCH = 64
_MAX_PACKET = 65536
_MEMBERSHIP = struct.Struct("=4s4si")  # struct ip_mreqn
_ADVERTISEMENT, _SOLICITATION = 9, 10

DISCOVERY_COUNTERS = {
    "discovery-received": "Agent advertisements or solicitations handed to the role.",
    "discovery-sent": "Agent advertisements or solicitations sent.",
    "discovery-send-failures": "Those the kernel refused to send: the link is down or gone.",
    "discovery-wrong-ttl": "Received with a time to live other than 1; dropped.",
    "discovery-damaged": "Received with a damaged IPv4 header or an impossible sender; dropped.",
}
"""Counter -> what it counts; ``docs/counters.md`` is checked against it."""

log = get_logger("discovery")

Deliver = Callable[[bytes, Arrival], None]
"""Takes the ICMP message from its type byte on, and where it came from."""


class Listener(Enum):
    """Who listens."""

    AGENT = "agent"
    MOBILE_NODE = "mobile node"

    @property
    def icmp_type(self) -> int:
        """The ICMP type this listener hears."""
        return _SOLICITATION if self is Listener.AGENT else _ADVERTISEMENT

    @property
    def groups(self) -> tuple[int, ...]:
        """The groups it joins on every link."""
        return (MOBILE_AGENTS, ALL_ROUTERS) if self is Listener.AGENT else (ALL_HOSTS,)


def icmp_filter(icmp_type: int) -> list[tuple[int, int, int, int]]:
    """Classic BPF for a packet that starts with its IPv4 header: whole, ICMP, of this type."""
    reject = 11  # instruction numbers; jumps count from the next instruction
    return [
        (0x30, 0, 0, 0),  # 0 ldb version and header length
        (0x54, 0, 0, 0xF0),  # 1 and
        (0x15, 0, reject - 3, 0x40),  # 2 jeq
        (0x30, 0, 0, 9),  # 3 ldb protocol
        (0x15, 0, reject - 5, 1),  # 4 jeq
        (0x28, 0, 0, 6),  # 5 ldh flags and fragment offset
        (0x45, reject - 7, 0, 0x3FFF),  # 6 jset: a fragment
        (0xB1, 0, 0, 0),  # 7 ldxb 4*([0]&0xf)
        (0x50, 0, 0, 0),  # 8 ldb [x]: ICMP type
        (0x15, 0, reject - 10, icmp_type),  # 9 jeq, falls through to accept
        (0x06, 0, 0, 0xFFFF),  # 10 accept
        (0x06, 0, 0, 0),  # 11 reject
    ]


class DiscoverySocket:
    """Hears and sends agent discovery on a set of links; driven by the event loop."""

    def __init__(self, listener: Listener, deliver: Deliver) -> None:
        self.counters = dict.fromkeys(DISCOVERY_COUNTERS, 0)
        self._listener = listener
        self._deliver = deliver
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: dict[str, socket.socket] = {}
        self._memberships: dict[str, socket.socket] = {}
        self._indices: dict[str, int] = {}
        self._sender = LinkSender()

    def open(self, loop: asyncio.AbstractEventLoop, interfaces: Iterable[str] = ()) -> None:
        """Start to listen. Raises StartError when a link is missing or it is not allowed."""
        self._loop = loop
        for interface in interfaces:
            try:
                self.add(interface)
            except OSError as error:
                self.close()
                remedy = {
                    errno.ENODEV: "no such interface: make it first",
                    errno.EPERM: "needs CAP_NET_RAW",
                }.get(error.errno or 0, str(error.strerror))
                raise StartError(f"agent discovery on {interface}: {remedy}") from error

    @property
    def interfaces(self) -> frozenset[str]:
        """The links it listens on."""
        return frozenset(self._sockets)

    def add(self, interface: str) -> None:
        """Listen on one more link; nothing if it does already. Raises OSError."""
        if interface in self._sockets or self._loop is None:
            return
        with contextlib.ExitStack() as undo:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            # Protocol 0: nothing arrives before the filter is in place.
            opened = undo.enter_context(socket.socket(socket.AF_PACKET, kind, 0))
            attach_filter(opened, icmp_filter(self._listener.icmp_type))
            opened.bind((interface, ETH_P_IP))
            joined = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self._join(joined, interface)
            undo.pop_all()
        self._sockets[interface], self._memberships[interface] = opened, joined
        self._indices[interface] = socket.if_nametoindex(interface)
        self._loop.add_reader(opened, self._drain, interface, opened)

    def _join(self, joined: socket.socket, interface: str) -> None:
        """Make the interface hear the groups; the kernel leaves them with the socket."""
        index = socket.if_nametoindex(interface)
        for group in self._listener.groups:
            request = _MEMBERSHIP.pack(group.to_bytes(4, "big"), bytes(4), index)
            try:
                joined.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:  # all hosts: the kernel is a member anyway
                    raise

    def is_stale(self, interface: str, index: int) -> bool:
        """Whether the socket of a link is bound to an interface that is no more (or not at all)."""
        return self._indices.get(interface) != index

    def remove(self, interface: str) -> None:
        """Listen on a link no more."""
        opened = self._sockets.pop(interface, None)
        if opened is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(opened)
        opened.close()
        self._memberships.pop(interface).close()
        self._indices.pop(interface, None)

    def close(self) -> None:
        """Close all sockets."""
        for interface in list(self._sockets):
            self.remove(interface)
        self._sender.close()

    # receiving

    def _drain(self, interface: str, opened: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                packet, (_, _, packet_type, _, mac) = opened.recvfrom(_MAX_PACKET)
            except BlockingIOError:
                return
            except OSError as error:  # the link went down: the socket lives on
                log.debug("discovery-socket", interface=interface, reason=str(error))
                return
            if packet_type != socket.PACKET_OUTGOING:
                self._receive(packet, interface, bytes(mac))
            if self._sockets.get(interface) is not opened:  # its receiver removed the link
                return

    def _receive(self, packet: bytes, interface: str, mac: bytes) -> None:
        header_len = (packet[0] & 0xF) << 2 if packet else 0
        if header_len < IPV4_HEADER_LEN or len(packet) < header_len:
            self.counters["discovery-damaged"] += 1
            return
        total_len = int.from_bytes(packet[2:4], "big")
        if (
            not header_len < total_len <= len(packet)
            or checksum(packet[:header_len])
            or (mac and mac[0] & 1)
        ):
            self.counters["discovery-damaged"] += 1
            return
        ttl = packet[8]
        if ttl != DISCOVERY_TTL:
            self.counters["discovery-wrong-ttl"] += 1
            return
        source, destination = struct.unpack_from("!II", packet, 12)
        arrival = Arrival(
            Endpoint(source, 0), Endpoint(destination, 0), interface, mac or None, ttl
        )
        self.counters["discovery-received"] += 1
        self._deliver(packet[header_len:total_len], arrival)

    # sending

    def send(self, effect: SendIcmp) -> None:
        """Send with time to live 1. A failure is counted; the next message makes up for it."""
        mac = effect.mac or group_mac(effect.destination)
        if mac is None:
            mac = neighbour_mac(effect.interface, effect.destination)
        if mac is None:
            self.counters["discovery-send-failures"] += 1
            return
        packet = icmp_packet(
            effect.message,
            effect.source,
            effect.destination,
            ttl=DISCOVERY_TTL,
            identification=self._sender.next_identification(),
        )
        try:
            self._sender.send(packet, effect.interface, mac)
        except OSError as error:
            self.counters["discovery-send-failures"] += 1
            log.debug("discovery-not-sent", interface=effect.interface, reason=str(error))
        else:
            self.counters["discovery-sent"] += 1
