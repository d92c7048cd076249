"""Routing of a mobile node: policy rules and tables, after the manner of wg-quick.

Rules, in this order (``P`` is PRIORITY, ``T`` the configured table, ``M`` the mark of tunnel
and registration packets, ``C`` each address of a link, ``L`` that link's own table):

    P+0  marked M, from C    table L      each link speaks for itself
    P+1  marked M            table L of the link in use: tunnel packets
    P+2  marked M            table main   or whatever the machine would do
    P+3  marked M            unreachable: never into the tunnel
    P+4  from C              table main, but not its default route
    P+5  from C              table L      who speaks for a link leaves by it
    P+6  from HOME-ADDRESS   table T
    P+7  to HOME-NETWORK     table T      also if a dead link still claims that network
    P+8  any                 table main, but not its default route: local networks
    P+9  any                 table T

(An inverted rule inverts all its selectors together, so "not marked" stands alone or not at
all; here marked packets are simply dealt with first.)

Table T always holds a default route into the tunnel device, with the home address as source.
At home, or away without reverse tunnelling, routes of a better metric lie on top of it and
packets leave natively. So each move is one route put up and one taken down, nothing is ever
unroutable in between, and a link that dies takes its routes with it.

A foreign agent in use is pinned: a permanent neighbour entry, and a route to it alone in the main
table and in table L, so that nothing asks for it by ARP (RFC 5944 4.6), whatever its address.

Everything goes through ``Kernel``: journalled before it is made, undone on stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastmip.agents.attachment import LinkState
from fastmip.agents.hosts import Prefix
from fastmip.runtime.journal import Address, Change, Neighbour, Route, Rule
from fastmip.runtime.logging import get_logger
from fastmip.runtime.mobile_tunnel import MIN_DEVICE_MTU, OVERHEAD
from fastmip.runtime.neighbours import forget_unanswered
from fastmip.runtime.netlink import Kernel, read_sysctl
from fastmip.runtime.router_routing import Network, NetworkRouting
from fastmip.wire.addresses import format_address, format_network, prefix_mask

PRIORITY = 4340
"""Of the first of our rules: after the local table and a home agent's rule, before main."""
MAIN_TABLE, LOCAL_TABLE = 254, 255
_TUNNEL_METRIC = 4340
_HOME_METRIC = 1
_PIN_METRIC = 4340
_NATIVE_METRIC = 10
_NO_FILTER, _STRICT, _LOOSE = "0", "1", "2"

log = get_logger("mobile-node")


