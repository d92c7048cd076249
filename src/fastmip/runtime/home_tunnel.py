"""The engine's place in the kernel at a home agent: TUN device, rule, route, raw sockets.

A policy rule ``not from iif TUN`` leads to a table of ours whose only route is the home
network through the TUN device. So traffic for the home network goes to the engine once; what
it has no binding for comes back from the TUN device, no longer matches, and is routed as if
we were not there. (An inverted rule inverts all of its selectors together, hence the
destination stands in the route and not in the rule.)

Mobile networks have routes beside that one. They stay while the configuration names them, whether
their routers are away or not, so that a registration changes no route and a routing protocol has
nothing to flap with. What the engine has no router for comes back from the TUN device: it goes
where the machine's own routes lead, which is how a router at home is reached (RFC 5944 4.5), but
not by the default route. A second table tells the sender otherwise that the network is
unreachable: upstream it would come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastmip.runtime import devices
from fastmip.runtime.engine_port import EnginePort
from fastmip.runtime.journal import Address, Route, Rule
from fastmip.runtime.logging import get_logger
from fastmip.runtime.netlink import Kernel, read_sysctl
from fastmip.runtime.service import StartError
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from fastmip._dataplane import Engine
    from fastmip.runtime.packet_transmit import PacketTransmit
    from fastmip.runtime.xdp_port import XdpPort

MAIN_TABLE = 254
FIRST_TABLE = 1434
PRIORITY = 1434
"""Of our rule: after the local table, before the main table."""
# Values of rp_filter.
_OFF, _STRICT, _LOOSE = "0", "1", "2"

log = get_logger("home-agent")


class HomeTunnel:
    """Opens what the engine works on; closes exactly that."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        device: str,
        address: int,
        home_network: str,
        fwmark: int = 0,
        protocols: Sequence[int] = (devices.IPIP,),
        xdp: XdpPort | None = None,
        transmit: PacketTransmit | None = None,
    ) -> None:
        self.device = device
        self.xdp = xdp
        """None: ``io = "kernel"``."""
        self.transmit = transmit
        """None: outer packets always go through the IP stack, or by AF_XDP."""
        self.port = EnginePort(device, address=address, fwmark=fwmark or None, protocols=protocols)
        self._kernel = kernel
        self._address = address
        self._home_network = home_network
        self._changes: list[Rule | Route | Address] = []
        self._table = self._unreachable = 0
        self._networks: dict[str, tuple[Route, Route]] = {}

    async def open(self, engine: Engine, workers: int, *, udp_port: int = 0) -> None:
        """Open what each worker works on and attach it; ``udp_port``: see ``EnginePort.open``.

        Raises DeviceError or StartError.
        """
        await self.port.reserve(workers)
        packet = self.transmit is not None
        self.port.open(engine, workers, udp_port=udp_port, packet=packet)
        found = await self._kernel.interface(self.device)
        if found is None:
            raise StartError(f"{self.device}: the device vanished while it was configured")
        await self._kernel.set_link(found.index, txqlen=devices.TUN_QUEUE_LENGTH, state="up")
        if self.xdp is not None:
            await self.xdp.open(engine, workers)
        if self.transmit is not None:
            self.transmit.start(engine)

    async def attract(self, home_interface: str | None) -> None:
        """Lead the home network's traffic to the engine; call it when workers run."""
        await self._relax_reverse_path(home_interface)
        table = await self._kernel.free_table(FIRST_TABLE)
        # Without a preferred source, packets of this machine would get any of its addresses.
        route = Route(
            self._home_network,
            table,
            device=self.device,
            prefsrc=format_address(self._address),
            gateways_behind=False,
        )
        rule = Rule(priority=PRIORITY, table=table, iif=self.device, invert=True)
        await self._add(route)
        await self._add(rule)
        self._table = table

    async def lead_networks(self, networks: Sequence[str]) -> None:
        """Lead these mobile networks to the engine, beside the home network, and no others."""
        if networks and not self._unreachable:
            self._unreachable = await self._kernel.free_table(self._table + 1)
            for rule in (
                Rule(PRIORITY, MAIN_TABLE, iif=self.device, suppress_prefixlength=0),
                Rule(PRIORITY + 1, self._unreachable, iif=self.device),
            ):
                await self._add(rule)
        for network in self._networks.keys() - set(networks):
            for route in self._networks.pop(network):
                self._changes.remove(route)
                await self._kernel.undo(route)
        for network in networks:
            if network in self._networks:
                continue
            into = Route(
                network,
                self._table,
                device=self.device,
                prefsrc=format_address(self._address),
                gateways_behind=False,
            )
            lost = Route(network, self._unreachable, kind="unreachable")
            await self._add(lost)
            await self._add(into)
            self._networks[network] = (into, lost)

    async def _relax_reverse_path(self, home_interface: str | None) -> None:
        """Strict reverse path filtering would drop the home link's own packets.

        For the kernel the way back to a home host now leads through the TUN device. The
        greater of an interface's value and ``all`` counts, so loose mode is always reachable.
        Loose mode in turn drops what a device without any address receives, and on the TUN
        device that would be this machine's own packets on their way back: it borrows ours.
        """
        everywhere = read_sysctl("net/ipv4/conf/all/rp_filter")
        if everywhere == _STRICT:
            await self._kernel.set_sysctl(f"net/ipv4/conf/{self.device}/rp_filter", _LOOSE)
        if everywhere != _OFF:
            await self._add(Address(self.device, format_address(self._address), 32))
        if home_interface is None:
            return
        path = f"net/ipv4/conf/{home_interface}/rp_filter"
        if _STRICT in (everywhere, read_sysctl(path)):
            log.warning("reverse-path-filter-loosened", interface=home_interface)
            await self._kernel.set_sysctl(path, _LOOSE)

    async def _add(self, change: Rule | Route | Address) -> None:
        if await self._kernel.apply(change):
            self._changes.append(change)

    def facts(self) -> dict[str, object]:
        """What ``show runtime`` tells of it."""
        if self.xdp is None:
            out = {"transmit": "socket"} if self.transmit is None else self.transmit.facts()
            return {"io": "kernel", **self.port.facts(), **out}
        return {"io": "xdp", **self.port.facts(), **self.xdp.facts()}

    def changes(self) -> list[Rule | Route | Address]:
        """What leads traffic to the engine now."""
        return list(self._changes)

    async def release(self) -> None:
        """Stop attracting traffic."""
        if self.transmit is not None:
            await self.transmit.release()
        if self.xdp is not None:
            await self.xdp.release()
        for change in reversed(self._changes):
            await self._kernel.undo(change)
        self._changes.clear()

    def close(self) -> None:
        """Close all descriptors, after the engine stopped; the device goes with them."""
        if self.xdp is not None:
            self.xdp.close()
        self.port.close()
