"""What is around a mobile node: its links and the agents heard on them.

``MobileNode`` decides by it where to register; without agent discovery (``care_of`` is
co-located) there are links alone.
"""

from __future__ import annotations

from fastmip.agents.agent_cache import Agent, Heard
from fastmip.agents.attachment import Attachment, LinkState, LinkTable
from fastmip.agents.care_of import CareOfBinding
from fastmip.agents.conversation import Answer, Conversation
from fastmip.agents.discovery import Discovery
from fastmip.agents.effects import Arrival, Effect, Now
from fastmip.agents.exchange import Goal
from fastmip.agents.mobile_counters import MobileCounters
from fastmip.agents.mobile_state import MobileNodeSettings, agent_row
from fastmip.agents.offers import CareOf, Offers
from fastmip.agents.router_networks import RouterNetworks
from fastmip.auth.freshness import RandomBits

LOOP_BARRED_NS = 60_000_000_000
"""Ours: how long a place behind ourselves is passed over."""


class Surroundings:
    """Links, agents, and what they offer."""

    def __init__(
        self, settings: MobileNodeSettings, random_bits: RandomBits, counters: MobileCounters
    ) -> None:
        self._home_address = settings.home_address
        self._care_of = settings.care_of
        self._discovery: Discovery | None = None
        self._offers: Offers | None = None
        if settings.care_of is not CareOf.COLOCATED:
            self._discovery = Discovery(
                settings.home_address, random_bits, counters, hurry=settings.hurries
            )
            self._offers = Offers(
                self._discovery,
                settings.care_of,
                eager=settings.eager,
                home_address=settings.home_address,
                home_network=settings.home_network,
                home_agent=settings.home_agent,
            )
        self.links = LinkTable(
            settings.interfaces,
            home_address=settings.home_address,
            home_network=settings.home_network,
            home_agent=settings.home_agent,
            read=self._offers.read if self._offers is not None else None,
            settles=not settings.hurries,
        )

    def link_changed(self, link: LinkState, now: Now) -> None:
        """A link of ours is in a new state, which ``links`` knows already."""
        if self._discovery is not None:
            self._discovery.link_changed(link.interface, carrier=link.carrier, now=now)

    def hear(self, data: bytes, arrival: Arrival, now: Now) -> tuple[Heard | None, list[Effect]]:
        """Take an advertisement; what it changed, and what to tell about it."""
        return (None, []) if self._discovery is None else self._discovery.hear(data, arrival, now)

    def expire(self, now: Now) -> list[Effect]:
        """Agents that fell silent."""
        return [] if self._discovery is None else self._discovery.expire(now)

    def next_deadline(self) -> int | None:
        """When ``expire`` has something to do."""
        return None if self._discovery is None else self._discovery.next_deadline()

    def choose(
        self, in_use: Attachment | None, networks: RouterNetworks, now: Now
    ) -> tuple[Attachment | None, int | None]:
        """The attachment to use and when to look again; see ``LinkTable.choose``.

        None whose care-of address lies in our own mobile network: we would be reached through
        ourselves, in a circle (RFC 5177 8).
        """
        interface = None if in_use is None else in_use.interface
        chosen, again_ns = self.links.choose(now.boot_ns, interface, in_use)
        if chosen is not None and networks.holds(chosen.care_of_address):
            self.links.bar(chosen, now.boot_ns + LOOP_BARRED_NS)
            chosen, again_ns = self.links.choose(now.boot_ns, interface, in_use)
            if chosen is not None and networks.holds(chosen.care_of_address):
                chosen = None
        return chosen, again_ns

    def solicit(
        self, attachment: Attachment | None, talk: Conversation, now: Now, effects: list[Effect]
    ) -> list[int | None]:
        """Ask for agents where none is heard, or for a challenge; returns when to look again."""
        if self._discovery is None:
            return []
        agent = None if attachment is None else self.agent(attachment, now)
        thirsty = agent.interface if agent is not None and talk.lacks_challenge(agent) else ""
        wanted = self.links.known()
        if (
            attachment is not None
            and attachment.interface != thirsty
            and (attachment.at_home or self._care_of is CareOf.COLOCATED_FIRST)
        ):
            wanted.remove(attachment.interface)  # we are there without needing an agent
        # The home address is the source: an answer to us alone is put on the link by MAC.
        sent, times = self._discovery.solicit(
            now, lambda _name: self._home_address, wanted, thirsty
        )
        effects += sent
        return [*times]

    def registered(self, now: Now) -> None:
        """A registration succeeded: the next search may begin fast again (RFC 5944 2.4)."""
        if self._discovery is not None:
            self._discovery.registered(now)

    def holds(self, now: Now, interface: str, care_of_address: int) -> bool:
        """Whether packets for this care-of address can still reach us over this link."""
        return self.links.holds(interface, care_of_address) or bool(
            self._offering(interface, care_of_address, now)
        )

    def _offering(self, interface: str, care_of_address: int, now: Now) -> list[Agent]:
        if self._offers is None:
            return []
        return self._offers.agents_of(interface, care_of_address, now)

    def in_use(
        self, attachment: Attachment | None, sending: CareOfBinding | None, now: Now
    ) -> list[tuple[int, str, bytes]]:
        """Agents we speak with or send through, each to be reached without ARP."""
        found: dict[tuple[int, str], bytes] = {}
        if sending is not None and not sending.is_colocated:
            for agent in self._offering(sending.interface, sending.care_of_address, now):
                if agent.address == sending.agent:
                    found[agent.address, agent.interface] = agent.mac
        if attachment is not None and attachment.agent:
            found[attachment.agent, attachment.interface] = attachment.mac
        return [(address, interface, mac) for (address, interface), mac in found.items()]

    def networks(self, binding: CareOfBinding | None, now: Now) -> tuple[tuple[int, int], ...]:
        """The networks the agent of a binding advertises."""
        if binding is None or binding.is_colocated:
            return ()
        agents = self._offering(binding.interface, binding.care_of_address, now)
        found = [a.prefixes for a in agents if a.address == binding.agent]
        return tuple((p.network, p.length) for p in found[0]) if found else ()

    def agent(self, attachment: Attachment, now: Now) -> Agent | None:
        """The agent an attachment registers through, as last heard."""
        if self._discovery is None or not attachment.agent:
            return None
        cache = self._discovery.cache
        return cache.find(attachment.interface, attachment.agent, attachment.mac, now)

    def agent_of(self, goal: Goal | None, attachment: Attachment | None, now: Now) -> Agent | None:
        """The agent a request goes through, as last heard."""
        if goal is None or not goal.agent or self._discovery is None:
            return None
        place = (goal.interface, goal.agent)
        if attachment is not None and (attachment.interface, attachment.agent) == place:
            found = self.agent(attachment, now)
            if found is not None:
                return found
        agents = self._discovery.cache.agents(goal.interface, now)
        return next((agent for agent in agents if agent.address == goal.agent), None)

    def renew_challenge(self, answer: Answer, attachment: Attachment | None, now: Now) -> None:
        """The next request through this agent answers the challenge its reply brought."""
        if answer.challenge and self._discovery is not None:
            agent = self.agent_of(answer.exchange.goal, attachment, now)
            if agent is not None:
                self._discovery.cache.renew_challenge(agent, answer.challenge)

    def rows(self, attachment: Attachment | None, now: Now) -> list[dict[str, object]]:
        """The agents heard, JSON-ready."""
        if self._discovery is None:
            return []
        place = None if attachment is None else (attachment.interface, attachment.agent)
        return [
            agent_row(agent, now, in_use=(agent.interface, agent.address) == place)
            for agent in self._discovery.cache.all()
        ]
