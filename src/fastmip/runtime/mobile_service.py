"""The mobile node role of the daemon.

Start, in this order: engine with TUN device and sockets -> workers run -> home address, tables
and rules -> registration socket -> links watched, which sets everything else in motion. Stop
is the way back, after the home agent was told (for at most STOP_S).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastmip.agents.conversation import Nat
from fastmip.agents.exchange import Identity
from fastmip.agents.hosts import Prefix
from fastmip.agents.mobile import MobileNode
from fastmip.agents.mobile_state import HandoverPolicy, MobileNodeSettings
from fastmip.agents.offers import CareOf
from fastmip.auth.associations import SecurityAssociation
from fastmip.auth.mn_aaa import ChapKey, sign_mn_aaa
from fastmip.runtime import clock, devices
from fastmip.runtime.control_hub import ControlHub, RolePort
from fastmip.runtime.control_port import ControlPort
from fastmip.runtime.discovery_socket import DiscoverySocket, Listener
from fastmip.runtime.engine_view import Observed
from fastmip.runtime.host_hook import HostHook
from fastmip.runtime.logging import get_logger
from fastmip.runtime.mobile_commands import MobileCommands
from fastmip.runtime.mobile_driver import MobileDriver
from fastmip.runtime.mobile_tunnel import MobileTunnel
from fastmip.runtime.movement import LinkWatcher
from fastmip.runtime.routing import MobileRouting
from fastmip.runtime.service import Command, ReloadRefused, StartError
from fastmip.runtime.upkeep import Upkeep
from fastmip.wire.addresses import LIMITED_BROADCAST, UNSPECIFIED, format_address
from fastmip.wire.extensions import Extension
from fastmip.wire.host_configuration import request_host_configuration
from fastmip.wire.revocation import is_home_agents_revocation
from fastmip.wire.vendor import CriticalVendorExtension, NormalVendorExtension, VendorRegistry

if TYPE_CHECKING:
    from fastmip._dataplane import Engine
    from fastmip.agents.effects import Arrival
    from fastmip.runtime.config import Config, MobileNodeConfig
    from fastmip.runtime.netlink import Kernel

STOP_S = 1.5
"""How long a stop waits for the home agent: for two transmissions, a second apart."""
ENGINE_BINDINGS = 64
"""One home address with a handful of care-of addresses."""
ENCAPSULATIONS = {"ipip": devices.IPIP, "gre": devices.GRE, "minimal": devices.MINIMAL}
"""Name in the configuration -> IP protocol number."""
RELOADABLE = ("lifetime", "simultaneous", "reverse_tunnel")
"""Keys of ``[mobile_node]`` a reload can change."""

ANY_HOME_AGENTS = {"off": None, "any": UNSPECIFIED, "home": LIMITED_BROADCAST}
"""Home Agent field while none is assigned (RFC 4433 2)."""

log = get_logger("mobile-node")


def settings_of(config: Config) -> MobileNodeSettings:
    """The agent's settings from the configuration file."""
    section = _section(config)
    network = section.home_network
    return MobileNodeSettings(
        home_address=int(section.home_address),
        home_network=Prefix(int(network.network_address), network.prefixlen),
        home_agent=int(section.home_agent),
        interfaces=tuple(section.interfaces),
        lifetime_s=section.lifetime_s,
        reverse_tunnel=section.reverse_tunnel,
        simultaneous=section.simultaneous,
        encapsulation=ENCAPSULATIONS[section.encapsulation],
        care_of=CareOf(section.care_of),
        eager=section.move_detection == "eager",
        handover=HandoverPolicy(section.handover),
        encapsulating_delivery=section.delivery == "encapsulating",
        broadcasts=section.broadcasts,
        nat=Nat(section.nat),
        keepalive_s=section.keepalive,
        revocation=section.revocation,
        identity=_identity(section, config.vendor_registry()),
        any_home_agent=ANY_HOME_AGENTS[section.dynamic_home_agent],
        refresh_s=section.refresh or 0,
        router=None if section.router is None else section.router.settings(),
    )


