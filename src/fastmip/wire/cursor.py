"""A bounds-checked reader over received bytes; nothing reads past the end by accident."""

from __future__ import annotations

import struct
from typing import Final

from fastmip.errors import WireError

_U16: Final = struct.Struct("!H")
_U32: Final = struct.Struct("!I")
_U64: Final = struct.Struct("!Q")


class Truncated(WireError):
    """Fewer bytes are left than a field needs."""

    def __init__(self, offset: int, needed: int, left: int) -> None:
        super().__init__(f"{needed} bytes needed at offset {offset}, {left} left")


class Cursor:
    """Read big-endian fields one after the other from ``data[offset:end]``.

    Every method raises Truncated when the bytes are not there, and then moves nothing.
    """

    __slots__ = ("_data", "end", "offset")

    def __init__(self, data: bytes, offset: int = 0, end: int | None = None) -> None:
        """Start at ``offset``; ``end`` (default: the end of data) is never passed."""
        self._data = data
        self.offset = offset
        self.end = len(data) if end is None else end
        if not 0 <= offset <= self.end <= len(data):
            raise Truncated(offset, self.end - offset, len(data) - offset)

    @property
    def remaining(self) -> int:
        """Bytes left."""
        return self.end - self.offset

    def _advance(self, size: int) -> int:
        start = self.offset
        if size < 0 or size > self.end - start:
            raise Truncated(start, size, self.end - start)
        self.offset = start + size
        return start

    def u8(self) -> int:
        """Read one byte."""
        return self._data[self._advance(1)]

    def u16(self) -> int:
        """Read a 16-bit integer."""
        value: int = _U16.unpack_from(self._data, self._advance(2))[0]
        return value

    def u32(self) -> int:
        """Read a 32-bit integer, also an IPv4 address."""
        value: int = _U32.unpack_from(self._data, self._advance(4))[0]
        return value

    def u64(self) -> int:
        """Read a 64-bit integer."""
        value: int = _U64.unpack_from(self._data, self._advance(8))[0]
        return value

    def take(self, size: int) -> bytes:
        """Read exactly ``size`` bytes."""
        start = self._advance(size)
        return self._data[start : start + size]

    def rest(self) -> bytes:
        """Read everything up to the end."""
        return self.take(self.end - self.offset)

    def restrict_to(self, size: int) -> Cursor:
        """Return a cursor over exactly the next ``size`` bytes and step over them.

        An extension decoded through it can neither read into the next one nor, when the
        caller checks ``remaining``, leave bytes of its own unread.
        """
        start = self._advance(size)
        return Cursor(self._data, start, start + size)
