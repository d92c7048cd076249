"""What a benchmark returns, and the machine it ran on.

A benchmark module defines ``BENCHMARKS``: a dict from a group name to a function without
arguments that returns a list of `Result`. Names are stable: scripts read them.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """One measured figure beside a reference measured in the same run."""

    name: str
    """Stable dotted name, for example ``engine.encap.64``."""
    value: float
    unit: str
    ratio: float | None
    """value / reference value, or None where nothing comparable exists."""
    reference: str
    """What the ratio is to, with its own value and unit."""
    command: str
    """How to get this figure again."""


Benchmark = Callable[[], Iterable[Result]]


def median_of_rounds(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """Medians of interleaved rounds: every round measures each candidate once, in turn.

    Interleaving makes a slow phase of a shared machine hit all candidates alike.
    """
    samples: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for kept, measure in zip(samples, measures, strict=True):
            kept.append(measure())
    return [statistics.median(kept) for kept in samples]


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model,
        "cpus": os.cpu_count() or 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "fastmip": metadata.version("fastmip"),
        "numpy": metadata.version("numpy"),
        "load_1m": f"{os.getloadavg()[0]:.2f}",
    }
