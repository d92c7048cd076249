"""Mobile network extensions: layouts, lengths out of range, dynamic requests (RFC 5177, 6626)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.errors import WireError
from fastmip.wire.extensions import RawExtension
from fastmip.wire.mobile_network import (
    MobileNetworkAcknowledgement,
    MobileNetworkRequest,
    NetworkCode,
    network_acknowledgements,
    network_code_name,
    network_requests,
)
from fastmip.wire.registry import CONTROL_EXTENSIONS
from fastmip.wire.tunneling import EncapsulatingDelivery

U8, U32 = st.integers(0, 255), st.integers(0, 2**32 - 1)


@given(U8, U32)
def test_request_layout_rfc5177_4_1(length: int, prefix: int) -> None:
    built = MobileNetworkRequest(prefix, length)
    wire = struct.pack("!BBBBI", 148, 6, 0, length, prefix)
    assert built.encode() == wire
    assert CONTROL_EXTENSIONS.decode(wire, 0) == ((built,), False)


@given(st.booleans(), U8, U8, U8, U32)
def test_acknowledgement_layout_ignores_the_reserved_byte_rfc5177_4_2(
    implicit: bool, code: int, length: int, reserved: int, prefix: int
) -> None:
    built = MobileNetworkAcknowledgement(prefix, length, code, implicit)
    wire = struct.pack("!BBBBBBI", 148, 8, 1 + implicit, code, length, 0, prefix)
    assert built.encode() == wire
    (found,), malformed = CONTROL_EXTENSIONS.decode(wire[:5] + bytes((reserved,)) + wire[6:], 0)
    assert found == built
    assert not malformed


def test_the_leftmost_bits_make_up_the_network_rfc5177_4_1() -> None:
    assert MobileNetworkRequest(0x0A0208FF, 24).network == (0x0A020800, 24)
    assert MobileNetworkAcknowledgement(0x0A0208FF, 32).network == (0x0A0208FF, 32)
    for length in (0, 33, 255):
        assert MobileNetworkRequest(0x0A020800, length).network is None
        assert MobileNetworkAcknowledgement(0x0A020800, length).network is None


def test_an_all_zero_prefix_asks_for_one_rfc6626_3_1() -> None:
    assert MobileNetworkRequest(0, 0).is_dynamic
    assert MobileNetworkRequest(0, 28).is_dynamic
    assert not MobileNetworkRequest(0x0A020800, 0).is_dynamic


def test_a_subtype_of_the_future_is_skipped_rfc5944_1_11() -> None:
    found, malformed = CONTROL_EXTENSIONS.decode(bytes.fromhex("940603180a020800 8200"), 0)
    assert [type(one) for one in found] == [RawExtension, EncapsulatingDelivery]
    assert not malformed


@pytest.mark.parametrize(
    "wire", ["9405 00 18 0a0208", "9407 00 18 0a020800 00", "9406 01 0018000a02"]
)
def test_any_other_length_is_malformed(wire: str) -> None:
    (found,), malformed = CONTROL_EXTENSIONS.decode(bytes.fromhex(wire), 0)
    assert isinstance(found, RawExtension)
    assert malformed


def test_values_that_do_not_fit_cannot_be_encoded() -> None:
    for one in (
        MobileNetworkRequest(2**32, 24),
        MobileNetworkRequest(1, 256),
        MobileNetworkAcknowledgement(1, 24, 256),
    ):
        with pytest.raises(WireError):
            one.encode()


def test_names_and_lists() -> None:
    request = MobileNetworkRequest(0x0A020800, 24)
    granted = MobileNetworkAcknowledgement(0x0A020800, 24)
    refused = MobileNetworkAcknowledgement(0x0A020800, 24, NetworkCode.UNAUTHORIZED)
    everything = [granted, EncapsulatingDelivery(), request, refused]
    assert network_requests(everything) == [request]
    assert network_acknowledgements(everything) == [granted, refused]
    assert (str(request), str(granted)) == ("10.2.8.0/24", "10.2.8.0/24 success")
    assert (granted.is_success, refused.is_success) == (True, False)
    assert [network_code_name(code) for code in (0, 4, 9)] == ["success", "unassigned", "code 9"]