class MobileRouting:
    """What the kernel is told about the home address and the links of a mobile node."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        device: str,
        home_address: int,
        home_network: Prefix,
        home_gateway: int,
        interfaces: Sequence[str],
        fwmark: int,
        table: int,
        with_agents: bool = False,
        with_broadcasts: bool = False,
        ingress: Sequence[str] = (),
    ) -> None:
        self._kernel = kernel
        self._with_agents = with_agents
        """Foreign agents are used: links need no address of their own."""
        self._device = device
        self._home_address = home_address
        self._home = format_address(home_address)
        self._home_network = format_network(home_network.network, home_network.length)
        self._home_gateway = format_address(home_gateway)
        self._interfaces = tuple(interfaces)
        self._fwmark = fwmark
        self._table = table
        self._broadcast = format_address(home_network.broadcast) if with_broadcasts else ""
        """That of the home network, if its broadcasts come through the tunnel."""
        self._base: list[Change] = []
        self._attracting: list[Change] = []
        """Rules that lead packets of the home address to table T."""
        self._links: dict[str, list[Change]] = {}
        self._states: dict[str, LinkState] = {}
        self._unsettled: set[str] = set()
        self._doomed: dict[str, list[Change]] = {}
        """Changes for links that went down, to be undone when there is time."""
        self._foreign: set[Change] = set()
        """Wanted, but somebody else made them; not tried twice while settling."""
        self._marked = ""
        """Link that tunnel packets leave by."""
        self._mark: list[Change] = []
        self._top: list[Change] = []
        """Routes over the tunnel's in table T: at home or without reverse tunnelling."""
        self._arp: dict[str, list[Change]] = {}
        self._pins: dict[str, dict[int, list[Change]]] = {}
        """What stands for each pinned agent, by link and address."""
        first = self._unreachable + 1
        self._networks = NetworkRouting(
            kernel,
            device=device,
            home_address=home_address,
            ingress=ingress,
            fwmark=fwmark,
            tables=(first, first + 1, self._unreachable),
        )
        """Of a mobile router; without ``ingress`` it is never started."""
        self._is_router = bool(ingress)
        self._placed: set[str] = set()
        """Links the home address was ever put on by us."""

    # start and stop

    async def start(self) -> None:
        """Home address on the tunnel device, table T and the rules that lead to it.

        The device must be up. Raises StartError when a table is in use, OSError.
        """
        unreachable = self._unreachable
        for table in range(self._table, unreachable + 1):
            await self._kernel.free_table(table, 1)
        for interface in (self._device, *self._interfaces):
            await self._relax_reverse_path(interface)
        mark, tunnel = self._fwmark, self._device
        for change in (
            Address(tunnel, self._home, 32),
            Route("default", unreachable, kind="unreachable"),
            Route(
                "default",
                self._table,
                device=tunnel,
                prefsrc=self._home,
                metric=_TUNNEL_METRIC,
                gateways_behind=False,
            ),
            Rule(PRIORITY + 2, MAIN_TABLE, fwmark=mark),
            Rule(PRIORITY + 3, unreachable, fwmark=mark),
        ):
            await self._apply(change, self._base)
        if self._broadcast:
            # To the kernel an address is a broadcast only if a network says so.
            local = Route(f"{self._broadcast}/32", LOCAL_TABLE, device=tunnel, kind="broadcast")
            await self._apply(local, self._base)
        if self._is_router:
            await self._networks.start()
        for rule in (
            Rule(PRIORITY + 6, self._table, source=f"{self._home}/32"),
            Rule(PRIORITY + 7, self._table, destination=self._home_network),
            Rule(PRIORITY + 8, MAIN_TABLE, suppress_prefixlength=0),
            Rule(PRIORITY + 9, self._table),
        ):
            await self._apply(rule, self._attracting)

    async def stop(self) -> None:
        """Undo everything: the rules that attract traffic first, ARP answers last.

        The home address leaves the tunnel device before ARP is answered again, so that a
        foreign link never hears of it.
        """
        await self._networks.stop()
        for changes in (self._attracting, self._top, self._mark):
            await self._undo(changes)
        pins = [changes for link in self._pins.values() for changes in link.values()]
        for changes in (*pins, *self._links.values(), *self._doomed.values()):
            await self._undo(changes)
        await self._undo(self._base)
        for changes in self._arp.values():
            await self._undo(changes)

    def standing(self) -> list[Rule | Route | Address]:
        """What stands from start to stop, settings of the system aside."""
        standing = (*self._base, *self._attracting)
        found = [change for change in standing if isinstance(change, Rule | Route | Address)]
        return found + self._networks.standing()

    @property
    def _unreachable(self) -> int:
        """The table after those of the links."""
        return self._table + 1 + len(self._interfaces)

    @property
    def link_in_use(self) -> str:
        """The link tunnel packets leave by."""
        return self._marked

    async def use_networks(self, networks: Sequence[Network]) -> None:
        """Carry these mobile networks and no others."""
        await self._networks.use(networks)

    def _link_table(self, interface: str) -> int:
        return self._table + 1 + self._interfaces.index(interface)

    async def _apply(self, change: Change, kept: list[Change]) -> bool:
        is_new = await self._kernel.apply(change)
        if is_new:
            kept.append(change)
        return is_new

    async def _undo(self, changes: list[Change]) -> None:
        for change in changes[::-1]:
            await self._kernel.undo(change)
        changes.clear()

    async def _set(self, path: str, value: str, kept: list[Change]) -> bool:
        change = await self._kernel.set_sysctl(path, value)
        if change is not None:
            kept.append(change)
        return change is not None

    async def _relax_reverse_path(self, interface: str) -> None:
        """Strict filtering would drop packets of a tunnel or link that is being left.

        The greater of an interface's value and ``all`` counts, so loose is always reachable.
        Even loose filtering drops what comes in by a link without an address, unless the way
        back leads there: with foreign agents there is none, and redirects count for nothing
        (RFC 5944 4.2.1).
        """
        path = f"net/ipv4/conf/{interface}/rp_filter"
        everywhere, own = read_sysctl("net/ipv4/conf/all/rp_filter"), read_sysctl(path)
        if self._with_agents and interface != self._device:
            if own and own != _NO_FILTER and await self._set(path, _NO_FILTER, self._base):
                log.info("reverse-path-filter-off", interface=interface)
            if own and everywhere not in ("", _NO_FILTER):
                log.warning(
                    "reverse-path-filter-everywhere",
                    interface=interface,
                    remedy="set net.ipv4.conf.all.rp_filter = 0: packets of a link that is being"
                    " left may be dropped",
                )
            # Of a host's two settings either one is enough to accept them.
            for name in ("all", interface):
                redirects = f"net/ipv4/conf/{name}/accept_redirects"
                if read_sysctl(redirects):
                    await self._set(redirects, "0", self._base)
            return
        if own and max(everywhere, own) == _STRICT and await self._set(path, _LOOSE, self._base):
            log.info("reverse-path-filter-loosened", interface=interface)

    # links

    async def link_changed(self, link: LinkState) -> None:
        """Do what a request over this link cannot do without; the rest waits for ``settle``."""
        name = link.interface
        self._states[name] = link
        self._unsettled.add(name)
        present = self._links.setdefault(name, [])
        doomed = self._doomed.setdefault(name, [])
        if not link.carrier:
            # The kernel may drop routes of a link that is down, now or soon: count on none.
            doomed += present
            present.clear()
            for changes in self._pins.pop(name, {}).values():
                doomed += changes
            return
        for change in self._link_changes(link)[:2]:
            if change not in present:
                await self._make_room(change, present)
                await self._make_room(change, doomed)
                await self._apply(change, present)

    async def _make_room(self, change: Change, others: list[Change]) -> None:
        """Undo what stands in the way of a change: its like, or a route to the same place."""
        for other in list(others):
            same_place = (
                isinstance(change, Route)
                and isinstance(other, Route)
                and (change.table, change.destination) == (other.table, other.destination)
            ) or (
                isinstance(change, Neighbour)
                and isinstance(other, Neighbour)
                and (change.device, change.address) == (other.device, other.address)
            )
            if same_place or change == other:
                others.remove(other)
                await self._kernel.undo(other)

    async def settle(self, is_waited_for: Callable[[], bool]) -> bool:
        """Finish what link changes began, a step at a time, unless something more urgent waits.

        Returns whether it is all done.
        """
        while not is_waited_for():
            if not await self._settle_one():
                await self._mark_leads_to(self._marked)
                return True
        return False

    async def _settle_one(self) -> bool:
        """Undo or make one change that is due; False when none is left."""
        for doomed in self._doomed.values():
            if doomed:
                await self._kernel.undo(doomed.pop())
                return True
        for name in sorted(self._unsettled):
            link, present = self._states[name], self._links[name]
            wanted = self._link_changes(link) if link.carrier else []
            for change in [change for change in present if change not in wanted]:
                present.remove(change)
                await self._kernel.undo(change)
                return True
            for change in wanted:
                if change not in present and change not in self._foreign:
                    if not await self._apply(change, present):
                        self._foreign.add(change)
                    return True
            if link.carrier:
                # A device that was plugged in again starts with the system's defaults.
                await self._relax_reverse_path(name)
            self._unsettled.discard(name)
        self._foreign.clear()
        return False

    def _link_changes(self, link: LinkState) -> list[Change]:
        """A link's table and rules; the first two are what tunnel packets need."""
        device, table = link.interface, self._link_table(link.interface)
        own = [(a, n) for a, n in link.addresses if a != self._home_address]
        routes: list[Change] = []
        if link.gateway is not None:
            gateway = format_address(link.gateway) if link.gateway else ""
            routes.append(
                Route("default", table, device=device, gateway=gateway, onlink=bool(gateway))
            )
        for address, length in link.addresses:
            network = format_network(address & prefix_mask(length), length)
            source = format_address(address)
            if length < 32:
                routes.append(Route(network, table, device=device, prefsrc=source))
        rules: list[Change] = []
        for address, _ in own:
            source = f"{format_address(address)}/32"
            rules += [
                Rule(PRIORITY, table, source=source, fwmark=self._fwmark),
                Rule(PRIORITY + 4, MAIN_TABLE, source=source, suppress_prefixlength=0),
                Rule(PRIORITY + 5, table, source=source),
            ]
        return list(dict.fromkeys([*routes[:1], *rules[:1], *routes[1:], *rules[1:]]))

    # foreign agents

    async def pin(self, address: int, interface: str, mac: bytes) -> None:
        """Reach an agent on a link without ARP, whatever address it has."""
        agent = format_address(address)
        metric = _PIN_METRIC + self._interfaces.index(interface)
        present = self._pins.setdefault(interface, {}).setdefault(address, [])
        doomed = self._doomed.setdefault(interface, [])
        for change in (
            Neighbour(interface, agent, mac.hex(":")),
            Route(f"{agent}/32", MAIN_TABLE, device=interface, metric=metric),
            Route(f"{agent}/32", self._link_table(interface), device=interface),
        ):
            if change not in present:
                await self._make_room(change, present)
                await self._make_room(change, doomed)
                await self._apply(change, present)

    async def unpin(self, address: int, interface: str) -> None:
        """The agent is in use no more."""
        await self._undo(self._pins.get(interface, {}).pop(address, []))

    # effects of the agent

    async def route_through_tunnel(
        self,
        *,
        reverse: bool,
        interface: str,
        gateway: int = 0,
        direct: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Away: packets of the home address into the tunnel, or natively out of a link.

        ``gateway`` is a foreign agent that takes the place of the link's own router. It sends
        through a tunnel, so packets are made small enough for one here. ``direct`` are networks
        it is asked to reach without.
        """
        self._marked = interface
        await self._mark_leads_to(interface)
        if self._is_router:
            await self._networks.away(interface, gateway)
        top: list[Change] = []
        link = self._states.get(interface)
        router = gateway if gateway else None if link is None else link.gateway
        if link is not None and router is not None:
            mtu = max(link.mtu - OVERHEAD, MIN_DEVICE_MTU) if gateway else 0
            networks = [format_network(*network) for network in direct]
            top = [
                self._native(to, interface, router, mtu)
                for to in (networks if reverse else ["default"])
            ]
        await self._replace_top(top)

    def _native(self, destination: str, interface: str, router: int, mtu: int) -> Route:
        """A route out of a link; beside one by another router of the same link for a moment.

        The kernel holds one route to a place of a metric, and the new one is made before the old
        one goes: they take turns with two metrics.
        """
        metric = _NATIVE_METRIC + self._interfaces.index(interface)
        routes = [
            Route(
                destination,
                self._table,
                device=interface,
                gateway=format_address(router) if router else "",
                prefsrc=self._home,
                metric=turn,
                onlink=bool(router),
                mtu=mtu,
            )
            for turn in (metric, metric + len(self._interfaces))
        ]
        taken = {
            change.metric
            for change in self._top
            if isinstance(change, Route) and change.destination == destination
        }
        kept = [route for route in routes if route in self._top]
        free = [route for route in routes if route.metric not in taken]
        return (kept or free or routes)[0]

    async def at_home(self, interface: str) -> None:
        """Home routing on a home link (RFC 5944 2.4.3, 4.2.1): like any other host there.

        But packets are made small enough for a tunnel already here. A connection begun at home
        then keeps its segment size when the node leaves, and loses no segment to a smaller MTU.
        """
        self._marked = interface  # nothing marked needs it now: ``settle`` does it
        metric = _HOME_METRIC + self._interfaces.index(interface)
        link = self._states.get(interface)
        mtu = max(link.mtu - OVERHEAD, MIN_DEVICE_MTU) if link is not None else 0
        if self._is_router:
            await self._networks.at_home(interface, self._home_gateway, mtu)
        await self._replace_top(
            [
                Route(
                    self._home_network,
                    self._table,
                    device=interface,
                    prefsrc=self._home,
                    metric=metric,
                    mtu=mtu,
                ),
                Route(
                    "default",
                    self._table,
                    device=interface,
                    gateway=self._home_gateway,
                    prefsrc=self._home,
                    metric=metric,
                    onlink=True,
                    mtu=mtu,
                ),
            ]
        )

    async def _replace_top(self, wanted: list[Change]) -> None:
        """New routes first, then the old ones go."""
        gone = [change for change in self._top if change not in wanted]
        for change in wanted:
            if change not in self._top:
                await self._apply(change, self._top)
        for change in gone:
            self._top.remove(change)
            await self._kernel.undo(change)
        for device in {change.device for change in gone if isinstance(change, Route)}:
            # Packets sent there after the link changed wait for neighbours that are not here.
            forget_unanswered(device)

    async def _mark_leads_to(self, interface: str) -> None:
        """Tunnel packets leave by this link."""
        wanted: list[Change] = []
        if interface:
            table = self._link_table(interface)
            wanted = [Rule(PRIORITY + 1, table, fwmark=self._fwmark)]
        if wanted == self._mark:
            return
        old, self._mark = self._mark, []
        for change in wanted:
            await self._apply(change, self._mark)
        await self._undo(old)

    async def answer_arp(self, interface: str) -> None:
        """At home: the kernel answers ARP for the home address on this link as usual.

        The home address joins the link's addresses unless an operator put it there.
        """
        kept = self._arp.setdefault(interface, [])
        await self._undo(kept)
        self._placed.add(interface)
        if not await self._apply(Address(interface, self._home, 32), kept):
            self._placed.discard(interface)

    async def refuse_arp(self, interface: str) -> None:
        """Away: no ARP answers for the home address here, and no request names it (4.6).

        ``arp_ignore`` 1 answers only for addresses of the very interface a request came in
        by; ``arp_announce`` 2 keeps the kernel from using the home address, which lives on
        the tunnel device, as the sender of its own requests.
        """
        kept = self._arp.setdefault(interface, [])
        own: list[Change] = [change for change in kept if isinstance(change, Address)]
        for change in own:
            kept.remove(change)
        for name, value in (("arp_ignore", "1"), ("arp_announce", "2")):
            path = f"net/ipv4/conf/{interface}/{name}"
            said = read_sysctl(path)
            if said in ("0", "1") and said != value:
                await self._set(path, value, kept)
        await self._undo(own)
        link = self._states.get(interface)
        if link is not None and any(a == self._home_address for a, _ in link.addresses):
            log.warning(
                "home-address-on-foreign-link",
                interface=interface,
                remedy=f"remove {self._home} from {interface}: fastmip keeps it on {self._device}",
            )

    def is_ours(self, interface: str, address: int, length: int) -> bool:
        """Whether it was we who put this address on the link, now or before.

        Before counts too: who looks may have looked before we took it away.
        """
        return address == self._home_address and length == 32 and interface in self._placed
