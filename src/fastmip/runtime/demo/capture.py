"""Capture on several links of the lab into one pcapng, and call out what matters.

``python -m fastmip.runtime.demo.capture FILE TAPS``: TAPS is a JSON list of ``Tap`` objects.
One process opens an AF_PACKET socket in every namespace named. Control traffic (registration,
ARP, ICMP) is kept whole, data packets up to their headers. Registration messages and ARP
announcements are also reported as JSON lines on standard output while they happen; tunnel
packets are counted by their ends and their encapsulation. The end of standard input ends the
capture; the last line says how many packets were kept and missed.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import socket
import struct
import sys
import time
from pathlib import Path

import msgspec

from fastmip.runtime.pcapng import PcapngWriter

DATA_SNAP_BYTES = 96
REGISTRATION_PORT = 434
_ENCAPSULATIONS = {4: "ipip", 47: "gre", 55: "minimal"}
_TUNNEL_DATA = 4
"""First byte of a UDP tunnel's payload on the registration port (RFC 3519 3.3)."""
_TUNNEL_REPORT_NS = 200_000_000
_ETH_P_ALL = 0x0003
_ETHERTYPE_ARP = b"\x08\x06"
_ETHERTYPE_IPV4 = b"\x08\x00"
_IPPROTO_ICMP = 1
_IPPROTO_UDP = 17
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_AUXDATA = 8
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_CSUM_NOT_READY = 1 << 3
_TIMESPEC = struct.Struct("=qq")
_CLONE_NEWNET = 0x40000000
_BUFFER_BYTES = 8 << 20
_BURST = 128


class Tap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A point to listen at."""

    name: str
    namespace: str
    interface: str
    description: str = ""


class Registration(msgspec.Struct, tag="registration"):
    """A Registration Request or Reply seen on a link (RFC 5944 3.3, 3.4)."""

    tap: str
    at_ns: int
    """CLOCK_MONOTONIC."""
    is_request: bool
    code: int
    """Code of a reply; the flags byte of a request."""
    lifetime_s: int
    home_address: str
    care_of_address: str
    """Empty in a reply."""
    identification: int


class ArpAnnouncement(msgspec.Struct, tag="arp"):
    """A gratuitous ARP seen on a link."""

    tap: str
    at_ns: int
    address: str
    mac: str


class TunnelPackets(msgspec.Struct, tag="tunnel"):
    """Tunnel packets seen on a link since the report before."""

    tap: str
    at_ns: int
    """CLOCK_MONOTONIC of the last of them."""
    source: str
    destination: str
    encapsulation: str
    """``ipip``, ``minimal`` or ``gre``; with ``udp-`` in front inside UDP (RFC 3519)."""
    count: int


class Totals(msgspec.Struct, tag="totals"):
    """Packets written, and packets the kernel had to skip because we were slow."""

    kept: int
    missed: int


Sighting = Registration | ArpAnnouncement | TunnelPackets | Totals


def enter_namespace(path: Path) -> None:
    """Move this thread into a network namespace. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")
    finally:
        os.close(descriptor)


def _open_tap(tap: Tap) -> socket.socket:
    enter_namespace(Path("/run/netns", tap.namespace))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:  # in a user namespace the machine's own limit holds
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    sock.bind((tap.interface, _ETH_P_ALL))
    sock.setblocking(False)
    return sock


def classify(frame: bytes) -> str:
    """Tell ``arp``, ``icmp``, ``registration`` and ``data`` apart."""
    ethertype = frame[12:14]
    if ethertype == _ETHERTYPE_ARP:
        return "arp"
    if ethertype != _ETHERTYPE_IPV4 or len(frame) < 38:
        return "data"
    protocol = frame[23]
    if protocol == _IPPROTO_ICMP:
        return "icmp"
    if protocol != _IPPROTO_UDP or frame[20] & 0x1F or frame[21]:
        return "data"
    ports = 14 + 4 * (frame[14] & 15)
    source, destination = struct.unpack_from("!HH", frame, ports)
    if REGISTRATION_PORT not in (source, destination):
        return "data"
    return "data" if frame[ports + 8 : ports + 9] == bytes((_TUNNEL_DATA,)) else "registration"


def encapsulation_of(frame: bytes) -> str:
    """Tell how a data packet is encapsulated; an empty string for one that is not."""
    if frame[12:14] != _ETHERTYPE_IPV4 or len(frame) < 34:
        return ""
    protocol = frame[23]
    if protocol in _ENCAPSULATIONS:
        return _ENCAPSULATIONS[protocol]
    if protocol != _IPPROTO_UDP or frame[20] & 0x1F or frame[21]:
        return ""
    ports = 14 + 4 * (frame[14] & 15)
    if len(frame) < ports + 12 or frame[ports + 8] != _TUNNEL_DATA:
        return ""
    if REGISTRATION_PORT not in struct.unpack_from("!HH", frame, ports):
        return ""
    return "udp-" + _ENCAPSULATIONS.get(frame[ports + 9], "unknown")


