"""Drive a mobile node: one input after the other, each effect carried out before the next.

Link changes, datagrams, timers and commands queue up. For each the agent says what to do, and
that is done in its order, waiting for the kernel where needed: RFC 5944 4.6 depends on it
(home routing before ARP, ARP before the request). A new link gets the routes a request needs
before the agent hears of it; the rest of its routing waits until nothing else is to be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from pyroute2.netlink.exceptions import (  # type: ignore[import-untyped]  # no annotations
    NetlinkError,
)

from fastmip.agents.bindings import tunnel_record
from fastmip.agents.effects import (
    Arrival,
    ConfigureHome,
    Effect,
    Event,
    GratuitousArp,
    InstallTunnels,
    Now,
    PinNeighbour,
    RouteThroughTunnel,
    SendDatagram,
    SendIcmp,
    SetArp,
    Tunnel,
    UnpinNeighbour,
    UseHostConfiguration,
    UseNetworks,
    Violation,
)
from fastmip.errors import EngineFull, FastmipError
from fastmip.runtime import background, clock
from fastmip.runtime.arp import build_request
from fastmip.runtime.first_packet import wait_for_packet
from fastmip.runtime.logging import get_logger
from fastmip.runtime.mobile_tunnel import MIN_DEVICE_MTU, OVERHEAD
from fastmip.runtime.violations import ViolationTable
from fastmip.wire.addresses import format_address, parse_address
from fastmip.wire.codes import MOBILE_IP_PORT

if TYPE_CHECKING:
    from fastmip.agents.attachment import LinkState
    from fastmip.agents.mobile import MobileNode
    from fastmip.runtime.host_hook import HostHook
    from fastmip.runtime.mobile_tunnel import MobileTunnel
    from fastmip.runtime.routing import MobileRouting

_ETH_P_ARP = 0x0806
_SIOCGIFHWADDR = 0x8927
_ARPHRD_ETHER = 1
_FIRST_PACKET_POLL_S = 0.005
_FIRST_PACKET_LIMIT_S = 3.0
_SETTLE_AGAIN_S = 0.02
MAX_WAITING = 256
"""Inputs in the queue at which datagrams are dropped."""
_LONGEST_SLEEP_S = 1.0
"""The loop's clock stands still while the machine is suspended, CLOCK_BOOTTIME does not."""

Word = Event | Violation | UseHostConfiguration
"""What is to be read, not to be done."""
Input = Callable[[Now], list[Effect]]

log = get_logger("mobile-node")


class TunnelCache(Protocol):
    """What of ``_dataplane.Engine`` a mobile node needs here."""

    def prepare(self, tunnels: bytes) -> int: ...
    def publish(self, ticket: int) -> None: ...
    def remove(self, home_address: int) -> bool: ...
    def traffic(self, home_address: int) -> list[dict[str, int]]: ...
    def set_prefix(self, prefix: int, length: int, home_address: int) -> None: ...
    def clear_prefix(self, prefix: int, length: int) -> bool: ...


class Port(Protocol):
    """What of ``ControlPort`` a mobile node needs."""

    def send(self, message: SendDatagram) -> None: ...
    def forget_interfaces(self) -> None: ...


class Discovery(Protocol):
    """What of ``DiscoverySocket`` a mobile node needs."""

    def add(self, interface: str) -> None: ...
    def remove(self, interface: str) -> None: ...
    def send(self, effect: SendIcmp) -> None: ...


def _nothing(_now: Now) -> list[Effect]:
    """An input that only makes the driver go round once more."""
    return []


