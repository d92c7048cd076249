"""Machines of the simulated Internet: home agents, foreign agents, mobile nodes that roam.

Each carries out its agent's effects in order and keeps what a kernel would keep: bindings,
carried visitors, proxied addresses. ``Country.disagreements`` compares all of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from tests.helpers.internet import Internet, Link, SkewedClock, Timer
from tests.helpers.simulation import SECOND

from fastmip.agents.advertiser import AdvertisedLink, Advertiser
from fastmip.agents.attachment import LinkState
from fastmip.agents.bindings import tunnel_records
from fastmip.agents.effects import (
    Arrival,
    Commit,
    CommitOutcome,
    ConfigureHome,
    Effect,
    Endpoint,
    InstallTunnels,
    InstallVisitor,
    NodeRow,
    RemoveVisitor,
    SendDatagram,
    SendIcmp,
    StartProxyArp,
    StopProxyArp,
    Tunnel,
    Violation,
)
from fastmip.agents.foreign import ForeignAgent
from fastmip.agents.foreign_policy import ForeignAgentPolicy
from fastmip.agents.home import HomeAgent
from fastmip.agents.hosts import HomeAgentPolicy, Host
from fastmip.agents.mobile import MobileNode
from fastmip.agents.mobile_state import MobileNodeSettings, State
from fastmip.auth.associations import AssociationSet
from fastmip.auth.challenges import ChallengeWindow
from fastmip.wire.codes import MOBILE_IP_PORT

COMMIT_NS = (100_000, 5_000_000)
"""How long store and engine take."""
INSTALL_NS = (50_000, 2_000_000)
"""How long engine and kernel take for a visitor."""


class _Machine:
    """What all machines share: a name, clocks, dice of its own, one timer."""

    def __init__(self, internet: Internet, name: str, clock: SkewedClock) -> None:
        self.internet = internet
        self.name = name
        self.clock = clock
        self.dice = random.Random(f"{internet.seed} {name}")  # noqa: S311 - repeatable on purpose
        self.violations: list[Violation] = []
        self._timer = Timer(internet, self.handle_timer)

    def handle_timer(self) -> None:
        """Call the agents' timers."""
        raise NotImplementedError

    def _put(self, link: Link, interface_mac: bytes, effect: SendIcmp) -> None:
        """Send an ICMP message on a link, with TTL 1 as the effect demands."""
        self.internet.send(
            effect.message,
            Endpoint(effect.source, 0),
            Endpoint(effect.destination, 0),
            link=link,
            sender=interface_mac,
            mac=effect.mac,
            ttl=1,
            icmp=True,
        )


class HomeStation(_Machine):
    """A home agent with its home link; only its store outlives a restart."""

    def __init__(
        self,
        internet: Internet,
        name: str,
        clock: SkewedClock,
        link: Link,
        policy: HomeAgentPolicy,
        hosts: Iterable[Host],
        advertised: AdvertisedLink,
    ) -> None:
        super().__init__(internet, name, clock)
        self.link = link
        self.policy = policy
        self.address = policy.home_agent_address
        self.hosts = {host.home_address: host for host in hosts}
        self.mac = b"\x0a" + self.address.to_bytes(4) + b"\0"
        self.store: dict[int, NodeRow] = {}
        self.engine: dict[int, tuple[Tunnel, ...]] = {}
        self.proxied: set[int] = set()
        self.forgetful = False
        """Acknowledge without storing: proof that somebody would notice."""
        self.advertised = advertised
        self.agent: HomeAgent
        self.advertiser: Advertiser
        self._life = 0
        link.stations[self.mac] = (self, policy.home_interface)
        link.neighbours[self.address] = self.mac
        link.agents.add(self.mac)
        self.start()

    def start(self) -> None:
        """Start the daemon (again): what is stored fills the engine, the rest is forgotten."""
        self._life += 1
        self.started_ns = self.internet.now_ns
        now = self.clock.now()
        self.agent = HomeAgent(
            self.policy,
            hosts=self.hosts.get,
            load=self.store.get,
            boot=1,
            random=self.dice.randbytes,
            started=now,
        )
        records = b"".join(row.bindings for row in self.store.values())
        tunnels = tunnel_records(records, boot=1, now=now, mtu_bytes=1500)
        self.engine.clear()
        for record in tunnels:
            home_address = int(record["home_address"])
            tunnel = Tunnel(int(record["remote"]), int(record["local"]), int(record["expires_ns"]))
            self.engine[home_address] = (*self.engine.get(home_address, ()), tunnel)
        self.proxied = set(self.engine)
        self.agent.schedule_expiries(tunnels)
        self.advertiser = Advertiser([self.advertised], random=self.dice.random, now=now)
        self._rest()

    def live(self, home_address: int) -> list[Tunnel]:
        """Tunnels in force now."""
        now_ns = self.clock.now().boot_ns
        return [t for t in self.engine.get(home_address, ()) if t.expires_ns > now_ns]

    def receive_udp(self, data: bytes, arrival: Arrival) -> None:
        """Take a datagram."""
        if arrival.destination.port == MOBILE_IP_PORT:
            self._carry_out(self.agent.receive_datagram(data, arrival, self.clock.now()))

    def receive_icmp(self, data: bytes, arrival: Arrival) -> None:
        """Take a solicitation; advertisements of others are nothing to us."""
        if data[0] == 10:
            now = self.clock.now()
            self._carry_out(self.advertiser.receive_solicitation(data, arrival, now))

    def handle_timer(self) -> None:
        """Call the agents' timers."""
        now = self.clock.now()
        effects = self.agent.handle_timer(now)
        self._carry_out(effects + self.advertiser.handle_timer(now))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram():
                    self.internet.send(
                        effect.data,
                        effect.source,
                        effect.destination,
                        link=self.link if effect.interface else None,
                        sender=self.mac,
                        mac=effect.mac,
                        ttl=effect.ttl,
                    )
                case SendIcmp():
                    self._put(self.link, self.mac, effect)
                case Commit():
                    self._begin(effect)
                case StartProxyArp():
                    self.proxied.add(effect.home_address)
                case StopProxyArp():
                    self.proxied.discard(effect.home_address)
                case Violation():
                    self.violations.append(effect)
        self._rest()

    def _begin(self, commit: Commit) -> None:
        life = self._life

        def end() -> None:
            if life != self._life:
                return  # killed before it was stored: nobody was told
            self.store[commit.home_address] = commit.row
            if commit.tunnels and not self.forgetful:
                self.engine[commit.home_address] = commit.tunnels
            else:
                self.engine.pop(commit.home_address, None)
            outcome, now = CommitOutcome.COMMITTED, self.clock.now()
            self._carry_out(self.agent.commit_done(commit.token, outcome, now))

        self.internet.after(self.dice.randint(*COMMIT_NS), end)

    def _rest(self) -> None:
        times = (self.agent.next_deadline(), self.advertiser.next_deadline())
        due = min([at for at in times if at is not None], default=None)
        self._timer.set(self.clock.simulated(due))


