"""A network of function calls: agents, simulated time, loss, and the world they act upon.

Nothing here waits. ``Simulation`` holds one queue of events and one source of randomness, so a
seed names a history exactly. A week with a registration every few minutes takes milliseconds.

* ``Network`` carries datagrams: it loses, duplicates, delays (and so reorders) and damages them.
* ``HomeSite`` is a machine with a home agent: store, engine and ARP as plain dictionaries. It
  carries out effects in order, commits after a while or not at all, crashes and restarts.
* ``MobileSite`` is a machine with a mobile node and its links.

Each site has its own clocks. Simulated time is that of CLOCK_BOOTTIME since the simulation
began; a site's boot time starts anew when it reboots, its wall clock may be wrong and may step.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fastmip.agents.attachment import LinkState
from fastmip.agents.bindings import TUNNEL_DTYPE, tunnel_records
from fastmip.agents.effects import (
    NEVER,
    Arrival,
    Commit,
    CommitOutcome,
    ConfigureHome,
    Effect,
    Endpoint,
    GratuitousArp,
    InstallTunnels,
    NodeRow,
    Now,
    SendDatagram,
    StartProxyArp,
    StopProxyArp,
    Tunnel,
    Violation,
)
from fastmip.agents.home import HomeAgent
from fastmip.agents.hosts import HomeAgentPolicy, Host
from fastmip.agents.mobile import MobileNode
from fastmip.agents.mobile_state import MobileNodeSettings
from fastmip.auth.associations import AssociationSet
from fastmip.wire.codes import MOBILE_IP_PORT

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR
WEEK = 7 * DAY
EPOCH_NS = 1_767_225_600 * SECOND
"""1 January 2026: what a right wall clock shows when a simulation begins."""
SPIN_LIMIT = 1000
"""Timer calls without time going on that are taken for an agent that spins."""
REVERSE_FLAG = 1


@dataclass
class Conditions:
    """How bad the network is; probabilities are per datagram."""

    loss: float = 0.0
    duplication: float = 0.0
    damage: float = 0.0
    """A bit flips and no checksum notices."""
    delay_ns: tuple[int, int] = (1_000_000, 30_000_000)
    straggling: float = 0.0
    """The datagram takes up to ``straggler_ns`` and is overtaken by later ones."""
    straggler_ns: int = 30 * SECOND


PERFECT = Conditions()
DREADFUL = Conditions(loss=0.25, duplication=0.15, damage=0.02, straggling=0.1)


class Site(Protocol):
    """A machine in the simulation."""

    deadline_ns: int | None
    """Simulated time of its next timer."""

    def handle_timer(self) -> None:
        """Call the agent's timer."""

    def owns(self, address: int) -> bool:
        """Whether a datagram to this address reaches the machine now."""

    def receive(self, data: bytes, source: Endpoint, destination: Endpoint, home: bool) -> None:
        """Hand a datagram to the agent."""


