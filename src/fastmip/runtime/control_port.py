"""UDP port 434: datagrams in with where they really came from, replies from that address.

One socket on all addresses, so that requests to a broadcast address arrive too; IP_PKTINFO
tells destination and interface of each datagram and sets source and interface of each reply;
what was sent to the broadcast address of any link arrives as sent to 255.255.255.255.
The kernel verifies UDP checksums: a bad one never gets here, zero does (RFC 5944 3.1).
A message with a link-layer destination goes onto its link past routing and ARP.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import Callable

from fastmip.agents.effects import Arrival, Endpoint, SendDatagram
from fastmip.runtime import steering
from fastmip.runtime.link_layer import LinkSender
from fastmip.runtime.logging import get_logger
from fastmip.runtime.service import StartError
from fastmip.wire.addresses import LIMITED_BROADCAST, is_multicast

PORT = 434
"""RFC 5944 3.1."""
BATCH = 64
"""Datagrams taken before the loop gets a turn and what they caused is carried out."""

_RECEIVE_BUFFER = 8 << 20
_SO_RCVBUFFORCE = 33
_SO_RXQ_OVFL = 40
_SO_MARK = 36
_IP_PKTINFO = 8
_IP_RECVTTL = 12
_IP_RECVERR = 11
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
"""sock_extended_err: errno, origin, type, code, padding, information, data."""
_ORIGIN_ICMP = 2
_ICMP_UNREACHABLE = 3
_UNREACHABLE_CODES = {errno.ENETUNREACH: 0, errno.EHOSTUNREACH: 1, errno.ECONNREFUSED: 3}
_TTL = struct.Struct("=i")
_DEFAULT_TTL = 64
_PKTINFO = struct.Struct("=i4sI")
"""in_pktinfo: interface index, source to use (out), destination of the header (in)."""
_ANCILLARY = socket.CMSG_SPACE(_PKTINFO.size) + 2 * socket.CMSG_SPACE(4)
_ERROR_ANCILLARY = _ANCILLARY + socket.CMSG_SPACE(_EXTENDED_ERROR.size + 16)
_MAX_DATAGRAM = 65536
_MAX_NAMES = 4096

PORT_COUNTERS = {
    "received": "Datagrams that arrived with a good UDP checksum, or with none.",
    "sent": "Datagrams handed to the kernel for sending.",
    "send-failures": "Datagrams the kernel refused to send.",
    "receive-overflows": "Datagrams the kernel dropped because we did not read fast enough.",
}
"""Counter -> what it counts; ``docs/counters.md`` is checked against it."""

Deliver = Callable[[list[tuple[bytes, Arrival]]], None]
Report = Callable[[bytes, Endpoint, int, int], None]
"""Hears of an ICMP error: what it quotes of our datagram, where that went, type and code."""

log = get_logger("control-port")


class ControlPort:
    """The registration port of this machine; driven by the event loop."""

    def __init__(
        self,
        deliver: Deliver,
        *,
        port: int = PORT,
        fwmark: int = 0,
        data_sockets: int = 0,
        report: Report | None = None,
    ) -> None:
        self.counters = dict.fromkeys(PORT_COUNTERS, 0)
        self._deliver = deliver
        self._report = report
        self._port = port
        self._fwmark = fwmark
        self._data_sockets = data_sockets
        self._buffer = bytearray(_MAX_DATAGRAM)
        self._view = memoryview(self._buffer)
        self._names: dict[int, str] = {}
        self._indices: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._paused = False
        self._links = LinkSender()

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Bind, unless that is done, and start to read. Raises StartError as ``bind`` does."""
        self.bind()
        self._loop = loop
        if self._socket is not None:
            loop.add_reader(self._socket, self._drain)

    def bind(self) -> int:
        """Take the port and return its number; datagrams wait until ``open``.

        With ``data_sockets`` the sockets of UDP tunnels share the port: open as many behind
        this one. Raises StartError when the port is taken or forbidden.
        """
        if self._socket is None:
            self._socket = self._bind()
        number: int = self._socket.getsockname()[1]
        return number

    def _bind(self) -> socket.socket:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        opened = socket.socket(socket.AF_INET, kind)
        try:
            opened.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            opened.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            opened.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
            if self._report is not None:
                opened.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            try:
                opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            except PermissionError:  # unprivileged user namespace: what rmem_max allows
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if self._fwmark:
                opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._fwmark)
            if self._data_sockets:
                self._check_vacant(kind)
                steering.share_port(opened, self._data_sockets)
            opened.bind(("", self._port))
        except OSError as error:
            opened.close()
            remedy = {
                errno.EADDRINUSE: "another Mobile IP agent runs here: stop it",
                errno.EACCES: "needs CAP_NET_BIND_SERVICE",
            }.get(error.errno or 0, "see the system's log")
            raise StartError(f"UDP port {self._port}: {error.strerror}: {remedy}") from error
        return opened

    def _check_vacant(self, kind: int) -> None:
        """Whoever shares its port, too, could bind beside us without an error."""
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind(("", self._port))

    def close(self) -> None:
        """Stop reading and close."""
        if self._socket is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        self._links.close()

    def pause(self) -> None:
        """Leave datagrams in the socket's buffer until ``resume``."""
        if self._socket is not None and self._loop is not None and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._socket)

    def resume(self) -> None:
        """Read again."""
        if self._socket is not None and self._loop is not None and self._paused:
            self._paused = False
            self._loop.add_reader(self._socket, self._drain)

    def _drain(self) -> None:
        port = self._socket
        if port is None:
            return
        batch: list[tuple[bytes, Arrival]] = []
        receive, targets, view = port.recvmsg_into, [self._buffer], self._view
        inet_aton, to_int = socket.inet_aton, int.from_bytes
        for _ in range(BATCH):
            try:
                size, ancillary, _, (host, source_port) = receive(targets, _ANCILLARY)
            except BlockingIOError:
                break
            except OSError as error:
                if self._read_errors(port):
                    continue
                log.warning("receive-failed", reason=str(error))
                break
            index, destination, ttl = self._read_ancillary(ancillary)
            arrival = Arrival(
                Endpoint(to_int(inet_aton(host), "big"), source_port),
                Endpoint(destination, self._port),
                self._names.get(index) or self._name(index),
                ttl=ttl,
            )
            batch.append((bytes(view[:size]), arrival))
        if self._report is not None:
            self._read_errors(port)
        if batch:
            self.counters["received"] += len(batch)
            self._deliver(batch)

    def _read_errors(self, port: socket.socket) -> bool:
        """Read the queue of ICMP errors about what we sent; False when there was none."""
        if self._report is None:
            return False
        found = False
        for _ in range(BATCH):
            try:
                data, ancillary, _, (host, number) = port.recvmsg(
                    _MAX_DATAGRAM, _ERROR_ANCILLARY, socket.MSG_ERRQUEUE
                )
            except OSError:
                return found
            found = True
            destination = Endpoint(int.from_bytes(socket.inet_aton(host), "big"), number)
            for level, kind, content in ancillary:
                if level == socket.IPPROTO_IP and kind == _IP_RECVERR:
                    _, origin, icmp_type, code, *_ = _EXTENDED_ERROR.unpack_from(content)
                    if origin == _ORIGIN_ICMP:
                        self._report(data, destination, icmp_type, code)
        return found

    def _read_ancillary(self, ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int, int]:
        """Interface index, destination, time to live."""
        index = destination = ttl = 0
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                index, local, network_order = _PKTINFO.unpack(data)
                destination = socket.ntohl(network_order)
                if local != network_order.to_bytes(4, sys.byteorder) and not is_multicast(
                    destination
                ):
                    destination = LIMITED_BROADCAST  # that of any of our links
            elif level == socket.IPPROTO_IP and kind == socket.IP_TTL:
                (ttl,) = _TTL.unpack(data)
            elif level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL:
                self.counters["receive-overflows"] = struct.unpack("=I", data)[0]
        return index, destination, ttl

    def _name(self, index: int) -> str:
        if len(self._names) > _MAX_NAMES:
            self._names.clear()
        try:
            name = socket.if_indextoname(index)
        except OSError:  # the interface went away while the datagram waited
            return ""
        self._names[index] = name
        return name

    def forget_interfaces(self) -> None:
        """Look names and indices up afresh: an interface was made, renamed or removed."""
        self._names.clear()
        self._indices.clear()

    def send(self, message: SendDatagram) -> None:
        """Send from exactly ``message.source``; with ``interface``, onto that link.

        An interface index bends the route lookup: the rule towards the tunnel device does
        not match a packet that must leave elsewhere, so a node that is back home is reached
        although its binding still stands (RFC 5944 3.8.3.1). With ``mac`` besides, the
        neighbour is reached without ARP. A failure is counted; the mobile node asks again.
        """
        if self._socket is None:
            return
        host = socket.inet_ntoa(message.destination.address.to_bytes(4, "big"))
        try:
            if message.mac is not None and message.interface:
                self._links.send_datagram(
                    message.data,
                    message.source,
                    message.destination,
                    message.interface,
                    message.mac,
                    message.ttl or _DEFAULT_TTL,
                )
            else:
                self._send_routed(self._socket, message, host)
        except OSError as error:
            self.counters["send-failures"] += 1
            if self._report is not None and error.errno in _UNREACHABLE_CODES:
                code = _UNREACHABLE_CODES[error.errno]
                self._report(message.data, message.destination, _ICMP_UNREACHABLE, code)
            log.warning("reply-not-sent", destination=host, reason=str(error))
            self.forget_interfaces()
        else:
            self.counters["sent"] += 1

    def _send_routed(self, port: socket.socket, message: SendDatagram, host: str) -> None:
        index = self._index(message.interface) if message.interface else 0
        source = message.source.address.to_bytes(4, "big")
        control = [(socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO.pack(index, source, 0))]
        if message.ttl is not None:
            control.append((socket.IPPROTO_IP, socket.IP_TTL, _TTL.pack(message.ttl)))
        target = (host, message.destination.port)
        try:
            port.sendmsg([message.data], control, 0, target)
        except OSError:
            # An ICMP error about an earlier datagram is reported by whatever comes next.
            if not self._read_errors(port):
                raise
            port.sendmsg([message.data], control, 0, target)

    def _index(self, name: str) -> int:
        index = self._indices.get(name)
        if index is None:
            try:
                index = self._indices[name] = socket.if_nametoindex(name)
            except OSError:
                return 0
        return index
