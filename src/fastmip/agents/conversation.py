"""What a mobile node says to its home agent and how it takes the answers.

One exchange at a time. ``Conversation.speak`` is told the goal of the moment and begins,
repeats or gives up an exchange; ``Conversation.hear`` matches a datagram with it. Denials
either mend the next request (RFC 5944 3.6.2.3, RFC 3024) or make the node wait:

    code      what changes
    1         no S bit while the home agent says so (it is an acceptance)
    133       Identification: resynchronised with the reply (5.7)
    135       no S bit until the next move
    136       the home agent's address: as the reply says
    137 / 138 no T bit / T bit
    139       IP-in-IP, the encapsulation every home agent has
    142       the same; then no UDP tunnel
    147       the mobile networks it is about are not named any more (RFC 5177 5.1)
    148       none is: we go on as a host
    143       the home agent it names, where one is to be assigned (``assignment.py``)
    others    nothing; wait 1, 2, 4 ... 64 s, until a move: also 144
    any       with an unknown critical vendor extension (RFC 3115 2.3): a denial to wait after

A foreign agent's denials bend only what is asked through it, until the next move:

    69        the lifetime it names
    72        IP-in-IP
    74 / 75   no T bit / T bit
    79        direct delivery
    104-106   a new challenge: the reply's, or the next one advertised
    others    nothing; another care-of address or agent is tried (``mobile.py``)

Codes nobody assigned are taken by their range (RFC 5944 6.4). A home agent that answers every
mended request with the next complaint is made to wait like any other denial.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from fastmip.agents.agent_cache import Agent
from fastmip.agents.assignment import Assignment
from fastmip.agents.effects import (
    Arrival,
    Effect,
    Endpoint,
    Event,
    Now,
    SendDatagram,
    UseHostConfiguration,
    Violation,
)
from fastmip.agents.exchange import (
    Exchange,
    Goal,
    Identity,
    Purpose,
    RequestWriter,
    Terms,
    read_reply,
    request_flags,
)
from fastmip.agents.home_counters import ViolationReason
from fastmip.agents.mobile_counters import MobileCounters
from fastmip.agents.pacing import RequestPacer, back_off_ns
from fastmip.agents.revocation import timestamp
from fastmip.agents.router_networks import RouterNetworks
from fastmip.auth.associations import AssociationSet
from fastmip.auth.freshness import RandomBits
from fastmip.wire.addresses import format_address, is_unicast
from fastmip.wire.codes import (
    FLAG_REVERSE_TUNNEL,
    MOBILE_IP_PORT,
    ReplyCode,
    code_name,
    is_accepted,
    is_foreign_agent,
    is_home_agent,
)
from fastmip.wire.discovery import AGENT_G, AGENT_M
from fastmip.wire.dynamic_home_agent import requested
from fastmip.wire.extensions import Extension
from fastmip.wire.host_configuration import HostConfiguration, wants_host_configuration
from fastmip.wire.mobile_network import MobileNetworkAcknowledgement
from fastmip.wire.registration import RegistrationReply
from fastmip.wire.revocation_support import RevocationSupport
from fastmip.wire.tunneling import FORCED, REQUIRED, UdpTunnelReply, UdpTunnelRequest

MAX_REPAIRS = 4
"""Ours: denials in a row answered by a mended request."""
IPIP = 4
_AGENT_ENCAPSULATIONS = {IPIP: 0, 47: AGENT_G, 55: AGENT_M}
"""Encapsulation -> what a foreign agent advertises that has it."""
DISTANT_TTL = 255
"""RFC 3024 3.2: a foreign agent sees that a request with T came from its own link."""


WAITS_FOR_CHALLENGE = frozenset(
    (
        ReplyCode.FA_UNKNOWN_CHALLENGE,
        ReplyCode.FA_MISSING_CHALLENGE,
        ReplyCode.FA_STALE_CHALLENGE,
    )
)
"""After these the same agent is asked again, once it has sent another challenge."""


AUTHENTICATION_FAILED = frozenset(
    (
        ReplyCode.FA_MOBILE_NODE_AUTHENTICATION,
        ReplyCode.FA_HOME_AGENT_AUTHENTICATION,
        ReplyCode.HA_MOBILE_NODE_AUTHENTICATION,
        ReplyCode.HA_FOREIGN_AGENT_AUTHENTICATION,
        ReplyCode.HA_BAD_AAA_AUTHENTICATION,
    )
)
"""Denials that are security exceptions too (RFC 5944 3.6.2.1): a key may be wrong."""


class Nat(Enum):
    """UDP tunnels through address translators (RFC 3519)."""

    OFF = "off"
    AUTO = "auto"
    """Offered; used where the home agent sees a translator."""
    FORCED = "forced"
    """Used always."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a registration asks for; set by configuration, bent by denials."""

    lifetime_s: int
    reverse_tunnel: bool
    encapsulation: int
    broadcasts: bool = False
    """B: broadcasts of the home network too."""
    encapsulating_delivery: bool = False
    """Through foreign agents: encapsulate to them what shall be reverse-tunnelled."""
    nat: Nat = Nat.OFF
    revocation: bool = False
    """Tell the home agent that it may revoke (RFC 3543)."""
    is_router: bool = False
    """Reverse tunnels always: a mobile network is nothing to route natively (RFC 5177 5)."""

    @property
    def may_do_without(self) -> bool:
        """Reverse tunnels are asked for but not needed."""
        return self.reverse_tunnel and not self.is_router


