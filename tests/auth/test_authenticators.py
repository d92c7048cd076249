"""Authenticators against published vectors and programs that share no code with us."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.auth.associations import Algorithm, SecurityAssociation
from fastmip.auth.authenticators import append_authentication, authenticator, verify_authentication
from fastmip.wire.authext import AuthenticationExtension
from fastmip.wire.codes import ExtensionType
from fastmip.wire.registration import RegistrationReply, RegistrationRequest

KEY = bytes(range(16))
MOBILE_HOME = ExtensionType.MOBILE_HOME_AUTHENTICATION
REQUEST = RegistrationRequest.decode(
    bytes.fromhex("0102012c 0a010005 0a010001 0a030001 e93c7f0012345678")
)
REPLY = RegistrationReply.decode(bytes.fromhex("030000c8 0a010005 0a010001 e93c7f0012345678"))

COUNTING_KEY = bytes(range(1, 26))
LARGE_KEY_TEXT = b"Test Using Larger Than Block-Size Key - Hash Key First"
# (key, data, digest). Vectors with keys below 128 bits cannot be configured and are left out.
RFC2202_MD5 = [
    (b"\x0b" * 16, b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d"),
    (b"\xaa" * 16, b"\xdd" * 50, "56be34521d144c88dbb8c733f0e8b3f6"),
    (COUNTING_KEY, b"\xcd" * 50, "697eaf0aca3a3aea3a75164746ffaa79"),
    (b"\x0c" * 16, b"Test With Truncation", "56461ef2342edc00f9bab995690efd4c"),
    (b"\xaa" * 80, LARGE_KEY_TEXT, "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"),
    (
        b"\xaa" * 80,
        b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data",
        "6f630fad67cda0ee1fb1f562db3aa53e",
    ),
]
RFC2202_SHA1 = [
    (b"\x0b" * 20, b"Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"),
    (b"\xaa" * 20, b"\xdd" * 50, "125d7342b9ac11cd91a39af48aa17b4f63f175d3"),
    (COUNTING_KEY, b"\xcd" * 50, "4c9007f4026250c6bc8414f9bf50c86c2d7235da"),
    (b"\x0c" * 20, b"Test With Truncation", "4c1a03424b55e07fe7f27be1d58bb9324a9a5a04"),
    (b"\xaa" * 80, LARGE_KEY_TEXT, "aa4ae5e15272d00e95705637ce8a3b55ed402112"),
    (
        b"\xaa" * 80,
        b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data",
        "e8e99d0f45237d786d6bbaa7965c7808bbff1a91",
    ),
]
RFC4231_SHA256 = [
    (
        b"\x0b" * 20,
        b"Hi There",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ),
    (
        b"\xaa" * 20,
        b"\xdd" * 50,
        "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
    ),
    (
        COUNTING_KEY,
        b"\xcd" * 50,
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
    (
        b"\xaa" * 131,
        LARGE_KEY_TEXT,
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        b"\xaa" * 131,
        b"This is a test using a larger than block-size key and a larger than block-size data. "
        b"The key needs to be hashed before being used by the HMAC algorithm.",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
]
PUBLISHED = [
    *((Algorithm.HMAC_MD5, *vector) for vector in RFC2202_MD5),
    *((Algorithm.HMAC_SHA1, *vector) for vector in RFC2202_SHA1),
    *((Algorithm.HMAC_SHA256, *vector) for vector in RFC4231_SHA256),
]


def association(algorithm: Algorithm = Algorithm.HMAC_MD5, key: bytes = KEY) -> SecurityAssociation:
    return SecurityAssociation(0x100, key, algorithm)


def extension_of(message: bytes) -> AuthenticationExtension:
    (extension,) = RegistrationRequest.decode(message).authentications(MOBILE_HOME)
    return extension


@pytest.mark.parametrize(("algorithm", "key", "data", "digest"), PUBLISHED)
def test_published_vector_rfc2202_rfc4231(
    algorithm: Algorithm, key: bytes, data: bytes, digest: str
) -> None:
    assert authenticator(association(algorithm, key), data).hex() == digest


def test_golden_request_is_signed_as_published() -> None:
    signed = append_authentication(REQUEST.encode(), MOBILE_HOME, association())
    expected = REQUEST.encode().hex() + "20140000010099ab7825d14992fc13e8ca876b8b8d29"
    assert signed.hex() == expected


def test_golden_reply_is_signed_as_published() -> None:
    signed = append_authentication(REPLY.encode(), MOBILE_HOME, association())
    assert signed.hex() == REPLY.encode().hex() + "201400000100c7c38dffc91cb33b1624f94bf767a760"


@given(key=st.binary(min_size=16, max_size=80), covered=st.binary(max_size=200))
def test_keyed_md5_is_prefix_plus_suffix_rfc2002_3_5_1(key: bytes, covered: bytes) -> None:
    expected = hashlib.md5(key + covered + key).digest()  # noqa: S324 - the legacy algorithm
    assert authenticator(association(Algorithm.KEYED_MD5, key), covered) == expected


def test_keyed_md5_is_what_md5sum_says() -> None:
    covered = REQUEST.encode()
    output = subprocess.run(
        ["md5sum", "-"], input=KEY + covered + KEY, check=True, capture_output=True
    ).stdout
    made = authenticator(association(Algorithm.KEYED_MD5), covered)
    assert made.hex() == output.decode().split()[0]


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        (Algorithm.HMAC_MD5, "md5"),
        (Algorithm.HMAC_SHA1, "sha1"),
        (Algorithm.HMAC_SHA256, "sha256"),
    ],
)
def test_a_whole_signed_message_is_what_openssl_says(algorithm: Algorithm, name: str) -> None:
    signed = append_authentication(REQUEST.encode(), MOBILE_HOME, association(algorithm))
    size = algorithm.digest_len
    output = subprocess.run(
        [
            *("openssl", "dgst", f"-{name}", "-binary"),
            *("-mac", "HMAC", "-macopt", f"hexkey:{KEY.hex()}"),
        ],
        input=signed[:-size],
        check=True,
        capture_output=True,
    ).stdout
    assert signed[-size:] == output
    assert signed[24:30] == bytes((32, 4 + size)) + (0x100).to_bytes(4, "big")


def test_signing_twice_gives_the_same_so_the_prepared_state_is_not_used_up() -> None:
    for algorithm in Algorithm:
        one = association(algorithm)
        assert one.authenticator(b"data") == one.authenticator(b"data")
        assert one.authenticator(b"data") == association(algorithm).authenticator(b"data")


@given(
    algorithm=st.sampled_from(Algorithm),
    key=st.binary(min_size=16, max_size=70),
    front=st.binary(max_size=40),
    behind=st.binary(max_size=40),
)
def test_what_was_signed_verifies_whatever_is_appended(
    algorithm: Algorithm, key: bytes, front: bytes, behind: bytes
) -> None:
    vendor = bytes((134, len(front))) + front
    security = association(algorithm, key)
    signed = append_authentication(REQUEST.encode() + vendor, MOBILE_HOME, security)
    message = signed + bytes((200, len(behind))) + behind
    assert verify_authentication(message, extension_of(message), security)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_every_single_bit_counts(algorithm: Algorithm) -> None:
    security = association(algorithm)
    signed = append_authentication(REQUEST.encode() + b"\x86\x02ab", MOBILE_HOME, security)
    genuine = extension_of(signed)
    assert verify_authentication(signed, genuine, security)
    for position in range(len(signed)):
        for bit in range(8):
            forged = bytearray(signed)
            forged[position] ^= 1 << bit
            # The extension as it stood, and the one a receiver would decode, if any.
            candidates = []
            if position < len(signed) - algorithm.digest_len:
                candidates.append(genuine)
            else:
                candidates.append(extension_of(bytes(forged)))
            for candidate in candidates:
                assert not verify_authentication(bytes(forged), candidate, security)


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("cut", [1, 4, 12, 16])
def test_a_truncated_authenticator_is_not_accepted(algorithm: Algorithm, cut: int) -> None:
    security = association(algorithm)
    size = algorithm.digest_len - cut
    header = bytes((32, 4 + size)) + (0x100).to_bytes(4, "big")
    covered = REQUEST.encode() + header
    message = covered + security.authenticator(covered)[:size]
    assert not verify_authentication(message, extension_of(message), security)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_an_extended_authenticator_is_not_accepted(algorithm: Algorithm) -> None:
    security = association(algorithm)
    header = bytes((32, 5 + algorithm.digest_len)) + (0x100).to_bytes(4, "big")
    covered = REQUEST.encode() + header
    message = covered + security.authenticator(covered) + b"\0"
    assert not verify_authentication(message, extension_of(message), security)


def test_another_spi_with_the_same_key_is_not_accepted() -> None:
    signed = append_authentication(REQUEST.encode(), MOBILE_HOME, association())
    other = SecurityAssociation(0x101, KEY)
    assert not verify_authentication(signed, extension_of(signed), other)


@pytest.mark.parametrize("signed_with", list(Algorithm))
@pytest.mark.parametrize("checked_with", list(Algorithm))
def test_another_algorithm_with_the_same_key_is_not_accepted(
    signed_with: Algorithm, checked_with: Algorithm
) -> None:
    signed = append_authentication(REQUEST.encode(), MOBILE_HOME, association(signed_with))
    good = verify_authentication(signed, extension_of(signed), association(checked_with))
    assert good is (signed_with is checked_with)


def test_an_extension_that_was_built_has_nothing_to_verify() -> None:
    built = AuthenticationExtension(32, 0x100, bytes(16))
    with pytest.raises(ValueError, match="not decoded"):
        verify_authentication(REQUEST.encode(), built, association())


def test_authenticators_are_compared_in_constant_time() -> None:
    signed = append_authentication(REQUEST.encode(), MOBILE_HOME, association())
    extension = extension_of(signed)
    with mock.patch("hmac.compare_digest", wraps=hmac.compare_digest) as compare:
        assert verify_authentication(signed, extension, association())
    compare.assert_called_once_with(extension.authenticator, extension.authenticator)
