"""The foreign agent role of the daemon.

Start, in this order: what the machine must offer -> engine with TUN device and sockets -> workers
run -> tables and rules -> port 434 and the links, on which visitors ask. Stop is the way back,
after the home agents were told (for at most STOP_S). Visitors are not stored: after a restart
sequence number 0 tells them to register again (RFC 5944 2.4.4).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fastmip.agents.effects import Arrival, Now
from fastmip.agents.fixed_hosts import FixedHosts
from fastmip.agents.foreign import ForeignAgent
from fastmip.agents.foreign_policy import ForeignAgentPolicy, ForeignLink, Nat
from fastmip.agents.home_choice import Member
from fastmip.agents.hosts import Prefix, ReverseTunnel
from fastmip.errors import ConfigError
from fastmip.runtime import clock
from fastmip.runtime.alarm import Alarm
from fastmip.runtime.control_hub import ControlHub, RolePort
from fastmip.runtime.control_port import ControlPort
from fastmip.runtime.engine_view import Observed
from fastmip.runtime.foreign_commands import GAUGES, ForeignCommands
from fastmip.runtime.foreign_pipeline import ForeignPipeline
from fastmip.runtime.foreign_tunnel import ForeignTunnel
from fastmip.runtime.link_port import LinkPort
from fastmip.runtime.logging import get_logger
from fastmip.runtime.netlink import read_sysctl
from fastmip.runtime.path_mtu import PathMtu
from fastmip.runtime.router_config import serves_from_networks
from fastmip.runtime.service import Command, ReloadRefused, StartError
from fastmip.runtime.upkeep import Upkeep, Watch
from fastmip.wire.addresses import format_address, is_multicast
from fastmip.wire.codes import FLAG_COLOCATED, MessageType
from fastmip.wire.registration import REQUEST_LEN

if TYPE_CHECKING:
    from fastmip._dataplane import Engine
    from fastmip.auth.associations import AssociationSet
    from fastmip.runtime.advertise_service import AdvertiseService
    from fastmip.runtime.config import Config
    from fastmip.runtime.foreign_config import ForeignAgentRoleConfig
    from fastmip.runtime.netlink import Kernel

STOP_S = 1.5
"""How long a stop waits for home agents to acknowledge revocations."""
NEEDS_RESTART = (
    "interfaces",
    "care_of_addresses",
    "tunnel_device",
    "encapsulations",
    "challenge_window",
    "nat",
    "tos",
    "fixed_hosts",
)
"""Keys of ``[foreign_agent]`` that a reload cannot change."""
_PEERS = ("mobile_nodes", "home_agents")
_PROTOCOLS = {"ipip": 4, "gre": 47, "minimal": 55}
_REVERSE = {
    "optional": ReverseTunnel.ALLOW,
    "required": ReverseTunnel.REQUIRE,
    "off": ReverseTunnel.REFUSE,
}
_REVOCATION_FLAGS_PLACE, _BY_HOME_AGENT = 2, 0x80

log = get_logger("foreign-agent")


def policy_of(
    config: Config, links: tuple[ForeignLink, ...], own: frozenset[int]
) -> ForeignAgentPolicy:
    """The agent's policy from the configuration file and the addresses found on the machine."""
    section = _section(config)
    by_address: dict[int, AssociationSet] = {}
    by_nai: dict[bytes, AssociationSet] = {}
    for node in section.mobile_nodes:
        if node.home_address is not None:
            by_address[int(node.home_address)] = node.association_set()
        elif node.nai is not None:
            by_nai[node.nai.encode()] = node.association_set()
    home_agents = {int(peer.address): peer.association_set() for peer in section.home_agents}

    def mobile_node(home_address: int, nai: bytes | None) -> AssociationSet | None:
        found = by_address.get(home_address)
        return by_nai.get(nai) if found is None and nai is not None else found

    home = config.home_agent
    told = {item.interface: item.challenge for item in config.advertisements}
    return ForeignAgentPolicy(
        links=tuple(replace(link, has_challenge=told.get(link.interface)) for link in links),
        own=own,
        home_agents=frozenset() if home is None else frozenset({int(home.address)}),
        encapsulations=frozenset(_PROTOCOLS[name] for name in section.encapsulations),
        reverse_tunnel=_reverse_tunnel(config, section),
        has_encapsulating_delivery=section.encapsulating_delivery,
        max_lifetime_s=section.max_lifetime_s,
        max_visitors=section.max_visitors,
        max_pending=section.max_pending,
        max_pending_per_node=section.max_pending_per_node,
        max_visitors_per_node=section.max_visitors_per_node,
        requires_registration=section.registration_required,
        has_challenge=section.challenge,
        challenge_window=section.challenge_window,
        has_revocation=section.revocation,
        requires_revocation=section.revocation_required,
        has_inform=section.revocation_inform,
        nat=Nat(section.nat),
        keepalive_s=section.nat_keepalive,
        strict_reserved=section.strict_reserved,
        experimental=config.daemon.experimental,
        home_networks=tuple(
            Prefix(int(network.network_address), network.prefixlen)
            for network in section.home_networks
        ),
        assigned_home_agents=tuple(Member(int(one)) for one in section.assigned_home_agents),
        denials_per_second=section.denials_per_second,
        mobile_nodes=mobile_node,
        home_agent_associations=home_agents.get,
        vendors=config.vendor_registry(),
    )


