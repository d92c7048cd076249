"""Registration revocation (RFC 3543): the message, its acknowledgment, and what offers it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

from fastmip.errors import WireError
from fastmip.wire.authext import AuthenticationExtension, authentications
from fastmip.wire.codes import ExtensionType, MessageType
from fastmip.wire.extensions import Extension, ExtensionRegistry
from fastmip.wire.registry import CONTROL_EXTENSIONS
from fastmip.wire.revocation_support import RevocationSupport

__all__ = [
    "ACKNOWLEDGMENT_LEN",
    "REVOCATION_LEN",
    "RevocationAcknowledgment",
    "RevocationMessage",
    "RevocationSupport",
    "is_home_agents_revocation",
]

_REVOCATION_HOME_AGENT: Final = 0x8000
_REVOCATION_INFORM: Final = 0x4000
_ACKNOWLEDGMENT_INFORM: Final = 0x8000

_REVOCATION: Final = struct.Struct("!BBHIIII")
_ACKNOWLEDGMENT: Final = struct.Struct("!BBHII")

REVOCATION_LEN: Final = _REVOCATION.size
"""Fixed part of a revocation, 20 bytes."""
ACKNOWLEDGMENT_LEN: Final = _ACKNOWLEDGMENT.size
"""Fixed part of an acknowledgment, 12 bytes."""


def is_home_agents_revocation(data: bytes, home_address: int) -> bool:
    """Whether the payload of a datagram is a home agent's word about this home address."""
    if len(data) < REVOCATION_LEN or data[0] != MessageType.REVOCATION:
        return False
    _, _, flags, home, *_ = _REVOCATION.unpack_from(data)
    return bool(flags & _REVOCATION_HOME_AGENT) and home == home_address


@dataclass(frozen=True, slots=True)
class RevocationMessage:
    """Message type 7 (RFC 3543 3.3): the sender ends a mobile node's binding."""

    by_home_agent: bool
    """A: the revoking agent serves the binding as its home agent."""
    inform: bool
    """I: the mobile node is to be told, or whether it is to be is asked."""
    home_address: int
    home_domain_address: int
    """The home agent's address, part of what names the binding."""
    foreign_domain_address: int
    """The foreign agent's or the co-located care-of address."""
    identifier: int
    """Timestamp of the revoking agent's clock, 32 bits."""
    extensions: tuple[Extension, ...] = ()
    malformed: bool = False
    """Decoding stopped or met an unreadable extension; ``extensions`` holds what was good."""

    @classmethod
    def decode(cls, data: bytes, registry: ExtensionRegistry = CONTROL_EXTENSIONS) -> Self:
        """Decode the payload of a datagram; raises as ``RegistrationRequest.decode``."""
        if len(data) < REVOCATION_LEN:
            raise WireError(f"revocation of {len(data)} bytes")
        type_, _, flags, home, home_domain, foreign_domain, identifier = _REVOCATION.unpack_from(
            data
        )
        if type_ != MessageType.REVOCATION:
            raise WireError(f"message type {type_} is not a revocation")
        extensions, malformed = registry.decode(data, REVOCATION_LEN)
        return cls(
            bool(flags & _REVOCATION_HOME_AGENT),
            bool(flags & _REVOCATION_INFORM),
            home,
            home_domain,
            foreign_domain,
            identifier,
            extensions,
            malformed,
        )

    def encode(self) -> bytes:
        """Return the payload of a datagram; WireError if a field is out of range."""
        flags = _REVOCATION_HOME_AGENT * self.by_home_agent | _REVOCATION_INFORM * self.inform
        try:
            fixed = _REVOCATION.pack(
                MessageType.REVOCATION,
                0,
                flags,
                self.home_address,
                self.home_domain_address,
                self.foreign_domain_address,
                self.identifier,
            )
        except struct.error as error:
            raise WireError(f"revocation: {error}") from error
        return fixed + b"".join([extension.encode() for extension in self.extensions])

    def authentications(self, type_: ExtensionType) -> list[AuthenticationExtension]:
        """Return the authentication extensions of one type, in order of appearance."""
        return authentications(self.extensions, type_)


@dataclass(frozen=True, slots=True)
class RevocationAcknowledgment:
    """Message type 15 (RFC 3543 3.4): a valid revocation was received."""

    inform: bool
    """I: see RFC 3543 3.4; meaningless unless the revocation had it set."""
    home_address: int
    identifier: int
    """Copied from the revocation."""
    extensions: tuple[Extension, ...] = ()
    malformed: bool = False
    """Decoding stopped or met an unreadable extension; ``extensions`` holds what was good."""

    @classmethod
    def decode(cls, data: bytes, registry: ExtensionRegistry = CONTROL_EXTENSIONS) -> Self:
        """Decode the payload of a datagram; raises as ``RegistrationRequest.decode``."""
        if len(data) < ACKNOWLEDGMENT_LEN:
            raise WireError(f"revocation acknowledgment of {len(data)} bytes")
        type_, _, flags, home, identifier = _ACKNOWLEDGMENT.unpack_from(data)
        if type_ != MessageType.REVOCATION_ACKNOWLEDGMENT:
            raise WireError(f"message type {type_} is not a revocation acknowledgment")
        extensions, malformed = registry.decode(data, ACKNOWLEDGMENT_LEN)
        return cls(bool(flags & _ACKNOWLEDGMENT_INFORM), home, identifier, extensions, malformed)

    def encode(self) -> bytes:
        """Return the payload of a datagram; WireError if a field is out of range."""
        try:
            fixed = _ACKNOWLEDGMENT.pack(
                MessageType.REVOCATION_ACKNOWLEDGMENT,
                0,
                _ACKNOWLEDGMENT_INFORM * self.inform,
                self.home_address,
                self.identifier,
            )
        except struct.error as error:
            raise WireError(f"revocation acknowledgment: {error}") from error
        return fixed + b"".join([extension.encode() for extension in self.extensions])

    def authentications(self, type_: ExtensionType) -> list[AuthenticationExtension]:
        """Return the authentication extensions of one type, in order of appearance."""
        return authentications(self.extensions, type_)
