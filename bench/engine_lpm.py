"""What does it cost that an address belongs to a mobile network and not to a mobile node?

100k mobile routers with a /24 each, scattered over 2.5 million; packets for and from random
addresses in them, beside the same packets for and from the routers' home addresses in an engine
without mobile networks. Hot pool, batches of 64, all of a packet's work in both.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from bench.engine_tunnel import HOT_FRAMES, ROUNDS, SIDES
from bench.engine_world import DRAWS, LOCAL, World, records, replay, world
from bench.results import Result, median_of_rounds
from fastmip import _dataplane

ROUTERS = 100_000
PACKETS = 1_000_000
FIRST, LAST = 16 << 16, 56 << 16
"""Of the /24s that are drawn from."""


def networks() -> World:
    """An engine in which each of the bindings has a mobile network, and draws from these."""
    rows = records(ROUTERS)
    engine = _dataplane.Engine(max_bindings=ROUTERS, local_addresses=[LOCAL])
    engine.restore(rows.tobytes())
    rng = np.random.default_rng(3)
    places = (FIRST + rng.permutation(LAST - FIRST)[:ROUTERS]).astype(np.uint32) << 8
    for prefix, home_address in zip(places.tolist(), rows["home_address"].tolist(), strict=True):
        engine.set_prefix(prefix, 24, home_address)
    picked = rng.integers(0, ROUTERS, DRAWS)
    inside = places[picked] + rng.integers(1, 255, DRAWS, dtype=np.uint32)
    draws = np.stack([inside, rows["remote"][picked]], axis=1).astype(np.uint32)
    return World(engine, draws, ROUTERS, rows[:1].tobytes())


def run(pool: _dataplane.Replay) -> float:
    """Nanoseconds per packet."""
    spent, sent, left = pool.run(packets=PACKETS)
    assert left == sent, f"{sent - left} packets did not come out"
    return spent / sent


def lpm() -> list[Result]:
    """Nanoseconds added, a packet, in each direction."""
    with_networks, without = networks(), world.__wrapped__(ROUTERS)
    results = []
    for what, side in SIDES.items():
        pools = [replay(one, side, 64, HOT_FRAMES) for one in (with_networks, without)]
        measures = [partial(run, pool) for pool in pools]
        ns, plain_ns = median_of_rounds(ROUNDS, *measures)
        name = "engine.lpm.100k" + ("" if what == "encap" else f".{what}")
        reference = f"{what} by home address, {plain_ns:.1f} ns; at most 5 ns more"
        command = f"sh ./run bench --only {name}"
        results.append(Result(name, ns - plain_ns, "ns", ns / plain_ns, reference, command))
    return results


BENCHMARKS = {"engine.lpm.100k": lpm}
