"""``offload = true``: plain IP in IP for bound home addresses, by a program in the kernel.

It is attached at XDP or, where super-frames are to pass whole, at TC.

The engine keeps an entry for each home address in memory it shares with the program
(``engine/offload.h``); what the program does not do goes through the engine as ever. Here: loading,
attaching, and telling the program when routes or neighbours changed, so that it asks the kernel for
next hops anew. Whatever the kernel refuses leaves the engine to carry on alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from fastmip.runtime.bpf import OFFLOADED, OUTCOMES, REFUSED, Hook, XdpProgram
from fastmip.runtime.engine_checks import HOMES_MAX
from fastmip.runtime.libbpf import BpfError
from fastmip.runtime.logging import get_logger

if TYPE_CHECKING:
    from fastmip._dataplane import Engine

_REFRESH_S = 30.0
"""Next hops are asked for anew at least this often; then the kernel confirms neighbours."""
_COALESCE_S = 0.002
_DROPS_MIN = 64
"""Refused frames in a second from which on more refused than taken ends offload."""
# linux/rtnetlink.h: links, neighbours, addresses, routes, rules
_GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 1 << 31
_NETLINK_ROUTE = 0
_NEW_NEIGHBOUR, _DEL_NEIGHBOUR = 28, 29
_NDA_DST, _NDA_LLADDR = 1, 2
_HEADER = struct.Struct("=IHHII")
_NEIGHBOUR = struct.Struct("=B3xiH2x")
"""Of struct ndmsg: family, interface, state."""
_USABLE = 0xDE
"""NUD_VALID."""
_NEIGHBOURS_MAX = 65536

CARRIED = tuple(name for name, _ in OUTCOMES[:OFFLOADED])
"""The engine's verdicts that the program gives."""

log = get_logger("offload")


