"""What the engine costs, by stage and worker: the same words for every role."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastmip._dataplane import Engine

CONTROL_THREAD = "control"
"""Whose packets are not a worker's: broadcasts are copied by the control thread itself."""


NOTHING: Mapping[str, tuple[int, int]] = MappingProxyType({})


class Observed(NamedTuple):
    """What a running role shows of itself."""

    engine: Engine
    counters: Mapping[str, int]
    """Every counter and gauge by name, since the start."""
    gauges: frozenset[str]
    """Names of those that may fall."""
    lost: Mapping[str, int]
    """Packets that full socket buffers lost, by kind of socket."""
    offloaded: Mapping[str, tuple[int, int]] = NOTHING
    """Verdict -> (packets, bytes) of packets that never came to the engine."""


def all_verdicts(
    engine: Engine, offloaded: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """Verdict -> (packets, bytes): of the engine, and what never came to it."""
    verdicts = {**dict.fromkeys(offloaded, (0, 0)), **engine.counters()}
    for name, (packets, size) in offloaded.items():
        verdicts[name] = (verdicts[name][0] + packets, verdicts[name][1] + size)
    return verdicts


class StageCost(NamedTuple):
    """One stage of one worker."""

    worker: str
    stage: str
    calls: int
    packets: int
    ns_per_packet: float


def stage_costs(engine: Engine) -> list[StageCost]:
    """Stages of every worker; the control thread's only if it had packets."""
    costs = [
        StageCost(
            str(worker) if worker < engine.workers else CONTROL_THREAD,
            stage,
            int(cost["calls"]),
            int(cost["packets"]),
            cost["ns_per_packet"],
        )
        for worker, stages in enumerate(engine.worker_stages())
        for stage, cost in stages.items()
    ]
    return [cost for cost in costs if cost.worker != CONTROL_THREAD or cost.calls]


def stage_rows(engine: Engine) -> list[dict[str, object]]:
    """Rows of ``show runtime``."""
    return [
        {
            "worker": cost.worker,
            "stage": cost.stage,
            "calls": cost.calls,
            "packets": cost.packets,
            "packets_per_call": cost.packets / cost.calls if cost.calls else 0.0,
            "ns_per_packet": round(cost.ns_per_packet, 2),
        }
        for cost in stage_costs(engine)
    ]


def engine_facts(engine: Engine) -> dict[str, object]:
    """Summary of ``show runtime``: the loops in use, and a line for each worker."""
    facts: dict[str, object] = {"loops": engine.loops()}
    for number, worker in enumerate(engine.worker_status()):
        line = f"{worker['state']}, {worker['batches']} batches, {worker['sleeps']} sleeps"
        if worker["error"]:
            line += f", {worker['descriptor']}: {worker['error']}"
        facts[f"worker_{number}"] = line
    return facts
