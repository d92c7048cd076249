"""How much more do two workers carry than one?

``workers.2``: each worker has a pool of its own and half of the home addresses, as packets are
sharded by home address; binding cache and lines are common. One worker runs alone, then both at
once, in interleaved rounds; the figure is the sum of both over the one. Whatever they write to
memory of each other's would show here.

On a machine that others use, threads wait for a core. So beside the clock's figure stands the
processor's: packets per second of processor time, two workers over one, which waiting leaves alone.
And beside that the same of two engines that share nothing: what memory and cores of this machine
allow.
"""

from __future__ import annotations

import statistics
import threading
import time

import numpy as np

from bench.engine_world import CORRESPONDENT, LOCAL, records
from bench.results import Benchmark, Result
from fastmip import _dataplane

ROUNDS = 15
PACKETS = 2_000_000
BINDINGS = 100_000
DRAWS = 1 << 20
FRAMES = 512
SIDES = {"encap": _dataplane.HOME, "decap": _dataplane.TUNNEL}


def pools(side: int, workers: int, *, apart: bool = False) -> list[_dataplane.Replay]:
    """For each worker of an engine, or of an engine each, a pool of its own home addresses."""
    rows = records(BINDINGS)
    engines = []
    for _ in range(workers if apart else 1):
        engine = _dataplane.Engine(max_bindings=BINDINGS, workers=workers, local_addresses=[LOCAL])
        engine.restore(rows.tobytes())
        engines.append(engine)
    made = []
    for worker in range(workers):
        mine = rows[rows["home_address"] % workers == worker]
        picked = mine[np.random.default_rng(worker).integers(0, len(mine), DRAWS)]
        draws = np.stack([picked["home_address"], picked["remote"]], axis=1).astype(np.uint32)
        made.append(
            _dataplane.Replay(
                engines[worker % len(engines)],
                side=side,
                size=64,
                frames=FRAMES,
                draws=draws.tobytes(),
                tunnel=rows[:1].tobytes(),
                correspondent=CORRESPONDENT,
            )
        )
    return made


def together(chosen: dict[int, _dataplane.Replay]) -> tuple[float, float]:
    """Millions of packets a second while all run: by the clock, by processor time of a worker."""
    ready = threading.Barrier(len(chosen))
    rates: list[tuple[float, float]] = []

    def run(worker: int, pool: _dataplane.Replay) -> None:
        ready.wait()
        began, used = time.monotonic(), time.thread_time()
        _, sent, left = pool.run_as(worker, packets=PACKETS)
        assert left == sent
        clock, processor = time.monotonic() - began, time.thread_time() - used
        rates.append((sent / clock / 1e6, sent / processor / 1e6))

    threads = [threading.Thread(target=run, args=each) for each in chosen.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rates) == len(chosen)
    return sum(clock for clock, _ in rates), sum(processor for _, processor in rates)


def two_workers(what: str) -> list[Result]:
    """Two over one, medians of rounds in turn."""
    made, apart = pools(SIDES[what], 2), pools(SIDES[what], 2, apart=True)
    ones, twos, others = [], [], []
    for turn in range(ROUNDS):
        ones.append(together({turn % 2: made[turn % 2]}))
        twos.append(together(dict(enumerate(made))))
        others.append(together(dict(enumerate(apart))))
    name = "workers.2" if what == "encap" else f"workers.2.{what}"
    clock, processor = (
        statistics.median(two[k] / one[k] for one, two in zip(ones, twos, strict=True))
        for k in (0, 1)
    )
    best = statistics.median(two[1] / one[1] for one, two in zip(ones, others, strict=True))
    one = statistics.median(rate for rate, _ in ones)
    reference = f"one worker, {one:.0f} Mpps; by processor time {processor:.2f}, apart {best:.2f}"
    return [Result(name, clock * one, "Mpps", clock, reference, f"sh ./run bench --only {name}")]


BENCHMARKS: dict[str, Benchmark] = {
    "workers.2": lambda: [*two_workers("encap"), *two_workers("decap")]
}
