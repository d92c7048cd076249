"""Latencies in buckets: nothing falls between them, percentiles are right to 3 %."""

from __future__ import annotations

import bisect
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.runtime.bench.latency import Latencies, bucket_bounds_ns
from fastmip.runtime.bench.traffic import BUCKETS

STARTS = [bucket_bounds_ns(number)[0] for number in range(BUCKETS)]


def bucket(ns: int) -> int:
    """By the definition."""
    return bisect.bisect_right(STARTS, ns) - 1


def test_buckets_follow_each_other_without_a_gap() -> None:
    for number in range(BUCKETS - 1):
        assert bucket_bounds_ns(number)[1] == bucket_bounds_ns(number + 1)[0]
    assert bucket_bounds_ns(0)[0] == 0
    assert bucket_bounds_ns(BUCKETS - 1)[1] > 60_000_000_000


@given(st.integers(0, 60_000_000_000))
def test_a_bucket_is_narrow(ns: int) -> None:
    low, high = bucket_bounds_ns(bucket(ns))
    assert high - low <= max(1, ns / 31)


def test_percentiles_are_those_of_the_sorted_list() -> None:
    dice = random.Random(7)  # noqa: S311 - repeatable
    times = sorted(int(dice.lognormvariate(9, 1.5)) for _ in range(5000))
    counts = [0] * BUCKETS
    for ns in times:
        counts[bucket(ns)] += 1
    latencies = Latencies(counts)
    for share in (0.5, 0.9, 0.99, 0.999):
        exact_us = times[round(share * len(times)) - 1] / 1000
        assert latencies.percentile_us(share) == pytest.approx(exact_us, rel=0.04)
    assert latencies.packets == 5000
    assert list(latencies.curve())[-1][1] == 0


def test_without_packets_there_is_no_percentile() -> None:
    assert Latencies([0] * BUCKETS).figures() == {"p50_us": None, "p99_us": None, "p99_9_us": None}
    assert list(Latencies([0] * BUCKETS).curve()) == []
