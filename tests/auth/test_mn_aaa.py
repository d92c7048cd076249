"""Mobile-AAA authentication against vectors, OpenSSL and a RADIUS server's own arithmetic."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.auth.associations import Algorithm, AssociationError, SecurityAssociation
from fastmip.auth.authenticators import append_generalized
from fastmip.auth.mn_aaa import (
    CHAP_SPI,
    COLOCATED_CHALLENGE,
    AaaSecret,
    ChapKey,
    sign_mn_aaa,
    spi_of,
    verify_mn_aaa,
)
from fastmip.wire.authext import FA_FA, MN_AAA, MN_GFA, GeneralizedAuthentication
from fastmip.wire.registration import RegistrationRequest

KEY = b"\x11" * 16
CHALLENGE = bytes.fromhex("a1b2c3d4e5f60718")
# A request with NAI, Mobile-Home authentication and challenge; what Mobile-AAA covers of it.
UNSIGNED = bytes.fromhex(
    "0102012c0a0100050a0100010a030001e93c7f0012345678"
    "830c6d6e40777573746c2e656475"
    "201400000100038efb5d39f1b20abb62e2d4d3a28ebf"
    "8408a1b2c3d4e5f60718"
)
ASSOCIATION = SecurityAssociation(0x200, KEY)
CHAP = ChapKey(KEY)


def mobile_aaa(message: bytes) -> GeneralizedAuthentication:
    """The last extension of a message, decoded."""
    extension = RegistrationRequest.decode(message).extensions[-1]
    assert isinstance(extension, GeneralizedAuthentication)
    return extension


def test_an_association_signs_as_the_vector_says_rfc4721_6() -> None:
    signed = sign_mn_aaa(UNSIGNED, ASSOCIATION, CHALLENGE)
    header = "2401 0014 00000200"
    assert signed == UNSIGNED + bytes.fromhex(header + "586ccef4fd9049eae3d4306b2769b86c")
    assert verify_mn_aaa(signed, mobile_aaa(signed), ASSOCIATION, CHALLENGE)


def test_the_chap_formula_gives_the_vector_rfc4721_8() -> None:
    signed = sign_mn_aaa(UNSIGNED, CHAP, CHALLENGE)
    header = "2401 0014 00000002"
    assert signed == UNSIGNED + bytes.fromhex(header + "bd61949c3fa93593f509dbdb07464227")
    assert verify_mn_aaa(signed, mobile_aaa(signed), CHAP, CHALLENGE)
    assert (spi_of(CHAP), spi_of(ASSOCIATION), CHAP_SPI) == (2, 0x200, 2)


def test_the_default_algorithm_is_openssls_hmac_md5_rfc4721_6() -> None:
    signed = sign_mn_aaa(UNSIGNED, ASSOCIATION, b"")
    command = ["openssl", "dgst", "-md5", "-mac", "HMAC", "-macopt", f"hexkey:{KEY.hex()}"]
    found = subprocess.run(
        [*command, "-binary"], input=signed[:-16], check=True, capture_output=True
    )
    assert found.stdout == signed[-16:]


@pytest.mark.parametrize("length", [0, 1, 2, 8, 236, 237, 238, 254, 255])
def test_a_radius_server_computes_the_same_rfc2865_5_3(length: int) -> None:
    challenge = bytes(range(1, length + 1))
    signed = sign_mn_aaa(UNSIGNED, CHAP, challenge)
    # What RFC 4721 appendix C puts into Access-Request: identifier, password and challenge.
    identifier = challenge[:1]
    md5 = partial(hashlib.md5, usedforsecurity=False)
    chap_challenge = md5(signed[:-16]).digest() + challenge[max(0, length - 237) :]
    assert len(chap_challenge) <= 253
    assert md5(identifier + KEY + chap_challenge).digest() == signed[-16:]


def test_only_the_first_and_the_last_237_octets_of_a_challenge_count() -> None:
    long = bytes(range(255))
    signed = sign_mn_aaa(UNSIGNED, CHAP, long)
    middle = long[:1] + b"\xff" * 17 + long[18:]
    assert sign_mn_aaa(UNSIGNED, CHAP, middle) == signed
    for other in (b"\xff" + long[1:], long[:18] + b"\xff" + long[19:], long[:-1]):
        assert sign_mn_aaa(UNSIGNED, CHAP, other) != signed


def test_without_a_foreign_agent_the_challenge_is_zero_rfc4721_3_5() -> None:
    assert COLOCATED_CHALLENGE == b"\0"
    signed = sign_mn_aaa(UNSIGNED, CHAP, COLOCATED_CHALLENGE)
    assert verify_mn_aaa(signed, mobile_aaa(signed), CHAP, COLOCATED_CHALLENGE)
    assert not verify_mn_aaa(signed, mobile_aaa(signed), CHAP, CHALLENGE)


@given(st.sampled_from([ASSOCIATION, CHAP]), st.integers(0, 117 * 8 - 1))
def test_one_flipped_bit_is_never_right(secret: AaaSecret, bit: int) -> None:
    signed = sign_mn_aaa(UNSIGNED, secret, CHALLENGE)
    extension = mobile_aaa(signed)
    bit %= len(signed) * 8
    damaged = bytearray(signed)
    damaged[bit // 8] ^= 0x80 >> bit % 8
    seen = replace(extension, authenticator=bytes(damaged[-16:]))
    object.__setattr__(seen, "offset", extension.offset)
    assert not verify_mn_aaa(bytes(damaged), seen, secret, CHALLENGE)


def test_wrong_secret_subtype_and_spi_are_never_right() -> None:
    signed = sign_mn_aaa(UNSIGNED, ASSOCIATION, CHALLENGE)
    others: list[AaaSecret] = [
        CHAP,
        SecurityAssociation(0x200, KEY[:-1] + b"\x12"),
        SecurityAssociation(0x201, KEY),
        SecurityAssociation(0x200, KEY, Algorithm.HMAC_SHA256),
    ]
    for other in others:
        assert not verify_mn_aaa(signed, mobile_aaa(signed), other, CHALLENGE)
    for subtype in (FA_FA, MN_GFA):
        foreign = append_generalized(UNSIGNED, subtype, ASSOCIATION)
        assert not verify_mn_aaa(foreign, mobile_aaa(foreign), ASSOCIATION, CHALLENGE)
    by_chap = sign_mn_aaa(UNSIGNED, CHAP, CHALLENGE)
    assert not verify_mn_aaa(by_chap, mobile_aaa(by_chap), ASSOCIATION, CHALLENGE)
    assert not verify_mn_aaa(by_chap, mobile_aaa(by_chap), ChapKey(b"\x12" * 16), CHALLENGE)


def test_a_built_extension_cannot_be_verified() -> None:
    built = GeneralizedAuthentication(MN_AAA, CHAP_SPI, bytes(16))
    with pytest.raises(ValueError, match="not decoded"):
        verify_mn_aaa(UNSIGNED, built, CHAP, CHALLENGE)


def test_a_chap_key_is_long_enough_and_stays_hidden() -> None:
    with pytest.raises(AssociationError):
        ChapKey(bytes(15))
    secret = b"sixteen bytes !!"
    assert repr(secret)[2:-1] not in repr(ChapKey(secret))
    with pytest.raises(TypeError):
        pickle.dumps(ChapKey(secret))
