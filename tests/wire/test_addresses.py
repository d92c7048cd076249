"""Addresses against the standard library's, which the source deliberately does not use."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.wire import addresses
from fastmip.wire.addresses import AddressError

ADDRESS = st.integers(0, 2**32 - 1)


@given(ADDRESS)
def test_text_is_that_of_the_standard_library(address: int) -> None:
    text = str(ipaddress.IPv4Address(address))
    assert addresses.format_address(address) == text
    assert addresses.parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "10.1.0", "10.1.0.5.6", "10.1.0.256", "10.1.0.05", "0x0a.1.0.5", "10.1.0.5 "),
        *("10.1..5", "10.1.0.-5", "10.1.0.\u0665", "10.1.0.5\0", "10.1.0.+5", "::1"),
        *("167837701", "10.1.0.1000"),
    ],
)
def test_anything_but_a_dotted_quad_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        addresses.parse_address(text)


@given(st.text(st.sampled_from("0123456789. /x"), max_size=18))
def test_accepts_exactly_what_the_standard_library_accepts(text: str) -> None:
    try:
        expected: int | None = int(ipaddress.IPv4Address(text))
    except ValueError:
        expected = None
    try:
        found: int | None = addresses.parse_address(text)
    except AddressError:
        found = None
    assert found == expected


@pytest.mark.parametrize("address", [-1, 2**32])
def test_an_integer_that_is_no_address_is_refused(address: int) -> None:
    with pytest.raises(AddressError):
        addresses.format_address(address)


@given(ADDRESS, st.integers(0, 32))
def test_networks_are_those_of_the_standard_library(address: int, length: int) -> None:
    network = ipaddress.IPv4Network((address, length), strict=False)
    prefix = int(network.network_address)
    assert addresses.parse_network(str(network)) == (prefix, length)
    assert addresses.format_network(prefix, length) == str(network)
    assert addresses.prefix_mask(length) == int(network.netmask)
    assert addresses.in_network(address, prefix, length)
    if length < 31:
        assert addresses.network_broadcast(prefix, length) == int(network.broadcast_address)
    if prefix != address:
        with pytest.raises(AddressError, match="host bits"):
            addresses.parse_network(f"{ipaddress.IPv4Address(address)}/{length}")


@given(ADDRESS, ADDRESS, st.integers(0, 32))
def test_membership_is_that_of_the_standard_library(one: int, other: int, length: int) -> None:
    network = ipaddress.IPv4Network((one, length), strict=False)
    expected = ipaddress.IPv4Address(other) in network
    assert addresses.in_network(other, int(network.network_address), length) is expected


@pytest.mark.parametrize(
    "text", ["10.1.0.0", "10.1.0.0/", "10.1.0.0/33", "10.1.0.0/-1", "10.1.0.0/8/8", "10.1.0.0/ 24"]
)
def test_a_network_needs_a_length_in_range(text: str) -> None:
    with pytest.raises(AddressError):
        addresses.parse_network(text)


@pytest.mark.parametrize("length", [31, 32])
def test_a_network_without_broadcast_address_reports_one_no_host_has(length: int) -> None:
    assert addresses.network_broadcast(0x0A010004, length) == addresses.LIMITED_BROADCAST


@pytest.mark.parametrize(
    ("text", "unicast", "multicast", "loopback"),
    [
        ("0.0.0.0", False, False, False),  # noqa: S104 - an address under test, not a bind
        ("0.255.255.255", False, False, False),
        ("1.0.0.0", True, False, False),
        ("126.255.255.255", True, False, False),
        ("127.0.0.1", True, False, True),
        ("128.0.0.0", True, False, False),
        ("223.255.255.255", True, False, False),
        ("224.0.0.0", False, True, False),
        ("239.255.255.255", False, True, False),
        ("240.0.0.0", False, False, False),
        ("255.255.255.255", False, False, False),
    ],
)
def test_kinds_of_address(text: str, unicast: bool, multicast: bool, loopback: bool) -> None:
    address = addresses.parse_address(text)
    assert addresses.is_unicast(address) is unicast
    assert addresses.is_multicast(address) is multicast
    assert addresses.is_loopback(address) is loopback


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("10.0.0.0", "10.255.255.255"),
        ("172.16.0.0", "172.31.255.255"),
        ("192.168.0.0", "192.168.255.255"),
    ],
)
def test_private_addresses_are_those_of_rfc1918_3(first: str, last: str) -> None:
    low, high = addresses.parse_address(first), addresses.parse_address(last)
    assert addresses.is_private(low)
    assert addresses.is_private(high)
    assert not addresses.is_private(low - 1)
    assert not addresses.is_private(high + 1)
