"""Most in a minute, and when: of a counter that grows, by the clock that is passed in."""

from __future__ import annotations

from collections.abc import Mapping
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


class SampledPeaks:
    """The same for counters that somebody else counts: looked at about once a second.

    Costs nothing where they are counted. Minutes begin with the first look, and counters at
    zero. The minute that runs counts too, so that a storm shows while it blows.
    """

    __slots__ = ("_base", "_began", "_peaks")

    def __init__(self) -> None:
        self._base: dict[str, int] = {}
        self._began: Now | None = None
        self._peaks: dict[str, Peak] = {}

    def look(self, counters: Mapping[str, int], now: Now) -> None:
        """Take note of the counters."""
        if self._began is None:
            self._began = now
        for name, value in counters.items():
            grown = value - self._base.get(name, 0)
            if grown > 0 and (name not in self._peaks or grown > self._peaks[name].most):
                self._peaks[name] = Peak(grown, self._began.wall_ns)
        if now.boot_ns - self._began.boot_ns >= _MINUTE_NS:
            self._base, self._began = dict(counters), now

    def get(self, name: str) -> Peak | None:
        """The peak of a counter, None when it never grew."""
        return self._peaks.get(name)

    def clear(self, counters: Mapping[str, int]) -> None:
        """Forget all of them; a minute begins with the next look, from these counters."""
        self._peaks.clear()
        self._base, self._began = dict(counters), None
