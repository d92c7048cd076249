"""The ladder from a mobile node's request to a foreign agent's denial: one function per rung.

Order (RFC 5944 3.7.2, RFC 3024 4.2.1, RFC 4721 3.2): form, distance, replay, Mobile-Foreign
authentication, challenge, vendor extensions, care-of address, lifetime, encapsulation, delivery
style, reverse tunnel, home address, home agent, policy, room. The first refusal answers. Rungs
read the case and change nothing. Room comes last here, so that a request which asks for what is
not offered hears so also from a busy agent, and may go on without us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, NamedTuple, Protocol

from fastmip.agents.effects import Arrival
from fastmip.agents.foreign_challenges import SHARED, Holder
from fastmip.agents.home_choice import Member, by_weight
from fastmip.agents.home_counters import ViolationReason
from fastmip.agents.hosts import Prefix, ReverseTunnel
from fastmip.agents.visitors import Limits, NodeKey
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.auth.authenticators import verify_authentication
from fastmip.auth.challenges import CHALLENGE_WINDOW, ChallengeVerdict
from fastmip.wire.addresses import LIMITED_BROADCAST, is_loopback, is_private, is_unicast
from fastmip.wire.authext import MN_AAA, GeneralizedAuthentication
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import (
    FLAG_COLOCATED,
    FLAG_GRE,
    FLAG_MINIMAL,
    FLAG_RESERVED_R,
    FLAG_RESERVED_X,
    FLAG_REVERSE_TUNNEL,
    ExtensionType,
    ReplyCode,
)
from fastmip.wire.dynamic_home_agent import ANY_HOME_AGENT, REQUESTED, DynamicHomeAgent
from fastmip.wire.extensions import Extension, ExtensionRegistry
from fastmip.wire.nai import MobileNodeNai
from fastmip.wire.registration import RegistrationRequest
from fastmip.wire.registry import CONTROL_EXTENSIONS, EXPERIMENTAL_EXTENSIONS
from fastmip.wire.tunneling import EncapsulatingDelivery
from fastmip.wire.vendor import VendorRegistry

IP_IN_IP: Final = 4
GRE: Final = 47
MINIMAL: Final = 55
NEIGHBOURS_TTL: Final = 255
"""What a request with T arrives with when no router brought it (RFC 3024 4.2.1)."""

_RESERVED: Final = FLAG_RESERVED_R | FLAG_RESERVED_X


class Nat(Enum):
    """What stands between us and the home agents (RFC 3519 4.5)."""

    NONE = "none"
    TRANSLATING = "translating"
    """A translator: UDP tunnels are offered, and reverse tunnels are mandatory."""
    TRANSPARENT = "transparent"
    """A translator that lets home addresses through: triangular routing may work."""
    FORCED = "forced"
    """No translator, but UDP tunnels wanted all the same."""


@dataclass(frozen=True, slots=True)
class ForeignLink:
    """One link on which visitors are served."""

    interface: str
    address: int
    """Our address on it."""
    care_of_addresses: tuple[int, ...]
    """Offered there; the first is the source of relayed requests that bring their own."""
    prefixes: tuple[Prefix, ...] = ()
    """Of its subnets: whose hosts are there themselves, and are nobody's visitors."""
    has_challenge: bool | None = None
    """Whether challenges are advertised there; None: as the policy says."""


def _nobody(_address: int) -> AssociationSet | None:
    return None


def _no_node(_home_address: int, _nai: bytes | None) -> AssociationSet | None:
    return None