def _reverse_tunnel(config: Config, section: ForeignAgentRoleConfig) -> ReverseTunnel:
    """In a mobile network a visitor's packets leave by tunnels only: its address is not ours."""
    if section.reverse_tunnel == "optional" and serves_from_networks(config):
        return ReverseTunnel.REQUIRE
    return _REVERSE[section.reverse_tunnel]


def _section(config: Config) -> ForeignAgentRoleConfig:
    if config.foreign_agent is None:
        raise StartError("the configuration has no [foreign_agent] table: add one")
    return config.foreign_agent


class ForeignService:
    """See the module's text; implements ``service.Service``."""

    name = "foreign-agent"

    def __init__(
        self, config: Config, kernel: Kernel, *, file: str, hub: ControlHub | None = None
    ) -> None:
        self.config = config
        self.section = _section(config)
        self.kernel = kernel
        self.advertise: AdvertiseService | None = None
        """Set by the daemon: who tells visitors that their registration is gone."""
        self._file = file
        self._hub = hub
        alone = config.mobile_node is None or serves_from_networks(config)
        self._fwmark = 0 if alone or config.mobile_node is None else config.mobile_node.fwmark
        self._commands = ForeignCommands(self)
        self.fixed_hosts = FixedHosts((), secrets.randbits)
        self._fixed_alarm = Alarm(self.fixed_hosts.next_deadline, self._look_after_fixed_hosts)
        # Set by start, in this order.
        self.links: tuple[ForeignLink, ...] = ()
        self.agent: ForeignAgent
        self.engine: Engine
        self.pipeline: ForeignPipeline
        self.tunnel: ForeignTunnel | None = None
        self.port: ControlPort | RolePort | None = None
        self.link_port: LinkPort
        self._path_mtu: PathMtu
        self._offered: frozenset[int] = frozenset()
        self._ours: frozenset[int] = frozenset()
        self._upkeep: Upkeep | None = None
        self._planned: ForeignAgentPolicy
        """Of the file that ``plan_reload`` looked at last."""
        self._room = self.section.max_visitors
        """Visitors the engine was made for."""
        self._running = False

    # start and stop

    async def start(self) -> None:
        """Bring the foreign agent up. Raises ConfigError, StartError or DeviceError."""
        from fastmip import _dataplane  # noqa: PLC0415 - only a started agent needs the engine

        section = self.section
        self.links = await self._find_links()
        self._offered = frozenset(a for link in self.links for a in link.care_of_addresses)
        self._ours = self._offered | {link.address for link in self.links}
        self.agent = ForeignAgent(
            policy_of(self.config, self.links, await self._own_addresses()),
            random=os.urandom,
            notifier=self.advertise,
        )
        workers = self.config.engine.workers
        self.engine = _dataplane.Engine(
            max_bindings=self._room + 1,
            role=self.name,
            workers=workers,
            local_addresses=sorted(self._ours),
        )
        first = self.links[0].care_of_addresses[0]
        self._path_mtu = PathMtu(first, section.path_mtu, fwmark=self._fwmark)
        self.tunnel = ForeignTunnel(
            self.kernel,
            device=section.tunnel_device,
            address=first,
            interfaces=section.interfaces,
            protocols=[_PROTOCOLS[name] for name in section.encapsulations],
            fwmark=self._fwmark,
        )
        tos = _dataplane.TOS_NORMAL if section.tos == "normal" else _dataplane.TOS_COMPATIBILITY
        self.pipeline = ForeignPipeline(
            self.agent,
            self.engine,
            self.tunnel,
            path_mtu=self._path_mtu,
            advertise=self._advertise,
            tos_mode=tos,
        )
        self.port, udp_port = self._make_port(workers)
        await self.tunnel.open(self.engine, workers, udp_port=udp_port)
        self.engine.start()
        self._running = True
        await self.tunnel.attract()
        loop = asyncio.get_running_loop()
        self.pipeline.start(self.port)
        self.port.open(loop)
        self.fixed_hosts = FixedHosts(
            [host.host(self.links) for host in section.fixed_hosts], secrets.randbits
        )
        self._fixed_alarm = Alarm(self.fixed_hosts.next_deadline, self._look_after_fixed_hosts)
        self._look_after_fixed_hosts(clock.now())
        self.link_port = LinkPort(self._receive_from_link, self._ours.__contains__)
        self.link_port.open(loop, section.interfaces)
        self._upkeep = Upkeep(
            self.kernel, section.tunnel_device, self.tunnel.changes, self._watches()
        )
        log.info(
            "foreign-agent-started",
            links=", ".join(section.interfaces),
            care_of_addresses=", ".join(map(format_address, sorted(self._offered))),
        )

    def _make_port(self, workers: int) -> tuple[ControlPort | RolePort, int]:
        """Port 434, and its number if UDP tunnels share it."""
        has_udp = self.section.nat != "none"
        if self._hub is not None:
            role = self._hub.join(self.claims, self._receive, self.pipeline.report)
            return role, role.bind() if has_udp else 0
        port = ControlPort(
            self._receive,
            fwmark=self._fwmark,
            data_sockets=workers if has_udp else 0,
            report=self.pipeline.report,
        )
        return port, port.bind() if has_udp else 0

    async def _find_links(self) -> tuple[ForeignLink, ...]:
        if read_sysctl("net/ipv4/ip_forward") != "1":
            raise StartError(
                "net.ipv4.ip_forward is 0, but a foreign agent forwards: run"
                " sysctl -w net.ipv4.ip_forward=1 and keep it in /etc/sysctl.d"
            )
        found = []
        offered = tuple(int(address) for address in self.section.care_of_addresses)
        own = await self._own_addresses()
        for number, address in enumerate(offered):
            if address not in own:
                raise ConfigError(
                    self._file,
                    f"foreign_agent.care_of_addresses[{number}]",
                    f"{format_address(address)} is not configured on this machine: add it to an"
                    " interface first",
                )
        for number, name in enumerate(self.section.interfaces):
            path = f"foreign_agent.interfaces[{number}]"
            interface = await self.kernel.interface(name)
            if interface is None or not interface.mac:
                remedy = f"{name} is not an Ethernet interface of this machine: name a link"
                raise ConfigError(self._file, path, remedy)
            subnets = await self.kernel.addresses(interface.index)
            addresses = [address for address, _ in subnets]
            if not addresses:
                raise ConfigError(self._file, path, f"{name} has no address: give it one first")
            # An offered address that is on the link speaks for us there.
            address = next((a for a in addresses if a in offered), addresses[0])
            prefixes = tuple(Prefix(*subnet) for subnet in subnets)
            found.append(ForeignLink(name, address, offered or (address,), prefixes))
        return tuple(found)

    async def _own_addresses(self) -> frozenset[int]:
        return frozenset(address for _, address, _ in await self.kernel.all_addresses())

    def link(self, interface: str) -> ForeignLink:
        """The link with this name; the agent has started."""
        return next(link for link in self.links if link.interface == interface)

    async def stop(self) -> None:
        """Tell the home agents, then undo everything ``start`` did."""
        self._fixed_alarm.stop()
        if self.port is not None and hasattr(self, "pipeline"):
            if self.section.revoke_on_stop and self._running:
                await self._revoke_all()
            await self.pipeline.stop()
            self.port.close()
        if hasattr(self, "link_port"):
            self.link_port.close()
        if hasattr(self, "_path_mtu"):
            self._path_mtu.close()
        if self.tunnel is not None:
            await self.tunnel.release()
            if self._running:
                self.engine.stop()
                self._running = False
            self.tunnel.close()

    async def _revoke_all(self) -> None:
        now = clock.now()
        self.pipeline.carry_out(self.agent.revoke_all(now), now)
        deadline = time.monotonic() + STOP_S
        while self.agent.unacknowledged and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await self.pipeline.settle()

    def _advertise(self, effect: object) -> None:
        from fastmip.agents.effects import SendIcmp  # noqa: PLC0415

        if self.advertise is not None and isinstance(effect, SendIcmp):
            self.advertise.send(effect)

    # receiving

    def claims(self, data: bytes, arrival: Arrival) -> bool:
        """Whether a datagram on the shared port is ours and not the home agent's."""
        kind = data[0] if data else 0
        if kind == MessageType.REGISTRATION_REQUEST:
            is_here = arrival.interface in self.section.interfaces
            return is_here and not self._is_home_agents(data, arrival)
        if kind == MessageType.REVOCATION:
            return len(data) > _REVOCATION_FLAGS_PLACE and bool(
                data[_REVOCATION_FLAGS_PLACE] & _BY_HOME_AGENT
            )
        if arrival.destination.address not in self._offered:
            return False
        if kind == MessageType.REVOCATION_ACKNOWLEDGMENT:
            # It does not tell a home agent from a foreign agent at one address.
            home_address = int.from_bytes(data[4:8], "big")
            return self.agent.awaits_acknowledgment(home_address, arrival.source.address)
        return kind == MessageType.REGISTRATION_REPLY

    def _is_home_agents(self, data: bytes, arrival: Arrival) -> bool:
        """Whether a request is for the home agent here, and not through us.

        Where both have one address, what it asks for decides.
        """
        home = self.config.home_agent
        if home is None or len(data) < REQUEST_LEN:
            return False
        destination = arrival.destination.address
        if destination in self._ours and destination != int(home.address):
            return False
        if int.from_bytes(data[8:12], "big") != int(home.address):
            return destination not in self._ours and not is_multicast(destination)
        care_of_address = int.from_bytes(data[12:16], "big")
        return bool(data[1] & FLAG_COLOCATED) or care_of_address not in self._offered

    def _receive(self, batch: list[tuple[bytes, Arrival]]) -> None:
        """From the control port: requests of visitors come off their links instead."""
        requests = MessageType.REGISTRATION_REQUEST
        rest = [item for item in batch if not item[0] or item[0][0] != requests]
        for item in [item for item in rest if self.fixed_hosts.claims(item[0])]:
            rest.remove(item)
            now = clock.now()
            self.pipeline.carry_out(self.fixed_hosts.receive(*item, now), now)
            self._fixed_alarm.set()
        self.pipeline.deliver(rest)

    def _look_after_fixed_hosts(self, now: Now) -> None:
        self.pipeline.carry_out(self.fixed_hosts.handle_timer(now), now)
        self._fixed_alarm.set()

    def _receive_from_link(self, batch: list[tuple[bytes, Arrival]]) -> None:
        self.pipeline.deliver([item for item in batch if not self._is_home_agents(*item)])

    # keeping it

    async def keep(self) -> None:
        """See ``upkeep.py``; besides, follow links that were made anew, and their routes."""
        if self._upkeep is not None and self.tunnel is not None:
            await self._upkeep.look()
            for name in self.section.interfaces:
                found = await self.kernel.interface(name)
                if found is not None and self.link_port.follow(name, found.index):
                    await self.tunnel.relax_link(name)
                    log.info("link-back", interface=name)
            await self.tunnel.restore()

    def _watches(self) -> list[Watch]:
        async def has_addresses() -> bool:
            tunnel = await self.kernel.interface(self.section.tunnel_device)
            borrower = 0 if tunnel is None else tunnel.index
            own = {a for index, a, _ in await self.kernel.all_addresses() if index != borrower}
            return self._ours <= own

        async def forwards() -> bool:
            return read_sysctl("net/ipv4/ip_forward") == "1"

        async def has_links() -> bool:
            found = [await self.kernel.interface(name) for name in self.section.interfaces]
            return all(interface is not None and interface.is_up for interface in found)

        addresses = ", ".join(map(format_address, sorted(self._ours)))
        links = " ".join(self.section.interfaces)
        return [
            Watch("address-missing", f"put {addresses} back", has_addresses),
            Watch("ip-forward-off", "run sysctl -w net.ipv4.ip_forward=1", forwards),
            Watch("visitors-link-down", f"run ip link set up for {links}", has_links),
        ]

    # seeing it

    def status(self) -> dict[str, object]:
        """Flat facts."""
        counters = self.agent.counters() if self._running else {}
        return {
            "foreign_agent": ", ".join(map(format_address, sorted(self._offered))),
            "visitors": counters.get("faVisitors", 0),
            "pending": counters.get("faPendingRequests", 0),
            "busy": self._running and self.agent.is_busy(),
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
        return Observed(self.engine, self._commands.counters(), frozenset(GAUGES), lost)

    def commands(self) -> Mapping[str, Command]:
        """See ``foreign_commands.py``."""
        return self._commands.table()

    # reload

    async def plan_reload(self, new: Config) -> list[str]:
        """Changes of ``[foreign_agent]``. Raises ReloadRefused."""
        section = new.foreign_agent
        if section is None:
            raise ReloadRefused("[foreign_agent] was removed: restart instead")
        changed = [
            key for key in NEEDS_RESTART if getattr(section, key) != getattr(self.section, key)
        ]
        if section.max_visitors > self._room:
            changed.append("max_visitors (more of them)")
        if new.engine != self.config.engine:
            changed.append("[engine]")
        if changed:
            names = ", ".join(changed)
            raise ReloadRefused(f"foreign_agent: {names} cannot change: restart instead")
        self._planned = policy_of(new, self.links, await self._own_addresses())
        changes = []
        for name in type(section).__struct_fields__:
            before, after = getattr(self.section, name), getattr(section, name)
            if before == after:
                continue
            told = "changed" if name in _PEERS else f"{before} -> {after}"
            changes.append(f"foreign_agent.{name}: {told}")
        return changes

    async def apply_reload(self, new: Config) -> None:
        """Put limits, peers and policies of a new file into force."""
        self.config, self.section = new, _section(new)
        self._path_mtu.upper_bytes = self.section.path_mtu
        now = clock.now()
        self.pipeline.carry_out(self.agent.set_policy(self._planned, now), now)
