"""Writing pcapng: one section, one interface per tap point, nanosecond timestamps.

Source: draft-ietf-opsawg-pcapng (section header, interface description, enhanced packet).
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

LINKTYPE_ETHERNET: Final = 1
LINKTYPE_RAW: Final = 101
"""Packets begin with their IP header."""
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE_DESCRIPTION = 1
_ENHANCED_PACKET = 6
_OPT_END = 0
_IF_NAME = 2
_IF_DESCRIPTION = 3
_IF_TSRESOL = 9
_SHB_USERAPPL = 4
_EPB_HEAD = struct.Struct("<IIIIIII")
_U32 = struct.Struct("<I")
_PAD = (b"", b"\0\0\0", b"\0\0", b"\0")


class PcapngWriter:
    """Append packets to a pcapng file; the interfaces are declared first."""

    def __init__(self, file: BinaryIO, application: str) -> None:
        self._file = file
        self._interfaces = 0
        body = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
        self._block(_SECTION_HEADER, body + _options((_SHB_USERAPPL, application.encode())))

    def add_interface(
        self,
        name: str,
        description: str,
        snap_length: int = 0,
        *,
        link_type: int = LINKTYPE_ETHERNET,
    ) -> int:
        """Declare a tap point; returns the number packets refer to.

        ``snap_length`` in bytes, 0 for none.
        """
        body = struct.pack("<HHI", link_type, 0, snap_length) + _options(
            (_IF_NAME, name.encode()),
            (_IF_DESCRIPTION, description.encode()),
            (_IF_TSRESOL, b"\x09"),
        )
        self._block(_INTERFACE_DESCRIPTION, body)
        self._interfaces += 1
        return self._interfaces - 1

    def packet(self, interface: int, wall_ns: int, data: bytes, length: int) -> None:
        """Append one packet: its first bytes and its length on the wire."""
        padded = data + _PAD[len(data) & 3]
        total = _EPB_HEAD.size + len(padded) + 4
        self._file.write(
            _EPB_HEAD.pack(
                _ENHANCED_PACKET,
                total,
                interface,
                wall_ns >> 32,
                wall_ns & 0xFFFFFFFF,
                len(data),
                length,
            )
            + padded
            + _U32.pack(total)
        )

    def _block(self, kind: int, body: bytes) -> None:
        total = 12 + len(body)
        self._file.write(struct.pack("<II", kind, total) + body + _U32.pack(total))


def _options(*options: tuple[int, bytes]) -> bytes:
    """Encode options, closed by the end-of-options marker; empty ones are left out."""
    encoded = b"".join(
        struct.pack("<HH", code, len(value)) + value + _PAD[len(value) & 3]
        for code, value in options
        if value
    )
    return encoded + struct.pack("<HH", _OPT_END, 0)
