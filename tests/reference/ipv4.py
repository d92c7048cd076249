"""IPv4 bytes the slow, obvious way: the engine's tests are judged by this, and it by scapy."""

from __future__ import annotations

import struct


def checksum(data: bytes) -> int:
    """RFC 1071 over 16-bit big-endian words."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def header(
    source: int,
    destination: int,
    protocol: int,
    payload_len: int,
    *,
    ttl: int = 64,
    tos: int = 0,
    identification: int = 0,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """A header with a right checksum; ``fragment`` is the whole flags/offset field."""
    length = 20 + len(options)
    raw = struct.pack(
        ">BBHHHBBHII",
        0x40 | length // 4,
        tos,
        length + payload_len,
        identification,
        fragment,
        ttl,
        protocol,
        0,
        source,
        destination,
    )
    return with_checksum(raw + options)


def with_checksum(raw: bytes) -> bytes:
    """The header with its checksum field made right."""
    blank = raw[:10] + b"\0\0" + raw[12:]
    return blank[:10] + struct.pack(">H", checksum(blank)) + blank[12:]


class Header:
    """The fields of a header that has passed `problem`."""

    def __init__(self, packet: bytes) -> None:
        self.length = (packet[0] & 15) * 4
        self.tos = packet[1]
        self.total, self.identification, self.fragment = struct.unpack(">HHH", packet[2:8])
        self.ttl, self.protocol = packet[8], packet[9]
        self.source, self.destination = struct.unpack(">II", packet[12:20])
        self.raw = packet[: self.length]
        self.payload = packet[self.length : self.total]

    @property
    def dont_fragment(self) -> bool:
        """The DF bit."""
        return bool(self.fragment & 0x4000)


def problem(packet: bytes, *, checksum_done: bool = False) -> str | None:
    """Why these bytes are no IPv4 packet: the engine's verdict without ``drop-``."""
    if not packet:
        return "truncated"
    if packet[0] >> 4 != 4:
        return "not-ipv4"
    if len(packet) < 20:
        return "truncated"
    fields = Header(packet)
    if fields.length < 20 or fields.total < fields.length:
        return "header"
    if fields.total > len(packet):
        return "truncated"
    if not checksum_done and checksum(fields.raw) != 0:
        return "checksum"
    return None


def change(
    packet: bytes, *, ttl: int | None = None, tos: int | None = None, fragment: int | None = None
) -> bytes:
    """The packet with another TTL, TOS or fragment field and the checksum recomputed."""
    fields = Header(packet)
    raw = bytearray(fields.raw)
    if ttl is not None:
        raw[8] = ttl
    if tos is not None:
        raw[1] = tos
    if fragment is not None:
        raw[6:8] = struct.pack(">H", fragment)
    return with_checksum(bytes(raw)) + packet[fields.length :]


def is_martian(address: int) -> bool:
    """Source that is no unicast host (RFC 1812 5.3.7)."""
    first = address >> 24
    return first in {0, 127} or first >= 224


def is_fragment(packet: bytes) -> bool:
    """More fragments follow, or some came before."""
    return bool(Header(packet).fragment & 0x3FFF)


def fragments(packet: bytes, mtu: int) -> list[bytes] | None:
    """RFC 791 3.2 fragmentation; None if not even eight octets fit."""
    fields = Header(packet)
    if mtu < fields.length + 8:
        return None
    later_options = copied_options(fields.raw[20:])
    more_after = fields.fragment & 0x2000
    offset = fields.fragment & 0x1FFF
    pieces, left, options = [], fields.payload, fields.raw[20:]
    while True:
        room = mtu - 20 - len(options)
        part = left if len(left) <= room else left[: room // 8 * 8]
        left = left[len(part) :]
        flags = 0x2000 if left else more_after
        pieces.append(
            header(
                fields.source,
                fields.destination,
                fields.protocol,
                len(part),
                ttl=fields.ttl,
                tos=fields.tos,
                identification=fields.identification,
                fragment=flags | offset,
                options=options,
            )
            + part
        )
        if not left:
            return pieces
        offset += len(part) // 8
        options = later_options


def copied_options(options: bytes) -> bytes:
    """The options with the copied flag, padded to four octets."""
    kept, at = b"", 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            break
        if options[at] & 0x80:
            kept += options[at : at + length]
        at += length
    return kept + bytes(-len(kept) % 4)
