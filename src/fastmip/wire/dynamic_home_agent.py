"""Dynamic Home Agent (139, RFC 4433 3.4): which home agent is wanted, or where to go instead.

It is drawn with a two-byte length although its type is skippable (C-15); some peers and Wireshark
take it for the short format. We read both and write what the RFC draws.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from fastmip.errors import WireError
from fastmip.wire.addresses import LIMITED_BROADCAST, UNSPECIFIED
from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension

REQUESTED: Final = 1
REDIRECTED: Final = 2
ANY_HOME_AGENT: Final = (UNSPECIFIED, LIMITED_BROADCAST)
"""Home Agent fields that ask for one: anywhere, or in the home domain (RFC 4433 2)."""

_LONG: Final = struct.Struct("!BBHI")
_BODY_LEN: Final = 4


@dataclass(frozen=True, slots=True)
class DynamicHomeAgent(Extension):
    """Both extensions: subtype 1 in requests, 2 in replies with code 143."""

    type: int = field(default=int(ExtensionType.DYNAMIC_HOME_AGENT), init=False)
    subtype: int
    address: int

    @classmethod
    def decode(cls, _type: int, subtype: int, body: Cursor) -> DynamicHomeAgent:
        """Decode the address."""
        return cls(subtype, body.u32())

    def build(self) -> bytes:
        """Return the extension as RFC 4433 draws it; WireError if a field is out of range."""
        try:
            return _LONG.pack(self.type, self.subtype, _BODY_LEN, self.address)
        except struct.error as error:
            raise WireError(f"dynamic home agent: {error}") from error


def requested(address: int) -> DynamicHomeAgent:
    """The Requested HA Extension (3.4.1)."""
    return DynamicHomeAgent(REQUESTED, address)


def redirected(address: int) -> DynamicHomeAgent:
    """The Redirected HA Extension (3.4.2)."""
    return DynamicHomeAgent(REDIRECTED, address)
