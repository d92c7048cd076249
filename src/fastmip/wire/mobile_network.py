"""Mobile networks in registrations: request and acknowledgement (148, RFC 5177 4; RFC 6626).

A mobile router asks for a prefix, or with an all-zero prefix for one of the home agent's choice
(``is_dynamic``); the home agent answers prefix by prefix. Any length is decoded, because 0 and
33 have an answer of their own (MOBNET_INVALID_PREFIX_LEN); ``network`` says what was meant.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, unique
from typing import Final

from fastmip.errors import WireError
from fastmip.wire.addresses import format_address, prefix_mask
from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension, frame_short

REQUEST_SUBTYPE: Final = 0
EXPLICIT_SUBTYPE: Final = 1
"""Acknowledges what a request asked for."""
IMPLICIT_SUBTYPE: Final = 2
"""Tells what the home agent routes without having been asked."""

_REQUEST: Final = struct.Struct("!BI")
_ACKNOWLEDGEMENT: Final = struct.Struct("!BBxI")


@unique
class NetworkCode(IntEnum):
    """Code field of an acknowledgement; a peer may send numbers that are not listed."""

    SUCCESS = 0  # RFC 5177 4.2
    INVALID_PREFIX_LENGTH = 1  # RFC 5177 4.2
    UNAUTHORIZED = 2  # RFC 5177 4.2
    FORWARDING_SETUP_FAILED = 3  # RFC 5177 4.2
    UNASSIGNED = 4  # RFC 6626 5


def network_code_name(code: int) -> str:
    """Return the name of an acknowledgement's code, or ``"code N"`` for an unlisted one."""
    try:
        return NetworkCode(code).name.lower()
    except ValueError:
        return f"code {code}"


def _network(prefix: int, length: int) -> tuple[int, int] | None:
    if not 0 < length <= 32:
        return None
    return prefix & prefix_mask(length), length


@dataclass(frozen=True, slots=True)
class MobileNetworkRequest(Extension):
    """Mobile Network Request (148 subtype 0, RFC 5177 4.1): one prefix."""

    type: int = field(default=int(ExtensionType.MOBILE_NETWORK), init=False)
    prefix: int
    """Prefix field as it stands; bits beyond the length mean nothing."""
    length: int
    """Prefix Length field, 0-255; a hint in a dynamic request."""

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> MobileNetworkRequest:
        """Decode what follows the subtype."""
        length, prefix = body.u8(), body.u32()
        return cls(prefix, length)

    @property
    def is_dynamic(self) -> bool:
        """The home agent shall choose the prefix (RFC 6626 3.1)."""
        return not self.prefix

    @property
    def network(self) -> tuple[int, int] | None:
        """Prefix without host bits, and length; None when the length is not 1-32."""
        return _network(self.prefix, self.length)

    def build(self) -> bytes:
        """Return the extension; WireError if a field is out of range."""
        try:
            data = _REQUEST.pack(self.length, self.prefix)
        except struct.error as error:
            raise WireError(f"mobile network request: {error}") from error
        return frame_short(self.type, REQUEST_SUBTYPE, data)

    def __str__(self) -> str:
        """``10.2.8.0/24``."""
        return f"{format_address(self.prefix)}/{self.length}"


@dataclass(frozen=True, slots=True)
class MobileNetworkAcknowledgement(Extension):
    """Mobile Network Acknowledgement (148 subtypes 1 and 2, RFC 5177 4.2): one prefix."""

    type: int = field(default=int(ExtensionType.MOBILE_NETWORK), init=False)
    prefix: int
    length: int
    code: int = NetworkCode.SUCCESS
    """NetworkCode, or a number that is not listed."""
    implicit: bool = False
    """Implicit mode: not asked for in this registration."""

    @classmethod
    def decode(cls, _type: int, subtype: int, body: Cursor) -> MobileNetworkAcknowledgement:
        """Decode what follows the subtype; the reserved byte is ignored."""
        code, length, _reserved, prefix = body.u8(), body.u8(), body.u8(), body.u32()
        return cls(prefix, length, code, subtype == IMPLICIT_SUBTYPE)

    @property
    def is_success(self) -> bool:
        """The home agent forwards this prefix."""
        return self.code == NetworkCode.SUCCESS

    @property
    def network(self) -> tuple[int, int] | None:
        """Prefix without host bits, and length; None when the length is not 1-32."""
        return _network(self.prefix, self.length)

    def build(self) -> bytes:
        """Return the extension; WireError if a field is out of range."""
        try:
            data = _ACKNOWLEDGEMENT.pack(self.code, self.length, self.prefix)
        except struct.error as error:
            raise WireError(f"mobile network acknowledgement: {error}") from error
        return frame_short(self.type, IMPLICIT_SUBTYPE if self.implicit else EXPLICIT_SUBTYPE, data)

    def __str__(self) -> str:
        """``10.2.8.0/24 success``."""
        return f"{format_address(self.prefix)}/{self.length} {network_code_name(self.code)}"


def network_requests(extensions: Iterable[Extension]) -> list[MobileNetworkRequest]:
    """The mobile network requests among extensions, in order."""
    return [one for one in extensions if isinstance(one, MobileNetworkRequest)]


def network_acknowledgements(
    extensions: Iterable[Extension],
) -> list[MobileNetworkAcknowledgement]:
    """The mobile network acknowledgements among extensions, in order."""
    return [one for one in extensions if isinstance(one, MobileNetworkAcknowledgement)]
