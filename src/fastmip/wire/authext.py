"""The three authentication extensions of RFC 5944 3.5.2-3.5.4: one layout, three types."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fastmip.errors import WireError
from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension

HEADER_LEN: Final = 6
"""Type, length and SPI: what an authenticator covers of its own extension."""
MAX_AUTHENTICATOR_LEN: Final = 251
"""255 minus the SPI."""

_HEADER: Final = struct.Struct("!BBI")


@dataclass(frozen=True, slots=True)
class AuthenticationExtension(Extension):
    """Mobile-Home (32), Mobile-Foreign (33) or Foreign-Home (34) authentication.

    The layout alone: whether the authenticator is right is for ``fastmip.auth`` to say.
    """

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


def authentication_header(type_: int, spi: int, authenticator_len: int) -> bytes:
    """Return type, length and SPI of an authentication extension (RFC 5944 3.5.1).

    Raises WireError when the authenticator cannot fit.
    """
    if not 0 <= authenticator_len <= MAX_AUTHENTICATOR_LEN:
        raise WireError(f"an authenticator of {authenticator_len} bytes does not fit")
    return _HEADER.pack(type_, 4 + authenticator_len, spi)


def authentications(
    extensions: Iterable[Extension], type_: ExtensionType
) -> list[AuthenticationExtension]:
    """Return the authentication extensions of one type, in order of appearance."""
    return [
        extension
        for extension in extensions
        if extension.type == type_ and isinstance(extension, AuthenticationExtension)
    ]
