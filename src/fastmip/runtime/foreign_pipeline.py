"""Carry out what the foreign agent wants.

Datagrams leave at once. Visitors need the kernel, which answers through netlink: they wait in one
queue and are carried out in order, each whole. On the way in the kernel comes first and the engine
last, on the way out the other way round: what is decapsulated always has its route (RFC 5944
4.2.2). Only then the agent hears of it, and the reply leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from pyroute2.netlink.exceptions import (  # type: ignore[import-untyped]  # no annotations
    NetlinkError,
)

from fastmip.agents.bindings import tunnel_record
from fastmip.agents.effects import (
    Arrival,
    Effect,
    Endpoint,
    Event,
    InstallVisitor,
    Now,
    RemoveVisitor,
    SendDatagram,
    SendIcmp,
    Violation,
)
from fastmip.errors import EngineFull
from fastmip.runtime import background, clock
from fastmip.runtime.alarm import Alarm
from fastmip.runtime.datagram_events import tell_datagram
from fastmip.runtime.event_stream import EVENTS
from fastmip.runtime.logging import get_logger
from fastmip.runtime.violations import ViolationTable
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from fastmip.agents.foreign import ForeignAgent
    from fastmip.runtime.foreign_tunnel import ForeignTunnel
    from fastmip.runtime.home_pipeline import BindingCache
    from fastmip.runtime.path_mtu import PathMtu

log = get_logger("foreign-agent")


class Sender(Protocol):
    """What of ``ControlPort`` the pipeline needs."""

    def send(self, message: SendDatagram) -> None: ...


class ForeignPipeline:
    """Drives one foreign agent; every method runs in the event loop."""

    def __init__(
        self,
        agent: ForeignAgent,
        engine: BindingCache,
        tunnel: ForeignTunnel,
        *,
        path_mtu: PathMtu | None = None,
        advertise: Callable[[SendIcmp], None] = lambda _effect: None,
        tos_mode: int = 0,
        now: Callable[[], Now] = clock.now,
    ) -> None:
        self.agent = agent
        self.violations = ViolationTable(log)
        self._engine = engine
        self._tunnel = tunnel
        self._path_mtu = path_mtu
        self._advertise = advertise
        self._tos_mode = tos_mode
        self._now = now
        self._port: Sender | None = None
        self._queue: asyncio.Queue[InstallVisitor | RemoveVisitor] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._alarm = Alarm(agent.next_deadline, self._ring, now)

    def start(self, port: Sender) -> None:
        """Send by this port and begin to carry out."""
        self._port = port
        self._worker = background.start(self._work(), "visitors")
        self._alarm.set()

    # in

    def deliver(self, batch: Iterable[tuple[bytes, Arrival]]) -> None:
        """Hand datagrams to the agent and carry out what it wants."""
        now = self._now()
        for data, arrival in batch:
            if EVENTS.is_watched:
                link = arrival.interface
                tell_datagram("datagram-received", data, arrival.source, interface=link)
            self._carry_out(self.agent.receive_datagram(data, arrival, now), now)
        self._alarm.set()

    def report(self, quoted: bytes, destination: Endpoint, icmp_type: int, code: int) -> None:
        """An ICMP error about something we sent."""
        now = self._now()
        effects = self.agent.receive_report(quoted, destination, icmp_type, code, now)
        self.carry_out(effects, now)

    # out

    def carry_out(self, effects: Iterable[Effect], now: Now) -> None:
        """Carry effects out; visitors are queued."""
        self._carry_out(effects, now)
        self._alarm.set()

    def _ring(self, now: Now) -> None:
        self._carry_out(self.agent.handle_timer(now), now)

    def _carry_out(self, effects: Iterable[Effect], now: Now) -> None:
        for effect in effects:
            if isinstance(effect, SendDatagram):
                if self._port is not None:
                    self._port.send(effect)
                if EVENTS.is_watched:
                    tell_datagram("datagram-sent", effect.data, effect.destination)
            elif isinstance(effect, InstallVisitor | RemoveVisitor):
                self._queue.put_nowait(effect)
            elif isinstance(effect, SendIcmp):
                self._advertise(effect)
            elif isinstance(effect, Violation):
                self.violations.note(effect, now)
            elif isinstance(effect, Event):
                log.info(effect.name, **dict(effect.fields))
            else:
                raise TypeError(f"a foreign agent has no business with {type(effect).__name__}")

    async def _work(self) -> None:
        while True:
            effect = await self._queue.get()
            try:
                if isinstance(effect, InstallVisitor):
                    await self._install(effect)
                else:
                    await self._remove(effect.home_address)
            finally:
                self._queue.task_done()

    async def _install(self, effect: InstallVisitor) -> None:
        home_address = effect.home_address
        is_carried = True
        try:
            await self._tunnel.carry(effect)
            self._engine.publish(self._engine.prepare(self._record(effect)))
        except (EngineFull, ValueError, NetlinkError, OSError) as error:
            is_carried = False
            log.warning(
                "visitor-not-installed",
                home_address=format_address(home_address),
                reason=str(error),
            )
        now = self._now()
        self.carry_out(
            self.agent.visitor_installed(effect.token, home_address, is_carried, now), now
        )

    async def _remove(self, home_address: int) -> None:
        self._engine.remove(home_address)
        await self._tunnel.drop(home_address)

    def _record(self, effect: InstallVisitor) -> bytes:
        tunnel = effect.tunnel
        mtu_bytes = 1500
        if self._path_mtu is not None:
            mtu_bytes = self._path_mtu.lookup_bytes(tunnel.remote)
        return tunnel_record(
            effect.home_address, tunnel, mtu_bytes=mtu_bytes, tos_mode=self._tos_mode
        )

    async def settle(self) -> None:
        """Wait until every visitor in the queue has been dealt with."""
        await self._queue.join()

    async def stop(self) -> None:
        """Carry out nothing more."""
        self._alarm.stop()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
