"""Golden messages, worked out by hand from the RFCs with another implementation.

Every extension in the registry has at least one vector here; ``VECTORS`` is checked for it.
The key for SPI 0x100 is 00 01 .. 0f. Authenticators are recomputed by OpenSSL.
"""

from __future__ import annotations

import subprocess

import pytest

from fastmip.wire.authext import AuthenticationExtension
from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import (
    Entry,
    Extension,
    ExtensionRegistry,
    Framing,
    RawExtension,
    UnknownExtension,
)
from fastmip.wire.registration import RegistrationReply, RegistrationRequest
from fastmip.wire.registry import CONTROL_EXTENSIONS

KEY = bytes(range(16))
AAA_KEY = b"\x11" * 16
IDENTIFICATION = 0xE93C7F0012345678

REQUEST = bytes.fromhex("0102012c 0a010005 0a010001 0a030001 e93c7f0012345678")
REQUEST_AUTHENTICATION = bytes.fromhex("2014 00000100 99ab7825d14992fc13e8ca876b8b8d29")
REPLY = bytes.fromhex("030000c8 0a010005 0a010001 e93c7f0012345678")
REPLY_AUTHENTICATION = bytes.fromhex("2014 00000100 c7c38dffc91cb33b1624f94bf767a760")
LONG_REQUEST = bytes.fromhex(
    "0102012c0a0100050a0100010a030001e93c7f0012345678"
    "830c6d6e40777573746c2e656475"
    "201400000100038efb5d39f1b20abb62e2d4d3a28ebf"
    "8408a1b2c3d4e5f60718"
    "2401001400000200586ccef4fd9049eae3d4306b2769b86c"
)
VECTORS: dict[str, tuple[str, Extension]] = {
    "mobile-home": (
        "2014 00000100 99ab7825d14992fc13e8ca876b8b8d29",
        AuthenticationExtension(32, 0x100, bytes.fromhex("99ab7825d14992fc13e8ca876b8b8d29")),
    ),
    "mobile-foreign": (
        "2114 00000101 000102030405060708090a0b0c0d0e0f",
        AuthenticationExtension(33, 0x101, KEY),
    ),
    "foreign-home": (
        "2224 fffffffe 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f",
        AuthenticationExtension(34, 0xFFFFFFFE, KEY + KEY),
    ),
}


def openssl_hmac_md5(key: bytes, covered: bytes) -> bytes:
    """Compute HMAC-MD5 with the OpenSSL command, which shares no code of ours."""
    command = ["openssl", "dgst", "-md5", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}"]
    output = subprocess.run([*command, "-binary"], input=covered, check=True, capture_output=True)
    return output.stdout


def test_request_vector_rfc5944_3_3() -> None:
    request = RegistrationRequest.decode(REQUEST + REQUEST_AUTHENTICATION)
    assert request.wants_reverse_tunnel
    assert (request.flags, request.lifetime, request.identification) == (2, 300, IDENTIFICATION)
    assert (request.home_address, request.home_agent) == (0x0A010005, 0x0A010001)
    assert request.care_of_address == 0x0A030001
    (authentication,) = request.authentications(ExtensionType.MOBILE_HOME_AUTHENTICATION)
    assert (authentication.spi, authentication.offset) == (0x100, 24)
    assert request.encode() == REQUEST + REQUEST_AUTHENTICATION


def test_reply_vector_rfc5944_3_4() -> None:
    reply = RegistrationReply.decode(REPLY + REPLY_AUTHENTICATION)
    assert (reply.code, reply.lifetime, reply.identification) == (0, 200, IDENTIFICATION)
    assert (reply.home_address, reply.home_agent) == (0x0A010005, 0x0A010001)
    assert reply.encode() == REPLY + REPLY_AUTHENTICATION


@pytest.mark.parametrize(
    "message", [REQUEST + REQUEST_AUTHENTICATION, REPLY + REPLY_AUTHENTICATION]
)
def test_authenticators_of_the_vectors_are_those_of_openssl_rfc5944_3_5_1(message: bytes) -> None:
    assert openssl_hmac_md5(KEY, message[:-16]) == message[-16:]


def test_long_request_is_dropped_while_36_is_unknown_rfc5944_1_8() -> None:
    with pytest.raises(UnknownExtension) as caught:
        RegistrationRequest.decode(LONG_REQUEST)
    assert (caught.value.type, caught.value.offset) == (36, 70)


def test_long_request_is_whole_once_36_is_registered() -> None:
    def decode(type_: int, body: Cursor) -> AuthenticationExtension:
        return AuthenticationExtension(type_, body.u32(), body.rest())

    registry = ExtensionRegistry(
        [
            Entry(ExtensionType.MOBILE_HOME_AUTHENTICATION, AuthenticationExtension.decode),
            Entry(ExtensionType.GENERALIZED_AUTHENTICATION, decode, Framing.LONG, subtype=1),
        ]
    )
    request = RegistrationRequest.decode(LONG_REQUEST, registry)
    name, mobile_home, challenge, mobile_aaa = request.extensions
    assert name == RawExtension(131, data=b"mn@wustl.edu")
    assert challenge == RawExtension(132, data=bytes.fromhex("a1b2c3d4e5f60718"))
    assert isinstance(mobile_home, AuthenticationExtension)
    assert isinstance(mobile_aaa, AuthenticationExtension)
    assert [e.offset for e in request.extensions] == [24, 38, 60, 70]
    assert openssl_hmac_md5(KEY, LONG_REQUEST[: 38 + 6]) == mobile_home.authenticator
    # In the long format the SPI stands four bytes behind the type (RFC 4721 5).
    assert openssl_hmac_md5(AAA_KEY, LONG_REQUEST[: 70 + 8]) == mobile_aaa.authenticator
    assert request.encode() == LONG_REQUEST


@pytest.mark.parametrize("name", VECTORS)
def test_extension_vector(name: str) -> None:
    text, expected = VECTORS[name]
    wire = bytes.fromhex(text)
    (decoded,), malformed = CONTROL_EXTENSIONS.decode(wire, 0)
    assert decoded == expected
    assert expected.build() == wire
    assert not malformed


def test_every_registered_extension_has_a_vector() -> None:
    assert {expected.type for _, expected in VECTORS.values()} == CONTROL_EXTENSIONS.types
