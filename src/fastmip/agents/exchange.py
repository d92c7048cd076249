"""One conversation with the home agent: a registration request, its copies and its reply.

``RequestWriter`` builds requests in the order of RFC 5944 3.6.1.3: fixed part, extensions for
the home agent, Mobile-Home authentication; through a foreign agent then the challenge with
MN-AAA authentication (RFC 4721 3.1), the delivery style (RFC 3024 3.3) and Mobile-Foreign
authentication; without one, from a co-located care-of address, MN-AAA alone (RFC 4721 3.5).
``Exchange`` is the pending registration of RFC 5944 3.6. ``read_reply`` decides whether a
datagram is the answer, in the order of RFC 5944 3.6.2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeVar

from fastmip.agents.agent_cache import Agent
from fastmip.agents.assignment import redirection
from fastmip.agents.home_counters import ViolationReason
from fastmip.agents.pacing import next_timeout_ns
from fastmip.auth.associations import AssociationSet, ReplayStyle
from fastmip.auth.authenticators import append_authentication, verify_authentication
from fastmip.auth.freshness import RandomBits, identification_source
from fastmip.auth.mn_aaa import COLOCATED_CHALLENGE
from fastmip.errors import FastmipError, WireError
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import (
    FLAG_BROADCAST,
    FLAG_COLOCATED,
    FLAG_GRE,
    FLAG_MINIMAL,
    FLAG_REVERSE_TUNNEL,
    FLAG_SIMULTANEOUS,
    ExtensionType,
    ReplyCode,
    is_foreign_agent,
    is_gateway_foreign_agent,
)
from fastmip.wire.extensions import Extension, RawExtension
from fastmip.wire.foreign_error import ForeignAgentError
from fastmip.wire.host_configuration import HostConfiguration, read_host_configuration
from fastmip.wire.mobile_network import MobileNetworkAcknowledgement, network_acknowledgements
from fastmip.wire.nai import MobileNodeNai
from fastmip.wire.registration import RegistrationReply, RegistrationRequest
from fastmip.wire.revocation_support import RevocationSupport
from fastmip.wire.tunneling import EncapsulatingDelivery, UdpTunnelReply
from fastmip.wire.vendor import VendorRegistry

IPIP = 4
ENCAPSULATION_FLAGS = {IPIP: 0, 47: FLAG_GRE, 55: FLAG_MINIMAL}
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
    agent: int = 0
    """Foreign agent the request goes through, 0 for none."""
    is_colocated: bool = True
    """The care-of address is our own; else it is the agent's, and the source is the home
    address."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a mobile node says of itself besides its addresses, and to whom it proves it."""

    nai: bytes = b""
    """RFC 2794, empty for none."""
    extensions: tuple[Extension, ...] = ()
    """For the home agent, in every request (vendor extensions, RFC 3115)."""
    sign_for_aaa: Callable[[bytes, bytes], bytes] | None = None
    """(message, challenge) -> message with MN-AAA authentication (RFC 4721 5) behind it."""
    foreign: Mapping[int, AssociationSet] = field(default_factory=dict)
    """Security associations with foreign agents, by their address."""
    vendors: VendorRegistry = field(default_factory=VendorRegistry)
    """Vendor extensions known: a reply with another critical one is a denial (RFC 3115 2.3)."""

    def foreign_set(self, agent: int) -> AssociationSet | None:
        """The associations with an agent, if any."""
        return self.foreign.get(agent)

    def may_answer_challenge(self, agent: int) -> bool:
        """A challenge is answered by MN-AAA or Mobile-Foreign authentication (RFC 4721 3.1)."""
        return self.sign_for_aaa is not None or agent in self.foreign


