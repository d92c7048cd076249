"""Change the kernel's routing through netlink, and undo exactly that.

Every change goes ``Journal.record`` -> kernel -> (later) kernel -> ``Journal.strike``. What
was there already is neither journalled nor removed. pyroute2 is untyped: it stays behind this
module, and only ``AsyncIPRoute`` is used of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute  # type: ignore[import-untyped]  # it has no annotations
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]  # nor here

from fastmip.runtime.journal import (
    Change,
    Journal,
    KernelChange,
    Neighbour,
    Route,
    Rule,
    Sysctl,
)
from fastmip.runtime.logging import get_logger
from fastmip.runtime.service import StartError

_FIB_RULE_INVERT = 0x2
_IFF_UP = 0x1
_CARRIER = 0x1 | 0x40 | 0x10000  # IFF_UP, IFF_RUNNING, IFF_LOWER_UP
_MAIN_TABLE = 254
_RTNH_F_ONLINK = 0x4
_IFA_F_NOPREFIXROUTE = 0x200
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL)
_EXISTS = errno.EEXIST
_ROUTE_TYPES = {
    "unicast": 1,
    "local": 2,
    "broadcast": 3,
    "blackhole": 6,
    "unreachable": 7,
    "throw": 9,
}
_SCOPE_GLOBAL, _SCOPE_LINK = 0, 253
_PROC_SYS = Path("/proc/sys")

log = get_logger("netlink")


@dataclass(frozen=True, slots=True)
class Interface:
    """What we need to know of a network interface."""

    index: int
    name: str
    mac: bytes
    """Six bytes, empty when the link has no Ethernet address."""
    mtu_bytes: int
    is_up: bool


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as movement detection sees it."""

    index: int
    name: str
    has_carrier: bool
    """Administratively up, with carrier, and not waiting for authentication."""
    mtu_bytes: int
    mac: str = ""
    carrier_losses: int = 0
    """How often the carrier went since the interface was made."""


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A default route through one interface."""

    index: int
    gateway: int
    """Host-order address, 0 for a route without a gateway."""
    metric: int


class Kernel:
    """Netlink in the network namespace of this process; use as an asynchronous context."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._netlink: Any = None
        self._dumping = asyncio.Lock()

    async def __aenter__(self) -> Kernel:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the netlink socket."""
        self._netlink = AsyncIPRoute()
        await self._netlink.setup_endpoint()

    async def close(self) -> None:
        """Close the netlink socket."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    # looking

    async def _dump(self, ask: Callable[..., Any], *words: object, **filters: object) -> list[Any]:
        """Every item of a dump; one at a time, for the kernel answers a second with EBUSY."""
        async with self._dumping:
            return [item async for item in await ask(*words, **filters)]

    async def interface(self, name: str) -> Interface | None:
        """Look an interface up by name; None when there is none."""
        try:
            links = await self._netlink.link("get", ifname=name)
        except NetlinkError as error:
            if error.code in _GONE:
                return None
            raise
        if not links:
            return None
        link = links[0]
        mac = link.get("address") or ""
        return Interface(
            index=int(link["index"]),
            name=name,
            mac=bytes.fromhex(mac.replace(":", "")) if mac.count(":") == 5 else b"",
            mtu_bytes=int(link.get("mtu") or 0),
            is_up=bool(link["flags"] & _IFF_UP),
        )

    async def addresses(self, index: int) -> list[tuple[int, int]]:
        """IPv4 addresses of an interface with their prefix lengths."""
        return [
            (int(ipaddress.IPv4Address(item.get("local"))), int(item["prefixlen"]))
            for item in await self._dump(
                self._netlink.addr, "dump", index=index, family=socket.AF_INET
            )
        ]

    async def is_own_address(self, address: int, *, besides: int = 0) -> bool:
        """Whether an interface of this machine, ``besides`` one by index, carries the address."""
        return any(
            found == address and index != besides for index, found, _ in await self.all_addresses()
        )

    async def links(self) -> list[Link]:
        """All interfaces with carrier state and MTU."""
        return [
            Link(
                index=int(item["index"]),
                name=str(item.get("ifname")),
                has_carrier=item["flags"] & _CARRIER == _CARRIER,
                mtu_bytes=int(item.get("mtu") or 0),
                mac=str(item.get("address") or ""),
                carrier_losses=int(item.get("carrier_down_count") or 0),
            )
            for item in await self._dump(self._netlink.link, "dump")
        ]

    async def all_addresses(self) -> list[tuple[int, int, int]]:
        """Every IPv4 address: interface index, host-order address, prefix length."""
        return [
            (
                int(item["index"]),
                int(ipaddress.IPv4Address(item.get("local") or item.get("address"))),
                int(item["prefixlen"]),
            )
            for item in await self._dump(self._netlink.addr, "dump", family=socket.AF_INET)
        ]

    async def default_routes(self) -> list[DefaultRoute]:
        """Unicast default routes of the main table, each hop of a multipath route by itself."""
        found = []
        routes = self._netlink.route
        for item in await self._dump(routes, "dump", family=socket.AF_INET, table=_MAIN_TABLE):
            if item["dst_len"] or item["type"] != _ROUTE_TYPES["unicast"]:
                continue
            metric = int(item.get("priority") or 0)
            for hop in item.get("multipath") or [item]:
                gateway = hop.get("gateway")
                index = hop.get("oif") or 0
                found.append(
                    DefaultRoute(
                        index=int(index),
                        gateway=int(ipaddress.IPv4Address(gateway)) if gateway else 0,
                        metric=metric,
                    )
                )
        return found

    async def free_table(self, first: int, count: int = 64) -> int:
        """The first routing table from ``first`` on that no rule names. Raises StartError."""
        rules = await self._dump(self._netlink.get_rules, family=socket.AF_INET)
        used = {rule.get("table") for rule in rules}
        for table in range(first, first + count):
            if table not in used:
                return table
        raise StartError(
            f"routing tables {first} to {first + count - 1} are all in use: remove stale rules"
            " (ip rule)"
        )

    # changing

    async def set_link(self, index: int, **settings: object) -> None:
        """Change a link of ours, for example ``state="up"``; not journalled."""
        await self._netlink.link("set", index=index, **settings)

    async def apply(self, change: Change) -> bool:
        """Journal and make a change; False when the kernel had it already (then not ours)."""
        if isinstance(change, Sysctl):
            self._journal.record(change)
            (_PROC_SYS / change.path).write_text(change.new, encoding="ascii")
            return True
        self._journal.record(change)
        try:
            await self._carry_out("add", change)
        except NetlinkError as error:
            self._journal.strike(change)
            if error.code == _EXISTS:
                return False
            raise
        return True

    async def restore(self, change: KernelChange) -> bool:
        """Make a journalled change again; False when it still stands."""
        try:
            await self._carry_out("add", change)
        except NetlinkError as error:
            if error.code == _EXISTS:
                return False
            raise
        return True

    async def set_sysctl(self, path: str, value: str) -> Sysctl | None:
        """Write a file below /proc/sys if it says something else; None when it did not."""
        old = (_PROC_SYS / path).read_text(encoding="ascii").strip()
        if old == value:
            return None
        change = Sysctl(path, old, value)
        await self.apply(change)
        return change

    async def undo(self, change: Change) -> None:
        """Undo a change of ours and strike it off; what is gone already is fine."""
        if isinstance(change, Sysctl):
            _restore_sysctl(change)
        else:
            try:
                await self._carry_out("del", change)
            except NetlinkError as error:
                if error.code not in _GONE:
                    log.exception("undo-failed", change=str(change))
                    return
        self._journal.strike(change)

    async def undo_all(self) -> int:
        """Undo everything in the journal, newest first; returns how many changes there were."""
        changes = self._journal.changes()
        for change in reversed(changes):
            await self.undo(change)
        return len(changes)

    async def _carry_out(self, verb: str, change: KernelChange) -> None:
        if isinstance(change, Rule):
            await self._netlink.rule(verb, **_rule_arguments(change))
            return
        index = self._index(change.device) if change.device else 0
        if isinstance(change, Route):
            await self._netlink.route(verb, **_route_arguments(change, index))
        elif isinstance(change, Neighbour):
            # What ARP learnt before gives way: an entry of ours is right whatever it says.
            await self._netlink.neigh(
                "replace" if verb == "add" else verb,
                dst=change.address,
                lladdr=change.mac,
                ifindex=index,
                state="permanent",
                family=socket.AF_INET,
            )
        else:
            await self._netlink.addr(
                verb,
                index=index,
                address=change.address,
                prefixlen=change.prefix_length,
                family=socket.AF_INET,
                flags=_IFA_F_NOPREFIXROUTE if change.noprefixroute else 0,
            )

    @staticmethod
    def _index(device: str) -> int:
        try:
            return socket.if_nametoindex(device)
        except OSError:
            raise NetlinkError(errno.ENODEV, f"no interface {device}") from None


