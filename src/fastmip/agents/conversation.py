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
    others    nothing; wait 1, 2, 4 ... 64 s, until a move

Codes nobody assigned are taken by their range (RFC 5944 6.4). A home agent that answers every
mended request with the next complaint is made to wait like any other denial.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastmip.agents.effects import Endpoint, Event, Now, SendDatagram
from fastmip.agents.exchange import (
    Exchange,
    Goal,
    Purpose,
    RequestWriter,
    read_reply,
    request_flags,
)
from fastmip.agents.mobile_counters import MobileCounters
from fastmip.agents.pacing import RequestPacer, back_off_ns
from fastmip.auth.associations import AssociationSet
from fastmip.auth.freshness import RandomBits
from fastmip.wire.addresses import format_address, is_unicast
from fastmip.wire.codes import (
    FLAG_REVERSE_TUNNEL,
    MOBILE_IP_PORT,
    ReplyCode,
    code_name,
    is_accepted,
    is_home_agent,
)
from fastmip.wire.registration import RegistrationReply

MAX_REPAIRS = 4
"""Ours: denials in a row answered by a mended request."""
IPIP = 4


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a registration asks for; set by configuration, bent by denials."""

    lifetime_s: int
    reverse_tunnel: bool
    encapsulation: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that passed all checks, with the request it answers."""

    exchange: Exchange
    reply: RegistrationReply
    accepted: bool

    @property
    def reverse_granted(self) -> bool:
        """The request that was accepted asked for reverse tunnelling."""
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
    ) -> None:
        """Raises FastmipError when the associations cannot sign and verify."""
        self._home_address = home_address
        self._associations = associations
        self._counters = counters
        self._home_broadcast = home_broadcast
        self._writer = RequestWriter(home_address, associations, random_bits)
        self._pacer = RequestPacer()
        self._moved = False
        self._replaces = False
        """The home agent said code 1: with S or without, a new binding replaces the others."""
        self._denials = 0
        self._repairs = 0
        self._not_before_ns = 0
        self.home_agent = home_agent
        """Where requests go; a 136 may have changed it."""
        self.wishes = wishes
        self.simultaneous_denied = False
        self.exchange: Exchange | None = None

    def moved(self) -> None:
        """The link layer told of a move: what was denied elsewhere may be granted here."""
        self._moved = True
        self._denials = self._repairs = self._not_before_ns = 0
        self.simultaneous_denied = False

    def speak(
        self, goal: Goal | None, simultaneous: bool, now: Now
    ) -> tuple[SendDatagram | None, int | None]:
        """Pursue a goal: what to send now, and when to be called again (None: no need).

        An exchange with another goal is given up; a late reply to it no longer matches.
        """
        if self.exchange is not None and self.exchange.goal != goal:
            self.exchange = None
        if goal is None:
            return None, None
        exchange = self.exchange
        earliest_ns = self._pacer.earliest_ns(moved=self._moved)
        due_ns = max(earliest_ns, exchange.due_ns if exchange else self._not_before_ns)
        if now.boot_ns < due_ns:
            return None, due_ns
        away = goal.purpose is not Purpose.DEREGISTER
        flags = request_flags(
            simultaneous=simultaneous and not (self.simultaneous_denied or self._replaces),
            reverse=self.wishes.reverse_tunnel,
            encapsulation=self.wishes.encapsulation,
            away=away,
        )
        if exchange is None:
            lifetime_s = self.wishes.lifetime_s if goal.purpose is Purpose.REGISTER else 0
            exchange = self._writer.begin(
                goal, self.home_agent, lifetime_s, flags, now.boot_ns, now.wall_ns
            )
            self.exchange = exchange
        else:
            self._writer.repeat(exchange, flags, now.boot_ns, now.wall_ns)
            self._counters.add("mnRegRequestsRetransmitted")
        self._moved = False
        self._pacer.sent(now.boot_ns)
        self._count(exchange)
        return self._datagram(exchange), max(exchange.due_ns, self._pacer.earliest_ns(moved=False))

    def _count(self, exchange: Exchange) -> None:
        self._counters.add("mnRegRequestsSent" if exchange.lifetime_s else "mnDeRegRequestsSent")
        if exchange.home_agent == self._home_broadcast:
            self._counters.add("mnRegRequestsWithDirectedBroadcast")

    def _datagram(self, exchange: Exchange) -> SendDatagram:
        """The source is the care-of address, at home the home address (RFC 5944 3.6.1.1)."""
        return SendDatagram(
            exchange.data,
            source=Endpoint(exchange.goal.care_of_address, 0),
            destination=Endpoint(exchange.home_agent, MOBILE_IP_PORT),
            interface=exchange.goal.interface,
        )

    def hear(self, data: bytes) -> Answer:
        """Match a datagram with the exchange, which ends. Raises ReplyRefused."""
        reply, skipped = read_reply(data, self._home_address, self.exchange, self._associations)
        exchange = self.exchange
        assert exchange is not None  # noqa: S101 - read_reply refuses without one
        self.exchange = None
        if skipped:
            self._counters.add("mnRepliesIgnoredUnknownExtension")
        deregistration = exchange.lifetime_s == 0
        self._counters.add("mnDeRegRepliesRecieved" if deregistration else "mnRegRepliesRecieved")
        # A lifetime of zero in the answer to a registration means there is no binding.
        accepted = is_accepted(reply.code) and (deregistration or reply.lifetime != 0)
        return Answer(exchange, reply, accepted)

    def accept(self, answer: Answer) -> None:
        """Take note of an acceptance."""
        self._replaces = answer.reply.code == ReplyCode.ACCEPTED_NO_SIMULTANEOUS
        self._counters.add("mnRegRequestsAccepted")
        self._writer.identifications.accept(answer.reply.identification)
        self._denials = self._repairs = self._not_before_ns = 0

    def deny(self, answer: Answer, now: Now) -> tuple[Event, bool]:
        """Mend the next request or wait; returns the event and whether it was mended."""
        reply = answer.reply
        if is_home_agent(reply.code):
            self._counters.add("mnRegRequestsDeniedByHA")
        elif not is_accepted(reply.code):
            self._counters.add("mnRepliesUnknownCode")
        mended = self._mend(reply) and self._repairs < MAX_REPAIRS
        if self._writer.repeats_bytes:
            # Every authentic reply brings the next nonce. With timestamps a denial proves
            # nothing: the home agent may not have looked at the time before it denied.
            self._writer.identifications.accept(reply.identification)
        if mended:
            self._repairs += 1
        else:
            self._denials += 1
            self._not_before_ns = now.boot_ns + back_off_ns(self._denials)
        fields = (
            ("code", reply.code),
            ("reason", code_name(reply.code)),
            ("care_of_address", format_address(answer.exchange.goal.care_of_address)),
            ("retry_s", 0.0 if mended else back_off_ns(self._denials) / 1e9),
        )
        return Event("registration-denied", fields), mended

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
            case ReplyCode.HA_REVERSE_TUNNEL_UNAVAILABLE if wishes.reverse_tunnel:
                self._wish(reverse_tunnel=False)
                return True
            case ReplyCode.HA_REVERSE_TUNNEL_MANDATORY if not wishes.reverse_tunnel:
                self._wish(reverse_tunnel=True)
                return True
            case ReplyCode.HA_ENCAPSULATION_UNAVAILABLE if wishes.encapsulation != IPIP:
                self._wish(encapsulation=IPIP)
                return True
        return False

    def _wish(
        self, *, reverse_tunnel: bool | None = None, encapsulation: int | None = None
    ) -> None:
        wishes = self.wishes
        self.wishes = Wishes(
            wishes.lifetime_s,
            wishes.reverse_tunnel if reverse_tunnel is None else reverse_tunnel,
            wishes.encapsulation if encapsulation is None else encapsulation,
        )
