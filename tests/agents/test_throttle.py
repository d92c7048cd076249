"""Rate limits against a slow model; memory follows the limit, not the traffic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastmip.agents.throttle import Allowance, DenialThrottle

SECOND = 1_000_000_000


@given(
    st.lists(st.tuples(st.integers(0, 700_000_000), st.integers(0, 5)), max_size=80),
    st.integers(1, 4),
)
def test_denials_follow_a_sliding_second(steps: list[tuple[int, int]], cap: int) -> None:
    throttle = DenialThrottle()
    now = SECOND
    sent: list[tuple[int, int]] = []
    for passed, address in steps:
        now += passed
        recent = [(at, who) for at, who in sent if at > now - SECOND]
        expected = len(recent) < cap and address not in [who for _, who in recent]
        assert throttle.allow(address, now, cap) == expected
        if expected:
            sent.append((now, address))


def test_memory_is_bounded_by_the_cap() -> None:
    throttle = DenialThrottle()
    for address in range(10_000):
        throttle.allow(address, SECOND + address * 1000, 50)
        assert len(throttle) <= 50


def test_allowance_gives_its_rate_and_no_burst_beyond_a_second() -> None:
    allowance = Allowance()
    assert sum(allowance.spend(0, 10) for _ in range(100)) == 10
    assert sum(allowance.spend(SECOND // 2, 10) for _ in range(100)) == 5
    assert sum(allowance.spend(100 * SECOND, 10) for _ in range(100)) == 10


def test_allowance_of_zero_gives_nothing() -> None:
    allowance = Allowance()
    assert not any(allowance.spend(second * SECOND, 0) for second in range(5))


def test_a_clock_that_stands_still_gains_nothing() -> None:
    allowance = Allowance()
    assert allowance.spend(SECOND, 1)
    assert not allowance.spend(SECOND, 1)
    assert not allowance.spend(0, 1)
