"""Authentication extensions: RFC 5944 3.5.2-3.5.4, and the generalized one of RFC 4721 5.

The layout alone: whether an authenticator is right is for ``fastmip.auth`` to say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Final

from fastmip.errors import WireError
from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension

HEADER_LEN: Final = 6
"""Type, length and SPI: what an authenticator covers of its own extension."""
MAX_AUTHENTICATOR_LEN: Final = 251
"""255 minus the SPI."""

GENERALIZED_HEADER_LEN: Final = 8
"""Type, subtype, 16-bit length and SPI of a generalized authentication extension."""
MIN_GENERALIZED_AUTHENTICATOR_LEN: Final = 16
"""The length MUST be at least 20, SPI included (RFC 4721 5)."""
MAX_GENERALIZED_AUTHENTICATOR_LEN: Final = 0xFFFF - 4

MN_AAA: Final = 1
"""Subtype of type 36: mobile node to AAA server (RFC 4721 5)."""
FA_FA: Final = 2
"""Subtype of type 36: between foreign agents (RFC 4857 11)."""
MN_GFA: Final = 3
"""Subtype of type 36: mobile node to gateway foreign agent (RFC 4857 11)."""

_HEADER: Final = struct.Struct("!BBI")
_GENERALIZED_HEADER: Final = struct.Struct("!BBHI")


@dataclass(frozen=True, slots=True)
class AuthenticationExtension(Extension):
    """Mobile-Home (32), Mobile-Foreign (33) or Foreign-Home (34) authentication."""

    header_len: ClassVar[int] = HEADER_LEN
    """Bytes of its own that its authenticator covers."""

    spi: int
    """Security Parameter Index, 32 bits."""
    authenticator: bytes
    """The message authentication code; never compare it with ``==``."""

    @classmethod
    def decode(cls, type_: int, body: Cursor) -> AuthenticationExtension:
        """Decode the data; Truncated when it has no SPI."""
        return cls(type_, body.u32(), body.rest())

    def build(self) -> bytes:
        """Return the extension; WireError if the authenticator is too long."""
        return authentication_header(self.type, self.spi, len(self.authenticator)) + (
            self.authenticator
        )


@dataclass(frozen=True, slots=True)
class GeneralizedAuthentication(Extension):
    """Generalized authentication (36), in the long format; the subtype says between whom."""

    type: int = field(default=int(ExtensionType.GENERALIZED_AUTHENTICATION), init=False)
    header_len: ClassVar[int] = GENERALIZED_HEADER_LEN
    """Bytes of its own that its authenticator covers."""

    subtype: int
    """MN_AAA, FA_FA or MN_GFA."""
    spi: int
    """Security Parameter Index, 32 bits; 2 is CHAP_SPI (RFC 4721 9)."""
    authenticator: bytes
    """The message authentication code; never compare it with ``==``."""

    @classmethod
    def decode(cls, _type: int, subtype: int, body: Cursor) -> GeneralizedAuthentication:
        """Decode the data; WireError when it is shorter than 20 bytes (RFC 4721 5)."""
        spi, authenticator = body.u32(), body.rest()
        if len(authenticator) < MIN_GENERALIZED_AUTHENTICATOR_LEN:
            raise WireError(f"generalized authenticator of {len(authenticator)} bytes")
        return cls(subtype, spi, authenticator)

    def build(self) -> bytes:
        """Return the extension; WireError if the authenticator does not fit."""
        header = generalized_header(self.subtype, self.spi, len(self.authenticator))
        return header + self.authenticator


def authentication_header(type_: int, spi: int, authenticator_len: int) -> bytes:
    """Return type, length and SPI of an authentication extension (RFC 5944 3.5.1).

    Raises WireError when the authenticator cannot fit.
    """
    if not 0 <= authenticator_len <= MAX_AUTHENTICATOR_LEN:
        raise WireError(f"an authenticator of {authenticator_len} bytes does not fit")
    return _HEADER.pack(type_, 4 + authenticator_len, spi)


def generalized_header(subtype: int, spi: int, authenticator_len: int) -> bytes:
    """Return type, subtype, length and SPI of a generalized authentication extension.

    Raises WireError when the authenticator is too short or cannot fit (RFC 4721 5).
    """
    least, most = MIN_GENERALIZED_AUTHENTICATOR_LEN, MAX_GENERALIZED_AUTHENTICATOR_LEN
    if not least <= authenticator_len <= most:
        raise WireError(f"a generalized authenticator of {authenticator_len} bytes does not fit")
    return _GENERALIZED_HEADER.pack(
        ExtensionType.GENERALIZED_AUTHENTICATION, subtype, 4 + authenticator_len, spi
    )


def authentications(
    extensions: Iterable[Extension], type_: ExtensionType
) -> list[AuthenticationExtension]:
    """Return the authentication extensions of one type, in order of appearance."""
    return [
        extension
        for extension in extensions
        if extension.type == type_ and isinstance(extension, AuthenticationExtension)
    ]
