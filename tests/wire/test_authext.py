"""Layout of the authentication extensions (RFC 5944 3.5.2-3.5.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.errors import WireError
from fastmip.wire.authext import (
    MAX_AUTHENTICATOR_LEN,
    AuthenticationExtension,
    GeneralizedAuthentication,
    authentication_header,
    authentications,
)
from fastmip.wire.codes import ExtensionType
from fastmip.wire.extensions import RawExtension, UnknownExtension
from fastmip.wire.registry import CONTROL_EXTENSIONS

TYPES = [
    ExtensionType.MOBILE_HOME_AUTHENTICATION,
    ExtensionType.MOBILE_FOREIGN_AUTHENTICATION,
    ExtensionType.FOREIGN_HOME_AUTHENTICATION,
]


@pytest.mark.parametrize(("type_", "number"), list(zip(TYPES, (32, 33, 34), strict=True)))
def test_layout_is_type_length_spi_authenticator_rfc5944_3_5_2(
    type_: ExtensionType, number: int
) -> None:
    built = AuthenticationExtension(type_, 0x01020304, b"0123456789abcdef")
    wire = bytes((number, 20, 1, 2, 3, 4)) + b"0123456789abcdef"
    assert built.encode() == wire
    (decoded,), malformed = CONTROL_EXTENSIONS.decode(b"\xff" + wire, 1)
    assert decoded == built
    assert decoded.offset == 1
    assert not malformed
    assert wire.startswith(authentication_header(type_, 0x01020304, 16))


@given(
    st.sampled_from(TYPES),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=MAX_AUTHENTICATOR_LEN),
)
def test_round_trip(type_: ExtensionType, spi: int, authenticator: bytes) -> None:
    built = AuthenticationExtension(type_, spi, authenticator)
    (decoded,), malformed = CONTROL_EXTENSIONS.decode(built.encode(), 0)
    assert decoded == built
    assert not malformed


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("length", range(4))
def test_one_without_a_whole_spi_is_malformed(type_: ExtensionType, length: int) -> None:
    (kept,), malformed = CONTROL_EXTENSIONS.decode(bytes((type_, length)) + bytes(length), 0)
    assert malformed
    assert isinstance(kept, RawExtension)
    assert authentications([kept], type_) == []


def test_an_authenticator_must_fit_the_length_byte() -> None:
    fits = AuthenticationExtension(32, 256, bytes(MAX_AUTHENTICATOR_LEN))
    assert fits.encode()[1] == 255
    with pytest.raises(WireError):
        AuthenticationExtension(32, 256, bytes(MAX_AUTHENTICATOR_LEN + 1)).encode()


def test_authentications_picks_one_type_in_order() -> None:
    first, second = (AuthenticationExtension(32, spi, b"") for spi in (300, 299))
    other = AuthenticationExtension(34, 301, b"")
    found = authentications(
        [RawExtension(131), first, other, second], ExtensionType.MOBILE_HOME_AUTHENTICATION
    )
    assert found == [first, second]


@pytest.mark.parametrize("subtype", [1, 2, 3])
@pytest.mark.parametrize("length", [0, 1, 3, 4, 19])
def test_a_generalized_one_below_20_bytes_is_malformed_rfc4721_5(subtype: int, length: int) -> None:
    wire = bytes((36, subtype, 0, length)) + bytes(length)
    (kept,), malformed = CONTROL_EXTENSIONS.decode(wire, 0)
    assert isinstance(kept, RawExtension)
    assert malformed
    with pytest.raises(WireError):
        GeneralizedAuthentication(subtype, 256, bytes(15)).encode()


@pytest.mark.parametrize("subtype", [0, 4, 255])
def test_a_generalized_one_of_another_subtype_drops_the_message(subtype: int) -> None:
    with pytest.raises(UnknownExtension):
        CONTROL_EXTENSIONS.decode(bytes((36, subtype, 0, 20)) + bytes(20), 0)


def test_a_generalized_authenticator_may_be_long() -> None:
    built = GeneralizedAuthentication(1, 256, bytes(65531))
    assert CONTROL_EXTENSIONS.decode(built.encode(), 0) == ((built,), False)
    with pytest.raises(WireError):
        GeneralizedAuthentication(1, 256, bytes(65532)).encode()
