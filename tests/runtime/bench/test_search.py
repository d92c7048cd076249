"""The search for the highest loss-free rate, against simulated devices."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.runtime.bench.search import Device, Search, Trial, loss_free

UPPER = 1_000_000.0


def device(capacity: float, disturbed: Callable[[], bool] = lambda: False) -> Device:
    """Forwards so many packets a second and loses the rest; sometimes others are in the way."""

    def offer(rate: float) -> Trial:
        sent = round(rate)
        received = min(sent, int(capacity))
        return Trial(rate, sent, received - 1 if disturbed() and received else received, 1.0)

    return offer


@given(capacity=st.floats(100, 2 * UPPER), resolution=st.sampled_from([0.1, 0.02, 0.005]))
def test_the_rate_found_passes_and_a_little_more_would_not(
    capacity: float, resolution: float
) -> None:
    found = loss_free(device(capacity), UPPER, Search(resolution=resolution))
    assert found.rate <= capacity + 1
    assert found.rate >= min(capacity, UPPER) * (1 - resolution) - 2


def test_a_rate_that_passes_at_once_is_not_searched_below() -> None:
    found = loss_free(device(2 * UPPER), UPPER)
    assert found.rate == UPPER
    assert len(found.trials) == 1


def test_a_device_that_forwards_nothing_ends_the_search_with_nothing() -> None:
    found = loss_free(device(0), UPPER)
    assert found.rate == 0
    assert len(found.trials) < 100


def test_a_generator_that_sends_nothing_is_no_pass() -> None:
    assert loss_free(lambda rate: Trial(rate, 0, 0, 1.0), UPPER).rate == 0


def test_one_disturbed_trial_does_not_fail_a_rate() -> None:
    dice = random.Random(1)  # noqa: S311 - repeatable
    noisy = device(300_000, lambda: dice.random() < 0.2)
    once = [loss_free(noisy, UPPER, Search(trials=1)).rate for _ in range(20)]
    thrice = [loss_free(noisy, UPPER, Search(trials=3)).rate for _ in range(20)]
    assert sum(thrice) > sum(once)
    assert max(thrice) <= 300_000


def test_what_counts_is_the_rate_really_offered() -> None:
    def slow(rate: float) -> Trial:
        return Trial(rate, round(min(rate, 50_000)), round(min(rate, 50_000)), 1.0)

    assert loss_free(slow, UPPER).rate == 50_000


@pytest.mark.parametrize(("tolerated", "expected"), [(0.0, 100_000), (0.5, 200_000)])
def test_loss_may_be_tolerated(tolerated: float, expected: float) -> None:
    found = loss_free(device(100_000), UPPER, Search(resolution=0.01, tolerated=tolerated))
    assert found.rate == pytest.approx(expected, rel=0.02)


def test_a_trial_knows_its_loss() -> None:
    assert Trial(10, 100, 75, 1.0).loss == 0.25
    assert Trial(10, 100, 101, 1.0).loss == 0
    assert Trial(10, 0, 0, 1.0).loss == 1
