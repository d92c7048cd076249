"""Agent discovery: ICMP router advertisements and solicitations (RFC 1256, RFC 5944 2.1-2.2).

Their extensions have a number space of their own, so a registry of their own: 137-139 are not
what they are in control messages. The IP header is not ours: TTL and addresses are for the
caller to check. Decoding raises WireError and nothing else, and then the message is dropped.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

from fastmip.errors import WireError
from fastmip.wire.codes import AdvertisementExtension
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import (
    Entry,
    Extension,
    ExtensionRegistry,
    Framing,
    RawExtension,
    frame_short,
    frame_simple,
)
from fastmip.wire.nai import FOREIGN_AGENT_NAI, NaiCarrying

ICMP_ADVERTISEMENT: Final = 9
ICMP_SOLICITATION: Final = 10

CODE_ROUTER: Final = 0
"""The agent also forwards what is not of mobile nodes (RFC 5944 2.1)."""
CODE_AGENT_ONLY: Final = 16
"""The agent does not route common traffic."""

AGENT_R: Final = 0x8000
"""Registration with a foreign agent is required, also with a co-located address."""
AGENT_B: Final = 0x4000
"""Busy: no further registrations."""
AGENT_H: Final = 0x2000
"""Home agent."""
AGENT_F: Final = 0x1000
"""Foreign agent."""
AGENT_M: Final = 0x0800
"""Minimal encapsulation (RFC 2004)."""
AGENT_G: Final = 0x0400
"""GRE encapsulation (RFC 2784)."""
AGENT_r: Final = 0x0200
"""Reserved: sent 0, ignored."""
AGENT_T: Final = 0x0100
"""Reverse tunnelling (RFC 3024)."""
AGENT_U: Final = 0x0080
"""UDP tunnelling (RFC 3519 3.4)."""
AGENT_X: Final = 0x0040
"""Registration revocation (RFC 3543 4)."""
AGENT_I: Final = 0x0020
"""Regional registration (RFC 4857 4.3)."""

LAST_SEQUENCE: Final = 0xFFFF
SEQUENCE_AFTER_LAST: Final = 256
"""0-255 are of an agent that has just started (RFC 5944 2.3.2)."""

ENTRY_WORDS: Final = 2
"""Address Entry Size: an address and its preference."""
NEVER_DEFAULT: Final = -0x80000000
"""Preference of an address that must not become a default router (RFC 1256 3.1)."""

_HEADER: Final = struct.Struct("!BBHBBH")
_ROUTER: Final = struct.Struct("!Ii")
_AGENT: Final = struct.Struct("!HHH")
_SOLICITATION: Final = struct.Struct("!BBHI")
_CHECKSUM: Final = struct.Struct("!H")


def next_sequence(sequence: int) -> int:
    """Return the sequence number of the next advertisement (RFC 5944 2.3.2)."""
    return SEQUENCE_AFTER_LAST if sequence >= LAST_SEQUENCE else sequence + 1


def internet_checksum(data: bytes) -> int:
    """Return the checksum of RFC 792: 0 over data that carry their own, correct one."""
    even = data if len(data) % 2 == 0 else data + b"\0"
    # 2**16 is 1 modulo 0xffff: the one's complement sum is the remainder of the whole.
    remainder = int.from_bytes(even) % 0xFFFF
    # Sums of 0 and 0xffff are one remainder; only all zeros sum to 0.
    return 0xFFFF - (remainder or (0xFFFF if any(even) else 0))


def _with_checksum(message: bytes) -> bytes:
    return message[:2] + _CHECKSUM.pack(internet_checksum(message)) + message[4:]


def _check(data: bytes, type_: int, least: int) -> None:
    if len(data) < least or data[0] != type_:
        raise WireError(f"{len(data)} bytes are not an ICMP message of type {type_}")
    if internet_checksum(data):
        raise WireError(f"wrong checksum in an ICMP message of type {type_}")


@dataclass(frozen=True, slots=True)
class MobilityAgent(Extension):
    """Mobility Agent Advertisement (16, RFC 5944 2.1.1)."""

    type: int = field(default=int(AdvertisementExtension.MOBILITY_AGENT), init=False)
    sequence: int
    """Counts advertisements since the agent started; see ``next_sequence``."""
    registration_lifetime: int
    """Longest lifetime granted, seconds; 0xffff is infinity. Not the advertisement's own."""
    flags: int
    """AGENT_*; reserved ones are kept as received and mean nothing."""
    care_of_addresses: tuple[int, ...] = ()

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> MobilityAgent:
        """Decode the data; the length says how many addresses there are."""
        sequence, lifetime, flags = body.u16(), body.u16(), body.u16()
        count, rest = divmod(body.remaining, 4)
        if rest:
            raise WireError(f"mobility agent: {rest} bytes behind the care-of addresses")
        return cls(sequence, lifetime, flags, tuple([body.u32() for _ in range(count)]))

    def build(self) -> bytes:
        """Return the extension; WireError if a field is out of range."""
        try:
            fixed = _AGENT.pack(self.sequence, self.registration_lifetime, self.flags)
            addresses = struct.pack(f"!{len(self.care_of_addresses)}I", *self.care_of_addresses)
        except struct.error as error:
            raise WireError(f"mobility agent: {error}") from error
        return frame_simple(self.type, fixed + addresses)

    @property
    def is_home_agent(self) -> bool:
        """H: serves as a home agent on this link."""
        return bool(self.flags & AGENT_H)

    @property
    def is_foreign_agent(self) -> bool:
        """F: serves as a foreign agent on this link."""
        return bool(self.flags & AGENT_F)

    @property
    def is_busy(self) -> bool:
        """B: takes no further registrations."""
        return bool(self.flags & AGENT_B)

    @property
    def requires_registration(self) -> bool:
        """R: wants registrations also of co-located addresses."""
        return bool(self.flags & AGENT_R)

    @property
    def is_consistent(self) -> bool:
        """Say whether the flags keep to RFC 5944 2.1.1: H or F, no B or R without F, an address."""
        if not self.flags & (AGENT_H | AGENT_F):
            return False
        if self.is_foreign_agent:
            return bool(self.care_of_addresses)
        return not self.flags & (AGENT_B | AGENT_R)