class Neighbours:
    """What netlink told of neighbours, to tell a new address from the same one confirmed."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], tuple[bytes, bool]] = {}

    def changes(self, data: bytes) -> bool:
        """Whether anything in a datagram may change a next hop: all but confirmations."""
        is_news, at = False, 0
        while at + _HEADER.size <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size:
                return True
            body = data[at + _HEADER.size : at + length]
            if kind in {_NEW_NEIGHBOUR, _DEL_NEIGHBOUR}:
                is_news |= self._note(body, is_gone=kind == _DEL_NEIGHBOUR)
            else:
                is_news = True
            at += -(-length // 4) * 4
        return is_news

    def _note(self, body: bytes, *, is_gone: bool) -> bool:
        if len(body) < _NEIGHBOUR.size:
            return True
        family, interface, state = _NEIGHBOUR.unpack_from(body)
        if family != socket.AF_INET:
            return False
        found, at = {_NDA_DST: b"", _NDA_LLADDR: b""}, _NEIGHBOUR.size
        while at + 4 <= len(body):
            length, kind = struct.unpack_from("=HH", body, at)
            if length < 4:
                break
            if kind in found:
                found[kind] = body[at + 4 : at + length]
            at += -(-length // 4) * 4
        key = interface, found[_NDA_DST]
        now = found[_NDA_LLADDR], bool(state & _USABLE) and not is_gone
        if self._known.get(key) == now:
            return False
        if len(self._known) >= _NEIGHBOURS_MAX:
            self._known.clear()
        self._known[key] = now
        return True


class Offload:
    """The program with the home addresses of one engine."""

    def __init__(self, program: XdpProgram, interfaces: Sequence[str], hook: Hook = "xdp") -> None:
        self.program = program
        self.hook = hook
        self.is_on = False
        self._interfaces = list(interfaces)
        self._attaches = False
        """Nobody else attaches the program."""
        self._complaints: set[str] = set()
        self._watch: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: asyncio.TimerHandle | None = None
        self._refreshed_s = 0.0
        self._neighbours = Neighbours()
        self._seen = (0, 0)
        self._cleared: dict[str, tuple[int, int]] = {}
        self.trouble = ""
        """Why it was given up, for ``show runtime``."""

    @classmethod
    def load(
        cls,
        engine: Engine,
        *,
        own: Sequence[int],
        home_networks: Sequence[tuple[int, int]],
        interfaces: Sequence[str],
        hook: Hook = "xdp",
    ) -> Self:
        """Load the program and let the engine fill its tables, before it has bindings.

        Raises BpfError with one line.
        """
        homes = sum(1 << 32 - length for _, length in home_networks)
        if homes > HOMES_MAX:
            raise BpfError(f"{homes} home addresses: offload has room for {HOMES_MAX}")
        program = XdpProgram.load(homes=homes, hook=hook)
        try:
            program.set_own_addresses(own)
            program.set_home_networks(home_networks)
            ranges = [(first, first + (1 << 32 - length) - 1) for first, length in home_networks]
            engine.use_offload(ranges, program.home_memory())
        except BaseException:
            program.close()
            raise
        return cls(program, interfaces, hook)

    def attach(self) -> None:
        """Attach to the interfaces, where nobody else does it. Raises BpfError."""
        self._attaches = True
        for name in self._interfaces:
            try:
                self._attach_one(socket.if_nametoindex(name))
            except (BpfError, OSError) as error:
                for ifindex in self.program.attached():
                    self.program.detach(ifindex)
                if isinstance(error, BpfError):
                    raise
                raise BpfError(f"{name} is not an interface of this machine") from error

    def _attach_one(self, ifindex: int) -> None:
        if self.hook == "tc":
            self.program.attach_tc(ifindex)
        else:
            self.program.attach(ifindex)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take packets from now on. Raises BpfError."""
        try:
            watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
            watch.setblocking(False)
            watch.bind((0, _GROUPS))
        except OSError as error:
            raise BpfError(f"watching routes: {error.strerror}") from error
        self._watch, self._loop = watch, loop
        loop.add_reader(watch.fileno(), self._changed)
        self._refreshed_s = loop.time()
        self.program.set_offload(True)
        self.is_on = True
        log.info("offload-started", hook=self.hook, interfaces=", ".join(self._interfaces))

    def _changed(self) -> None:
        """Routes or neighbours changed."""
        assert self._watch is not None  # noqa: S101 - it is the reader
        is_news = False
        while True:
            try:
                is_news |= self._neighbours.changes(self._watch.recv(65536))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                is_news = True  # messages were lost
        if is_news and self._pending is None and self._loop is not None:
            self._pending = self._loop.call_later(_COALESCE_S, self._refresh)

    def _refresh(self) -> None:
        self._pending = None
        if self._loop is not None:
            self._refreshed_s = self._loop.time()
        with contextlib.suppress(BpfError):  # it may have been closed meanwhile
            self.program.refresh()

    def keep(self) -> None:
        """Once a second: the clock, next hops, and whether frames leave; if not, give up."""
        if not self.is_on or self._loop is None:
            return
        self.program.set_clock()
        if self._attaches:
            self._attach_again()
        if self._loop.time() - self._refreshed_s > _REFRESH_S:
            self._refresh()
        counters = self.program.counters()
        carried, refused = sum(counters[name] for name in CARRIED), counters[REFUSED[0]]
        more, lost = carried - self._seen[0], refused - self._seen[1]
        self._seen = (carried, refused)
        if lost >= _DROPS_MIN and lost > more:
            self.program.set_offload(False)
            self.is_on = False
            self.trouble = "interfaces do not take what XDP redirects"
            log.error(
                "offload-given-up",
                reason=self.trouble,
                refused=lost,
                remedy="native XDP or GRO at the other end of a veth; the engine carries on",
            )

    def _attach_again(self) -> None:
        """An interface that went and is back has no program any more."""
        there = {name: index for index, name in socket.if_nameindex()}
        for ifindex in self.program.attached():
            if ifindex not in there.values():
                log.warning("offload-interface-gone", ifindex=ifindex)
                self.program.detach(ifindex)
        for name in self._interfaces:
            if name not in there or there[name] in self.program.attached():
                self._complaints.discard(name)
                continue
            try:
                self._attach_one(there[name])
            except BpfError as error:
                if name not in self._complaints:
                    self._complaints.add(name)
                    log.warning("offload-interface-refused", reason=str(error))

    def stop(self) -> None:
        """Leave all packets to the engine again; may be called again."""
        if self._watch is not None and self._loop is not None:
            self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        if self.is_on:
            self.program.set_offload(False)
            self.is_on = False

    def close(self) -> None:
        """Let go of the program, after the engine stopped; may be called again."""
        self.stop()
        self.program.close()

    # seeing it

    def verdicts(self) -> dict[str, tuple[int, int]]:
        """Verdict -> (packets, bytes) that the engine never saw, since they were cleared."""
        traffic = self.program.traffic()
        result = {}
        for name in (*CARRIED, REFUSED[0]):
            packets, octets = self._cleared.get(name, (0, 0))
            result[name] = (traffic[name][0] - packets, traffic[name][1] - octets)
        return result

    def clear(self) -> None:
        """Let verdicts start from zero."""
        traffic = self.program.traffic()
        self._cleared = {name: traffic[name] for name in (*CARRIED, REFUSED[0])}

    def counters(self) -> dict[str, int]:
        """Outcome -> frames, for ``show traffic``."""
        return self.program.counters()

    def facts(self) -> dict[str, object]:
        """What ``show runtime`` tells of it."""
        facts: dict[str, object] = {"offload": "on" if self.is_on else "off"}
        if self.is_on:
            facts["offload_hook"] = self.hook
        if self.trouble:
            facts["offload_trouble"] = self.trouble
        verdicts = self.verdicts()
        return facts | {f"offload_{n.replace('-', '_')}": p for n, (p, _) in verdicts.items()}