@dataclass(frozen=True, slots=True)
class ForeignAgentPolicy:
    """Configuration of a foreign agent; replaced as a whole on reload."""

    links: tuple[ForeignLink, ...]
    own: frozenset[int] = frozenset()
    """Every address of this machine: a home agent named so is no other machine (3.7.2)."""
    home_agents: frozenset[int] = frozenset()
    """Addresses of a home agent in the same daemon: its requests are handed over."""
    encapsulations: frozenset[int] = frozenset({IP_IN_IP, GRE, MINIMAL})
    reverse_tunnel: ReverseTunnel = ReverseTunnel.ALLOW
    has_encapsulating_delivery: bool = True
    max_lifetime_s: int = 1800
    """Longest lifetime accepted; 0xffff also takes infinite ones."""
    max_visitors: int = 1000
    max_pending: int = 256
    """Pending requests of nodes that are neither visitors nor proven."""
    max_pending_per_node: int = 5
    """Pending requests of one link-layer address (RFC 5944 3.7.1)."""
    max_visitors_per_node: int = 16
    """Visitors of one link-layer address that share no association with us."""
    requires_registration: bool = False
    has_challenge: bool = False
    challenge_window: int = CHALLENGE_WINDOW
    """How many advertised challenges are good (RFC 4721 9)."""
    has_revocation: bool = False
    requires_revocation: bool = False
    """Deny with 65 what cannot be revoked (RFC 3543 4.2.1, 4.3.1)."""
    has_inform: bool = True
    """Offer to let the home agent decide whether a node is told (the I bit)."""
    nat: Nat = Nat.NONE
    keepalive_s: int = 110
    """Seconds between keepalives where the home agent names none (RFC 3519 4.9)."""
    strict_reserved: bool = False
    """Deny the formerly used bits r and x with 70 instead of ignoring them (C-01)."""
    experimental: bool = False
    """Read experimental extensions instead of dropping their messages (RFC 4064)."""
    home_networks: tuple[Prefix, ...] = ()
    """Home agents elsewhere are denied with 65; empty allows all. Home addresses in one that is
    also a link's prefix may visit there."""
    assigned_home_agents: tuple[Member, ...] = ()
    """For nodes that name none (RFC 4433 5.2)."""
    denials_per_second: int = 100
    reports_per_second: int = 50
    mobile_nodes: Callable[[int, bytes | None], AssociationSet | None] = field(
        default=_no_node, repr=False
    )
    """Associations shared with a mobile node, by home address and NAI."""
    home_agent_associations: Callable[[int], AssociationSet | None] = field(
        default=_nobody, repr=False
    )
    """Associations shared with the home agent at an address."""
    vendors: VendorRegistry = field(default_factory=VendorRegistry)
    by_interface: dict[str, ForeignLink] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Derive what every request asks for."""
        object.__setattr__(self, "by_interface", {link.interface: link for link in self.links})

    def demands_challenge(self, interface: str) -> bool:
        """Whether strangers on a link must answer a challenge advertised there."""
        link = self.by_interface.get(interface)
        told = None if link is None else link.has_challenge
        return self.has_challenge if told is None else told

    def trusts_more(self, home_agent: int, other: int) -> bool:
        """Whether one home agent proves itself to us and the other does not."""
        shared = self.home_agent_associations
        return shared(home_agent) is not None and shared(other) is None

    def is_local_host(self, home_address: int, home_agent: int) -> bool:
        """Whether a home address belongs on one of our links, so that nobody may visit with it.

        Any home agent could else vouch for a host that is there, and it would lose its packets.
        A home agent of ours knows its own, and so does the operator of ``home_networks``.
        """
        if home_agent in self.home_agents or not any(
            home_address in prefix for link in self.links for prefix in link.prefixes
        ):
            return False
        return not any(home_agent in n and home_address in n for n in self.home_networks)

    def to_home_agent(self, request: RegistrationRequest) -> RegistrationRequest:
        """The request with the home agent it goes to, as its node wants or we choose (4433 5.2).

        0 where nobody knows: code 90.
        """
        end = end_of_authorization(request.extensions)
        wanted = [
            e.address
            for e in request.extensions
            if isinstance(e, DynamicHomeAgent) and e.subtype == REQUESTED and e.offset < end
        ]
        if not wanted and request.home_agent not in ANY_HOME_AGENT:
            return request
        if wanted:
            return replace(request, home_agent=wanted[0])
        if not self.assigned_home_agents:
            return replace(request, home_agent=0)
        nai = next((e.nai for e in request.extensions if isinstance(e, MobileNodeNai)), b"")
        node = nai or request.home_address.to_bytes(4, "big")
        return replace(request, home_agent=by_weight(self.assigned_home_agents, node))

    @property
    def limits(self) -> Limits:
        """What may wait and be served at a time."""
        return Limits(
            self.max_visitors,
            self.max_pending,
            self.max_pending_per_node,
            self.max_visitors_per_node,
        )

    @property
    def registry(self) -> ExtensionRegistry:
        """The extensions that are understood."""
        return EXPERIMENTAL_EXTENSIONS if self.experimental else CONTROL_EXTENSIONS

    @property
    def wants_udp(self) -> bool:
        """Whether relayed requests ask for a UDP tunnel."""
        return self.nat is not Nat.NONE

    @property
    def requires_reverse_tunnel(self) -> bool:
        """Whether a request without T is denied with 75 (RFC 3024 4.2.1, RFC 3519 4.5)."""
        return self.reverse_tunnel is ReverseTunnel.REQUIRE or self.nat is Nat.TRANSLATING


class Refusal(NamedTuple):
    """Why a request is not relayed."""

    code: int
    """Reply code, or SILENT."""
    violation: ViolationReason | None = None
    """To be reported as a security violation (RFC 2006)."""
    counter: str = ""
    """Of a silent drop."""


SILENT: Final = -1

POORLY_FORMED: Final = Refusal(ReplyCode.FA_POORLY_FORMED_REQUEST)
TOO_DISTANT: Final = Refusal(ReplyCode.FA_MOBILE_NODE_TOO_DISTANT)
NODE_UNPROVEN: Final = Refusal(
    ReplyCode.FA_MOBILE_NODE_AUTHENTICATION, ViolationReason.MISSING_SECURITY_EXTENSION
)
NODE_UNKNOWN_SPI: Final = Refusal(ReplyCode.FA_MOBILE_NODE_AUTHENTICATION, ViolationReason.BAD_SPI)
NODE_FAILED: Final = Refusal(
    ReplyCode.FA_MOBILE_NODE_AUTHENTICATION, ViolationReason.BAD_AUTHENTICATOR
)
UNKNOWN_CHALLENGE: Final = Refusal(ReplyCode.FA_UNKNOWN_CHALLENGE)
MISSING_CHALLENGE: Final = Refusal(ReplyCode.FA_MISSING_CHALLENGE)
STALE_CHALLENGE: Final = Refusal(ReplyCode.FA_STALE_CHALLENGE)
CRITICAL_VENDOR: Final = Refusal(ReplyCode.FA_CRITICAL_VENDOR_FROM_MOBILE_NODE)
INVALID_CARE_OF_ADDRESS: Final = Refusal(ReplyCode.FA_INVALID_CARE_OF_ADDRESS)
LIFETIME_TOO_LONG: Final = Refusal(ReplyCode.FA_LIFETIME_TOO_LONG)
NO_ENCAPSULATION: Final = Refusal(ReplyCode.FA_ENCAPSULATION_UNAVAILABLE)
NO_DELIVERY_STYLE: Final = Refusal(ReplyCode.FA_DELIVERY_STYLE_UNSUPPORTED)
REVERSE_TUNNEL_MANDATORY: Final = Refusal(ReplyCode.FA_REVERSE_TUNNEL_MANDATORY)
NO_REVERSE_TUNNEL: Final = Refusal(ReplyCode.FA_REVERSE_TUNNEL_UNAVAILABLE)
NO_HOME_ADDRESS: Final = Refusal(ReplyCode.FA_NONZERO_HOME_ADDRESS_REQUIRED)
NO_HOME_AGENT: Final = Refusal(ReplyCode.FA_NONZERO_HOME_AGENT_REQUIRED)
OWN_HOME_AGENT: Final = Refusal(ReplyCode.FA_INVALID_HOME_AGENT_ADDRESS)
PROHIBITED: Final = Refusal(ReplyCode.FA_PROHIBITED)
UNPROVEN_CHALLENGE: Final = Refusal(SILENT, counter="faChallengeWithoutProof")
REPLAYED: Final = Refusal(SILENT, counter="faRegRequestsReplayed")
NO_ROOM: Final = Refusal(ReplyCode.FA_INSUFFICIENT_RESOURCES)


class Surroundings(Protocol):
    """What a rung may ask about the rest of the agent."""

    def judge_challenge(self, case: ForeignCase, challenge: bytes) -> ChallengeVerdict:
        """What the link's challenge window says."""

    def is_replay(self, case: ForeignCase) -> bool:
        """Whether another node has sent the same before."""

    def has_room(self, case: ForeignCase) -> bool:
        """Whether the request may wait for its home agent here."""


