"""The reader never passes its end, whatever is asked of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.errors import WireError
from fastmip.wire.cursor import Cursor, Truncated

WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


@given(st.binary(min_size=15, max_size=40))
def test_fields_are_big_endian_and_in_order(data: bytes) -> None:
    cursor = Cursor(data)
    assert cursor.u8() == data[0]
    assert cursor.u16() == int.from_bytes(data[1:3], "big")
    assert cursor.u32() == int.from_bytes(data[3:7], "big")
    assert cursor.u64() == int.from_bytes(data[7:15], "big")
    assert cursor.remaining == len(data) - 15
    assert cursor.rest() == data[15:]
    assert cursor.remaining == 0
    assert cursor.rest() == b""


@pytest.mark.parametrize(("name", "width"), WIDTHS.items())
def test_a_field_one_byte_short_raises_and_moves_nothing(name: str, width: int) -> None:
    data = bytes(range(30))
    cursor = Cursor(data, 3, 3 + width - 1)
    with pytest.raises(Truncated, match=f"{width} bytes needed at offset 3"):
        getattr(cursor, name)()
    assert cursor.offset == 3
    assert Cursor(data, 3, 3 + width).end == 3 + width


def test_restricted_cursor_ends_where_it_was_told_though_data_goes_on() -> None:
    cursor = Cursor(b"abcdefgh", 1)
    inner = cursor.restrict_to(3)
    assert cursor.offset == 4
    assert inner.take(3) == b"bcd"
    with pytest.raises(Truncated):
        inner.u8()
    assert cursor.rest() == b"efgh"
    with pytest.raises(Truncated):
        cursor.restrict_to(1)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(WireError):
        Cursor(b"abc", 2).take(-1)


@pytest.mark.parametrize(("offset", "end"), [(4, None), (0, 4), (-1, 2), (2, 1)])
def test_bounds_outside_the_data_are_refused(offset: int, end: int | None) -> None:
    with pytest.raises(WireError):
        Cursor(b"abc", offset, end)


@given(st.binary(max_size=20), st.lists(st.sampled_from([*WIDTHS, "take", "rest"]), max_size=12))
def test_reads_consume_the_data_exactly_or_raise(data: bytes, reads: list[str]) -> None:
    cursor = Cursor(data)
    consumed = 0
    for name in reads:
        before = cursor.offset
        try:
            if name == "take":
                consumed += len(cursor.take(3))
            elif name == "rest":
                consumed += len(cursor.rest())
            else:
                getattr(cursor, name)()
                consumed += WIDTHS[name]
        except Truncated:
            assert cursor.offset == before
        assert cursor.offset == consumed <= len(data)
