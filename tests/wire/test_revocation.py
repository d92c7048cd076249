"""Revocation message, acknowledgment and support extension (RFC 3543 3.2-3.4)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.errors import WireError
from fastmip.wire.authext import AuthenticationExtension
from fastmip.wire.codes import ExtensionType
from fastmip.wire.extensions import UnknownExtension
from fastmip.wire.registry import CONTROL_EXTENSIONS
from fastmip.wire.revocation import (
    ACKNOWLEDGMENT_LEN,
    REVOCATION_LEN,
    RevocationAcknowledgment,
    RevocationMessage,
    RevocationSupport,
)

HOME, HOME_AGENT, CARE_OF, STAMP = 0x0A010005, 0x0A010001, 0x0A030001, 0xE93C7F00
AUTHENTICATION = AuthenticationExtension(34, 0x300, b"0123456789abcdef")
U32 = st.integers(0, 2**32 - 1)
MESSAGES: list[tuple[RevocationMessage | RevocationAcknowledgment, bytes]] = [
    (
        RevocationMessage(agent, inform, HOME, HOME_AGENT, CARE_OF, STAMP),
        struct.pack("!BBHIIII", 7, 0, flags, HOME, HOME_AGENT, CARE_OF, STAMP),
    )
    for agent, inform, flags in (
        (False, False, 0),
        (True, False, 0x8000),
        (False, True, 0x4000),
        (True, True, 0xC000),
    )
]
MESSAGES += [
    (
        RevocationAcknowledgment(inform, HOME, STAMP),
        struct.pack("!BBHII", 15, 0, flags, HOME, STAMP),
    )
    for inform, flags in ((False, 0), (True, 0x8000))
]


@pytest.mark.parametrize(("message", "wire"), MESSAGES)
def test_layout_by_the_figures_rfc3543_3_3(
    message: RevocationMessage | RevocationAcknowledgment, wire: bytes
) -> None:
    assert message.encode() == wire
    assert type(message).decode(wire) == message
    assert len(wire) in (REVOCATION_LEN, ACKNOWLEDGMENT_LEN) == (20, 12)


def test_reserved_fields_are_ignored_rfc3543_3_3() -> None:
    wire = struct.pack("!BBHIIII", 7, 0xFF, 0x3FFF, HOME, HOME_AGENT, CARE_OF, STAMP)
    expected = RevocationMessage(False, False, HOME, HOME_AGENT, CARE_OF, STAMP)
    assert RevocationMessage.decode(wire) == expected
    wire = struct.pack("!BBHII", 15, 0xFF, 0x7FFF, HOME, STAMP)
    assert RevocationAcknowledgment.decode(wire) == RevocationAcknowledgment(False, HOME, STAMP)


@pytest.mark.parametrize(("message", "wire"), MESSAGES)
def test_authentication_is_found_and_cut_at_every_length(
    message: RevocationMessage | RevocationAcknowledgment, wire: bytes
) -> None:
    whole = wire + AUTHENTICATION.encode()
    found = type(message).decode(whole)
    assert found.authentications(ExtensionType.FOREIGN_HOME_AUTHENTICATION) == [AUTHENTICATION]
    assert found.authentications(ExtensionType.MOBILE_HOME_AUTHENTICATION) == []
    assert found.encode() == whole
    for length in range(len(whole)):
        if length < len(wire):
            with pytest.raises(WireError):
                type(message).decode(whole[:length])
        else:
            cut = type(message).decode(whole[:length])
            assert cut.malformed is (length != len(wire))
            assert cut.extensions == ()


@pytest.mark.parametrize(("message", "wire"), MESSAGES)
def test_another_type_and_unknown_extensions_are_refused(
    message: RevocationMessage | RevocationAcknowledgment, wire: bytes
) -> None:
    for type_ in set(range(256)) - {wire[0]}:
        with pytest.raises(WireError):
            type(message).decode(bytes((type_,)) + wire[1:])
    with pytest.raises(UnknownExtension):
        type(message).decode(wire + b"\x2f\0")


@given(st.booleans(), st.booleans(), U32, U32, U32, U32)
def test_round_trip(
    agent: bool, inform: bool, home: int, home_domain: int, foreign: int, identifier: int
) -> None:
    message = RevocationMessage(agent, inform, home, home_domain, foreign, identifier)
    assert RevocationMessage.decode(message.encode()) == message
    acknowledgment = RevocationAcknowledgment(inform, home, identifier)
    assert RevocationAcknowledgment.decode(acknowledgment.encode()) == acknowledgment


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x07", b"\x0f"]))
def test_decoding_raises_wire_error_and_nothing_else(data: bytes, start: bytes) -> None:
    for kind in (RevocationMessage, RevocationAcknowledgment):
        try:
            kind.decode(start + data)
        except WireError:
            continue


def test_support_of_the_future_is_longer_and_read_as_far_rfc3543_3_2() -> None:
    wire = struct.pack("!BBHI", 137, 8, 0x8000, STAMP) + b"xy"
    (found,), malformed = CONTROL_EXTENSIONS.decode(wire, 0)
    assert found == RevocationSupport(True, STAMP)
    assert found.encode() == wire
    assert not malformed


def test_reserved_bits_of_the_support_are_ignored_rfc3543_3_2() -> None:
    wire = struct.pack("!BBHI", 137, 6, 0x7FFF, STAMP)
    assert CONTROL_EXTENSIONS.decode(wire, 0) == ((RevocationSupport(False, STAMP),), False)


@pytest.mark.parametrize(
    "message",
    [
        RevocationMessage(True, True, 2**32, 0, 0, 0),
        RevocationMessage(True, True, 0, 0, 0, -1),
        RevocationAcknowledgment(True, 0, 2**32),
        RevocationSupport(True, 2**32),
    ],
)
def test_a_field_out_of_range_cannot_be_encoded(
    message: RevocationMessage | RevocationAcknowledgment | RevocationSupport,
) -> None:
    with pytest.raises(WireError):
        message.encode()
