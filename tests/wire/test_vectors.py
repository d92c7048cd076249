"""Golden messages, worked out by hand from the RFCs with another implementation.

Every extension in the registry has at least one vector here; ``VECTORS`` is checked for it.
The key for SPI 0x100 is 00 01 .. 0f. Authenticators are recomputed by OpenSSL.
"""

from __future__ import annotations

import subprocess

import pytest

from fastmip.wire.authext import (
    MN_AAA,
    AuthenticationExtension,
    GeneralizedAuthentication,
)
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import ExtensionType
from fastmip.wire.dynamic_home_agent import redirected, requested
from fastmip.wire.experimental import NonSkippableExperiment, SkippableExperiment
from fastmip.wire.extensions import Entry, Extension, ExtensionRegistry, UnknownExtension
from fastmip.wire.foreign_error import ForeignAgentError
from fastmip.wire.mobile_network import MobileNetworkAcknowledgement, MobileNetworkRequest
from fastmip.wire.nai import MobileNodeNai, NaiCarrying
from fastmip.wire.registration import RegistrationReply, RegistrationRequest
from fastmip.wire.registry import CONTROL_EXTENSIONS, EXPERIMENTAL_EXTENSIONS
from fastmip.wire.revocation import RevocationSupport
from fastmip.wire.tunneling import (
    FORCED,
    REQUIRED,
    EncapsulatingDelivery,
    FirewallTraversal,
    UdpTunnelReply,
    UdpTunnelRequest,
)
from fastmip.wire.vendor import CriticalVendorExtension, NormalVendorExtension

KEY = bytes(range(16))
AAA_KEY = b"\x11" * 16
CHALLENGE = bytes.fromhex("a1b2c3d4e5f60718")
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
    "mobile node to AAA": (
        "24 01 0014 00000200 586ccef4fd9049eae3d4306b2769b86c",
        GeneralizedAuthentication(1, 0x200, bytes.fromhex("586ccef4fd9049eae3d4306b2769b86c")),
    ),
    "between foreign agents": (
        "24 02 0014 00000201 000102030405060708090a0b0c0d0e0f",
        GeneralizedAuthentication(2, 0x201, KEY),
    ),
    "mobile node to gateway": (
        "24 03 0024 00000202 000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f",
        GeneralizedAuthentication(3, 0x202, KEY + KEY),
    ),
    "critical vendor": ("26 00 0009 00000009 000e 616263", CriticalVendorExtension(9, 14, b"abc")),
    "critical vendor without value": (
        "26 00 0006 00ffffff ffff",
        CriticalVendorExtension(0xFFFFFF, 0xFFFF),
    ),
    "UDP tunnel accepted": ("2c 06 00 00 0000 006e", UdpTunnelReply(0, False, 110)),
    "UDP tunnel forced": ("2c 06 00 00 8000 0000", UdpTunnelReply(0, True, 0)),
    "UDP tunnel declined": ("2c 06 00 40 0000 0000", UdpTunnelReply(64)),
    "foreign agent error": ("2d 02 00 44", ForeignAgentError(68)),
    "traversal": (
        "81 0a 0000 0a050001 0a060001",
        FirewallTraversal(0x0A050001, 0x0A060001),
    ),
    "encapsulating delivery": ("82 00", EncapsulatingDelivery()),
    "mobile node NAI": ("83 0c 6d6e40777573746c2e656475", MobileNodeNai(b"mn@wustl.edu")),
    "challenge": ("84 08 a1b2c3d4e5f60718", MobileForeignChallenge(CHALLENGE)),
    "normal vendor": (
        "86 0b 0000 00000009 000e 616263",
        NormalVendorExtension(9, 14, b"abc"),
    ),
    "home agent identity": ("88 0a 01 68614061612e636f6d", NaiCarrying(1, b"ha@aa.com")),
    "AAAH identity": ("88 06 02 6140622e63", NaiCarrying(2, b"a@b.c")),
    "foreign agent identity": ("88 06 03 6640622e63", NaiCarrying(3, b"f@b.c")),
    "revocation support": ("89 06 0000 e93c7f00", RevocationSupport(False, 0xE93C7F00)),
    "revocation support, inform": ("89 06 8000 00000001", RevocationSupport(True, 1)),
    "UDP tunnel request": ("90 06 00 00 00 00 0000", UdpTunnelRequest()),
    "UDP tunnel request, forced GRE": ("90 06 00 00 80 2f 0000", UdpTunnelRequest(FORCED, 47)),
    "UDP tunnel request, minimal through the agent": (
        "90 06 00 00 40 37 0000",
        UdpTunnelRequest(REQUIRED, 55),
    ),
    "requested home agent": ("8b 01 0004 0a010001", requested(0x0A010001)),
    "redirected home agent": ("8b 02 0004 0a010002", redirected(0x0A010002)),
    "mobile network request": ("94 06 00 18 0a020800", MobileNetworkRequest(0x0A020800, 24)),
    "mobile network request, dynamic": ("94 06 00 1d 00000000", MobileNetworkRequest(0, 29)),
    "mobile network granted": (
        "94 08 01 00 18 00 0a020800",
        MobileNetworkAcknowledgement(0x0A020800, 24),
    ),
    "mobile network unauthorized": (
        "94 08 01 02 20 00 0a020801",
        MobileNetworkAcknowledgement(0x0A020801, 32, 2),
    ),
    "mobile network, implicit": (
        "94 08 02 00 18 00 0a020900",
        MobileNetworkAcknowledgement(0x0A020900, 24, implicit=True),
    ),
}
EXPERIMENTS: dict[str, tuple[str, Extension]] = {
    "non-skippable": ("7f 05 0003 616263", NonSkippableExperiment(5, b"abc")),
    "skippable": ("ff 04 05 616263", SkippableExperiment(5, b"abc")),
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


def test_long_request_is_dropped_where_36_is_unknown_rfc5944_1_8() -> None:
    registry = ExtensionRegistry(
        [Entry(ExtensionType.MOBILE_HOME_AUTHENTICATION, AuthenticationExtension.decode)]
    )
    with pytest.raises(UnknownExtension) as caught:
        RegistrationRequest.decode(LONG_REQUEST, registry)
    assert (caught.value.type, caught.value.offset) == (36, 70)


def test_long_request_vector_rfc4721_3_1() -> None:
    request = RegistrationRequest.decode(LONG_REQUEST)
    name, mobile_home, challenge, mobile_aaa = request.extensions
    assert name == MobileNodeNai(b"mn@wustl.edu")
    assert challenge == MobileForeignChallenge(CHALLENGE)
    assert isinstance(mobile_home, AuthenticationExtension)
    assert isinstance(mobile_aaa, GeneralizedAuthentication)
    assert (mobile_aaa.subtype, mobile_aaa.spi) == (MN_AAA, 0x200)
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


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experimental_extension_vector_rfc4064_4(name: str) -> None:
    text, expected = EXPERIMENTS[name]
    wire = bytes.fromhex(text)
    (decoded,), malformed = EXPERIMENTAL_EXTENSIONS.decode(wire, 0)
    assert decoded == expected
    assert expected.build() == wire
    assert not malformed
    assert {expected.type for _, expected in EXPERIMENTS.values()} == (
        EXPERIMENTAL_EXTENSIONS.types - CONTROL_EXTENSIONS.types
    )
