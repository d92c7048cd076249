"""Framing, pads, the skippable rule and the registry (RFC 5944 1.8-1.11, 6.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.errors import WireError
from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import (
    MAX_EXTENSIONS,
    NOT_ON_WIRE,
    Entry,
    Extension,
    ExtensionRegistry,
    Framing,
    Padding,
    RawExtension,
    UnknownExtension,
    frame_long,
    frame_short,
    frame_simple,
)


@dataclass(frozen=True, slots=True)
class Word(Extension):
    """A made-up extension of one 16-bit word, to try every framing with."""

    word: int = 0

    @classmethod
    def decode(cls, type_: int, body: Cursor) -> Word:
        return cls(type_, word=body.u16())


SIMPLE, SHORT, SKIPPABLE_SHORT, LONG, LONG_ANY = 5, 6, 200, 7, 8
REGISTRY = ExtensionRegistry(
    [
        Entry(SIMPLE, Word.decode),
        Entry(SHORT, Word.decode, Framing.SHORT, subtype=1),
        Entry(SKIPPABLE_SHORT, Word.decode, Framing.SHORT, subtype=1),
        Entry(LONG, Word.decode, Framing.LONG, subtype=1),
        Entry(LONG_ANY, Word.decode, Framing.LONG),
    ]
)
EMPTY = ExtensionRegistry([])
GOOD = bytes.fromhex("0502beef")


@pytest.mark.parametrize(
    ("wire", "type_"),
    [
        ("0502beef", SIMPLE),  # RFC 5944 1.9: type, length, data
        ("060301beef", SHORT),  # RFC 5944 1.11: the length counts the subtype
        ("c80301beef", SKIPPABLE_SHORT),
        ("07010002beef", LONG),  # RFC 5944 1.10: subtype, then a 16-bit length of the data
        ("08630002beef", LONG_ANY),
    ],
)
def test_each_framing_yields_exactly_its_data(wire: str, type_: int) -> None:
    data = bytes.fromhex("ffff" + wire + "0502cafe")
    (first, second), malformed = REGISTRY.decode(data, 2)
    assert first == Word(type_, word=0xBEEF)
    assert (first.offset, first.raw) == (2, bytes.fromhex(wire))
    assert first.encode() == first.raw
    assert second == Word(SIMPLE, word=0xCAFE)
    assert second.offset == 2 + len(wire) // 2
    assert not malformed


def test_unknown_below_128_drops_the_message_rfc5944_1_8() -> None:
    for type_ in range(1, 128):
        with pytest.raises(UnknownExtension) as caught:
            EMPTY.decode(b"\xff\xff\x00" + bytes((type_, 0)), 2)
        assert (caught.value.type, caught.value.offset) == (type_, 3)
        assert isinstance(caught.value, WireError)


def test_unknown_from_128_is_skipped_and_kept_byte_for_byte_rfc5944_1_8() -> None:
    for type_ in set(range(128, 256)) - {SKIPPABLE_SHORT}:
        unknown = bytes((type_, 3)) + b"abc"
        (kept, next_), malformed = REGISTRY.decode(unknown + GOOD, 0)
        assert kept == RawExtension(type_, data=b"abc")
        assert (kept.offset, kept.raw, kept.encode()) == (0, unknown, unknown)
        assert next_ == Word(SIMPLE, word=0xBEEF)
        assert not malformed


def test_unknown_subtype_follows_the_rule_of_its_type_rfc5944_1_8() -> None:
    for wire in ("060302beef", "07020002beef"):
        with pytest.raises(UnknownExtension):
            REGISTRY.decode(bytes.fromhex(wire), 0)
    (kept,), malformed = REGISTRY.decode(bytes.fromhex("c80302beef"), 0)
    assert kept == RawExtension(SKIPPABLE_SHORT, data=bytes.fromhex("02beef"))
    assert not malformed


@pytest.mark.parametrize(
    "tail",
    [
        *("05", "0502", "0502be", "05ff", "06", "0603", "060301be", "c8", "c803"),
        *("07", "0701", "070100", "07010002", "07010002be", "0701ffffbeef", "99", "9901"),
    ],
)
def test_a_length_past_the_end_is_malformed_and_keeps_what_was_good(tail: str) -> None:
    (good,), malformed = REGISTRY.decode(GOOD + bytes.fromhex(tail), 0)
    assert good == Word(SIMPLE, word=0xBEEF)
    assert malformed


@pytest.mark.parametrize(
    "body",
    [
        *("0500", "0501be", "0503beefaa", "0600", "060101", "060401beefaa", "c800"),
        *("07010000", "07010003beefaa"),
    ],
)
def test_an_unreadable_body_is_malformed_but_the_walk_goes_on(body: str) -> None:
    raw = bytes.fromhex(body)
    (bad, good), malformed = REGISTRY.decode(raw + GOOD, 0)
    assert malformed
    assert isinstance(bad, RawExtension)
    assert (bad.type, bad.offset, bad.encode()) == (raw[0], 0, raw)
    assert good == Word(SIMPLE, word=0xBEEF)


def test_an_early_malformed_length_wins_over_a_later_unknown_type() -> None:
    # Nobody can know that the bytes behind a broken length are an extension.
    decoded = REGISTRY.decode(bytes.fromhex("05200100"), 0)
    assert decoded == ((), True)


@pytest.mark.parametrize("count", [1, 2, 5000, 65000])
def test_a_run_of_pads_is_one_item_of_one_byte_each_rfc5944_6_3(count: int) -> None:
    (before, pads, after), malformed = REGISTRY.decode(GOOD + bytes(count) + GOOD, 0)
    assert pads == Padding(count=count)
    assert (pads.type, pads.offset, pads.encode()) == (0, 4, bytes(count))
    assert before == after
    assert not malformed


def test_pads_may_end_a_message() -> None:
    assert EMPTY.decode(b"\0\0\0", 1) == ((Padding(count=2),), False)


def test_the_number_of_extensions_is_bounded() -> None:
    at_limit = bytes.fromhex("8000") * MAX_EXTENSIONS
    assert not EMPTY.decode(at_limit, 0).malformed
    extensions, malformed = EMPTY.decode(at_limit + b"\x80\x00", 0)
    assert len(extensions) == MAX_EXTENSIONS
    assert malformed


def test_alternating_pads_and_extensions_stay_bounded_too() -> None:
    extensions, malformed = EMPTY.decode(bytes.fromhex("008000") * 20000, 0)
    assert len(extensions) == MAX_EXTENSIONS
    assert malformed


def test_replacing_a_field_forgets_the_received_bytes() -> None:
    (received,), _ = REGISTRY.decode(bytes.fromhex("8001aa"), 0)
    assert isinstance(received, RawExtension)
    changed = replace(received, data=b"\xbb")
    assert changed.encode() == bytes.fromhex("8001bb")


def test_a_built_extension_has_no_place_on_the_wire() -> None:
    built = RawExtension(128, data=b"x")
    assert built.offset == NOT_ON_WIRE
    assert built.raw == b""


def test_the_base_class_cannot_be_built() -> None:
    with pytest.raises(NotImplementedError):
        Extension(1).encode()


def test_framing_helpers_write_what_the_decoder_reads() -> None:
    word = (0xBEEF).to_bytes(2, "big")
    wire = (
        frame_simple(SIMPLE, word)
        + frame_short(SHORT, 1, word)
        + frame_short(SKIPPABLE_SHORT, 1, word)
        + frame_long(LONG, 1, word)
    )
    extensions, malformed = REGISTRY.decode(wire, 0)
    assert [e.type for e in extensions] == [SIMPLE, SHORT, SKIPPABLE_SHORT, LONG]
    assert all(isinstance(e, Word) and e.word == 0xBEEF for e in extensions)
    assert not malformed


def test_the_long_format_carries_more_than_255_bytes_rfc5944_1_10() -> None:
    def decode(type_: int, body: Cursor) -> RawExtension:
        return RawExtension(type_, data=body.rest())

    registry = ExtensionRegistry([Entry(LONG, decode, Framing.LONG), Entry(SIMPLE, Word.decode)])
    data = bytes(range(256)) * 3
    (long, after), malformed = registry.decode(frame_long(LONG, 9, data) + GOOD, 0)
    assert long == RawExtension(LONG, data=data)
    assert after == Word(SIMPLE, word=0xBEEF)
    assert not malformed
    assert registry.decode(frame_long(LONG, 9, data)[:-1], 0) == ((), True)


def test_framing_limits_are_those_of_the_length_fields() -> None:
    assert len(frame_simple(1, bytes(255))) == 257
    assert len(frame_short(1, 1, bytes(254))) == 257
    assert len(frame_long(1, 1, bytes(65535))) == 65539
    with pytest.raises(WireError):
        frame_simple(1, bytes(256))
    with pytest.raises(WireError):
        frame_short(1, 1, bytes(255))
    with pytest.raises(WireError):
        frame_long(1, 1, bytes(65536))
    with pytest.raises(WireError, match="skippable"):
        frame_long(128, 1, b"")


def test_a_registry_refuses_entries_that_contradict_each_other() -> None:
    entry = Entry(SHORT, Word.decode, Framing.SHORT, subtype=1)
    for entries in (
        [entry, entry],
        [entry, Entry(SHORT, Word.decode)],
        [Entry(200, Word.decode, Framing.LONG)],
        [Entry(ExtensionType.PADDING, Word.decode)],
        [Entry(256, Word.decode)],
    ):
        with pytest.raises(ValueError, match="extension"):
            ExtensionRegistry(entries)


def reference_walk(data: bytes) -> tuple[list[bytes], str]:
    """Cut a message by RFC 5944 1.8-1.11 the slow and obvious way; for REGISTRY's types."""
    pieces: list[bytes] = []
    position = 0
    while position < len(data):
        left = data[position:]
        kind = left[0]
        if kind == 0:
            size = len(left) - len(left.lstrip(b"\0"))
        elif kind in (LONG, LONG_ANY):
            if len(left) < 4 or len(left) < (size := 4 + left[2] * 256 + left[3]):
                return pieces, "malformed"
            if kind == LONG and left[1] != 1:
                return pieces, "unknown"
        elif kind in (SIMPLE, SHORT) or kind >= 128:
            if len(left) < 2 or len(left) < (size := 2 + left[1]):
                return pieces, "malformed"
            if kind == SHORT and size > 2 and left[2] != 1:
                return pieces, "unknown"
        else:
            return pieces, "unknown"
        pieces.append(left[:size])
        position += size
    return pieces, "whole"


FRAGMENTS = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([bytes.fromhex(h) for h in ("0502beef", "060301beef", "c80301beef")]),
    st.sampled_from([bytes.fromhex(h) for h in ("07010002beef", "0000", "8003616263", "c800")]),
)


@given(st.lists(FRAGMENTS, max_size=8).map(b"".join))
def test_any_bytes_are_cut_as_the_obvious_walk_cuts_them(data: bytes) -> None:
    pieces, ending = reference_walk(data)
    try:
        extensions, malformed = REGISTRY.decode(data, 0)
    except UnknownExtension:
        assert ending == "unknown"
        return
    assert ending != "unknown"
    assert [e.raw for e in extensions] == pieces
    assert [e.encode() for e in extensions] == pieces
    assert [e.offset for e in extensions] == [sum(map(len, pieces[:i])) for i in range(len(pieces))]
    if ending == "malformed":
        assert malformed
