"""The mobile node with a co-located care-of address (RFC 5944 3.6, 4.2.1, 4.6), sans I/O.

The state follows from two facts, where the node is attached and whether the home agent
agrees; the state then says what the home agent has to be told:

    attached   agreed   state       goal (RFC 5944 3.6)
    nowhere    -        ISOLATED    none; bindings and the tunnel device stay
    away       no       PENDING     REGISTER the care-of address of the link
    away       yes      REGISTERED  REGISTER again before the lifetime ends; RELEASE older
                                    care-of addresses, by REGISTER without S if their link
                                    is gone
    home       no       RETURNING   DEREGISTER all
    home       yes      HOME        none
    (stop was called)   STOPPING    RELEASE or DEREGISTER what the home agent holds
    (and is done)       STOPPED     none

Every input ends in ``_advance``, which walks one round in this order:

1. expire what ended; 2. choose the link; 3. on the home link: home routing, answer ARP,
gratuitous ARP; elsewhere: stop answering ARP (RFC 5944 4.6 wants both before the request);
4. speak: begin, repeat or give up an exchange; 5. tunnels and tunnel routing.

One request is under way at a time, so "the most recent request" of RFC 5944 3.6.2.1 is
always the one in ``_exchange``. Times are CLOCK_BOOTTIME; wall time feeds Identification only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from fastmip.agents.attachment import Attachment, LinkState, LinkTable
from fastmip.agents.care_of import (
    CareOfBinding,
    CareOfBindings,
    granted_lifetime_s,
    lifetime_end_ns,
)
from fastmip.agents.conversation import Answer, Conversation
from fastmip.agents.effects import NEVER, Arrival, Effect, Event, Now, Violation
from fastmip.agents.exchange import Exchange, Goal, Purpose, ReplyRefused
from fastmip.agents.mobile_counters import MobileCounters
from fastmip.agents.mobile_state import STATES, Handover, MobileNodeSettings, State, binding_row
from fastmip.agents.pacing import FIRST_TIMEOUT_NS
from fastmip.agents.presence import Presence, Routing
from fastmip.auth.associations import AssociationSet
from fastmip.auth.freshness import RandomBits
from fastmip.wire.addresses import format_address
from fastmip.wire.codes import ReplyCode

SECOND_NS = 1_000_000_000

REFRESH_TIMEOUTS = 3
"""Ours: refresh so early that this many first time-outs fit before the end."""
PATIENCE = 3
"""Ours: unanswered transmissions after which another usable link is tried."""
RELEASE_TRANSMISSIONS = 2
"""Ours: after so many unanswered releases the binding is replaced instead."""
SUSPENSION_NS = 60 * SECOND_NS
"""Ours: how long a link over which the home agent does not register us is passed over."""
HANDOVERS_KEPT = 32
"""Ours: completed handovers shown by ``status``."""


class MobileNode:
    """One mobile node: link changes, datagrams and clocks in, effects out.

    Never raises on what a datagram contains. Every method returns effects in the order in
    which they have to be carried out.
    """

    def __init__(
        self,
        settings: MobileNodeSettings,
        associations: AssociationSet,
        *,
        random_bits: RandomBits,
    ) -> None:
        """Start isolated; raises FastmipError when the associations cannot sign and verify."""
        self._settings = settings
        self._counters = MobileCounters()
        self._talk = Conversation(
            settings.home_address,
            settings.home_agent,
            settings.wishes,
            associations,
            random_bits,
            self._counters,
            settings.home_network.broadcast,
        )
        self._links = LinkTable(
            settings.interfaces,
            home_address=settings.home_address,
            home_network=settings.home_network,
            home_agent=settings.home_agent,
        )
        self._presence = Presence(settings.home_address)
        self._bindings = CareOfBindings()
        self._attachment: Attachment | None = None
        self._lost: tuple[Attachment, int] | None = None
        """While isolated: the attachment before and when it was lost."""
        self._deregistered = False
        """The home agent holds nothing for us as far as we know; unknown at the start."""
        self._stopping = False
        self._pursued = False
        """The last round had something to tell the home agent."""
        self._deadline: int | None = None
        self._handover: Handover | None = None
        self._handovers: deque[Handover] = deque(maxlen=HANDOVERS_KEPT)

    # -- inputs ---------------------------------------------------------------------------

    def link_changed(self, link: LinkState, now: Now) -> list[Effect]:
        """Hear the new state of a link (netlink); an interface that vanished has no carrier."""
        before = self._links.link(link.interface)
        if not self._links.update(link, now.boot_ns):
            return []
        if before is None or not before.carrier:
            self._presence.forget_arp(link.interface)
        return self._advance(now)

    def prefer(self, interface: str | None, now: Now) -> list[Effect]:
        """Put a link before all others on the operator's word; None: the configured order."""
        self._links.prefer(interface)
        return self._advance(now)

    def receive_datagram(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """Handle one datagram that arrived on the registration socket."""
        try:
            answer = self._talk.hear(data)
        except ReplyRefused as refusal:
            return self._refused(refusal, data, arrival)
        effects = self._accepted(answer, now) if answer.accepted else self._denied(answer, now)
        return effects + self._advance(now)

    def handle_timer(self, now: Now) -> list[Effect]:
        """Do what is due; call it at ``next_deadline``."""
        return self._advance(now)

    def next_deadline(self) -> int | None:
        """CLOCK_BOOTTIME nanoseconds at which ``handle_timer`` has something to do."""
        return self._deadline

    def stop(self, now: Now) -> list[Effect]:
        """Deregister and come to rest; ``stopped`` tells when it is done."""
        self._stopping = True
        return self._advance(now)

    def change_settings(self, settings: MobileNodeSettings, now: Now) -> list[Effect]:
        """Put a new configuration into force and tell the home agent.

        Only ``lifetime_s``, ``simultaneous`` and ``reverse_tunnel`` may differ; ValueError
        otherwise.
        """
        kept = replace(
            self._settings,
            lifetime_s=settings.lifetime_s,
            simultaneous=settings.simultaneous,
            reverse_tunnel=settings.reverse_tunnel,
        )
        if kept != settings:
            raise ValueError("only lifetime, simultaneous and reverse_tunnel can change")
        self._settings = settings
        self._talk.wishes = settings.wishes
        for binding in self._bindings:
            binding.refresh_ns = min(binding.refresh_ns, now.boot_ns)
        return self._advance(now)

    # -- one round ------------------------------------------------------------------------

    def _advance(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for binding in self._bindings.expire(now.boot_ns):
            self._counters.add("mnRegistrationsExpired")
            effects.append(_event("registration-expired", binding))
        self._lose_patience(now)
        again_ns = self._choose(now, effects)
        attachment = self._attachment
        home = attachment.interface if attachment is not None and attachment.at_home else None
        effects += self._presence.arrange_link(home, self._links.known(), now.boot_ns)
        self._counters.set("mnGratuitousARPsSend", self._presence.gratuitous_arps)
        send_ns = self._speak(now, effects)
        tunnels = self._bindings.tunnels(
            attachment.care_of_address if attachment else None, self._links.holds
        )
        effects += self._presence.install(tunnels)
        effects += self._presence.route(self._routing())
        self._deadline = self._next_deadline(now, again_ns, send_ns)
        return effects

    def _choose(self, now: Now, effects: list[Effect]) -> int | None:
        """Settle on a link; returns when to look again."""
        before = self._attachment
        in_use = before.interface if before is not None else None
        if self._stopping:
            # No more moves: what is held is given back over the links it is on.
            if in_use is not None and self._links.get(in_use) != before:
                self._attachment = None
            return None
        chosen, again_ns = self._links.choose(now.boot_ns, in_use)
        if chosen == before:
            return again_ns
        self._attachment = chosen
        if chosen is not None and before is not None and chosen[:3] == before[:3]:
            return again_ns  # another router on the same link is no move
        if chosen is not None:
            self._arrive(chosen, before, now)
            effects.append(_link_event("link-chosen", chosen))
        elif before is not None:
            self._lost = (before, now.boot_ns)
            self._handover = None
            effects.append(_link_event("link-lost", before))
        return again_ns

    def _arrive(self, chosen: Attachment, before: Attachment | None, now: Now) -> None:
        """Begin a handover to a link."""
        lost_ns = 0
        if before is None and self._lost is not None:
            before, lost_ns = self._lost
        elif before is not None and self._links.get(before.interface) != before:
            lost_ns = now.boot_ns
        self._lost = None
        self._talk.moved()
        if chosen.at_home:
            self._presence.announce_from(now.boot_ns)
        if before is not None and chosen[:3] == before[:3]:
            return  # the same link came back: the home agent noticed nothing
        if chosen.at_home:
            self._deregistered = False
        if before is not None and not (before.at_home and chosen.at_home):
            moves = {(True, False): "mnMoveFromHAToFA", (False, True): "mnMoveFromFAToHA"}
            self._counters.add(moves.get((before.at_home, chosen.at_home), "mnMoveFromFAToFA"))
        kind = "break-before-make" if lost_ns else "make-before-break"
        if before is None:
            kind = "start"
        self._handover = Handover(
            "return-home" if chosen.at_home and before else kind,
            before.interface if before else "",
            before.care_of_address if before else 0,
            chosen.interface,
            chosen.care_of_address,
            link_lost_ns=lost_ns,
            link_up_ns=self._links.up_since_ns(chosen.interface),
        )

    def _speak(self, now: Now, effects: list[Effect]) -> int | None:
        """Pursue the goal of the moment; returns when to speak next."""
        goal = self._goal(now)
        self._pursued = goal is not None
        simultaneous = goal is not None and self._wants_simultaneous(goal)
        datagram, again_ns = self._talk.speak(goal, simultaneous, now)
        exchange = self._talk.exchange
        if datagram is None or exchange is None or goal is None:
            return again_ns
        effects.append(datagram)
        self._note_sent(goal, exchange, now)
        if self._handover is not None and not self._handover.request_ns:
            self._handover.request_ns = now.boot_ns
        fields = (
            ("purpose", goal.purpose.value),
            ("care_of_address", format_address(goal.care_of_address)),
            ("interface", goal.interface),
            ("lifetime_s", exchange.lifetime_s),
            ("simultaneous", int(exchange.is_simultaneous)),
            ("transmission", exchange.transmissions),
        )
        effects.append(Event("request-sent", fields))
        return again_ns

    def _note_sent(self, goal: Goal, exchange: Exchange, now: Now) -> None:
        """The home agent may now carry it out although no reply may come."""
        address = goal.care_of_address
        if goal.purpose is Purpose.RELEASE:
            self._bindings.doubt(b for b in self._bindings if b.care_of_address == address)
            return
        if not exchange.is_simultaneous:
            self._bindings.doubt(self._bindings.others(address))
        if goal.purpose is Purpose.REGISTER:
            self._deregistered = False
            self._bindings.asked(
                address,
                goal.interface,
                exchange.home_agent,
                self._talk.wishes.encapsulation,
                lifetime_end_ns(now.boot_ns, exchange.lifetime_s),
            )

    def _goal(self, now: Now) -> Goal | None:
        """The table at the head of this module."""
        attachment = self._attachment
        if attachment is not None and attachment.at_home:
            if self._deregistered:
                return None
            return Goal(Purpose.DEREGISTER, attachment.care_of_address, attachment.interface)
        if self._stopping:
            return self._release_goal(self._bindings)
        if attachment is None:
            return None
        register = Goal(Purpose.REGISTER, attachment.care_of_address, attachment.interface)
        binding = self._bindings.accepted(attachment.care_of_address)
        if binding is None or binding.refresh_ns <= now.boot_ns:
            return register
        others = self._bindings.others(attachment.care_of_address)
        # What cannot be released over its own link is replaced: a request without S.
        return self._release_goal(others) or (register if others else None)

    def _release_goal(self, bindings: Iterable[CareOfBinding]) -> Goal | None:
        for binding in bindings:
            up = self._links.holds(binding.interface, binding.care_of_address)
            if up and binding.unanswered_releases < RELEASE_TRANSMISSIONS:
                return Goal(Purpose.RELEASE, binding.care_of_address, binding.interface)
        return None

    def _wants_simultaneous(self, goal: Goal) -> bool:
        """S keeps an older care-of address that still works until the new one does."""
        return (
            goal.purpose is Purpose.REGISTER
            and self._settings.simultaneous
            and self._bindings.accepted(goal.care_of_address) is None
            and any(
                other.accepted and self._links.holds(other.interface, other.care_of_address)
                for other in self._bindings.others(goal.care_of_address)
            )
        )

    def _lose_patience(self, now: Now) -> None:
        """Draw the conclusions of a request that went unanswered for too long."""
        exchange = self._talk.exchange
        if exchange is None or now.boot_ns < exchange.due_ns:
            return
        goal = exchange.goal
        if goal.purpose is Purpose.RELEASE:
            binding = self._bindings.get(goal.care_of_address)
            if binding is not None:
                binding.unanswered_releases = exchange.transmissions
        elif goal.purpose is Purpose.REGISTER and exchange.transmissions >= PATIENCE:
            self._links.suspend(goal.interface, now.boot_ns + SUSPENSION_NS)

    def _routing(self) -> Routing:
        attachment, told = self._attachment, self._presence.routing
        if attachment is not None and attachment.at_home:
            return Routing(True, attachment.interface)
        binding = self._sending()
        if binding is not None:
            return Routing(False, binding.interface, binding.reverse)
        if told is not None and told.at_home:
            # Leaving home, not yet registered: the home link serves as long as it is up.
            home = self._links.get(told.interface)
            if attachment is not None and home is not None and home.at_home:
                return told
        interface = attachment.interface if attachment is not None else ""
        return Routing(False, interface, self._talk.wishes.reverse_tunnel)

    def _sending(self) -> CareOfBinding | None:
        preferred = self._attachment.care_of_address if self._attachment else None
        return self._bindings.sending(preferred, self._links.holds)

    def _next_deadline(self, now: Now, *times: int | None) -> int | None:
        candidates = [*times, self._bindings.next_deadline(), self._presence.next_announcement()]
        if self._attachment is not None:
            binding = self._bindings.accepted(self._attachment.care_of_address)
            if binding is not None and now.boot_ns < binding.refresh_ns < NEVER:
                candidates.append(binding.refresh_ns)
        return min((time for time in candidates if time is not None), default=None)

    # -- replies --------------------------------------------------------------------------

    def _refused(self, refusal: ReplyRefused, data: bytes, arrival: Arrival) -> list[Effect]:
        """Drop silently, count, and report what looks like an attack (RFC 5944 3.6.2.1)."""
        self._counters.add(refusal.counter)
        if refusal.violation is None:
            return []
        identification = int.from_bytes(data[12:20])
        home_address, peer = self._settings.home_address, arrival.source.address
        reason = refusal.violation.text
        return [Violation(home_address, peer, refusal.spi, identification, reason)]

    def _accepted(self, answer: Answer, now: Now) -> list[Effect]:
        goal, reply = answer.exchange.goal, answer.reply
        self._talk.accept(answer)
        if goal.purpose is Purpose.REGISTER:
            self._registered(answer, now)
        elif goal.purpose is Purpose.RELEASE:
            self._bindings.release(goal.care_of_address, now.boot_ns)
        else:
            self._deregistered = True
            for binding in self._bindings:
                self._bindings.release(binding.care_of_address, now.boot_ns)
        fields = (
            ("purpose", goal.purpose.value),
            ("care_of_address", format_address(goal.care_of_address)),
            ("code", reply.code),
            ("lifetime_s", granted_lifetime_s(answer.exchange.lifetime_s, reply.lifetime)),
            ("round_trip_ms", (now.boot_ns - answer.exchange.sent_ns) / 1e6),
        )
        effects: list[Effect] = [Event("request-accepted", fields)]
        handover = self._handover
        if handover is not None and goal.care_of_address == handover.to_address:
            handover.reply_ns = now.boot_ns
            self._handover = None
            self._handovers.append(handover)
            effects.append(Event("handover", tuple(handover.fields().items())))
        return effects

    def _registered(self, answer: Answer, now: Now) -> None:
        exchange = answer.exchange
        address = exchange.goal.care_of_address
        if self._bindings.get(address) is None:
            return  # the reply came after the end of the lifetime it grants
        lifetime_s = granted_lifetime_s(exchange.lifetime_s, answer.reply.lifetime)
        self._bindings.accept(
            address,
            home_agent=exchange.home_agent,
            sent_ns=exchange.lifetime_start_ns,
            lifetime_s=lifetime_s,
            margin_ns=max(REFRESH_TIMEOUTS * FIRST_TIMEOUT_NS, lifetime_s * SECOND_NS // 10),
            reverse=answer.reverse_granted,
        )
        if answer.replaced_others:
            for other in self._bindings.others(address):
                self._bindings.release(other.care_of_address, now.boot_ns)

    def _denied(self, answer: Answer, now: Now) -> list[Effect]:
        event, mended = self._talk.deny(answer, now)
        goal = answer.exchange.goal
        if goal.purpose is Purpose.RELEASE and not mended:
            binding = self._bindings.get(goal.care_of_address)
            if binding is not None:
                binding.unanswered_releases = RELEASE_TRANSMISSIONS
        elif answer.reply.code == ReplyCode.HA_PROHIBITED and goal.purpose is Purpose.REGISTER:
            # Where we are may not be where registering is allowed; another link may do.
            self._links.suspend(goal.interface, now.boot_ns + SUSPENSION_NS)
        return [event]

    # -- seeing it ------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """After ``stop``: nothing is left to say to the home agent."""
        return self.state is State.STOPPED

    @property
    def state(self) -> State:
        """See the table at the head of this module."""
        if self._stopping:
            return State.STOPPING if self._talk.exchange or self._pursued else State.STOPPED
        attachment = self._attachment
        if attachment is None:
            return STATES["nowhere", False]
        if attachment.at_home:
            return STATES["home", self._deregistered]
        agreed = self._bindings.accepted(attachment.care_of_address) is not None
        return STATES["away", agreed]

    def status(self, now: Now) -> dict[str, object]:
        """State, attachment, bindings and last handovers, JSON-ready."""
        attachment = self._attachment
        return {
            "state": self.state.value,
            "home_address": format_address(self._settings.home_address),
            "home_agent": format_address(self._talk.home_agent),
            "interface": attachment.interface if attachment else "",
            "care_of_address": _text(attachment.care_of_address if attachment else 0),
            "gateway": _text(attachment.gateway if attachment else 0),
            "bindings": [binding_row(binding, now) for binding in self._bindings],
            "handovers": [handover.fields() for handover in self._handovers],
        }

    def counters(self) -> dict[str, int]:
        """RFC 2006 mobile node counters and named reasons of silent drops."""
        return self._counters.values()


def _text(address: int) -> str:
    return format_address(address) if address else ""


def _event(name: str, binding: CareOfBinding) -> Event:
    address = format_address(binding.care_of_address)
    return Event(name, (("care_of_address", address), ("interface", binding.interface)))


def _link_event(name: str, attachment: Attachment) -> Event:
    address = format_address(attachment.care_of_address)
    fields = (
        ("interface", attachment.interface),
        ("care_of_address", address),
        ("at_home", int(attachment.at_home)),
    )
    return Event(name, fields)