@dataclass(frozen=True, slots=True)
class PrefixLengths(Extension):
    """Prefix-Lengths (19, RFC 5944 2.1.2): one for each router address, in their order."""

    type: int = field(default=int(AdvertisementExtension.PREFIX_LENGTHS), init=False)
    lengths: tuple[int, ...]

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> PrefixLengths:
        """Decode the data; WireError when one is above 32."""
        lengths = tuple(body.rest())
        if any(length > 32 for length in lengths):
            raise WireError(f"prefix lengths {lengths}")
        return cls(lengths)

    def build(self) -> bytes:
        """Return the extension; WireError if a length is out of range."""
        if any(not 0 <= length <= 32 for length in self.lengths):
            raise WireError(f"prefix lengths {self.lengths}")
        return frame_simple(self.type, bytes(self.lengths))


@dataclass(frozen=True, slots=True)
class AgentChallenge(Extension):
    """Challenge of an advertisement (24, RFC 4721 2)."""

    type: int = field(default=int(AdvertisementExtension.CHALLENGE), init=False)
    challenge: bytes

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> AgentChallenge:
        """Decode the data: all of it is the challenge."""
        return cls(body.rest())

    def build(self) -> bytes:
        """Return the extension; WireError above 255 bytes."""
        return frame_simple(self.type, self.challenge)


def _opaque(type_: int, body: Cursor) -> RawExtension:
    """Keep an extension to be ignored, although its number is not skippable (RFC 4064 4.2)."""
    return RawExtension(type_, data=body.rest())


def _identity(_type: int, body: Cursor) -> NaiCarrying:
    return NaiCarrying(FOREIGN_AGENT_NAI, body.rest())


ADVERTISEMENT_EXTENSIONS: Final = ExtensionRegistry(
    [
        Entry(AdvertisementExtension.MOBILITY_AGENT, MobilityAgent.decode),
        Entry(AdvertisementExtension.PREFIX_LENGTHS, PrefixLengths.decode),
        Entry(AdvertisementExtension.CHALLENGE, AgentChallenge.decode),
        Entry(AdvertisementExtension.EXPERIMENTAL_NON_SKIPPABLE, _opaque),
        Entry(AdvertisementExtension.GENERALIZED_NAI, _identity, Framing.SHORT, FOREIGN_AGENT_NAI),
    ]
)
"""What is understood in a router discovery message."""

_Kind = TypeVar("_Kind", bound=Extension)


def _first(extensions: tuple[Extension, ...], kind: type[_Kind]) -> _Kind | None:
    return next((found for found in extensions if isinstance(found, kind)), None)


@dataclass(frozen=True, slots=True)
class RouterAddress:
    """One address of an advertisement with its preference, higher is better (RFC 1256 3.1)."""

    address: int
    preference: int = 0
    """Signed; NEVER_DEFAULT: never a default router."""