@dataclass(slots=True)
class _Bent:
    """What a foreign agent's denials changed, until the next move."""

    lifetime_s: int | None = None
    reverse_tunnel: bool | None = None
    encapsulation: int | None = None
    direct_delivery: bool = False
    refused_challenge: bytes = b""
    is_thirsty: bool = False
    """It wants a challenge we have not heard yet."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that passed all checks, with the request it answers."""

    exchange: Exchange
    reply: RegistrationReply
    accepted: bool
    foreign_error: int = 0
    """The foreign agent does not carry what the home agent accepted (RFC 4636)."""
    challenge: bytes = b""
    """For the next request through this foreign agent."""
    udp_tunnel: UdpTunnelReply | None = None
    home_agent_port: int = MOBILE_IP_PORT
    revocation: RevocationSupport | None = None
    networks: tuple[MobileNetworkAcknowledgement, ...] = ()
    """The home agent's word on mobile networks (RFC 5177 4.2)."""
    redirected_to: int = 0
    """The home agent a 143 names (RFC 4433), 0 for none that can be one."""
    critical: str = ""
    """The unknown critical vendor extension that makes it a denial (RFC 3115 2.3)."""
    critical_of_agent: bool = False
    configuration: HostConfiguration | None = None
    """The home agent's word on the home network (RFC 4332)."""

    @property
    def is_unwanted(self) -> bool:
        """The home agent accepted it, and yet it is no registration: to be given back."""
        return bool(self.foreign_error or self.critical)

    @property
    def denied_by_agent(self) -> bool:
        """The foreign agent denied, not the home agent."""
        by_word = bool(self.foreign_error) or self.critical_of_agent
        return is_foreign_agent(self.reply.code) or by_word

    @property
    def reverse_granted(self) -> bool:
        """The request that was accepted asked for reverse tunnelling, and needs it."""
        if self.exchange.reverse_for_udp and not (self.udp_tunnel and self.udp_tunnel.is_accepted):
            return False
        return bool(self.exchange.flags & FLAG_REVERSE_TUNNEL)

    @property
    def replaced_others(self) -> bool:
        """The home agent now holds this care-of address alone (RFC 5944 3.8.2.2)."""
        return (
            not self.exchange.is_simultaneous
            or self.reply.code == ReplyCode.ACCEPTED_NO_SIMULTANEOUS
        )


