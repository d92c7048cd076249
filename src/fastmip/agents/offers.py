"""What a link offers a mobile node: home, foreign agents' care-of addresses, its own address.

Without agent discovery a link offers what ``attachment_of`` reads. With it:

1. The home agent is heard: the link is home (RFC 5944 2.4.3), and nothing else.
2. Foreign agents that are not busy offer their care-of addresses, in the order advertised
   (2.4); agents that want to be registered with (R) stand before our own address too (2.4.1).
3. ``care_of`` orders the two kinds. A node that prefers agents uses its own address only once
   nobody answered its solicitations.

Move detection (2.4.2) is the order of the agents: lazy keeps the agent in use as long as its
advertisements hold (algorithm 1); eager puts an agent of another subnet first (algorithm 2),
if both tell their prefix lengths.
"""

from __future__ import annotations

from enum import Enum

from fastmip.agents.agent_cache import Agent
from fastmip.agents.attachment import Attachment, LinkState, attachment_of
from fastmip.agents.discovery import Discovery
from fastmip.agents.effects import Now
from fastmip.agents.hosts import Prefix


class CareOf(Enum):
    """Which care-of addresses a mobile node uses, and which it likes better."""

    COLOCATED = "co-located"
    """Its own alone; no agent discovery."""
    FOREIGN_AGENT = "foreign-agent"
    """A foreign agent's alone."""
    FOREIGN_AGENT_FIRST = "foreign-agent-first"
    COLOCATED_FIRST = "co-located-first"


class Offers:
    """Reads links with the agents on them; ``read`` is a ``LinkTable``'s reader."""

    def __init__(
        self,
        discovery: Discovery,
        care_of: CareOf,
        *,
        eager: bool,
        home_address: int,
        home_network: Prefix,
        home_agent: int,
    ) -> None:
        self._discovery = discovery
        self._care_of = care_of
        self._eager = eager
        self._home_address = home_address
        self._home_network = home_network
        self._home_agent = home_agent

    def read(
        self, link: LinkState, in_use: Attachment | None, now_ns: int
    ) -> tuple[list[Attachment], int | None]:
        """What the link offers, the best first, and when to look again."""
        if not link.carrier:
            return [], None
        own = attachment_of(
            link,
            home_address=self._home_address,
            home_network=self._home_network,
            home_agent=self._home_agent,
        )
        now = Now(now_ns, 0)
        agents = self._discovery.cache.agents(link.interface, now)
        if any(self.is_my_home_agent(agent) for agent in agents):
            home = Attachment(link.interface, self._home_address, True, link.gateway or 0)
            return [home], None
        foreign = [agent for agent in agents if agent.is_foreign]
        if own is not None and own.at_home:
            # An address of the home network: home, unless only strangers are heard there.
            if link.gateway is not None or not foreign:
                return [own], None
            own = None
        used = in_use if in_use is not None and in_use.interface == link.interface else None
        foreign = self._in_order([a for a in foreign if not a.is_busy or _is_of(used, a)], used)
        lent = [_lent(agent, address) for agent in foreign for address in agent.care_of_addresses]
        direct = [] if own is None else [_through(own, foreign)]
        if self._care_of is CareOf.FOREIGN_AGENT:
            return lent, None
        if self._care_of is CareOf.COLOCATED_FIRST:
            return direct + lent, None
        if not lent and not self._discovery.is_without_agents(link.interface, now):
            if used is not None and direct and used.place == direct[0].place:
                return direct, None  # it works: no need to wait for agents first
            return [], self._discovery.solicitor.gives_up_at(link.interface)
        return lent + direct, None

    def is_my_home_agent(self, agent: Agent) -> bool:
        """Whether an advertisement comes from our home agent, on the home link."""
        return agent.is_home and (
            agent.address == self._home_agent or self._home_agent in agent.routers
        )

    def _in_order(self, agents: list[Agent], used: Attachment | None) -> list[Agent]:
        current = next((agent for agent in agents if _is_of(used, agent)), None)
        if current is None:
            return agents[::-1] if self._eager else agents
        others = [agent for agent in agents if agent is not current]
        if self._eager:
            moved = [
                agent
                for agent in others
                if agent.first_heard_ns > current.first_heard_ns
                and agent.shares_subnet(current) is False
            ]
            if moved:
                newest = moved[-1]
                return [newest, *[agent for agent in agents if agent is not newest]]
        return [current, *others]

    def agents_of(self, interface: str, care_of_address: int, now: Now) -> list[Agent]:
        """The agents on a link that offer a care-of address."""
        return [
            agent
            for agent in self._discovery.cache.agents(interface, now)
            if agent.is_foreign and care_of_address in agent.care_of_addresses
        ]


def _is_of(attachment: Attachment | None, agent: Agent) -> bool:
    return (
        attachment is not None and attachment.agent == agent.address and attachment.mac == agent.mac
    )


def _lent(agent: Agent, care_of_address: int) -> Attachment:
    return Attachment(
        agent.interface,
        care_of_address,
        False,
        agent.address,
        agent.address,
        agent.mac,
        False,
    )


def _through(own: Attachment, foreign: list[Agent]) -> Attachment:
    """Our own address, registered through an agent that requires it (RFC 5944 2.4.1)."""
    strict = next((agent for agent in foreign if agent.requires_registration), None)
    return own if strict is None else own._replace(agent=strict.address, mac=strict.mac)