@dataclass(frozen=True, slots=True)
class AgentAdvertisement:
    """ICMP type 9: a router's addresses, and what it is as a mobility agent."""

    lifetime_s: int
    """How long this advertisement holds (RFC 1256 3.1)."""
    routers: tuple[RouterAddress, ...] = ()
    """May be none (RFC 5944 2.1)."""
    agent: MobilityAgent | None = None
    """None: a plain router, not a mobility agent."""
    prefix_lengths: tuple[int, ...] | None = None
    """In the order of ``routers``; None: not told."""
    challenge: bytes | None = None
    """To be copied into the next request (RFC 4721 3.1)."""
    nai: bytes | None = None
    """Identity of the foreign agent (RFC 4857 8.2)."""
    code: int = CODE_ROUTER

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode an ICMP message up to the end of its IP packet.

        Raises WireError for whatever RFC 1256 5.2 and RFC 5944 2.1 call invalid: too short,
        another type, wrong checksum, code neither 0 nor 16, entries smaller than two words,
        extensions cut short or unreadable; and for an unknown one below 128 (RFC 5944 1.8).
        Of an extension that stands there twice the first counts.
        """
        _check(data, ICMP_ADVERTISEMENT, _HEADER.size)
        _, code, _, count, words, lifetime = _HEADER.unpack_from(data)
        if code not in (CODE_ROUTER, CODE_AGENT_ONLY):
            raise WireError(f"advertisement with code {code}")
        if count and words < ENTRY_WORDS:
            raise WireError(f"advertisement with entries of {words} words")
        start = _HEADER.size + count * words * 4
        if start > len(data):
            raise WireError(f"advertisement of {len(data)} bytes for {count} addresses")
        places = range(_HEADER.size, start, words * 4) if count else ()
        routers = tuple([RouterAddress(*_ROUTER.unpack_from(data, place)) for place in places])
        extensions, malformed = ADVERTISEMENT_EXTENSIONS.decode(data, start)
        if malformed:
            raise WireError("advertisement with malformed extensions")
        prefixes = _first(extensions, PrefixLengths)
        if prefixes is not None and len(prefixes.lengths) != count:
            raise WireError(f"{len(prefixes.lengths)} prefix lengths for {count} addresses")
        challenge = _first(extensions, AgentChallenge)
        identity = _first(extensions, NaiCarrying)
        return cls(
            lifetime,
            routers,
            _first(extensions, MobilityAgent),
            None if prefixes is None else prefixes.lengths,
            None if challenge is None else challenge.challenge,
            None if identity is None else identity.nai,
            code,
        )

    def encode(self) -> bytes:
        """Return the ICMP message; WireError if a field does not fit.

        A one-byte pad makes the length even, for those who insist on it (RFC 5944 2.1.3).
        """
        try:
            header = _HEADER.pack(
                ICMP_ADVERTISEMENT, self.code, 0, len(self.routers), ENTRY_WORDS, self.lifetime_s
            )
            routers = [_ROUTER.pack(router.address, router.preference) for router in self.routers]
        except struct.error as error:
            raise WireError(f"advertisement: {error}") from error
        if self.prefix_lengths is not None and len(self.prefix_lengths) != len(self.routers):
            raise WireError("advertisement: prefix lengths and addresses do not match")
        message = b"".join([header, *routers, *self._extensions()])
        return _with_checksum(message + bytes(len(message) % 2))

    def _extensions(self) -> list[bytes]:
        """Encode the extensions; an identity stands behind those of RFC 5944 (RFC 3846 3)."""
        parts = []
        if self.agent is not None:
            parts.append(self.agent.build())
        if self.prefix_lengths is not None:
            parts.append(PrefixLengths(self.prefix_lengths).build())
        if self.challenge is not None:
            parts.append(AgentChallenge(self.challenge).build())
        if self.nai is not None:
            identity = AdvertisementExtension.GENERALIZED_NAI
            parts.append(frame_short(identity, FOREIGN_AGENT_NAI, self.nai))
        return parts


@dataclass(frozen=True, slots=True)
class AgentSolicitation:
    """ICMP type 10: a host asks routers for an advertisement (RFC 1256 3.2, RFC 5944 2.2)."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Check an ICMP message; WireError when it is no valid solicitation (RFC 1256 4.2).

        Its extensions say nothing to us, but an unknown one below 128 has it dropped.
        """
        _check(data, ICMP_SOLICITATION, _SOLICITATION.size)
        if data[1]:
            raise WireError(f"solicitation with code {data[1]}")
        if ADVERTISEMENT_EXTENSIONS.decode(data, _SOLICITATION.size).malformed:
            raise WireError("solicitation with malformed extensions")
        return cls()

    def encode(self) -> bytes:
        """Return the ICMP message."""
        return _with_checksum(_SOLICITATION.pack(ICMP_SOLICITATION, 0, 0, 0))
