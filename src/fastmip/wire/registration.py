"""Registration Request and Registration Reply (RFC 5944 3.3, 3.4).

Bytes to values and back; nothing here judges what a message asks for. The law: what was
decoded whole encodes to the very bytes it came from, because authenticators cover them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

from fastmip.errors import WireError
from fastmip.wire.authext import AuthenticationExtension, authentications
from fastmip.wire.codes import (
    FLAG_BROADCAST,
    FLAG_COLOCATED,
    FLAG_GRE,
    FLAG_MINIMAL,
    FLAG_REVERSE_TUNNEL,
    FLAG_SIMULTANEOUS,
    ExtensionType,
    MessageType,
)
from fastmip.wire.extensions import Extension, ExtensionRegistry
from fastmip.wire.registry import CONTROL_EXTENSIONS

_REQUEST: Final = struct.Struct("!BBHIIIQ")
_REPLY: Final = struct.Struct("!BBHIIQ")

REQUEST_LEN: Final = _REQUEST.size
"""Fixed part of a request, 24 bytes."""
REPLY_LEN: Final = _REPLY.size
"""Fixed part of a reply, 20 bytes."""


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """Message type 1, from a mobile node (RFC 5944 3.3)."""

    flags: int
    """The eight flag bits as sent, reserved ones included (``FLAG_*``)."""
    lifetime: int
    """Seconds; 0 deregisters, LIFETIME_INFINITE never ends."""
    home_address: int
    home_agent: int
    care_of_address: int
    identification: int
    """64 bits: matches replies and guards against replay (RFC 5944 5.7)."""
    extensions: tuple[Extension, ...] = ()
    malformed: bool = False
    """Decoding stopped or met an unreadable extension; ``extensions`` holds what was good."""

    @classmethod
    def decode(cls, data: bytes, registry: ExtensionRegistry = CONTROL_EXTENSIONS) -> Self:
        """Decode the payload of a datagram.

        Raises WireError when it is too short or of another type, UnknownExtension when an
        unknown non-skippable extension demands that it be dropped (RFC 5944 1.8).
        """
        if len(data) < REQUEST_LEN:
            raise WireError(f"registration request of {len(data)} bytes")
        type_, flags, lifetime, home_address, home_agent, care_of, identification = (
            _REQUEST.unpack_from(data)
        )
        if type_ != MessageType.REGISTRATION_REQUEST:
            raise WireError(f"message type {type_} is not a registration request")
        extensions, malformed = registry.decode(data, REQUEST_LEN)
        return cls(
            flags,
            lifetime,
            home_address,
            home_agent,
            care_of,
            identification,
            extensions,
            malformed,
        )

    def encode(self) -> bytes:
        """Return the payload of a datagram; WireError if a field is out of range."""
        try:
            fixed = _REQUEST.pack(
                MessageType.REGISTRATION_REQUEST,
                self.flags,
                self.lifetime,
                self.home_address,
                self.home_agent,
                self.care_of_address,
                self.identification,
            )
        except struct.error as error:
            raise WireError(f"registration request: {error}") from error
        return fixed + b"".join([extension.encode() for extension in self.extensions])

    def authentications(self, type_: ExtensionType) -> list[AuthenticationExtension]:
        """Return the authentication extensions of one type, in order of appearance."""
        return authentications(self.extensions, type_)

    @property
    def wants_simultaneous(self) -> bool:
        """S: keep earlier bindings."""
        return bool(self.flags & FLAG_SIMULTANEOUS)

    @property
    def wants_broadcasts(self) -> bool:
        """B: tunnel broadcasts of the home network too."""
        return bool(self.flags & FLAG_BROADCAST)

    @property
    def is_colocated(self) -> bool:
        """D: the mobile node decapsulates itself."""
        return bool(self.flags & FLAG_COLOCATED)

    @property
    def wants_minimal(self) -> bool:
        """M: minimal encapsulation, RFC 2004."""
        return bool(self.flags & FLAG_MINIMAL)

    @property
    def wants_gre(self) -> bool:
        """G: GRE encapsulation, RFC 2784."""
        return bool(self.flags & FLAG_GRE)

    @property
    def wants_reverse_tunnel(self) -> bool:
        """T: reverse tunnelling, RFC 3024."""
        return bool(self.flags & FLAG_REVERSE_TUNNEL)

    @property
    def is_deregistration(self) -> bool:
        """Lifetime 0: of one care-of address, or of all when it equals the home address."""
        return self.lifetime == 0

    @property
    def is_deregistration_of_all(self) -> bool:
        """Lifetime 0 with the home address as care-of address (RFC 5944 3.8.2.2)."""
        return self.lifetime == 0 and self.care_of_address == self.home_address


@dataclass(frozen=True, slots=True)
class RegistrationReply:
    """Message type 3, from a home agent or a foreign agent (RFC 5944 3.4)."""

    code: int
    """See ReplyCode; a peer may send unlisted numbers."""
    lifetime: int
    """Seconds granted; meaningless in a denial other than 69."""
    home_address: int
    home_agent: int
    identification: int
    """64 bits; the low 32 are those of the request (RFC 5944 5.7)."""
    extensions: tuple[Extension, ...] = ()
    malformed: bool = False
    """Decoding stopped or met an unreadable extension; ``extensions`` holds what was good."""

    @classmethod
    def decode(cls, data: bytes, registry: ExtensionRegistry = CONTROL_EXTENSIONS) -> Self:
        """Decode the payload of a datagram; raises as ``RegistrationRequest.decode``."""
        if len(data) < REPLY_LEN:
            raise WireError(f"registration reply of {len(data)} bytes")
        type_, code, lifetime, home_address, home_agent, identification = _REPLY.unpack_from(data)
        if type_ != MessageType.REGISTRATION_REPLY:
            raise WireError(f"message type {type_} is not a registration reply")
        extensions, malformed = registry.decode(data, REPLY_LEN)
        return cls(code, lifetime, home_address, home_agent, identification, extensions, malformed)

    def encode(self) -> bytes:
        """Return the payload of a datagram; WireError if a field is out of range."""
        try:
            fixed = _REPLY.pack(
                MessageType.REGISTRATION_REPLY,
                self.code,
                self.lifetime,
                self.home_address,
                self.home_agent,
                self.identification,
            )
        except struct.error as error:
            raise WireError(f"registration reply: {error}") from error
        return fixed + b"".join([extension.encode() for extension in self.extensions])

    def authentications(self, type_: ExtensionType) -> list[AuthenticationExtension]:
        """Return the authentication extensions of one type, in order of appearance."""
        return authentications(self.extensions, type_)
