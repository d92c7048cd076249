"""Traffic programs on loopback, against peers made by hand: what is wrong must be seen."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.helpers.waiting import wait_until

from fastmip.runtime.demo.traffic import (
    Flow,
    Report,
    TcpProgress,
    UdpArrivals,
    UdpSent,
    pattern,
)

LOOPBACK = "127.0.0.1"
RUNNING = ("waiting", "open")


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@dataclass
class Program:
    """A running traffic program and what it said so far."""

    process: subprocess.Popen[bytes]
    output: Path
    ended: list[int] = field(default_factory=list)

    def reports(self) -> list[Report]:
        """Everything reported so far; a line still being written waits for the next call."""
        complete = self.output.read_bytes().rpartition(b"\n")[0]
        return [msgspec.json.decode(line, type=Report) for line in complete.splitlines()]

    def tcp(self) -> TcpProgress:
        """The newest TCP report."""
        return [report for report in self.reports() if isinstance(report, TcpProgress)][-1]

    def stop_sending(self) -> None:
        """Tell the senders to stop."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"stop\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Let the program end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.ended.append(self.process.wait(timeout=10))
        assert self.ended == [0]


@contextmanager
def _program(tmp_path: Path, *flows: Flow) -> Iterator[Program]:
    argv = [sys.executable, "-m", "fastmip.runtime.demo.traffic"]
    source = str(Path(__file__).parents[3] / "src")
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    output = tmp_path / "reports.jsonl"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*argv, msgspec.json.encode(flows).decode()],
            stdin=subprocess.PIPE,
            stdout=file,
            env={**os.environ, "PYTHONPATH": path},
        )
    program = Program(process, output)
    try:
        yield program
        if not program.ended:
            program.end()
    finally:
        process.kill()
        process.wait()


def _connect(port: int) -> socket.socket:
    found: list[socket.socket] = []

    def attempt() -> bool:
        try:
            found.append(socket.create_connection((LOOPBACK, port), timeout=5))
        except ConnectionRefusedError:
            return False
        return True

    wait_until(attempt, 10, "the listener")
    return found[0]


def test_udp_receiver_notes_every_datagram_as_it_came(tmp_path: Path) -> None:
    port = _free_port(socket.SOCK_DGRAM)
    numbers = [0, 1, 1, 4, 3, 5]
    with (
        _program(tmp_path, Flow("s", "udp-receive", LOOPBACK, port)) as program,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        wait_until(program.reports, 10, "the receiver")
        sender.sendto(b"short", (LOOPBACK, port))
        for number in numbers:
            sender.sendto(struct.pack("!QQ", number, 1000 + number), (LOOPBACK, port))

        def arrivals() -> list[tuple[int, int, int]]:
            found = [r.arrivals for r in program.reports() if isinstance(r, UdpArrivals)]
            return [arrival for some in found for arrival in some]

        wait_until(lambda: len(arrivals()) >= len(numbers), 10, "all arrivals")
        assert [(number, sent) for number, sent, _ in arrivals()] == [
            (n, 1000 + n) for n in numbers
        ]
        times = [received for _, _, received in arrivals()]
        assert times == sorted(times)


def test_udp_sender_numbers_from_zero_and_counts_what_it_sent(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((LOOPBACK, 0))
        receiver.settimeout(10)
        port = receiver.getsockname()[1]
        flow = Flow("s", "udp-send", LOOPBACK, 0, LOOPBACK, port, interval_s=0.001, size=64)
        with _program(tmp_path, flow) as program:
            seen = [receiver.recv(2048) for _ in range(50)]
            program.stop_sending()
            program.end()
        receiver.setblocking(False)
        while True:
            try:
                seen.append(receiver.recv(2048))
            except BlockingIOError:
                break
    assert {len(datagram) for datagram in seen} == {64}
    assert [struct.unpack_from("!Q", d)[0] for d in seen] == list(range(len(seen)))
    last = program.reports()[-1]
    assert isinstance(last, UdpSent)
    assert (last.sent, last.refused) == (len(seen), 0)


def test_udp_sender_counts_datagrams_its_own_machine_refuses(tmp_path: Path) -> None:
    flow = Flow("s", "udp-send", LOOPBACK, 0, "192.0.2.1", 9, interval_s=0.001)  # RFC 5737
    with _program(tmp_path, flow) as program:

        def last() -> UdpSent:
            return [report for report in program.reports() if isinstance(report, UdpSent)][-1]

        wait_until(lambda: program.reports() and last().sent > 5, 10, "some attempts")
        program.stop_sending()
        program.end()
    assert last().refused == last().sent


def test_tcp_receiver_accepts_exactly_the_pattern(tmp_path: Path) -> None:
    port = _free_port(socket.SOCK_STREAM)
    content = pattern("t")[:65_521] + pattern("t")[:40_000]
    with _program(tmp_path, Flow("t", "tcp-receive", LOOPBACK, port)) as program:
        with _connect(port) as sender:
            sender.sendall(content)
        wait_until(lambda: program.tcp().state not in RUNNING, 10, "a verdict")
        report = program.tcp()
    assert (report.state, report.bytes) == ("done", len(content))
    assert report.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("fault", ["flip", "skip", "repeat"])
def test_tcp_receiver_sees_wrong_content(tmp_path: Path, fault: str) -> None:
    port = _free_port(socket.SOCK_STREAM)
    good = pattern("t")[:30_000]
    bad = {
        "flip": good[:20_000] + bytes([good[20_000] ^ 1]) + good[20_001:],
        "skip": good[:20_000] + good[20_004:],
        "repeat": good[:20_000] + good[18_552:],
    }[fault]
    with _program(tmp_path, Flow("t", "tcp-receive", LOOPBACK, port)) as program:
        with _connect(port) as sender:
            sender.sendall(bad)
            wait_until(lambda: program.tcp().state not in RUNNING, 10, "a verdict")
        report = program.tcp()
    assert report.state.startswith("failed: wrong content at byte")
    assert report.bytes <= 20_000


def test_tcp_end_sees_a_reset(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        server.settimeout(10)
        port = server.getsockname()[1]
        flow = Flow("t", "tcp-send", LOOPBACK, 0, LOOPBACK, port, rate=100_000)
        with _program(tmp_path, flow) as program:
            connection, _ = server.accept()
            assert connection.recv(1000) == pattern("t")[:1000]
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            wait_until(lambda: program.tcp().state.startswith("failed"), 10, "the reset")
    assert "reset" in program.tcp().state


def test_tcp_sender_keeps_its_pace(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        server.settimeout(10)
        port = server.getsockname()[1]
        flow = Flow("t", "tcp-send", LOOPBACK, 0, LOOPBACK, port, rate=200_000)
        with _program(tmp_path, flow) as program:
            connection, _ = server.accept()
            total = bytearray()
            while len(total) < 300_000:
                total += connection.recv(65536)
            program.stop_sending()
            while data := connection.recv(65536):
                total += data
            connection.close()
            wait_until(lambda: program.tcp().state == "done", 10, "the sender's end")
    period = pattern("t")[:65_521]
    assert bytes(total) == (period * (len(total) // len(period) + 1))[: len(total)]
    sent = program.tcp()
    assert (sent.bytes, sent.digest) == (len(total), hashlib.sha256(total).hexdigest())
