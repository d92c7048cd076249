"""Revocation Support (RFC 3543 3.2); the messages are in ``fastmip.wire.revocation``."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from fastmip.errors import WireError
from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension, frame_simple

_SUPPORT_INFORM: Final = 0x8000
_SUPPORT: Final = struct.Struct("!HI")


@dataclass(frozen=True, slots=True)
class RevocationSupport(Extension):
    """Revocation Support (137, RFC 3543 3.2): the sender wants to hear of revocations."""

    type: int = field(default=int(ExtensionType.REVOCATION_SUPPORT), init=False)
    inform: bool
    """I: the home agent's word on whether the mobile node is told will be used."""
    timestamp: int
    """Of the sender's clock, 32 bits."""

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> RevocationSupport:
        """Decode flag and timestamp; a longer one is one of the future and read as far."""
        support = cls(bool(body.u16() & _SUPPORT_INFORM), body.u32())
        body.rest()
        return support

    def build(self) -> bytes:
        """Return the extension; WireError if the timestamp is out of range."""
        try:
            data = _SUPPORT.pack(_SUPPORT_INFORM * self.inform, self.timestamp)
        except struct.error as error:
            raise WireError(f"revocation support: {error}") from error
        return frame_simple(self.type, data)