class Conversation:
    """The mobile node's half of registration, without any notion of links."""

    def __init__(
        self,
        home_address: int,
        home_agent: int,
        wishes: Wishes,
        associations: AssociationSet,
        random_bits: RandomBits,
        counters: MobileCounters,
        home_broadcast: int,
        identity: Identity | None = None,
        networks: RouterNetworks | None = None,
        assignment: Assignment | None = None,
    ) -> None:
        """Raises FastmipError when the associations cannot sign and verify."""
        self.identity = identity or Identity()
        self._networks = networks or RouterNetworks(None)
        self._bent = _Bent()
        self._home_address = home_address
        self._associations = associations
        self._counters = counters
        self._home_broadcast = home_broadcast
        self._writer = RequestWriter(home_address, associations, random_bits, self.identity)
        self._pacer = RequestPacer()
        self._moved = False
        self._replaces = False
        """The home agent said code 1: with S or without, a new binding replaces the others."""
        self._told: HostConfiguration | None = None
        self._denials = 0
        self._repairs = 0
        self._not_before_ns = 0
        self.home_agent = home_agent
        """Where requests go; a 136 may have changed it."""
        self.wishes = wishes
        self._assignment = assignment
        self.simultaneous_denied = False
        self.exchange: Exchange | None = None

    def moved(self, *, hinted: bool = True) -> None:
        """We are elsewhere: what was denied there may be granted here.

        ``hinted``: the link layer told of it, so a request may go at once.
        """
        self._moved |= hinted
        self._denials = self._repairs = self._not_before_ns = 0
        self.simultaneous_denied = False
        self._bent = _Bent()

    def speak(
        self, goal: Goal | None, simultaneous: bool, now: Now, agent: Agent | None = None
    ) -> tuple[SendDatagram | None, int | None]:
        """Pursue a goal: what to send now, and when to be called again (None: no need).

        ``agent`` is the foreign agent the goal names, as last heard. An exchange with another
        goal is given up; a late reply to it no longer matches.
        """
        if self.exchange is not None and self.exchange.goal != goal:
            self.exchange = None
        if goal is None:
            return None, None
        if self._assignment is not None and self._assignment.is_over(self.exchange, now.boot_ns):
            self.home_agent, self.exchange = self._assignment.start, None
        exchange = self.exchange
        earliest_ns = self._pacer.earliest_ns(moved=self._moved)
        due_ns = max(earliest_ns, exchange.due_ns if exchange else self._not_before_ns)
        if now.boot_ns < due_ns:
            return None, due_ns
        refused = self._bent.refused_challenge
        if agent is not None and refused and agent.challenge == refused:
            return None, None  # RFC 4721 3.5: only with a new challenge, when one is heard
        terms = self._terms(goal, simultaneous, agent, now)
        if exchange is None:
            lifetime_s = self._lifetime_s(agent) if goal.purpose is Purpose.REGISTER else 0
            exchange = self._writer.begin(
                goal, self.home_agent, lifetime_s, terms, now.boot_ns, now.wall_ns
            )
            self.exchange = exchange
        else:
            self._writer.repeat(exchange, terms, now.boot_ns, now.wall_ns)
            self._counters.add("mnRegRequestsRetransmitted")
        self._moved = False
        self._pacer.sent(now.boot_ns)
        self._count(exchange)
        datagram = self._datagram(exchange, agent)
        return datagram, max(exchange.due_ns, self._pacer.earliest_ns(moved=False))

    def lacks_challenge(self, agent: Agent) -> bool:
        """Whether this agent refused our challenge, or none, and gave no other (RFC 4721 3.3)."""
        bent = self._bent
        return bent.is_thirsty and agent.challenge in (b"", bent.refused_challenge)

    def _lifetime_s(self, agent: Agent | None) -> int:
        """What is asked for: no more than the foreign agent relays."""
        bounds = [self.wishes.lifetime_s]
        if agent is not None:
            bounds.append(agent.registration_lifetime_s)
        if self._bent.lifetime_s is not None:
            bounds.append(self._bent.lifetime_s)
        return max(1, min(bounds))

    def _terms(self, goal: Goal, simultaneous: bool, agent: Agent | None, now: Now) -> Terms:
        wishes, bent = self.wishes, self._bent
        away = goal.purpose is not Purpose.DEREGISTER
        lent = away and not goal.is_colocated
        reverse = wishes.reverse_tunnel
        if bent.reverse_tunnel is not None:
            reverse = bent.reverse_tunnel
        elif lent and agent is not None and not agent.reverse_tunnels:
            reverse = wishes.is_router
        extensions = self._extensions(goal, agent, now)
        # RFC 3519 3.1.5: keepalives too come back through the tunnel.
        for_udp = not reverse and bent.reverse_tunnel is None
        for_udp = for_udp and any(isinstance(found, UdpTunnelRequest) for found in extensions)
        encapsulation = bent.encapsulation or wishes.encapsulation
        needs = _AGENT_ENCAPSULATIONS[encapsulation]
        if lent and agent is not None and agent.flags & needs != needs:
            encapsulation = IPIP  # RFC 5944 3.6.1.2: only what the agent advertises
        flags = request_flags(
            simultaneous=simultaneous and not (self.simultaneous_denied or self._replaces),
            reverse=reverse or for_udp,
            encapsulation=encapsulation,
            away=away,
            is_colocated=goal.is_colocated,
            broadcasts=wishes.broadcasts,
        )
        delivery = lent and reverse and wishes.encapsulating_delivery and not bent.direct_delivery
        field = None
        if self._assignment is not None and goal.purpose is Purpose.REGISTER:
            field = self._assignment.field
        return Terms(flags, tuple(extensions), agent, delivery, for_udp, field)

    def _extensions(self, goal: Goal, agent: Agent | None, now: Now) -> list[Extension]:
        """For the home agent: mobile networks; the rest with a care-of address of our own."""
        found: list[Extension] = []
        if goal.purpose is Purpose.REGISTER:
            found += self._networks.requests()
            if self._assignment is not None:
                found.append(requested(self.home_agent))
        if goal.purpose is Purpose.DEREGISTER or not goal.is_colocated:
            return found
        nat = self.wishes.nat
        if nat is not Nat.OFF and (agent is None or agent.udp_tunnels):
            flags = (FORCED if nat is Nat.FORCED else 0) | (REQUIRED if goal.agent else 0)
            found.append(UdpTunnelRequest(flags))
        if self.wishes.revocation and not goal.agent:
            found.append(RevocationSupport(False, timestamp(now)))
        return found

    def _count(self, exchange: Exchange) -> None:
        self._counters.add("mnRegRequestsSent" if exchange.lifetime_s else "mnDeRegRequestsSent")
        if exchange.home_agent == self._home_broadcast:
            self._counters.add("mnRegRequestsWithDirectedBroadcast")

    def _datagram(self, exchange: Exchange, agent: Agent | None) -> SendDatagram:
        """The source is our care-of address, else the home address (RFC 5944 3.6.1.1)."""
        goal = exchange.goal
        source = goal.care_of_address if goal.is_colocated else self._home_address
        reverse = bool(exchange.flags & FLAG_REVERSE_TUNNEL)
        return SendDatagram(
            exchange.data,
            source=Endpoint(source, 0),
            destination=Endpoint(goal.agent or exchange.home_agent, MOBILE_IP_PORT),
            interface=goal.interface,
            mac=agent.mac if agent is not None else None,
            ttl=DISTANT_TTL if goal.agent and reverse else None,
        )

    def hear(self, data: bytes, arrival: Arrival) -> Answer:
        """Match a datagram with the exchange, which ends. Raises ReplyRefused."""
        found = read_reply(
            data,
            self._home_address,
            self.exchange,
            self._associations,
            self.identity,
            arrival.source.address,
        )
        exchange, reply = self.exchange, found.reply
        assert exchange is not None  # noqa: S101 - read_reply refuses without one
        self.exchange = None
        if found.skipped:
            self._counters.add("mnRepliesIgnoredUnknownExtension")
        deregistration = exchange.lifetime_s == 0
        self._counters.add("mnDeRegRepliesRecieved" if deregistration else "mnRegRepliesRecieved")
        # A lifetime of zero in the answer to a registration means there is no binding.
        accepted = is_accepted(reply.code) and (deregistration or reply.lifetime != 0)
        return Answer(
            exchange,
            reply,
            accepted and not found.foreign_error and not found.critical,
            found.foreign_error,
            found.challenge,
            found.udp_tunnel,
            arrival.source.port,
            found.revocation,
            found.networks,
            found.redirected_to,
            found.critical,
            found.critical_of_agent,
            found.configuration,
        )

    def accept(self, answer: Answer) -> list[Effect]:
        """Take note of an acceptance, and of what is new in it about the home network."""
        self._replaces = answer.reply.code == ReplyCode.ACCEPTED_NO_SIMULTANEOUS
        self._counters.add("mnRegRequestsAccepted")
        if self._assignment is not None:
            self._assignment.accepted(answer.exchange, answer.reply.lifetime)
        self._writer.identifications.accept(answer.reply.identification)
        self._denials = self._repairs = self._not_before_ns = 0
        told = answer.configuration
        asked = any(map(wants_host_configuration, self.identity.extensions))
        if told is None or told == self._told or not asked:
            return []
        self._told = told
        return [UseHostConfiguration(told)]

    def deny(self, answer: Answer, now: Now) -> tuple[list[Effect], bool]:
        """Mend the next request or wait; returns what to log and whether it was mended."""
        reply = answer.reply
        if answer.critical:
            self._counters.add("mnRepliesUnknownCritical")
        if answer.denied_by_agent:
            self._counters.add("mnRegRequestsDeniedByFA")
        elif is_home_agent(reply.code):
            self._counters.add("mnRegRequestsDeniedByHA")
        elif not is_accepted(reply.code):
            self._counters.add("mnRepliesUnknownCode")
        if answer.denied_by_agent:
            mended = not answer.is_unwanted and self._bend(answer)
        else:
            mended = self._networks.mend(reply.code, answer.networks) or self._follow(answer)
            mended = mended or self._mend(reply)
        mended = mended and self._repairs < MAX_REPAIRS
        if self._writer.repeats_bytes and not is_foreign_agent(reply.code):
            # Every authentic reply brings the next nonce. With timestamps a denial proves
            # nothing: the home agent may not have looked at the time before it denied.
            self._writer.identifications.accept(reply.identification)
        if mended:
            self._repairs += 1
        else:
            self._denials += 1
            self._not_before_ns = now.boot_ns + back_off_ns(self._denials)
            if self._assignment is not None:
                self._not_before_ns += self._assignment.take_pause_ns()
        code = answer.foreign_error or reply.code
        reason = f"unknown critical {answer.critical}" if answer.critical else code_name(code)
        fields = (
            ("code", code),
            ("reason", reason),
            ("care_of_address", format_address(answer.exchange.goal.care_of_address)),
            ("retry_s", 0.0 if mended else back_off_ns(self._denials) / 1e9),
        )
        told: list[Effect] = [Event("registration-denied", fields)]
        if code in AUTHENTICATION_FAILED:
            peer = answer.exchange.goal.agent or answer.exchange.home_agent
            reason = ViolationReason.BAD_AUTHENTICATOR.text
            told.append(Violation(self._home_address, peer, 0, reply.identification, reason))
        return told, mended

    def _follow(self, answer: Answer) -> bool:
        """Ask the home agent that a 143 names; False when that leads nowhere (RFC 4433 4.2)."""
        assignment = self._assignment
        if assignment is None or answer.reply.code != ReplyCode.HA_REDIRECT:
            return False
        if answer.exchange.goal.purpose is not Purpose.REGISTER:
            return False
        if not assignment.follow(self.home_agent, answer.redirected_to):
            loops = assignment.has_looped
            self._counters.add("mnRedirectLoops" if loops else "mnRedirectsUnusable")
            self.home_agent = assignment.start
            return False
        self._counters.add("mnRedirectsFollowed")
        self.home_agent = answer.redirected_to
        return True

    def _mend(self, reply: RegistrationReply) -> bool:
        """Change what the code complains about; False when nothing can be changed."""
        wishes = self.wishes
        match reply.code:
            case ReplyCode.HA_IDENTIFICATION_MISMATCH:
                self._counters.add("mnRegRequestsDeniedByHADueToID")
                self._writer.identifications.resynchronise(reply.identification)
                return True
            case ReplyCode.HA_UNKNOWN_HOME_AGENT:
                self._writer.identifications.resynchronise(reply.identification)
                if reply.home_agent == self.home_agent or not is_unicast(reply.home_agent):
                    return False
                self.home_agent = reply.home_agent
                return True
            case ReplyCode.HA_TOO_MANY_BINDINGS if not self.simultaneous_denied:
                self.simultaneous_denied = True
                return True
            case ReplyCode.HA_REVERSE_TUNNEL_UNAVAILABLE if wishes.may_do_without:
                self._wish(reverse_tunnel=False)
                return True
            case ReplyCode.HA_REVERSE_TUNNEL_UNAVAILABLE if wishes.nat is not Nat.OFF:
                self.wishes = replace(wishes, nat=Nat.OFF)
                return True
            case ReplyCode.HA_REVERSE_TUNNEL_MANDATORY if not wishes.reverse_tunnel:
                self._wish(reverse_tunnel=True)
                return True
            case ReplyCode.HA_ENCAPSULATION_UNAVAILABLE if wishes.encapsulation != IPIP:
                self._wish(encapsulation=IPIP)
                return True
            case ReplyCode.HA_UDP_ENCAPSULATION_UNAVAILABLE if wishes.encapsulation != IPIP:
                self._wish(encapsulation=IPIP)
                return True
            case ReplyCode.HA_UDP_ENCAPSULATION_UNAVAILABLE if wishes.nat is not Nat.OFF:
                self.wishes = replace(wishes, nat=Nat.OFF)
                return True
        return False

    def _bend(self, answer: Answer) -> bool:
        """Change what this foreign agent complains about; False when nothing can be."""
        bent, exchange, reply = self._bent, answer.exchange, answer.reply
        reverse = bool(exchange.flags & FLAG_REVERSE_TUNNEL)
        match reply.code:
            case ReplyCode.FA_LIFETIME_TOO_LONG if 0 < reply.lifetime < exchange.lifetime_s:
                bent.lifetime_s = reply.lifetime
                return True
            case ReplyCode.FA_ENCAPSULATION_UNAVAILABLE if bent.encapsulation is None:
                bent.encapsulation = IPIP
                return True
            case ReplyCode.FA_REVERSE_TUNNEL_UNAVAILABLE if reverse and not self.wishes.is_router:
                bent.reverse_tunnel = False
                return True
            case ReplyCode.FA_REVERSE_TUNNEL_MANDATORY if not reverse:
                bent.reverse_tunnel = True
                return True
            case ReplyCode.FA_DELIVERY_STYLE_UNSUPPORTED if exchange.encapsulating_delivery:
                bent.direct_delivery = True
                return True
            case code if code in WAITS_FOR_CHALLENGE:
                self._counters.add("mnChallengesRefused")
                bent.refused_challenge, bent.is_thirsty = exchange.challenge, True
                return answer.challenge not in (b"", exchange.challenge)
        return False

    def _wish(
        self, *, reverse_tunnel: bool | None = None, encapsulation: int | None = None
    ) -> None:
        wishes = self.wishes
        self.wishes = replace(
            wishes,
            reverse_tunnel=wishes.reverse_tunnel if reverse_tunnel is None else reverse_tunnel,
            encapsulation=wishes.encapsulation if encapsulation is None else encapsulation,
        )
