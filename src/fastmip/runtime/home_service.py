"""The home agent role of the daemon.

Start, in this order: what the machine must offer -> store -> engine filled from the store in
bulk -> TUN device and sockets -> workers run -> traffic attracted, ARP answered -> port 434.
Stop is the way back; bindings stay in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastmip.agents.bindings import TUNNEL_DTYPE, tunnel_records
from fastmip.agents.home import HomeAgent
from fastmip.agents.home_counters import BINDINGS
from fastmip.agents.hosts import HomeAgentPolicy, Host, Prefix, ReverseTunnel
from fastmip.errors import ConfigError, EngineFull, StoreError
from fastmip.runtime import clock
from fastmip.runtime.arp import ArpResponder
from fastmip.runtime.bpf import OWN_MAX
from fastmip.runtime.broadcast import BroadcastTap
from fastmip.runtime.control_hub import ControlHub, RolePort
from fastmip.runtime.control_port import ControlPort
from fastmip.runtime.directory import HostDirectory, host_of
from fastmip.runtime.engine_view import Observed
from fastmip.runtime.home_commands import GAUGES, HomeCommands
from fastmip.runtime.home_pipeline import HomePipeline, Prepared
from fastmip.runtime.home_tunnel import HomeTunnel
from fastmip.runtime.libbpf import BpfError
from fastmip.runtime.logging import get_logger
from fastmip.runtime.netlink import read_sysctl
from fastmip.runtime.network_config import outside
from fastmip.runtime.offload import Offload
from fastmip.runtime.path_mtu import PathMtu
from fastmip.runtime.service import Command, ReloadRefused, StartError
from fastmip.runtime.store import Store
from fastmip.runtime.upkeep import Upkeep, Watch
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from fastmip._dataplane import Engine
    from fastmip.runtime.config import Config, HomeAgentConfig
    from fastmip.runtime.netlink import Kernel
    from fastmip.runtime.xdp_port import XdpPort

STORE_NAME = "fastmip.db"
NEEDS_RESTART = (
    "address",
    "home_network",
    "interface",
    "tunnel_device",
    "tos",
    "encapsulations",
    "broadcast",
)
"""Keys of ``[home_agent]`` that a reload cannot change."""
_PEERS = ("hosts", "foreign_agents")
"""Fields whose changes are told peer by peer."""
_MTU_LOOKUPS = 20_000
"""Path MTU look-ups of a restart: 50 ms; beyond, the configured bound has to do."""
_DRAIN_S = 5.0
"""How long a clean stop waits for commits under way."""

_REVERSE = {
    "optional": ReverseTunnel.ALLOW,
    "required": ReverseTunnel.REQUIRE,
    "off": ReverseTunnel.REFUSE,
}

_ENCAPSULATIONS = {"ipip": 4, "minimal": 55, "gre": 47}

log = get_logger("home-agent")


def policy_of(config: Config) -> HomeAgentPolicy:
    """The agent's policy from the configuration file."""
    section = _section(config)
    return HomeAgentPolicy(
        home_agent_address=int(section.address),
        home_network=_prefix(section.home_network),
        home_interface=section.interface or "",
        max_lifetime_s=section.max_lifetime_s,
        simultaneous_bindings=section.max_simultaneous,
        max_bindings=config.engine.max_bindings,
        max_bindings_per_second=section.max_bindings_per_second,
        reverse_tunnel=_REVERSE[section.reverse_tunnel],
        strict_reserved=section.strict_reserved,
        strict_source=section.strict_source,
        answer_bad_authentication=section.answer_bad_authentication,
        care_of_prefixes=tuple(map(_prefix, section.care_of_networks)),
        denials_per_second=section.denials_per_second,
        foreign_agents={
            int(agent.address): agent.association_set() for agent in section.foreign_agents
        }.get,
        encapsulations=frozenset(_ENCAPSULATIONS[name] for name in section.encapsulations),
        nat_traversal=section.nat_traversal,
        nat_force=section.nat_force,
        nat_keepalive_s=section.nat_keepalive,
        nat_max_lifetime_s=section.nat_max_lifetime_s,
        revocation=section.revocation,
        revocation_inform=section.revocation_inform,
        aaa_authorizes=section.aaa_authorization,
        identity=(section.identity or "").encode(),
        vendors=config.vendor_registry(),
        experimental=config.daemon.experimental,
        broadcasts=bool(section.broadcast),
        networks=section.pools.policy(),
    )