class ForeignCase:
    """A request and everything its rungs look at."""

    __slots__ = (
        "arrival",
        "associations",
        "data",
        "end",
        "holder",
        "key",
        "link",
        "policy",
        "proof",
        "request",
        "surroundings",
        "trailing",
    )

    def __init__(
        self,
        request: RegistrationRequest,
        data: bytes,
        arrival: Arrival,
        mac: bytes,
        link: ForeignLink,
        policy: ForeignAgentPolicy,
        surroundings: Surroundings,
    ) -> None:
        self.request = request
        self.data = data
        self.arrival = arrival
        self.link = link
        self.policy = policy
        self.surroundings = surroundings
        self.end = end_of_authorization(request.extensions)
        """Up to here the message is the home agent's business and stays as it is."""
        nai = next(
            (
                e.nai
                for e in request.extensions
                if isinstance(e, MobileNodeNai) and e.offset < self.end
            ),
            None,
        )
        home_address = request.home_address
        self.key = NodeKey(link.interface, mac, home_address, nai)
        self.associations = policy.mobile_nodes(home_address, nai)
        """Shared with this node, None when there are none."""
        if self.associations is None:
            self.holder = Holder(request.home_agent, home_address, nai)
        elif home_address and policy.mobile_nodes(home_address, None) is not None:
            self.holder = Holder(SHARED, home_address, None)
        else:
            self.holder = Holder(SHARED, 0, nai)
        self.proof: SecurityAssociation | None = None
        """What the node proved itself with; set by the rung of its authentication."""
        self.trailing: tuple[Extension, ...] = tuple(
            [e for e in request.extensions if e.offset >= self.end]
        )
        """Ours to process and remove (RFC 5944 3.7.2.2)."""

    @property
    def is_colocated(self) -> bool:
        """D: the node decapsulates itself."""
        return bool(self.request.flags & FLAG_COLOCATED)

    @property
    def challenges(self) -> list[MobileForeignChallenge]:
        """The challenge the node answers; with several, nobody knows which."""
        return [e for e in self.request.extensions if isinstance(e, MobileForeignChallenge)]

    @property
    def wants_encapsulating(self) -> bool:
        """The node asks for the encapsulating delivery style."""
        return any(isinstance(e, EncapsulatingDelivery) for e in self.trailing)

    @property
    def spi(self) -> int:
        """SPI of the first Mobile-Foreign authentication, 0 without one."""
        found = self.request.authentications(ExtensionType.MOBILE_FOREIGN_AUTHENTICATION)
        return found[0].spi if found else 0

    @property
    def encapsulation(self) -> int:
        """What the home agent is asked for; see the rung for both M and G."""
        if self.request.flags & FLAG_MINIMAL:
            return MINIMAL
        return GRE if self.request.flags & FLAG_GRE else IP_IN_IP


