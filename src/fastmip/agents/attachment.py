"""Which link a mobile node is attached to, and whether that link is its home.

Movement is seen from outside: ``runtime`` reports every change of an interface as a
``LinkState``. This module turns the newest states into one choice:

1. ``attachment_of`` reads one link: no attachment, at home, or away with a care-of address.
2. ``LinkTable.choose`` picks the first usable link in the order of preference. A link that
   keeps flapping has to stay up for a while before it displaces a link that works; a node
   without a working link takes the first usable one at once, so no real move is delayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fastmip.agents.hosts import Prefix
from fastmip.wire.addresses import is_loopback

SECOND_NS = 1_000_000_000

FLAP_WINDOW_NS = 30 * SECOND_NS
"""Losses of a link older than this are forgotten."""
MAX_SETTLE_NS = 16 * SECOND_NS
"""Longest time a flapping link must stay up before it displaces a working one."""

LINK_LOCAL = Prefix(0xA9FE0000, 16)
"""RFC 3927: never a care-of address, no router knows it."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """What netlink says about one interface."""

    interface: str
    carrier: bool
    """Administratively up and with carrier; an interface that is gone has none."""
    addresses: tuple[tuple[int, int], ...] = ()
    """(address, prefix length), without those the daemon itself put there."""
    gateway: int | None = None
    """Next hop of the best default route through this link; 0 when that route names no
    gateway (point-to-point links); None without a default route."""
    metric: int = 0
    """Metric of that default route."""
    mtu: int = 1500
    """Of the interface, in bytes."""


class Attachment(NamedTuple):
    """A usable link."""

    interface: str
    care_of_address: int
    """The home address when at home."""
    at_home: bool
    gateway: int
    """Default router of the link, 0 when it needs none."""


def attachment_of(
    link: LinkState, *, home_address: int, home_network: Prefix, home_agent: int
) -> Attachment | None:
    """Read one link; None while it cannot carry traffic.

    A link is home when it holds an address of the home network, unless its default router
    lies elsewhere: an address left behind by a static configuration does not make a foreign
    link home (RFC 5944 2.4.3 leaves detection other than by advertisements open). Away, a
    care-of address and a way to the home agent are needed: a default route or the home agent
    on the link itself. The address whose prefix holds the gateway is preferred.
    """
    if not link.carrier:
        return None
    gateway_is_home = not link.gateway or link.gateway in home_network
    usable = []
    for address, length in link.addresses:
        if address in home_network:
            if gateway_is_home:
                return Attachment(link.interface, home_address, True, link.gateway or 0)
        elif address not in LINK_LOCAL and not is_loopback(address):
            usable.append(Prefix(address, length))
    if link.gateway is None:
        usable = [own for own in usable if home_agent in own]
    if not usable:
        return None
    gateway = link.gateway or 0
    best = next((own for own in usable if gateway and gateway in own), usable[0])
    return Attachment(link.interface, best.network, False, gateway)


@dataclass(slots=True)
class _Seen:
    """The newest state of a link and its history of losses."""

    link: LinkState
    attachment: Attachment | None = None
    up_since_ns: int = 0
    losses_ns: list[int] = field(default_factory=list)
    suspended_until_ns: int = 0

    def settled_at_ns(self) -> int:
        """When the link has been up long enough to displace a working one."""
        if len(self.losses_ns) < 2:
            return 0
        wait = min(SECOND_NS << (len(self.losses_ns) - 2), MAX_SETTLE_NS)
        return self.up_since_ns + wait


class LinkTable:
    """The links of a mobile node in their order of preference."""

    def __init__(
        self,
        interfaces: Sequence[str],
        *,
        home_address: int,
        home_network: Prefix,
        home_agent: int,
    ) -> None:
        self.interfaces = tuple(interfaces)
        self._preferred: str | None = None
        self._home = (home_address, home_network, home_agent)
        self._seen: dict[str, _Seen] = {}

    def update(self, link: LinkState, now_ns: int) -> bool:
        """Note the new state of a link; False when it is none of ours or nothing changed."""
        if link.interface not in self.interfaces:
            return False
        seen = self._seen.setdefault(link.interface, _Seen(LinkState(link.interface, False)))
        if seen.link == link:
            return False
        home_address, home_network, home_agent = self._home
        attachment = attachment_of(
            link, home_address=home_address, home_network=home_network, home_agent=home_agent
        )
        if seen.attachment is not None and attachment is None:
            seen.losses_ns = [t for t in seen.losses_ns if now_ns - t < FLAP_WINDOW_NS]
            seen.losses_ns.append(now_ns)
        if seen.attachment != attachment:
            seen.suspended_until_ns = 0
            seen.up_since_ns = now_ns
        seen.link, seen.attachment = link, attachment
        return True

    def get(self, interface: str) -> Attachment | None:
        """The attachment a link offers now."""
        seen = self._seen.get(interface)
        return seen.attachment if seen else None

    def link(self, interface: str) -> LinkState | None:
        """The newest state of a link."""
        seen = self._seen.get(interface)
        return seen.link if seen else None

    def up_since_ns(self, interface: str) -> int:
        """When the present attachment of the link appeared."""
        return self._seen[interface].up_since_ns

    def holds(self, interface: str, care_of_address: int) -> bool:
        """Whether this link is up and still owns this care-of address."""
        seen = self._seen.get(interface)
        return (
            seen is not None
            and seen.attachment is not None
            and any(address == care_of_address for address, _ in seen.link.addresses)
        )

    def known(self) -> list[str]:
        """Interfaces anything was ever heard of, in the configured order."""
        return [name for name in self.interfaces if name in self._seen]

    def prefer(self, interface: str | None) -> None:
        """Put a link before all others on the operator's word; None ends that."""
        self._preferred = interface
        if interface is not None:
            self.suspend(interface, 0)

    def suspend(self, interface: str, until_ns: int) -> None:
        """Pass the link over until then, or until it changes, if another one is usable."""
        seen = self._seen.get(interface)
        if seen is not None:
            seen.suspended_until_ns = until_ns

    def choose(self, now_ns: int, in_use: str | None) -> tuple[Attachment | None, int | None]:
        """The attachment to use and when to look again (None: at the next change)."""
        order = sorted(self.known(), key=lambda name: name != self._preferred)
        usable = [self._seen[name] for name in order if self._seen[name].attachment is not None]
        ready = [seen for seen in usable if seen.suspended_until_ns <= now_ns]
        again = [seen.suspended_until_ns for seen in usable if seen not in ready]
        works = any(seen.link.interface == in_use for seen in ready)
        for seen in ready:
            interface = seen.link.interface
            settled = seen.settled_at_ns()
            if not works or interface in (in_use, self._preferred) or settled <= now_ns:
                return seen.attachment, min(again, default=None)
            again.append(settled)
        # All are suspended: stay, or take the first.
        usable.sort(key=lambda seen: seen.link.interface != in_use)
        return (usable[0].attachment if usable else None), min(again, default=None)
