"""A hundred thousand nodes register again at once, after a restart.

``control.storm.100k``: seconds from the first request until every node is bound, with the daemon's
control loop and store on one core, started anew over the store of all these nodes. All requests
are offered at once, as fast as the client's core sends them; who gets no reply sends again after
1, 2, 4 and 8 seconds (RFC 5944 3.6.3), with a new Identification. Denials for want of resources
(130) are counted. The reference is the closed loop of ``control.registrations`` that registered
the nodes before the restart.
Run alone: ``python -m bench.control_storm``.
"""

from __future__ import annotations

import heapq
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.control import (
    AHEAD_S,
    CARE_OF_TEXT,
    CLIENT_CPU,
    HOME_AGENT_TEXT,
    closed_loop,
    make_request,
    server,
)
from bench.control_server import HOME_NETWORK
from bench.results import Benchmark, Result, median_of_rounds

NODES = 100_000
ROUNDS = 3
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""After each transmission: the shortest that RFC 5944 3.6.3 allows, then twice as long."""
LIMIT_S = 60
LEAD_S = 3
BURST = 64
NO_RESOURCES = 130
COMMAND = "sh ./run bench --only control.storm.100k"

_NTP_ERA = 2208988800


@dataclass(slots=True)
class Storm:
    """What came of it."""

    settled_s: float = 0.0
    sent: int = 0
    unbound: int = 0
    denials: Counter[int] = field(default_factory=Counter)
    """Denials by code."""


def _identification() -> int:
    """Ahead, so that what is prepared and waits in a queue stays within the window of 7 s."""
    return int((time.time() + LEAD_S + _NTP_ERA) * 2**32)


def storm(sock: socket.socket, nodes: int) -> Storm:
    """All nodes at once, each with retransmission, until all are bound."""
    first = _identification()
    requests = [make_request(node, first) for node in range(1, nodes + 1)]
    outcome, waiting = Storm(), set(range(1, nodes + 1))
    again: list[tuple[float, int, int]] = []  # when, node, transmissions so far

    def hear() -> bool:
        try:
            reply = sock.recv(256)
        except BlockingIOError:
            return False
        if reply[1] <= 1:
            waiting.discard(int.from_bytes(reply[4:8], "big") - HOME_NETWORK)
        else:
            outcome.denials[reply[1]] += 1
        return True

    def send(node: int, transmissions: int, request: bytes) -> None:
        outcome.sent += 1
        sock.send(request)
        wait_s = WAITS_S[min(transmissions, len(WAITS_S) - 1)]
        heapq.heappush(again, (time.perf_counter() + wait_s, node, transmissions + 1))

    began = time.perf_counter()
    for node, request in enumerate(requests, 1):
        send(node, 0, request)
        if node % BURST == 0:
            while hear():
                pass
    while waiting and time.perf_counter() - began < LIMIT_S:
        heard = 0
        while heard < BURST and hear():
            heard += 1
        sent = 0
        while sent < BURST and again and again[0][0] <= time.perf_counter():
            _, node, transmissions = heapq.heappop(again)
            if node in waiting:
                send(node, transmissions, make_request(node, _identification()))
                sent += 1
        if not heard and not sent:
            time.sleep(0.001)
    outcome.settled_s = time.perf_counter() - began
    outcome.unbound = len(waiting)
    return outcome


def measure() -> list[Result]:
    """The figure; runs inside the namespace that ``storm_100k`` makes."""
    for address in (HOME_AGENT_TEXT, CARE_OF_TEXT):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.sched_setaffinity(0, {CLIENT_CPU})
    storms: list[Storm] = []
    folders: list[tempfile.TemporaryDirectory[str]] = []
    ahead: list[float] = []

    def stormy() -> float:
        # Later Identifications than those of the closed loop, which are ahead of the clock.
        time.sleep(max(0.0, ahead[-1] - time.monotonic()))
        with server("sqlite", NODES, folders[-1].name) as sock:
            outcome = storm(sock, NODES)
        folders.pop().cleanup()
        storms.append(outcome)
        assert not outcome.unbound, f"{outcome.unbound} nodes were not bound"
        return outcome.settled_s

    def calm() -> float:
        folders.append(tempfile.TemporaryDirectory(prefix="fastmip-bench-", dir=Path.cwd()))
        ahead.append(time.monotonic() + AHEAD_S + NODES / 20_000)
        with server("sqlite", NODES, folders[-1].name) as sock:
            outcome = closed_loop(sock, NODES, NODES)
        assert not outcome.refused, f"{outcome.refused} requests were denied"
        return NODES / outcome.per_second

    reference, settled = median_of_rounds(ROUNDS, calm, stormy)
    denials = sum((outcome.denials for outcome in storms), Counter[int]())
    without_room = denials.pop(NO_RESOURCES, 0)
    others = "".join(f", {count} with {code}" for code, count in sorted(denials.items()))
    sent = max(outcome.sent for outcome in storms)
    return [
        Result(
            "control.storm.100k",
            settled,
            "s",
            settled / reference,
            f"closed loop before the restart: {reference:.2f} s; {without_room} denied with 130"
            f"{others}; at most {sent} requests sent",
            COMMAND,
        )
    ]


def storm_100k() -> list[Result]:
    """Measure in a network namespace of our own, which needs no privilege."""
    flags = "-n" if os.geteuid() == 0 else "-Urn"
    command = ["unshare", flags, sys.executable, "-m", "bench.control_storm", "--measure"]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [Result(**figures) for figures in json.loads(answer.stdout)]


BENCHMARKS: dict[str, Benchmark] = {"control.storm": storm_100k}


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        print(json.dumps([asdict(result) for result in measure()]))
    else:
        for result in storm_100k():
            print(f"{result.name}: {result.value:.4g} {result.unit} ({result.reference})")
