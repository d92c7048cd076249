"""Traffic programs for the lab: verified TCP transfers and paced, numbered UDP streams.

``python -m fastmip.runtime.demo.traffic FLOWS`` runs every flow of one machine, each in a
thread; FLOWS is a JSON list of ``Flow`` objects. Reports are JSON lines on standard output,
all times CLOCK_MONOTONIC nanoseconds (shared by every namespace of a machine). A line on
standard input stops the senders; its end stops the receivers and then the program.

A UDP datagram carries its number and its sending time, so the receiver sees loss, duplicates,
reordering and delay by itself. A TCP stream carries a pattern known to both ends: the receiver
compares every byte with what must stand at its offset, and both ends report a digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import socket
import struct
import sys
import threading
import time
from typing import Literal

import msgspec

REPORT_INTERVAL_NS = 100_000_000
_RECEIVED_INTERVAL_NS = 20_000_000
_STAMP = struct.Struct("!QQ")
_SO_TIMESTAMPNS = 35
_SO_MAX_PACING_RATE = 47
_TIMESPEC = struct.Struct("=qq")
_TCP_CHUNK = 16384
_PATTERN_PERIOD = 65_521  # prime: no power-of-two slip can go unnoticed


class Flow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One end of one flow."""

    name: str
    kind: Literal["udp-send", "udp-receive", "tcp-send", "tcp-receive"]
    address: str
    """Address this end is bound to."""
    port: int
    """Port this end is bound to; 0 lets the kernel choose."""
    peer: str = ""
    """Address to send or connect to; a TCP end without one listens."""
    peer_port: int = 0
    interval_s: float = 0.002
    """UDP: time between datagrams."""
    size: int = 172
    """UDP: payload bytes (at least 16)."""
    rate: int = 1_000_000
    """TCP: pace of the sender in bytes per second."""


class UdpSent(msgspec.Struct, tag="udp-sent"):
    """What a UDP sender did since its start."""

    flow: str
    first_ns: int
    """Time of datagram 0; datagram n was due ``n * interval`` later."""
    sent: int
    refused: int
    """Datagrams the sending machine itself refused, for example for want of a route."""


class UdpArrivals(msgspec.Struct, tag="udp-arrivals"):
    """Datagrams that arrived since the last report: (number, sent ns, received ns)."""

    flow: str
    arrivals: list[tuple[int, int, int]]


class TcpProgress(msgspec.Struct, tag="tcp-progress"):
    """State of one end of a TCP transfer."""

    flow: str
    at_ns: int
    bytes: int
    receiving: bool
    state: str
    """``waiting``, ``open``, ``done`` or ``failed: reason``."""
    digest: str = ""
    """SHA-256 of everything so far, only when ``done``."""
    retransmits: int = 0


Report = UdpSent | UdpArrivals | TcpProgress


def pattern(name: str) -> bytes:
    """Return two periods of the byte pattern of a TCP flow; ``offset % period`` indexes it."""
    block = hashlib.shake_256(name.encode()).digest(_PATTERN_PERIOD)
    return block + block


class _Machine:
    """Everything the flows of one machine share."""

    def __init__(self) -> None:
        self.stop_sending = threading.Event()
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()

    def report(self, report: Report) -> None:
        line = self._encoder.encode(report) + b"\n"
        with self._lock:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


# ------------------------------------------------------------------------- UDP
def _udp_send(flow: Flow, machine: _Machine) -> None:
    """Send at absolute deadlines; a late wake-up is made up for, so the pace holds."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((flow.address, flow.port))
    sock.setblocking(False)
    padding = bytes(flow.size - _STAMP.size)
    peer = (flow.peer, flow.peer_port)
    interval_ns = round(flow.interval_s * 1e9)
    first_ns = time.monotonic_ns()
    number = refused = 0
    next_report = first_ns
    while not machine.stop_sending.is_set():
        now = time.monotonic_ns()
        due = first_ns + number * interval_ns
        if due > now:
            time.sleep((due - now) / 1e9)
            now = time.monotonic_ns()
        try:
            sock.sendto(_STAMP.pack(number, now) + padding, peer)
        except OSError:  # no route, no carrier, full queue: the datagram counts as lost
            refused += 1
        number += 1
        if now >= next_report:
            machine.report(UdpSent(flow.name, first_ns, number, refused))
            next_report = now + REPORT_INTERVAL_NS
    machine.report(UdpSent(flow.name, first_ns, number, refused))


def _udp_receive(flow: Flow, machine: _Machine) -> None:
    """Note number, sending time and the kernel's arrival time of every datagram."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind((flow.address, flow.port))
    sock.settimeout(REPORT_INTERVAL_NS / 1e9)
    arrivals: list[tuple[int, int, int]] = []
    wall_offset = time.time_ns() - time.monotonic_ns()
    next_report = time.monotonic_ns()
    while not machine.stop.is_set():
        try:
            data, ancillary, _, _ = sock.recvmsg(2048, 64)
        except TimeoutError:
            data, ancillary = b"", []
        except OSError as error:
            if error.errno not in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED):
                raise
            continue
        if len(data) >= _STAMP.size and ancillary:
            number, sent_ns = _STAMP.unpack_from(data)
            seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
            received_ns = seconds * 1_000_000_000 + nanoseconds - wall_offset
            arrivals.append((number, sent_ns, received_ns))
        now = time.monotonic_ns()
        if now >= next_report:
            machine.report(UdpArrivals(flow.name, arrivals))
            arrivals = []
            wall_offset = time.time_ns() - now  # follows steps of the wall clock
            next_report = now + REPORT_INTERVAL_NS
    machine.report(UdpArrivals(flow.name, arrivals))


