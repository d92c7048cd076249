"""Network access identifiers: the grammar and examples of RFC 4282, and what carries them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.wire.extensions import RawExtension
from fastmip.wire.nai import MAX_NAI_LEN, MobileNodeNai, NaiCarrying, check_nai
from fastmip.wire.registry import CONTROL_EXTENSIONS

LETTER_OR_DIGIT = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
VALID = [
    *(b"bob", b"joe@example.com", b"fred@foo-9.example.com", b"jack@3rd.depts.example.com"),
    *(b"fred.smith@example.com", b"fred_smith@example.com", b"fred$@example.com"),
    *(b"fred=?#$&*+-/^smith@example.com", b"nancy@eng.example.net", b"@privatecorp.example.net"),
    *(b"eng.example.net!nancy@example.net", b"eng%nancy@example.net"),
    *(rb"\(user\)@example.net", b"alice@xn--tmonesimerkki-bfbb.example.net"),
    *("j\u00fcrgen@example.com".encode(), b"\\\0@example.com", b"\\\n@example.com"),
]
INVALID = [
    *(b"fred@example", b"fred@example_9.com", b"fred@example.net@example.net"),
    *(b"fred.@example.net", b"eng:nancy@example.net", b"eng;nancy@example.net"),
    *(b"(user)@example.net", b"<nancy>@example.net"),
    *(b"", b"@", b"fred@", b".fred@example.com", b"fr..ed@example.com", b"fred@.example.com"),
    *(b"fred@example.com.", b"fred@-a.example.com", b"fred@a-.example.com", b"fr ed@example.com"),
    *(b"fred\\", b"fred\0", b"fred\x7f", b"\xff@example.com", b"\xc3@example.com", b"fred\n"),
    "fred@ex\u00e4mple.com".encode(),
]


@pytest.mark.parametrize("nai", VALID)
def test_valid_identifiers_rfc4282_2_8(nai: bytes) -> None:
    assert check_nai(nai)


@pytest.mark.parametrize("nai", INVALID)
def test_invalid_identifiers_rfc4282_2_8(nai: bytes) -> None:
    assert not check_nai(nai)


def test_253_bytes_are_supported_and_no_more_rfc4282_2_2() -> None:
    longest = b"a" * (MAX_NAI_LEN - 12) + b"@example.com"
    assert len(longest) == 253
    assert check_nai(longest)
    assert not check_nai(b"a" + longest)


def obvious(text: str) -> bool:
    """The grammar of RFC 4282 2.1 read off letter by letter, for ASCII."""
    at = -1
    position, dotted = 0, True  # dotted: a string must start here
    while position < len(text) and text[position] != "@":
        if text[position] == ".":
            if dotted:
                return False
            dotted = True
        elif text[position] == "\\":
            position += 1
            if position == len(text):
                return False
            dotted = False
        elif text[position] in ' "(),:;<>[]' or not " " < text[position] < "\x7f":
            return False
        else:
            dotted = False
        position += 1
    at = position
    if at == len(text):
        return at > 0 and not dotted
    if at > 0 and dotted:
        return False
    labels = text[at + 1 :].split(".")
    if len(labels) < 2:
        return False
    for label in labels:
        if not label or set(label) - set(LETTER_OR_DIGIT) - {"-"} or "-" in (label[0], label[-1]):
            return False
    return True


@given(st.text(st.sampled_from("ab9-._@\\!(\0 "), max_size=14))
def test_the_grammar_is_that_of_rfc4282_2_1(text: str) -> None:
    assert check_nai(text.encode()) is obvious(text)


@given(st.binary(max_size=300))
def test_any_bytes_get_a_verdict(nai: bytes) -> None:
    assert check_nai(nai) in (True, False)


def test_an_identity_of_another_kind_is_skipped_rfc3846_3() -> None:
    wire = bytes.fromhex("8806 04 6140622e63")
    (kept,), malformed = CONTROL_EXTENSIONS.decode(wire, 0)
    assert kept == RawExtension(136, data=wire[2:])
    assert not malformed


def test_what_is_no_identifier_is_carried_and_left_to_the_caller() -> None:
    (kept,), malformed = CONTROL_EXTENSIONS.decode(bytes.fromhex("8301ff"), 0)
    assert kept == MobileNodeNai(b"\xff")
    assert not malformed
    (kept,), _ = CONTROL_EXTENSIONS.decode(bytes.fromhex("880101"), 0)
    assert kept == NaiCarrying(1, b"")