def end_of_authorization(extensions: tuple[Extension, ...]) -> int:
    """Where the last authorization-enabling extension ends: Mobile-Home or MN-AAA; 0 if none."""
    end = 0
    for extension in extensions:
        if extension.type == ExtensionType.MOBILE_HOME_AUTHENTICATION or (
            isinstance(extension, GeneralizedAuthentication) and extension.subtype == MN_AAA
        ):
            end = extension.offset + len(extension.raw)
    return end


def form(case: ForeignCase) -> Refusal | None:
    """Damaged, unsigned, or with reserved bits (RFC 5944 3.7.2.1): 70."""
    request = case.request
    if request.malformed or not case.end or len(case.challenges) > 1:
        return POORLY_FORMED
    if request.flags & _RESERVED and case.policy.strict_reserved:
        return POORLY_FORMED
    if case.wants_encapsulating and not request.flags & FLAG_REVERSE_TUNNEL:
        return POORLY_FORMED  # RFC 3024 3.3
    return None


def distance(case: ForeignCase) -> Refusal | None:
    """A request for a reverse tunnel that a router brought (RFC 3024 4.2.1): 76."""
    if case.request.flags & FLAG_REVERSE_TUNNEL and case.arrival.ttl != NEIGHBOURS_TTL:
        return TOO_DISTANT
    return None


