"""One conversation with the home agent: a registration request, its copies and its reply.

``RequestWriter`` builds requests (RFC 5944 3.6.1): fixed part, then the Mobile-Home
authentication extension over it. ``Exchange`` is the pending registration of RFC 5944 3.6.
``read_reply`` decides whether a datagram is the answer, in the order of RFC 5944 3.6.2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from fastmip.agents.home_counters import ViolationReason
from fastmip.agents.pacing import next_timeout_ns
from fastmip.auth.associations import AssociationSet, ReplayStyle
from fastmip.auth.authenticators import append_authentication, verify_authentication
from fastmip.auth.freshness import RandomBits, identification_source
from fastmip.errors import FastmipError, WireError
from fastmip.wire.codes import (
    FLAG_COLOCATED,
    FLAG_GRE,
    FLAG_MINIMAL,
    FLAG_REVERSE_TUNNEL,
    FLAG_SIMULTANEOUS,
    ExtensionType,
    is_foreign_agent,
    is_gateway_foreign_agent,
)
from fastmip.wire.extensions import RawExtension
from fastmip.wire.registration import RegistrationReply, RegistrationRequest

ENCAPSULATION_FLAGS = {4: 0, 47: FLAG_GRE, 55: FLAG_MINIMAL}
"""IP protocol of the tunnel -> flag that asks for it."""


class Purpose(Enum):
    """What a request is for."""

    REGISTER = "register"
    """Make the care-of address known, or keep it known."""
    RELEASE = "release"
    """Lifetime 0 for one care-of address: the others stay (RFC 5944 3.8.2.2)."""
    DEREGISTER = "deregister"
    """Lifetime 0 and care-of address = home address: all of them, from home."""


class Goal(NamedTuple):
    """What the mobile node wants to tell its home agent next."""

    purpose: Purpose
    care_of_address: int
    """The field of the request; the home address for DEREGISTER."""
    interface: str
    """Link the request leaves by. Its IP source is the care-of address, at home the home
    address (RFC 5944 3.6.1.1): in both cases the field above."""


@dataclass(slots=True)
class Exchange:
    """A pending registration (RFC 5944 3.6)."""

    goal: Goal
    home_agent: int
    lifetime_s: int
    """Requested."""
    flags: int
    identification: int
    data: bytes
    first_sent_ns: int
    sent_ns: int
    timeout_ns: int
    transmissions: int = 1

    @property
    def due_ns(self) -> int:
        """When to send again."""
        return self.sent_ns + self.timeout_ns

    @property
    def is_simultaneous(self) -> bool:
        """The S bit was set."""
        return bool(self.flags & FLAG_SIMULTANEOUS)

    @property
    def lifetime_start_ns(self) -> int:
        """When the lifetime asked for starts at the earliest.

        The home agent may answer any of several identical copies, so with nonces it is the
        first; with timestamps each copy is a request of its own and only the last is matched.
        """
        return self.first_sent_ns


class RequestWriter:
    """Builds and signs requests with the first association that may sign.

    Raises FastmipError when none of the associations may sign or none may verify.
    """

    def __init__(
        self, home_address: int, associations: AssociationSet, random_bits: RandomBits
    ) -> None:
        association = associations.outbound()
        if association is None or not any(associations.inbound(a.spi) for a in associations):
            raise FastmipError("the mobile node needs an association for each direction")
        self._home_address = home_address
        self._association = association
        self.identifications = identification_source(association.replay, random_bits)

    @property
    def repeats_bytes(self) -> bool:
        """Retransmissions are identical copies (nonces), not new requests (timestamps)."""
        return self._association.replay is ReplayStyle.NONCES

    def begin(
        self, goal: Goal, home_agent: int, lifetime_s: int, flags: int, now_ns: int, wall_ns: int
    ) -> Exchange:
        """Build the first request of an exchange."""
        identification, data = self._build(goal, home_agent, lifetime_s, flags, wall_ns)
        timeout_ns = next_timeout_ns(0, lifetime_s)
        return Exchange(
            goal,
            home_agent,
            lifetime_s,
            flags,
            identification,
            data,
            first_sent_ns=now_ns,
            sent_ns=now_ns,
            timeout_ns=timeout_ns,
        )

    def repeat(self, exchange: Exchange, flags: int, now_ns: int, wall_ns: int) -> None:
        """Make the exchange ready for its next transmission (RFC 5944 3.6.3).

        With timestamps it becomes a new request, with ``flags`` as they are right now; with
        nonces it stays as it is, byte for byte.
        """
        if not self.repeats_bytes:
            exchange.flags = flags
            exchange.identification, exchange.data = self._build(
                exchange.goal, exchange.home_agent, exchange.lifetime_s, flags, wall_ns
            )
            exchange.first_sent_ns = now_ns
        exchange.sent_ns = now_ns
        exchange.timeout_ns = next_timeout_ns(exchange.timeout_ns, exchange.lifetime_s)
        exchange.transmissions += 1

    def _build(
        self, goal: Goal, home_agent: int, lifetime_s: int, flags: int, wall_ns: int
    ) -> tuple[int, bytes]:
        identification = self.identifications.next(wall_ns)
        request = RegistrationRequest(
            flags=flags,
            lifetime=lifetime_s,
            home_address=self._home_address,
            home_agent=home_agent,
            care_of_address=goal.care_of_address,
            identification=identification,
        )
        message = append_authentication(
            request.encode(), ExtensionType.MOBILE_HOME_AUTHENTICATION, self._association
        )
        return identification, message


def request_flags(*, simultaneous: bool, reverse: bool, encapsulation: int, away: bool) -> int:
    """The flags of a request: D exactly with a co-located care-of address (3.6.1.2)."""
    if not away:
        return 0
    flags = FLAG_COLOCATED | ENCAPSULATION_FLAGS[encapsulation]
    if simultaneous:
        flags |= FLAG_SIMULTANEOUS
    if reverse:
        flags |= FLAG_REVERSE_TUNNEL
    return flags


class ReplyRefused(FastmipError):
    """A datagram that is not the answer; ``counter`` is the RFC 2006 counter to bump."""

    def __init__(
        self, counter: str, reason: str, *, spi: int = 0, violation: ViolationReason | None = None
    ) -> None:
        super().__init__(reason)
        self.counter = counter
        self.spi = spi
        self.violation = violation
        """Set: a security violation, worth a log line (RFC 5944 3.6.2.1)."""


def read_reply(
    data: bytes, home_address: int, exchange: Exchange | None, associations: AssociationSet
) -> tuple[RegistrationReply, int]:
    """Decode and check a reply; returns it and the number of extensions skipped.

    In order: form, home address, pending request and low half of the Identification, and
    exactly one valid Mobile-Home authentication extension. A denial of a foreign agent has
    none, but no foreign agent stands between a co-located care-of address and its home
    agent: it is refused. Raises ReplyRefused.
    """
    try:
        reply = RegistrationReply.decode(data)
    except WireError as error:
        raise ReplyRefused("mnRepliesDroppedInvalidExtension", str(error)) from None
    if reply.malformed:
        raise ReplyRefused("mnRepliesDroppedInvalidExtension", "malformed extension")
    if reply.home_address != home_address:
        raise ReplyRefused("mnRepliesInvalidHomeAddress", "another home address")
    if exchange is None:
        raise ReplyRefused("mnRepliesInvalidID", "nothing is pending")
    if (reply.identification ^ exchange.identification) & 0xFFFFFFFF:
        raise ReplyRefused("mnRepliesInvalidID", "not the latest request's identification")
    if is_foreign_agent(reply.code) or is_gateway_foreign_agent(reply.code):
        raise ReplyRefused("mnRepliesUnknownFA", f"code {reply.code}: no foreign agent is in use")
    found = reply.authentications(ExtensionType.MOBILE_HOME_AUTHENTICATION)
    failure = "mnRepliesHAAuthenticationFailure"
    if len(found) != 1:
        reason = f"{len(found)} Mobile-Home authentication extensions"
        kind = ViolationReason.OTHER if found else ViolationReason.MISSING_SECURITY_EXTENSION
        raise ReplyRefused(failure, reason, violation=kind)
    association = associations.inbound(found[0].spi)
    if association is None:
        raise ReplyRefused(
            failure, "unknown SPI", spi=found[0].spi, violation=ViolationReason.BAD_SPI
        )
    if not verify_authentication(data, found[0], association):
        kind = ViolationReason.BAD_AUTHENTICATOR
        raise ReplyRefused(failure, "wrong authenticator", spi=found[0].spi, violation=kind)
    skipped = sum(isinstance(extension, RawExtension) for extension in reply.extensions)
    return reply, skipped
