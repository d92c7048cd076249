"""IP in IP, GRE, minimal encapsulation and UDP tunnels, written out plainly from the RFCs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.reference.ipv4 import Header, checksum, header, is_fragment, with_checksum

IPIP, GRE, MINIMAL, UDP = 4, 47, 55, 17
UNKNOWN_PORT = 0xFFFF
OVERHEAD = {IPIP: 20, GRE: 24, MINIMAL: 12}


@dataclass
class Method:
    """How a tunnel wraps packets."""

    encapsulation: int = IPIP
    gre_key: int | None = None
    remote_port: int = 0
    local_port: int = 0

    @property
    def overhead(self) -> int:
        """Octets put in front of a packet."""
        udp = 12 if self.remote_port else 0
        return OVERHEAD[self.encapsulation] + udp + (4 if self.gre_key is not None else 0)

    def falls_back(self, packet: bytes) -> bool:
        """Goes by IP in IP though minimal encapsulation was negotiated.

        A fragment has no place for two fragment fields (RFC 2004 3); in UDP nobody tells the
        receiver of DF.
        """
        may_be_cut = not Header(packet).dont_fragment
        in_udp = bool(self.remote_port) and may_be_cut
        return self.encapsulation == MINIMAL and (is_fragment(packet) or in_udp)


def wrapped(packet: bytes, method: Method, local: int, remote: int, ttl: int, tos: int) -> bytes:
    """The whole outer packet; ``tos`` and ``ttl`` are for an outer header of its own."""
    if method.encapsulation == MINIMAL and not method.falls_back(packet):
        return minimal(packet, method, local, remote)
    shim = b""
    protocol = IPIP
    if method.encapsulation == GRE:
        protocol = GRE
        shim = struct.pack(">HH", 0, 0x0800)
        if method.gre_key is not None:
            shim = struct.pack(">HHI", 0x2000, 0x0800, method.gre_key)
    carried = shim + packet
    if method.remote_port:
        carried = udp(method, protocol, carried)
        protocol = UDP
    return (
        header(local, remote, protocol, len(carried), ttl=ttl, tos=tos, fragment=0x4000) + carried
    )


def udp(method: Method, next_header: int, carried: bytes) -> bytes:
    """RFC 3519 3.3 in RFC 768."""
    ports = (method.local_port, method.remote_port)
    return struct.pack(">HHHHBBH", *ports, 12 + len(carried), 0, 4, next_header, 0) + carried


def minimal(packet: bytes, method: Method, local: int, remote: int) -> bytes:
    """RFC 2004 3."""
    fields = Header(packet)
    flag = 0 if fields.source == local else 0x80
    rest = struct.pack(">I", fields.destination)
    if flag:
        rest += struct.pack(">I", fields.source)
    forwarding = struct.pack(">BBH", fields.protocol, flag, 0) + rest
    forwarding = forwarding[:2] + struct.pack(">H", checksum(forwarding)) + forwarding[4:]
    carried = forwarding + fields.payload
    protocol = MINIMAL
    if method.remote_port:
        carried = udp(method, MINIMAL, carried)
        protocol = UDP
    return with_fields(fields, protocol, local, remote, len(carried)) + carried


def with_fields(fields: Header, protocol: int, source: int, destination: int, size: int) -> bytes:
    """The header with another protocol, other addresses and the length for ``size`` octets."""
    raw = bytearray(fields.raw)
    raw[2:4] = struct.pack(">H", (fields.length + size) & 0xFFFF)
    raw[9] = protocol
    raw[12:20] = struct.pack(">II", source, destination)
    return with_checksum(bytes(raw))


@dataclass
class Carried:
    """What a tunnel packet holds."""

    inner: bytes
    encapsulation: int
    udp: tuple[int, int] | None = None
    """Source and destination port."""
    key: int | None = None
    sequence: int | None = None


def opened(packet: bytes) -> Carried | str:
    """The contents of a tunnel packet with a good header, or the verdict on it."""
    fields = Header(packet)
    protocol, payload, ports = fields.protocol, fields.payload, None
    if protocol == UDP:
        reason = udp_problem(fields)
        if reason:
            return reason
        source, destination, length = struct.unpack(">HHH", payload[:6])
        ports = (source, destination)
        protocol, payload = payload[9], payload[12:length]
    if protocol == IPIP:
        return Carried(payload, IPIP, ports)
    if protocol == GRE:
        return opened_gre(payload, ports)
    if protocol == MINIMAL:
        return opened_minimal(fields, payload, ports)
    return "drop-encapsulation" if ports else "drop-not-tunnel"


def udp_problem(fields: Header) -> str | None:
    """RFC 768, and the type of RFC 3519 3.3."""
    payload = fields.payload
    if len(payload) < 12:
        return "drop-udp-truncated"
    length, found = struct.unpack(">HH", payload[4:8])
    if not 12 <= length <= len(payload):
        return "drop-udp-truncated"
    pseudo = struct.pack(">IIHH", fields.source, fields.destination, UDP, length)
    if found and checksum(pseudo + payload[:length]):
        return "drop-udp-checksum"
    return None if payload[8] == 4 else "drop-not-tunnel"


def opened_gre(payload: bytes, ports: tuple[int, int] | None) -> Carried | str:
    """RFC 2784 2, RFC 2890 2."""
    if len(payload) < 4:
        return "drop-gre-truncated"
    flags, protocol = struct.unpack(">HH", payload[:4])
    if flags & 7:
        return "drop-gre-version"
    if flags & 0x4C00:
        return "drop-gre-reserved"
    at = 8 if flags & 0x8000 else 4
    end = at + (4 if flags & 0x2000 else 0) + (4 if flags & 0x1000 else 0)
    if end > len(payload):
        return "drop-gre-truncated"
    if flags & 0x8000 and checksum(payload):
        return "drop-gre-checksum"
    if protocol != 0x0800:
        return "drop-gre-protocol"
    key = sequence = None
    if flags & 0x2000:
        key = int.from_bytes(payload[at : at + 4], "big")
    if flags & 0x1000:
        sequence = int.from_bytes(payload[end - 4 : end], "big")
    return Carried(payload[end:], GRE, ports, key, sequence)


def opened_minimal(fields: Header, payload: bytes, ports: tuple[int, int] | None) -> Carried | str:
    """RFC 2004 3: the fields go back where they came from."""
    size = 12 if len(payload) > 1 and payload[1] & 0x80 else 8
    if len(payload) < size:
        return "drop-minimal-truncated"
    if checksum(payload[:size]):
        return "drop-minimal-checksum"
    destination = int.from_bytes(payload[4:8], "big")
    source = int.from_bytes(payload[8:12], "big") if size == 12 else fields.source
    rest = payload[size:]
    return Carried(
        with_fields(fields, payload[0], source, destination, len(rest)) + rest, MINIMAL, ports
    )
