"""A simulated Internet: links with stations on them, a core between, and time of its own.

Like ``simulation``, with links: who is a neighbour of whom is what foreign agents are about.

* ``Internet`` holds time, one queue of events and the dice. Timers wait in the queue too, so an
  event costs the same whether ten machines take part or a thousand.
* ``Link`` is a segment: frames go by link-layer address, groups to everybody on it.
* A datagram for an address that is not on its link takes the core, which knows the prefix of
  every link. Each leg loses, doubles and delays by itself, so datagrams overtake each other.
* ``SkewedClock`` runs wrong, and fast or slow.

Every delivery enters ``digest``: two runs of a seed are equal exactly when their digests are.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import Protocol

from tests.helpers.simulation import EPOCH_NS, SECOND, SPIN_LIMIT, Conditions

from fastmip.agents.effects import Arrival, Endpoint, Now
from fastmip.wire.addresses import is_multicast

BROADCAST = 0xFFFFFFFF
ALL_AGENTS = 0xE000000B
"""224.0.0.11."""
HOPS = 3
"""Routers of the core that lower the time to live."""
DEFAULT_TTL = 64
PPM = 1_000_000


class Machine(Protocol):
    """Something with an agent on it."""

    name: str

    def handle_timer(self) -> None:
        """Call the agent's timer."""

    def receive_udp(self, data: bytes, arrival: Arrival) -> None:
        """Take a datagram."""

    def receive_icmp(self, data: bytes, arrival: Arrival) -> None:
        """Take an ICMP message."""


class Link:
    """A segment of a network, at most one station for a link-layer address."""

    def __init__(self, name: str, prefix: int) -> None:
        self.name = name
        self.prefix = prefix
        """Upper 16 bits of the addresses on it."""
        self.stations: dict[bytes, tuple[Machine, str]] = {}
        """Link-layer address -> machine and its name of the interface."""
        self.neighbours: dict[int, bytes] = {}
        """Address -> link-layer address: what ARP would answer."""
        self.agents: set[bytes] = set()
        """Link-layer addresses of those that joined the group of all mobility agents."""

    def leave(self, mac: bytes) -> None:
        """A station goes, and its addresses with it."""
        self.stations.pop(mac, None)
        for address in [a for a, owner in self.neighbours.items() if owner == mac]:
            del self.neighbours[address]