class ForeignStation(_Machine):
    """A foreign agent with its link; the visitor list is gone when it restarts."""

    def __init__(
        self,
        internet: Internet,
        name: str,
        clock: SkewedClock,
        link: Link,
        policy: ForeignAgentPolicy,
        advertised: AdvertisedLink,
    ) -> None:
        super().__init__(internet, name, clock)
        self.link = link
        self.policy = policy
        self.advertised = advertised
        self.address = advertised.address
        self.mac = b"\x0e" + self.address.to_bytes(4) + b"\0"
        self.carried: dict[int, InstallVisitor] = {}
        """Home address -> what engine and kernel carry for it."""
        self.agent: ForeignAgent
        self.advertiser: Advertiser
        self._life = 0
        link.stations[self.mac] = (self, advertised.interface)
        link.neighbours[self.address] = self.mac
        link.agents.add(self.mac)
        self.start()

    def start(self) -> None:
        """Start the daemon (again): it remembers nobody, and its sequence begins with 0."""
        self._life += 1
        self.started_ns = self.internet.now_ns
        self.carried.clear()
        now = self.clock.now()
        # The advertiser and the foreign agent need each other.
        self.advertiser = Advertiser(
            [self.advertised],
            random=self.dice.random,
            now=now,
            is_busy=self._is_busy,
            challenges=self._window,
        )
        self.agent = ForeignAgent(self.policy, random=self.dice.randbytes, notifier=self.advertiser)
        self._rest()

    def receive_udp(self, data: bytes, arrival: Arrival) -> None:
        """Take a datagram."""
        if arrival.destination.port == MOBILE_IP_PORT:
            self._carry_out(self.agent.receive_datagram(data, arrival, self.clock.now()))

    def receive_icmp(self, data: bytes, arrival: Arrival) -> None:
        """Take a solicitation."""
        if data[0] == 10:
            now = self.clock.now()
            self._carry_out(self.advertiser.receive_solicitation(data, arrival, now))

    def handle_timer(self) -> None:
        """Call the agents' timers."""
        now = self.clock.now()
        effects = self.agent.handle_timer(now)
        self._carry_out(effects + self.advertiser.handle_timer(now))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram():
                    self.internet.send(
                        effect.data,
                        effect.source,
                        effect.destination,
                        link=self.link if effect.interface else None,
                        sender=self.mac,
                        mac=effect.mac,
                        ttl=effect.ttl,
                    )
                case SendIcmp():
                    self._put(self.link, self.mac, effect)
                case InstallVisitor():
                    self._install(effect)
                case RemoveVisitor():
                    self.carried.pop(effect.home_address, None)
                case Violation():
                    self.violations.append(effect)
        self._rest()

    def _is_busy(self) -> bool:
        return self.agent.is_busy()

    def _window(self, interface: str) -> ChallengeWindow:
        return self.agent.window(interface)

    def _install(self, wanted: InstallVisitor) -> None:
        self.carried[wanted.home_address] = wanted
        life = self._life

        def end() -> None:
            if life == self._life:
                now = self.clock.now()
                self._carry_out(
                    self.agent.visitor_installed(wanted.token, wanted.home_address, True, now)
                )

        self.internet.after(self.dice.randint(*INSTALL_NS), end)

    def _rest(self) -> None:
        times = (self.agent.next_deadline(), self.advertiser.next_deadline())
        due = min([at for at in times if at is not None], default=None)
        self._timer.set(self.clock.simulated(due))


