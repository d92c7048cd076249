"""Inline functions one by one, against their slow twins and published values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.build_probe import probe
from tests.reference.ipv4 import change, checksum, header, is_martian, with_checksum


def swapped(value: int) -> int:
    """A 16-bit value as it lies in memory on this machine."""
    return int.from_bytes(value.to_bytes(2, "big"), "little")


def test_the_example_of_rfc1071_3() -> None:
    assert swapped(probe().sum_of(bytes.fromhex("0001f203f4f5f6f7"))) == 0xDDF2


@given(st.binary(max_size=2000))
def test_sum_equals_the_slow_sum(data: bytes) -> None:
    assert swapped(~probe().sum_of(data) & 0xFFFF) == checksum(data)


@given(st.binary(min_size=20, max_size=20))
def test_quick_checksum_test_equals_the_sum(data: bytes) -> None:
    assert probe().is_checksum_right(data) == (probe().sum_of(data) == 0xFFFF or not any(data))


@given(st.binary(min_size=20, max_size=20))
def test_quick_checksum_test_accepts_every_right_header(data: bytes) -> None:
    right = with_checksum(data)
    assert probe().is_checksum_right(right)
    assert not probe().is_checksum_right(right[:19] + bytes([right[19] ^ 1]))


def test_the_example_of_rfc1624_4() -> None:
    assert probe().updated(0xDD2F, 0x5555, 0x3285) == 0x0000


HEADERS = st.builds(
    header,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(0, 1480),
    ttl=st.integers(1, 255),
    tos=st.integers(0, 255),
    identification=st.integers(0, 65535),
)


@given(HEADERS, st.integers(0, 255))
def test_patched_headers_equal_recomputed_ones(head: bytes, tos: int) -> None:
    assert probe().with_ttl_decremented(head) == change(head, ttl=head[8] - 1)
    assert probe().with_tos(head, tos) == change(head, tos=tos)


@given(st.integers(0, 2**32 - 1))
def test_martian_sources(address: int) -> None:
    assert probe().is_martian(address) == is_martian(address)


@pytest.mark.parametrize(
    ("total", "plateau"),
    [(65535, 32000), (1500, 1492), (1492, 1006), (576, 508), (296, 68), (68, 68), (20, 68)],
)
def test_plateaus_of_rfc1191_7_1(total: int, plateau: int) -> None:
    assert probe().plateau_below(total) == plateau
