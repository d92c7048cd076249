"""Measure forwarding between namespaces: rates, loss, latencies, beside the kernel's own.

Every figure of a device stands beside references taken in the same rounds, in turn, with the same
load, sink and kind of wires. The load, and all the kernel does before a packet is queued for a
worker (or, in a reference, until it has left), take one CPU; workers have the others.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Self

from fastmip.runtime.bench.device import (
    FIRST_HOME,
    FIRST_PLAIN,
    FIRST_PROGRAM,
    MAX_BINDINGS,
    HomeAgent,
    Setting,
    WireLab,
    home_agent,
)
from fastmip.runtime.bench.generator import Generator, Sent
from fastmip.runtime.bench.latency import Latencies
from fastmip.runtime.bench.receiver import Receiver
from fastmip.runtime.bench.search import Search, Trial, loss_free
from fastmip.runtime.bench.traffic import IMIX, Load

Sizes = tuple[tuple[int, int], ...]

REFERENCES: Mapping[str, int] = MappingProxyType(
    {"ip_forward": FIRST_PLAIN, "lwt_bpf": FIRST_PROGRAM}
)
"""Name -> first of the addresses that the kernel treats so."""
LOAD_SHARES = (0.1, 0.5, 0.9)
"""Of the loss-free rate: where latencies are taken."""
_DRAIN_S = 0.02
_FAST = 1e6
_SMALL_BATCH = 8
_STAT_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def sizes_of(text: str) -> Sizes:
    """``imix``, or one size as digits."""
    return IMIX if text == "imix" else ((int(text), 1),)


@dataclass(frozen=True, slots=True)
class Plan:
    """How thoroughly to measure."""

    rounds: int = 5
    seconds: float = 1.0
    """Of one burst of load."""
    search: Search = field(default_factory=lambda: Search(trials=3, resolution=0.05))
    search_seconds: float = 0.3
    loss: bool = True
    """Search the loss-free rate, and take latencies at shares of it."""
    real_time: bool = False
    """Load and workers before everything else on the machine."""


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst of load and what arrived of it."""

    sent: Sent
    received: int
    latencies: Latencies
    worker_seconds: float
    """CPU time of the workers."""
    cores: Mapping[int, Mapping[str, float]]
    """CPU -> share of its time in user, system, softirq, idle; of all that runs there."""

    @property
    def mpps(self) -> float:
        """Delivered, in million packets per second."""
        return self.received / self.sent.seconds / 1e6

    @property
    def mpps_per_core(self) -> float:
        """Delivered per second of CPU time of all cores that worked, the load's included."""
        return self.received / (self.sent.cpu_seconds + self.worker_seconds) / 1e6

    @property
    def mpps_per_worker(self) -> float:
        """Per second of CPU time of the workers, or where there is none, of the load's core."""
        return self.received / max(self.worker_seconds or self.sent.cpu_seconds, 1e-9) / 1e6


@dataclass(slots=True)
class Measured:
    """All of one device at one size; rates are medians of the rounds, in Mpps."""

    name: str
    """``kernel`` and other values of ``io``; ``ip_forward`` or ``lwt_bpf``."""
    size: str
    setting: Setting | None
    delivered: float
    offered: float
    per_core: float
    per_worker: float
    cores: Mapping[int, Mapping[str, float]]
    load_cpu: int
    worker_cpus: Sequence[int]
    references: dict[str, float] = field(default_factory=dict)
    """Of the same rounds: name -> delivered, and ``NAME.per_worker``."""
    overload: Latencies = field(default_factory=lambda: Latencies([]))
    loss_free: float | None = None
    trials: Sequence[Trial] = ()
    latencies: dict[float, Latencies] = field(default_factory=dict)
    """Share of the loss-free rate -> latencies at it."""

    def ratio(self, reference: str) -> float | None:
        """Delivered, as a share of a reference's."""
        found = self.references.get(reference)
        return self.delivered / found if found else None


