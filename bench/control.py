"""Registrations per second, and what a million bindings cost at a restart.

``control.registrations``: authenticated, durable registrations answered per second by one
core, requests kept waiting (closed loop, ``WINDOW`` in flight). The reference is the same
loop without the store. ``control.registration_p99``: time from request to reply at
``PACED_RATE`` requests a second (open loop). Client and server have a core each.
Run alone: ``python -m bench.control``.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.control_server import HOME_AGENT, HOME_NETWORK, SPI, host_key
from bench.results import Benchmark, Result, median_of_rounds

HOSTS = 20_000
WINDOW = 512
REQUESTS = 60_000
PACED_RATE = 10_000
PACED_REQUESTS = 40_000
PORT = 43434
AHEAD_S = 5
"""Timestamps lead so far that even a slow run ends within the window of 7 s."""
SERVER_CPU = 0
CLIENT_CPU = 1
COMMAND = "sh ./run bench --only control store"
CARE_OF = HOME_AGENT + 1
"""The care-of address of every host: the client's own."""
HOME_AGENT_TEXT = str(ipaddress.IPv4Address(HOME_AGENT))
CARE_OF_TEXT = str(ipaddress.IPv4Address(CARE_OF))

_NTP_ERA = 2208988800
_REQUEST = struct.Struct("!BBHIIIQBBI")


def make_request(number: int, identification: int) -> bytes:
    """A Registration Request of host ``number`` with an HMAC-MD5 Mobile-Home authenticator."""
    covered = _REQUEST.pack(
        1, 0x22, 1800, HOME_NETWORK + number, HOME_AGENT, CARE_OF, identification, 32, 20, SPI
    )
    return covered + hmac.digest(host_key(number), covered, "md5")


def make_requests(count: int, rate: float, hosts: int = HOSTS) -> list[bytes]:
    """Requests of all hosts in turn, stamped as if sent at ``rate``, ``AHEAD_S`` in the future."""
    begin_s = time.time() + AHEAD_S + _NTP_ERA
    return [make_request(i % hosts + 1, int((begin_s + i / rate) * 2**32)) for i in range(count)]


@contextmanager
def server(store: str, hosts: int = HOSTS, kept: str = "") -> Iterator[socket.socket]:
    """A server process and a socket connected to it; its store lasts if ``kept`` is its folder."""
    with tempfile.TemporaryDirectory(prefix="fastmip-bench-", dir=Path.cwd()) as own:
        folder = kept or own
        command = [sys.executable, "-m", "bench.control_server", folder, str(PORT), str(hosts)]
        command += ["--store", store, "--cpu", str(SERVER_CPU)]
        profile = os.environ.get("FASTMIP_BENCH_PROFILE")
        if profile:
            command += ["--profile", profile]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
                client.bind((CARE_OF_TEXT, 0))
                client.connect((HOME_AGENT_TEXT, PORT))
                client.setblocking(False)
                yield client
        finally:
            process.terminate()
            process.communicate(timeout=30)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load gave."""

    per_second: float
    latencies_ms: list[float]
    """Sorted."""
    refused: int
    lost: int

    def percentile_ms(self, share: float) -> float:
        """Latency below which this share of replies came."""
        return self.latencies_ms[
            min(int(len(self.latencies_ms) * share), len(self.latencies_ms) - 1)
        ]


class _Client:
    """Sends prepared requests and times the replies by Identification."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sent_at: dict[bytes, float] = {}
        self.latencies: list[float] = []
        self.refused = 0

    @property
    def in_flight(self) -> int:
        return len(self._sent_at)

    def send(self, request: bytes) -> None:
        self._sent_at[request[16:24]] = time.perf_counter()
        self._socket.send(request)

    def receive(self) -> bool:
        try:
            reply = self._socket.recv(256)
        except BlockingIOError:
            return False
        began = self._sent_at.pop(reply[12:20], None)
        if began is not None:
            self.latencies.append(time.perf_counter() - began)
            self.refused += reply[1] > 1
        return True

    def wait(self, seconds: float) -> bool:
        return bool(select.select([self._socket], [], [], seconds)[0])

    def outcome(self, elapsed_s: float) -> Outcome:
        return Outcome(
            len(self.latencies) / elapsed_s,
            sorted(1000 * value for value in self.latencies),
            self.refused,
            self.in_flight,
        )