def _identity(section: MobileNodeConfig, vendors: VendorRegistry) -> Identity:
    extensions: list[Extension] = []
    if section.host_configuration:
        extensions.append(request_host_configuration())
    for vendor in section.vendor_extensions:
        kind = CriticalVendorExtension if vendor.critical else NormalVendorExtension
        extensions.append(kind(vendor.vendor, vendor.type, bytes.fromhex(vendor.value)))
    return Identity(
        nai=(section.nai or "").encode(),
        extensions=tuple(extensions),
        sign_for_aaa=_Signer(section.aaa.build()) if section.aaa is not None else None,
        foreign={int(agent.address): agent.association_set() for agent in section.foreign_agents},
        vendors=vendors,
    )


@dataclass(frozen=True, slots=True)
class _Signer:
    """Signs for the AAA server; two of the same secret are equal."""

    secret: SecurityAssociation | ChapKey

    def __call__(self, message: bytes, challenge: bytes) -> bytes:
        return sign_mn_aaa(message, self.secret, challenge)


def _section(config: Config) -> MobileNodeConfig:
    if config.mobile_node is None:
        raise StartError("the configuration has no [mobile_node] table: add one")
    return config.mobile_node


class MobileService:
    """See the module's text; implements ``service.Service``."""

    name = "mobile-node"

    def __init__(
        self, config: Config, kernel: Kernel, *, file: str, hub: ControlHub | None = None
    ) -> None:
        self.config = config
        self.section = section = _section(config)
        self.kernel = kernel
        self._file = file
        self._hub = hub
        settings = settings_of(config)
        self.agent = MobileNode(settings, section.association_set(), random_bits=secrets.randbits)
        self.tunnel = MobileTunnel(
            kernel,
            device=section.tunnel_device,
            fwmark=section.fwmark,
            # Fragments and small packets may come in IP-in-IP whatever was agreed on (RFC 2004).
            protocols=tuple({devices.IPIP: 0, settings.encapsulation: 0}),
        )
        self.routing = MobileRouting(
            kernel,
            device=section.tunnel_device,
            home_address=settings.home_address,
            home_network=settings.home_network,
            home_gateway=int(section.gateway),
            interfaces=settings.interfaces,
            fwmark=section.fwmark,
            table=section.table,
            with_agents=self.uses_agents,
            with_broadcasts=section.broadcasts,
            ingress=() if section.router is None else section.router.ingress,
        )
        self._commands = MobileCommands(self)
        self.discovery: DiscoverySocket | None = None
        self._well_known: ControlPort | RolePort | None = None
        # Set by start, in this order.
        self.engine: Engine
        self.driver: MobileDriver | None = None
        self.hook: HostHook | None = None
        self.port: ControlPort | None = None
        self.watcher: LinkWatcher | None = None
        self._upkeep: Upkeep | None = None
        self._running = False

    @property
    def uses_agents(self) -> bool:
        """Agent discovery is on."""
        return self.section.care_of != "co-located"

    def _broadcast(self) -> int:
        """Broadcast address of the home network, if its broadcasts are asked for."""
        network = self.section.home_network
        return int(network.broadcast_address) if self.section.broadcasts else 0

    # start and stop

    async def start(self) -> None:
        """Bring the mobile node up. Raises StartError or DeviceError."""
        from fastmip import _dataplane  # noqa: PLC0415 - only a started agent needs the engine

        workers = self.config.engine.workers
        self.engine = _dataplane.Engine(
            max_bindings=ENGINE_BINDINGS, role=self.name, workers=workers
        )
        tunnels_in_udp = self.section.nat != "off"
        self.port = ControlPort(
            self._deliver,
            port=0,
            fwmark=self.section.fwmark,
            data_sockets=workers if tunnels_in_udp else 0,
        )
        number = self.port.bind()
        await self.tunnel.open(self.engine, workers, udp_port=number if tunnels_in_udp else 0)
        self.engine.start()
        self._running = True
        await self.routing.start()
        self.driver = MobileDriver(
            self.agent,
            self.engine,
            self.routing,
            self.tunnel,
            self.port,
            home_address=int(self.section.home_address),
            tos_mode=_dataplane.TOS_NORMAL,
            local_port=number,
            home_broadcast=self._broadcast(),
            home_agent=int(self.section.home_agent),
        )
        self.hook = self.driver.hook = HostHook(
            self.section.host_configuration_command, int(self.section.home_address)
        )
        loop = asyncio.get_running_loop()
        if self.uses_agents:
            deliver = self.driver.deliver_advertisement
            self.discovery = DiscoverySocket(Listener.MOBILE_NODE, deliver)
            self.discovery.open(loop)
            self.driver.discovery = self.discovery
        if self.section.revocation:
            # The home agent revokes at the port of agents, not at that of our requests.
            self._well_known = self._make_well_known_port()
            self._well_known.open(loop)
            self.driver.well_known_port = self._well_known
        self.port.open(loop)
        self.driver.start()
        self.watcher = LinkWatcher(
            self.kernel,
            self.section.interfaces,
            is_ours=self.routing.is_ours,
            deliver=self.driver.link_changed,
            # Behind a translator two networks may look the same but for their router.
            watch_gateways=self.section.nat != "off",
        )
        self.driver.links_change = self.watcher.is_reading
        await self.watcher.start()
        self._upkeep = Upkeep(self.kernel, self.section.tunnel_device, self.routing.standing)
        for name in self.section.interfaces:
            if await self.kernel.interface(name) is None:
                log.warning("interface-missing", interface=name, remedy="used when it appears")
        log.info(
            "mobile-node-started",
            home_address=format_address(self.section.home_address),
            home_agent=format_address(self.section.home_agent),
            interfaces=",".join(self.section.interfaces),
        )

    def _make_well_known_port(self) -> ControlPort | RolePort:
        if self._hub is not None:
            return self._hub.join(self.claims, self._deliver, first=True)
        return ControlPort(self._deliver, fwmark=self.section.fwmark)

    def claims(self, data: bytes, _arrival: Arrival) -> bool:
        """Whether a datagram on the shared port is ours: a revocation for our home address."""
        return is_home_agents_revocation(data, int(self.section.home_address))

    def _deliver(self, batch: list[tuple[bytes, Arrival]]) -> None:
        if self.driver is not None:
            self.driver.deliver(batch)

    async def stop(self) -> None:
        """Deregister, then undo everything ``start`` did."""
        if self.watcher is not None:
            if self.driver is not None and not await self.driver.deregister(STOP_S):
                log.warning("not-deregistered", remedy="the binding ends with its lifetime")
            await self.watcher.stop()
        if self.driver is not None:
            await self.driver.stop()
        if self.hook is not None:
            await self.hook.stop()
        if self.discovery is not None:
            self.discovery.close()
        for port in (self.port, self._well_known):
            if port is not None:
                port.close()
        await self.routing.stop()
        if self._running:
            self.engine.stop()
            self._running = False
        self.tunnel.close()

    # keeping it

    async def keep(self) -> None:
        """See ``upkeep.py``."""
        if self._upkeep is not None:
            await self._upkeep.look()

    # seeing it

    def status(self) -> dict[str, object]:
        """Flat facts."""
        shown = self.agent.status(clock.now())
        keys = ("state", "home_address", "home_agent", "interface", "care_of_address")
        return {f"mobile_node_{key}" if key == "state" else key: shown[key] for key in keys}

    def heartbeats(self) -> list[int]:
        """The engine workers' numbers."""
        return self.engine.heartbeats() if self._running else []

    def observed(self) -> Observed | None:
        """See ``engine_view.py``."""
        if not self._running:
            return None
        lost = self.tunnel.port.receive_drops()
        return Observed(self.engine, self._commands.counters(), frozenset(), lost)

    def commands(self) -> Mapping[str, Command]:
        """See ``mobile_commands.py``."""
        return self._commands.table()

    # reload

    async def plan_reload(self, new: Config) -> list[str]:
        """Changes of ``[mobile_node]``. Raises ReloadRefused."""
        if new.mobile_node is None:
            raise ReloadRefused("[mobile_node] was removed: restart instead")
        changed = [
            name
            for name in type(self.section).__struct_fields__
            if getattr(self.section, name) != getattr(new.mobile_node, name)
        ]
        fixed = [name for name in changed if name not in RELOADABLE]
        if fixed:
            raise ReloadRefused(f"mobile_node: {', '.join(fixed)} cannot change: restart instead")
        return [
            f"mobile_node.{name}: {getattr(self.section, name)} -> {getattr(new.mobile_node, name)}"
            for name in changed
        ]

    async def apply_reload(self, new: Config) -> None:
        """Put lifetime, simultaneous bindings and reverse tunnelling of a new file into force."""
        self.config, self.section = new, _section(new)
        settings = settings_of(new)
        if self.driver is not None:
            self.driver.submit(lambda now: self.agent.change_settings(settings, now))