def _rule_arguments(rule: Rule) -> dict[str, object]:
    arguments: dict[str, object] = {
        "family": socket.AF_INET,
        "priority": rule.priority,
        "table": rule.table,
    }
    if rule.source:
        arguments["src"], length = rule.source.split("/")
        arguments["src_len"] = int(length)
    if rule.destination:
        arguments["dst"], length = rule.destination.split("/")
        arguments["dst_len"] = int(length)
    if rule.iif:
        arguments["iifname"] = rule.iif
    if rule.oif:
        arguments["oifname"] = rule.oif
    if rule.fwmark:
        arguments["fwmark"] = rule.fwmark
    if rule.invert:
        arguments["flags"] = _FIB_RULE_INVERT
    if rule.suppress_prefixlength >= 0:
        arguments["FRA_SUPPRESS_PREFIXLEN"] = rule.suppress_prefixlength
    return arguments


def _route_arguments(route: Route, index: int) -> dict[str, object]:
    arguments: dict[str, object] = {
        "family": socket.AF_INET,
        "dst": "0.0.0.0/0" if route.destination == "default" else route.destination,
        "table": route.table,
        "type": _ROUTE_TYPES[route.kind],
    }
    if index:
        arguments["oif"] = index
    if route.gateway:
        arguments["gateway"] = route.gateway
    elif index:
        # The kernel looks for gateways among routes of scope link only.
        arguments["scope"] = _SCOPE_LINK if route.gateways_behind else _SCOPE_GLOBAL
    if route.prefsrc:
        arguments["prefsrc"] = route.prefsrc
    if route.mtu:
        arguments["metrics"] = {"mtu": route.mtu}
    if route.metric:
        arguments["priority"] = route.metric
    if route.onlink:
        arguments["flags"] = _RTNH_F_ONLINK
    return arguments


def _restore_sysctl(change: Sysctl) -> None:
    path = _PROC_SYS / change.path
    with contextlib.suppress(FileNotFoundError):  # the interface is gone, and its file with it
        # Somebody else's later setting is not ours to take back.
        if path.read_text(encoding="ascii").strip() == change.new:
            path.write_text(change.old, encoding="ascii")


def read_sysctl(path: str) -> str:
    """Read a file below /proc/sys; empty when this kernel does not have it."""
    try:
        return (_PROC_SYS / path).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
