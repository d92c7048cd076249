"""How long does it take to find a binding, and what does one cost in memory?"""

from __future__ import annotations

from functools import partial

from bench.engine_world import records, replay, world
from bench.results import Result, median_of_rounds
from fastmip import _dataplane

ROUNDS = 9
LOOKUPS = 2_000_000
SIZES = {"1k": 1_000, "100k": 100_000, "1M": 1_000_000, "10M": 10_000_000}


def lookup(size: str) -> list[Result]:
    """Random hits in batches of 64, keys precomputed, beside memcpy of 64 bytes."""
    pool = replay(world.__wrapped__(SIZES[size]), _dataplane.HOME, 64, 512)

    def find() -> float:
        spent, lookups, found = pool.lookup(lookups=LOOKUPS)
        assert found == lookups, f"{lookups - found} bound addresses were not found"
        return spent / lookups

    ns, memcpy_ns = median_of_rounds(ROUNDS, find, lambda: pool.memcpy(rounds=LOOKUPS) / LOOKUPS)
    name = f"engine.lookup.{size}"
    reference = f"memcpy 64 B, {memcpy_ns:.2f} ns"
    return [Result(name, ns, "ns", ns / memcpy_ns, reference, f"sh ./run bench --only {name}")]


def bytes_per_binding() -> list[Result]:
    """Memory the engine touched for a million bindings, all it keeps included."""
    name = "engine.bytes_per_binding"
    engine = _dataplane.Engine(max_bindings=1_000_000)
    before = engine.memory_bytes()
    engine.restore(records(1_000_000).tobytes())
    pool_counts = engine.memory_bytes() - before
    # Counters are touched by traffic: 32 bytes per binding and worker that saw it.
    value = pool_counts / 1_000_000 + 32
    reference = "limit 300 B; counters of one worker included"
    return [Result(name, value, "B", value / 300, reference, f"sh ./run bench --only {name}")]


BENCHMARKS = {
    **{f"engine.lookup.{size}": partial(lookup, size) for size in SIZES},
    "engine.bytes_per_binding": bytes_per_binding,
}