@dataclass(frozen=True, slots=True)
class Terms:
    """How one request is put; changes from transmission to transmission."""

    flags: int
    extensions: tuple[Extension, ...] = ()
    """For the home agent, besides those of the identity."""
    agent: Agent | None = None
    encapsulating_delivery: bool = False
    reverse_for_udp: bool = False
    """T is set for the sake of a UDP tunnel alone (RFC 3519 3.1.5)."""
    home_agent_field: int | None = None
    """0.0.0.0 or all ones while a home agent is to be assigned (RFC 4433)."""


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
    challenge: bytes = b""
    """The foreign agent's challenge this request answers."""
    encapsulating_delivery: bool = False
    reverse_for_udp: bool = False

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
        self,
        home_address: int,
        associations: AssociationSet,
        random_bits: RandomBits,
        identity: Identity,
    ) -> None:
        association = associations.outbound()
        if association is None or not any(associations.inbound(a.spi) for a in associations):
            raise FastmipError("the mobile node needs an association for each direction")
        self._home_address = home_address
        self._association = association
        self._identity = identity
        self.identifications = identification_source(association.replay, random_bits)

    @property
    def repeats_bytes(self) -> bool:
        """Retransmissions are identical copies (nonces), not new requests (timestamps)."""
        return self._association.replay is ReplayStyle.NONCES

    def begin(
        self, goal: Goal, home_agent: int, lifetime_s: int, terms: Terms, now_ns: int, wall_ns: int
    ) -> Exchange:
        """Build the first request of an exchange."""
        exchange = Exchange(
            goal,
            home_agent,
            lifetime_s,
            terms.flags,
            0,
            b"",
            first_sent_ns=now_ns,
            sent_ns=now_ns,
            timeout_ns=next_timeout_ns(0, lifetime_s),
        )
        self._build(exchange, terms, wall_ns)
        return exchange

    def repeat(self, exchange: Exchange, terms: Terms, now_ns: int, wall_ns: int) -> None:
        """Make the exchange ready for its next transmission (RFC 5944 3.6.3).

        With timestamps it becomes a new request, by the terms of right now; with nonces it
        stays as it is, byte for byte.
        """
        if not self.repeats_bytes:
            self._build(exchange, terms, wall_ns)
            exchange.first_sent_ns = now_ns
        exchange.sent_ns = now_ns
        exchange.timeout_ns = next_timeout_ns(exchange.timeout_ns, exchange.lifetime_s)
        exchange.transmissions += 1

    def _build(self, exchange: Exchange, terms: Terms, wall_ns: int) -> None:
        identity, goal = self._identity, exchange.goal
        identification = self.identifications.next(wall_ns)
        nai = (MobileNodeNai(identity.nai),) if identity.nai else ()
        request = RegistrationRequest(
            flags=terms.flags,
            lifetime=exchange.lifetime_s,
            home_address=self._home_address,
            home_agent=exchange.home_agent
            if terms.home_agent_field is None
            else terms.home_agent_field,
            care_of_address=goal.care_of_address,
            identification=identification,
            extensions=(*nai, *identity.extensions, *terms.extensions),
        )
        message = append_authentication(
            request.encode(), ExtensionType.MOBILE_HOME_AUTHENTICATION, self._association
        )
        exchange.challenge = b""
        if goal.agent:
            message = self._for_the_agent(message, exchange, terms)
        elif identity.sign_for_aaa is not None and goal.purpose is not Purpose.DEREGISTER:
            message = identity.sign_for_aaa(message, COLOCATED_CHALLENGE)
        exchange.flags, exchange.identification = terms.flags, identification
        exchange.encapsulating_delivery = terms.encapsulating_delivery
        exchange.reverse_for_udp = terms.reverse_for_udp
        exchange.data = message

    def _for_the_agent(self, message: bytes, exchange: Exchange, terms: Terms) -> bytes:
        """Append what the foreign agent takes off again."""
        address, identity = exchange.goal.agent, self._identity
        challenge = terms.agent.challenge if terms.agent is not None else b""
        if challenge and identity.may_answer_challenge(address):
            exchange.challenge = challenge
            message += MobileForeignChallenge(challenge).encode()
            if identity.sign_for_aaa is not None:
                message = identity.sign_for_aaa(message, challenge)
        if terms.encapsulating_delivery:
            message += EncapsulatingDelivery().encode()
        shared = identity.foreign_set(address)
        association = shared.outbound() if shared is not None else None
        if association is not None:
            kind = ExtensionType.MOBILE_FOREIGN_AUTHENTICATION
            message = append_authentication(message, kind, association)
        return message


def request_flags(
    *,
    simultaneous: bool,
    reverse: bool,
    encapsulation: int,
    away: bool,
    is_colocated: bool = True,
    broadcasts: bool = False,
) -> int:
    """The flags of a request: D exactly with a co-located care-of address (3.6.1.2)."""
    if not away:
        return 0
    flags = ENCAPSULATION_FLAGS[encapsulation]
    if is_colocated:
        flags |= FLAG_COLOCATED
    if broadcasts:
        flags |= FLAG_BROADCAST
    if simultaneous:
        flags |= FLAG_SIMULTANEOUS
    if reverse:
        flags |= FLAG_REVERSE_TUNNEL
    return flags


def encapsulation_of(flags: int) -> int:
    """The IP protocol of the tunnel a request asked for."""
    for protocol, flag in ENCAPSULATION_FLAGS.items():
        if flag and flags & flag:
            return protocol
    return IPIP


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


@dataclass(frozen=True, slots=True)
class ReadReply:
    """A reply that passed all checks, and what its extensions say."""

    reply: RegistrationReply
    skipped: int
    """Extensions of unknown kind."""
    foreign_error: int = 0
    """What the foreign agent has against a registration the home agent accepted (RFC 4636)."""
    challenge: bytes = b""
    """The foreign agent's next challenge (RFC 4721 3.5)."""
    udp_tunnel: UdpTunnelReply | None = None
    """The home agent's answer to a UDP tunnel request (RFC 3519)."""
    revocation: RevocationSupport | None = None
    """The home agent's answer to ours (RFC 3543)."""
    networks: tuple[MobileNetworkAcknowledgement, ...] = ()
    """The home agent's word on mobile networks (RFC 5177 4.2)."""
    configuration: HostConfiguration | None = None
    """What the home agent tells of the home network (RFC 4332)."""
    redirected_to: int = 0
    """Another home agent to ask (RFC 4433 3.4.2), 0 without a usable one."""
    critical: str = ""
    """An unknown critical vendor extension that makes it a denial (RFC 3115 2.3)."""
    critical_of_agent: bool = False
    """The foreign agent put it there, not the home agent."""


