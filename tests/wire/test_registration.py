"""Registration Request and Reply: layout, round trip, and every way to be cut short."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.errors import WireError
from fastmip.wire.authext import AuthenticationExtension
from fastmip.wire.codes import ExtensionType
from fastmip.wire.extensions import Extension, Padding, RawExtension, UnknownExtension
from fastmip.wire.registration import (
    REPLY_LEN,
    REQUEST_LEN,
    RegistrationReply,
    RegistrationRequest,
)
from fastmip.wire.registry import CONTROL_EXTENSIONS

REQUEST = RegistrationRequest(
    flags=0xA2,
    lifetime=0x0102,
    home_address=0x0A010005,
    home_agent=0x0A010001,
    care_of_address=0x0A030001,
    identification=0x1122334455667788,
)
REPLY = RegistrationReply(
    code=133,
    lifetime=0x0102,
    home_address=0x0A010005,
    home_agent=0x0A010001,
    identification=0x1122334455667788,
)
AUTHENTICATION = AuthenticationExtension(32, 0x100, b"0123456789abcdef")

U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
EXTENSIONS = st.lists(
    st.one_of(
        st.builds(
            AuthenticationExtension,
            st.sampled_from([32, 33, 34]),
            U32,
            st.binary(max_size=64),
        ),
        st.builds(
            RawExtension,
            st.sampled_from(sorted({*range(128, 256)} - CONTROL_EXTENSIONS.types)),
            data=st.binary(max_size=255),
        ),
        st.builds(Padding, count=st.integers(1, 300)),
    ),
    max_size=6,
).map(tuple)
REQUESTS = st.builds(RegistrationRequest, U8, U16, U32, U32, U32, U64, EXTENSIONS)
REPLIES = st.builds(RegistrationReply, U8, U16, U32, U32, U64, EXTENSIONS)


def merge_pads(extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
    """Join neighbouring runs of pads: on the wire they are one run."""
    merged: list[Extension] = []
    for extension in extensions:
        last = merged[-1] if merged else None
        if isinstance(extension, Padding) and isinstance(last, Padding):
            merged[-1] = Padding(count=last.count + extension.count)
        else:
            merged.append(extension)
    return tuple(merged)


def test_request_layout_rfc5944_3_3() -> None:
    expected = "01a20102 0a010005 0a010001 0a030001 1122334455667788"
    assert REQUEST.encode() == bytes.fromhex(expected)
    assert RegistrationRequest.decode(bytes.fromhex(expected)) == REQUEST
    assert len(REQUEST.encode()) == REQUEST_LEN == 24


def test_reply_layout_rfc5944_3_4() -> None:
    expected = "03850102 0a010005 0a010001 1122334455667788"
    assert REPLY.encode() == bytes.fromhex(expected)
    assert RegistrationReply.decode(bytes.fromhex(expected)) == REPLY
    assert len(REPLY.encode()) == REPLY_LEN == 20


@given(REQUESTS)
def test_request_round_trip(request: RegistrationRequest) -> None:
    wire = request.encode()
    decoded = RegistrationRequest.decode(wire)
    assert decoded.extensions == merge_pads(request.extensions)
    assert decoded.encode() == wire
    assert not decoded.malformed


@given(REPLIES)
def test_reply_round_trip(reply: RegistrationReply) -> None:
    wire = reply.encode()
    decoded = RegistrationReply.decode(wire)
    assert decoded.extensions == merge_pads(reply.extensions)
    assert decoded.encode() == wire
    assert not decoded.malformed


@pytest.mark.parametrize("decode", [RegistrationRequest.decode, RegistrationReply.decode])
@given(data=st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda d: b"\x01" + d)))
def test_decode_raises_wire_error_and_nothing_else(decode: object, data: bytes) -> None:
    assert callable(decode)
    for message in (data, b"\x01" + data, b"\x03" + data):
        try:
            decoded = decode(message)
        except WireError:
            continue
        if not decoded.malformed:
            assert decoded.encode() == message


@given(REQUESTS, st.data())
def test_damaged_requests_raise_wire_error_and_nothing_else(
    request: RegistrationRequest, data: st.DataObject
) -> None:
    wire = bytearray(request.encode())
    for position in data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=4)):
        wire[position] = data.draw(U8)
    try:
        decoded = RegistrationRequest.decode(bytes(wire))
    except WireError:
        return
    if not decoded.malformed:
        assert decoded.encode() == bytes(wire)


def test_request_truncated_at_every_length() -> None:
    vendor = RawExtension(200, data=b"vendor")
    whole = RegistrationRequest(0, 1, 2, 3, 4, 5, (vendor, AUTHENTICATION)).encode()
    boundaries = {REQUEST_LEN: 0, REQUEST_LEN + 8: 1, len(whole): 2}
    for length in range(len(whole) + 1):
        if length < REQUEST_LEN:
            with pytest.raises(WireError):
                RegistrationRequest.decode(whole[:length])
            continue
        decoded = RegistrationRequest.decode(whole[:length])
        reached = max(b for b in boundaries if b <= length)
        assert len(decoded.extensions) == boundaries[reached]
        assert decoded.malformed is (length not in boundaries)


def test_reply_truncated_at_every_length() -> None:
    whole = RegistrationReply(0, 1, 2, 3, 4, (AUTHENTICATION,)).encode()
    for length in range(len(whole) + 1):
        if length < REPLY_LEN:
            with pytest.raises(WireError):
                RegistrationReply.decode(whole[:length])
            continue
        decoded = RegistrationReply.decode(whole[:length])
        assert decoded.malformed is (length not in (REPLY_LEN, len(whole)))
        assert decoded.extensions == ((AUTHENTICATION,) if length == len(whole) else ())


def test_another_message_type_is_not_a_request() -> None:
    for type_ in set(range(256)) - {1}:
        with pytest.raises(WireError):
            RegistrationRequest.decode(bytes((type_,)) + REQUEST.encode()[1:])


def test_another_message_type_is_not_a_reply() -> None:
    for type_ in set(range(256)) - {3}:
        with pytest.raises(WireError):
            RegistrationReply.decode(bytes((type_,)) + REPLY.encode()[1:])


def test_authenticated_but_malformed_request_keeps_its_authentication() -> None:
    wire = REQUEST.encode() + AUTHENTICATION.encode() + b"\x86\xff\x00"
    decoded = RegistrationRequest.decode(wire)
    assert decoded.malformed
    assert decoded.authentications(ExtensionType.MOBILE_HOME_AUTHENTICATION) == [AUTHENTICATION]


def test_unknown_non_skippable_behind_the_authentication_still_drops_rfc5944_1_8() -> None:
    wire = REQUEST.encode() + AUTHENTICATION.encode() + b"\x2f\x00"
    with pytest.raises(UnknownExtension) as caught:
        RegistrationRequest.decode(wire)
    assert caught.value.type == 47


def test_five_thousand_pads_before_the_authentication_are_one_item() -> None:
    decoded = RegistrationRequest.decode(REQUEST.encode() + bytes(5000) + AUTHENTICATION.encode())
    assert [e.type for e in decoded.extensions] == [0, 32]
    (authentication,) = decoded.authentications(ExtensionType.MOBILE_HOME_AUTHENTICATION)
    assert authentication.offset == REQUEST_LEN + 5000


@pytest.mark.parametrize(
    ("claim", "mask"),
    [
        ("wants_simultaneous", 0x80),
        ("wants_broadcasts", 0x40),
        ("is_colocated", 0x20),
        ("wants_minimal", 0x10),
        ("wants_gre", 0x08),
        ("wants_reverse_tunnel", 0x02),
    ],
)
def test_each_flag_is_its_own_bit_rfc5944_3_3(claim: str, mask: int) -> None:
    for flags, expected in ((mask, True), (0xFF ^ mask, False), (0xFF, True), (0, False)):
        message = bytes((1, flags)) + bytes(22)
        assert getattr(RegistrationRequest.decode(message), claim) is expected


@pytest.mark.parametrize(
    ("lifetime", "home", "care_of", "one", "all_"),
    [
        (0, 5, 5, True, True),
        (0, 5, 6, True, False),
        (1, 5, 5, False, False),
        (0xFFFF, 5, 6, False, False),
    ],
)
def test_lifetime_zero_deregisters_one_or_all_rfc5944_3_8_2_2(
    lifetime: int, home: int, care_of: int, one: bool, all_: bool
) -> None:
    request = RegistrationRequest(0, lifetime, home, 1, care_of, 9)
    assert request.is_deregistration is one
    assert request.is_deregistration_of_all is all_


@pytest.mark.parametrize(
    "message",
    [
        RegistrationRequest(256, 0, 0, 0, 0, 0),
        RegistrationRequest(0, 65536, 0, 0, 0, 0),
        RegistrationRequest(0, 0, 2**32, 0, 0, 0),
        RegistrationRequest(0, 0, 0, 0, -1, 0),
        RegistrationReply(256, 0, 0, 0, 0),
        RegistrationReply(0, 0, 0, 0, 2**64),
    ],
)
def test_a_field_out_of_range_cannot_be_encoded(
    message: RegistrationRequest | RegistrationReply,
) -> None:
    with pytest.raises(WireError):
        message.encode()


def test_fields_stand_where_a_plain_struct_reads_them() -> None:
    wire = REQUEST.encode()
    assert struct.unpack("!BBHIIIQ", wire) == (1, 0xA2, 0x102, *struct.unpack("!IIIQ", wire[4:]))
