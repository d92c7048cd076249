"""UDP tunnels (RFC 3519 3), delivery style (RFC 3024 3.3) and traversal (RFC 2356 7.3)."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import GRE
from scapy.layers.mobileip import MobileIP, MobileIPTunnelData
from tests.reference.encapsulations import Method, wrapped

from fastmip.errors import WireError
from fastmip.wire.extensions import RawExtension
from fastmip.wire.registry import CONTROL_EXTENSIONS
from fastmip.wire.tunneling import (
    FORCED,
    REQUIRED,
    EncapsulatingDelivery,
    FirewallTraversal,
    TunnelData,
    UdpTunnelReply,
    UdpTunnelRequest,
)


def request(
    sub: int = 0, reserved1: int = 0, flags: int = 0, protocol: int = 0, reserved3: int = 0
) -> bytes:
    """A UDP Tunnel Request by the figure of RFC 3519 3.1."""
    return struct.pack("!BBBBBBH", 144, 6, sub, reserved1, flags, protocol, reserved3)


def reply(sub: int = 0, code: int = 0, flags: int = 0, keepalive: int = 0) -> bytes:
    """A UDP Tunnel Reply by the figure of RFC 3519 3.2."""
    return struct.pack("!BBBBHH", 44, 6, sub, code, flags, keepalive)


@pytest.mark.parametrize("flags", [0, FORCED, REQUIRED, FORCED | REQUIRED])
@pytest.mark.parametrize("protocol", [0, 4, 47, 55])
def test_request_layout_rfc3519_3_1(flags: int, protocol: int) -> None:
    built = UdpTunnelRequest(flags, protocol)
    assert built.encode() == request(flags=flags, protocol=protocol)
    assert CONTROL_EXTENSIONS.decode(built.encode(), 0) == ((built,), False)
    assert (built.is_forced, built.is_through_agent) == (bool(flags & 0x80), bool(flags & 0x40))


def test_the_first_two_reserved_fields_are_ignored_rfc3519_3_1_3() -> None:
    wire = request(reserved1=0xFF, flags=0xBF, protocol=4)
    (found,), malformed = CONTROL_EXTENSIONS.decode(wire, 0)
    assert isinstance(found, UdpTunnelRequest)
    assert (found.is_forced, found.is_through_agent, found.encapsulation) == (True, False, 4)
    assert found.encode() == wire
    assert not malformed


@pytest.mark.parametrize("reserved3", [1, 0x8000, 0xFFFF])
def test_the_third_reserved_field_has_it_skipped_rfc3519_3_1_3_c09(reserved3: int) -> None:
    wire = request(reserved1=3, flags=FORCED, protocol=4, reserved3=reserved3)
    (kept,), malformed = CONTROL_EXTENSIONS.decode(wire, 0)
    assert kept == RawExtension(144, data=wire[2:])
    assert kept.encode() == wire
    assert not malformed


def test_a_request_of_another_subtype_is_skipped() -> None:
    wire = request(sub=1)
    assert CONTROL_EXTENSIONS.decode(wire, 0) == ((RawExtension(144, data=wire[2:]),), False)


@pytest.mark.parametrize("code", [0, 63, 64, 255])
def test_reply_layout_and_what_its_codes_mean_rfc3519_3_2(code: int) -> None:
    built = UdpTunnelReply(code, True, 110)
    assert built.encode() == reply(code=code, flags=0x8000, keepalive=110)
    assert CONTROL_EXTENSIONS.decode(built.encode(), 0) == ((built,), False)
    assert built.is_accepted is (code <= 63)


def test_reserved_bits_of_a_reply_are_ignored_rfc3519_3_2() -> None:
    assert CONTROL_EXTENSIONS.decode(reply(flags=0x7FFF), 0) == ((UdpTunnelReply(),), False)


@pytest.mark.parametrize("protocol", [4, 47, 55, 0, 255])
def test_tunnel_data_header_is_scapys_rfc3519_3_3(protocol: int) -> None:
    header = TunnelData.encode_header(protocol)
    assert header == bytes(MobileIP() / MobileIPTunnelData(nexthdr=protocol))
    assert TunnelData.decode_header(header + b"packet") == protocol
    assert TunnelData.decode_header(header[:2] + b"\xff\xff") == protocol, "reserved is ignored"


@pytest.mark.parametrize("data", [b"", b"\x04", b"\x04\x04\0", b"\x01\x04\0\0", b"\x03\x04\0\0"])
def test_what_is_no_tunnel_data_is_told(data: bytes) -> None:
    with pytest.raises(WireError):
        TunnelData.decode_header(data)


@pytest.mark.parametrize("protocol", [-1, 256])
def test_a_next_header_is_a_byte(protocol: int) -> None:
    with pytest.raises(WireError):
        TunnelData.encode_header(protocol)


@pytest.mark.parametrize("flags", ["", "DF"])
@pytest.mark.parametrize("protocol", [4, 47, 55])
def test_a_packet_is_wrapped_as_scapy_and_the_reference_do_rfc3519_3_3(
    protocol: int, flags: str
) -> None:
    packet = bytes(IP(src="10.1.0.5", dst="10.1.0.1", ttl=64, flags=flags) / ICMP() / b"ab")
    found = TunnelData.wrap(protocol, packet)
    assert found == wrapped(packet, Method(protocol, None, 434, 434), 1, 2, 64, 0)[28:]
    if protocol == 47:
        assert found == bytes(MobileIP() / MobileIPTunnelData(nexthdr=47) / GRE() / IP(packet))


def test_delivery_style_has_no_data_rfc3024_3_3() -> None:
    assert EncapsulatingDelivery().encode() == b"\x82\0"
    (kept,), malformed = CONTROL_EXTENSIONS.decode(b"\x82\x01\0", 0)
    assert isinstance(kept, RawExtension)
    assert malformed


def test_traversal_layout_rfc2356_7_3() -> None:
    built = FirewallTraversal(0x0A050001, 0x0A060001)
    assert built.encode() == struct.pack("!BBHII", 129, 10, 0, 0x0A050001, 0x0A060001)
    wire = struct.pack("!BBHII", 129, 10, 0xFFFF, 1, 2)
    assert CONTROL_EXTENSIONS.decode(wire, 0) == ((FirewallTraversal(1, 2),), False)


@pytest.mark.parametrize(
    "extension",
    [
        UdpTunnelRequest(256),
        UdpTunnelRequest(0, 256),
        UdpTunnelReply(256),
        UdpTunnelReply(0, False, 65536),
        FirewallTraversal(2**32, 0),
    ],
)
def test_a_field_out_of_range_cannot_be_encoded(
    extension: UdpTunnelRequest | UdpTunnelReply | FirewallTraversal,
) -> None:
    with pytest.raises(WireError):
        extension.encode()