class WireBench(ExitStack):
    """The namespaces, the load and both sinks; a context manager."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        cpus = sorted(os.sched_getaffinity(0))
        self.load_cpu, self.worker_cpus = cpus[0], cpus[1:] or cpus

    def __enter__(self) -> Self:
        """Build everything."""
        super().__enter__()
        try:
            self.lab = self.enter_context(WireLab())
            command = self.lab.command_in("load", self.load_cpu, real_time=self.plan.real_time)
            self._generator = self.enter_context(Generator(command))
            with self.lab.inside("sink"):
                self._sinks = {
                    node: self.enter_context(Receiver(port))
                    for node, port in (("ha", "s0"), ("ref", "s1"))
                }
            self._macs = {
                node: bytes.fromhex(self.lab.mac(node, "h0").replace(":", ""))
                for node in self._sinks
            }
        except BaseException:
            self.close()
            raise
        return self

    def burst(
        self,
        node: str,
        first: int,
        sizes: Sizes,
        *,
        addresses: int,
        rate: float = 0.0,
        seconds: float | None = None,
        agent: HomeAgent | None = None,
    ) -> Burst:
        """Offer load for a while, wait until all of it is through, count."""
        load = Load(
            first=first,
            addresses=addresses,
            sizes=sizes,
            destination_mac=self._macs[node],
            rate=rate,
            seconds=seconds or self.plan.seconds,
            batch=_SMALL_BATCH if 0 < rate <= _FAST else 64,
        )
        sink = self._sinks[node]
        sink.clear()
        used = agent.cpu_seconds() if agent else 0.0
        before = _cpu_times()
        sent = self._generator.send(load, "g0" if node == "ha" else "r0", out=True)
        cores = _shares(before, _cpu_times())
        got = sink.read()
        while True:
            time.sleep(_DRAIN_S)
            last, got = got, sink.read()
            if got.packets == last.packets:
                break
        used = agent.cpu_seconds() - used if agent else 0.0
        return Burst(sent, got.packets, got.latencies, used, cores)

    def reference(self, name: str, size: str) -> Burst:
        """One burst through the kernel alone."""
        return self.burst("ref", REFERENCES[name], sizes_of(size), addresses=MAX_BINDINGS)

    def references(self, size: str) -> list[Measured]:
        """The kernel alone, without a device beside it."""
        bursts: dict[str, list[Burst]] = {name: [] for name in REFERENCES}
        for _ in range(self.plan.rounds):
            for name, kept in bursts.items():
                kept.append(self.reference(name, size))
        found = {name: self._summary(name, size, kept) for name, kept in bursts.items()}
        for one in found.values():
            one.references = {name: other.delivered for name, other in found.items()}
        return list(found.values())

    @contextmanager
    def device(self, setting: Setting) -> Iterator[HomeAgent]:
        """A home agent of that setting, running."""
        with home_agent(
            self.lab, setting, self.worker_cpus, real_time=self.plan.real_time
        ) as agent:
            yield agent

    def measure(
        self, agent: HomeAgent, size: str, tell: Callable[[str], None] = lambda _: None
    ) -> Measured:
        """All figures of a running home agent at one size."""
        setting, sizes = agent.setting, sizes_of(size)

        def offer(rate: float, seconds: float) -> Burst:
            return self.burst(
                "ha",
                FIRST_HOME + 1,
                sizes,
                addresses=setting.bindings,
                rate=rate,
                seconds=seconds,
                agent=agent,
            )

        bursts: list[Burst] = []
        beside: dict[str, list[Burst]] = {name: [] for name in REFERENCES}
        for number in range(self.plan.rounds):
            tell(f"{setting.io} {size}: overload, round {number + 1} of {self.plan.rounds}")
            for name, kept in beside.items():
                kept.append(self.reference(name, size))
            bursts.append(offer(0, self.plan.seconds))
        result = self._summary(setting.io, size, bursts)
        result.setting, result.worker_cpus = setting, agent.cpus
        for name, kept in beside.items():
            result.references[name] = statistics.median(burst.mpps for burst in kept)
            per_worker = statistics.median(burst.mpps_per_worker for burst in kept)
            result.references[f"{name}.per_worker"] = per_worker
        if self.plan.loss:
            self._search(result, offer, tell)
        return result

    def _search(
        self,
        result: Measured,
        offer: Callable[[float, float], Burst],
        tell: Callable[[str], None],
    ) -> None:
        """The loss-free rate, and latencies at shares of it."""

        def trial(rate: float) -> Trial:
            tell(f"{result.name} {result.size}: loss-free? {rate / 1e6:.3f} Mpps")
            burst = offer(rate, self.plan.search_seconds)
            return Trial(rate, burst.sent.packets, burst.received, burst.sent.seconds)

        found = loss_free(trial, 1.1e6 * result.delivered, self.plan.search)
        result.loss_free, result.trials = found.rate / 1e6, found.trials
        for share in LOAD_SHARES:
            tell(f"{result.name} {result.size}: latency at {share:.0%}")
            rate = share * found.rate
            if rate >= 1:
                result.latencies[share] = offer(rate, self.plan.seconds).latencies

    def _summary(self, name: str, size: str, bursts: Sequence[Burst]) -> Measured:
        middle = sorted(bursts, key=lambda burst: burst.mpps)[len(bursts) // 2]
        return Measured(
            name=name,
            size=size,
            setting=None,
            delivered=statistics.median(burst.mpps for burst in bursts),
            offered=statistics.median(burst.sent.pps / 1e6 for burst in bursts),
            per_core=statistics.median(burst.mpps_per_core for burst in bursts),
            per_worker=statistics.median(burst.mpps_per_worker for burst in bursts),
            cores=middle.cores,
            load_cpu=self.load_cpu,
            worker_cpus=(),
            overload=middle.latencies,
        )


def _cpu_times() -> dict[int, list[int]]:
    times = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *counts = line.split()
        if name.startswith("cpu") and name != "cpu":
            times[int(name[3:])] = [int(count) for count in counts[: len(_STAT_FIELDS)]]
    return times


def _shares(
    before: Mapping[int, Sequence[int]], after: Mapping[int, Sequence[int]]
) -> dict[int, dict[str, float]]:
    """What each CPU spent its time on."""
    shares = {}
    for cpu, now in after.items():
        spent = [b - a for a, b in zip(before.get(cpu, now), now, strict=True)]
        total = sum(spent) or 1
        named = {name: share / total for name, share in zip(_STAT_FIELDS, spent, strict=True)}
        shares[cpu] = {
            name: round(named[name], 3) for name in ("user", "system", "softirq", "idle")
        }
    return shares
