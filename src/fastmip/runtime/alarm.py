"""Wakes whoever drives a sans-I/O agent when the agent has something to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastmip.agents.effects import Now
from fastmip.runtime import clock

LONGEST_SLEEP_S = 1.0
"""The loop's clock stands still while the machine is suspended, CLOCK_BOOTTIME does not."""


class Alarm:
    """``ring(now)`` is called when ``next_deadline()``, CLOCK_BOOTTIME nanoseconds, is past.

    Call ``set`` whenever the deadline may have come nearer; without one nothing wakes at all.
    """

    __slots__ = ("_handle", "_next_deadline", "_now", "_ring")

    def __init__(
        self,
        next_deadline: Callable[[], int | None],
        ring: Callable[[Now], None],
        now: Callable[[], Now] = clock.now,
    ) -> None:
        self._next_deadline = next_deadline
        self._ring = ring
        self._now = now
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        """Whether it will wake by itself."""
        return self._handle is not None

    def set(self) -> None:
        """Look at the deadline afresh."""
        self.stop()
        deadline = self._next_deadline()
        if deadline is None:
            return
        delay_s = min(max(0.0, (deadline - self._now().boot_ns) / 1e9), LONGEST_SLEEP_S)
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._handle = None
        now = self._now()
        deadline = self._next_deadline()
        if deadline is not None and deadline <= now.boot_ns:
            self._ring(now)
        if self._handle is None:
            self.set()

    def stop(self) -> None:
        """Wake nobody more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
