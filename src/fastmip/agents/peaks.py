"""Most in a minute, and when: of a counter that grows, by the clock that is passed in."""

from __future__ import annotations

from typing import NamedTuple

from fastmip.agents.effects import Now

_MINUTE_NS = 60_000_000_000


class Peak(NamedTuple):
    """The fullest minute so far."""

    most: int
    wall_ns: int
    """Unix time at which that minute began."""


class MinutePeaks:
    """Peaks of many counters; memory grows with their number alone."""

    __slots__ = ("_current", "_peaks")

    def __init__(self) -> None:
        self._current: dict[str, tuple[int, int, int]] = {}
        self._peaks: dict[str, Peak] = {}

    def note(self, name: str, now: Now) -> None:
        """Count one more."""
        minute = now.boot_ns // _MINUTE_NS
        began, wall_ns, count = self._current.get(name, (-1, 0, 0))
        if began != minute:
            began, wall_ns, count = minute, now.wall_ns, 0
        count += 1
        self._current[name] = (began, wall_ns, count)
        best = self._peaks.get(name)
        if best is None or count > best.most:
            self._peaks[name] = Peak(count, wall_ns)

    def get(self, name: str) -> Peak | None:
        """The peak of a counter, None when it never grew."""
        return self._peaks.get(name)
