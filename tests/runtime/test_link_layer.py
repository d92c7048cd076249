"""Packets built by hand: scapy reads them and finds every checksum right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw
from tests.helpers.handmade import address

from fastmip.agents.effects import Endpoint
from fastmip.runtime.link_layer import (
    checksum,
    group_mac,
    icmp_packet,
    udp_checksum_is_right,
    udp_packet,
)

A = Endpoint(address("10.3.1.1"), 434)
B = Endpoint(address("10.1.0.5"), 40000)


@given(st.binary(max_size=200))
def test_a_datagram_is_what_scapy_would_have_built(data: bytes) -> None:
    packet = udp_packet(data, A, B, ttl=255, identification=7)
    twin = IP(src="10.3.1.1", dst="10.1.0.5", ttl=255, id=7) / UDP(sport=434, dport=40000)
    assert packet == bytes(twin / Raw(data) if data else twin)
    assert udp_checksum_is_right(packet, 20)


@given(st.binary(min_size=1, max_size=60), st.integers(20, 27), st.integers(0, 7))
def test_a_flipped_bit_is_seen(data: bytes, where: int, bit: int) -> None:
    packet = bytearray(udp_packet(data, A, B, ttl=64, identification=1))
    packet[where] ^= 1 << bit
    if packet[26:28] != b"\0\0":
        assert not udp_checksum_is_right(bytes(packet), 20)


def test_no_checksum_is_accepted() -> None:
    packet = bytearray(udp_packet(b"abc", A, B, ttl=64, identification=1))
    packet[26:28] = b"\0\0"
    assert udp_checksum_is_right(bytes(packet), 20)


def test_an_icmp_message_gets_a_header_only() -> None:
    packet = icmp_packet(b"\x0a\x00\xf5\xff\0\0\0\0", A.address, B.address, ttl=1, identification=2)
    assert packet[20:] == b"\x0a\x00\xf5\xff\0\0\0\0"
    assert checksum(packet[:20]) == 0
    assert packet[8:10] == b"\x01\x01"


@pytest.mark.parametrize(
    ("host", "mac"),
    [
        ("255.255.255.255", "ffffffffffff"),
        ("224.0.0.1", "01005e000001"),
        ("224.0.0.11", "01005e00000b"),
        ("239.255.1.2", "01005e7f0102"),
    ],
)
def test_groups_have_their_link_layer_address(host: str, mac: str) -> None:
    assert group_mac(address(host)) == bytes.fromhex(mac)


def test_one_host_has_none_by_itself() -> None:
    assert group_mac(address("10.1.0.5")) is None
