"""How many packets per second does one core encapsulate and decapsulate?

All mandated work is in: header checks and checksums of both headers, TTL, expiry, MTU, loop and
care-of address checks, ECN, verdicts, per-binding counters. Source and sink are in memory;
their own cost is part of the figure. Every batch carries other bindings.
"""

from __future__ import annotations

from functools import partial

from bench.engine_world import METHODS, replay, world
from bench.results import Benchmark, Result, median_of_rounds
from fastmip import _dataplane

ROUNDS = 7
PACKETS = 1_000_000
METHOD_ROUNDS = 31
METHOD_PACKETS = 100_000
HOT_FRAMES = 512
COLD_FRAMES = 65_536
SIDES = {"encap": _dataplane.HOME, "decap": _dataplane.TUNNEL}


def tunnel(what: str, size: int, bindings: int, frames: int, batch: int) -> tuple[float, float]:
    """Median ns per packet, and of memcpy of 64 bytes between the same frames."""
    pool = replay(world(bindings), SIDES[what], size, frames)

    def run() -> float:
        spent, sent, left = pool.run(packets=PACKETS, batch=batch)
        assert left == sent, f"{sent - left} packets did not come out"
        return spent / sent

    ns, memcpy_ns = median_of_rounds(ROUNDS, run, lambda: pool.memcpy(rounds=PACKETS) / PACKETS)
    return ns, memcpy_ns


def result(name: str, ns: float, memcpy_ns: float) -> Result:
    """Millions per second beside as many memcpys."""
    reference = f"memcpy 64 B, {1000 / memcpy_ns:.0f} M/s"
    command = f"sh ./run bench --only {name}"
    return Result(name, 1000 / ns, "Mpps", memcpy_ns / ns, reference, command)


def group(what: str, size: int, suffix: str) -> Benchmark:
    """One figure: hot pool of 100k bindings unless the suffix says otherwise."""
    bindings = 1_000_000 if suffix == ".1M" else 100_000
    frames = COLD_FRAMES if suffix == ".cold" else HOT_FRAMES
    batch = 1 if suffix == ".batch1" else 64
    name = f"engine.{what}.{size}{suffix}"
    return lambda: [result(name, *tunnel(what, size, bindings, frames, batch))]


def method(what: str, name: str) -> list[Result]:
    """Another encapsulation beside IP in IP, 64 bytes, hot pool of 100k bindings."""
    pools = [replay(world(100_000, kind), SIDES[what], 64, HOT_FRAMES) for kind in (name, "ipip")]

    def run(pool: _dataplane.Replay) -> float:
        spent, sent, left = pool.run(packets=METHOD_PACKETS)
        assert left == sent, f"{sent - left} packets did not come out"
        return spent / sent

    measures = [partial(run, pool) for pool in pools]
    ns, ipip_ns = median_of_rounds(METHOD_ROUNDS, *measures)
    full = f"engine.{what}.64.{name}"
    reference = f"IP in IP, {1000 / ipip_ns:.0f} Mpps; at least 0.67"
    command = f"sh ./run bench --only {full}"
    return [Result(full, 1000 / ns, "Mpps", ipip_ns / ns, reference, command)]


BENCHMARKS: dict[str, Benchmark] = {
    f"engine.{what}.{size}{suffix}": group(what, size, suffix)
    for what in SIDES
    for size in (64, 576, 1400)
    for suffix in ("", ".cold", ".1M", ".batch1")
    if suffix != ".batch1" or size == 64
} | {
    f"engine.{what}.64.{name}": partial(method, what, name)
    for what in SIDES
    for name in METHODS
    if name != "ipip"
}