class RoamingNode(_Machine):
    """A mobile node with one interface that is plugged into one link after the other."""

    INTERFACE = "wlan0"

    def __init__(
        self,
        internet: Internet,
        name: str,
        clock: SkewedClock,
        number: int,
        settings: MobileNodeSettings,
        associations: AssociationSet,
        home: HomeStation,
        told: Callable[[RoamingNode], None],
    ) -> None:
        super().__init__(internet, name, clock)
        self.number = number
        self.settings = settings
        self.home = home
        self.home_address = settings.home_address
        self.mac = b"\x02" + self.home_address.to_bytes(4) + b"\0"
        self.place: Link | None = None
        self.lease = 0
        """Its own address on the link it is on, 0 for none."""
        self.tunnels: tuple[Tunnel, ...] = ()
        self.at_home = False
        """It has taken up home routing."""
        self.moves = 0
        self._told = told
        self._port = 40_000 + number
        self._last: Link | None = None
        self.agent = MobileNode(settings, associations, random_bits=self.dice.getrandbits)

    # moving ---------------------------------------------------------------------------------

    def unplug(self) -> None:
        """Leave the link."""
        if self.place is None:
            return
        self.place.leave(self.mac)
        self.place = None
        self.lease = 0
        self._change(LinkState(self.INTERFACE, False))

    def plug(self, link: Link, lease: int = 0, gateway: int = 0) -> None:
        """Come to a link, with an address of its own there or without."""
        self.place = link
        self.lease = lease
        link.stations[self.mac] = (self, self.INTERFACE)
        if lease:
            link.neighbours[lease] = self.mac
        self.moves += link is not self._last
        self._last = link
        addresses = ((lease, 24),) if lease else ()
        self._change(LinkState(self.INTERFACE, True, addresses, gateway if lease else None))

    def _change(self, link: LinkState) -> None:
        self._carry_out(self.agent.link_changed(link, self.clock.now()))

    # hearing --------------------------------------------------------------------------------

    def receive_udp(self, data: bytes, arrival: Arrival) -> None:
        """Take a datagram."""
        if arrival.destination.port == self._port:
            before = self.agent.state
            self._carry_out(self.agent.receive_datagram(data, arrival, self.clock.now()))
            if self.agent.state is not before:
                self._told(self)

    def receive_icmp(self, data: bytes, arrival: Arrival) -> None:
        """Take an advertisement."""
        if data[0] == 9:
            now = self.clock.now()
            self._carry_out(self.agent.receive_advertisement(data, arrival, now))

    def handle_timer(self) -> None:
        """Call the agent's timer."""
        self._carry_out(self.agent.handle_timer(self.clock.now()))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram() if self.place is not None:
                    source = Endpoint(effect.source.address, effect.source.port or self._port)
                    self.internet.send(
                        effect.data,
                        source,
                        effect.destination,
                        link=self.place,
                        sender=self.mac,
                        mac=effect.mac,
                        ttl=effect.ttl,
                    )
                case SendIcmp() if self.place is not None:
                    self._put(self.place, self.mac, effect)
                case InstallTunnels():
                    self.tunnels = effect.tunnels
                case ConfigureHome():
                    self.at_home = effect.at_home
                    if self.place is not None and effect.at_home:
                        self.place.neighbours[self.home_address] = self.mac
                case Violation():
                    self.violations.append(effect)
        self._timer.set(self.clock.simulated(self.agent.next_deadline()))

    @property
    def is_settled(self) -> bool:
        """Whether it believes that its home agent knows where it is."""
        return self.agent.state in (State.REGISTERED, State.HOME)

    def status(self) -> dict[str, object]:
        """What the agent shows."""
        return self.agent.status(self.clock.now())

    def counted_on_s(self, care_of_address: int) -> float:
        """How long it counts on its home agent to hold a binding that was accepted."""
        bindings = self.agent._bindings
        binding = bindings.accepted(care_of_address)
        left_ns = 0 if binding is None else binding.expires_ns - self.clock.now().boot_ns
        return left_ns / SECOND
