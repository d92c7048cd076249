"""A country of agents: who is where, who knows whom, who moves when, and whether all agree.

Everything follows from the seed: keys, clocks, tastes, dwell times, what the network does. The
mixture is meant to meet: timestamps and nonces, Mobile-Foreign associations and Mobile-AAA,
challenges, Foreign-Home associations, revocation, reverse tunnels and none, links with a
foreign agent, without one, and home.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from tests.helpers.internet import Internet, Link, SkewedClock
from tests.helpers.roaming import ForeignStation, HomeStation, RoamingNode
from tests.helpers.simulation import SECOND, Conditions

from fastmip.agents.advertiser import AdvertisedLink
from fastmip.agents.effects import Tunnel
from fastmip.agents.exchange import Identity
from fastmip.agents.foreign_policy import ForeignAgentPolicy, ForeignLink
from fastmip.agents.hosts import HomeAgentPolicy, Host, Prefix
from fastmip.agents.mobile_state import MobileNodeSettings, State
from fastmip.agents.offers import CareOf
from fastmip.agents.visitors import Visitor
from fastmip.auth.associations import Algorithm, AssociationSet, ReplayStyle, SecurityAssociation
from fastmip.auth.mn_aaa import sign_mn_aaa
from fastmip.wire.addresses import format_address
from fastmip.wire.discovery import (
    AGENT_F,
    AGENT_G,
    AGENT_H,
    AGENT_M,
    AGENT_T,
    AGENT_X,
    RouterAddress,
)

BAD_WEATHER = Conditions(
    loss=0.05,
    duplication=0.03,
    delay_ns=(1_000_000, 60_000_000),
    straggling=0.03,
    straggler_ns=3 * SECOND,
)
"""One datagram in twenty lost on each leg, some twice, some overtaken by seconds."""
WEATHERED_NS = BAD_WEATHER.delay_ns[1] + BAD_WEATHER.straggler_ns
"""The longest a packet can be under way."""
DRIFT_PPM = 100
LIFETIME_S = 120
SLACK_S = 1.1
"""A reply that is repeated tells the whole seconds that are left; and clocks drift."""
ADVERTISED_LIFETIME_S = 180
PLAIN_LINKS = 4
"""Access networks that lend addresses and have no agent."""


@dataclass(frozen=True)
class Plan:
    """How large, how long, how bad."""

    nodes: int = 500
    foreign_agents: int = 20
    home_agents: int = 3
    moves: int = 10_000
    dwell_s: float = 15.0
    """Mean time a node stays at a place."""
    restarts: int = 5
    """Foreign agents that restart on the way and forget their visitors."""
    home_restarts: int = 3
    """How often a home agent is killed and started again; it keeps what it had stored."""
    conditions: Conditions = field(default_factory=lambda: BAD_WEATHER)


class Country:
    """All machines of a plan, and what they should agree on in the end."""

    def __init__(self, seed: int, plan: Plan = Plan()) -> None:
        self.plan = plan
        self.internet = Internet(seed, plan.conditions)
        self.dice = self.internet.dice
        self.roaming = True
        self.false_beliefs: list[str] = []
        """What a node believed although its agents did not hold it."""
        self._home_links = [
            self.internet.add(f"home{number}", 0x0A01 + number)
            for number in range(plan.home_agents)
        ]
        self._foreign_links = [
            self.internet.add(f"air{number}", 0x0A64 + number)
            for number in range(plan.foreign_agents)
        ]
        self._plain_links = [
            self.internet.add(f"lan{number}", 0x0AC8 + number) for number in range(PLAIN_LINKS)
        ]
        self._keys: dict[int, AssociationSet] = {}
        self.home_agents = [self._home_agent(number) for number in range(plan.home_agents)]
        self.foreign_agents = [self._foreign(number) for number in range(plan.foreign_agents)]
        self._agent_on = {agent.link.name: agent for agent in self.foreign_agents}
        self.nodes = [self._node(number) for number in range(plan.nodes)]
        self._node_at = {node.home_address: node for node in self.nodes}

    # who there is ---------------------------------------------------------------------------

    def _clock(self, error_s: float) -> SkewedClock:
        error_ns = int(self.dice.uniform(-error_s, error_s) * SECOND)
        return SkewedClock(self.internet, error_ns, self.dice.randint(-DRIFT_PPM, DRIFT_PPM))

    def _shared(self, spi: int, **kind: object) -> AssociationSet:
        """The associations of two machines: the same object on both sides."""
        found = self._keys.get(spi)
        if found is None:
            key = self.dice.randbytes(16)
            association = SecurityAssociation(spi, key, **kind)  # type: ignore[arg-type] # mixed
            found = self._keys[spi] = AssociationSet([association])
        return found

    def _mobile_home(self, number: int) -> AssociationSet:
        return self._shared(
            0x10000 + number,
            algorithm=Algorithm.HMAC_SHA256 if number % 2 else Algorithm.HMAC_MD5,
            replay=ReplayStyle.NONCES if number % 3 == 0 else ReplayStyle.TIMESTAMPS,
        )

    def _mobile_foreign(self, number: int) -> AssociationSet | None:
        """One node in four has an association with every foreign agent."""
        return self._shared(0x20000 + number) if number % 4 == 0 else None

    def _foreign_home(self, foreign: int, home: int) -> AssociationSet | None:
        """Every other foreign agent has an association with every home agent."""
        return self._shared(0x30000 + foreign * 16 + home) if foreign % 2 == 0 else None

    def _home_address(self, number: int) -> int:
        home = number % self.plan.home_agents
        return self._home_links[home].prefix << 16 | 0x0100 + number

    def _home_agent(self, number: int) -> HomeStation:
        link = self._home_links[number]
        address = link.prefix << 16 | 1
        policy = HomeAgentPolicy(
            address,
            Prefix(link.prefix << 16, 16),
            "home0",
            foreign_agents=lambda of: (
                self._foreign_home(found, number) if (found := self._number_of(of)) >= 0 else None
            ),
        )
        hosts = [
            Host(self._home_address(node), self._mobile_home(node))
            for node in range(self.plan.nodes)
            if node % self.plan.home_agents == number
        ]
        advertised = AdvertisedLink(
            "home0",
            address,
            AGENT_H,
            1800,
            routers=(RouterAddress(address),),
            prefix_lengths=(16,),
            max_interval_s=60.0,
            min_interval_s=45.0,
            lifetime_s=ADVERTISED_LIFETIME_S,
        )
        clock = self._clock(2.0)
        return HomeStation(self.internet, link.name, clock, link, policy, hosts, advertised)

    def _number_of(self, address: int) -> int:
        """Which foreign agent has an address; -1 for none."""
        number = (address >> 16) - 0x0A64
        return number if 0 <= number < self.plan.foreign_agents and address & 0xFFFF == 1 else -1

    def _foreign(self, number: int) -> ForeignStation:
        link = self._foreign_links[number]
        address = link.prefix << 16 | 1
        revokes = number % 4 == 0
        challenges = number % 5 == 0
        policy = ForeignAgentPolicy(
            (ForeignLink("air0", address, (address,)),),
            frozenset({address}),
            max_lifetime_s=1800,
            has_challenge=challenges,
            has_revocation=revokes,
            mobile_nodes=lambda home_address, _nai: self._mobile_foreign(
                home_address % 0x10000 - 0x100
            ),
            home_agent_associations=lambda of: self._foreign_home(number, (of >> 16) - 0x0A01),
        )
        advertised = AdvertisedLink(
            "air0",
            address,
            AGENT_F | AGENT_T | AGENT_M | AGENT_G | (AGENT_X if revokes else 0),
            1800,
            care_of_addresses=(address,),
            routers=(RouterAddress(address),),
            prefix_lengths=(16,),
            max_interval_s=60.0,
            min_interval_s=45.0,
            lifetime_s=ADVERTISED_LIFETIME_S,
            has_challenge=challenges,
        )
        clock = self._clock(100.0)
        return ForeignStation(self.internet, link.name, clock, link, policy, advertised)

    def _node(self, number: int) -> RoamingNode:
        home = self.home_agents[number % self.plan.home_agents]
        shared = self._mobile_foreign(number)
        aaa = SecurityAssociation(0x40000 + number, self.dice.randbytes(16))
        identity = Identity(
            nai=b"node%d@home.example" % number if number % 3 == 1 else b"",
            sign_for_aaa=None if shared else partial(_sign_for_aaa, aaa),
            foreign={agent.address: shared for agent in self.foreign_agents} if shared else {},
        )
        settings = MobileNodeSettings(
            self._home_address(number),
            home.policy.home_network,
            home.address,
            (RoamingNode.INTERFACE,),
            LIFETIME_S,
            reverse_tunnel=number % 3 != 2,
            care_of=CareOf.FOREIGN_AGENT_FIRST,
            identity=identity,
        )
        # One clock in five is wrong by up to a day; the home agent's 133 teaches the time.
        clock = self._clock(86_400.0 if number % 5 == 4 else 3.0)
        return RoamingNode(
            self.internet,
            f"node{number}",
            clock,
            number,
            settings,
            self._mobile_home(number),
            home,
            self._believes,
        )

    # what happens ---------------------------------------------------------------------------

    def run(self) -> None:
        """Let everybody roam until enough moves are made, then let all come to rest."""
        plan = self.plan
        for node in self.nodes:
            self.internet.after(self.dice.randint(0, 5 * SECOND), partial(self._arrive, node))
        expected_s = plan.moves * plan.dwell_s / plan.nodes
        for agent in self.dice.sample(self.foreign_agents, plan.restarts):
            self.internet.after(self.dice.randint(0, int(expected_s) * SECOND), agent.start)
        for _ in range(plan.home_restarts):
            home = self.dice.choice(self.home_agents)
            self.internet.after(self.dice.randint(0, int(expected_s) * SECOND), home.start)
        while self.moves < plan.moves:
            self.internet.run_for(SECOND)
        self.roaming = False
        # Foreign agents are not told of who left; what they hold of them ends by itself.
        self.internet.run_for((LIFETIME_S + 10) * SECOND)
        for _ in range(180):
            if not self.disagreements():
                return
            self.internet.run_for(SECOND)

    @property
    def moves(self) -> int:
        """How often anybody came to another place."""
        return sum(node.moves for node in self.nodes)

    def _arrive(self, node: RoamingNode) -> None:
        link = self._somewhere(node)
        if node.number and link.name.startswith("lan"):
            lease = link.prefix << 16 | 0x0100 + node.number
            node.plug(link, lease, link.prefix << 16 | 0xFE)
        else:
            node.plug(link)
        dwell_ns = int(node.dice.expovariate(1 / self.plan.dwell_s) * SECOND)
        self.internet.after(dwell_ns, partial(self._leave, node))

    def _somewhere(self, node: RoamingNode) -> Link:
        draw = node.dice.randrange(20)
        if draw == 0:
            return node.home.link
        if draw < 3 and node.number:
            return node.dice.choice(self._plain_links)
        return node.dice.choice(self._foreign_links)

    def _leave(self, node: RoamingNode) -> None:
        if not self.roaming:
            return
        node.unplug()
        # Mostly another link at once, sometimes nothing for a while.
        gap_s = node.dice.expovariate(0.1) if node.dice.randrange(20) == 0 else 0.3
        gap_ns = node.dice.randint(0, int(gap_s * SECOND))
        self.internet.after(gap_ns, partial(self._arrive, node))

    # what must hold -------------------------------------------------------------------------

    def _believes(self, node: RoamingNode) -> None:
        """A node has just been told something: its agents must hold what it now believes."""
        if node.agent.state is State.REGISTERED:
            wrong = self._unheld(node)
            if wrong:
                at_s = self.internet.now_ns / SECOND
                self.false_beliefs.append(f"{at_s:.3f} {node.name}: {wrong}")

    def _unheld(self, node: RoamingNode) -> str:
        care_of = str(node.status()["care_of_address"])
        held = [format_address(tunnel.remote) for tunnel in node.home.live(node.home_address)]
        if care_of not in held:
            return f"{care_of} is not among {held} at its home agent"
        agent = None if node.place is None else self._agent_on.get(node.place.name)
        if agent is not None and format_address(agent.address) == care_of:
            if self.internet.now_ns - agent.started_ns < WEATHERED_NS:
                return ""  # the reply may be one of its former life
            visitor = agent.agent.visitor(node.home_address)
            if visitor is None or node.home_address not in agent.carried:
                return f"{agent.name} does not carry it"
        return ""

    def disagreements(self) -> list[str]:
        """Every difference between where nodes are and what the tables of all agents say."""
        wrong = [problem for node in self.nodes for problem in self._about(node)]
        present: dict[str, set[int]] = {agent.name: set() for agent in self.foreign_agents}
        for node in self.nodes:
            if node.place is not None and node.place.name in present:
                present[node.place.name].add(node.home_address)
        for agent in self.foreign_agents:
            listed = {visitor.home_address for visitor in agent.agent.visitors()}
            if not listed == set(agent.carried) == present[agent.name]:
                wrong.append(f"{agent.name}: visitors, carried and present differ")
            now_ns = agent.clock.now().boot_ns
            if any(pending.expires_ns < now_ns for pending in agent.agent.pending()):
                wrong.append(f"{agent.name}: a request is pending too long")
        for home in self.home_agents:
            away = {n.home_address for n in self.nodes if n.home is home and n.place != home.link}
            tunnelled = {address for address in home.engine if home.live(address)}
            stored = {address for address, row in home.store.items() if row.bindings}
            if not away == tunnelled == stored == home.proxied:
                wrong.append(f"{home.name}: away, tunnelled, stored and proxied differ")
        return wrong

    def _about(self, node: RoamingNode) -> list[str]:
        name, address, place = node.name, node.home_address, node.place
        if place is None:
            return [f"{name} is nowhere"]
        tunnels = node.home.live(address)
        if place is node.home.link:
            if node.agent.state is not State.HOME or tunnels or not node.at_home:
                return [f"{name} is home, but {node.agent.state} with {len(tunnels)} tunnels"]
            return []
        if node.agent.state is not State.REGISTERED:
            return [f"{name} is at {place.name}, but {node.agent.state}"]
        agent = self._agent_on.get(place.name)
        care_of = node.lease if agent is None else agent.address
        status = node.status()
        bindings = status["bindings"]
        assert isinstance(bindings, list)
        believed = [binding["care_of_address"] for binding in bindings]
        held = [format_address(tunnel.remote) for tunnel in tunnels]
        if not believed == held == [status["care_of_address"]] == [format_address(care_of)]:
            return [f"{name} at {place.name}: believes {believed}, home agent holds {held}"]
        if agent is None:
            return [] if [t.local for t in node.tunnels] == [care_of] else [f"{name}: no tunnel"]
        visitor = agent.agent.visitor(address)
        if visitor is None:
            return [f"{name} is no visitor of {agent.name}"]
        if (visitor.home_agent, visitor.mac) != (node.home.address, node.mac):
            return [f"{name} is a visitor of {agent.name} as somebody else"]
        return self._lifetimes(node, agent, visitor, tunnels[0])

    def _lifetimes(
        self, node: RoamingNode, agent: ForeignStation, visitor: Visitor, tunnel: Tunnel
    ) -> list[str]:
        """Nobody drops a binding that its mobile node still counts on."""
        left_s = node.counted_on_s(agent.address)
        foreign_s = (visitor.expires_ns - agent.clock.now().boot_ns) / SECOND
        home_s = (tunnel.expires_ns - node.home.clock.now().boot_ns) / SECOND
        if left_s > min(foreign_s, home_s) + SLACK_S:
            return [f"{node.name} counts on {left_s} s, agents on {foreign_s} and {home_s}"]
        return []


def _sign_for_aaa(association: SecurityAssociation, message: bytes, challenge: bytes) -> bytes:
    return sign_mn_aaa(message, association, challenge)
