"""Where a mobile node shows its home address: routing, ARP, tunnels.

The agent says what should hold; ``Presence`` remembers what the world was told and returns
the difference as effects, so nothing is done twice and nothing is forgotten. The order is
that of RFC 5944 4.6: coming home, routing first, then ARP, then gratuitous ARP (the request
follows); leaving, ARP stops before the request. A new way for packets is put up before the
old one is taken down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastmip.agents.attachment import Attachment
from fastmip.agents.care_of import CareOfBinding
from fastmip.agents.effects import (
    ConfigureHome,
    Effect,
    GratuitousArp,
    InstallTunnels,
    PinNeighbour,
    RouteThroughTunnel,
    SetArp,
    Tunnel,
    UnpinNeighbour,
)

SECOND_NS = 1_000_000_000

GRATUITOUS_ARP_DELAYS_NS = (0, SECOND_NS // 2, SECOND_NS, 2 * SECOND_NS)
"""Ours: RFC 5944 4.6 wants "a small number" of repeats, in parallel with the request."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Where packets with the home address as their source go."""

    at_home: bool
    """Onto the home link; else into the tunnel device, or out natively without ``reverse``."""
    interface: str
    """The home link, or the link of the care-of address; empty while there is none."""
    reverse: bool = False
    gateway: int = 0
    """Foreign agent that is the default router, 0 for the link's own."""
    direct: tuple[tuple[int, int], ...] = ()
    """Networks reached by that agent without the tunnel."""


def routing_of(
    attachment: Attachment | None,
    binding: CareOfBinding | None,
    *,
    home_link: str = "",
    reverse: bool,
    local: tuple[tuple[int, int], ...] = (),
) -> Routing:
    """Where packets go: ``binding`` is what they are sent through, if anything.

    ``home_link`` serves a node that left home and is not registered yet, as long as that link is
    up; ``reverse`` is what such a node will ask for. ``local`` are the networks of the foreign
    agent in use.
    """
    if attachment is not None and attachment.at_home:
        return Routing(True, attachment.interface)
    if binding is not None and binding.is_colocated:
        return Routing(False, binding.interface, binding.reverse)
    if binding is not None:
        # The agent is the default router. With encapsulating delivery it reverse-tunnels what is
        # encapsulated to it, so that its own networks can be reached directly (RFC 3024 5.4).
        through = binding.encapsulating_delivery and binding.reverse
        direct = local if through else ()
        return Routing(False, binding.interface, through, binding.agent, direct)
    if attachment is not None and home_link:
        return Routing(True, home_link)
    return Routing(False, attachment.interface if attachment is not None else "", reverse)


class Presence:
    """What the world was told about the home address."""

    def __init__(self, home_address: int) -> None:
        self._home_address = home_address
        self._arp: dict[str, bool] = {}
        self._announcements: list[int] = []
        self._tunnels: tuple[Tunnel, ...] = ()
        self._pins: dict[tuple[int, str], bytes] = {}
        self.routing: Routing | None = None
        """As told last."""
        self.gratuitous_arps = 0
        """Sent so far."""

    def forget_arp(self, interface: str) -> None:
        """The link may be a new device now, which was told nothing."""
        self._arp.pop(interface, None)

    def announce_from(self, now_ns: int) -> None:
        """Send gratuitous ARP now and a few times more (4.6)."""
        self._announcements = [now_ns + delay for delay in GRATUITOUS_ARP_DELAYS_NS]

    def next_announcement(self) -> int | None:
        """When the next gratuitous ARP is due."""
        return self._announcements[0] if self._announcements else None

    def arrange_link(
        self, home: str | None, interfaces: Iterable[str], now_ns: int
    ) -> list[Effect]:
        """Routing and ARP that have to be right before a request is sent.

        ``home`` is the home link the node is on, or None away from home; ``interfaces`` are
        all links.
        """
        effects: list[Effect] = []
        if home is not None:
            effects += self.route(Routing(True, home))
        for interface in interfaces:
            # First the links that stop: two must not answer for one address at a time.
            if interface != home:
                effects += self._answer_arp(interface, False)
        if home is None:
            self._announcements.clear()
            return effects
        effects += self._answer_arp(home, True)
        while self._announcements and self._announcements[0] <= now_ns:
            self._announcements.pop(0)
            self.gratuitous_arps += 1
            effects.append(GratuitousArp(self._home_address, None, home))
        return effects

    def _answer_arp(self, interface: str, enabled: bool) -> list[Effect]:
        if self._arp.get(interface) == enabled:
            return []
        self._arp[interface] = enabled
        return [SetArp(interface, enabled)]

    def pin(self, agents: Iterable[tuple[int, str, bytes]]) -> list[Effect]:
        """Reach these agents without ARP: away from home none is broadcast (4.6)."""
        effects: list[Effect] = []
        for address, interface, mac in agents:
            if self._pins.get((address, interface)) != mac:
                self._pins[address, interface] = mac
                effects.append(PinNeighbour(address, interface, mac))
        return effects

    def unpin_others(self, agents: Iterable[tuple[int, str, bytes]]) -> list[Effect]:
        """Forget all agents but these."""
        kept = {(address, interface) for address, interface, _ in agents}
        gone = [key for key in self._pins if key not in kept]
        for key in gone:
            del self._pins[key]
        return [UnpinNeighbour(address, interface) for address, interface in gone]

    def forget_pins(self, interface: str) -> None:
        """The link lost its neighbours: the kernel drops even permanent ones then."""
        for key in [key for key in self._pins if key[1] == interface]:
            del self._pins[key]

    def install(self, tunnels: tuple[Tunnel, ...]) -> list[Effect]:
        """Have exactly these tunnels."""
        if tunnels == self._tunnels:
            return []
        self._tunnels = tunnels
        return [InstallTunnels(self._home_address, tunnels)]

    def route(self, wanted: Routing) -> list[Effect]:
        """Send packets of the home address this way."""
        old, self.routing = self.routing, wanted
        if old == wanted:
            return []
        effects: list[Effect] = []
        if wanted.at_home:
            effects.append(ConfigureHome(wanted.interface, True))
            if old is None or not old.at_home:
                effects.append(RouteThroughTunnel(False, False))
        else:
            effects.append(
                RouteThroughTunnel(
                    True, wanted.reverse, wanted.interface, wanted.gateway, wanted.direct
                )
            )
        if old is not None and old.at_home:
            effects.append(ConfigureHome(old.interface, False))
        return effects
