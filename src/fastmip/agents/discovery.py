"""Agent discovery by a mobile node: listen, and ask when nobody is heard (RFC 5944 2.4).

A link is searched while it is up and no agent is heard on it: three solicitations a second
apart, then twice as long each time up to a minute, each a little late by chance. Only a link
that comes up anew, or a registration that succeeded in between, starts the fast rate again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastmip.agents.agent_cache import Agent, AgentCache, Heard, Refused
from fastmip.agents.effects import Arrival, Effect, Event, Now, SendIcmp
from fastmip.agents.mobile_counters import MobileCounters
from fastmip.auth.freshness import RandomBits
from fastmip.wire.addresses import format_address, parse_address
from fastmip.wire.discovery import AgentSolicitation

SECOND_NS = 1_000_000_000

ALL_AGENTS = parse_address("224.0.0.11")
"""The group of all mobility agents (RFC 5944 2.3)."""
FAST_SOLICITATIONS = 3
"""RFC 5944 2.4: at most so many at one a second."""
MAX_INTERVAL_NS = 60 * SECOND_NS
"""RFC 5944 2.4: the longest interval should be at least a minute."""
MAX_FIRST_DELAY_NS = SECOND_NS
"""RFC 1256 5: longest wait before the first solicitation, so that not all ask at once."""
PATIENCE = 2
"""Ours: unanswered solicitations after which a link counts as one without agents."""
HURRIED_PATIENCE_NS = 300_000_000
"""Ours: the same for a node in a hurry, after its first solicitation. Agents answer at once; one
that comes later is still heard and, where agents are preferred, moved to."""
_JITTER_BITS = 16


@dataclass(slots=True)
class _Search:
    due_ns: int
    sent: int = 0
    nominal_ns: int = SECOND_NS
    given_up_ns: int | None = None
    """When the link counts as one without agents."""


class Solicitor:
    """When to solicit on which link."""

    def __init__(self, random_bits: RandomBits, *, hurry: bool) -> None:
        self._random_bits = random_bits
        self._hurry = hurry
        """The first solicitation goes out at once: a link that came up is a sure sign."""
        self._searches: dict[str, _Search] = {}

    def link_came_up(self, interface: str, now_ns: int) -> None:
        """A positive indication of a new link: search from the start (2.4)."""
        delay = 0 if self._hurry else self._part_of(MAX_FIRST_DELAY_NS)
        self._searches[interface] = _Search(now_ns + delay)

    def link_went_down(self, interface: str) -> None:
        """Nothing to search there."""
        self._searches.pop(interface, None)

    def search_afresh(self, interface: str) -> None:
        """After a successful registration the next search may begin fast again (2.4)."""
        if interface in self._searches:
            self._searches[interface] = _Search(0)

    def due(self, interface: str, *, searching: bool, now_ns: int) -> bool:
        """Whether to solicit on this link now; counts as sent."""
        search = self._searches.get(interface)
        if search is None or not searching or now_ns < search.due_ns:
            return False
        search.sent += 1
        if search.sent >= FAST_SOLICITATIONS:
            search.nominal_ns = min(2 * search.nominal_ns, MAX_INTERVAL_NS)
        interval = SECOND_NS if search.sent < FAST_SOLICITATIONS else search.nominal_ns
        search.due_ns = now_ns + interval + self._part_of(interval // 4)
        if self._hurry and search.sent == 1:
            search.given_up_ns = now_ns + HURRIED_PATIENCE_NS
        elif search.sent == PATIENCE and search.given_up_ns is None:
            search.given_up_ns = search.due_ns
        return True

    def next_due(self, interface: str) -> int | None:
        """When the next solicitation on a searched link is due."""
        search = self._searches.get(interface)
        return search.due_ns if search else None

    def gives_up_at(self, interface: str) -> int | None:
        """When to count on no agent on this link; None while that is not known yet."""
        search = self._searches.get(interface)
        return search.given_up_ns if search else None

    def _part_of(self, span_ns: int) -> int:
        return span_ns * self._random_bits(_JITTER_BITS) >> _JITTER_BITS


class Discovery:
    """The agents around a mobile node, and the asking for them."""

    def __init__(
        self,
        home_address: int,
        random_bits: RandomBits,
        counters: MobileCounters,
        *,
        hurry: bool,
    ) -> None:
        self.cache = AgentCache(home_address)
        self.solicitor = Solicitor(random_bits, hurry=hurry)
        self._counters = counters
        self._up: set[str] = set()

    def link_changed(self, interface: str, *, carrier: bool, now: Now) -> None:
        """A link came up or went down; agents of a link that was away are forgotten."""
        if carrier == (interface in self._up):
            return
        if carrier:
            self._up.add(interface)
            self.solicitor.link_came_up(interface, now.boot_ns)
        else:
            self._up.discard(interface)
            self.cache.forget(interface)
            self.solicitor.link_went_down(interface)

    def hear(self, data: bytes, arrival: Arrival, now: Now) -> tuple[Heard | None, list[Effect]]:
        """Take an advertisement; what it changed, and what to tell about it."""
        self._counters.add("mnAdvertisementsReceived")
        if arrival.interface not in self._up:
            self._counters.add("mnAdvertisementsMisplaced")
            return None, []
        try:
            heard = self.cache.hear(data, arrival, now)
        except Refused as refusal:
            self._counters.add(refusal.counter)
            return None, []
        effects: list[Effect] = []
        if heard.rebooted:
            self._counters.add("mnAgentRebootsDectected")
            effects.append(agent_event("agent-rebooted", heard.agent))
        if heard.is_gone:
            effects.append(agent_event("agent-left", heard.agent))
        elif heard.is_new:
            effects.append(agent_event("agent-found", heard.agent))
        return heard, effects

    def registered(self, now: Now) -> None:
        """A registration succeeded: links on which an agent is heard may be searched afresh."""
        for interface in self._up:
            if self.cache.agents(interface, now):
                self.solicitor.search_afresh(interface)

    def expire(self, now: Now) -> list[Effect]:
        """Agents that were not heard for the lifetime they gave (2.4.2.1)."""
        return [agent_event("agent-lost", agent) for agent in self.cache.expire(now)]

    def solicit(
        self,
        now: Now,
        source_of: Callable[[str], int],
        interfaces: Iterable[str],
        thirsty: str = "",
    ) -> tuple[list[Effect], list[int]]:
        """Solicitations that are due, and when to look again: for the next, or to give up.

        ``thirsty``: the link on whose agent we wait for another challenge (RFC 4721 3.3).
        """
        effects: list[Effect] = []
        times: list[int] = []
        for interface in interfaces:
            searching = interface in self._up and (
                interface == thirsty or not self.cache.agents(interface, now)
            )
            if self.solicitor.due(interface, searching=searching, now_ns=now.boot_ns):
                self._counters.add("mnSolicitationsSent")
                message = AgentSolicitation().encode()
                effects.append(SendIcmp(message, source_of(interface), ALL_AGENTS, interface))
            next_ns = self.solicitor.next_due(interface) if searching else None
            if next_ns is not None:
                times.append(next_ns)
            given_up_ns = self.solicitor.gives_up_at(interface) if searching else None
            if given_up_ns is not None and given_up_ns > now.boot_ns:
                times.append(given_up_ns)
        return effects, times

    def is_without_agents(self, interface: str, now: Now) -> bool:
        """Nobody answered for so long that an address of our own is the better choice."""
        given_up = self.solicitor.gives_up_at(interface)
        return given_up is not None and given_up <= now.boot_ns

    def next_deadline(self) -> int | None:
        """When ``expire`` has something to do."""
        return self.cache.next_deadline()


def agent_event(name: str, agent: Agent) -> Event:
    """An event about an agent."""
    fields = (
        ("agent", format_address(agent.address)),
        ("interface", agent.interface),
        ("sequence", agent.sequence),
        ("flags", f"{agent.flags:04x}"),
    )
    return Event(name, fields)
