"""Timestamps of revocations: order modulo 2**32, and what is too old (RFC 3543 3.5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.auth.freshness import Freshness
from fastmip.auth.revocation_time import (
    check_revocation,
    revocation_timestamp,
    timestamp_difference,
)

U32 = st.integers(0, 2**32 - 1)


def test_ours_are_seconds_since_1900() -> None:
    assert revocation_timestamp(0) == 2208988800
    assert revocation_timestamp(1_999_999_999) == 2208988801
    # 7 February 2036, 06:28:16 UTC: the first second of the next era.
    assert revocation_timestamp((2**32 - 2208988800) * 10**9) == 0


@given(U32, st.integers(-(2**31) + 1, 2**31 - 1))
def test_differences_are_those_of_serial_numbers(left: int, step: int) -> None:
    right = (left - step) % 2**32
    assert timestamp_difference(left, right) == step


@given(U32, st.integers(1, 2**30))
def test_a_registration_must_precede_the_revocation_rfc3543_4_3(registered: int, age: int) -> None:
    assert check_revocation((registered + age) % 2**32, registered) is Freshness.FRESH
    assert check_revocation(registered, registered) is Freshness.NOT_NEWER
    assert check_revocation((registered - age) % 2**32, registered) is Freshness.NOT_NEWER


@pytest.mark.parametrize("base", [0, 1000, 2**32 - 2])
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, Freshness.FRESH),
        (0, Freshness.REPEATED),
        (-1, Freshness.FRESH),
        (-7, Freshness.FRESH),
        (-8, Freshness.NOT_NEWER),
    ],
)
def test_overtaken_revocations_are_good_within_the_window(
    base: int, step: int, expected: Freshness
) -> None:
    registered = (base - 100) % 2**32
    identifier = (base + step) % 2**32
    assert check_revocation(identifier, registered, base) is expected
    if step < 0:
        assert check_revocation(identifier, registered, base, 0) is Freshness.NOT_NEWER
