"""Rate limits against a slow model; memory follows the limit, not the traffic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastmip.agents.throttle import Allowance, DenialThrottle, NodeRates

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


def test_each_node_has_its_rate_and_a_flood_of_names_stays_bounded() -> None:
    rates = NodeRates()
    assert [rates.allow(b"one", SECOND, 2) for _ in range(4)] == [True, True, False, False]
    assert rates.allow(b"two", SECOND, 2)
    assert rates.allow(b"one", 2 * SECOND, 2), "the next second"
    for number in range(10_000):
        rates.allow(number.to_bytes(6, "big"), 2 * SECOND, 2)
    assert len(rates) == NodeRates.MOST_NODES
    assert rates.allow(bytes(6), 3 * SECOND, 2)
    assert len(rates) == 1
