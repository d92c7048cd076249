"""The mobility agents a mobile node hears on its links (RFC 5944 2.4).

``AgentCache.hear`` takes one advertisement and says what it changed; ``agents`` lists who can
be counted on right now. An agent is one address with one link-layer address on one link: a
second sender behind the same address is another agent, so nobody can move an entry by
claiming its address.

Forged or misplaced advertisements are refused by name: ``Refused.counter`` says which rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastmip.agents.effects import Arrival, Now
from fastmip.agents.hosts import Prefix
from fastmip.errors import FastmipError, WireError
from fastmip.wire.addresses import (
    LIMITED_BROADCAST,
    is_multicast,
    is_unicast,
    prefix_mask,
)
from fastmip.wire.discovery import (
    AGENT_B,
    AGENT_F,
    AGENT_H,
    AGENT_R,
    AGENT_T,
    AGENT_U,
    AgentAdvertisement,
)
from fastmip.wire.extensions import UnknownExtension

SECOND_NS = 1_000_000_000
FIRST_AFTER_ROLLOVER = 256
"""A sequence number that went down to this or above rolled over; below, the agent started
again (RFC 5944 2.4.4)."""
MAX_AGENTS = 64
"""Ours: agents remembered over all links; a flood of forged ones stays bounded."""
DISCOVERY_TTL = 1
"""RFC 5944 2.1: nobody farther away can speak."""


class Refused(FastmipError):
    """An advertisement that changes nothing; ``counter`` is the counter to bump."""

    def __init__(self, counter: str, reason: str) -> None:
        super().__init__(reason)
        self.counter = counter


@dataclass(frozen=True, slots=True)
class Agent:
    """A mobility agent as its newest advertisement describes it."""

    interface: str
    address: int
    """Source of its advertisements: where requests go (RFC 5944 3.6.1.1)."""
    mac: bytes
    flags: int
    care_of_addresses: tuple[int, ...]
    registration_lifetime_s: int
    """Longest registration it relays, 0xffff for any."""
    sequence: int
    expires_ns: int
    """When the lifetime of its newest advertisement ends (2.4.2.1)."""
    first_heard_ns: int
    routers: tuple[int, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    """Networks of its router addresses, when it tells prefix lengths."""
    challenge: bytes = b""
    """The newest one (RFC 4721 2), empty when it sends none."""
    nai: bytes = b""
    boots: int = 0
    """How often it was seen to start again."""

    @property
    def is_foreign(self) -> bool:
        """It offers its services as a foreign agent."""
        return bool(self.flags & AGENT_F and self.care_of_addresses)

    @property
    def is_home(self) -> bool:
        """It is a home agent on this link."""
        return bool(self.flags & AGENT_H)

    @property
    def is_busy(self) -> bool:
        """It accepts no more registrations."""
        return bool(self.flags & AGENT_B)

    @property
    def requires_registration(self) -> bool:
        """R: register through it even with an address of your own (2.4.1)."""
        return bool(self.flags & AGENT_R and self.flags & AGENT_F)

    @property
    def reverse_tunnels(self) -> bool:
        """T: it offers reverse tunnelling (RFC 3024)."""
        return bool(self.flags & AGENT_T)

    @property
    def udp_tunnels(self) -> bool:
        """U: it offers UDP tunnelling (RFC 3519)."""
        return bool(self.flags & AGENT_U)

    def shares_subnet(self, other: Agent) -> bool | None:
        """Whether both advertise a common network; None when one does not say (2.4.2.2)."""
        if not self.prefixes or not other.prefixes:
            return None
        return bool(set(self.prefixes) & set(other.prefixes))


@dataclass(frozen=True, slots=True)
class Heard:
    """What an advertisement changed."""

    agent: Agent
    is_new: bool = False
    """An agent that was not there before, or one that comes back."""
    rebooted: bool = False
    """It started again: it may have forgotten us (2.4.4)."""
    is_gone: bool = False
    """It said good-bye with a lifetime of zero."""


Key = tuple[str, int, bytes]


class AgentCache:
    """The agents heard, by link, address and link-layer address."""

    def __init__(self, home_address: int) -> None:
        self._home_address = home_address
        self._agents: dict[Key, Agent] = {}
        self._sequences: dict[Key, int] = {}
        """The last one of every agent, also of those that fell silent: one that comes back may
        have started again meanwhile."""

    def hear(self, data: bytes, arrival: Arrival, now: Now) -> Heard:
        """Take an advertisement. Raises Refused."""
        advertisement = _decode(data)
        mobility = advertisement.agent
        if mobility is None:
            raise Refused("mnAdvertisementsPlainRouter", "no mobility agent")
        source, mac = arrival.source.address, arrival.mac or b""
        _check_place(advertisement, arrival, self._home_address)
        key = (arrival.interface, source, mac)
        before = self._agents.get(key)
        if before is not None and before.expires_ns <= now.boot_ns:
            before = None
        if not _is_group(arrival.destination.address):
            others = [a for a in self.agents(arrival.interface, now) if a.address == source]
            if before is None and others:
                # RFC 3543 6.1: a unicast advertisement is believed from the known sender alone.
                raise Refused("mnAdvertisementsImpostor", "another link-layer address")
        agent = Agent(
            arrival.interface,
            source,
            mac,
            mobility.flags,
            tuple(a for a in mobility.care_of_addresses if is_unicast(a)),
            mobility.registration_lifetime,
            mobility.sequence,
            now.boot_ns + advertisement.lifetime_s * SECOND_NS,
            now.boot_ns if before is None else before.first_heard_ns,
            tuple(router.address for router in advertisement.routers),
            _prefixes(advertisement),
            advertisement.challenge or b"",
            advertisement.nai or b"",
            0 if before is None else before.boots,
        )
        if advertisement.lifetime_s == 0:
            self._agents.pop(key, None)
            return Heard(agent, is_gone=before is not None)
        last = self._sequences.pop(key, agent.sequence)
        rebooted = started_again(last, agent.sequence)
        self._sequences[key] = agent.sequence
        if rebooted:
            agent = replace(agent, boots=agent.boots + 1)
        self._agents.pop(key, None)
        self._agents[key] = agent  # the newest last
        self._make_room()
        return Heard(agent, is_new=before is None, rebooted=rebooted)

    def _make_room(self) -> None:
        for table in (self._agents, self._sequences):
            while len(table) > MAX_AGENTS:
                del table[next(iter(table))]

    def agents(self, interface: str, now: Now) -> list[Agent]:
        """Agents of a link whose advertisement holds, the one heard first first."""
        found = [
            agent
            for agent in self._agents.values()
            if agent.interface == interface and agent.expires_ns > now.boot_ns
        ]
        return sorted(found, key=lambda agent: agent.first_heard_ns)

    def find(self, interface: str, address: int, mac: bytes, now: Now) -> Agent | None:
        """The agent with these addresses while its advertisement holds."""
        agent = self._agents.get((interface, address, mac))
        return agent if agent is not None and agent.expires_ns > now.boot_ns else None

    def renew_challenge(self, agent: Agent, challenge: bytes) -> None:
        """A reply brought a fresh challenge (RFC 4721 3.5)."""
        key = (agent.interface, agent.address, agent.mac)
        known = self._agents.get(key)
        if known is not None:
            self._agents[key] = replace(known, challenge=challenge)

    def forget(self, interface: str) -> None:
        """The link went down: whoever was on it may not be on the next one."""
        for key in [key for key in self._agents if key[0] == interface]:
            del self._agents[key]

    def expire(self, now: Now) -> list[Agent]:
        """Drop agents whose advertisement ended; returns them (2.4.2.1)."""
        ended = [agent for agent in self._agents.values() if agent.expires_ns <= now.boot_ns]
        for agent in ended:
            del self._agents[agent.interface, agent.address, agent.mac]
        return ended

    def next_deadline(self) -> int | None:
        """When the next advertisement ends."""
        return min((agent.expires_ns for agent in self._agents.values()), default=None)

    def all(self) -> list[Agent]:
        """Every agent, also those about to expire, the newest heard last."""
        return list(self._agents.values())


def started_again(before: int, after: int) -> bool:
    """Whether a sequence number tells of a new start: it went down to below 256 (2.4.4)."""
    return after < before and after < FIRST_AFTER_ROLLOVER


def _decode(data: bytes) -> AgentAdvertisement:
    try:
        return AgentAdvertisement.decode(data)
    except UnknownExtension as error:
        raise Refused("mnAdvsDroppedInvalidExtension", str(error)) from None
    except WireError as error:
        raise Refused("mnAdvertisementsDamaged", str(error)) from None


def _check_place(advertisement: AgentAdvertisement, arrival: Arrival, home_address: int) -> None:
    """Refuse what cannot come from an agent on this link."""
    source = arrival.source.address
    if arrival.ttl not in (0, DISCOVERY_TTL):  # 0: whoever received it did not look
        raise Refused("mnAdvertisementsFromAfar", f"time to live {arrival.ttl}")
    if not arrival.mac or not is_unicast(source) or source == home_address:
        raise Refused("mnAdvertisementsMisplaced", "an impossible sender")
    mobility = advertisement.agent
    offered = () if mobility is None else mobility.care_of_addresses
    told = {router.address for router in advertisement.routers} | set(offered)
    prefixes = _prefixes(advertisement)
    if prefixes and source not in told and not any(source in prefix for prefix in prefixes):
        raise Refused("mnAdvertisementsMisplaced", "sender outside the networks it advertises")


def _is_group(address: int) -> bool:
    return address == LIMITED_BROADCAST or is_multicast(address)


def _prefixes(advertisement: AgentAdvertisement) -> tuple[Prefix, ...]:
    lengths = advertisement.prefix_lengths or ()
    routers = advertisement.routers
    pairs = zip(routers, lengths, strict=False)
    return tuple(Prefix(r.address & prefix_mask(n), n) for r, n in pairs if n)