def _prefix(network: IPv4Network) -> Prefix:
    return Prefix(int(network.network_address), network.prefixlen)


def _section(config: Config) -> HomeAgentConfig:
    if config.home_agent is None:
        raise StartError("the configuration has no [home_agent] table: add one")
    return config.home_agent


class HomeService:
    """See the module's text; implements ``service.Service``."""

    name = "home-agent"

    def __init__(
        self, config: Config, kernel: Kernel, *, file: str, hub: ControlHub | None = None
    ) -> None:
        self.config = config
        self.section = _section(config)
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
        self.port: ControlPort | RolePort | None = None
        self._half_bound_fd = -1
        self._upkeep: Upkeep | None = None
        self._running = False

    # start and stop

    async def start(self) -> None:
        """Bring the home agent up. Raises ConfigError, StartError or DeviceError."""
        from fastmip import _dataplane  # noqa: PLC0415 - only a started agent needs the engine

        began = time.monotonic()
        await self._check_machine()
        self.store.open()
        self.hosts = HostDirectory(
            self.store.query, self.section.hosts, home_network=_prefix(self.section.home_network)
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
            protocols=[_ENCAPSULATIONS[name] for name in self.section.encapsulations],
            xdp=self._xdp_port(own),
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
        self.port.open(loop)
        self._upkeep = Upkeep(
            self.kernel, self.section.tunnel_device, self.tunnel.changes, self._watches()
        )
        self.pipeline.flush()
        self.restore_s = time.monotonic() - began
        log.info(
            "home-agent-started",
            address=format_address(self.section.address),
            restored_bindings=self.restored,
            seconds=round(self.restore_s, 3),
        )

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
        self.agent = HomeAgent(
            policy_of(self.config),
            hosts=self.hosts.lookup,
            by_nai=self.hosts.lookup_nai,
            load=self.store.load,
            boot=self.store.boot.id,
            random=os.urandom,
            reserve_prefix=self._reserve_prefix,
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
        restored = [np.zeros(0, dtype=TUNNEL_DTYPE)]
        for chunk in self.store.chunks():
            tunnels = tunnel_records(
                chunk,
                boot=self.store.boot.id,
                now=started,
                anchor=self.store.boot.anchor,
                mtu_bytes=self.section.path_mtu,
                tos_mode=tos_mode,
            )
            tunnels["mtu"] = self._path_mtus(tunnels["remote"])
            restored.append(self._install(tunnels))
        everything = np.concatenate(restored)
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

    def _install(self, tunnels: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
        """Fill the engine; returns what it took. A bad record costs its own node only."""
        try:
            self.engine.restore(tunnels.tobytes())
        except (EngineFull, ValueError) as error:
            log.error("restore-in-part", reason=str(error))  # noqa: TRY400 - the reason says it
        else:
            return tunnels
        starts = np.flatnonzero(np.diff(tunnels["home_address"], prepend=0)).tolist()
        taken = np.zeros(len(tunnels), dtype=bool)
        for start, end in itertools.pairwise([*starts, len(tunnels)]):
            with contextlib.suppress(EngineFull, ValueError):
                self.engine.publish(self.engine.prepare(tunnels[start:end].tobytes()))
                taken[start:end] = True
        lost = tunnels[~taken]["home_address"][:10]
        log.error(
            "bindings-not-restored",
            count=int((~taken).sum()),
            first=", ".join(format_address(address) for address in lost.tolist()),
            remedy="raise engine.max_bindings, or let these nodes register again",
        )
        return tunnels[taken]

    def _path_mtus(self, remotes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
        """Path MTUs of many care-of addresses; one look-up for neighbours in a /24."""
        networks, where = np.unique(remotes >> np.uint32(8), return_inverse=True)
        if len(networks) > _MTU_LOOKUPS:
            return np.full(len(remotes), self.section.path_mtu, dtype=np.uint16)
        lookup = self._path_mtu.lookup_bytes
        found = [lookup((network << 8) | 1) for network in networks.tolist()]
        return np.array(found, dtype=np.uint16)[where]

    def path_mtu_bytes(self, care_of_address: int) -> int:
        """Path MTU towards a care-of address, as the kernel knows it now."""
        return self._path_mtu.lookup_bytes(care_of_address)

    async def _check_machine(self) -> None:
        if read_sysctl("net/ipv4/ip_forward") != "1":
            raise StartError(
                "net.ipv4.ip_forward is 0, but a home agent forwards: run"
                " sysctl -w net.ipv4.ip_forward=1 and keep it in /etc/sysctl.d"
            )
        address = int(self.section.address)
        if not await self.kernel.is_own_address(address):
            raise ConfigError(
                self._file,
                "home_agent.address",
                f"{format_address(address)} is not configured on this machine: add it to an"
                " interface first",
            )
        name = self.section.interface
        if name is None:
            return
        found = await self.kernel.interface(name)
        if found is None or not found.mac:
            raise ConfigError(
                self._file,
                "home_agent.interface",
                f"{name} is not an Ethernet interface of this machine: name the home link, or"
                " leave the key out for a virtual home network",
            )

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
        if self.offload is not None:
            self.offload.keep()

    def _watches(self) -> list[Watch]:
        address, home_link = int(self.section.address), self.section.interface

        async def has_address() -> bool:
            tunnel = await self.kernel.interface(self.section.tunnel_device)
            borrower = 0 if tunnel is None else tunnel.index  # see HomeTunnel
            return await self.kernel.is_own_address(address, besides=borrower)

        async def has_home_link() -> bool:
            found = await self.kernel.interface(home_link or "")
            return found is not None and found.is_up

        async def forwards() -> bool:
            return read_sysctl("net/ipv4/ip_forward") == "1"

        where = home_link or "an interface"
        watches = [
            Watch("address-missing", f"put {format_address(address)} on {where}", has_address),
            Watch("ip-forward-off", "run sysctl -w net.ipv4.ip_forward=1", forwards),
        ]
        if home_link is not None:
            watches.append(
                Watch("home-link-down", f"run ip link set {home_link} up", has_home_link)
            )
        return watches

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
        section = _section_or_refuse(new)
        changed = [
            key for key in NEEDS_RESTART if getattr(section, key) != getattr(self.section, key)
        ]
        if new.engine != self.config.engine:
            changed.append("[engine]")
        if changed:
            raise ReloadRefused(f"home_agent: {', '.join(changed)} cannot change: restart instead")
        policy_of(new)  # whatever is wrong with it is heard now
        fields = [name for name in type(section).__struct_fields__ if name not in _PEERS]
        changes = [
            f"home_agent.{name}: {_shown(getattr(self.section, name))}"
            f" -> {_shown(getattr(section, name))}"
            for name in fields
            if getattr(section, name) != getattr(self.section, name)
        ]
        changes += _differences("host", _hosts_of(self.section), _hosts_of(section))
        changes += _differences("foreign agent", _agents_of(self.section), _agents_of(section))
        return changes

    async def apply_reload(self, new: Config) -> None:
        """Put hosts, limits and lifetimes of a new file into force."""
        section = _section_or_refuse(new)
        before = _hosts_of(self.section)
        gone = before.keys() - _hosts_of(section).keys()
        self.config, self.section = new, section
        self.hosts.set_static(section.hosts)
        self.agent.set_policy(policy_of(new))
        self._path_mtu.upper_bytes = section.path_mtu
        for home_address in gone:
            try:
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
        now = clock.now()
        self.pipeline.carry_out(self.agent.host_removed(home_address, now, host), now)
        self.pipeline.flush()


def _section_or_refuse(config: Config) -> HomeAgentConfig:
    if config.home_agent is None:
        raise ReloadRefused("[home_agent] was removed: restart instead")
    return config.home_agent


def _hosts_of(section: HomeAgentConfig) -> dict[int, Host]:
    return {int(host.home_address): host_of(host) for host in section.hosts}


def _agents_of(section: HomeAgentConfig) -> dict[int, object]:
    return {int(agent.address): agent.association_set() for agent in section.foreign_agents}


def _differences(kind: str, old: Mapping[int, object], new: Mapping[int, object]) -> list[str]:
    """One line for each peer of a kind that was removed, added or changed."""
    found = dict.fromkeys(old.keys() - new.keys(), "removed")
    found |= dict.fromkeys(new.keys() - old.keys(), "added")
    found |= {a: "changed" for a in old.keys() & new.keys() if old[a] != new[a]}
    return [f"{kind} {format_address(a)}: {found[a]}" for a in sorted(found)]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