def replay(case: ForeignCase) -> Refusal | None:
    """What another node has said before is no news of this one (RFC 5944 5.7): silence."""
    return REPLAYED if case.surroundings.is_replay(case) else None


def mobile_node(case: ForeignCase) -> Refusal | None:
    """Mobile-Foreign authentication (RFC 5944 3.7.2.1): 67."""
    if case.associations is None:
        return None
    found = case.request.authentications(ExtensionType.MOBILE_FOREIGN_AUTHENTICATION)
    if len(found) != 1 or found[0].offset < case.end:
        return NODE_UNPROVEN
    extension = found[0]
    association = case.associations.inbound(extension.spi)
    if association is None:
        return NODE_UNKNOWN_SPI
    if not verify_authentication(case.data, extension, association):
        return NODE_FAILED
    case.proof = association
    # What stands behind the proof is anybody's.
    case.trailing = tuple([e for e in case.trailing if e.offset < extension.offset])
    return None


def challenge(case: ForeignCase) -> Refusal | None:
    """The challenge (RFC 4721 3.2): 104, 105, 106, or silence without a proof behind it."""
    if not case.challenges:
        missing = case.policy.demands_challenge(case.link.interface) and case.associations is None
        return MISSING_CHALLENGE if missing else None
    found = case.challenges[0]
    if not _is_proven(case, found.offset):
        is_claimed = any(
            e.type == ExtensionType.MOBILE_FOREIGN_AUTHENTICATION and e.offset > found.offset
            for e in case.request.extensions
        )
        return NODE_UNKNOWN_SPI if is_claimed else UNPROVEN_CHALLENGE
    verdict = case.surroundings.judge_challenge(case, found.challenge)
    if verdict is ChallengeVerdict.STALE:
        return STALE_CHALLENGE
    return UNKNOWN_CHALLENGE if verdict is ChallengeVerdict.UNKNOWN else None


def _is_proven(case: ForeignCase, offset: int) -> bool:
    """Whether somebody checks what stands at an offset: we, or the home agent."""
    if any(
        isinstance(e, GeneralizedAuthentication) and e.subtype == MN_AAA and e.offset > offset
        for e in case.request.extensions
    ):
        return True
    found = case.request.authentications(ExtensionType.MOBILE_FOREIGN_AUTHENTICATION)
    return case.proof is not None and found[0].offset > offset


def vendor(case: ForeignCase) -> Refusal | None:
    """A critical vendor extension for us that we do not know (RFC 3115 2.4): 100."""
    return CRITICAL_VENDOR if case.policy.vendors.unknown_critical(case.trailing) else None


def care_of_address(case: ForeignCase) -> Refusal | None:
    """A care-of address we do not offer on this link (RFC 5944 3.7.2.1): 77."""
    request = case.request
    if case.is_colocated or not request.lifetime:
        return None
    if request.care_of_address in case.link.care_of_addresses:
        return None
    return INVALID_CARE_OF_ADDRESS


def lifetime(case: ForeignCase) -> Refusal | None:
    """Longer than we allow (RFC 5944 3.7.2.3): 69."""
    return LIFETIME_TOO_LONG if case.request.lifetime > case.policy.max_lifetime_s else None


