"""The highest rate a device forwards without loss, as RFC 2544 26.1 asks for: no packets here.

A trial offers a rate and says what was sent and what arrived. The search halves the interval
between the highest rate known to pass and the lowest known to fail. One bad trial may be the
machine's other users, so a rate fails only when it does so in all of its trials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Trial:
    """One burst of load: what was asked for, sent and received."""

    rate: float
    sent: int
    received: int
    seconds: float

    @property
    def loss(self) -> float:
        """Share of what was sent that did not arrive."""
        return max(0, self.sent - self.received) / self.sent if self.sent else 1.0

    @property
    def sent_pps(self) -> float:
        """What was really offered."""
        return self.sent / self.seconds

    @property
    def received_pps(self) -> float:
        """What arrived of it."""
        return self.received / self.seconds


Device = Callable[[float], Trial]
"""Offers a rate in packets per second; 0: as fast as it goes."""


@dataclass(frozen=True, slots=True)
class Search:
    """How to search."""

    trials: int = 2
    """Trials of a rate before it counts as failed."""
    resolution: float = 0.02
    """The search ends when the interval is this share of its upper end."""
    tolerated: float = 0.0
    """Share of packets that may be lost."""


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome, and everything that was tried."""

    rate: float
    """Highest rate really offered and passed; 0: none was."""
    trials: list[Trial] = field(default_factory=list)


def loss_free(device: Device, upper: float, search: Search = Search()) -> Found:
    """Search below ``upper``, a rate that is thought to be too high but may pass."""
    tried: list[Trial] = []
    best = 0.0

    def passes(rate: float) -> bool:
        nonlocal best
        for _ in range(search.trials):
            trial = device(rate)
            tried.append(trial)
            if trial.sent and trial.loss <= search.tolerated:
                best = max(best, trial.sent_pps)
                return True
        return False

    if passes(upper):
        return Found(best, tried)
    low, high = 0.0, upper
    while high - low > search.resolution * high and high > 1:
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return Found(best, tried)
