"""How the capture tells tunnels apart."""

from __future__ import annotations

import struct

import pytest

from fastmip.runtime.demo.capture import Sighting, TunnelPackets, classify, encapsulation_of
from fastmip.runtime.demo.measure import Recorder

ETHERNET = bytes(12) + b"\x08\x00"


def _ip(protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    fields = (0x45, 0, 20 + len(payload), 0, fragment, 64, protocol, 0, bytes(4), bytes(4))
    return ETHERNET + struct.pack("!BBHHHBBH4s4s", *fields) + payload


def _udp(source: int, destination: int, payload: bytes) -> bytes:
    return _ip(17, struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (_ip(4, bytes(20)), "ipip"),
        (_ip(55, bytes(20)), "minimal"),
        (_ip(47, bytes(20)), "gre"),
        (_udp(434, 5000, b"\x04\x04\0\0" + bytes(20)), "udp-ipip"),
        (_udp(5000, 434, b"\x04\x37\0\0" + bytes(20)), "udp-minimal"),
        (_udp(434, 434, b"\x04\x2f\0\0" + bytes(20)), "udp-gre"),
        (_udp(434, 434, b"\x04\x29\0\0" + bytes(20)), "udp-unknown"),
        (_udp(435, 436, b"\x04\x04\0\0" + bytes(20)), ""),
        (_ip(17, bytes(12), fragment=1), ""),
        (_ip(6, bytes(20)), ""),
        (bytes(60), ""),
        (ETHERNET, ""),
    ],
)
def test_a_tunnel_is_known_by_protocol_or_type(frame: bytes, expected: str) -> None:
    assert encapsulation_of(frame) == expected


def test_tunnel_data_on_the_registration_port_is_no_registration() -> None:
    assert classify(_udp(434, 5000, b"\x04\x04\0\0" + bytes(20))) == "data"
    assert classify(_udp(434, 5000, b"\x03" + bytes(19))) == "registration"


def test_tunnels_are_counted_by_tap_and_time() -> None:
    recorder = Recorder([])
    reports: list[Sighting] = [
        TunnelPackets("one", 10, "10.1.0.1", "10.3.1.1", "gre", 3),
        TunnelPackets("one", 20, "10.1.0.1", "10.3.1.1", "gre", 4),
        TunnelPackets("two", 20, "10.1.0.1", "10.3.1.1", "gre", 5),
        TunnelPackets("one", 30, "10.1.0.1", "10.3.1.1", "ipip", 6),
    ]
    for report in reports:
        recorder.take(report)
    assert recorder.tunnels_seen("one", 10, 30) == {("10.1.0.1", "10.3.1.1", "gre"): 7}
