"""The mobile node (RFC 5944 2.4, 3.6, 4.2.1, 4.6), sans I/O.

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

1. expire what ended; 2. choose link and care-of address, solicit agents; 3. on the home link:
home routing, answer ARP, gratuitous ARP; elsewhere: stop answering ARP (RFC 5944 4.6 wants both
before the request); 4. speak: begin, repeat or give up an exchange; 5. tunnels and routing.

A care-of address is our own (co-located) or a foreign agent's. A foreign agent's needs no
tunnel here: the agent decapsulates, and is the default router. An agent's denial bars that
care-of address for a while, so the next one, the next agent or our own address gets its turn.

One request is under way at a time, so "the most recent request" of RFC 5944 3.6.2.1 is
always the one in ``_exchange``. Times are CLOCK_BOOTTIME; wall time feeds Identification only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from fastmip.agents.attachment import Attachment, LinkState, is_another_network
from fastmip.agents.care_of import (
    CareOfBinding,
    CareOfBindings,
    granted_lifetime_s,
    lifetime_end_ns,
)
from fastmip.agents.conversation import WAITS_FOR_CHALLENGE, Answer, Conversation
from fastmip.agents.effects import NEVER, Arrival, Effect, Event, Now
from fastmip.agents.exchange import Exchange, Goal, Purpose, ReplyRefused, encapsulation_of
from fastmip.agents.handovers import HandoverLog
from fastmip.agents.keepalive import Keepalive
from fastmip.agents.mobile_counters import MobileCounters
from fastmip.agents.mobile_revocation import MobileRevocation
from fastmip.agents.mobile_state import (
    STATES,
    MobileNodeSettings,
    State,
    address_text,
    attachment_event,
    binding_event,
    binding_row,
    violation_of,
)
from fastmip.agents.pacing import FIRST_TIMEOUT_NS
from fastmip.agents.presence import Presence, Routing, routing_of
from fastmip.agents.router_networks import RouterNetworks
from fastmip.agents.surroundings import Surroundings
from fastmip.auth.associations import AssociationSet
from fastmip.auth.freshness import RandomBits
from fastmip.wire.addresses import format_address
from fastmip.wire.codes import FLAG_BROADCAST, MessageType, ReplyCode, is_accepted

SECOND_NS = 1_000_000_000

REFRESH_TIMEOUTS = 3
"""Ours: refresh so early that this many first time-outs fit before the end."""
PATIENCE = 3
"""Ours: unanswered transmissions after which another usable link is tried."""
RELEASE_TRANSMISSIONS = 2
"""Ours: after so many unanswered releases the binding is replaced instead."""
_REVOCATION = bytes((MessageType.REVOCATION,))
SUSPENSION_NS = 60 * SECOND_NS
"""Ours: how long a link over which the home agent does not register us, or a care-of address
its agent refused, is passed over."""


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
        self._networks = RouterNetworks(settings.router)
        self._talk = Conversation(
            settings.home_address,
            settings.home_agent,
            settings.wishes,
            associations,
            random_bits,
            self._counters,
            settings.home_network.broadcast,
            settings.identity,
            self._networks,
            settings.assignment(),
        )
        self._around = Surroundings(settings, random_bits, self._counters)
        self._links = self._around.links
        self._presence = Presence(settings.home_address)
        self._bindings = CareOfBindings()
        self._attachment: Attachment | None = None
        self._lost: tuple[Attachment, int] | None = None
        """While isolated: the attachment before and when it was lost."""
        self._arrived_ns = 0
        """When the attachment was chosen."""
        self._deregistered = False
        """The home agent holds nothing for us as far as we know; unknown at the start."""
        self._stopping = False
        self._pursued = False
        """The last round had something to tell the home agent."""
        self._deadline: int | None = None
        self._handovers = HandoverLog()
        self._keepalive = Keepalive(settings.keepalive_s)
        self._revocation = MobileRevocation(settings.home_address, associations, self._counters)

    # -- inputs ---------------------------------------------------------------------------

    def link_changed(self, link: LinkState, now: Now) -> list[Effect]:
        """Hear the new state of a link (netlink); an interface that vanished has no carrier."""
        before = self._links.link(link.interface)
        another = is_another_network(before, link) or self._links.is_another_device(link)
        if not self._links.update(link, now.boot_ns):
            return []
        if before is None or not before.carrier:
            self._presence.forget_arp(link.interface)
        if not link.carrier:
            self._presence.forget_pins(link.interface)
        self._around.link_changed(link, now)
        effects: list[Effect] = []
        if another:
            effects.append(Event("network-changed", (("interface", link.interface),)))
            self._talk.moved()
            self._keepalive.moved()
            self._bindings.ask_again(link.interface, now.boot_ns)
        return effects + self._advance(now)

    def prefer(self, interface: str | None, now: Now) -> list[Effect]:
        """Put a link first on the operator's word; None: the configured order."""
        self._links.prefer(interface)
        return self._advance(now)

    def receive_datagram(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """Handle one datagram that arrived on the registration socket."""
        if data[:1] == _REVOCATION and self._settings.revocation:
            return self._revoked(data, arrival, now)
        try:
            answer = self._talk.hear(data, arrival)
        except ReplyRefused as refusal:
            self._counters.add(refusal.counter)
            return violation_of(refusal, self._settings.home_address, data, arrival)
        effects = self._accepted(answer, now) if answer.accepted else self._denied(answer, now)
        return effects + self._advance(now)

    def receive_advertisement(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """Handle one ICMP router advertisement that arrived on a link (RFC 5944 2.4)."""
        heard, effects = self._around.hear(data, arrival, now)
        if heard is None:
            return effects
        agent, attachment = heard.agent, self._attachment
        if heard.rebooted:
            # It may have forgotten us: register again (2.4.4), elsewhere if it wants no more.
            self._bindings.ask_again(agent.interface, now.boot_ns, agent.address)
            if agent.is_busy and attachment is not None and attachment.agent == agent.address:
                self._links.bar(attachment, now.boot_ns + SUSPENSION_NS)
        return effects + self._advance(now)

    def tunnel_carried(self, sent: int, received: int, now: Now) -> None:
        """Packets the tunnel in use carried so far; tell before ``handle_timer``."""
        self._keepalive.saw(sent, received, now.boot_ns)

    def handle_timer(self, now: Now) -> list[Effect]:
        """Do what is due; call it at ``next_deadline``."""
        return self._advance(now)

    def next_deadline(self) -> int | None:
        """When ``handle_timer`` has something to do, CLOCK_BOOTTIME nanoseconds."""
        return self._deadline

    def stop(self, now: Now) -> list[Effect]:
        """Deregister and come to rest; ``stopped`` tells when it is done."""
        self._stopping = True
        return self._advance(now)

    def change_settings(self, settings: MobileNodeSettings, now: Now) -> list[Effect]:
        """Put a new configuration into force and tell the home agent.

        Only ``lifetime_s``, ``simultaneous``, ``reverse_tunnel`` and the known vendor extensions
        may differ; ValueError otherwise.
        """
        identity = replace(self._settings.identity, vendors=settings.identity.vendors)
        kept = replace(
            self._settings,
            identity=identity,
            lifetime_s=settings.lifetime_s,
            simultaneous=settings.simultaneous,
            reverse_tunnel=settings.reverse_tunnel,
        )
        if kept != settings:
            raise ValueError("settings differ that cannot change")
        self._settings = settings
        self._talk.wishes, self._talk.identity = settings.wishes, settings.identity
        for binding in self._bindings:
            binding.refresh_ns = min(binding.refresh_ns, now.boot_ns)
        return self._advance(now)

    # -- one round ------------------------------------------------------------------------

    def _advance(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        for binding in self._bindings.expire(now.boot_ns):
            self._counters.add("mnRegistrationsExpired")
            effects.append(binding_event("registration-expired", binding))
        self._lose_patience(now)
        effects += self._around.expire(now)
        times = [self._choose(now, effects)]
        attachment = self._attachment
        if not self._stopping:
            times += self._around.solicit(attachment, self._talk, now, effects)
        home = attachment.interface if attachment is not None and attachment.at_home else None
        effects += self._presence.arrange_link(home, self._links.known(), now.boot_ns)
        self._counters.set("mnGratuitousARPsSend", self._presence.gratuitous_arps)
        agents = self._around.in_use(attachment, self._sending(now), now)
        effects += self._presence.pin(agents)
        times.append(self._speak(now, effects))
        times.append(self._keep_alive(now, effects))
        tunnels = self._bindings.tunnels(
            attachment.care_of_address if attachment else None,
            partial(self._around.holds, now),
            self._settings.home_address,
            is_router=self._networks.is_router,
        )
        effects += self._presence.install(tunnels)
        effects += self._networks.changes()
        effects += self._presence.route(self._routing(now))
        effects += self._presence.unpin_others(agents)
        self._deadline = self._next_deadline(now, *times)
        return effects

    def _choose(self, now: Now, effects: list[Effect]) -> int | None:
        """Settle on a link and a care-of address; returns when to look again."""
        before = self._attachment
        if self._stopping:  # no more moves: what is held is given back over its links
            if before is not None and not self._links.still_offers(before, now.boot_ns):
                self._attachment = None
            return None
        chosen, again_ns = self._around.choose(before, self._networks, now)
        if chosen == before:
            return again_ns
        self._attachment = chosen
        if chosen is not None and before is not None and chosen.place == before.place:
            return again_ns  # another router on the same link is no move
        if chosen is not None:
            self._arrive(chosen, before, now)
            effects.append(attachment_event("link-chosen", chosen))
        elif before is not None:
            self._lost = (before, now.boot_ns)
            self._handovers.give_up()
            effects.append(attachment_event("link-lost", before))
        return again_ns

    def _arrive(self, chosen: Attachment, before: Attachment | None, now: Now) -> None:
        """Begin a handover to a link, or to another agent on it."""
        lost_ns = 0
        if before is None and self._lost is not None:
            before, lost_ns = self._lost
        elif before is not None and not self._links.still_offers(before, now.boot_ns):
            lost_ns = now.boot_ns
        self._lost = None
        up_ns, heard_ns = self._links.up_since_ns(chosen.interface), 0
        agent = self._around.agent(chosen, now)
        if agent is not None:
            heard_ns = agent.first_heard_ns
        same_link = before is not None and before.interface == chosen.interface
        if agent is not None and same_link and up_ns < self._arrived_ns:
            up_ns = heard_ns  # the link stayed: what is new is the agent
        # Without an agent only the link layer causes a move.
        self._talk.moved(hinted=not chosen.agent or up_ns >= self._arrived_ns)
        self._keepalive.moved()
        self._arrived_ns = now.boot_ns
        if chosen.at_home:
            self._presence.announce_from(now.boot_ns)
        if before is not None and chosen.place == before.place:
            return  # the same link came back: the home agent noticed nothing
        if chosen.at_home:
            self._deregistered = False
        if before is not None and not (before.at_home and chosen.at_home):
            moves = {(True, False): "mnMoveFromHAToFA", (False, True): "mnMoveFromFAToHA"}
            self._counters.add(moves.get((before.at_home, chosen.at_home), "mnMoveFromFAToFA"))
        self._handovers.begin(chosen, before, lost_ns=lost_ns, up_ns=up_ns, heard_ns=heard_ns)

    def _speak(self, now: Now, effects: list[Effect]) -> int | None:
        """Pursue the goal of the moment; returns when to speak next."""
        self._pursued = (goal := self._goal(now)) is not None
        simultaneous = goal is not None and self._wants_simultaneous(goal, now)
        agent = self._around.agent_of(goal, self._attachment, now)
        if goal is not None and goal.agent and agent is None:
            return None  # it fell silent: the next advertisement, or its absence, decides
        datagram, again_ns = self._talk.speak(goal, simultaneous, now, agent)
        exchange = self._talk.exchange
        if datagram is None or exchange is None or goal is None:
            return again_ns
        effects.append(datagram)
        self._note_sent(goal, exchange, now)
        self._handovers.asked(now.boot_ns)
        fields = (
            ("purpose", goal.purpose.value),
            ("care_of_address", format_address(goal.care_of_address)),
            ("interface", goal.interface),
            ("lifetime_s", exchange.lifetime_s),
            ("simultaneous", int(exchange.is_simultaneous)),
            ("transmission", exchange.transmissions),
            ("agent", address_text(goal.agent)),
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
                encapsulation_of(exchange.flags),
                lifetime_end_ns(now.boot_ns, exchange.lifetime_s),
                agent=goal.agent,
                is_colocated=goal.is_colocated,
            )

    def _goal(self, now: Now) -> Goal | None:
        """The table at the head of this module."""
        attachment = self._attachment
        if attachment is not None and attachment.at_home:
            if self._deregistered:
                return None
            return Goal(Purpose.DEREGISTER, attachment.care_of_address, attachment.interface)
        if self._stopping:
            return self._release_goal(self._bindings, now)
        unwanted = self._release_goal((b for b in self._bindings if b.unwanted), now)
        if unwanted is not None or attachment is None:
            return unwanted
        register = Goal(
            Purpose.REGISTER,
            attachment.care_of_address,
            attachment.interface,
            attachment.agent,
            attachment.is_colocated,
        )
        binding = self._bindings.accepted(attachment.care_of_address)
        place = (attachment.interface, attachment.agent)
        if binding is None or binding.refresh_ns <= now.boot_ns:
            return register
        if (binding.interface, binding.agent) != place:
            return register
        others = self._bindings.others(attachment.care_of_address)
        # What cannot be released over its own link is replaced: no S.
        return self._release_goal(others, now) or (register if others else None)

    def _release_goal(self, bindings: Iterable[CareOfBinding], now: Now) -> Goal | None:
        for binding in bindings:
            up = self._around.holds(now, binding.interface, binding.care_of_address)
            if up and binding.unanswered_releases < RELEASE_TRANSMISSIONS:
                return Goal(
                    Purpose.RELEASE,
                    binding.care_of_address,
                    binding.interface,
                    binding.agent,
                    binding.is_colocated,
                )
        return None

    def _wants_simultaneous(self, goal: Goal, now: Now) -> bool:
        """S keeps an older care-of address that still works until the new one does."""
        return (
            goal.purpose is Purpose.REGISTER
            and self._settings.keeps_the_old
            and self._bindings.accepted(goal.care_of_address) is None
            and any(
                other.accepted and self._around.holds(now, other.interface, other.care_of_address)
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
            self._try_elsewhere(goal, now)

    def _try_elsewhere(self, goal: Goal, now: Now) -> None:
        """Registering there does not work: let others have their turn for a while."""
        until_ns, attachment = now.boot_ns + SUSPENSION_NS, self._attachment
        if not goal.agent:
            self._links.suspend(goal.interface, until_ns)
        elif attachment is not None and attachment.care_of_address == goal.care_of_address:
            self._links.bar(attachment, until_ns)

    def _keep_alive(self, now: Now, effects: list[Effect]) -> int | None:
        """Keep a UDP tunnel open; returns when to look again."""
        binding = self._sending(now)
        if binding is None or not binding.udp_port:
            self._keepalive.end()
            return None
        datagram, closed = self._keepalive.pursue(binding, self._settings.home_address, now.boot_ns)
        if datagram is not None:
            self._counters.add("mnKeepalivesSent")
            effects.append(datagram)
        if closed:
            self._counters.add("mnKeepalivesUnanswered")
            effects.append(binding_event("tunnel-silent", binding))
            binding.refresh_ns = now.boot_ns
            return now.boot_ns + 1
        return self._keepalive.next_deadline()

    def _routing(self, now: Now) -> Routing:
        told, attachment, home = self._presence.routing, self._attachment, ""
        if told is not None and told.at_home:
            offers = self._links.offers(told.interface, now.boot_ns, attachment)
            home = told.interface if any(offer.at_home for offer in offers) else ""
        binding, reverse = self._sending(now), self._talk.wishes.reverse_tunnel
        local = self._around.networks(binding, now)
        return routing_of(attachment, binding, home_link=home, reverse=reverse, local=local)

    def _sending(self, now: Now) -> CareOfBinding | None:
        preferred = self._attachment.care_of_address if self._attachment else None
        return self._bindings.sending(preferred, partial(self._around.holds, now))

    def _next_deadline(self, now: Now, *times: int | None) -> int | None:
        candidates = [*times, self._bindings.next_deadline(), self._presence.next_announcement()]
        candidates.append(self._around.next_deadline())
        if self._attachment is not None:
            binding = self._bindings.accepted(self._attachment.care_of_address)
            if binding is not None and now.boot_ns < binding.refresh_ns < NEVER:
                candidates.append(binding.refresh_ns)
        return min((time for time in candidates if time is not None), default=None)

    # -- replies --------------------------------------------------------------------------

    def _accepted(self, answer: Answer, now: Now) -> list[Effect]:
        goal, reply = answer.exchange.goal, answer.reply
        effects = self._talk.accept(answer)
        if goal.purpose is Purpose.REGISTER:
            self._registered(answer, now)
        elif goal.purpose is Purpose.RELEASE:
            self._bindings.release(goal.care_of_address, now.boot_ns)
        else:
            self._deregistered = True
            self._networks.ended()
            for binding in self._bindings:
                self._bindings.release(binding.care_of_address, now.boot_ns)
        fields = (
            ("purpose", goal.purpose.value),
            ("care_of_address", format_address(goal.care_of_address)),
            ("code", reply.code),
            ("lifetime_s", granted_lifetime_s(answer.exchange.lifetime_s, reply.lifetime)),
            ("round_trip_ms", (now.boot_ns - answer.exchange.sent_ns) / 1e6),
        )
        effects.append(Event("request-accepted", fields))
        self._around.renew_challenge(answer, self._attachment, now)
        if goal.purpose is not Purpose.RELEASE:
            self._around.registered(now)
        handover = self._handovers.agreed(goal.care_of_address, now.boot_ns)
        if handover is not None:
            effects.append(Event("handover", tuple(handover.fields().items())))
        return effects

    def _registered(self, answer: Answer, now: Now) -> None:
        exchange = answer.exchange
        address = exchange.goal.care_of_address
        if self._bindings.get(address) is None:
            return  # the reply came after the end of the lifetime it grants
        lifetime_s = granted_lifetime_s(exchange.lifetime_s, answer.reply.lifetime)
        binding = self._bindings.accept(
            address,
            home_agent=exchange.home_agent,
            sent_ns=exchange.lifetime_start_ns,
            lifetime_s=lifetime_s,
            margin_ns=max(REFRESH_TIMEOUTS * FIRST_TIMEOUT_NS, lifetime_s * SECOND_NS // 10),
            reverse=answer.reverse_granted,
            agent=exchange.goal.agent,
            interface=exchange.goal.interface,
            refresh_s=self._settings.refresh_s,
        )
        if self._networks.accepted(answer.networks):
            binding.refresh_ns = now.boot_ns
        binding.encapsulation = encapsulation_of(exchange.flags)
        binding.broadcasts = bool(exchange.flags & FLAG_BROADCAST)
        binding.encapsulating_delivery = exchange.encapsulating_delivery
        udp = answer.udp_tunnel
        binding.udp_port = 0
        if udp is not None and udp.is_accepted:
            binding.udp_port = answer.home_agent_port
            half_bound = bool(exchange.goal.agent)
            self._keepalive.begin(udp.keepalive_s, now.boot_ns, at_once=half_bound)
        if answer.revocation is not None and self._settings.revocation:
            binding.revocable, binding.home_clock = True, answer.revocation.timestamp
        if answer.replaced_others:
            for other in self._bindings.others(address):
                self._bindings.release(other.care_of_address, now.boot_ns)

    def _denied(self, answer: Answer, now: Now) -> list[Effect]:
        told, mended = self._talk.deny(answer, now)
        self._around.renew_challenge(answer, self._attachment, now)
        goal = answer.exchange.goal
        binding = self._bindings.get(goal.care_of_address)
        if goal.purpose is Purpose.RELEASE and not mended and binding is not None:
            binding.unanswered_releases = RELEASE_TRANSMISSIONS
        if goal.purpose is not Purpose.REGISTER:
            return told
        if answer.is_unwanted and binding is not None and is_accepted(answer.reply.code):
            # What was registered before stays until its lifetime ends.
            binding.unwanted |= bool(answer.foreign_error or not binding.accepted)
        if answer.denied_by_agent:
            if not mended and answer.reply.code not in WAITS_FOR_CHALLENGE:
                self._try_elsewhere(goal, now)
        elif answer.reply.code == ReplyCode.HA_PROHIBITED:
            # Where we are may not be where registering is allowed; another link may do.
            self._links.suspend(goal.interface, now.boot_ns + SUSPENSION_NS)
        return told

    def _revoked(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        effects, binding = self._revocation.receive(data, arrival, self._bindings)
        if binding is not None:
            effects.append(binding_event("registration-revoked", binding))
            self._bindings.release(binding.care_of_address, now.boot_ns)
            self._links.suspend(binding.interface, now.boot_ns + SUSPENSION_NS)
        return effects + self._advance(now)

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
            "care_of_address": address_text(attachment.care_of_address if attachment else 0),
            "gateway": address_text(attachment.gateway if attachment else 0),
            "agent": address_text(attachment.agent if attachment else 0),
            "keepalive_s": self._keepalive.interval_s,
            "bindings": [binding_row(binding, now) for binding in self._bindings],
            "agents": self._around.rows(attachment, now),
            "handovers": self._handovers.rows(),
            "networks": self._networks.rows(),
        }

    def counters(self) -> dict[str, int]:
        """RFC 2006 counters and named reasons of silent drops."""
        return self._counters.values()