class ArpAnnouncer:
    """Sends gratuitous ARP on any Ethernet link.

    One packet socket for good, bound to nothing: to close or bind one makes the kernel wait for
    all its readers, tens of milliseconds in the middle of a move.
    """

    def __init__(self) -> None:
        """Raises OSError without CAP_NET_RAW."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_PACKET, kind, 0)

    def announce(self, interface: str, address: int, mac: bytes | None) -> None:
        """Broadcast it with a MAC to install, None: the interface's own. Raises OSError."""
        request = struct.pack("16s24x", interface.encode())
        answer = fcntl.ioctl(self._socket, _SIOCGIFHWADDR, request)
        if struct.unpack_from("=H", answer, 16)[0] != _ARPHRD_ETHER:
            return  # a link without Ethernet addresses needs no ARP
        own = answer[18:24]
        self._socket.sendto(build_request(own, mac or own, address), (interface, _ETH_P_ARP))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class MobileDriver:
    """Owns the order of things; everything runs in the event loop."""

    def __init__(
        self,
        agent: MobileNode,
        engine: TunnelCache,
        routing: MobileRouting,
        tunnel: MobileTunnel,
        port: Port,
        *,
        home_address: int,
        tos_mode: int,
        local_port: int = 0,
        home_broadcast: int = 0,
        home_agent: int = 0,
        now: Callable[[], Now] = clock.now,
    ) -> None:
        self.violations = ViolationTable(log)
        self.first_packets: dict[int, int] = {}
        """``reply_ns`` of a handover -> when the first packet came through the new tunnel."""
        self.failures = 0
        """Effects the kernel refused."""
        self.dropped = 0
        """Datagrams dropped because too much was waiting."""
        self.links_change: Callable[[], bool] = lambda: False
        """Whether news of links is being read right now."""
        self._agent = agent
        self._engine = engine
        self._routing = routing
        self._tunnel = tunnel
        self._port = port
        self._home_address = home_address
        self._tos_mode = tos_mode
        self._home_agent = home_agent
        self._home_broadcast = home_broadcast
        """Broadcast address of the home network, where its broadcasts are asked for."""
        self._local_port = local_port
        """UDP port of requests and of UDP tunnels."""
        self.well_known_port: Port | None = None
        """UDP port 434, where revocations come in."""
        self.discovery: Discovery | None = None
        """Hears and solicits agents, where they are used."""
        self.hook: HostHook | None = None
        """Takes what the home agent tells of the home network, where it is asked."""
        self._udp_tunnel: tuple[int, int] | None = None
        """Ends of the UDP tunnel packets are sent through."""
        self._heard_on: dict[str, int] = {}
        """Links with agent discovery -> index of the device it was begun on."""
        self._now = now
        self._links: dict[str, LinkState] = {}
        self._networks: set[tuple[int, int]] = set()
        """Those the engine knows."""
        self._announcer = ArpAnnouncer()
        self._queue: asyncio.Queue[tuple[Input, LinkState | None]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watches: set[asyncio.Task[None]] = set()
        self._rested = asyncio.Event()

    # in

    def start(self) -> None:
        """Begin to work on inputs."""
        self._task = background.start(self._run(), "mobile-driver")

    async def stop(self) -> None:
        """Work on inputs no more."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._watches, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._task = None
        self._announcer.close()

    async def link_changed(self, link: LinkState) -> None:
        """A link is in a new state."""
        self._queue.put_nowait((lambda now: self._agent.link_changed(link, now), link))

    def deliver(self, batch: Iterable[tuple[bytes, Arrival]]) -> None:
        """Datagrams came in on the registration socket."""
        for data, arrival in batch:
            if self._queue.qsize() >= MAX_WAITING:
                self.dropped += 1  # a flood: memory stays bounded, the node asks again
                continue
            self.submit(
                lambda now, data=data, arrival=arrival: self._agent.receive_datagram(  # type: ignore[misc]  # defaults bind the loop variables
                    data, arrival, now
                )
            )

    def deliver_advertisement(self, data: bytes, arrival: Arrival) -> None:
        """A router advertisement came in on a link."""
        if self._queue.qsize() >= MAX_WAITING:
            self.dropped += 1
            return
        self.submit(lambda now: self._agent.receive_advertisement(data, arrival, now))

    def submit(self, step: Input) -> None:
        """Let the agent do something in its turn."""
        self._queue.put_nowait((step, None))

    async def deregister(self, limit_s: float) -> bool:
        """Take the care-of addresses back; whether the home agent agreed in time."""
        self.submit(self._agent.stop)
        try:
            async with asyncio.timeout(limit_s):
                await self._rested.wait()
        except TimeoutError:
            return False
        return True

    async def _run(self) -> None:
        while True:
            step, link = await self._queue.get()
            try:
                await self._go_round(step, link)
            except Exception:  # a defect of ours must not end the mobile node's mobility
                self.failures += 1
                log.exception("round-failed")
            self._arm()

    async def _go_round(self, step: Input, link: LinkState | None) -> None:
        now = self._now()
        if link is not None:
            self._links[link.interface] = link
            self._port.forget_interfaces()
            await self._attempt(self._routing.link_changed(link), f"link {link.interface}")
            if link.carrier:
                self._listen(link.interface)
        effects = step(now)
        # What matters to the network comes before what is only to be read.
        words = [effect for effect in effects if isinstance(effect, Word)]
        for effect in effects:
            if not isinstance(effect, Word):
                await self._carry_out(effect)
        for word in words:
            self._tell(word)
        await self._attempt(self._settle(), "settle")
        if self._agent.stopped:
            self._rested.set()

    def _listen(self, interface: str) -> None:
        """Hear agents on a link; a device that was plugged in again is another one."""
        if self.discovery is None:
            return
        try:
            index = socket.if_nametoindex(interface)
            if self._heard_on.get(interface, index) != index:
                self.discovery.remove(interface)
            self.discovery.add(interface)
            self._heard_on[interface] = index
        except OSError as error:
            self.failures += 1
            log.warning("not-carried-out", what="agent-discovery", reason=str(error))

    async def _settle(self) -> None:
        """Do what is left of the routing, unless an input waits or links are being read."""
        is_done = await self._routing.settle(lambda: not self._queue.empty() or self.links_change())
        if not is_done and self._queue.empty():
            asyncio.get_running_loop().call_later(_SETTLE_AGAIN_S, self.submit, _nothing)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._agent.next_deadline()
        if deadline is None:
            return
        delay_s = min(max(0.0, (deadline - self._now().boot_ns) / 1e9), _LONGEST_SLEEP_S)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        deadline = self._agent.next_deadline()
        if deadline is not None and deadline <= self._now().boot_ns:
            self.submit(self._look)
        else:
            self._arm()

    def _look(self, now: Now) -> list[Effect]:
        """The agent's timer, after it heard what its UDP tunnel carried."""
        if self._udp_tunnel is not None:
            for tunnel in self._engine.traffic(self._home_address):
                if (tunnel["local"], tunnel["remote"]) == self._udp_tunnel:
                    sent, received = tunnel["sent_packets"], tunnel["received_packets"]
                    self._agent.tunnel_carried(sent, received, now)
        return self._agent.handle_timer(now)

    # out

    async def _carry_out(self, effect: Effect) -> None:
        match effect:
            case SendDatagram():
                self._send(effect)
            case SendIcmp() if self.discovery is not None:
                self.discovery.send(effect)
            case PinNeighbour() | UnpinNeighbour():
                await self._attempt(self._pin(effect), "pin-agent")
            case InstallTunnels():
                await self._install(effect)
            case UseNetworks():
                await self._use(effect)
            case RouteThroughTunnel(enabled=True):
                routed = self._routing.route_through_tunnel(
                    reverse=effect.reverse,
                    interface=effect.interface,
                    gateway=effect.gateway,
                    direct=effect.direct,
                )
                await self._attempt(routed, "route-through-tunnel")
            case ConfigureHome(at_home=True):
                await self._attempt(self._routing.at_home(effect.interface), "home-routing")
            case RouteThroughTunnel() | ConfigureHome():
                pass  # the way that replaced it is up already
            case SetArp(enabled=True):
                await self._attempt(self._routing.answer_arp(effect.interface), "answer-arp")
            case SetArp():
                await self._attempt(self._routing.refuse_arp(effect.interface), "refuse-arp")
            case GratuitousArp():
                self._announce(effect)
            case _:
                raise TypeError(f"a mobile node has no business with {type(effect).__name__}")

    async def _pin(self, effect: PinNeighbour | UnpinNeighbour) -> None:
        if isinstance(effect, PinNeighbour):
            await self._routing.pin(effect.address, effect.interface, effect.mac)
        else:
            await self._routing.unpin(effect.address, effect.interface)

    def _send(self, effect: SendDatagram) -> None:
        """From the port of requests, unless the agent answers what came to the well-known one."""
        if effect.source.port == MOBILE_IP_PORT and self.well_known_port is not None:
            self.well_known_port.send(effect)
            return
        source = effect.source._replace(port=self._local_port)
        self._port.send(replace(effect, source=source))

    def _tell(self, word: Word) -> None:
        if isinstance(word, Violation):
            self.violations.note(word, self._now())
            return
        if isinstance(word, UseHostConfiguration):
            if self.hook is not None:
                self.hook.take(word.told)
            return
        log.info(word.name, **dict(word.fields))
        if word.name == "handover":
            self._watch_first_packet(dict(word.fields))

    async def _attempt(self, work: Awaitable[None], what: str) -> None:
        """A link may vanish under our hands; the next link change puts things right."""
        try:
            await work
        except (OSError, FastmipError, NetlinkError) as error:
            self.failures += 1
            log.warning("not-carried-out", what=what, reason=str(error))

    async def _install(self, effect: InstallTunnels) -> None:
        first = effect.tunnels[0] if effect.tunnels else None
        udp = first is not None and first.remote_port != 0
        self._udp_tunnel = (first.local, first.remote) if first is not None and udp else None
        if self._home_broadcast:
            # The engine takes broadcasts of the home network by their destination address.
            told = [tunnel for tunnel in effect.tunnels if tunnel.broadcasts]
            self._publish(self._home_broadcast, told)
        if not self._publish(effect.home_address, effect.tunnels):
            return
        first = effect.tunnels[0]
        followed = self._tunnel.follow_link_mtu(self._link_mtu_bytes(first), first)
        await self._attempt(followed, "tunnel-mtu")

    async def _use(self, effect: UseNetworks) -> None:
        """The engine takes sources of these networks alone, and packets for them."""
        wanted = {(prefix, length) for prefix, length, _ in effect.networks}
        for network in self._networks - wanted:
            self._engine.clear_prefix(*network)
        await self._attempt(self._routing.use_networks(effect.networks), "mobile-networks")
        try:
            for network in wanted - self._networks:
                self._engine.set_prefix(*network, self._home_address)
        except EngineFull as error:
            self.failures += 1
            log.error("networks-not-carried", reason=str(error))  # noqa: TRY400 - expected kind
        self._networks = wanted

    def _publish(self, address: int, tunnels: Sequence[Tunnel]) -> bool:
        """Make these the tunnels of an address; False when there are none, or no room."""
        if not tunnels:
            self._engine.remove(address)
            return False
        try:
            records = b"".join([self._record(address, tunnel) for tunnel in tunnels])
            self._engine.publish(self._engine.prepare(records))
        except EngineFull as error:
            self.failures += 1
            log.error("tunnels-not-installed", reason=str(error))  # noqa: TRY400 - expected kind
            return False
        return True

    def _record(self, home_address: int, tunnel: Tunnel) -> bytes:
        mtu_bytes = self._link_mtu_bytes(tunnel)
        if tunnel.remote_port:
            tunnel = tunnel._replace(local_port=self._local_port)
        return tunnel_record(home_address, tunnel, mtu_bytes=mtu_bytes, tos_mode=self._tos_mode)

    def _link_mtu_bytes(self, tunnel: Tunnel) -> int:
        """MTU of the link that owns the care-of address.

        A tunnel from the home address goes through a foreign agent's: that takes its part.
        """
        if tunnel.local == self._home_address:
            link = self._links.get(self._routing.link_in_use)
            mtu = 1500 if link is None else min(link.mtu, 0xFFFF)
            return max(mtu - OVERHEAD, MIN_DEVICE_MTU)
        for link in self._links.values():
            if any(address == tunnel.local for address, _ in link.addresses):
                return min(link.mtu, 0xFFFF)
        return 1500

    def _announce(self, effect: GratuitousArp) -> None:
        """Broadcast gratuitous ARP with the interface's own MAC; the agent repeats it (4.6)."""
        try:
            self._announcer.announce(effect.interface, effect.home_address, effect.mac)
        except OSError as error:
            self.failures += 1
            log.warning("not-carried-out", what="gratuitous-arp", reason=str(error))

    # how long a handover really took

    def _watch_first_packet(self, handover: dict[str, Any]) -> None:
        local = handover["to_address"]
        ends = {format_address(end["local"]) for end in self._engine.traffic(self._home_address)}
        ends.discard(format_address(self._home_address))  # nested in a foreign agent's tunnel
        work = self._first_packet(handover) if local in ends else self._first_on_link(handover)
        task = asyncio.create_task(work)
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    async def _first_packet(self, handover: dict[str, Any]) -> None:
        began = self._now().boot_ns
        while (now := self._now().boot_ns) - began < _FIRST_PACKET_LIMIT_S * 1e9:
            for tunnel in self._engine.traffic(self._home_address):
                arrived = format_address(tunnel["local"]) == handover["to_address"]
                if arrived and tunnel["received_packets"]:
                    self._note_first_packet(handover, now)
                    return
            await asyncio.sleep(_FIRST_PACKET_POLL_S)

    async def _first_on_link(self, handover: dict[str, Any]) -> None:
        """At home and behind a foreign agent packets do not pass the engine."""
        told = (handover.get("agent"), format_address(self._home_agent))
        senders = {parse_address(sender) for sender in told if sender}
        home, link = self._home_address, handover.get("to_interface", "")
        try:
            if await wait_for_packet(link, home, senders, _FIRST_PACKET_LIMIT_S):
                self._note_first_packet(handover, self._now().boot_ns)
        except OSError as error:
            log.debug("first-packet-not-watched", interface=link, reason=str(error))

    def _note_first_packet(self, handover: dict[str, Any], now_ns: int) -> None:
        self.first_packets[int(handover["reply_ns"])] = now_ns
        gap_ms = (now_ns - int(handover["link_up_ns"])) / 1e6
        log.info("first-packet", address=handover["to_address"], link_up_ms=gap_ms)


def handover_row(fields: dict[str, str | int], first_packet_ns: int) -> dict[str, object]:
    """A line of ``show handover``: milliseconds since the new link came up."""
    up = int(fields["link_up_ns"])
    lost = int(fields["link_lost_ns"])

    def since_up_ms(moment_ns: int) -> float | None:
        return round((moment_ns - up) / 1e6, 3) if moment_ns else None

    return {
        "kind": fields["kind"],
        "from_interface": fields["from_interface"],
        "from_address": fields["from_address"],
        "to_interface": fields["to_interface"],
        "to_address": fields["to_address"],
        "agent": fields["agent"],
        "without_link_ms": round((up - lost) / 1e6, 3) if lost else 0.0,
        "agent_ms": since_up_ms(int(fields["agent_heard_ns"])),
        "request_ms": since_up_ms(int(fields["request_ns"])),
        "reply_ms": since_up_ms(int(fields["reply_ns"])),
        "first_packet_ms": since_up_ms(first_packet_ns),
        "link_up_ns": up,
        "reply_ns": fields["reply_ns"],
    }
