"""What holds of every extension: round trips, every cut, and unchanged transit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.test_vectors import EXPERIMENTS, VECTORS

from fastmip.wire.authext import AuthenticationExtension, GeneralizedAuthentication
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.experimental import NonSkippableExperiment, SkippableExperiment
from fastmip.wire.extensions import Extension, RawExtension, UnknownExtension
from fastmip.wire.foreign_error import ForeignAgentError
from fastmip.wire.mobile_network import MobileNetworkAcknowledgement, MobileNetworkRequest
from fastmip.wire.nai import MobileNodeNai, NaiCarrying
from fastmip.wire.registration import REQUEST_LEN, RegistrationRequest
from fastmip.wire.registry import CONTROL_EXTENSIONS, EXPERIMENTAL_EXTENSIONS
from fastmip.wire.revocation import RevocationSupport
from fastmip.wire.tunneling import (
    EncapsulatingDelivery,
    FirewallTraversal,
    UdpTunnelReply,
    UdpTunnelRequest,
)
from fastmip.wire.vendor import CriticalVendorExtension, NormalVendorExtension

U8, U16, U24, U32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 24, 32))
UNREGISTERED = st.sampled_from(sorted({*range(145, 255)} - CONTROL_EXTENSIONS.types))
EVERY = st.one_of(
    st.builds(AuthenticationExtension, st.sampled_from([32, 33, 34]), U32, st.binary(max_size=64)),
    st.builds(
        GeneralizedAuthentication,
        st.sampled_from([1, 2, 3]),
        U32,
        st.binary(min_size=16, max_size=300),
    ),
    st.builds(CriticalVendorExtension, U24, U16, st.binary(max_size=400)),
    st.builds(NormalVendorExtension, U24, U16, st.binary(max_size=247)),
    st.builds(UdpTunnelReply, U8, st.booleans(), U16),
    st.builds(UdpTunnelRequest, U8, U8),
    st.builds(ForeignAgentError, U8),
    st.builds(FirewallTraversal, U32, U32),
    st.just(EncapsulatingDelivery()),
    st.builds(MobileNodeNai, st.binary(max_size=255)),
    st.builds(NaiCarrying, st.sampled_from([1, 2, 3]), st.binary(max_size=254)),
    st.builds(MobileForeignChallenge, st.binary(max_size=255)),
    st.builds(RevocationSupport, st.booleans(), U32),
    st.builds(MobileNetworkRequest, U32, U8),
    st.builds(MobileNetworkAcknowledgement, U32, U8, U8, st.booleans()),
    st.builds(NonSkippableExperiment, U8, st.binary(max_size=400)),
    st.builds(SkippableExperiment, U8, st.binary(max_size=254)),
    st.builds(RawExtension, UNREGISTERED, data=st.binary(max_size=255)),
)
ALL_VECTORS = [bytes.fromhex(text) for text, _ in (VECTORS | EXPERIMENTS).values()]


@given(st.lists(EVERY, max_size=8))
def test_what_is_built_is_read_back_and_sent_on_unchanged(built: list[Extension]) -> None:
    wire = b"".join(extension.encode() for extension in built)
    extensions, malformed = EXPERIMENTAL_EXTENSIONS.decode(b"\xff" * 7 + wire, 7)
    assert list(extensions) == built
    assert [type(extension) for extension in extensions] == [type(one) for one in built]
    assert b"".join(extension.encode() for extension in extensions) == wire
    assert not malformed


def test_a_message_of_all_of_them_cut_at_every_length() -> None:
    whole = bytes((1,)) + bytes(REQUEST_LEN - 1) + b"".join(ALL_VECTORS)
    ends = [REQUEST_LEN]
    for vector in ALL_VECTORS:
        ends.append(ends[-1] + len(vector))
    for length in range(REQUEST_LEN, len(whole) + 1):
        decoded = RegistrationRequest.decode(whole[:length], EXPERIMENTAL_EXTENSIONS)
        assert decoded.malformed is (length not in ends)
        assert len(decoded.extensions) == sum(end <= length for end in ends) - 1
        assert decoded.encode() == whole[: max(end for end in ends if end <= length)]


@pytest.mark.parametrize("wire", ALL_VECTORS, ids=lambda wire: wire.hex()[:16])
def test_a_body_of_any_other_length_is_read_or_kept_raw(wire: bytes) -> None:
    long = wire[0] in (36, 38, 127, 139)
    header = 4 if long else 2
    for length in range(len(wire) - header + 4):
        body = (wire[header:] + bytes(4))[:length]
        framed = wire[:2] + len(body).to_bytes(2) if long else bytes((wire[0], len(body)))
        (found, after), malformed = EXPERIMENTAL_EXTENSIONS.decode(framed + body + b"\x82\0", 0)
        assert found.encode() == framed + body
        assert after == EncapsulatingDelivery()
        assert malformed is (isinstance(found, RawExtension) and not _is_skipped(found))


def _is_skipped(found: RawExtension) -> bool:
    """Whether the extension was readable but is not understood: reserved bits of type 144."""
    return found.type == 144 and len(found.data) == 6


@given(st.binary(max_size=120), st.sampled_from(sorted(CONTROL_EXTENSIONS.types)), U8)
def test_whatever_stands_in_one_the_walk_goes_on(data: bytes, type_: int, subtype: int) -> None:
    message = RegistrationRequest(0, 1, 2, 3, 4, 5).encode()
    wire = message + bytes((type_, subtype)) + data
    try:
        decoded = RegistrationRequest.decode(wire)
    except UnknownExtension:
        return
    read = b"".join(extension.encode() for extension in decoded.extensions)
    assert wire[REQUEST_LEN:].startswith(read)
    assert decoded.malformed or message + read == wire
