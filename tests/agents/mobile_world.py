"""A simulated world around one mobile node: clocks, links, and a wire to a home agent."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.agents.paper_foreign_agent import PaperForeignAgent
from tests.agents.paper_home_agent import KEY, SPI, PaperHomeAgent, Request, parse_request

from fastmip.agents.attachment import LinkState
from fastmip.agents.effects import (
    Arrival,
    ConfigureHome,
    Effect,
    Endpoint,
    Event,
    GratuitousArp,
    InstallTunnels,
    Now,
    PinNeighbour,
    RouteThroughTunnel,
    SendDatagram,
    SendIcmp,
    SetArp,
    UnpinNeighbour,
)
from fastmip.agents.hosts import Prefix
from fastmip.agents.mobile import MobileNode
from fastmip.agents.mobile_state import MobileNodeSettings
from fastmip.auth.associations import AssociationSet, ReplayStyle, SecurityAssociation
from fastmip.wire.addresses import parse_address

MS = 1_000_000
SECOND = 1_000_000_000
HOME = parse_address("10.1.0.5")
HOME_AGENT = parse_address("10.1.0.1")
A = parse_address("10.3.1.5")
A2 = parse_address("10.3.1.6")
B = parse_address("10.3.2.5")
B2 = parse_address("10.3.2.6")
GATEWAY_A = parse_address("10.3.1.254")
GATEWAY_B = parse_address("10.3.2.254")
NODE_MAC = bytes.fromhex("020000000005")
LEASE = parse_address("10.1.0.205")
WALL = 1_790_000_000 * SECOND


def link(interface: str, address: int, gateway: int | None, length: int = 24) -> LinkState:
    return LinkState(interface, True, ((address, length),), gateway)


def down(interface: str) -> LinkState:
    return LinkState(interface, False)


def at_home(interface: str = "eth0") -> LinkState:
    return link(interface, LEASE, HOME_AGENT)


def visit_a(interface: str = "eth0") -> LinkState:
    return link(interface, A if interface == "eth0" else A2, GATEWAY_A)


def visit_b(interface: str = "eth0") -> LinkState:
    return link(interface, B if interface == "eth0" else B2, GATEWAY_B)


def settings(**changes: Any) -> MobileNodeSettings:
    values: dict[str, Any] = {
        "home_address": HOME,
        "home_network": Prefix(parse_address("10.1.0.0"), 24),
        "home_agent": HOME_AGENT,
        "interfaces": ("eth0", "wlan0"),
    }
    return MobileNodeSettings(**(values | changes))


def associations(replay: ReplayStyle = ReplayStyle.TIMESTAMPS) -> AssociationSet:
    return AssociationSet([SecurityAssociation(SPI, KEY, replay=replay)])


class World:
    """Drives a mobile node by a simulated clock; every effect is kept with its time."""

    def __init__(
        self,
        *,
        home_agent: PaperHomeAgent | None = None,
        replay: ReplayStyle = ReplayStyle.TIMESTAMPS,
        seed: int = 1,
        delay_ms: int = 20,
        **changes: Any,
    ) -> None:
        self.boot_ns = 1_000 * SECOND
        self.wall_ns = WALL
        self.random = random.Random(seed)  # noqa: S311 - a simulation repeats itself
        self.home_agent = home_agent or PaperHomeAgent(HOME_AGENT)
        self.node = MobileNode(
            settings(**changes), associations(replay), random_bits=self.random.getrandbits
        )
        self.delay_ns = delay_ms * MS
        self.reachable = True
        self.exact = True
        """The home agent insists on requests without any extension but its authentication."""
        self.lose: Callable[[int], bool] = lambda _number: False
        """Says whether the n-th request (from 0) gets lost."""
        self.log: list[tuple[int, Effect]] = []
        self.requests: list[tuple[int, SendDatagram, Request]] = []
        self.handled_at: list[int] = []
        self.agents: list[PaperForeignAgent] = []
        """Foreign agents that are on the links right now."""
        self.advertise_s = 1.0
        """How often each of them advertises; 0 only when solicited."""
        self.solicitations: list[tuple[int, str]] = []
        self._wire: list[tuple[int, int, Callable[[], object]]] = []
        self._sequence = 0

    @property
    def now(self) -> Now:
        return Now(self.boot_ns, self.wall_ns)

    def take(self, effects: Sequence[Effect]) -> list[Effect]:
        """Carry effects out."""
        for effect in effects:
            self.log.append((self.boot_ns, effect))
            if isinstance(effect, SendDatagram):
                self._send(effect)
            elif isinstance(effect, SendIcmp):
                self._solicited(effect)
        deadline = self.node.next_deadline()
        assert deadline is None or deadline > self.boot_ns, "a deadline must lie ahead"
        return list(effects)

    def _send(self, datagram: SendDatagram) -> None:
        if datagram.data[0] != 1:
            return  # a keepalive
        found = [
            agent
            for agent in self.agents
            if agent.address == datagram.destination.address
            and agent.interface == datagram.interface
            and datagram.mac == agent.mac
        ]
        agent = found[0] if found else None
        mine = agent.split(datagram.data)[0] if agent is not None else datagram.data
        request = parse_request(mine, exact=agent is None and self.exact)
        number = len(self.requests)
        self.requests.append((self.boot_ns, datagram, request))
        if not self.reachable or self.lose(number):
            return
        if agent is None and datagram.mac is not None:
            return  # to an agent that is not there

        def at_home(data: bytes) -> bytes:
            wall_ns = self.wall_ns + self.delay_ns
            boot_ns = self.boot_ns + self.delay_ns
            return self.home_agent.answer(data, boot_ns, wall_ns, exact=self.exact)

        if agent is None:
            self.inject(at_home(datagram.data), 2 * self.delay_ns)
            return
        reply = agent.answer(datagram.data, at_home)
        if reply is not None:
            self.inject(reply, 2 * self.delay_ns, source=agent.address)

    def _at(self, when_ns: int, happens: Callable[[], object]) -> None:
        self._sequence += 1
        heapq.heappush(self._wire, (when_ns, self._sequence, happens))

    def inject(self, data: bytes, delay_ns: int = 0, *, source: int = HOME_AGENT) -> None:
        """Let a datagram arrive after some time."""
        self._at(self.boot_ns + delay_ns, lambda: self.hear(data, source))

    def place(self, *agents: PaperForeignAgent) -> None:
        """Put foreign agents on their links; they advertise from now on."""
        for agent in agents:
            self.agents.append(agent)
            if self.advertise_s:
                self._at(self.boot_ns + MS, lambda agent=agent: self._advertise(agent))  # type: ignore[misc]

    def remove(self, *agents: PaperForeignAgent) -> None:
        """They are heard no more."""
        for agent in agents:
            self.agents.remove(agent)

    def _advertise(self, agent: PaperForeignAgent) -> None:
        if agent not in self.agents:
            return
        self.advertise(agent)
        self._at(self.boot_ns + int(self.advertise_s * SECOND), lambda: self._advertise(agent))

    def advertise(self, agent: PaperForeignAgent, **changes: Any) -> list[Effect]:
        """One advertisement, now."""
        data = changes.pop("data", None) or agent.advertisement()
        values: dict[str, Any] = {
            "source": Endpoint(agent.address, 0),
            "destination": Endpoint(parse_address("224.0.0.1"), 0),
            "interface": agent.interface,
            "mac": agent.mac,
            "ttl": 1,
        }
        arrival = Arrival(**(values | changes))
        return self.take(self.node.receive_advertisement(data, arrival, self.now))

    def _solicited(self, effect: SendIcmp) -> None:
        assert effect.message[0] == 10
        self.solicitations.append((self.boot_ns, effect.interface))
        for agent in self.agents:
            if agent.interface == effect.interface:
                due = self.boot_ns + 5 * MS
                self._at(due, lambda agent=agent: self.advertise(agent))  # type: ignore[misc]

    def link(self, state: LinkState) -> list[Effect]:
        return self.take(self.node.link_changed(state, self.now))

    def hear(self, data: bytes, source: int = HOME_AGENT) -> list[Effect]:
        arrival = Arrival(Endpoint(source, 434), Endpoint(0, 40000), "eth0")
        return self.take(self.node.receive_datagram(data, arrival, self.now))

    def run(self, seconds: float) -> None:
        """Let time pass: datagrams arrive and timers fire exactly when they are due."""
        end = self.boot_ns + int(seconds * SECOND)
        while True:
            deadline = self.node.next_deadline()
            arrival = self._wire[0][0] if self._wire else None
            due = min((t for t in (deadline, arrival) if t is not None), default=end + 1)
            if due > end:
                break
            self._move_to(due)
            if arrival == due:
                heapq.heappop(self._wire)[2]()
            else:
                self.handled_at.append(self.boot_ns)
                self.take(self.node.handle_timer(self.now))
        self._move_to(end)

    def _move_to(self, boot_ns: int) -> None:
        self.wall_ns += boot_ns - self.boot_ns
        self.boot_ns = boot_ns

    def of(self, *kinds: type) -> list[Any]:
        """The effects of these kinds, in order."""
        return [effect for _, effect in self.log if isinstance(effect, kinds)]

    def world_effects(self) -> list[Any]:
        """Everything but log events."""
        kinds = (
            SendDatagram,
            SetArp,
            GratuitousArp,
            ConfigureHome,
            RouteThroughTunnel,
            InstallTunnels,
            PinNeighbour,
            UnpinNeighbour,
        )
        return self.of(*kinds)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [dict(e.fields) for e in self.of(Event) if e.name == name]

    @property
    def state(self) -> str:
        return self.node.state.value

    def tunnels(self) -> tuple[int, ...]:
        """Care-of addresses of the tunnels installed last, the sending one first."""
        installed = self.of(InstallTunnels)
        return tuple(t.local for t in installed[-1].tunnels) if installed else ()

    def stopped(self) -> bool:
        return self.node.stopped

    def sent(self) -> list[Request]:
        return [request for _, _, request in self.requests]
