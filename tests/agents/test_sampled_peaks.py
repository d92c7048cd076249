"""The busiest minute of a counter."""

from __future__ import annotations

from fastmip.agents.effects import Now
from fastmip.agents.peaks import Peak, SampledPeaks

SECOND = 1_000_000_000
WALL = 1_790_000_000 * SECOND


def at(seconds: int) -> Now:
    return Now(seconds * SECOND, WALL + seconds * SECOND)


def test_the_busiest_minute_and_when_it_began() -> None:
    peaks = SampledPeaks()
    total = 0
    for second in range(1, 240):
        total += 5 if 70 <= second < 100 else 1
        peaks.look({"denied": total, "quiet": 0}, at(second))
    # Minutes begin at 1, 61, 121: the second one saw 30 seconds of five and 30 of one.
    found = peaks.get("denied")
    assert found is not None
    assert found.wall_ns == at(61).wall_ns
    assert found.most == 30 * 5 + 30
    assert peaks.get("quiet") is None
    assert peaks.get("unknown") is None


def test_the_minute_that_runs_counts_and_a_late_look_loses_nothing() -> None:
    peaks = SampledPeaks()
    peaks.look({"denied": 7}, at(100))
    assert peaks.get("denied") == Peak(7, at(100).wall_ns)
    peaks.look({"denied": 9}, at(101))
    assert peaks.get("denied") == Peak(9, at(100).wall_ns)
    peaks.look({"denied": 59}, at(500))
    assert peaks.get("denied") == Peak(59, at(100).wall_ns)


def test_what_is_cleared_is_forgotten() -> None:
    peaks = SampledPeaks()
    peaks.look({"denied": 0}, at(1))
    peaks.look({"denied": 4}, at(2))
    peaks.clear({"denied": 4})
    peaks.look({"denied": 4}, at(3))
    assert peaks.get("denied") is None
    peaks.look({"denied": 5}, at(4))
    assert peaks.get("denied") == Peak(1, at(3).wall_ns)
