"""Routing of a mobile router's networks, beside that of its home address (``routing.py``).

Rules, before those of the home address (``Q`` is PRIORITY, ``N`` and ``G`` are tables of ours,
``M`` the mark of tunnel packets, NET each network that is carried):

    Q    to NET                      table main, but not its default route: the networks are here
    Q+1  to NET                      unreachable: never into our own tunnel, and in a circle
    Q+2  from NET iif INGRESS or lo  table N
    Q+3  iif INGRESS                 unreachable: sources that are not of the networks
    Q+4  marked M from HOME-ADDRESS  table G: tunnel packets by way of a foreign agent

Table N holds a default route into the tunnel device, at home a better one to the router there
(RFC 5944 4.5: then the networks are reached by plain routing). Away, nothing from the networks
ever leaves natively: the tunnel carries it or the engine drops it. Forwarding is switched on
where packets of the networks come in: at the ingress interfaces and the tunnel device, and at
home at the home link.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastmip.runtime.journal import Address, Change, Route, Rule
from fastmip.runtime.logging import get_logger
from fastmip.runtime.netlink import Kernel, read_sysctl
from fastmip.wire.addresses import format_address, format_network

PRIORITY = 4330
_MAIN_TABLE = 254
_TUNNEL_METRIC, _HOME_METRIC = 4340, 1

log = get_logger("mobile-node")

Network = tuple[int, int, bool]
"""Prefix, length, and whether its first address is put on the ingress interface by us."""


class NetworkRouting:
    """What the kernel is told about mobile networks."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        device: str,
        home_address: int,
        ingress: Sequence[str],
        fwmark: int,
        tables: tuple[int, int, int],
    ) -> None:
        self._kernel = kernel
        self._device = device
        self._home = format_address(home_address)
        self._ingress = tuple(ingress)
        self._fwmark = fwmark
        self._table, self._agent_table, self._unreachable = tables
        """N, G, and one with an unreachable default, which ``routing.py`` makes."""
        self._base: list[Change] = []
        self._networks: dict[Network, list[Change]] = {}
        self._top: list[Change] = []
        """At home: routes and settings that hold there alone."""
        self._agent: list[Change] = []

    async def start(self) -> None:
        """Forwarding, the tunnel's route and the rule for strangers. Raises OSError, StartError."""
        for table in (self._table, self._agent_table):
            await self._kernel.free_table(table, 1)
        for name in (self._device, *self._ingress):
            await self._forward(name, self._base)
        tunnel = Route(
            "default",
            self._table,
            device=self._device,
            metric=_TUNNEL_METRIC,
            gateways_behind=False,
        )
        await self._apply(tunnel, self._base)
        for name in self._ingress:
            await self._apply(Rule(PRIORITY + 3, self._unreachable, iif=name), self._base)
        rule = Rule(PRIORITY + 4, self._agent_table, source=f"{self._home}/32", fwmark=self._fwmark)
        await self._apply(rule, self._base)

    async def stop(self) -> None:
        """Undo everything, the networks first."""
        for network in list(self._networks):
            await self._undo(self._networks.pop(network))
        for changes in (self._top, self._agent, self._base):
            await self._undo(changes)

    def standing(self) -> list[Rule | Route | Address]:
        """What stands from start to stop."""
        return [one for one in self._base if isinstance(one, Rule | Route | Address)]

    async def use(self, networks: Sequence[Network]) -> None:
        """Carry these and no others."""
        for network in [network for network in self._networks if network not in networks]:
            await self._undo(self._networks.pop(network))
        given = [network for network in networks if network[2]]
        for network in networks:
            if network in self._networks:
                continue
            kept = self._networks.setdefault(network, [])
            if network[2]:
                name = self._ingress[min(given.index(network), len(self._ingress) - 1)]
                first = format_address(network[0] + (1 if network[1] < 32 else 0))
                await self._apply(Address(name, first, network[1], noprefixroute=False), kept)
                log.info("network-configured", network=f"{first}/{network[1]}", interface=name)
            for rule in self._rules(format_network(network[0], network[1])):
                await self._apply(rule, kept)

    def _rules(self, network: str) -> list[Change]:
        """What is for them before what is from them: neighbours in them reach each other."""
        return [
            Rule(PRIORITY, _MAIN_TABLE, destination=network, suppress_prefixlength=0),
            Rule(PRIORITY + 1, self._unreachable, destination=network),
            *(
                Rule(PRIORITY + 2, self._table, source=network, iif=name)
                for name in ("lo", *self._ingress)
            ),
        ]

    async def away(self, interface: str, gateway: int) -> None:
        """Through the tunnel, whose packets leave by way of this agent (0: of the link)."""
        agent: list[Change] = []
        if gateway and interface:
            to = format_address(gateway)
            agent = [Route("default", self._agent_table, device=interface, gateway=to, onlink=True)]
        if agent != self._agent:
            await self._undo(self._agent)
            for change in agent:
                await self._apply(change, self._agent)
        await self._undo(self._top)

    async def at_home(self, interface: str, gateway: str, mtu_bytes: int) -> None:
        """By plain routing, small enough for a tunnel like all connections begun here."""
        route = Route(
            "default",
            self._table,
            device=interface,
            gateway=gateway,
            metric=_HOME_METRIC,
            onlink=True,
            mtu=mtu_bytes,
        )
        if route in self._top:
            return
        await self._undo(self._top)
        await self._apply(route, self._top)
        await self._forward(interface, self._top)

    async def _forward(self, interface: str, kept: list[Change]) -> None:
        path = f"net/ipv4/conf/{interface}/forwarding"
        if not read_sysctl(path):
            log.warning("interface-missing", interface=interface, remedy="add it, then restart")
            return
        change = await self._kernel.set_sysctl(path, "1")
        if change is not None:
            kept.append(change)

    async def _apply(self, change: Change, kept: list[Change]) -> None:
        if await self._kernel.apply(change):
            kept.append(change)

    async def _undo(self, changes: list[Change]) -> None:
        for change in changes[::-1]:
            await self._kernel.undo(change)
        changes.clear()
