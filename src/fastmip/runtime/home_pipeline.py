"""Carry out what the home agent wants, in the order that is sacred (architecture, walk 2).

1. ``deliver``: datagrams go to the agent; its Commits are prepared in the engine. An engine
   without room ends a Commit here: nothing was stored, nothing changes.
2. What a batch of datagrams prepared is handed to the store in one piece.
3. ``_stored``: a group is durable (or refused). Publish, then tell the agent; only now it
   returns ARP effects and the reply, and they are carried out as they come.

Nothing here waits: the event loop goes on with the next batch while the disk works.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from fastmip.agents.bindings import tunnel_record
from fastmip.agents.effects import (
    Arrival,
    Commit,
    CommitOutcome,
    Effect,
    Endpoint,
    Event,
    GratuitousArp,
    NodeRow,
    Now,
    PrefixChange,
    SendDatagram,
    StartProxyArp,
    StopProxyArp,
    Tunnel,
    Violation,
)
from fastmip.errors import EngineFull
from fastmip.runtime import clock
from fastmip.runtime.alarm import Alarm
from fastmip.runtime.datagram_events import tell_datagram
from fastmip.runtime.event_stream import EVENTS
from fastmip.runtime.home_log import RegistrationLog
from fastmip.runtime.logging import get_logger
from fastmip.runtime.violations import ViolationTable
from fastmip.wire.codes import MessageType

if TYPE_CHECKING:
    from fastmip.agents.home import HomeAgent
    from fastmip.runtime.arp import ArpResponder
    from fastmip.runtime.path_mtu import PathMtu

PAUSE_ABOVE = 4096
"""Commits waiting for the disk at which we stop reading requests."""
RESUME_BELOW = 1024

log = get_logger("home-agent")


class BindingCache(Protocol):
    """What of ``_dataplane.Engine`` registrations need."""

    def prepare(self, tunnels: bytes) -> int: ...
    def publish(self, ticket: int) -> None: ...
    def abandon(self, ticket: int) -> None: ...
    def remove(self, home_address: int) -> bool: ...
    def set_prefix(self, prefix: int, length: int, home_address: int) -> None: ...
    def clear_prefix(self, prefix: int, length: int) -> bool: ...


class Submit(Protocol):
    """Where prepared commits go."""

    def __call__(self, commits: Sequence[Prepared], /) -> None: ...


class Port(Protocol):
    """What of ``ControlPort`` registrations need."""

    def send(self, message: SendDatagram) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Prepared:
    """A Commit whose chain stands ready in the engine."""

    __slots__ = ("assigned", "home_address", "networks", "row", "ticket", "token")

    def __init__(
        self,
        token: int,
        home_address: int,
        ticket: int | None,
        row: NodeRow,
        networks: PrefixChange | None = None,
        assigned: bytes = b"",
    ) -> None:
        self.token = token
        self.home_address = home_address
        self.ticket = ticket
        """None: the node leaves the engine."""
        self.row = row
        self.networks = networks
        self.assigned = assigned


class HomePipeline:
    """Drives one home agent; every method runs in the event loop."""

    def __init__(
        self,
        agent: HomeAgent,
        engine: BindingCache,
        submit: Submit,
        *,
        arp: ArpResponder | None = None,
        path_mtu: PathMtu | None = None,
        tos_mode: int = 0,
        now: Callable[[], Now] = clock.now,
    ) -> None:
        self.agent = agent
        self.violations = ViolationTable(log)
        self.outstanding = 0
        """Commits handed to the store whose outcome is not known yet."""
        self._engine = engine
        self._submit = submit
        self._port: Port | None = None
        self._arp = arp
        self._path_mtu = path_mtu
        self._tos_mode = tos_mode
        self._now = now
        self._log = RegistrationLog()
        self._prepared: list[Prepared] = []
        self._paused = False
        self._alarm = Alarm(agent.next_deadline, self._ring, now)

    def use_port(self, port: Port) -> None:
        """Send replies here."""
        self._port = port

    # in

    def deliver(self, batch: Iterable[tuple[bytes, Arrival]]) -> None:
        """Hand datagrams to the agent and carry out what it wants."""
        now = self._now()
        receive = self.agent.receive_datagram
        for data, arrival in batch:
            if EVENTS.is_watched:
                tell_datagram(
                    "datagram-received", data, arrival.source, interface=arrival.interface
                )
            effects = receive(data, self._with_mac(arrival), now)
            if effects:
                self.carry_out(effects, now)
        self.flush()

    def keepalives(self, told: Iterable[tuple[int, int, int]]) -> None:
        """Hand first keepalives to the agent: home address, source address, source port."""
        now = self._now()
        for home_address, address, port in told:
            effects = self.agent.receive_keepalive(home_address, Endpoint(address, port), now)
            self.carry_out(effects, now)
        self.flush()

    def _with_mac(self, arrival: Arrival) -> Arrival:
        """Add the sender's link-layer address when it is on the home link."""
        arp = self._arp
        if arp is None or arrival.interface != arp.interface:
            return arrival
        source = arrival.source.address
        if not arp.covers(source):  # a router brought it
            return arrival
        mac = arp.mac_of(source)
        return arrival if mac is None else dataclasses.replace(arrival, mac=mac)

    def stored(self, group: Sequence[Prepared], reason: str) -> None:
        """The store's word on a group: "" or why it refused."""
        self.outstanding -= len(group)
        now = self._now()
        engine, done = self._engine, self.agent.commit_done
        bindings_of = self.agent.bindings_of
        outcome = CommitOutcome.STORE_FAILED if reason else CommitOutcome.COMMITTED
        for item in group:
            networks = None if reason else item.networks
            if networks is not None:
                for network in networks.leaving:
                    engine.clear_prefix(*network)
            if item.ticket is None:
                if not reason:
                    engine.remove(item.home_address)
            elif reason:
                engine.abandon(item.ticket)
            else:
                engine.publish(item.ticket)
            if networks is not None:
                for network in networks.entering:  # there is room: the agent asked for it
                    engine.set_prefix(*network, item.home_address)
                if self._arp is not None:
                    leaving, entering = networks.leaving, networks.entering
                    self._arp.lead_networks(leaving, entering, item.home_address)
            old = bindings_of(item.home_address)
            effects = done(item.token, outcome, now)
            if not reason:
                sent = [effect.data[0] for effect in effects if isinstance(effect, SendDatagram)]
                new = bindings_of(item.home_address)
                self._log.changed(
                    item.home_address,
                    old,
                    new,
                    now,
                    asked=MessageType.REGISTRATION_REPLY in sent,
                    revoked=MessageType.REVOCATION_ACKNOWLEDGMENT in sent,
                )
            self.carry_out(effects, now)
        self.flush()

    def flush(self) -> None:
        """Give the store what was prepared, and look at the clock."""
        if self._prepared:
            prepared, self._prepared = self._prepared, []
            self.outstanding += len(prepared)
            self._submit(prepared)
        if self._port is not None:
            if self._paused and self.outstanding < RESUME_BELOW:
                self._paused = False
                self._port.resume()
            elif not self._paused and self.outstanding > PAUSE_ABOVE:
                self._paused = True
                self._port.pause()
        if not self._alarm.is_set:
            self._alarm.set()

    # out

    def carry_out(self, effects: Iterable[Effect], now: Now) -> None:
        """Carry effects out in their order; ``flush`` afterwards."""
        queue = list(effects)
        for effect in queue:  # a Commit that fails at once appends what the agent answers
            if isinstance(effect, SendDatagram):
                if self._port is not None:
                    self._port.send(effect)
                self._log.sent(effect, now)
                if EVENTS.is_watched:
                    tell_datagram("datagram-sent", effect.data, effect.destination)
            elif isinstance(effect, Commit):
                queue.extend(self._prepare(effect, now))
            elif isinstance(effect, StartProxyArp | StopProxyArp | GratuitousArp):
                self._move_arp(effect)
            elif isinstance(effect, Violation):
                self.violations.note(effect, now)
            elif isinstance(effect, Event):
                log.info(effect.name, **dict(effect.fields))
            else:
                raise TypeError(f"a home agent has no business with {type(effect).__name__}")

    def _prepare(self, commit: Commit, now: Now) -> list[Effect]:
        ticket: int | None = None
        if commit.tunnels:
            records = b"".join(
                [self._record(commit.home_address, tunnel) for tunnel in commit.tunnels]
            )
            try:
                ticket = self._engine.prepare(records)
            except (EngineFull, ValueError) as error:
                log.warning("binding-not-prepared", reason=str(error))
                return self.agent.commit_done(commit.token, CommitOutcome.ENGINE_FULL, now)
        self._prepared.append(
            Prepared(
                commit.token,
                commit.home_address,
                ticket,
                commit.row,
                commit.networks,
                commit.assigned,
            )
        )
        return []

    def _record(self, home_address: int, tunnel: Tunnel) -> bytes:
        path_mtu = self._path_mtu
        mtu_bytes = 1500 if path_mtu is None else path_mtu.lookup_bytes(tunnel.remote)
        return tunnel_record(home_address, tunnel, mtu_bytes=mtu_bytes, tos_mode=self._tos_mode)

    def _move_arp(self, effect: StartProxyArp | StopProxyArp | GratuitousArp) -> None:
        arp = self._arp
        if arp is None:
            return
        if isinstance(effect, StartProxyArp):
            arp.start_proxy(effect.home_address)
        elif isinstance(effect, StopProxyArp):
            arp.stop_proxy(effect.home_address)
        else:
            arp.announce(effect.home_address, effect.mac)

    # time

    def _ring(self, now: Now) -> None:
        self.carry_out(self.agent.handle_timer(now), now)
        self.flush()

    def stop(self) -> None:
        """Look at the clock no more."""
        self._alarm.stop()
