"""The clocks of this machine; everything below ``runtime`` gets them handed in."""

from __future__ import annotations

import time
from pathlib import Path

from fastmip.agents.effects import Now

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now() -> Now:
    """Both clocks: CLOCK_BOOTTIME for lifetimes, wall time for Identification."""
    return Now(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())


def boot_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds: goes on during suspend, never steps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The kernel's random name of this boot; CLOCK_BOOTTIME values of another are void."""
    return _BOOT_ID.read_text(encoding="ascii").strip()