# ------------------------------------------------------------------------- TCP
def _tcp_open(flow: Flow, machine: _Machine) -> socket.socket | None:
    """Connect to the peer, or wait for its connection; None when told to stop before."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((flow.address, flow.port))
    if not flow.peer:
        sock.listen(1)
        sock.settimeout(0.1)
        while not machine.stop_sending.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = sock.accept()
                sock.close()
                return connection
        return None
    while not machine.stop_sending.is_set():
        sock.settimeout(5)
        try:
            sock.connect((flow.peer, flow.peer_port))
        except OSError:  # the other end may not listen yet
            sock.close()
            time.sleep(0.05)
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.bind((flow.address, flow.port))
            continue
        return sock
    return None


def _retransmits(sock: socket.socket) -> int:
    """``tcpi_total_retrans`` of the connection."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, 100)[0])


def _tcp_send(flow: Flow, machine: _Machine) -> None:
    """Send the pattern at the flow's pace until told to stop, then close in order."""
    sent = 0

    def report(state: str, digest: str = "", retransmits: int = 0) -> None:
        now = time.monotonic_ns()
        machine.report(TcpProgress(flow.name, now, sent, False, state, digest, retransmits))

    report("waiting")
    sock = _tcp_open(flow, machine)
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, flow.rate)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    sock.settimeout(REPORT_INTERVAL_NS / 1e9)
    expected = pattern(flow.name)
    digest = hashlib.sha256()
    next_report = 0
    try:
        while not machine.stop_sending.is_set():
            offset = sent % _PATTERN_PERIOD
            with contextlib.suppress(TimeoutError):
                count = sock.send(expected[offset : offset + _TCP_CHUNK])
                digest.update(expected[offset : offset + count])
                sent += count
            now = time.monotonic_ns()
            if now >= next_report:
                report("open", retransmits=_retransmits(sock))
                next_report = now + REPORT_INTERVAL_NS
        sock.shutdown(socket.SHUT_WR)
        while not machine.stop.is_set():  # the peer closes when it has read everything
            with contextlib.suppress(TimeoutError):
                if not sock.recv(1):
                    break
        report("done", digest.hexdigest(), _retransmits(sock))
    except OSError as error:
        report(f"failed: {error.strerror or error}")
    finally:
        sock.close()


def _tcp_receive(flow: Flow, machine: _Machine) -> None:
    """Compare every byte with the pattern until the sender closes."""
    received = 0

    def report(state: str, digest: str = "") -> None:
        now = time.monotonic_ns()
        machine.report(TcpProgress(flow.name, now, received, True, state, digest))

    report("waiting")
    sock = _tcp_open(flow, machine)
    if sock is None:
        return
    sock.settimeout(REPORT_INTERVAL_NS / 1e9)
    expected = pattern(flow.name)
    digest = hashlib.sha256()
    next_report = 0
    try:
        while not machine.stop.is_set():
            with contextlib.suppress(TimeoutError):
                data = sock.recv(_TCP_CHUNK)
                if not data:
                    report("done", digest.hexdigest())
                    return
                offset = received % _PATTERN_PERIOD
                if data != expected[offset : offset + len(data)]:
                    report(f"failed: wrong content at byte {received}")
                    return
                digest.update(data)
                received += len(data)
            now = time.monotonic_ns()
            if now >= next_report:
                report("open")
                next_report = now + _RECEIVED_INTERVAL_NS
        report("failed: the sender never closed")
    except OSError as error:
        report(f"failed: {error.strerror or error}")
    finally:
        sock.close()


_PROGRAMS = {
    "udp-send": _udp_send,
    "udp-receive": _udp_receive,
    "tcp-send": _tcp_send,
    "tcp-receive": _tcp_receive,
}


def main() -> None:
    """Run the flows given as the only argument until standard input ends."""
    flows = msgspec.json.decode(sys.argv[1], type=list[Flow])
    sys.setswitchinterval(0.0005)  # the pacing threads must not wait for the others
    machine = _Machine()
    threads = [
        threading.Thread(target=_PROGRAMS[flow.kind], args=(flow, machine), name=flow.name)
        for flow in flows
    ]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    machine.stop_sending.set()
    sys.stdin.read()
    machine.stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
