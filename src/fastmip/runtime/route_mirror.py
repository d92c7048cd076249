"""Keeps the engine's next hops (``engine.egress``) in line with the kernel's routing.

One netlink socket hears of links, neighbours, routes and rules and every message is applied as it
is read. Another one reads everything whole: at the start, when messages were lost (ENOBUFS), when
rules or next hop objects changed, when an address went and when a link went down or up, because
the kernel drops routes and gives them back without a word. It tells of the link first and changes
routes then, so it is read once more a little later, and only then a link that was down is used
again. What arrives during a reading is applied at once and again on top of what was read.

Packets that leave by L2 ports do not show the kernel that a neighbour is in use, so it would let
the entry go stale and forget it. Workers tell of stale neighbours they sent to; we tell the
kernel, and it asks them by ARP. Gateways are asked for before anybody needs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastmip import _dataplane
from fastmip.runtime import background
from fastmip.runtime import route_messages as messages
from fastmip.runtime.egress_routes import EgressRoutes, Flow
from fastmip.runtime.logging import get_logger

if TYPE_CHECKING:
    from fastmip._dataplane import BindingCache

_GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 1 << 31
"""Of links, neighbours, IPv4 addresses, routes and rules, and next hop objects."""
_UNTOLD = frozenset(
    {
        messages.RTM_DELADDR,
        messages.RTM_NEWRULE,
        messages.RTM_DELRULE,
        messages.RTM_NEWNEXTHOP,
        messages.RTM_DELNEXTHOP,
    }
)
"""News after which routes may be others than we were told."""
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 8 << 20
_RECEIVE_LEN = 1 << 16
_DATAGRAMS_AT_ONCE = 64
"""Then the event loop has a turn."""
_ROUTES_AT_ONCE = 200
_DUMP_TRIES = 10
_LOOK_S = 1.0
"""How often workers are asked which stale neighbours they use."""
_ASK_AGAIN_S = 3.0
"""The kernel itself asks for three seconds."""
_RETRY_S = 1.0
_SETTLED_S = 0.1
"""The kernel is done with the routes of a link this long after it told of the link."""

log = get_logger("routes")


@dataclass(frozen=True, slots=True)
class Hop:
    """Where packets to a destination leave."""

    dst: bytes
    src: bytes
    ifindex: int
    mtu: int
    port: int


class RouteMirror:
    """Routes, links and neighbours of this network namespace, shown to an engine."""

    def __init__(self, engine: BindingCache, *, outer: Flow, inner: Flow) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called after changes were applied."""
        self.readings = 0
        """How often everything was read whole."""
        self._tables = {
            _dataplane.TUNNEL: engine.egress(_dataplane.TUNNEL),
            _dataplane.HOME: engine.egress(_dataplane.HOME),
        }
        self._routes = EgressRoutes(
            [(outer, self._tables[_dataplane.TUNNEL]), (inner, self._tables[_dataplane.HOME])]
        )
        self._events: socket.socket | None = None
        self._backlog: list[messages.Message] | None = None
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._asked: dict[tuple[int, int], float] = {}
        self._trusted: dict[int, int] = {}
        """Links that were down long enough ago for the next reading."""
        self._sequence = 0

    async def start(self) -> None:
        """Read everything once, then follow. Raises OSError."""
        self._events = _netlink(_GROUPS)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._events, self._readable)
        await self._read_all()
        self._tasks = [
            background.start(self._run(), "route-mirror"),
            background.start(self._look(), "neighbours"),
        ]

    async def stop(self) -> None:
        """Follow no more; the engine keeps what it has."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None

    def set_ports(self, ports: Mapping[int, int]) -> None:
        """Interface index -> number of our port there; others get ``EGRESS_PORTLESS``."""
        self._routes.set_ports(ports)

    def lookup(self, side: int, address: int, flow_hash: int = 0) -> Hop | None:
        """Where packets to an address leave on a side; None: through the kernel."""
        found = self._tables[side].lookup(address, flow_hash)
        return None if found is None else Hop(*found)

    def facts(self) -> dict[str, object]:
        """What ``show runtime`` tells of it."""
        outer = self._routes.views[0]
        return {
            "mirrored_routes": sum(1 for _ in outer.known()),
            "mirrored_neighbours": len(self._routes.neighbours),
            "mirror_readings": self.readings,
            "mirror_overflows": sum(view.overflowed for view in self._routes.views),
        }

    # news

    def _readable(self) -> None:
        heard = False
        for _ in range(_DATAGRAMS_AT_ONCE):
            if self._events is None:
                return
            try:
                data = self._events.recv(_RECEIVE_LEN)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    log.warning("netlink-socket", reason=str(error))
                self._wake.set()  # messages were lost
                break
            for message in messages.split(data):
                heard = True
                self._apply(message)
                if self._backlog is not None:
                    self._backlog.append(message)
        if heard:
            self._ask_for_gateways()
            self.on_change()

    def _apply(self, message: messages.Message) -> None:
        kind, body = message.kind, message.body
        if kind in (messages.RTM_NEWROUTE, messages.RTM_DELROUTE):
            route = messages.read_route(body)
            if route is not None and kind == messages.RTM_NEWROUTE:
                self._routes.route(route, message.flags)
            elif route is not None:
                self._routes.route_gone(route)
        elif kind in (messages.RTM_NEWNEIGH, messages.RTM_DELNEIGH):
            neighbour = messages.read_neighbour(body)
            if neighbour is not None and kind == messages.RTM_NEWNEIGH:
                self._routes.neighbour(neighbour)
            elif neighbour is not None:
                self._routes.neighbour_gone(neighbour.index, neighbour.address)
        elif kind in (messages.RTM_NEWLINK, messages.RTM_DELLINK):
            link = messages.read_link(body)
            if link is None:
                return
            if kind == messages.RTM_NEWLINK:
                is_stale = self._routes.link(link)
            else:
                is_stale = self._routes.link_gone(link.index)
            if is_stale:
                self._wake.set()
                suspects = self._routes.suspects()
                asyncio.get_running_loop().call_later(_SETTLED_S, self._settled, suspects)
        elif kind in _UNTOLD:
            self._wake.set()

    def _settled(self, suspects: Mapping[int, int]) -> None:
        self._trusted |= suspects
        self._wake.set()

    # reading everything

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            start = time.monotonic()
            try:
                await self._read_all()
            except OSError as error:
                log.warning("routes-unreadable", reason=str(error))
                await asyncio.sleep(_RETRY_S)
                self._wake.set()
            # A large table that is in unrest takes half of the time at most.
            await asyncio.sleep(time.monotonic() - start)

    async def _read_all(self) -> None:
        self._wake.clear()
        self._backlog = []
        trusted = dict(self._trusted)
        opened = _netlink(0)
        try:
            links = await self._dump(opened, messages.RTM_GETLINK)
            neighbours = await self._dump(opened, messages.RTM_GETNEIGH)
            rules = await self._dump(opened, messages.RTM_GETRULE)
            self._routes.rules(list(filter(None, map(messages.read_rule, rules))))
            tables = self._routes.empty_tables()
            for number, body in enumerate(await self._dump(opened, messages.RTM_GETROUTE)):
                route = messages.read_route(body)
                if route is not None and route.table in tables:
                    tables[route.table].add(route)
                if number % _ROUTES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            backlog = self._backlog
        finally:
            self._backlog = None
            opened.close()
        self._routes.replace_links(filter(None, map(messages.read_link, links)))
        self._routes.replace_neighbours(filter(None, map(messages.read_neighbour, neighbours)))
        for number, _ in enumerate(self._routes.settle(tables)):
            if number == 0:
                for message in backlog:
                    self._apply(message)
            await asyncio.sleep(0)
        self._routes.trust(trusted)
        for index, down in trusted.items():
            if self._trusted.get(index) == down:
                del self._trusted[index]
        self.readings += 1
        self._ask_for_gateways()
        self.on_change()

    async def _dump(self, opened: socket.socket, kind: int) -> list[bytes]:
        """The bodies of a dump that nothing changed under, if that can be had. Raises OSError."""
        bodies: list[bytes] = []
        for _ in range(_DUMP_TRIES):
            self._sequence += 1
            opened.send(messages.dump_request(kind, self._sequence))
            bodies, is_whole = await self._receive_dump(opened, self._sequence)
            if is_whole:
                break
        return bodies

    async def _receive_dump(self, opened: socket.socket, sequence: int) -> tuple[list[bytes], bool]:
        loop = asyncio.get_running_loop()
        bodies: list[bytes] = []
        is_whole = True
        while True:
            await asyncio.sleep(0)  # where there is something to read, sock_recv does not wait
            data = await loop.sock_recv(opened, _RECEIVE_LEN)
            for message in messages.split(data):
                if message.sequence != sequence:
                    continue
                is_whole &= not message.flags & messages.NLM_F_DUMP_INTR
                if message.kind == messages.NLMSG_DONE:
                    return bodies, is_whole
                if message.kind == messages.NLMSG_ERROR:
                    code = -int.from_bytes(message.body[:4], "little", signed=True)
                    raise OSError(code, "the kernel refused a dump")
                bodies.append(message.body)

    # neighbours

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            for address, number in self._told():
                known = self._routes.neighbour_of(address, number)
                if known is not None:
                    self._ask(*known)
            self._ask_for_gateways()

    def _told(self) -> set[tuple[int, int]]:
        return {told for table in self._tables.values() for told in table.told()}

    def _ask_for_gateways(self) -> None:
        wanted = self._routes.wanted()
        now = time.monotonic()
        self._asked = {known: when for known, when in self._asked.items() if known in wanted}
        for known in wanted:
            if now - self._asked.get(known, -_ASK_AGAIN_S) >= _ASK_AGAIN_S:
                self._asked[known] = now
                self._ask(*known)

    def _ask(self, index: int, address: int) -> None:
        """Let the kernel find out a neighbour's MAC; the answer comes as news."""
        if self._events is None:
            return
        self._sequence += 1
        with contextlib.suppress(OSError):  # the link is gone, or the kernel is busy: later
            self._events.send(messages.use_request(index, address, self._sequence))


def _netlink(groups: int) -> socket.socket:
    """A netlink socket for routing that hears of these groups. Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    opened = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    with contextlib.suppress(OSError):  # without the privilege the usual size has to do
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    try:
        opened.bind((0, groups))
    except OSError:
        opened.close()
        raise
    return opened
