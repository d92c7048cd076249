"""Movement as netlink tells it: carrier, addresses, default routes, interfaces that vanish.

A raw netlink socket only wakes us; the state is then read whole, in about a millisecond, so
that no order of messages and no lost message (ENOBUFS) can leave us with a wrong picture.
Nothing is delayed: the first message of a burst starts the reading, and what arrives while
reading causes another one. Routes other than default routes do not wake us.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from pyroute2.netlink.exceptions import (  # type: ignore[import-untyped]  # no annotations
    NetlinkError,
)

from fastmip.agents.attachment import LinkState
from fastmip.errors import FastmipError
from fastmip.runtime import background
from fastmip.runtime.logging import get_logger
from fastmip.runtime.neighbours import mac_of
from fastmip.runtime.netlink import Kernel
from fastmip.wire.addresses import format_address

IsOurs = Callable[[str, int, int], bool]
"""(interface, address, prefix length) -> the daemon itself put this address there."""
Deliver = Callable[[LinkState], Awaitable[None]]

# linux/rtnetlink.h
_RTMGRP_LINK = 0x1
_RTMGRP_NEIGH = 0x4
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV4_ROUTE = 0x40
_NETLINK_ROUTE = 0
_RTM_NEWLINK = 16
_RTM_DELLINK = 17
_RTM_DELADDR = 21
_RTM_NEWROUTE = 24
_RTM_DELROUTE = 25
_IFA_LOCAL = 2
_CARRIER = 0x1 | 0x40 | 0x10000  # IFF_UP, IFF_RUNNING, IFF_LOWER_UP
_NLMSG_HEADER = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=IiI4x")
"""Of which: family and type as one, index, flags."""
_IFADDRMSG = struct.Struct("=4xi")
"""Of which: index."""
_RECEIVE_LEN = 65536
_RETRY_S = 1.0

log = get_logger("movement")


class News(NamedTuple):
    """What a netlink datagram tells."""

    is_relevant: bool
    """Anything but routes to some prefix."""
    disturbed: tuple[tuple[int, int], ...] = ()
    """(interface index, address): the interface went down (address 0) or lost the address.
    The kernel dropped routes with it, even if all is back by the time we look."""


def read_news(data: bytes) -> News:
    """Read the headers of a netlink datagram; what cannot be read counts as relevant."""
    relevant = False
    disturbed: list[tuple[int, int]] = []
    offset = 0
    while offset + _NLMSG_HEADER.size <= len(data):
        length, kind = _NLMSG_HEADER.unpack_from(data, offset)[:2]
        body = data[offset + _NLMSG_HEADER.size : offset + length]
        if length < _NLMSG_HEADER.size:
            return News(True, tuple(disturbed))
        if kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
            relevant |= len(body) < 2 or body[1] == 0  # struct rtmsg: rtm_dst_len
        else:
            relevant = True
        if kind in (_RTM_NEWLINK, _RTM_DELLINK) and len(body) >= _IFINFOMSG.size:
            _, index, flags = _IFINFOMSG.unpack_from(body)
            if kind == _RTM_DELLINK or flags & _CARRIER != _CARRIER:
                disturbed.append((index, 0))
        elif kind == _RTM_DELADDR and len(body) >= _IFADDRMSG.size:
            index = _IFADDRMSG.unpack_from(body)[0]
            disturbed.append((index, _local_address(body[_IFADDRMSG.size :])))
        offset += (length + 3) & ~3
    return News(relevant, tuple(disturbed))


def _local_address(attributes: bytes) -> int:
    """IFA_LOCAL, or 0 (the whole interface) when it is not there."""
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if kind == _IFA_LOCAL and length == 8 and offset + 8 <= len(attributes):
            return int.from_bytes(attributes[offset + 4 : offset + 8])
        if length < 4:
            break
        offset += (length + 3) & ~3
    return 0


async def read_links(kernel: Kernel, interfaces: Sequence[str], is_ours: IsOurs) -> list[LinkState]:
    """The state of these interfaces now; one that does not exist has no carrier."""
    links = {link.name: link for link in await kernel.links() if link.name in interfaces}
    addresses = await kernel.all_addresses()
    routes = await kernel.default_routes()
    states = []
    for name in interfaces:
        link = links.get(name)
        if link is None:
            states.append(LinkState(name, carrier=False))
            continue
        through = [route for route in routes if route.index == link.index]
        best = min(through, key=lambda route: route.metric, default=None)
        states.append(
            LinkState(
                name,
                carrier=link.has_carrier,
                addresses=tuple(
                    (address, length)
                    for index, address, length in addresses
                    if index == link.index and not is_ours(name, address, length)
                ),
                gateway=None if best is None else best.gateway,
                metric=0 if best is None else best.metric,
                mtu=link.mtu_bytes,
                mac=link.mac,
                losses=link.carrier_losses,
            )
        )
    return states


class LinkWatcher:
    """Delivers the state of links whenever it changed; driven by the event loop."""

    def __init__(
        self,
        kernel: Kernel,
        interfaces: Sequence[str],
        *,
        is_ours: IsOurs,
        deliver: Deliver,
        watch_gateways: bool = False,
    ) -> None:
        self._kernel = kernel
        self._interfaces = tuple(interfaces)
        self._is_ours = is_ours
        self._deliver = deliver
        self._watch_gateways = watch_gateways
        """Tell the link-layer addresses of default routers, too."""
        self._wake = asyncio.Event()
        self._reading = False
        self._states: dict[str, LinkState] = {}
        self._names: dict[int, str] = {}
        self._disturbed: set[tuple[int, int]] = set()
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, then deliver the state of every link once. Raises OSError."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
        groups = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE
        self._socket.bind((0, groups | (_RTMGRP_NEIGH if self._watch_gateways else 0)))
        asyncio.get_running_loop().add_reader(self._socket, self._readable)
        await self._refresh()
        self._task = background.start(self._run(), "link-watcher")

    async def stop(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def state(self, interface: str) -> LinkState | None:
        """The state delivered last."""
        return self._states.get(interface)

    def is_reading(self) -> bool:
        """Whether something changed that was not delivered yet."""
        return self._reading or self._wake.is_set()

    def _readable(self) -> None:
        if self._socket is None:
            return
        while True:
            try:
                data = self._socket.recv(_RECEIVE_LEN)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    log.warning("netlink-socket", reason=str(error))
                self._wake.set()  # messages were lost: look at everything
                return
            news = read_news(data)
            self._disturbed.update(news.disturbed)
            if news.is_relevant:
                self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._reading = True
            try:
                await self._refresh()
            except (OSError, FastmipError, NetlinkError) as error:
                log.warning("links-unreadable", reason=str(error))
                self._reading = False
                await asyncio.sleep(_RETRY_S)
                self._wake.set()
            finally:
                self._reading = False

    async def _refresh(self) -> None:
        disturbed, self._disturbed = self._disturbed, set()
        for name in {
            self._names.get(index) for index, gone in disturbed if self._lost(index, gone)
        }:
            if name is not None:
                await self._tell(LinkState(name, carrier=False))
        states = await read_links(self._kernel, self._interfaces, self._is_ours)
        for state in states:
            known = self._states.get(state.interface)
            if known is not None and known.carrier and state.losses != known.losses:
                # Gone and back between two messages: it may be another link by now.
                await self._tell(LinkState(state.interface, carrier=False))
            await self._tell(self._with_router(state) if self._watch_gateways else state)
        for name in self._interfaces:
            with contextlib.suppress(OSError):
                self._names[socket.if_nametoindex(name)] = name

    def _with_router(self, state: LinkState) -> LinkState:
        """A state with its router's MAC; one that is being asked for is as it was."""
        if not state.carrier or not state.gateway:
            return state
        mac = mac_of(state.interface, format_address(state.gateway))
        before = self._states.get(state.interface)
        if not mac and before is not None and before.gateway == state.gateway:
            mac = before.gateway_mac
        return replace(state, gateway_mac=mac)

    def _lost(self, index: int, address: int) -> bool:
        """Whether a disturbance concerns what was delivered last."""
        state = self._states.get(self._names.get(index, ""))
        return state is not None and (
            address == 0 or any(known == address for known, _ in state.addresses)
        )

    async def _tell(self, state: LinkState) -> None:
        if self._states.get(state.interface) != state:
            self._states[state.interface] = state
            await self._deliver(state)