def closed_loop(sock: socket.socket, count: int, hosts: int = HOSTS) -> Outcome:
    """Keep ``WINDOW`` requests in flight."""
    # Stamped as if faster than any run, so that Identifications of later runs are greater.
    requests = make_requests(count, 50_000, hosts)
    client = _Client(sock)
    position, began = 0, time.perf_counter()
    while position < count or client.in_flight:
        while position < count and client.in_flight < WINDOW:
            client.send(requests[position])
            position += 1
        if not client.receive() and not client.wait(1.0):
            break
    return client.outcome(time.perf_counter() - began)


def open_loop(sock: socket.socket, count: int, rate: float) -> Outcome:
    """Send at a fixed rate whatever the server does."""
    requests = make_requests(count, rate)
    client = _Client(sock)
    position, began = 0, time.perf_counter()
    while position < count:
        due = min(count, int((time.perf_counter() - began) * rate) + 1)
        while position < due:
            client.send(requests[position])
            position += 1
        while client.receive():
            pass
        client.wait(1 / rate)
    while client.in_flight and client.wait(1.0):
        client.receive()
    return client.outcome(time.perf_counter() - began)


def _closed(store: str) -> float:
    with server(store) as sock:
        closed_loop(sock, REQUESTS // 4)  # first bindings: warm caches, rows exist
        outcome = closed_loop(sock, REQUESTS)
    assert not outcome.refused, f"{outcome.refused} requests were denied"
    assert outcome.lost <= REQUESTS // 1000, f"{outcome.lost} requests got no reply"
    return outcome.per_second


def measure() -> list[Result]:
    """Both figures; runs inside the namespace that ``registrations`` makes."""
    for address in (HOME_AGENT_TEXT, CARE_OF_TEXT):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.sched_setaffinity(0, {CLIENT_CPU})
    durable, plain = median_of_rounds(3, lambda: _closed("sqlite"), lambda: _closed("off"))
    paced, reference = _paced("sqlite"), _paced("off")
    p99, without = paced.percentile_ms(0.99), reference.percentile_ms(0.99)
    return [
        Result(
            "control.registrations",
            durable,
            "per s",
            durable / plain,
            f"same loop without the store: {plain:.0f} per s",
            COMMAND,
        ),
        Result(
            "control.registration_p99",
            p99,
            "ms",
            p99 / without,
            f"same loop without the store: {without:.3f} ms; at {PACED_RATE} per s,"
            f" p50 {paced.percentile_ms(0.5):.3f} ms",
            COMMAND,
        ),
    ]


def _paced(store: str) -> Outcome:
    with server(store) as sock:
        closed_loop(sock, HOSTS)
        paced = open_loop(sock, PACED_REQUESTS, PACED_RATE)
    assert not paced.refused, f"{paced.refused} requests were denied"
    assert paced.lost <= PACED_REQUESTS // 1000, f"{paced.lost} requests got no reply"
    return paced


def registrations() -> list[Result]:
    """Measure in a network namespace of our own, which needs no privilege."""
    flags = "-n" if os.geteuid() == 0 else "-Urn"
    command = ["unshare", flags, sys.executable, "-m", "bench.control", "--measure"]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [Result(**figures) for figures in json.loads(answer.stdout)]


BENCHMARKS: dict[str, Benchmark] = {"control": registrations}


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        print(json.dumps([asdict(result) for result in measure()]))
    else:
        for result in registrations():
            print(f"{result.name}: {result.value:.4g} {result.unit} ({result.reference})")
