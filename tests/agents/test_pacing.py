"""Time-outs, pauses and the limit of one request a second on average."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastmip.agents.pacing import BURST, RequestPacer, back_off_ns, next_timeout_ns

SECOND = 10**9


def timeouts(lifetime_s: int, count: int) -> list[int]:
    found = [next_timeout_ns(0, lifetime_s)]
    while len(found) < count:
        found.append(next_timeout_ns(found[-1], lifetime_s))
    return [timeout // SECOND for timeout in found]


def test_timeouts_double_up_to_the_limit_rfc5944_3_6_3() -> None:
    assert timeouts(300, 8) == [1, 2, 4, 8, 16, 32, 32, 32]
    assert timeouts(0, 4) == [1, 2, 4, 8], "a deregistration has no lifetime to exceed"
    assert timeouts(0xFFFF, 7)[-1] == 32


def test_timeouts_end_at_the_lifetime_but_not_below_a_second_rfc5944_3_6_3() -> None:
    assert timeouts(5, 5) == [1, 2, 4, 5, 5]
    assert timeouts(1, 3) == [1, 1, 1]


def test_back_off_doubles_to_about_a_minute() -> None:
    assert [back_off_ns(n) // SECOND for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 64, 64]
    assert back_off_ns(10_000) == 64 * SECOND


def test_the_first_request_may_go_at_once() -> None:
    assert RequestPacer().earliest_ns(moved=False) == 0


def test_without_a_move_a_second_lies_between_requests_rfc5944_3_6_3() -> None:
    pacer = RequestPacer()
    pacer.sent(100 * SECOND)
    assert pacer.earliest_ns(moved=False) == 101 * SECOND
    assert pacer.earliest_ns(moved=True) <= 100 * SECOND


@given(
    st.lists(
        st.tuples(st.integers(0, 5 * SECOND), st.booleans()),
        min_size=1,
        max_size=80,
    )
)
def test_one_a_second_on_average_whatever_happens_rfc5944_2_4_2(
    steps: list[tuple[int, bool]],
) -> None:
    pacer = RequestPacer()
    now = 50 * SECOND
    sent: list[int] = []
    for wait, moved in steps:
        now = max(now + wait, pacer.earliest_ns(moved=moved))
        pacer.sent(now)
        sent.append(now)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            assert last - first + 1 <= BURST + (sent[last] - sent[first]) / SECOND
