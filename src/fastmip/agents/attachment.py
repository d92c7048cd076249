"""Which link a mobile node is attached to, and whether that link is its home.

Movement is seen from outside: ``runtime`` reports every change of an interface as a
``LinkState``. This module turns the newest states into one choice:

1. ``attachment_of`` reads one link: no attachment, at home, or away with a care-of address.
   ``offers.py`` adds what the agents on the link offer.
2. ``LinkTable.choose`` picks the first usable link in the order of preference, and its first
   offer that nobody refused lately. A link that keeps flapping has to stay up for a while
   before it displaces a link that works; a node without a working link takes the first usable
   one at once, so no real move is delayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    gateway_mac: str = ""
    """Link-layer address of the next hop where it is watched and known: another one behind the
    same address is another network (RFC 3519 5.1)."""
    losses: int = field(default=0, compare=False)
    """How often the carrier went so far."""

    mac: str = field(default="", compare=False)
    """Link-layer address of the interface itself, empty when unknown."""


def is_another_network(before: LinkState | None, after: LinkState) -> bool:
    """Whether the same router address now stands for another router (RFC 3519 5.1)."""
    return (
        before is not None
        and before.gateway == after.gateway
        and bool(before.gateway_mac and after.gateway_mac)
        and before.gateway_mac != after.gateway_mac
    )


class Attachment(NamedTuple):
    """A usable link."""

    interface: str
    care_of_address: int
    """The home address when at home."""
    at_home: bool
    gateway: int
    """Default router of the link, 0 when it needs none."""
    agent: int = 0
    """Foreign agent to register through, 0 for none."""
    mac: bytes = b""
    """Link-layer address of that agent."""
    is_colocated: bool = True
    """The care-of address is our own; else it is the agent's."""

    @property
    def place(self) -> Place:
        """What makes it another attachment than before; another router alone does not."""
        return (self.interface, self.care_of_address, self.at_home, self.agent, self.mac)


Place = tuple[str, int, bool, int, bytes]

Reader = Callable[["LinkState", "Attachment | None", int], "tuple[list[Attachment], int | None]"]
"""(link, attachment in use, now) -> what the link offers, the best first, and when to read
again (None: at the next change)."""


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
    mac: str = ""
    """The newest one known."""
    barred: dict[Place, int] = field(default_factory=dict)
    """Offers that were refused -> until when others go first."""

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
        read: Reader | None = None,
        settles: bool = True,
    ) -> None:
        self.interfaces = tuple(interfaces)
        self._preferred: str | None = None
        self._home = (home_address, home_network, home_agent)
        self._seen: dict[str, _Seen] = {}
        self._read = read or self._read_alone
        self._settles = settles
        """A link that flaps has to wait; without, none ever has."""

    def own(self, link: LinkState) -> Attachment | None:
        """What a link offers without any agent."""
        home_address, home_network, home_agent = self._home
        return attachment_of(
            link, home_address=home_address, home_network=home_network, home_agent=home_agent
        )

    def _read_alone(
        self, link: LinkState, _in_use: Attachment | None, _now_ns: int
    ) -> tuple[list[Attachment], int | None]:
        own = self.own(link)
        return ([] if own is None else [own]), None

    def update(self, link: LinkState, now_ns: int) -> bool:
        """Note the new state of a link; False when it is none of ours or nothing changed."""
        if link.interface not in self.interfaces:
            return False
        seen = self._seen.setdefault(link.interface, _Seen(LinkState(link.interface, False)))
        if seen.link == link:
            return False
        attachment = self.own(link)
        was_usable = bool(self._read(seen.link, None, now_ns)[0])
        if (was_usable or seen.attachment is not None) and not self._read(link, None, now_ns)[0]:
            seen.losses_ns = [t for t in seen.losses_ns if now_ns - t < FLAP_WINDOW_NS]
            seen.losses_ns.append(now_ns)
        if seen.attachment != attachment or seen.link.carrier != link.carrier:
            seen.suspended_until_ns = 0
            seen.barred.clear()
            seen.up_since_ns = now_ns
        seen.link, seen.attachment = link, attachment
        seen.mac = link.mac or seen.mac
        return True

    def is_another_device(self, link: LinkState) -> bool:
        """Whether the interface has another link-layer address than before: a foreign agent
        would go on sending to the old one."""
        seen = self._seen.get(link.interface)
        return seen is not None and bool(seen.mac and link.mac) and seen.mac != link.mac

    def offers(self, interface: str, now_ns: int, in_use: Attachment | None) -> list[Attachment]:
        """The attachments a link offers now, the best first."""
        seen = self._seen.get(interface)
        return self._read(seen.link, in_use, now_ns)[0] if seen else []

    def still_offers(self, attachment: Attachment, now_ns: int) -> bool:
        """Whether the place of an attachment is still to be had."""
        offers = self.offers(attachment.interface, now_ns, attachment)
        return any(offer.place == attachment.place for offer in offers)

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

    def bar(self, attachment: Attachment, until_ns: int) -> None:
        """Pass one offer of a link over until then, or until the link changes."""
        seen = self._seen.get(attachment.interface)
        if seen is not None:
            seen.barred[attachment.place] = until_ns

    def choose(
        self, now_ns: int, in_use: str | None, current: Attachment | None = None
    ) -> tuple[Attachment | None, int | None]:
        """The attachment to use and when to look again (None: at the next change).

        ``in_use`` is the interface of ``current``, the attachment in use.
        """
        order = sorted(self.known(), key=lambda name: name != self._preferred)
        again: list[int] = []
        usable: list[tuple[_Seen, list[Attachment]]] = []
        for name in order:
            offers, again_ns = self._read(self._seen[name].link, current, now_ns)
            again += [] if again_ns is None else [again_ns]
            if offers:
                usable.append((self._seen[name], offers))
        ready: list[tuple[_Seen, Attachment]] = []
        for seen, offers in usable:
            free = [o for o in offers if seen.barred.get(o.place, 0) <= now_ns]
            again += [t for t in seen.barred.values() if t > now_ns]
            if seen.suspended_until_ns > now_ns:
                again.append(seen.suspended_until_ns)
            elif free:
                ready.append((seen, free[0]))
        works = any(seen.link.interface == in_use for seen, _ in ready)
        for seen, offer in ready:
            interface = seen.link.interface
            settled = seen.settled_at_ns() if self._settles else 0
            if not works or interface in (in_use, self._preferred) or settled <= now_ns:
                return offer, min(again, default=None)
            again.append(settled)
        # All are suspended: stay, or take the first.
        usable.sort(key=lambda found: found[0].link.interface != in_use)
        if not usable:
            return None, min(again, default=None)
        offers = usable[0][1]
        stay = [o for o in offers if current is not None and o.place == current.place]
        return (stay or offers)[0], min(again, default=None)
