"""Registration Requests as they come off a foreign agent's links.

A visitor's request has a source address that does not belong to the link, or none at all, and
the kernel drops such packets before a UDP socket sees them (reverse path filter, martian source).
And only a packet socket tells the link-layer address, which a foreign agent must record (RFC
5944 3.7.1). So requests are read here, past the kernel's IP; everything else comes by the control
port. What the kernel would verify is verified here: header, lengths, checksums.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterable

from fastmip.agents.effects import Arrival, Endpoint
from fastmip.runtime.arp import attach_filter
from fastmip.runtime.control_port import PORT
from fastmip.runtime.discovery_socket import MOBILE_AGENTS
from fastmip.runtime.link_layer import (
    ETH_P_IP,
    IPV4_HEADER_LEN,
    checksum,
    udp_checksum_is_right,
)
from fastmip.runtime.logging import get_logger
from fastmip.runtime.service import StartError
from fastmip.wire.codes import MessageType

_BATCH = 64
_MAX_PACKET = 65536
_UDP_HEADER_LEN = 8
_SOL_PACKET, _PACKET_AUXDATA = 263, 8
_AUXDATA = struct.Struct("=IIIHHHH")
_CHECKSUM_NOT_READY = 0x8
_ANCILLARY = socket.CMSG_SPACE(_AUXDATA.size)

LINK_PORT_COUNTERS = {
    "link-received": "Registration Requests taken off a link for the foreign agent.",
    "link-damaged": "Requests off a link with a wrong header, length or checksum; dropped.",
}
"""Counter -> what it counts; ``docs/counters.md`` is checked against it."""

log = get_logger("foreign-agent")

Deliver = Callable[[list[tuple[bytes, Arrival]]], None]


def request_filter() -> list[tuple[int, int, int, int]]:
    """Classic BPF for a packet that starts with its IPv4 header: a whole Registration Request."""
    reject = 13  # instruction number; jumps count from the next instruction
    return [
        (0x30, 0, 0, 0),  # 0 ldb version and header length
        (0x54, 0, 0, 0xF0),  # 1 and
        (0x15, 0, reject - 3, 0x40),  # 2 jeq
        (0x30, 0, 0, 9),  # 3 ldb protocol
        (0x15, 0, reject - 5, 17),  # 4 jeq
        (0x28, 0, 0, 6),  # 5 ldh flags and fragment offset
        (0x45, reject - 7, 0, 0x3FFF),  # 6 jset: a fragment
        (0xB1, 0, 0, 0),  # 7 ldxb 4*([0]&0xf)
        (0x48, 0, 0, 2),  # 8 ldh [x + 2]: destination port
        (0x15, 0, reject - 10, PORT),  # 9 jeq
        (0x50, 0, 0, 8),  # 10 ldb [x + 8]: message type
        (0x15, 0, reject - 12, int(MessageType.REGISTRATION_REQUEST)),  # 11 jeq
        (0x06, 0, 0, 0xFFFF),  # 12 accept
        (0x06, 0, 0, 0),  # 13 reject
    ]


class LinkPort:
    """Requests from the links of a foreign agent; driven by the event loop.

    ``is_ours`` says whether a destination address is the foreign agent's.
    """

    def __init__(self, deliver: Deliver, is_ours: Callable[[int], bool]) -> None:
        self.counters = dict.fromkeys(LINK_PORT_COUNTERS, 0)
        self._deliver = deliver
        self._is_ours = is_ours
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: dict[str, socket.socket] = {}
        self._indices: dict[str, int] = {}

    def open(self, loop: asyncio.AbstractEventLoop, interfaces: Iterable[str]) -> None:
        """Listen on links. Raises StartError when one is missing or it is not allowed."""
        self._loop = loop
        for interface in interfaces:
            try:
                self._add(loop, interface)
            except OSError as error:
                self.close()
                remedy = {
                    errno.ENODEV: "no such interface: make it first",
                    errno.EPERM: "needs CAP_NET_RAW",
                }.get(error.errno or 0, str(error.strerror))
                raise StartError(f"visitors on {interface}: {remedy}") from error

    def _add(self, loop: asyncio.AbstractEventLoop, interface: str) -> None:
        with contextlib.ExitStack() as undo:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            # Protocol 0: nothing arrives before the filter is in place.
            opened = undo.enter_context(socket.socket(socket.AF_PACKET, kind, 0))
            opened.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            attach_filter(opened, request_filter())
            opened.bind((interface, ETH_P_IP))
            undo.pop_all()
        self._sockets[interface] = opened
        self._indices[interface] = socket.if_nametoindex(interface)
        loop.add_reader(opened, self._drain, interface, opened)

    def follow(self, interface: str, index: int) -> bool:
        """Listen afresh on a link that was made anew under its name; False when it was not.

        Raises OSError.
        """
        if self._loop is None or self._indices.get(interface) == index:
            return False
        self._remove(interface)
        self._add(self._loop, interface)
        return True

    def _remove(self, interface: str) -> None:
        opened = self._sockets.pop(interface, None)
        if opened is not None:
            if self._loop is not None:
                self._loop.remove_reader(opened)
            opened.close()

    def close(self) -> None:
        """Close all sockets."""
        for interface in list(self._sockets):
            self._remove(interface)

    @property
    def interfaces(self) -> Collection[str]:
        """The links it listens on."""
        return self._sockets.keys()

    def _drain(self, interface: str, opened: socket.socket) -> None:
        batch: list[tuple[bytes, Arrival]] = []
        for _ in range(_BATCH):
            try:
                packet, ancillary, _, (_, _, kind, _, mac) = opened.recvmsg(_MAX_PACKET, _ANCILLARY)
            except BlockingIOError:
                break
            except OSError as error:  # the link went down: the socket lives on
                log.debug("link-port", interface=interface, reason=str(error))
                break
            # What somebody else was sent is forwarded or seen by promiscuity, not asked of us.
            if kind in (socket.PACKET_OUTGOING, socket.PACKET_OTHERHOST):
                continue
            found = self._read(packet, interface, bytes(mac), is_trusted=_is_local(ancillary))
            if found is not None:
                batch.append(found)
        if batch:
            self.counters["link-received"] += len(batch)
            self._deliver(batch)

    def _read(
        self, packet: bytes, interface: str, mac: bytes, *, is_trusted: bool
    ) -> tuple[bytes, Arrival] | None:
        header_len = (packet[0] & 0xF) << 2
        start = header_len + _UDP_HEADER_LEN
        if len(packet) < max(IPV4_HEADER_LEN, start):
            self.counters["link-damaged"] += 1
            return None
        source, destination = struct.unpack_from("!II", packet, 12)
        if destination != MOBILE_AGENTS and not self._is_ours(destination):
            return None  # on its way through us
        (total_len,) = struct.unpack_from("!H", packet, 2)
        port, _, udp_len = struct.unpack_from("!HHH", packet, header_len)
        if (
            header_len < IPV4_HEADER_LEN
            or checksum(packet[:header_len])
            or total_len > len(packet)
            or udp_len < _UDP_HEADER_LEN
            or header_len + udp_len > total_len
        ):
            self.counters["link-damaged"] += 1
            return None
        packet = packet[: header_len + udp_len]
        if not is_trusted and not udp_checksum_is_right(packet, header_len):
            self.counters["link-damaged"] += 1
            return None
        arrival = Arrival(
            Endpoint(source, port), Endpoint(destination, PORT), interface, mac or None, packet[8]
        )
        return packet[start:], arrival


def _is_local(ancillary: list[tuple[int, int, bytes]]) -> bool:
    """Whether a packet never was on a wire, so that nobody has filled its UDP checksum in."""
    for level, kind, data in ancillary:
        if level == _SOL_PACKET and kind == _PACKET_AUXDATA:
            return bool(_AUXDATA.unpack_from(data)[0] & _CHECKSUM_NOT_READY)
    return False
