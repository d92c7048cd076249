"""Host configuration of RFC 4332: byte for byte by hand, and back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.errors import WireError
from fastmip.wire.extensions import Extension
from fastmip.wire.host_configuration import (
    HostConfiguration,
    read_host_configuration,
    request_host_configuration,
    wants_host_configuration,
)
from fastmip.wire.registry import CONTROL_EXTENSIONS
from fastmip.wire.vendor import NormalVendorExtension

ADDRESS = st.integers(1, 0xFFFFFFFF)
TEXT = st.binary(min_size=0, max_size=245)


def item(sub_type: int, data: bytes) -> bytes:
    """An extension by hand (RFC 4332 3)."""
    return struct.pack("!BBHIHH", 134, 10 + len(data), 0, 9, 14, sub_type) + data


def decoded(data: bytes) -> tuple[Extension, ...]:
    extensions, malformed = CONTROL_EXTENSIONS.decode(data, 0)
    assert not malformed
    return extensions


WHOLE = HostConfiguration(
    24,
    (0x0A010035, 0x0A010036),
    0x0A010043,
    b"\x01mn@wustl.edu",
    0x0A010001,
    b"wustl.edu",
    b"https://a.b/c",
)


def test_every_sub_type_rfc4332_3() -> None:
    assert request_host_configuration().build() == item(0, b"\0\0")
    assert len(item(0, b"\0\0")) == 14
    assert WHOLE.build() == (
        item(1, bytes.fromhex("0018"))
        + item(2, bytes.fromhex("0a010035 0a010036"))
        + item(3, bytes.fromhex("0a010043"))
        + item(5, bytes.fromhex("0a010001"))
        + item(4, b"\x01mn@wustl.edu")
        + item(6, b"wustl.edu")
        + item(7, b"https://a.b/c")
    )
    assert read_host_configuration(decoded(WHOLE.build())) == WHOLE


@given(
    st.none() | st.integers(0, 32),
    st.lists(ADDRESS, max_size=2).map(tuple),
    st.just(0) | ADDRESS,
    st.just(b"") | st.binary(min_size=2, max_size=245),
    st.just(0) | ADDRESS,
    TEXT,
    TEXT,
)
def test_what_is_told_comes_back(
    length: int | None,
    dns: tuple[int, ...],
    server: int,
    client_id: bytes,
    gateway: int,
    suffix: bytes,
    url: bytes,
) -> None:
    told = HostConfiguration(length, dns, server, client_id, gateway, suffix, url)
    expected = None if told == HostConfiguration() else told
    assert read_host_configuration(decoded(told.build())) == expected


@pytest.mark.parametrize(
    "data",
    [
        item(1, b"\x18"),
        item(1, b"\0\x21"),
        item(2, bytes(4)),
        item(2, bytes(8)),
        item(3, bytes(5)),
        item(4, b"x"),
        item(5, b""),
        item(8, b"what is to come"),
        item(0, b"\0\0"),
        struct.pack("!BBHIH", 134, 9, 0, 9, 14) + b"\0",
        struct.pack("!BBHIHHH", 134, 12, 0, 10, 14, 1, 24),
    ],
)
def test_what_makes_no_sense_is_passed_over(data: bytes) -> None:
    assert read_host_configuration(decoded(data)) is None
    told = read_host_configuration(decoded(data + item(6, b"wustl.edu")))
    assert told == HostConfiguration(dns_suffix=b"wustl.edu")


def test_what_does_not_fit_is_not_built() -> None:
    for told in (
        HostConfiguration(33),
        HostConfiguration(dns_servers=(1, 2, 3)),
        HostConfiguration(url=bytes(246)),
    ):
        with pytest.raises(WireError):
            told.build()


def test_only_the_selector_that_is_defined_asks() -> None:
    assert wants_host_configuration(request_host_configuration())
    assert not wants_host_configuration(request_host_configuration(1))
    assert not wants_host_configuration(NormalVendorExtension(9, 15, bytes(4)))
