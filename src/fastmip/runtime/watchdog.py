"""Do the workers move? Their heartbeats, looked at again and again.

A worker beats at least every 400 ms. One that stands still will never move again: the process
aborts, and the service manager starts another. Time counts only as far as we ourselves were
awake: after a stop of the whole process (SIGSTOP, a suspended machine) nobody is blamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

WorkerKey = tuple[str, int]
"""Role and number of a worker."""


class Standing(NamedTuple):
    """The worker that has stood still longest."""

    role: str
    worker: int
    seconds: float


class Heartbeats:
    """Remembers when each worker last moved."""

    def __init__(self, longest_step_s: float) -> None:
        """Take the longest time between two looks that counts whole."""
        self._longest_step_s = longest_step_s
        self._looked_at: float | None = None
        self._known: dict[WorkerKey, tuple[int, float]] = {}
        """Latest beat, and for how long it has been the same."""

    def look(self, now_s: float, beats: Mapping[WorkerKey, int]) -> Standing | None:
        """Take note of the beats of this moment; None without workers."""
        step_s = 0.0
        if self._looked_at is not None:
            step_s = min(now_s - self._looked_at, self._longest_step_s)
        self._looked_at = now_s
        known = {}
        for key, beat in beats.items():
            before = self._known.get(key)
            still_s = before[1] + step_s if before is not None and before[0] == beat else 0.0
            known[key] = (beat, still_s)
        self._known = known
        if not known:
            return None
        (role, worker), (_, seconds) = max(known.items(), key=lambda item: item[1][1])
        return Standing(role, worker, seconds)
