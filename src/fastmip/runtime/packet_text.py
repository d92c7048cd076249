"""One packet in one line: its headers from the outermost in. For people; nothing is verified."""

from __future__ import annotations

import ipaddress
from typing import Final

from fastmip.runtime.packet_filter import PROTOCOLS

_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}
_MIN_HEADER_LEN: Final = 20
_MAX_LAYERS: Final = 6
_PORTS: Final = (6, 17, 132)
_TUNNEL_DATA: Final = 4
"""Type of a Mobile IP tunnel data message (RFC 3519)."""
_UDP_SHIM_LEN: Final = 12
_ICMP_TYPES: Final = {
    0: "echo reply",
    3: "unreachable",
    5: "redirect",
    8: "echo request",
    11: "time exceeded",
}


def describe_packet(data: bytes, length: int) -> str:
    """Addresses, protocols and ports of an IPv4 packet of which the beginning is at hand."""
    parts: list[str] = []
    _ipv4(data, parts)
    return " | ".join(parts) + f", {length} bytes" if parts else f"no IPv4 packet, {length} bytes"


def _ipv4(data: bytes, parts: list[str]) -> None:
    header_len = (data[0] & 15) * 4 if data else 0
    if len(parts) >= _MAX_LAYERS:
        return
    if len(data) < _MIN_HEADER_LEN or data[0] >> 4 != _TUNNEL_DATA or header_len < _MIN_HEADER_LEN:
        if parts:
            parts.append("cut short" if len(data) < _MIN_HEADER_LEN else "no IPv4")
        return
    field = int.from_bytes(data[6:8], "big")
    notes = f"ttl {data[8]}" + (" df" if field & 0x4000 else "")
    protocol = data[9]
    parts.append(f"{_address(data[12:16])} > {_address(data[16:20])} {notes}")
    if field & 0x3FFF:
        parts.append(f"fragment at {(field & 0x1FFF) * 8} of {_name(protocol)}")
        return
    _payload(protocol, data[header_len:], parts)


def _payload(protocol: int, data: bytes, parts: list[str]) -> None:
    name = _name(protocol)
    if protocol == PROTOCOLS["ipip"]:
        parts.append(name)
        _ipv4(data, parts)
    elif protocol == PROTOCOLS["gre"] and len(data) >= 4:
        flags = int.from_bytes(data[:2], "big")
        size = 4 + sum(4 for bit in (0x8000, 0x2000, 0x1000) if flags & bit)
        at = 8 if flags & 0x8000 else 4
        key = f" key {int.from_bytes(data[at : at + 4], 'big')}" if flags & 0x2000 else ""
        parts.append(name + key)
        _ipv4(data[size:], parts)
    elif protocol == PROTOCOLS["minimal"] and len(data) >= 8:
        size = 12 if data[1] & 0x80 else 8
        source = f"{_address(data[8:12])} > " if size <= len(data) and size > 8 else ""
        parts.append(f"{name} {source}{_address(data[4:8])}")
        _payload(data[0], data[size:], parts)
    elif protocol in _PORTS and len(data) >= 4:
        ports = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")
        parts.append(f"{name} {ports[0]} > {ports[1]}")
        is_tunnel = protocol == PROTOCOLS["udp"] and data[8:9] == bytes([_TUNNEL_DATA])
        if is_tunnel and 434 in ports and len(data) >= _UDP_SHIM_LEN:
            _payload(data[9], data[_UDP_SHIM_LEN:], parts)
    elif protocol == PROTOCOLS["icmp"] and len(data) >= 2:
        kind = _ICMP_TYPES.get(data[0], f"type {data[0]}")
        parts.append(f"{name} {kind}" + (f" code {data[1]}" if data[1] else ""))
    elif protocol == PROTOCOLS["esp"] and len(data) >= 4:
        parts.append(f"{name} spi {int.from_bytes(data[:4], 'big'):#x}")
    else:
        parts.append(name)


def _name(protocol: int) -> str:
    return _NAMES.get(protocol, f"protocol {protocol}")


def _address(data: bytes) -> str:
    return str(ipaddress.IPv4Address(data)) if len(data) == 4 else "?"
