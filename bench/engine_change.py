"""How fast do bindings change under full traffic, and what does their number cost?

``engine.insert``: bindings published per second, as a start from the store does it, while a worker
encapsulates as fast as it can; ``engine.insert.moves`` likewise for bindings that exist and get
another care-of address, so that lines wait for the worker before they are used again. No packet
may miss its binding meanwhile. ``engine.decap.tunnels.N``: decapsulation with N tunnels beside
one with one.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from bench.engine_tunnel import HOT_FRAMES
from bench.engine_world import World, records, replay, world
from bench.results import Benchmark, Result, median_of_rounds
from fastmip import _dataplane

MILLION = 1_000_000
HELD = 100_000
"""Bindings the worker's packets are for."""
ROUNDS = 5
PACKETS = 100_000
DECAP_ROUNDS = 15
TUNNELS = {"1": 1, "100": 100, "10k": 10_000, "100k": 100_000, "1M": MILLION}


class Reader:
    """A worker's loop in a thread of its own, at full speed."""

    def __init__(self, of: World) -> None:
        self._pool = replay(of, _dataplane.HOME, 64, HOT_FRAMES)
        self._stop = threading.Event()
        self._rates: list[float] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            spent, sent, left = self._pool.run(packets=PACKETS)
            assert left == sent, f"{sent - left} packets missed their binding"
            self._rates.append(sent / spent * 1000)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mpps(self, begun: int = 0) -> float:
        """Median rate of the runs since then."""
        return statistics.median(self._rates[begun:] or self._rates)

    def runs(self) -> int:
        """Runs so far."""
        return len(self._rates)


def fresh() -> tuple[World, bytes]:
    """An engine with room for two million, and a million records that are not in it yet."""
    rows = records(HELD + MILLION)
    engine = _dataplane.Engine(max_bindings=2 * MILLION, local_addresses=[int(rows["local"][0])])
    engine.restore(rows[:HELD].tobytes())
    picked = rows[np.random.default_rng(2).integers(0, HELD, 1 << 20)]
    draws = np.stack([picked["home_address"], picked["remote"]], axis=1).astype(np.uint32)
    return World(engine, draws, HELD, rows[:1].tobytes()), rows[HELD:].tobytes()


def timed(engine: _dataplane.Engine, tunnels: bytes) -> float:
    """Bindings published per second."""
    start = time.perf_counter()
    count = engine.restore(tunnels)
    return count / (time.perf_counter() - start)


def moved(tunnels: bytes, by: int) -> bytes:
    """The same home addresses at other care-of addresses."""
    rows = np.frombuffer(tunnels, dtype=records(1).dtype).copy()
    rows["remote"] += by
    return rows.tobytes()


def change() -> Iterable[Result]:
    """Insertion and moves, alone and beside a reader, in turns."""
    inserts: dict[bool, list[float]] = {False: [], True: []}
    moves: dict[bool, list[float]] = {False: [], True: []}
    alone, beside = [], []
    for turn in range(ROUNDS):
        for is_read in (False, True):
            of, tunnels = fresh()
            if not is_read:
                inserts[is_read].append(timed(of.engine, tunnels))
                moves[is_read].append(timed(of.engine, moved(tunnels, turn + 1)))
                continue
            with Reader(of) as reader:
                time.sleep(0.2)
                alone.append(reader.mpps())
                begun = reader.runs()
                inserts[is_read].append(timed(of.engine, tunnels))
                moves[is_read].append(timed(of.engine, moved(tunnels, turn + 1)))
                beside.append(reader.mpps(begun))
    read = f"reader {statistics.median(beside):.0f} Mpps, {statistics.median(alone):.0f} alone"
    for name, rates in (("engine.insert", inserts), ("engine.insert.moves", moves)):
        rate, without = (statistics.median(rates[is_read]) for is_read in (True, False))
        reference = f"without a reader {without / 1e6:.2f} M/s; {read}; at least 1 M/s"
        command = "sh ./run bench --only engine.insert"
        yield Result(name, rate, "per s", rate / without, reference, command)


def decapsulation() -> Iterable[Result]:
    """Mpps with so many tunnels, packets drawn at random from all of them."""
    pools = [replay(world(count), _dataplane.TUNNEL, 64, HOT_FRAMES) for count in TUNNELS.values()]

    def run(pool: _dataplane.Replay) -> float:
        spent, sent, left = pool.run(packets=PACKETS)
        assert left == sent, f"{sent - left} packets did not come out"
        return spent / sent

    measures: list[Callable[[], float]] = [partial(run, pool) for pool in pools]
    costs = median_of_rounds(DECAP_ROUNDS, *measures)
    for name, ns in zip(TUNNELS, costs, strict=True):
        full = f"engine.decap.tunnels.{name}"
        reference = f"one tunnel, {1000 / costs[0]:.0f} Mpps"
        command = "sh ./run bench --only engine.decap.tunnels"
        yield Result(full, 1000 / ns, "Mpps", costs[0] / ns, reference, command)


BENCHMARKS: dict[str, Benchmark] = {
    "engine.insert": change,
    "engine.decap.tunnels": decapsulation,
}