class Simulation:
    """Simulated time, the queue of events, the dice, and the sites."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.now_ns = 0
        self.sites: list[Site] = []
        self.watches: list[Callable[[], None]] = []
        """Called after every event; they raise when an invariant is broken."""
        self.events = 0
        self._queue: list[tuple[int, int, Callable[[], object]]] = []
        self._number = 0
        self._spins = 0

    def after(self, delay_ns: int, action: Callable[[], object]) -> None:
        """Do something later."""
        self._number += 1
        heapq.heappush(self._queue, (self.now_ns + delay_ns, self._number, action))

    def run_for(self, duration_ns: int) -> None:
        """Let simulated time pass."""
        end_ns = self.now_ns + duration_ns
        while self._step(end_ns):
            pass
        self.now_ns = end_ns
        self._watch()

    def run_until(self, settled: Callable[[], bool], limit_ns: int) -> int:
        """Let time pass until a condition holds; returns how long it took.

        Raises AssertionError when it does not hold after ``limit_ns``.
        """
        start_ns = self.now_ns
        while not settled():
            assert self._step(start_ns + limit_ns), f"not settled after {limit_ns / SECOND} s"
        return self.now_ns - start_ns

    def _step(self, end_ns: int) -> bool:
        """Carry out the next event if it is not after ``end_ns``."""
        timers = [site for site in self.sites if site.deadline_ns is not None]
        first = min(timers, key=lambda site: site.deadline_ns or 0, default=None)
        timer_ns = NEVER if first is None or first.deadline_ns is None else first.deadline_ns
        queue_ns = self._queue[0][0] if self._queue else NEVER
        at_ns = min(timer_ns, queue_ns)
        if at_ns > end_ns:
            return False
        self._spins = self._spins + 1 if at_ns <= self.now_ns else 0
        assert self._spins < SPIN_LIMIT, f"time stands still; {first} spins"
        self.now_ns = max(self.now_ns, at_ns)
        if first is not None and timer_ns <= queue_ns:
            first.handle_timer()
        else:
            heapq.heappop(self._queue)[2]()
        self.events += 1
        self._watch()
        return True

    def _watch(self) -> None:
        for watch in self.watches:
            watch()


@dataclass(frozen=True)
class Sent:
    """A datagram as it was sent, whatever became of it."""

    at_ns: int
    data: bytes
    source: Endpoint
    destination: Endpoint


class Network:
    """Carries datagrams between sites under changeable conditions."""

    def __init__(self, simulation: Simulation, conditions: Conditions = PERFECT) -> None:
        self.simulation = simulation
        self.conditions = conditions
        self.log: list[Sent] = []
        self.taps: list[Callable[[Sent], None]] = []
        """Called with every datagram sent."""
        self.in_flight = 0

    def send(self, data: bytes, source: Endpoint, destination: Endpoint, home: bool) -> None:
        """Take a datagram; ``home`` says that it was sent on the home link."""
        sent = Sent(self.simulation.now_ns, data, source, destination)
        self.log.append(sent)
        for tap in self.taps:
            tap(sent)
        dice, conditions = self.simulation.dice, self.conditions
        if dice.random() < conditions.loss:
            return
        for _ in range(2 if dice.random() < conditions.duplication else 1):
            self._launch(data, source, destination, home)

    def _launch(self, data: bytes, source: Endpoint, destination: Endpoint, home: bool) -> None:
        dice, conditions = self.simulation.dice, self.conditions
        delay_ns = dice.randint(*conditions.delay_ns)
        if dice.random() < conditions.straggling:
            delay_ns += dice.randint(0, conditions.straggler_ns)
        if dice.random() < conditions.damage:
            damaged = bytearray(data)
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
            data = bytes(damaged)

        def arrive() -> None:
            self.in_flight -= 1
            for site in self.simulation.sites:
                if site.owns(destination.address):
                    site.receive(data, source, destination, home)
                    return

        self.in_flight += 1
        self.simulation.after(delay_ns, arrive)


@dataclass
class Clock:
    """Clocks of one machine."""

    simulation: Simulation
    booted_ns: int = 0
    """Simulated time of its last boot."""
    error_ns: int = 0
    """How far its wall clock is ahead of the true time; change it to step the clock."""

    def now(self) -> Now:
        """Both clocks."""
        true_ns = self.simulation.now_ns
        return Now(true_ns - self.booted_ns, EPOCH_NS + true_ns + self.error_ns)

    def simulated(self, boot_ns: int | None) -> int | None:
        """Simulated time of a moment of this boot."""
        return None if boot_ns is None else boot_ns + self.booted_ns


@dataclass
class CommitFate:
    """How commits go; probabilities are per commit."""

    delay_ns: tuple[int, int] = (100_000, 5_000_000)
    engine_full: float = 0.0
    store_failed: float = 0.0


class HomeSite:
    """A machine with a home agent. The store survives a crash, all else does not."""

    def __init__(
        self,
        network: Network,
        policy: HomeAgentPolicy,
        hosts: Iterable[Host],
        *,
        make: Callable[..., HomeAgent] = HomeAgent,
    ) -> None:
        self.network = network
        self.simulation = network.simulation
        self.clock = Clock(self.simulation)
        self.policy = policy
        self.hosts = {host.home_address: host for host in hosts}
        self.fate = CommitFate()
        self.store: dict[int, NodeRow] = {}
        self.engine: dict[int, tuple[Tunnel, ...]] = {}
        """Expiries are on this boot's clock, as in the real one."""
        self.proxied: set[int] = set()
        self.violations: list[Violation] = []
        self.gratuitous: list[GratuitousArp] = []
        self.boot = 1
        self.is_up = False
        self.deadline_ns: int | None = None
        self.make = make
        """What ``start`` makes the home agent with."""
        self._life = 0
        self.agent: HomeAgent
        self.start()
        self.simulation.sites.append(self)

    # life and death

    def start(self) -> None:
        """Start the daemon: rows to the engine in bulk, then the agent, then the port."""
        self.is_up = True
        dice = self.simulation.dice
        now = self.clock.now()
        self.agent = self.make(
            self.policy,
            hosts=self.hosts.get,
            load=self.store.get,
            boot=self.boot,
            random=dice.randbytes,
            started=now,
        )
        records = b"".join(row.bindings for row in self.store.values())
        tunnels = tunnel_records(
            records, boot=self.boot, now=now, mtu_bytes=1500, reverse_flag=REVERSE_FLAG
        )
        assert tunnels.dtype == np.dtype(TUNNEL_DTYPE)
        for record in tunnels:
            tunnel = Tunnel(
                int(record["remote"]),
                int(record["local"]),
                int(record["expires_ns"]),
                int(record["encapsulation"]),
                bool(record["flags"] & REVERSE_FLAG),
            )
            home_address = int(record["home_address"])
            self.engine[home_address] = (*self.engine.get(home_address, ()), tunnel)
        if self.policy.home_interface:
            self.proxied |= set(self.engine)
        self.agent.schedule_expiries(tunnels)
        self._rest()

    def crash(self) -> None:
        """Kill the process: what was not stored is gone, commits under way are torn."""
        self._life += 1
        self.is_up = False
        self.engine.clear()
        self.proxied.clear()
        self.deadline_ns = None

    def reboot(self) -> None:
        """Crash, and let the boot clock start anew."""
        self.crash()
        self.clock.booted_ns = self.simulation.now_ns
        self.boot += 1

    # what agents see

    def owns(self, address: int) -> bool:
        """Whether the home agent's machine has the address and is up."""
        return self.is_up and address in self.policy.own

    def receive(self, data: bytes, source: Endpoint, destination: Endpoint, home: bool) -> None:
        """Hand a datagram to the home agent."""
        if destination.port == MOBILE_IP_PORT:
            self.carry_out(self.offer(data, source, destination, home))

    def offer(
        self, data: bytes, source: Endpoint, destination: Endpoint, home: bool = False
    ) -> list[Effect]:
        """Ask the agent what it would do with a datagram; the caller carries it out."""
        interface = self.policy.home_interface if home else "wan"
        mac = b"\x02" + source.address.to_bytes(4, "big") + b"\x01" if home else None
        arrival = Arrival(source, destination, interface, mac)
        return self.agent.receive_datagram(data, arrival, self.clock.now())

    def handle_timer(self) -> None:
        """Call the agent's timer."""
        self.carry_out(self.agent.handle_timer(self.clock.now()))

    def live(self, home_address: int) -> list[Tunnel]:
        """Tunnels the engine would use now: workers judge the expiry themselves."""
        now_ns = self.clock.now().boot_ns
        return [t for t in self.engine.get(home_address, ()) if t.expires_ns > now_ns]

    def step_clock(self, by_ns: int) -> None:
        """Step the wall clock."""
        self.clock.error_ns += by_ns

    # carrying out

    def carry_out(self, effects: list[Effect]) -> None:
        """Do what the agent wants, in order."""
        for effect in effects:
            match effect:
                case SendDatagram():
                    home = bool(effect.interface)
                    self.network.send(effect.data, effect.source, effect.destination, home)
                case Commit():
                    self._begin(effect)
                case StartProxyArp():
                    self.proxied.add(effect.home_address)
                case StopProxyArp():
                    self.proxied.discard(effect.home_address)
                case GratuitousArp():
                    self.gratuitous.append(effect)
                case Violation():
                    self.violations.append(effect)
        self._rest()

    def _begin(self, commit: Commit) -> None:
        dice, life = self.simulation.dice, self._life
        stored_ns = dice.randint(*self.fate.delay_ns)
        told_ns = dice.randint(*self.fate.delay_ns)

        def store() -> None:
            if self._life != life:
                return
            draw = dice.random()
            if draw < self.fate.engine_full:
                outcome = CommitOutcome.ENGINE_FULL
            elif draw < self.fate.engine_full + self.fate.store_failed:
                outcome = CommitOutcome.STORE_FAILED
            else:
                outcome = CommitOutcome.COMMITTED
                self.store[commit.home_address] = commit.row
            self.simulation.after(told_ns, lambda: publish(outcome))

        def publish(outcome: CommitOutcome) -> None:
            # A crash in between leaves a stored row nobody was told of.
            if self._life != life:
                return
            if outcome is CommitOutcome.COMMITTED:
                if commit.tunnels:
                    self.engine[commit.home_address] = commit.tunnels
                else:
                    self.engine.pop(commit.home_address, None)
            self.carry_out(self.agent.commit_done(commit.token, outcome, self.clock.now()))

        self.simulation.after(stored_ns, store)

    def _rest(self) -> None:
        self.deadline_ns = self.clock.simulated(self.agent.next_deadline())


