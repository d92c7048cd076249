"""What does it cost to find a packet's next hop, and how soon do kernel changes count?

``egress.lookup``: destinations at random, a default route and a hundred others. ``.1M``: a million
prefixes of the lengths of the Internet's routing table. Every lookup gives both MAC addresses,
interface and MTU. ``egress.change``: from an ``ip route replace`` handed to the kernel until
workers see it, while the event loop is busy nine tenths of the time
and a reader looks up at full speed.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable

import numpy as np
from tests.helpers.namespaces import Namespaces

from bench.results import Benchmark, Result, median_of_rounds
from fastmip import _dataplane
from fastmip.runtime.egress_routes import Flow
from fastmip.runtime.route_mirror import RouteMirror

ROUNDS = 7
DRAWS = 1 << 20
GATEWAYS = 16
LENGTHS = {24: 0.6, 22: 0.13, 23: 0.1, 21: 0.05, 20: 0.04, 19: 0.03, 16: 0.02, 28: 0.03}
"""Of prefixes, roughly as in a full table; some longer than a /24 beside."""
CHANGES = 300
BUSY_S, REST_S = 0.0009, 0.0001
OUTSIDE = 0xC6336407


def filled(routes: int) -> _dataplane.Egress:
    """A table with a default route and this many others."""
    table = _dataplane.Engine(max_bindings=1).egress(_dataplane.TUNNEL)
    sets = []
    for number in range(1, GATEWAYS + 1):
        table.set_link(number, number, bytes([2, 0, 0, 0, 0, number]), 1500, number)
        table.set_neighbour(0x0A000001 + number, number, bytes([2, 0, 0, 0, 1, number]))
        sets.append(table.add_set([(0x0A000001 + number, number, 0, 1)]))
    table.set_route(0, 0, sets[0])
    rng = np.random.default_rng(3)
    lengths = rng.choice(list(LENGTHS), routes, p=list(LENGTHS.values()))
    values = rng.integers(1 << 24, 0xE0000000, routes)
    for value, length in zip(values.tolist(), lengths.tolist(), strict=True):
        table.set_route(value >> 32 - length << 32 - length, length, sets[value % GATEWAYS])
    return table


def lookup(name: str, routes: int) -> list[Result]:
    """Median ns per lookup beside as many lookups of bindings."""
    table = filled(routes)
    draws = np.random.default_rng(5).integers(1 << 24, 0xE0000000, DRAWS, dtype=np.uint32)

    def run() -> float:
        spent, known = table.time_lookups(draws.data)
        assert known == DRAWS, f"{DRAWS - known} destinations without a next hop"
        return spent / DRAWS

    source = np.arange(1 << 22, dtype=np.uint32)
    target = np.empty_like(source)

    def copy() -> float:
        start = time.perf_counter_ns()
        np.copyto(target, source)
        return (time.perf_counter_ns() - start) / (source.nbytes / 64)

    ns, copy_ns = median_of_rounds(ROUNDS, run, copy)
    reference = f"copying 64 B of an array, {copy_ns:.1f} ns"
    return [Result(name, ns, "ns", ns / copy_ns, reference, f"sh ./run bench --only {name}")]


async def _change_times(lab: Namespaces) -> list[float]:
    """Milliseconds until a change is seen."""
    engine = _dataplane.Engine(max_bindings=1)
    mirror = RouteMirror(engine, outer=Flow(), inner=Flow())
    await mirror.start()
    table = engine.egress(_dataplane.TUNNEL)
    stop = threading.Event()
    draws = np.full(1 << 16, OUTSIDE, np.uint32)

    def read() -> None:
        while not stop.is_set():
            table.time_lookups(draws.data)

    async def work() -> None:
        while True:
            until = time.perf_counter() + BUSY_S
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(REST_S)

    reader = threading.Thread(target=read)
    reader.start()
    busy = asyncio.create_task(work())
    ip = lab.start("ha", "ip", "-batch", "-")
    assert ip.stdin is not None
    times = []
    for turn in range(CHANGES):
        seen = asyncio.Event()
        mirror.on_change = seen.set
        expected = bytes([2, 0, 0, 0, 1, turn % 2])
        start = time.perf_counter()
        ip.stdin.write(f"route replace 198.51.100.0/24 via 10.1.0.{2 + turn % 2}\n")
        ip.stdin.flush()
        while (hop := mirror.lookup(_dataplane.TUNNEL, OUTSIDE)) is None or hop.dst != expected:
            seen.clear()
            await seen.wait()
        times.append((time.perf_counter() - start) * 1000)
        await asyncio.sleep(0.001)
    busy.cancel()
    stop.set()
    reader.join()
    await mirror.stop()
    return times


def change() -> Iterable[Result]:
    """Milliseconds from the change to its effect, beside what ``ip`` itself takes."""
    with Namespaces("ha") as lab, lab.inside("ha"):
        lab.ip("ha", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        for port in ("eth0", "eth1"):
            lab.ip("ha", "link", "set", port, "up")
        lab.ip("ha", "addr", "add", "10.1.0.1/24", "dev", "eth0")
        for last in (2, 3):
            mac = f"02:00:00:00:01:0{last - 2}"
            lab.ip("ha", "neigh", "replace", f"10.1.0.{last}", "lladdr", mac, "dev", "eth0")
        times = sorted(asyncio.run(_change_times(lab)))
        lines = "route replace 198.51.100.0/24 via 10.1.0.2\n" * CHANGES
        start = time.perf_counter()
        subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
        alone = (time.perf_counter() - start) * 1000 / CHANGES
    p99, median = times[int(len(times) * 0.99)], statistics.median(times)
    reference = f"ip route replace itself {alone:.2f} ms; at most 10 ms"
    command = "sh ./run bench --only egress.change"
    return [
        Result("egress.change", median, "ms", median / alone, reference, command),
        Result("egress.change.p99", p99, "ms", p99 / alone, reference, command),
    ]


BENCHMARKS: dict[str, Benchmark] = {
    "egress.lookup": lambda: lookup("egress.lookup", 100),
    "egress.lookup.1M": lambda: lookup("egress.lookup.1M", 1_000_000),
    "egress.change": change,
}