def encapsulation(case: ForeignCase) -> Refusal | None:
    """An encapsulation not offered (RFC 3024 4.2.1): 72. A co-located node does its own.

    With M and G both the home agent takes either and tells nobody which: our end would take half
    of all tunnels for forged ones. The node hears so, and asks for one.
    """
    request = case.request
    if case.is_colocated or not request.lifetime:
        return None
    is_either = request.flags & FLAG_MINIMAL and request.flags & FLAG_GRE
    is_offered = case.encapsulation in case.policy.encapsulations
    return None if is_offered and not is_either else NO_ENCAPSULATION


def delivery_style(case: ForeignCase) -> Refusal | None:
    """Encapsulating delivery where we do not do it (RFC 3024 3.4): 79."""
    if case.wants_encapsulating and not case.policy.has_encapsulating_delivery:
        return NO_DELIVERY_STYLE
    return None


def reverse_tunnel(case: ForeignCase) -> Refusal | None:
    """The T bit against the policy (RFC 3024 4.2.1): 75 or 74. A deregistration passes.

    Where our care-of address is public a private home address sends nothing without (A.4).
    """
    request = case.request
    if case.is_colocated or not request.lifetime:
        return None
    if not request.flags & FLAG_REVERSE_TUNNEL:
        is_lost = is_private(request.home_address) and not is_private(request.care_of_address)
        is_mandatory = is_lost or case.policy.requires_reverse_tunnel
        return REVERSE_TUNNEL_MANDATORY if is_mandatory else None
    return NO_REVERSE_TUNNEL if case.policy.reverse_tunnel is ReverseTunnel.REFUSE else None


def home_address(case: ForeignCase) -> Refusal | None:
    """Neither a home address nor an NAI (RFC 2794 3): 96; an impossible one: 70."""
    address = case.request.home_address
    if not address:
        return None if case.key.nai else NO_HOME_ADDRESS
    if not is_unicast(address) or is_loopback(address) or address in case.policy.own:
        return POORLY_FORMED
    return None


def home_agent(case: ForeignCase) -> Refusal | None:
    """No home agent named (RFC 4433): 90; ourselves, without being it (5944 3.7.2): 194."""
    address = case.request.home_agent
    if address in (0, LIMITED_BROADCAST) or not is_unicast(address) or is_loopback(address):
        return NO_HOME_AGENT
    policy = case.policy
    if address in policy.home_agents:
        return None
    return OWN_HOME_AGENT if address in policy.own else None


def policy(case: ForeignCase) -> Refusal | None:
    """Where visitors may have their home: not here; and must they be revocable: 65."""
    rules = case.policy
    request = case.request
    if rules.home_networks and not any(request.home_agent in n for n in rules.home_networks):
        return PROHIBITED
    if not request.lifetime:
        return None
    if not case.is_colocated and rules.is_local_host(request.home_address, request.home_agent):
        return PROHIBITED
    if not rules.requires_revocation:
        return None
    shared = rules.home_agent_associations(request.home_agent)
    if case.is_colocated or shared is None or shared.outbound() is None:
        return PROHIBITED
    return None


def room(case: ForeignCase) -> Refusal | None:
    """Pending or visitor limits (RFC 5944 3.7.1): 66."""
    return None if case.surroundings.has_room(case) else NO_ROOM


LADDER: Final[tuple[Callable[[ForeignCase], Refusal | None], ...]] = (
    form,
    distance,
    replay,
    mobile_node,
    challenge,
    vendor,
    care_of_address,
    lifetime,
    encapsulation,
    delivery_style,
    reverse_tunnel,
    home_address,
    home_agent,
    policy,
    room,
)
"""The rungs in the order they are climbed."""


def climb(case: ForeignCase) -> Refusal | None:
    """The first refusal, or None for a request to relay."""
    for rung in LADDER:
        refusal = rung(case)
        if refusal is not None:
            return refusal
    return None
