"""Offers and answers of keys for ESP: bytes by hand, round trips, and what is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.errors import WireError
from fastmip.wire.esp_keying import (
    AgainAnswer,
    Answer,
    FullAnswer,
    FullOffer,
    Offer,
    RatchetAnswer,
    RatchetOffer,
    carry_answer,
    carry_offer,
    decode_answer,
    decode_offer,
    find_answer,
    find_offer,
)
from fastmip.wire.nai import MobileNodeNai
from fastmip.wire.registration import RegistrationRequest
from fastmip.wire.vendor import CriticalVendorExtension, NormalVendorExtension

NONCE, SHARE, NAME = bytes(range(16)), bytes(range(32, 64)), b"ROOTNAME"
FULL = b"\1\1" + struct.pack("!I", 0xC0FFEE) + NONCE + SHARE
RATCHET = b"\1\2" + struct.pack("!I", 0xC0FFEE) + NONCE + NAME

spis = st.integers(256, 0xFFFFFFFF)
nonces, shares, names = (st.binary(min_size=n, max_size=n) for n in (16, 32, 8))
numbers = st.integers(0, 255)
suites = st.lists(numbers, min_size=1, max_size=16).map(tuple)
offers = st.builds(FullOffer, spis, nonces, shares, suites) | st.builds(
    RatchetOffer, spis, nonces, names
)
answers = (
    st.builds(FullAnswer, spis, nonces, shares, numbers)
    | st.builds(RatchetAnswer, spis, nonces, names)
    | st.just(AgainAnswer())
)


@pytest.mark.parametrize(
    ("offer", "value"),
    [
        (FullOffer(0xC0FFEE, NONCE, SHARE, (2, 1)), FULL + b"\2\2\1"),
        (RatchetOffer(0xC0FFEE, NONCE, NAME), RATCHET),
    ],
)
def test_offers_as_laid_out(offer: Offer, value: bytes) -> None:
    assert offer.value() == value
    assert decode_offer(value) == offer
    ids = struct.pack("!IH", 32473, 0x4501)
    critical, normal = carry_offer(offer, critical=True), carry_offer(offer, critical=False)
    assert critical.build() == struct.pack("!BBH", 38, 0, len(value) + 6) + ids + value
    assert normal.build() == struct.pack("!BBH", 134, len(value) + 8, 0) + ids + value


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (FullAnswer(0xC0FFEE, NONCE, SHARE, 1), FULL + b"\1"),
        (RatchetAnswer(0xC0FFEE, NONCE, NAME), RATCHET),
        (AgainAnswer(), b"\1\3"),
    ],
)
def test_answers_as_laid_out(answer: Answer, value: bytes) -> None:
    assert answer.value() == value
    assert decode_answer(value) == answer
    assert carry_answer(answer, critical=True).vendor_type == 0x4502
    assert find_answer([carry_answer(answer, critical=False)]) == answer


@given(offers, st.booleans())
def test_an_offer_comes_back_out_of_a_request(offer: Offer, critical: bool) -> None:
    extension = carry_offer(offer, critical=critical)
    request = RegistrationRequest(0, 1, 2, 3, 4, 5, extensions=(extension,))
    found = RegistrationRequest.decode(request.encode())
    assert found.extensions == (extension,)
    assert not found.malformed
    assert find_offer(found.extensions) == offer


@given(answers)
def test_answers_come_back(answer: Answer) -> None:
    assert decode_answer(answer.value()) == answer


@given(st.binary(max_size=120))
def test_any_value_is_whole_or_refused(value: bytes) -> None:
    for decode in (decode_offer, decode_answer):
        try:
            found = decode(value)
        except WireError:
            continue
        assert found.value() == value


@given(st.one_of(offers, answers), st.data())
def test_whatever_is_cut_off_or_too_much_is_refused(
    said: Offer | Answer, data: st.DataObject
) -> None:
    value = said.value()
    decode = decode_offer if isinstance(said, FullOffer | RatchetOffer) else decode_answer
    cut = data.draw(st.integers(0, len(value) - 1))
    for other in (value[:cut], value + b"\0"):
        with pytest.raises(WireError):
            decode(other)


@pytest.mark.parametrize(
    "value",
    [
        b"\2" + FULL[1:] + b"\1\1",  # another version
        b"\1\3" + FULL[2:] + b"\1\1",  # no kind of an offer
        b"\1\1" + struct.pack("!I", 255) + NONCE + SHARE + b"\1\1",  # reserved SPI
        FULL + b"\0",  # no suite
        FULL + b"\x11" + bytes(17),  # too many
    ],
)
def test_bad_offers(value: bytes) -> None:
    with pytest.raises(WireError):
        decode_offer(value)


@pytest.mark.parametrize(
    "offer",
    [
        FullOffer(255, NONCE, SHARE, (1,)),
        FullOffer(2**32, NONCE, SHARE, (1,)),
        FullOffer(256, NONCE[:15], SHARE, (1,)),
        FullOffer(256, NONCE, SHARE[:31], (1,)),
        FullOffer(256, NONCE, SHARE, ()),
        FullOffer(256, NONCE, SHARE, (256,)),
        RatchetOffer(256, NONCE, NAME[:7]),
        FullAnswer(256, NONCE, SHARE, 256),
    ],
)
def test_what_does_not_fit_is_not_built(offer: Offer | FullAnswer) -> None:
    with pytest.raises(WireError):
        offer.value()


def test_two_offers_are_none() -> None:
    offer = carry_offer(RatchetOffer(256, NONCE, NAME), critical=True)
    other = carry_offer(RatchetOffer(256, NONCE, NAME), critical=False)
    with pytest.raises(WireError, match="twice"):
        find_offer([offer, other])


def test_extensions_of_others_are_passed_over() -> None:
    others = [
        MobileNodeNai(b"mn@example.org"),
        CriticalVendorExtension(9, 0x4501, b"x"),
        NormalVendorExtension(32473, 1, b"y"),
    ]
    assert find_offer(others) is None
    assert (
        find_answer([*others, carry_offer(RatchetOffer(256, NONCE, NAME), critical=True)]) is None
    )
