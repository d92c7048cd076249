"""The ladder from an authentic request to its reply code: one function per rung.

Order (RFC 5944 3.8.2, RFC 3024 4.3.1): Mobile-AAA authentication, Identification, foreign agent
authentication, form, home agent address, vendor extensions, home address, encapsulation, reverse
tunnel, UDP tunnel, source, care-of address, simultaneous bindings, resources. The first refusal
answers. Rungs read the case and change
nothing; everything cheaper than authentication has been checked before a case exists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from fastmip.agents.bindings import Binding
from fastmip.agents.claims import PLAIN, Claims, challenge_before, mn_aaa_of
from fastmip.agents.effects import Arrival, Now
from fastmip.agents.home_counters import UNEXPECTED_FOREIGN_HOME, ViolationReason
from fastmip.agents.home_tunnels import (
    UNAVAILABLE,
    TunnelChoice,
    choose_encapsulation,
    choose_tunnel,
    is_ill_placed,
)
from fastmip.agents.hosts import HomeAgentPolicy, Host, ReverseTunnel
from fastmip.agents.mobile_networks import Judgement
from fastmip.agents.nesting import leads_back
from fastmip.auth.associations import AssociationSet, ReplayStyle, SecurityAssociation
from fastmip.auth.authenticators import verify_authentication
from fastmip.auth.freshness import Freshness
from fastmip.auth.mn_aaa import COLOCATED_CHALLENGE, spi_of, verify_mn_aaa
from fastmip.wire.addresses import LIMITED_BROADCAST, is_loopback, is_multicast, is_unicast
from fastmip.wire.authext import GeneralizedAuthentication
from fastmip.wire.codes import (
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
REDIRECTED: Final = Refusal(ReplyCode.HA_REDIRECT)
PROHIBITED: Final = Refusal(ReplyCode.HA_PROHIBITED)
ENCAPSULATION_UNAVAILABLE: Final = Refusal(ReplyCode.HA_ENCAPSULATION_UNAVAILABLE)
REVERSE_TUNNEL_MANDATORY: Final = Refusal(ReplyCode.HA_REVERSE_TUNNEL_MANDATORY)
REVERSE_TUNNEL_UNAVAILABLE: Final = Refusal(ReplyCode.HA_REVERSE_TUNNEL_UNAVAILABLE)
TOO_MANY_BINDINGS: Final = Refusal(ReplyCode.HA_TOO_MANY_BINDINGS)
INSUFFICIENT_RESOURCES: Final = Refusal(ReplyCode.HA_INSUFFICIENT_RESOURCES)
BAD_AAA: Final = Refusal(
    ReplyCode.HA_BAD_AAA_AUTHENTICATION, violation=ViolationReason.BAD_AUTHENTICATOR
)
CRITICAL_OF_NODE: Final = Refusal(ReplyCode.HA_CRITICAL_VENDOR_FROM_MOBILE_NODE)
CRITICAL_OF_AGENT: Final = Refusal(ReplyCode.HA_CRITICAL_VENDOR_FROM_FOREIGN_AGENT)
UDP_ENCAPSULATION_UNAVAILABLE: Final = Refusal(ReplyCode.HA_UDP_ENCAPSULATION_UNAVAILABLE)

HOME_AGENT_FIELD: Final = slice(8, 12)
ANY_HOME_AGENT_OCTETS: Final = (bytes(4), b"\xff" * 4)

_RESERVED: Final = FLAG_RESERVED_R | FLAG_RESERVED_X


class Surroundings(Protocol):
    """What a rung may ask about the other mobile nodes."""

    def has_room(self, more: int, now: Now) -> bool:
        """Whether so many more bindings fit, by number and by rate."""

    def may_register(self, now: Now) -> bool:
        """Whether another registration fits into this second."""

    def better_home_agent(self, case: Case, *, is_full: bool) -> int | None:
        """Where a node should go instead; None: it is right here."""

    def carrier(self, address: int, now: Now) -> int:
        """Home address of the mobile router on the way to an address; see ``nesting``."""

    def ends_of(self, home_address: int, now: Now) -> tuple[int, ...]:
        """Where the tunnels of a node lead."""

    def networks_of(self, home_address: int) -> tuple[tuple[int, int], ...]:
        """Mobile networks a node has out of pools, or had."""


class Case:
    """An authentic request and everything its rungs look at."""

    __slots__ = (
        "_agent_is_proven",
        "_choice",
        "arrival",
        "association",
        "claims",
        "data",
        "foreign_agent",
        "freshness",
        "host",
        "live",
        "networks",
        "now",
        "policy",
        "redirected_to",
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
        claims: Claims,
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
        self.claims = claims
        self.networks: Judgement | None = None
        """What its mobile networks got; None of a node without."""
        self.redirected_to = 0
        """The home agent a refusal with 143 names."""
        self._agent_is_proven: bool | None = None
        self._choice: TunnelChoice | None = None

    @property
    def choice(self) -> TunnelChoice:
        """The tunnel it would get."""
        if self._choice is None:
            self._choice = choose_tunnel(self)
        return self._choice

    def agent_is_proven(self) -> bool:
        """Whether a foreign agent we know vouches for its part of the request."""
        if self._agent_is_proven is None:
            shared = self.foreign_agent
            self._agent_is_proven = shared is not None and foreign_agent_is_authentic(
                self.data, self.request, shared
            )
        return self._agent_is_proven

    @property
    def is_dynamic(self) -> bool:
        """The node takes whatever home agent it is given (RFC 4433 4.1, steps 1 and 2).

        Its Home Agent field named none before ours was put in, or the extension names us.
        """
        named = self.claims.node_requested is not None
        return named or self.data[HOME_AGENT_FIELD] in ANY_HOME_AGENT_OCTETS

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


def mobile_aaa(case: Case) -> Refusal | None:
    """A Mobile-AAA authentication we hold the secret of, and it is wrong (RFC 4721 3.4): 144.

    Without a secret it is for somebody else, a foreign agent or an AAA server.
    """
    if not case.host.aaa:
        return None
    found = mn_aaa_of(case.request)
    if found is None or mn_aaa_is_authentic(case.data, case.request, found, case.host):
        return None
    return BAD_AAA


def mn_aaa_is_authentic(
    data: bytes, request: RegistrationRequest, found: GeneralizedAuthentication, host: Host
) -> bool:
    """Whether a Mobile-AAA authentication is right by the secret its SPI names."""
    challenge = challenge_before(request, found.offset)
    if challenge is None:
        challenge = COLOCATED_CHALLENGE
    return any(
        spi_of(secret) == found.spi and verify_mn_aaa(data, found, secret, challenge)
        for secret in host.aaa
    )


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
    node = request.authentications(ExtensionType.MOBILE_HOME_AUTHENTICATION)
    authorizing = node[0] if node else mn_aaa_of(request)
    if authorizing is None or authorizing.offset > found[0].offset:
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
    if request.lifetime == 0 or case.agent_is_proven():
        return None
    if request.authentications(ExtensionType.FOREIGN_HOME_AUTHENTICATION):
        return FOREIGN_AGENT_FAILED
    if request.care_of_address != case.arrival.source.address:
        return None
    return FOREIGN_AGENT_UNPROVEN


def form(case: Case) -> Refusal | None:
    """A message damaged outside its authentic part, or reserved bits set (3.8.2.3): 134.

    The bits r and x are ignored unless the policy is strict, because RFC 5944 3.3 says so
    while 3.8.2.3 says otherwise. A UDP tunnel request by the wrong side is as bad.
    """
    if case.request.malformed or (case.claims is not PLAIN and is_ill_placed(case)):
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
    wanted = case.claims.node_requested
    if wanted is not None and wanted != case.arrival.destination.address:
        return UNKNOWN_HOME_AGENT  # RFC 4433 5.3
    group = policy.group
    if group is not None and not group.accepts_unnamed and wanted is None and case.is_dynamic:
        return UNKNOWN_HOME_AGENT  # it could be said again to another of the group
    return None


def is_broadcast(address: int, policy: HomeAgentPolicy) -> bool:
    """Whether a datagram to this address was not sent to us alone."""
    return address not in policy.own and (
        address in (LIMITED_BROADCAST, policy.broadcast) or is_multicast(address)
    )


def vendor_extensions(case: Case) -> Refusal | None:
    """A critical vendor extension that is not known (RFC 3115 2.4): 140, or 141 of an agent's."""
    known = case.policy.vendors
    if case.claims.unknown_critical(known, of_agent=False):
        return CRITICAL_OF_NODE
    if case.claims.unknown_critical(known, of_agent=True):
        return CRITICAL_OF_AGENT
    return None


