"""Heartbeats: who stands still, and who only seems to."""

from __future__ import annotations

from fastmip.runtime.watchdog import Heartbeats, Standing

KEY = ("home-agent", 0)
OTHER = ("home-agent", 1)


def test_a_worker_that_stands_still_is_named() -> None:
    hearts = Heartbeats(longest_step_s=4)
    standings = [hearts.look(float(second), {KEY: second, OTHER: 7}) for second in range(5)]
    assert standings[-1] == Standing("home-agent", 1, 4.0)


def test_a_beat_is_enough() -> None:
    hearts = Heartbeats(longest_step_s=4)
    for second in range(10):
        hearts.look(float(second), {KEY: 1})
    standing = hearts.look(10.0, {KEY: 2})
    assert standing is not None
    assert standing.seconds == 0


def test_a_stop_of_the_whole_process_blames_nobody() -> None:
    hearts = Heartbeats(longest_step_s=4)
    hearts.look(0.0, {KEY: 1})
    standing = hearts.look(1000.0, {KEY: 1})
    assert standing is not None
    assert standing.seconds == 4


def test_a_worker_of_a_role_that_went_is_forgotten() -> None:
    hearts = Heartbeats(longest_step_s=4)
    hearts.look(0.0, {KEY: 1})
    assert hearts.look(3.0, {}) is None
    standing = hearts.look(4.0, {KEY: 1})
    assert standing is not None
    assert standing.seconds == 0