class Internet:
    """Time, links, the core between them, and a digest of all that happened."""

    def __init__(self, seed: int, conditions: Conditions) -> None:
        self.seed = seed
        self.dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.conditions = conditions
        self.now_ns = 0
        self.events = 0
        self.lost = self.doubled = self.sent = 0
        self.links: dict[int, Link] = {}
        self._queue: list[tuple[int, int, Callable[[], object]]] = []
        self._number = 0
        self._spins = 0
        self._log = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """Of every delivery so far, with its time."""
        return self._log.hexdigest()

    def add(self, name: str, prefix: int) -> Link:
        """A new link with its /16."""
        return self.links.setdefault(prefix, Link(name, prefix))

    # time -----------------------------------------------------------------------------------

    def after(self, delay_ns: int, action: Callable[[], object]) -> None:
        """Do something later."""
        self._number += 1
        heapq.heappush(self._queue, (self.now_ns + delay_ns, self._number, action))

    def run_for(self, duration_ns: int) -> None:
        """Let time pass."""
        end_ns = self.now_ns + duration_ns
        queue = self._queue
        while queue and queue[0][0] <= end_ns:
            at_ns, _, action = heapq.heappop(queue)
            self._spins = self._spins + 1 if at_ns <= self.now_ns else 0
            assert self._spins < SPIN_LIMIT, f"time stands still at {self.now_ns / SECOND} s"
            self.now_ns = max(self.now_ns, at_ns)
            self.events += 1
            action()
        self.now_ns = end_ns

    # carriage -------------------------------------------------------------------------------

    def send(
        self,
        data: bytes,
        source: Endpoint,
        destination: Endpoint,
        *,
        link: Link | None,
        sender: bytes = b"",
        mac: bytes | None = None,
        ttl: int | None = None,
        icmp: bool = False,
    ) -> None:
        """Put a packet on a link, or into the core (``link`` None).

        ``sender`` is the link-layer source, ``mac`` the destination where the sender knows it.
        """
        hops = DEFAULT_TTL if ttl is None else ttl
        group = destination.address == BROADCAST or is_multicast(destination.address)

        def deliver(where: Link, target: bytes, left: int) -> None:
            station = where.stations.get(target)
            if station is None:
                return  # it went while the packet was under way
            machine, interface = station
            neighbour = sender if where is link else None
            self._note(machine.name, data)
            arrival = Arrival(source, destination, interface, neighbour, left)
            if icmp:
                machine.receive_icmp(data, arrival)
            else:
                machine.receive_udp(data, arrival)

        def enter_core() -> None:
            where = self.links.get(destination.address >> 16)
            if where is None or hops <= HOPS:
                return
            target = where.neighbours.get(destination.address)
            if target is not None:
                self._leg(lambda: deliver(where, target, hops - HOPS))

        if link is None:
            enter_core()
        elif mac is not None:
            target = mac
            self._leg(lambda: deliver(link, target, hops))
        elif group:
            members = link.stations if destination.address != ALL_AGENTS else sorted(link.agents)
            for target in [one for one in members if one != sender]:
                self._leg(lambda target=target: deliver(link, target, hops))  # type: ignore[misc]
        elif (found := link.neighbours.get(destination.address)) is not None:
            self._leg(lambda: deliver(link, found, hops))
        elif destination.address >> 16 != link.prefix:
            self._leg(enter_core)

    def _leg(self, arrive: Callable[[], object]) -> None:
        dice, conditions = self.dice, self.conditions
        self.sent += 1
        if dice.random() < conditions.loss:
            self.lost += 1
            return
        copies = 1
        if dice.random() < conditions.duplication:
            self.doubled += 1
            copies = 2
        for _ in range(copies):
            delay_ns = dice.randint(*conditions.delay_ns)
            if dice.random() < conditions.straggling:
                delay_ns += dice.randint(0, conditions.straggler_ns)
            self.after(delay_ns, arrive)

    def _note(self, name: str, data: bytes) -> None:
        self._log.update(b"%d %b %d " % (self.now_ns, name.encode(), len(data)))
        self._log.update(data)


class Timer:
    """The one timer of a machine; set anew after whatever its agent did."""

    def __init__(self, internet: Internet, fire: Callable[[], object]) -> None:
        self._internet = internet
        self._fire = fire
        self._due_ns: int | None = None

    def set(self, at_ns: int | None) -> None:
        """Fire at a simulated time, or never; an earlier setting is forgotten."""
        if at_ns == self._due_ns:
            return
        self._due_ns = at_ns
        if at_ns is not None:
            delay_ns = max(0, at_ns - self._internet.now_ns)
            self._internet.after(delay_ns, lambda: self._ring(at_ns))

    def _ring(self, at_ns: int) -> None:
        if self._due_ns == at_ns:
            self._due_ns = None
            self._fire()


class SkewedClock:
    """Clocks of one machine: a wall clock that is wrong, and an oscillator that runs wrong."""

    def __init__(self, internet: Internet, error_ns: int = 0, drift_ppm: int = 0) -> None:
        self._internet = internet
        self.error_ns = error_ns
        self._rate = PPM + drift_ppm

    def now(self) -> Now:
        """Both clocks."""
        boot_ns = self._internet.now_ns * self._rate // PPM
        return Now(boot_ns, EPOCH_NS + boot_ns + self.error_ns)

    def simulated(self, boot_ns: int | None) -> int | None:
        """The first simulated time at which the boot clock shows this time or a later one."""
        return None if boot_ns is None else -(-boot_ns * PPM // self._rate)
