"""The engine's place in the kernel at a foreign agent, and what each visitor needs there.

Two routing tables of ours, ``V`` for what comes out of the tunnel and ``R`` for what goes in:

    P    iif TUN              table V   HOME/32 dev LINK for each visitor, and a blackhole
    P+1  from HOME iif LINK   table R   default dev TUN; for visitors with a reverse tunnel

So what is decapsulated reaches its visitor on its link by the pinned link-layer address, and
whatever has no visitor any more ends in the blackhole instead of running back to the home agent
in a circle (RFC 5944 4.2.2). Packets for this machine itself never leave the local table. A
visitor that asked for encapsulating delivery has no rule: what it does not encapsulate is routed
like anybody's (RFC 3024 5.2.1).

Everything goes through ``Kernel``: journalled before it is made, undone on stop.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastmip.agents.effects import InstallVisitor
from fastmip.runtime import devices
from fastmip.runtime.engine_port import EnginePort
from fastmip.runtime.journal import Address, KernelChange, Neighbour, Route, Rule
from fastmip.runtime.logging import get_logger
from fastmip.runtime.netlink import Kernel, read_sysctl
from fastmip.runtime.service import StartError
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from fastmip._dataplane import Engine

FIRST_TABLE = 1534
PRIORITY = 1424
"""Of the first of our rules: after the local table, before a home agent's in the same daemon,
whose rule would take what we decapsulated back into its tunnel."""
RESTORED_AT_A_TIME = 30
"""Changes of visitors looked after in one ``restore``: netlink takes a third of a ms for each."""
_OFF, _STRICT, _LOOSE = "0", "1", "2"

log = get_logger("foreign-agent")


class ForeignTunnel:
    """Opens what the engine works on, leads visitors' packets to it; takes exactly that back."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        device: str,
        address: int,
        interfaces: Sequence[str],
        protocols: Sequence[int],
        fwmark: int = 0,
    ) -> None:
        self.device = device
        self.port = EnginePort(device, address=None, fwmark=fwmark or None, protocols=protocols)
        self._kernel = kernel
        self._address = address
        self._interfaces = tuple(interfaces)
        self._changes: list[Rule | Route | Address] = []
        self._visitors: dict[int, list[KernelChange]] = {}
        self._tables = (0, 0)
        self._next = 0

    async def open(self, engine: Engine, workers: int, *, udp_port: int = 0) -> None:
        """Open what each worker works on and attach it. Raises DeviceError or StartError."""
        await self.port.reserve(workers)
        self.port.open(engine, workers, udp_port=udp_port)
        found = await self._kernel.interface(self.device)
        if found is None:
            raise StartError(f"{self.device}: the device vanished while it was configured")
        await self._kernel.set_link(found.index, txqlen=devices.TUN_QUEUE_LENGTH, state="up")

    async def attract(self) -> None:
        """Make the tables and the rule out of the tunnel; call it when workers run."""
        await self._relax_reverse_path()
        out = await self._kernel.free_table(FIRST_TABLE)
        into = await self._kernel.free_table(out + 1)
        self._tables = (out, into)
        await self._add(Route("default", out, kind="blackhole"))
        await self._add(Route("default", into, device=self.device, gateways_behind=False))
        await self._add(Rule(priority=PRIORITY, table=out, iif=self.device))

    async def _relax_reverse_path(self) -> None:
        """Visitors' addresses are routed elsewhere: strict reverse path filtering drops them.

        The greater of an interface's value and ``all`` counts. Loose mode drops what a device
        without any address receives, so the TUN device borrows ours.
        """
        everywhere = read_sysctl("net/ipv4/conf/all/rp_filter")
        if everywhere == _STRICT:
            await self._kernel.set_sysctl(f"net/ipv4/conf/{self.device}/rp_filter", _LOOSE)
        if everywhere != _OFF:
            await self._add(Address(self.device, format_address(self._address), 32))
        for interface in self._interfaces:
            await self.relax_link(interface)

    async def relax_link(self, interface: str) -> None:
        """Let visitors' packets in from a link."""
        wanted = _OFF if read_sysctl("net/ipv4/conf/all/rp_filter") == _OFF else _LOOSE
        path = f"net/ipv4/conf/{interface}/rp_filter"
        if await self._kernel.set_sysctl(path, wanted) is not None:
            log.warning("reverse-path-filter-changed", interface=interface, value=wanted)

    async def _add(self, change: Rule | Route | Address) -> None:
        if await self._kernel.apply(change):
            self._changes.append(change)

    # visitors

    async def carry(self, visitor: InstallVisitor) -> None:
        """Lead a visitor's packets out of the tunnel and into it. Raises NetlinkError, OSError.

        What is there already stays in place, so a renewal interrupts nothing.
        """
        wanted = self._wanted(visitor)
        have = self._visitors.setdefault(visitor.home_address, [])
        for change in [change for change in have if change not in wanted]:
            have.remove(change)
            await self._kernel.undo(change)
        for change in wanted:
            if change not in have and await self._kernel.apply(change):
                have.append(change)

    def _wanted(self, visitor: InstallVisitor) -> list[KernelChange]:
        out, into = self._tables
        home = format_address(visitor.home_address)
        link = visitor.interface
        wanted: list[KernelChange] = [
            Neighbour(link, home, visitor.mac.hex(":")),
            Route(f"{home}/32", out, device=link, gateways_behind=False),
        ]
        if visitor.reverse and not visitor.encapsulating:
            rule = Rule(priority=PRIORITY + 1, table=into, source=f"{home}/32", iif=link)
            wanted.append(rule)
        return wanted

    async def drop(self, home_address: int) -> None:
        """Take back what a visitor had."""
        for change in reversed(self._visitors.pop(home_address, [])):
            await self._kernel.undo(change)

    # keeping it

    def changes(self) -> list[Rule | Route | Address]:
        """What stands whether there are visitors or not."""
        return list(self._changes)

    async def restore(self) -> None:
        """Put back what visitors lost, for example when their link was down; a part each time."""
        every = [change for changes in self._visitors.values() for change in changes]
        if not every:
            return
        turn = itertools.islice(itertools.cycle(every), self._next, None)
        for change in itertools.islice(turn, min(RESTORED_AT_A_TIME, len(every))):
            if isinstance(change, Neighbour):
                await self._kernel.restore(change)  # replaces itself: nothing to be seen
            elif await self._kernel.restore(change):
                log.warning("visitor-restored", change=str(change))
        self._next = (self._next + RESTORED_AT_A_TIME) % len(every)

    async def release(self) -> None:
        """Stop attracting traffic."""
        for home_address in list(self._visitors):
            await self.drop(home_address)
        for change in reversed(self._changes):
            await self._kernel.undo(change)
        self._changes.clear()

    def close(self) -> None:
        """Close all descriptors, after the engine stopped; the device goes with them."""
        self.port.close()
