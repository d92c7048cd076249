"""The ladder from an authentic request to its reply code: one function per rung.

Order (RFC 5944 3.8.2, RFC 3024 4.3.1): Identification, foreign agent authentication, form,
home agent address, home address, encapsulation, reverse tunnel, source, care-of address,
simultaneous bindings, resources. The first refusal answers. Rungs read the case and change
nothing; everything cheaper than authentication has been checked before a case exists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from fastmip.agents.bindings import Binding
from fastmip.agents.effects import Arrival, Now
from fastmip.agents.home_counters import UNEXPECTED_FOREIGN_HOME, ViolationReason
from fastmip.agents.hosts import HomeAgentPolicy, Host, ReverseTunnel
from fastmip.auth.associations import AssociationSet, ReplayStyle, SecurityAssociation
from fastmip.auth.authenticators import verify_authentication
from fastmip.auth.freshness import Freshness
from fastmip.wire.addresses import LIMITED_BROADCAST, is_loopback, is_multicast, is_unicast
from fastmip.wire.codes import (
    FLAG_GRE,
    FLAG_MINIMAL,
    FLAG_RESERVED_R,
    FLAG_RESERVED_X,
    FLAG_REVERSE_TUNNEL,
    FLAG_SIMULTANEOUS,
    ExtensionType,
    ReplyCode,
)
from fastmip.wire.registration import RegistrationRequest


class Refusal(NamedTuple):
    """Why a request is not accepted."""

    code: int
    """Reply code, or SILENT."""
    counter: str = ""
    """Counter of a silent drop; codes count by themselves."""
    violation: ViolationReason | None = None
    """To be reported as a security violation (RFC 2006)."""


SILENT: Final = -1
"""Not answered at all."""

IDENTIFICATION_MISMATCH: Final = Refusal(
    ReplyCode.HA_IDENTIFICATION_MISMATCH, violation=ViolationReason.BAD_IDENTIFIER
)
FOREIGN_AGENT_FAILED: Final = Refusal(
    ReplyCode.HA_FOREIGN_AGENT_AUTHENTICATION, violation=ViolationReason.BAD_AUTHENTICATOR
)
FOREIGN_AGENT_UNPROVEN: Final = Refusal(
    ReplyCode.HA_FOREIGN_AGENT_AUTHENTICATION,
    violation=ViolationReason.MISSING_SECURITY_EXTENSION,
)
FOREIGN_AGENT_UNKNOWN: Final = Refusal(
    SILENT, UNEXPECTED_FOREIGN_HOME, ViolationReason.NO_MOBILITY_SECURITY_ASSOCIATION
)
POORLY_FORMED: Final = Refusal(ReplyCode.HA_POORLY_FORMED_REQUEST)
UNKNOWN_HOME_AGENT: Final = Refusal(ReplyCode.HA_UNKNOWN_HOME_AGENT)
PROHIBITED: Final = Refusal(ReplyCode.HA_PROHIBITED)
ENCAPSULATION_UNAVAILABLE: Final = Refusal(ReplyCode.HA_ENCAPSULATION_UNAVAILABLE)
REVERSE_TUNNEL_MANDATORY: Final = Refusal(ReplyCode.HA_REVERSE_TUNNEL_MANDATORY)
REVERSE_TUNNEL_UNAVAILABLE: Final = Refusal(ReplyCode.HA_REVERSE_TUNNEL_UNAVAILABLE)
TOO_MANY_BINDINGS: Final = Refusal(ReplyCode.HA_TOO_MANY_BINDINGS)
INSUFFICIENT_RESOURCES: Final = Refusal(ReplyCode.HA_INSUFFICIENT_RESOURCES)

_ENCAPSULATIONS: Final = FLAG_MINIMAL | FLAG_GRE
_RESERVED: Final = FLAG_RESERVED_R | FLAG_RESERVED_X


class Surroundings(Protocol):
    """What a rung may ask about the other mobile nodes."""

    def has_room(self, more: int, now: Now) -> bool:
        """Whether so many more bindings fit, by number and by rate."""

    def is_bound(self, home_address: int, now: Now) -> bool:
        """Whether an address is a home address with a binding here."""


class Case:
    """An authentic request and everything its rungs look at."""

    __slots__ = (
        "arrival",
        "association",
        "data",
        "foreign_agent",
        "freshness",
        "host",
        "live",
        "now",
        "policy",
        "request",
        "surroundings",
    )

    def __init__(
        self,
        request: RegistrationRequest,
        data: bytes,
        arrival: Arrival,
        host: Host,
        association: SecurityAssociation,
        policy: HomeAgentPolicy,
        foreign_agent: AssociationSet | None,
        surroundings: Surroundings,
        now: Now,
        freshness: Freshness,
        live: tuple[Binding, ...],
    ) -> None:
        self.request = request
        self.data = data
        self.arrival = arrival
        self.host = host
        self.association = association
        """The one that verified the request."""
        self.policy = policy
        self.foreign_agent = foreign_agent
        """What we share with the sender if it is a foreign agent we know."""
        self.surroundings = surroundings
        self.now = now
        self.freshness = freshness
        """What the Identification is worth."""
        self.live = live
        """Unexpired bindings of the node, newest first."""

    @property
    def uses_nonces(self) -> bool:
        """Replay protection style of the association in use."""
        return self.association.replay is ReplayStyle.NONCES

    @property
    def binding_limit(self) -> int:
        """Simultaneous bindings this node may have."""
        own = self.host.simultaneous_bindings
        return self.policy.simultaneous_bindings if own is None else own

    @property
    def kept(self) -> tuple[Binding, ...]:
        """Bindings that stay beside the requested one (RFC 5944 3.8.2.2)."""
        if self.request.flags & FLAG_SIMULTANEOUS and self.binding_limit > 1:
            care_of = self.request.care_of_address
            return tuple([b for b in self.live if b.care_of_address != care_of])
        return ()


def identification(case: Case) -> Refusal | None:
    """Replay protection (RFC 5944 3.8.2.1 b, 5.7): 133."""
    return None if case.freshness is Freshness.FRESH else IDENTIFICATION_MISMATCH


def foreign_agent_is_authentic(
    data: bytes, request: RegistrationRequest, shared: AssociationSet
) -> bool:
    """Whether exactly one Foreign-Home authentication is there, last of all, and right."""
    found = request.authentications(ExtensionType.FOREIGN_HOME_AUTHENTICATION)
    if len(found) != 1:
        return False
    mobile_home = request.authentications(ExtensionType.MOBILE_HOME_AUTHENTICATION)
    if not mobile_home or mobile_home[0].offset > found[0].offset:
        return False
    association = shared.inbound(found[0].spi)
    return association is not None and verify_authentication(data, found[0], association)


def may_tell_stranger(
    data: bytes, request: RegistrationRequest, arrival: Arrival, policy: HomeAgentPolicy
) -> bool:
    """Whether a wrong Mobile-Home authenticator is answered with 131 (RFC 5944 3.8.2.1 a).

    It must be when a foreign agent proved itself, must not when one failed to, and may be
    when no foreign agent is known.
    """
    shared = policy.foreign_agents(arrival.source.address)
    if shared is not None:
        return foreign_agent_is_authentic(data, request, shared)
    if request.authentications(ExtensionType.FOREIGN_HOME_AUTHENTICATION):
        return False
    return policy.answer_bad_authentication


def foreign_agent(case: Case) -> Refusal | None:
    """Foreign-Home authentication (RFC 5944 3.8.2.1 c and d, 3.5.4): 132, or silence.

    The association is that of the IP source. It is not demanded where a foreign agent must not
    sign (3.5.4): on a deregistration, whose check is skipped altogether, and when the care-of
    address is not its own, as of a co-located one it relays for.
    """
    request = case.request
    shared = case.foreign_agent
    if shared is None:
        if len(request.extensions) == 1:
            return None
        found = request.authentications(ExtensionType.FOREIGN_HOME_AUTHENTICATION)
        return FOREIGN_AGENT_UNKNOWN if found else None
    if request.lifetime == 0 or foreign_agent_is_authentic(case.data, request, shared):
        return None
    if request.authentications(ExtensionType.FOREIGN_HOME_AUTHENTICATION):
        return FOREIGN_AGENT_FAILED
    if request.care_of_address != case.arrival.source.address:
        return None
    return FOREIGN_AGENT_UNPROVEN


def form(case: Case) -> Refusal | None:
    """A message damaged outside its authentic part, or reserved bits set (3.8.2.3): 134.

    The bits r and x are ignored unless the policy is strict, because RFC 5944 3.3 says so
    while 3.8.2.3 says otherwise.
    """
    if case.request.malformed:
        return POORLY_FORMED
    if case.request.flags & _RESERVED and case.policy.strict_reserved:
        return POORLY_FORMED
    return None


def home_agent_address(case: Case) -> Refusal | None:
    """Sent to a broadcast, or naming another home agent (RFC 5944 3.8.2.1, 3.8.3.2): 136."""
    policy = case.policy
    if case.request.home_agent not in policy.own or is_broadcast(
        case.arrival.destination.address, policy
    ):
        return UNKNOWN_HOME_AGENT
    return None


def is_broadcast(address: int, policy: HomeAgentPolicy) -> bool:
    """Whether a datagram to this address was not sent to us alone."""
    return address not in policy.own and (
        address in (LIMITED_BROADCAST, policy.broadcast) or is_multicast(address)
    )


def home_address(case: Case) -> Refusal | None:
    """A home address that cannot be served although it is configured (3.8.3.2): 129."""
    address = case.request.home_address
    if address in case.policy.own or not is_unicast(address):
        return PROHIBITED
    return None


def encapsulation(case: Case) -> Refusal | None:
    """Minimal and GRE encapsulation are not offered (RFC 5944 4.1, RFC 3024 4.3.1): 139."""
    if case.request.flags & _ENCAPSULATIONS and case.request.lifetime:
        return ENCAPSULATION_UNAVAILABLE
    return None


def reverse_tunnel(case: Case) -> Refusal | None:
    """The T bit against the policy (RFC 3024 4.3.1): 138 or 137.

    A deregistration tunnels nothing and passes.
    """
    allowed = case.policy.reverse_tunnel
    if allowed is ReverseTunnel.ALLOW or not case.request.lifetime:
        return None
    wanted = case.request.flags & FLAG_REVERSE_TUNNEL
    if allowed is ReverseTunnel.REQUIRE:
        return None if wanted else REVERSE_TUNNEL_MANDATORY
    return REVERSE_TUNNEL_UNAVAILABLE if wanted else None


def source_address(case: Case) -> Refusal | None:
    """A sender that is neither the care-of nor the home address: 129.

    Behind such a source stands a translator (RFC 3519 1.2), and a tunnel to the care-of
    address would lead nowhere. A foreign agent we know may relay for a co-located care-of
    address; a deregistration may come from anywhere (RFC 5944 3.8.2.2).
    """
    request = case.request
    source = case.arrival.source.address
    if source in (request.care_of_address, request.home_address) or not request.lifetime:
        return None
    if case.foreign_agent is not None or not case.policy.strict_source:
        return None
    return PROHIBITED


def care_of_address(case: Case) -> Refusal | None:
    """A care-of address no tunnel can or may lead to: 129.

    Itself, us, no unicast address, loopback (unless we are there too, in a laboratory), the
    home network's broadcast, a home address bound here (two such bindings would chase a
    packet in a circle), or outside the service area.
    """
    request = case.request
    address = request.care_of_address
    if not request.lifetime:
        return None
    policy = case.policy
    if (
        address == request.home_address
        or not is_unicast(address)
        or (is_loopback(address) and not is_loopback(request.home_agent))
        or address in policy.own
    ):
        return PROHIBITED
    home = policy.home_network
    if address in home and (
        address in (home.network, home.broadcast) or case.surroundings.is_bound(address, case.now)
    ):
        return PROHIBITED
    if policy.care_of_prefixes and not any(address in area for area in policy.care_of_prefixes):
        return PROHIBITED
    return None


def simultaneous_bindings(case: Case) -> Refusal | None:
    """More care-of addresses at a time than allowed (RFC 5944 3.8.2.3): 135."""
    request = case.request
    if not request.flags & FLAG_SIMULTANEOUS or not request.lifetime:
        return None
    if case.binding_limit > 1 and len(case.kept) + 1 > case.binding_limit:
        return TOO_MANY_BINDINGS
    return None


def resources(case: Case) -> Refusal | None:
    """No room for another binding, or too many new ones this second: 130."""
    if not case.request.lifetime:
        return None
    more = len(case.kept) + 1 - len(case.live)
    if more <= 0 or case.surroundings.has_room(more, case.now):
        return None
    return INSUFFICIENT_RESOURCES


LADDER: Final[tuple[Callable[[Case], Refusal | None], ...]] = (
    identification,
    foreign_agent,
    form,
    home_agent_address,
    home_address,
    encapsulation,
    reverse_tunnel,
    source_address,
    care_of_address,
    simultaneous_bindings,
    resources,
)
"""The rungs in the order they are climbed."""


def climb(case: Case) -> Refusal | None:
    """The first refusal, or None for a request to accept."""
    for rung in LADDER:
        refusal = rung(case)
        if refusal is not None:
            return refusal
    return None
