"""The home agent role of the daemon.

Start, in this order: what the machine must offer -> store -> engine filled from the store in
bulk -> TUN device and sockets -> workers run -> traffic attracted, ARP answered -> port 434.
Stop is the way back; bindings stay in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastmip.agents.address_pool import AddressPools
from fastmip.agents.home import HomeAgent
from fastmip.agents.home_counters import BINDINGS
from fastmip.errors import EngineFull, StoreError
from fastmip.runtime import clock, packet_transmit
from fastmip.runtime.arp import ArpResponder
from fastmip.runtime.bpf import OWN_MAX
from fastmip.runtime.broadcast import BroadcastTap
from fastmip.runtime.control_hub import ControlHub, RolePort
from fastmip.runtime.control_port import ControlPort
from fastmip.runtime.directory import HostDirectory
from fastmip.runtime.engine_view import Observed
from fastmip.runtime.group_service import GroupService
from fastmip.runtime.home_checks import check_machine, watches_of
from fastmip.runtime.home_commands import GAUGES, HomeCommands
from fastmip.runtime.home_pipeline import HomePipeline, Prepared
from fastmip.runtime.home_policy import (
    ENCAPSULATIONS,
    hosts_of,
    planned_changes,
    policy_of,
    prefix_of,
    section_of,
    section_or_refuse,
)
from fastmip.runtime.home_restore import restore_bindings
from fastmip.runtime.home_tunnel import HomeTunnel
from fastmip.runtime.libbpf import BpfError
from fastmip.runtime.logging import get_logger
from fastmip.runtime.network_config import outside
from fastmip.runtime.offload import Offload
from fastmip.runtime.path_mtu import PathMtu
from fastmip.runtime.pool_commands import revise_pools
from fastmip.runtime.pool_config import pools_of, reserved_of
from fastmip.runtime.service import Command
from fastmip.runtime.store import Store
from fastmip.runtime.upkeep import Upkeep
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fastmip._dataplane import Engine
    from fastmip.agents.hosts import Host
    from fastmip.runtime.config import Config
    from fastmip.runtime.netlink import Kernel
    from fastmip.runtime.xdp_port import XdpPort

STORE_NAME = "fastmip.db"
_DRAIN_S = 5.0
"""How long a clean stop waits for commits under way."""

log = get_logger("home-agent")


class HomeService:
    """See the module's text; implements ``service.Service``."""

    name = "home-agent"

    def __init__(
        self, config: Config, kernel: Kernel, *, file: str, hub: ControlHub | None = None
    ) -> None:
        self.config = config
        self.section = section_of(config)
        self.store: Store[Prepared] = Store(config.daemon.state_dir / STORE_NAME)
        self.restored = 0
        """Bindings taken over from the store at the start."""
        self.restore_s = 0.0
        """Clocks by which stored expiries were converted."""
        self._file = file
        self.kernel = kernel
        self._hub = hub
        """Port 434, when a foreign agent in this daemon shares it."""
        # Beside a mobile node our own tunnels and replies must stay out of its tunnel.
        self._fwmark = 0 if config.mobile_node is None else config.mobile_node.fwmark
        self._path_mtu: PathMtu
        self._commands = HomeCommands(self)
        self._addresses = AddressPools(pools_of(self.section), reserved=reserved_of(self.section))
        # Set by start, in this order.
        self.engine: Engine
        self.hosts: HostDirectory
        self.agent: HomeAgent
        self.arp: ArpResponder | None = None
        self.tap: BroadcastTap | None = None
        self.pipeline: HomePipeline
        self.tunnel: HomeTunnel | None = None
        self.offload: Offload | None = None
        self._offload_refused = ""
        self.group: GroupService | None = None
        self.port: ControlPort | RolePort | None = None
        self._half_bound_fd = -1
        self._upkeep: Upkeep | None = None
        self._running = False

    # start and stop

    async def start(self) -> None:
        """Bring the home agent up. Raises ConfigError, StartError or DeviceError."""
        from fastmip import _dataplane  # noqa: PLC0415 - only a started agent needs the engine

        began = time.monotonic()
        await check_machine(self.kernel, self.section, self._file)
        self.store.open()
        self.hosts = HostDirectory(
            self.store.query,
            self.section.hosts,
            home_network=prefix_of(self.section.home_network),
            addresses=self._addresses,
        )
        self.engine = _dataplane.Engine(
            max_bindings=self.config.engine.max_bindings,
            role=self.name,
            workers=self.config.engine.workers,
            local_addresses=[int(self.section.address)],
        )
        self._path_mtu = PathMtu(
            int(self.section.address), self.section.path_mtu, fwmark=self._fwmark
        )
        tos = self.section.tos
        tos_mode = _dataplane.TOS_NORMAL if tos == "normal" else _dataplane.TOS_COMPATIBILITY
        own = await self._own_addresses()
        self._load_offload(own)
        self._build_agent(tos_mode)
        self.tunnel = HomeTunnel(
            self.kernel,
            device=self.section.tunnel_device,
            address=int(self.section.address),
            home_network=str(self.section.home_network),
            fwmark=self._fwmark,
            protocols=[ENCAPSULATIONS[name] for name in self.section.encapsulations],
            xdp=self._xdp_port(own),
            transmit=packet_transmit.of(self.config, self._fwmark),
        )
        workers = self.config.engine.workers
        self.port, udp_port = self._make_port(workers)
        await self.tunnel.open(self.engine, workers, udp_port=udp_port)
        half_bound_fd = self.engine.half_bound_fd()
        self.engine.start()
        self._running = True
        await self.tunnel.attract(self.section.interface)
        await self.lead_networks()
        loop = asyncio.get_running_loop()
        self._start_offload(loop)
        if self.arp is not None:
            self.arp.start(loop)
        self._start_tap(loop)
        self.store.start_writer(loop, self.pipeline.stored)
        self.pipeline.use_port(self.port)
        loop.add_reader(half_bound_fd, self._take_keepalives, half_bound_fd)
        self._half_bound_fd = half_bound_fd
        self._start_group(loop)
        self.port.open(loop)
        self._upkeep = Upkeep(
            self.kernel,
            self.section.tunnel_device,
            self.tunnel.changes,
            watches_of(self.kernel, self.section),
        )
        self.pipeline.flush()
        self.restore_s = time.monotonic() - began
        log.info(
            "home-agent-started",
            address=format_address(self.section.address),
            restored_bindings=self.restored,
            seconds=round(self.restore_s, 3),
        )

    def _start_group(self, loop: asyncio.AbstractEventLoop) -> None:
        """Talk to the other home agents, if there is a key for it."""
        group = self.section.group
        if group is not None and group.key is not None:
            self.group = GroupService(group, int(self.section.address), self.agent)
            self.group.start(loop)

    async def _own_addresses(self) -> list[int]:
        """The home agent's address and as many others of this machine as programs know."""
        address = int(self.section.address)
        found = {found for _, found, _ in await self.kernel.all_addresses()}
        return [address, *sorted(found - {address})][:OWN_MAX]

    @property
    def _home_network(self) -> tuple[int, int]:
        network = self.section.home_network
        return int(network.network_address), network.prefixlen

    def _load_offload(self, own: Sequence[int]) -> None:
        """Let the kernel carry what is plain, if the configuration wants it and the kernel can."""
        if not self.config.engine.offload:
            return
        try:
            self.offload = Offload.load(
                self.engine,
                own=own,
                home_networks=[self._home_network],
                interfaces=self.config.engine.interfaces,
                hook=self.config.engine.offload_hook,
            )
        except BpfError as error:
            self._offload_refused = str(error)
            self._without_offload(error)

    def _start_offload(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.offload is None:
            return
        try:
            if self.config.engine.io == "kernel":  # else the sockets' owner attached the program
                self.offload.attach()
            self.offload.start(loop)
        except BpfError as error:
            self.offload.trouble = str(error)
            self.offload.stop()
            self._without_offload(error)

    @staticmethod
    def _without_offload(error: BpfError) -> None:
        log.warning("offload-refused", reason=str(error), remedy="the engine carries on")

    def offload_facts(self) -> dict[str, object]:
        """What ``show runtime`` tells of offload; nothing where it is not wanted."""
        if self.offload is not None:
            return self.offload.facts()
        refused = self._offload_refused
        return {"offload": "off", "offload_trouble": refused} if refused else {}

    def _xdp_port(self, own: Sequence[int]) -> XdpPort | None:
        """AF_XDP sockets, if the configuration wants them."""
        if self.config.engine.io != "xdp":
            return None
        from fastmip.runtime.egress_routes import Flow  # noqa: PLC0415 - of io = "xdp" only
        from fastmip.runtime.xdp_port import XdpPort  # noqa: PLC0415

        return XdpPort(
            self.config.engine.interfaces,
            own=own,
            home_networks=[self._home_network],
            outer=Flow(source=(int(self.section.address), 32), mark=self._fwmark),
            inner=Flow(source=self._home_network, iif=self.section.tunnel_device),
            program=None if self.offload is None else self.offload.program,
        )

    def _start_tap(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch the home link's broadcasts, if any are to be tunnelled."""
        if self.section.interface is None or not self.section.broadcast:
            return
        self.tap = BroadcastTap(
            self.section.interface,
            self.section.broadcast,
            int(self.section.home_network.broadcast_address),
            self.engine.broadcast,
        )
        self.tap.start(loop)

    def _make_port(self, workers: int) -> tuple[ControlPort | RolePort, int]:
        """The registration port, and its number if UDP tunnels share it.

        It is bound before the engine gets its sockets, and read at the end.
        """
        deliver = self.pipeline.deliver
        has_udp = self.section.nat_traversal
        port: ControlPort | RolePort
        if self._hub is not None:
            port = self._hub.join(lambda _data, _arrival: True, deliver)
        else:
            data_sockets = workers if has_udp else 0
            port = ControlPort(deliver, fwmark=self._fwmark, data_sockets=data_sockets)
        return port, port.bind() if has_udp else 0

    def _build_agent(self, tos_mode: int) -> None:
        """Make the agent and fill it, the engine and ARP from the store."""
        network = self.section.home_network
        if self.section.interface is not None:
            self.arp = ArpResponder(
                self.section.interface, int(network.network_address), network.prefixlen
            )
        started = clock.now()
        self._addresses.is_configured = lambda address: self.hosts.lookup(address) is not None
        self._addresses.restore(self.store.pool_addresses(), started.boot_ns)
        self.agent = HomeAgent(
            policy_of(self.config),
            hosts=self.hosts.lookup,
            by_nai=self.hosts.lookup_nai,
            load=self.store.load,
            boot=self.store.boot.id,
            random=os.urandom,
            reserve_prefix=self._reserve_prefix,
            addresses=self._addresses,
            started=started,
            anchor=self.store.boot.anchor,
        )
        self.pipeline = HomePipeline(
            self.agent,
            self.engine,
            self.store.submit,
            arp=self.arp,
            path_mtu=self._path_mtu,
            tos_mode=tos_mode,
        )
        everything = restore_bindings(self.store, self.engine, self._path_mtu, started, tos_mode)
        self.restored = len(everything)
        # All at once: the agent's work is one step for each second in which something expires.
        self.agent.schedule_expiries(everything)
        self._restore_networks(everything)
        if self.arp is not None:
            self.arp.bound.update(everything["home_address"])

    def _reserve_prefix(self, prefix: int, length: int) -> bool:
        """Whether the engine has room for a prefix; setting it cannot fail then."""
        try:
            self.engine.reserve_prefix(prefix, length)
        except EngineFull:
            return False
        return True

    def _restore_networks(self, tunnels: npt.NDArray[np.void]) -> None:
        """Lead mobile networks to the routers whose bindings were restored."""
        rows = self.store.networks()
        if not rows:
            return
        bound = set(tunnels["home_address"].tolist())
        for prefix, length, home_address in self.agent.restore_networks(rows, bound):
            self.engine.set_prefix(prefix, length, home_address)
            if self.arp is not None:
                self.arp.lead_networks((), [(prefix, length)], home_address)

    async def lead_networks(self) -> None:
        """Lead the traffic of all mobile networks to the engine that are configured now."""
        if self.tunnel is not None:
            pools = self.section.pools.policy().pools
            networks = [*self.hosts.networks(), *pools]
            await self.tunnel.lead_networks(outside(networks, self.section.home_network))

    def revise_networks(self) -> None:
        """Take back mobile networks that are not configured any more."""
        now = clock.now()
        self.pipeline.carry_out(self.agent.revise_networks(now), now)
        self.pipeline.flush()

    def path_mtu_bytes(self, care_of_address: int) -> int:
        """Path MTU towards a care-of address, as the kernel knows it now."""
        return self._path_mtu.lookup_bytes(care_of_address)

    def _take_keepalives(self, event_fd: int) -> None:
        """The engine has first keepalives of half-bound UDP tunnels."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(event_fd)
        self.pipeline.keepalives(self.engine.take_half_bound())

    async def stop(self) -> None:
        """Finish what is under way, then undo everything ``start`` did."""
        if self._half_bound_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._half_bound_fd)
            self._half_bound_fd = -1
        if self.port is not None:
            self.port.pause()
            await self._drain()
            self.port.close()
        if hasattr(self, "pipeline"):
            self.pipeline.stop()
            self._path_mtu.close()
        if self.group is not None:
            self.group.stop()
        self.store.close()
        if self.arp is not None:
            self.arp.stop()
        if self.tap is not None:
            self.tap.stop()
        if self.offload is not None:
            self.offload.stop()
        if self.tunnel is not None:
            await self.tunnel.release()
            if self._running:
                self.engine.stop()
                self._running = False
            self.tunnel.close()
        if self.offload is not None:
            self.engine.leave_offload()
            self.offload.close()

    async def _drain(self) -> None:
        """Wait for commits under way, so that their replies leave."""
        deadline = time.monotonic() + _DRAIN_S
        while self.pipeline.outstanding and time.monotonic() < deadline:
            await asyncio.sleep(0.005)

    # keeping it

    async def keep(self) -> None:
        """See ``upkeep.py``."""
        self._commands.look_at_counters()
        if self._upkeep is not None:
            await self._upkeep.look()
            if self.tunnel is not None and self.tunnel.xdp is not None:
                await self.tunnel.xdp.keep()
            if self.tunnel is not None and self.tunnel.transmit is not None:
                self.tunnel.transmit.look()
        if self.offload is not None:
            self.offload.keep()

    # seeing it

    @property
    def is_running(self) -> bool:
        """Whether workers run, so that there is something to see."""
        return self._running

    def status(self) -> dict[str, object]:
        """Flat facts."""
        running = self._running
        return {
            "home_agent": format_address(self.section.address),
            "home_network": str(self.section.home_network),
            "bindings": self.agent.counters()[BINDINGS] if running else 0,
            "restored": self.restored,
            "restore_s": round(self.restore_s, 3),
            **self.store.status(),
            **(self._upkeep.status() if self._upkeep is not None else {}),
        }

    def heartbeats(self) -> list[int]:
        """The engine workers' numbers."""
        return self.engine.heartbeats() if self._running else []

    def observed(self) -> Observed | None:
        """See ``engine_view.py``."""
        if not self._running or self.tunnel is None:
            return None
        lost = self.tunnel.port.receive_drops()
        offloaded = {} if self.offload is None else self.offload.verdicts()
        counters = self._commands.counters()
        return Observed(self.engine, counters, frozenset(GAUGES), lost, offloaded)

    def commands(self) -> Mapping[str, Command]:
        """See ``home_commands.py``."""
        return self._commands.table()

    # reload

    async def plan_reload(self, new: Config) -> list[str]:
        """Changes of ``[home_agent]`` and ``[engine]``. Raises ReloadRefused."""
        return planned_changes(self.config, new)

    async def apply_reload(self, new: Config) -> None:
        """Put hosts, limits and lifetimes of a new file into force."""
        section = section_or_refuse(new)
        before = hosts_of(self.section)
        kept = [address for address, _ in self._addresses.addresses()]
        before |= {at: host for at in kept if (host := self.hosts.lookup(at)) is not None}
        gone = before.keys() - hosts_of(section).keys() - set(kept)
        self.config, self.section = new, section
        self.hosts.set_static(section.hosts)
        taken = revise_pools(self, section)
        self.agent.set_policy(policy_of(new))
        self._path_mtu.upper_bytes = section.path_mtu
        if self.group is not None:
            self.group.stop()
            self.group = None
        self._start_group(asyncio.get_running_loop())
        for home_address in [*taken, *gone]:
            try:
                if home_address in taken:
                    self._withdraw(home_address, before.get(home_address))
                else:
                    self.withdraw_host(home_address, before[home_address])
            except StoreError as error:  # the file is in force; its bindings run out by themselves
                log.error(  # noqa: TRY400 - the reason says it
                    "bindings-not-withdrawn",
                    home_address=format_address(home_address),
                    reason=str(error),
                )
        self.revise_networks()
        await self.lead_networks()

    def withdraw_host(self, home_address: int, host: Host | None = None) -> None:
        """Withdraw the bindings of a host that is served no more; ``host`` is what it was."""
        if self.hosts.lookup(home_address) is not None:
            return  # it left one of file and directory, and still stands in the other
        self._withdraw(home_address, host)

    def _withdraw(self, home_address: int, host: Host | None) -> None:
        now = clock.now()
        self.pipeline.carry_out(self.agent.host_removed(home_address, now, host), now)
        self.pipeline.flush()