def home_address(case: Case) -> Refusal | None:
    """A home address that cannot be served although it is configured (3.8.3.2): 129."""
    address = case.request.home_address
    if address in case.policy.own or not is_unicast(address):
        return PROHIBITED
    return None


def encapsulation(case: Case) -> Refusal | None:
    """An encapsulation that is not offered (RFC 3024 4.3.1, RFC 3519 4.6.1): 139, or 142 in UDP."""
    request = case.request
    if not request.lifetime:
        return None
    if case.claims is PLAIN:
        found = choose_encapsulation(request.flags, case.policy.encapsulations)
        return None if found != UNAVAILABLE else ENCAPSULATION_UNAVAILABLE
    if case.choice.encapsulation != UNAVAILABLE:
        return None
    return UDP_ENCAPSULATION_UNAVAILABLE if case.choice.tunnel_port else ENCAPSULATION_UNAVAILABLE


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


def udp_tunnel(case: Case) -> Refusal | None:
    """A UDP tunnel that is needed or forced, and the policy is against it (3519 4.6.1): 129."""
    return PROHIBITED if case.request.lifetime and case.choice.is_prohibited else None


def source_address(case: Case) -> Refusal | None:
    """A sender that is neither the care-of nor the home address: 129.

    Behind such a source stands a translator (RFC 3519 1.2), and a tunnel to the care-of
    address would lead nowhere, unless it is one in UDP. A foreign agent we know may relay for
    a co-located care-of address; a deregistration may come from anywhere (RFC 5944 3.8.2.2).
    """
    request = case.request
    source = case.arrival.source.address
    if source in (request.care_of_address, request.home_address) or not request.lifetime:
        return None
    if case.foreign_agent is not None or not case.policy.strict_source:
        return None
    return None if case.choice.tunnel_port else PROHIBITED