def read_reply(
    data: bytes,
    home_address: int,
    exchange: Exchange | None,
    associations: AssociationSet,
    identity: Identity,
    source: int,
) -> ReadReply:
    """Decode and check a reply that came from ``source``.

    In order: form, home address, pending request and low half of the Identification; Mobile-
    Foreign authentication if we share an association with the foreign agent in use; unless
    that agent itself denied, exactly one valid Mobile-Home authentication extension. An
    agent's denial without any authentication is believed as far as it goes (RFC 5944 3.6.2.3):
    it ends nothing. No foreign agent stands between a co-located care-of address and its home
    agent: then its codes are refused. A critical vendor extension nobody vouches for says nothing.
    Raises ReplyRefused.
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
    agent = exchange.goal.agent
    by_agent = is_foreign_agent(reply.code) or is_gateway_foreign_agent(reply.code)
    if by_agent and not agent:
        raise ReplyRefused("mnRepliesUnknownFA", f"code {reply.code}: no foreign agent is in use")
    if agent and source != agent:
        raise ReplyRefused("mnRepliesUnknownFA", "not from the foreign agent in use")
    shared = identity.foreign_set(agent) if agent else None
    proven = reply.extensions
    if shared is not None:
        kind = ExtensionType.MOBILE_FOREIGN_AUTHENTICATION
        _authenticate(data, reply, kind, shared, "mnRepliesFAAuthenticationFailure")
        # What stands behind the agent's proof is anybody's.
        proven = proven[: [found.type for found in proven].index(kind)]
    home: tuple[Extension, ...] = ()
    behind_home = 0
    if not by_agent:
        kind = ExtensionType.MOBILE_HOME_AUTHENTICATION
        _authenticate(data, reply, kind, associations, "mnRepliesHAAuthenticationFailure")
        place = next(n for n, found in enumerate(reply.extensions) if found.type == kind)
        home, behind_home = reply.extensions[:place], place + 1
    of_home = identity.vendors.unknown_critical(home)
    of_agent = identity.vendors.unknown_critical(proven[behind_home:] if agent else ())
    critical = of_home + of_agent
    skipped = sum(isinstance(extension, RawExtension) for extension in reply.extensions)
    complaint = challenge = None
    if agent:
        complaint = _first(proven, ForeignAgentError)
        challenge = _first(proven, MobileForeignChallenge)
    return ReadReply(
        reply,
        skipped,
        # A status of 0 is none: an error all the same (RFC 4636 4).
        foreign_error=0 if complaint is None else complaint.status or ReplyCode.FA_UNSPECIFIED,
        challenge=challenge.challenge if challenge is not None else b"",
        udp_tunnel=_first(home, UdpTunnelReply),
        revocation=None if agent else _first(home, RevocationSupport),
        networks=tuple(network_acknowledgements(home)),
        configuration=read_host_configuration(home),
        redirected_to=redirection(home),
        critical=identity.vendors.name(critical[0]) if critical else "",
        critical_of_agent=bool(of_agent) and not of_home,
    )


_Kind = TypeVar("_Kind", bound=Extension)


def _first(extensions: tuple[Extension, ...], kind: type[_Kind]) -> _Kind | None:
    return next((found for found in extensions if isinstance(found, kind)), None)


def _authenticate(
    data: bytes,
    reply: RegistrationReply,
    kind: ExtensionType,
    associations: AssociationSet,
    failure: str,
) -> None:
    """Exactly one valid authentication extension of a kind. Raises ReplyRefused."""
    found = reply.authentications(kind)
    name = kind.name.removesuffix("_AUTHENTICATION").replace("_", "-").title()
    if len(found) != 1:
        reason = f"{len(found)} {name} authentication extensions"
        violation = ViolationReason.OTHER if found else ViolationReason.MISSING_SECURITY_EXTENSION
        raise ReplyRefused(failure, reason, violation=violation)
    association = associations.inbound(found[0].spi)
    if association is None:
        raise ReplyRefused(
            failure, "unknown SPI", spi=found[0].spi, violation=ViolationReason.BAD_SPI
        )
    if not verify_authentication(data, found[0], association):
        violation = ViolationReason.BAD_AUTHENTICATOR
        raise ReplyRefused(failure, "wrong authenticator", spi=found[0].spi, violation=violation)