def complete_udp_checksum(frame: bytes) -> bytes:
    """Finish a checksum that the sending kernel left to hardware (RFC 768)."""
    start = 14 + 4 * (frame[14] & 15)
    length = struct.unpack_from("!H", frame, start + 4)[0]
    segment = frame[start : start + 6] + b"\0\0" + frame[start + 8 : start + length]
    covered = frame[26:34] + struct.pack("!HH", _IPPROTO_UDP, length) + segment
    total = sum(struct.unpack(f"!{(len(covered) + 1) // 2}H", covered + b"\0" * (len(covered) & 1)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    checksum = (total ^ 0xFFFF) or 0xFFFF
    return frame[: start + 6] + struct.pack("!H", checksum) + frame[start + 8 :]


def read_registration(frame: bytes, tap: str, at_ns: int) -> Registration | None:
    """Read the fixed part of a registration message; None when it is neither kind."""
    start = 14 + 4 * (frame[14] & 15) + 8
    message = frame[start:]
    if len(message) >= 24 and message[0] == 1:
        flags, lifetime, home, _, care_of, ident = struct.unpack_from("!xBH4s4s4sQ", message)
        return Registration(
            tap,
            at_ns,
            True,
            flags,
            lifetime,
            socket.inet_ntoa(home),
            socket.inet_ntoa(care_of),
            ident,
        )
    if len(message) >= 20 and message[0] == 3:
        code, lifetime, home, ident = struct.unpack_from("!xBH4s4xQ", message)
        return Registration(tap, at_ns, False, code, lifetime, socket.inet_ntoa(home), "", ident)
    return None


def read_announcement(frame: bytes, tap: str, at_ns: int) -> ArpAnnouncement | None:
    """Read a gratuitous ARP: sender and target protocol address are the same."""
    if len(frame) < 42 or frame[28:32] != frame[38:42]:
        return None
    return ArpAnnouncement(tap, at_ns, socket.inet_ntoa(frame[28:32]), frame[22:28].hex(":"))


class _Capture:
    """The open taps, the file and the report line."""

    def __init__(self, path: Path, taps: list[Tap]) -> None:
        self._file = path.open("wb", buffering=1 << 18)
        self._writer = PcapngWriter(self._file, "fastmip demo")
        self._encoder = msgspec.json.Encoder()
        self._taps = taps
        self._sockets = [_open_tap(tap) for tap in taps]
        for tap in taps:
            self._writer.add_interface(tap.name, tap.description)
        self._buffer = bytearray(2048)
        self._kept = 0
        self._tunnels: dict[tuple[int, bytes, str], tuple[int, int]] = {}
        """(tap, outer addresses, encapsulation) -> (packets, time of the last)."""
        self._tunnels_said = 0

    def say(self, sighting: Sighting) -> None:
        sys.stdout.buffer.write(self._encoder.encode(sighting) + b"\n")
        sys.stdout.buffer.flush()

    def run(self) -> None:
        """Write packets until standard input ends."""
        selector = selectors.DefaultSelector()
        for index, sock in enumerate(self._sockets):
            selector.register(sock, selectors.EVENT_READ, index)
        selector.register(sys.stdin, selectors.EVENT_READ, None)
        running = True
        while running:
            for key, _ in selector.select():
                if key.data is None:
                    running = bool(os.read(0, 4096))
                else:
                    self._drain(key.data)
            if time.monotonic_ns() - self._tunnels_said > _TUNNEL_REPORT_NS:
                self._say_tunnels()
        for index in range(len(self._sockets)):
            self._drain(index)
        self._say_tunnels()
        self._file.close()
        self.say(Totals(self._kept, self._missed()))

    def _say_tunnels(self) -> None:
        offset = time.time_ns() - time.monotonic_ns()
        for (index, ends, name), (count, wall_ns) in self._tunnels.items():
            source, destination = socket.inet_ntoa(ends[:4]), socket.inet_ntoa(ends[4:])
            tap = self._taps[index].name
            self.say(TunnelPackets(tap, wall_ns - offset, source, destination, name, count))
        self._tunnels.clear()
        self._tunnels_said = time.monotonic_ns()

    def _missed(self) -> int:
        drops = 0
        for sock in self._sockets:
            statistics = sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            drops += struct.unpack("=II", statistics)[1]
        return drops

    def _drain(self, index: int) -> None:
        sock = self._sockets[index]
        for _ in range(_BURST):
            try:
                length, ancillary, _, _ = sock.recvmsg_into([self._buffer], 128, socket.MSG_TRUNC)
            except (BlockingIOError, OSError):  # nothing left; a port that goes down says so once
                return
            frame = bytes(memoryview(self._buffer)[:length])
            wall_ns, partial = _read_ancillary(ancillary)
            kind = classify(frame)
            if kind == "data":
                frame = frame[:DATA_SNAP_BYTES]
                encapsulation = encapsulation_of(frame)
                if encapsulation:
                    key = (index, frame[26:34], encapsulation)
                    self._tunnels[key] = (self._tunnels.get(key, (0, 0))[0] + 1, wall_ns)
            elif kind == "registration" and partial and length == len(frame):
                frame = complete_udp_checksum(frame)
            self._writer.packet(index, wall_ns, frame, length)
            self._kept += 1
            if kind in ("registration", "arp"):
                self._call_out(kind, frame, index, wall_ns)

    def _call_out(self, kind: str, frame: bytes, index: int, wall_ns: int) -> None:
        at_ns = wall_ns - (time.time_ns() - time.monotonic_ns())
        read = read_registration if kind == "registration" else read_announcement
        sighting = read(frame, self._taps[index].name, at_ns)
        if sighting:
            self.say(sighting)


def _read_ancillary(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, bool]:
    """Arrival time (wall clock ns), and whether the checksum is still to be completed."""
    wall_ns, partial = 0, False
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            wall_ns = seconds * 1_000_000_000 + nanoseconds
        elif level == _SOL_PACKET and kind == _PACKET_AUXDATA:
            partial = bool(struct.unpack_from("=I", data)[0] & _CSUM_NOT_READY)
    return wall_ns, partial


def main() -> None:
    """Capture at the taps given as the second argument into the file given as the first."""
    taps = msgspec.json.decode(sys.argv[2], type=list[Tap])
    capture = _Capture(Path(sys.argv[1]), taps)
    sys.stdout.buffer.write(b"\n")  # the taps are open: whoever waits may go on
    sys.stdout.buffer.flush()
    capture.run()


if __name__ == "__main__":
    main()