def care_of_address(case: Case) -> Refusal | None:
    """A care-of address no tunnel can or may lead to: 129.

    Itself, us, no unicast address, loopback (unless we are there too, in a laboratory), the
    home network's broadcast, a home address bound here that is no router's (two such bindings
    would chase a packet in a circle), one that leads back through mobile routers, or outside the
    service area. Behind a translator the address that counts is the translator's.
    """
    request = case.request
    if not request.lifetime:
        return None
    policy = case.policy
    address = request.care_of_address if case.claims is PLAIN else case.choice.remote
    if (
        request.home_address in (address, request.care_of_address)
        or not is_unicast(address)
        or (is_loopback(address) and not is_loopback(request.home_agent))
        or address in policy.own
    ):
        return PROHIBITED
    home = policy.home_network
    if address in home and address in (home.network, home.broadcast):
        return PROHIBITED
    if leads_back(case, address):
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
    """No room for another binding, or too many this second: 130, or 143 in a group."""
    if not case.request.lifetime:
        return None
    more = len(case.kept) + 1 - len(case.live)
    if case.surroundings.may_register(case.now) and (
        more <= 0 or case.surroundings.has_room(more, case.now)
    ):
        return None
    return _elsewhere(case, is_full=True) or INSUFFICIENT_RESOURCES


def other_home_agent(case: Case) -> Refusal | None:
    """Another home agent of the group shall serve it (RFC 4433 5.3): 143."""
    if case.policy.group is None or not case.request.lifetime:
        return None
    return _elsewhere(case, is_full=False)


def _elsewhere(case: Case, *, is_full: bool) -> Refusal | None:
    if case.policy.group is None or not case.is_dynamic:
        return None
    found = case.surroundings.better_home_agent(case, is_full=is_full)
    if found is None:
        return None
    case.redirected_to = found
    return REDIRECTED


LADDER: Final[tuple[Callable[[Case], Refusal | None], ...]] = (
    mobile_aaa,
    identification,
    foreign_agent,
    form,
    home_agent_address,
    vendor_extensions,
    home_address,
    encapsulation,
    reverse_tunnel,
    udp_tunnel,
    source_address,
    care_of_address,
    simultaneous_bindings,
    other_home_agent,
    resources,
)
"""The rungs in the order they are climbed."""


_OF_EXTENSIONS: Final = (mobile_aaa, vendor_extensions, udp_tunnel)
_PLAIN_LADDER: Final = tuple(rung for rung in LADDER if rung not in _OF_EXTENSIONS)
"""For requests that carry nothing but their authentication: most of them."""


def climb(case: Case) -> Refusal | None:
    """The first refusal, or None for a request to accept."""
    for rung in _PLAIN_LADDER if case.claims is PLAIN else LADDER:
        refusal = rung(case)
        if refusal is not None:
            return refusal
    return None