@dataclass
class World:
    """What a mobile node has done to its machine."""

    tunnels: tuple[Tunnel, ...] = ()
    home_link: str = ""
    """Link on which the home address is configured, empty while it is on none."""
    gratuitous: int = 0
    violations: list[Violation] = field(default_factory=list)


class MobileSite:
    """A machine with a mobile node."""

    def __init__(
        self, network: Network, settings: MobileNodeSettings, associations: AssociationSet
    ) -> None:
        self.network = network
        self.simulation = network.simulation
        self.clock = Clock(self.simulation)
        self.settings = settings
        self.associations = associations
        self.links: dict[str, LinkState] = {}
        self.world = World()
        self.deadline_ns: int | None = None
        self._status: dict[str, object] | None = None
        self.agent: MobileNode
        self._port = 40000 + len(self.simulation.sites)
        self.start()
        self.simulation.sites.append(self)

    @property
    def home_address(self) -> int:
        """The home address."""
        return self.settings.home_address

    @property
    def bindings(self) -> list[dict[str, object]]:
        """Care-of addresses the mobile node believes the home agent may hold."""
        rows = self._shown()["bindings"]
        assert isinstance(rows, list)
        return rows

    @property
    def care_of_address(self) -> object:
        """Text of the care-of address it uses now."""
        return self._shown()["care_of_address"]

    def _shown(self) -> dict[str, object]:
        """The agent's status as of its last call: between calls only remaining times change."""
        if self._status is None:
            self._status = self.agent.status(self.clock.now())
        return self._status

    def start(self) -> None:
        """Start the daemon (again): it remembers nothing and hears of every link."""
        dice = self.simulation.dice
        self.world = World()
        self.agent = MobileNode(self.settings, self.associations, random_bits=dice.getrandbits)
        for link in self.links.values():
            self.carry_out(self.agent.link_changed(link, self.clock.now()))
        self._rest()

    # links

    def attach(self, interface: str, address: int, gateway: int, length: int = 24) -> None:
        """A link comes up, or becomes another one."""
        self._change(LinkState(interface, True, ((address, length),), gateway))

    def detach(self, interface: str) -> None:
        """A link goes down."""
        if interface in self.links:
            self._change(LinkState(interface, False))

    def _change(self, link: LinkState) -> None:
        self.links[link.interface] = link
        self.carry_out(self.agent.link_changed(link, self.clock.now()))

    # what agents see

    def owns(self, address: int) -> bool:
        """Whether a link that is up holds the address."""
        return self._link_of(address) is not None

    def _link_of(self, address: int) -> LinkState | None:
        for link in self.links.values():
            at_home = link.interface == self.world.home_link and address == self.home_address
            if link.carrier and (at_home or any(own == address for own, _ in link.addresses)):
                return link
        return None

    def receive(self, data: bytes, source: Endpoint, destination: Endpoint, home: bool) -> None:
        """Hand a datagram to the mobile node."""
        link = self._link_of(destination.address)
        if link is None or destination.port != self._port:
            return
        arrival = Arrival(source, destination, link.interface)
        del home  # a mobile node learns nothing from where a reply was put on a link
        self.carry_out(self.agent.receive_datagram(data, arrival, self.clock.now()))

    def handle_timer(self) -> None:
        """Call the agent's timer."""
        self.carry_out(self.agent.handle_timer(self.clock.now()))

    # carrying out

    def carry_out(self, effects: list[Effect]) -> None:
        """Do what the agent wants, in order."""
        for effect in effects:
            match effect:
                case SendDatagram():
                    self._send(effect)
                case InstallTunnels():
                    self.world.tunnels = effect.tunnels
                case ConfigureHome(interface=interface, at_home=True):
                    self.world.home_link = interface
                case ConfigureHome(interface=interface) if interface == self.world.home_link:
                    self.world.home_link = ""
                case GratuitousArp():
                    self.world.gratuitous += 1
                case Violation():
                    self.world.violations.append(effect)
        self._rest()

    def _send(self, datagram: SendDatagram) -> None:
        link = self.links.get(datagram.interface)
        source = Endpoint(datagram.source.address, datagram.source.port or self._port)
        assert link is not None, "a request leaves by a link that was never heard of"
        if self._link_of(source.address) is link:
            home = source.address == self.home_address
            self.network.send(datagram.data, source, datagram.destination, home)

    def _rest(self) -> None:
        self._status = None
        self.deadline_ns = self.clock.simulated(self.agent.next_deadline())

    def step_clock(self, by_ns: int) -> None:
        """Step the wall clock."""
        self.clock.error_ns += by_ns
