"""``io = "xdp"``: AF_XDP sockets beside an engine's kernel ports, and what leads packets to them.

For each interface: the XDP program (``bpf.py``) steers, one socket per receive queue receives and
sends, queue ``q`` belongs to worker ``q % workers``. The mirror of routes and neighbours tells
workers where packets leave. Everything else stays with the kernel and the kernel ports.

An interface that goes away takes nothing with it: its packets go through the kernel ports, and
when an interface of its name is back, sockets are opened on it. Workers stand still for that, some
milliseconds.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastmip.runtime.bpf import XdpProgram
from fastmip.runtime.libbpf import BpfError
from fastmip.runtime.logging import get_logger
from fastmip.runtime.route_mirror import RouteMirror
from fastmip.runtime.service import StartError

if TYPE_CHECKING:
    from fastmip._dataplane import Engine
    from fastmip.runtime.egress_routes import Flow

INTERFACES_MAX = 16
SOCKETS_MAX = 32
"""Of one worker."""
_BUSY_S = 2.0
"""A queue is busy for a moment after its socket was closed: waited for at the start."""
_SIOCETHTOOL = 0x8946
_ETHTOOL_GCHANNELS = 0x3C

log = get_logger("xdp")


@dataclass
class _Interface:
    """One interface named in the configuration; its place in the list is its outlet."""

    name: str
    outlet: int
    ifindex: int = 0
    """0: not served now."""
    mode: str = ""
    queues: int = 0
    complaints: set[str] = field(default_factory=set)
    """What was logged and still holds."""


class XdpPort:
    """Opens AF_XDP sockets on interfaces, keeps them, closes exactly that."""

    def __init__(
        self,
        interfaces: Sequence[str],
        *,
        own: Sequence[int],
        home_networks: Sequence[tuple[int, int]],
        outer: Flow,
        inner: Flow,
        copy: bool = False,
        program: XdpProgram | None = None,
    ) -> None:
        """``program``: loaded and told its networks by offload, which closes it."""
        self._interfaces = [_Interface(name, i) for i, name in enumerate(interfaces)]
        self._own = list(own)
        self._home_networks = list(home_networks)
        self._flows = (outer, inner)
        self._copy = copy
        self._engine: Engine
        self._workers = 0
        self._program = program
        self._is_borrowed = program is not None
        self._mirror: RouteMirror | None = None

    # start and stop

    async def open(self, engine: Engine, workers: int) -> None:
        """Attach the program and open the sockets; the engine stands still.

        Raises StartError: one line with the remedy. Then ``release`` and ``close`` take back what
        was done.
        """
        self._engine, self._workers = engine, workers
        try:
            if self._program is None:
                self._program = XdpProgram.load()
                self._program.set_own_addresses(self._own)
                self._program.set_home_networks(self._home_networks)
        except BpfError as error:
            raise StartError(f'engine.io: {error}: set io = "kernel" to do without') from error
        for interface in self._interfaces:
            try:
                interface.ifindex = socket.if_nametoindex(interface.name)
            except OSError as error:
                raise StartError(
                    f"engine.interfaces: {interface.name} is not an interface of this machine:"
                    " name those that carry tunnels and the home network"
                ) from error
            interface.queues = queues_of(interface.name)
        for worker in range(workers):
            engine.attach_xdp(worker, self._most_sockets(worker))
        try:
            for interface in self._interfaces:
                await self._serve(interface, _BUSY_S)
        except BpfError as error:
            raise StartError(f"engine.interfaces: {error}") from error
        outer, inner = self._flows
        self._mirror = RouteMirror(engine, outer=outer, inner=inner)
        self._tell_mirror()
        await self._mirror.start()

    def _most_sockets(self, worker: int) -> int:
        """Sockets a worker may need; an interface that comes back may have another queue or two."""
        wanted = sum(len(self._queues(each, worker)) for each in self._interfaces)
        return min(max(wanted, len(self._interfaces)), SOCKETS_MAX)

    def _queues(self, interface: _Interface, worker: int) -> range:
        return range(worker, interface.queues, self._workers)

    async def _serve(self, interface: _Interface, patience_s: float = 0) -> None:
        """Attach to an interface and open its sockets. Raises BpfError."""
        assert self._program is not None  # noqa: S101 - open made it
        interface.mode = self._program.attach(interface.ifindex)
        if interface.mode == "generic":
            log.warning(
                "xdp-generic",
                interface=interface.name,
                remedy="its driver has no native XDP: io = kernel is faster on it",
            )
        if interface.queues < self._workers:
            log.warning(
                "xdp-fewer-queues",
                interface=interface.name,
                queues=interface.queues,
                workers=self._workers,
                remedy=f"ethtool -L {interface.name} combined {self._workers}, or fewer workers",
            )
        for worker in range(self._workers):
            for queue in self._queues(interface, worker):
                fd = await self._open_socket(interface, worker, queue, patience_s)
                self._program.register_socket(interface.ifindex, queue, fd)
        log.info(
            "xdp-opened", interface=interface.name, program=interface.mode, queues=interface.queues
        )

    async def _open_socket(
        self, interface: _Interface, worker: int, queue: int, patience_s: float
    ) -> int:
        """Open a socket; a queue is still busy shortly after its socket was closed."""
        deadline = asyncio.get_running_loop().time() + patience_s
        what = f"{interface.name} queue {queue}: AF_XDP"
        while True:
            try:
                return self._engine.open_xdp(
                    worker,
                    outlet=interface.outlet,
                    ifindex=interface.ifindex,
                    queue=queue,
                    copy=self._copy,
                )
            except OSError as error:
                if error.errno != errno.EBUSY or asyncio.get_running_loop().time() > deadline:
                    raise BpfError(_explain(what, error)) from error
            await asyncio.sleep(0.02)

    def _tell_mirror(self) -> None:
        if self._mirror is not None:
            served = {each.ifindex: each.outlet for each in self._interfaces if each.ifindex}
            self._mirror.set_ports(served)

    async def release(self) -> None:
        """Leave all packets to the kernel again."""
        if self._mirror is not None:
            await self._mirror.stop()
            self._mirror = None
        if self._program is not None and self._is_borrowed:
            for interface in self._interfaces:
                self._program.detach(interface.ifindex)
        elif self._program is not None:
            self._program.close()
        self._program = None

    def close(self) -> None:
        """Close all sockets, after the engine stopped."""
        for interface in self._interfaces:
            if interface.ifindex:
                self._engine.close_xdp(interface.ifindex)
                interface.ifindex = 0

    # keeping it

    async def keep(self) -> None:
        """Look after interfaces that went, came back, or have another name now."""
        for interface in self._interfaces:
            now = _index_of(interface.name)
            if interface.ifindex and not _name_of(interface.ifindex):
                self._let_go(interface)
            if interface.ifindex and now != interface.ifindex:
                self._complain(interface, "xdp-interface-renamed", name=_name_of(interface.ifindex))
            elif not interface.ifindex and now:
                await self._take_back(interface, now)
            elif not interface.ifindex:
                self._complain(interface, "xdp-interface-missing")
            else:
                interface.complaints.clear()

    @staticmethod
    def _complain(interface: _Interface, event: str, **facts: object) -> None:
        if event not in interface.complaints:
            interface.complaints.add(event)
            log.warning(event, interface=interface.name, **facts)

    def _let_go(self, interface: _Interface) -> None:
        log.warning("xdp-interface-gone", interface=interface.name, remedy="the kernel takes over")
        ifindex, interface.ifindex = interface.ifindex, 0
        with self._standing():
            self._engine.close_xdp(ifindex)
        if self._program is not None:
            self._program.detach(ifindex)
        self._tell_mirror()

    async def _take_back(self, interface: _Interface, ifindex: int) -> None:
        interface.ifindex = ifindex
        interface.queues = queues_of(interface.name)
        try:
            with self._standing():
                await self._serve(interface)
        except BpfError as error:
            self._complain(interface, "xdp-interface-refused", reason=str(error))
            with self._standing():
                self._engine.close_xdp(ifindex)
            if self._program is not None:
                self._program.detach(ifindex)
            interface.ifindex = 0
            return
        interface.complaints.clear()
        self._tell_mirror()

    @contextlib.contextmanager
    def _standing(self) -> Iterator[None]:
        """Workers stand still."""
        self._engine.stop()
        try:
            yield
        finally:
            self._engine.start()

    # seeing it

    def facts(self) -> dict[str, object]:
        """What ``show runtime`` tells of it."""
        sockets = self._engine.xdp_sockets()
        modes = sorted({str(row["mode"]) for row in sockets})
        facts: dict[str, object] = {
            "xdp_interfaces": ", ".join(each.name for each in self._interfaces if each.ifindex)
            or "none",
            "xdp_sockets": len(sockets),
            "xdp_frames_passed": ", ".join(modes) or "none",
        }
        books = self._engine.xdp_frames()
        for place in ("", "_free", "_engine", "_receiving", "_sending"):
            facts[f"xdp_frames{place}"] = sum(row[place[1:] or "frames"] for row in books)
        if self._mirror is not None:
            facts |= self._mirror.facts()
        return facts

    def rows(self) -> list[dict[str, object]]:
        """One row per interface, for ``show interface``."""
        sockets = self._engine.xdp_sockets()
        rows: list[dict[str, object]] = []
        for interface in self._interfaces:
            mine = [row for row in sockets if row["ifindex"] == interface.ifindex]
            dropped = ("dropped", "ring_full", "no_frame", "invalid")
            rows.append(
                {
                    "interface": interface.name,
                    "xdp_program": interface.mode if interface.ifindex else "not attached",
                    "xdp_sockets": len(mine),
                    "xdp_mode": ", ".join(sorted({str(row["mode"]) for row in mine})) or "none",
                    **{f"xdp_{key}": sum(int(row[key]) for row in mine) for key in dropped},
                }
            )
        return rows

    def counters(self) -> dict[str, int]:
        """Counter name -> packets: of the workers, and what the XDP program did with frames."""
        steered = {} if self._program is None else self._program.counters()
        return self._engine.xdp_counters() | {f"bpf-{name}": n for name, n in steered.items()}


def queues_of(name: str) -> int:
    """Receive queues of an interface that are in use; 1 when the driver does not say."""
    channels = array.array("I", [_ETHTOOL_GCHANNELS, *[0] * 8])
    address, _ = channels.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sQ16x", name.encode(), address))
        except OSError:
            return 1
    _, _, _, _, _, received, _, _, combined = channels
    return max(1, received + combined)


def _index_of(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _name_of(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return ""


def _explain(what: str, error: OSError) -> str:
    remedy = {
        errno.EBUSY: "another program has a socket on this queue: end it",
        errno.EPERM: "needs CAP_NET_RAW",
        errno.ENOBUFS: "raise the limit of locked memory (LimitMEMLOCK=infinity)",
        errno.ENOMEM: "raise the limit of locked memory (LimitMEMLOCK=infinity)",
        errno.ENETDOWN: "set the interface up first",
        errno.EAFNOSUPPORT: 'this kernel has no AF_XDP: set io = "kernel"',
        errno.EOPNOTSUPP: "the driver passes frames in another way than the first interface's",
        errno.ENOSPC: f"{SOCKETS_MAX} sockets of a worker are all in use: raise engine.workers",
    }.get(error.errno or 0, "")
    text = f"{what}: {os.strerror(error.errno or 0)}"
    return f"{text}: {remedy}" if remedy else text
