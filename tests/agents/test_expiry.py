"""The timing wheel against a slow model."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastmip.agents.effects import NEVER
from fastmip.agents.expiry import ExpiryWheel, second_of

SECOND = 1_000_000_000


def test_second_is_the_first_at_which_the_expiry_has_passed() -> None:
    assert second_of(5 * SECOND) == 5
    assert second_of(5 * SECOND + 1) == 6
    assert second_of(0) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 2**32 - 1)), max_size=60))
def test_every_hint_comes_due_exactly_at_its_second(hints: list[tuple[int, int]]) -> None:
    wheel = ExpiryWheel()
    for second, address in hints:
        wheel.add(second, address)
    assert len(wheel) == len(hints)
    for now in range(52):
        expected = sorted({address for second, address in hints if second == now})
        assert sorted(wheel.due(now, 1000)) == expected
    assert wheel.next_second() is None
    assert len(wheel) == 0


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**32 - 1)), max_size=60),
    st.integers(1, 7),
)
def test_bounded_taking_loses_nothing(hints: list[tuple[int, int]], at_most: int) -> None:
    wheel = ExpiryWheel()
    for second, address in hints:
        wheel.add(second, address)
    taken: list[int] = []
    for _ in range(200):
        part = list(wheel.due(5, at_most))
        assert len(part) <= at_most
        taken += part
        if not part:
            break
    assert set(taken) == {address for _, address in hints}
    assert wheel.next_second() is None


@given(
    st.lists(st.tuples(st.integers(0, 30 * SECOND), st.integers(0, 2**32 - 1)), max_size=40),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2**32 - 1)), max_size=10),
)
def test_bulk_and_single_hints_mix(
    restored: list[tuple[int, int]], single: list[tuple[int, int]]
) -> None:
    wheel = ExpiryWheel()
    for second, address in single:
        wheel.add(second, address)
    for part in (restored[:7], restored[7:]):
        wheel.add_many(
            np.array([address for _, address in part], dtype=np.uint32),
            np.array([expiry for expiry, _ in part], dtype=np.uint64),
        )
    expected = single + [(second_of(expiry), address) for expiry, address in restored]
    for now in range(31):
        assert set(wheel.due(now, 1000)) == {a for second, a in expected if second == now}
    assert wheel.next_second() is None


def test_infinite_bindings_are_not_in_the_wheel() -> None:
    wheel = ExpiryWheel()
    wheel.add_many(np.array([1], dtype=np.uint32), np.array([NEVER], dtype=np.uint64))
    assert wheel.next_second() is None


def test_hints_may_be_added_while_others_are_taken() -> None:
    wheel = ExpiryWheel()
    wheel.add(1, 10)
    wheel.add(2, 20)
    seen = []
    for address in wheel.due(2, 100):
        seen.append(address)
        wheel.add(3, address)
    assert seen == [10, 20]
    assert sorted(wheel.due(3, 100)) == [10, 20]
