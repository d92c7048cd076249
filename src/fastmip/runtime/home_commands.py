"""What an operator can ask of the home agent: show, clear, host (control.md of the CLI).

Rows are flat dictionaries of text and numbers; keys of associations never appear.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastmip.agents.bindings import (
    FLAG_COLOCATED,
    HALF_BOUND,
    SERVICE_BROADCASTS,
    SERVICE_DIRECT,
    SERVICE_REVOCATION,
    Binding,
    unpack_bindings,
)
from fastmip.agents.effects import NEVER
from fastmip.agents.home_counters import (
    BINDINGS,
    CACHED_NODES,
    NETWORKS,
    NETWORKS_REMEMBERED,
    VIOLATIONS_SUPPRESSED,
)
from fastmip.agents.peaks import SampledPeaks
from fastmip.auth.mn_aaa import CHAP_SPI
from fastmip.errors import ConfigError
from fastmip.runtime import clock
from fastmip.runtime.answers import (
    ENCAPSULATIONS,
    TRAFFIC,
    address_of,
    errors_answer,
    flag_letters,
    interface_row,
    limit_of,
    timestamp,
    violations_answer,
)
from fastmip.runtime.config import load_host
from fastmip.runtime.directory import delete_host, insert_host
from fastmip.runtime.engine_view import engine_facts, stage_rows
from fastmip.runtime.group_service import group_answer
from fastmip.runtime.home_pipeline import PAUSE_ABOVE
from fastmip.runtime.network_commands import network_rows
from fastmip.runtime.pool_commands import pool_answer
from fastmip.runtime.service import Answer, Arguments, Command, CommandError
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from fastmip.runtime.home_service import HomeService

ACKNOWLEDGMENT_WAIT_S = 6.0
"""How long ``clear binding --revoke`` waits: three repetitions."""
GAUGES = (BINDINGS, CACHED_NODES, NETWORKS, NETWORKS_REMEMBERED)


class _Ends(NamedTuple):
    """What makes a tunnel: its end points and its encapsulation."""

    local: int
    remote: int
    encapsulation: int
    udp_port: int


class HomeCommands:
    """The control commands of one home agent."""

    def __init__(self, service: HomeService) -> None:
        self._service = service
        self._cleared: dict[str, int] = {}
        """Counters at the latest ``clear traffic``."""
        self._peaks = SampledPeaks()

    def table(self) -> dict[str, Command]:
        """Commands by name."""
        return {
            "show binding": self.show_binding,
            "show tunnel": self.show_tunnel,
            "show traffic": self.show_traffic,
            "show errors": self.show_errors,
            "show secure": self.show_secure,
            "show runtime": self.show_runtime,
            "show interface": self.show_interface,
            "show violation": self.show_violation,
            "show host": self.show_host,
            "show group": self.show_group,
            "drain": self.drain,
            "show mobile-networks": self.show_mobile_networks,
            "show pool": self.show_pool,
            "host list": self.show_host,
            "host add": self.host_add,
            "host remove": self.host_remove,
            "clear binding": self.clear_binding,
            "clear traffic": self.clear_traffic,
        }

    # bindings and tunnels

    async def show_binding(self, arguments: Arguments) -> Answer:
        """Bindings: of one node, or in order of home address from ``after`` on."""
        service = self._service
        now = clock.now()
        rows = []
        for binding in self._bindings(arguments):
            endless = binding.expires_boot_ns == NEVER
            remaining_s = (binding.expires_boot_ns - now.boot_ns) // 1_000_000_000
            if binding.expires_boot_ns <= now.boot_ns:
                continue
            rows.append(
                {
                    "home_address": format_address(binding.home_address),
                    "care_of_address": format_address(binding.care_of_address),
                    "home_agent": format_address(binding.home_agent),
                    "source_address": format_address(binding.source_address),
                    "source_port": binding.source_port,
                    "lifetime_s": "infinite" if endless else binding.lifetime_s,
                    "remaining_s": "infinite" if endless else remaining_s,
                    "flags": flag_letters(binding.flags),
                    "encapsulation": ENCAPSULATIONS.get(binding.encapsulation, "?"),
                    "tunnel": _tunnel(binding),
                    "foreign_agent": _foreign_agent(binding),
                    "reverse_tunnel": binding.reverse,
                    "broadcasts": bool(binding.services & SERVICE_BROADCASTS),
                    "revocation": _revocation(binding),
                    "spi": binding.spi,
                    "identification": f"{binding.identification:016x}",
                }
            )
        total = service.agent.counters()[BINDINGS]
        return {"rows": rows, "summary": {"bindings": total, "shown": len(rows)}}

    def _bindings(self, arguments: Arguments) -> Iterator[Binding]:
        store = self._service.store
        if "home_address" in arguments:
            row = store.load(address_of(arguments))
            found = [] if row is None else [(row.home_address, row.bindings)]
        else:
            found = store.query(
                "SELECT home_address, bindings FROM node WHERE home_address > ?"
                " AND bindings <> x'' ORDER BY home_address LIMIT ?",
                (address_of(arguments, "after", 0), limit_of(arguments)),
            )
        for _, records in found:
            yield from unpack_bindings(records, boot=store.boot.id, anchor=store.boot.anchor)

    async def show_tunnel(self, arguments: Arguments) -> Answer:
        """Tunnels by their end points, with users and packets."""
        now = clock.now()
        users: Counter[_Ends] = Counter()
        sums: dict[_Ends, Counter[str]] = {}
        traffic: dict[int, dict[str, int]] = {}
        home_address = -1
        for binding in self._bindings(arguments):
            if binding.expires_boot_ns <= now.boot_ns:
                continue
            if binding.home_address != home_address:  # a node's bindings stand together
                home_address = binding.home_address
                found = self._service.engine.traffic(home_address)
                traffic = {tunnel["remote"]: tunnel for tunnel in found}
            key = _Ends(
                binding.home_agent, binding.remote, binding.encapsulation, binding.tunnel_port
            )
            users[key] += 1
            tunnel = traffic.pop(binding.remote, None)
            if tunnel is not None:
                counts = sums.setdefault(key, Counter())
                counts.update({name: tunnel[name] for name in TRAFFIC})
        rows: list[dict[str, object]] = [
            {
                "local": format_address(key.local),
                "remote": format_address(key.remote),
                "encapsulation": ENCAPSULATIONS.get(key.encapsulation, "?"),
                "udp_port": key.udp_port,
                "users": count,
                "path_mtu": self._service.path_mtu_bytes(key.remote),
                **sums.get(key, {}),
            }
            for key, count in users.items()
        ]
        return {"rows": rows, "summary": {"tunnels": len(rows)}}

    # counters

    def counters(self) -> dict[str, int]:
        """Every counter and gauge by name, since the start."""
        service = self._service
        found = dict(service.agent.counters())
        if service.group is not None:
            found |= service.group.exchange.counters
        if service.arp is not None:
            found |= service.arp.counters
        if service.tap is not None:
            found |= service.tap.counters
        if service.port is not None:
            found |= {f"port-434-{name}": n for name, n in service.port.counters.items()}
        found |= {f"io-{name}": n for name, n in service.engine.port_counters().items()}
        if service.tunnel is not None and service.tunnel.xdp is not None:
            found |= {f"io-{name}": n for name, n in service.tunnel.xdp.counters().items()}
        elif service.offload is not None:
            found |= {f"io-bpf-{name}": n for name, n in service.offload.counters().items()}
        return found

    async def show_traffic(self, _arguments: Arguments) -> Answer:
        """Registration counters since the latest ``clear traffic``, by their MIB names."""
        self.look_at_counters()
        rows: list[dict[str, object]] = []
        for name, value in self.counters().items():
            row: dict[str, object] = {"counter": name, "value": value - self._cleared.get(name, 0)}
            peak = None if name in GAUGES else self._peaks.get(name)
            if peak is not None:
                row["most_in_a_minute"] = peak.most
                row["when"] = timestamp(peak.wall_ns)
            rows.append(row)
        return {"rows": rows, "summary": {}}

    def look_at_counters(self) -> None:
        """Take note of how fast they grow; called about once a second."""
        if self._service.is_running:
            self._peaks.look(self.counters(), clock.now())

    async def show_errors(self, _arguments: Arguments) -> Answer:
        """Every verdict and event of the engine that occurred, and the balance of verdicts."""
        offload = self._service.offload
        return errors_answer(self._service.engine, {} if offload is None else offload.verdicts())

    async def clear_traffic(self, _arguments: Arguments) -> Answer:
        """Let counters start from zero; gauges stay."""
        self._cleared = {n: v for n, v in self.counters().items() if n not in GAUGES}
        self._peaks.clear(self.counters())
        self._service.engine.clear_counters()
        if self._service.offload is not None:
            self._service.offload.clear()
        return {}

    async def show_runtime(self, _arguments: Arguments) -> Answer:
        """Cost of each stage of the engine, and what the process holds."""
        service = self._service
        rows = stage_rows(service.engine)
        summary = {
            **service.status(),
            "engine_bindings": service.engine.bindings(),
            "engine_bytes": service.engine.memory_bytes(),
            "workers": service.config.engine.workers,
            **({} if service.tunnel is None else service.tunnel.facts()),
            **service.offload_facts(),
            **engine_facts(service.engine),
        }
        return {"rows": rows, "summary": summary}

    async def show_violation(self, _arguments: Arguments) -> Answer:
        """RFC 2006 mipSecViolationTable, latest peer last."""
        suppressed = self._service.agent.counters()[VIOLATIONS_SUPPRESSED]
        return violations_answer(self._service.pipeline.violations, suppressed)

    async def show_interface(self, _arguments: Arguments) -> Answer:
        """The home link and the tunnel device."""
        service = self._service
        names = [service.section.tunnel_device]
        if service.section.interface is not None:
            names.insert(0, service.section.interface)
        rows: list[dict[str, object]] = []
        for name in names:
            row = await interface_row(service.kernel, name)
            row["role"] = "tunnel" if name == service.section.tunnel_device else "home link"
            rows.append(row)
        if service.tunnel is not None and service.tunnel.xdp is not None:
            _add_xdp(rows, service.tunnel.xdp.rows())
        return {"rows": rows, "summary": {}}

    # hosts

    async def show_host(self, arguments: Arguments) -> Answer:
        """Hosts that may register, without their security associations."""
        entries = self._service.hosts.entries(limit_of(arguments))
        hosts = dict.fromkeys((entry.home_address, entry.nai, entry.origin) for entry in entries)
        rows = [
            {"home_address": format_address(address), "nai": nai, "origin": origin}
            for address, nai, origin in hosts
        ]
        return {"rows": rows, "summary": {"shown": len(rows)}}

    async def show_group(self, _arguments: Arguments) -> Answer:
        """See ``group_service.py``."""
        service = self._service
        return group_answer(service.agent, service.section.group, int(service.section.address))

    async def drain(self, arguments: Arguments) -> Answer:
        """Send nodes to other home agents, or take them in again."""
        service = self._service
        if service.section.group is None:
            raise CommandError("there is no [home_agent.group] to send nodes to: add one")
        told = arguments.get("state")
        if told not in ("on", "off", "status"):
            raise CommandError("say on, off or status")
        if told != "status":
            service.agent.choice.is_draining = told == "on"
            if service.group is not None:
                service.group.say_now()
        left = service.agent.counters()[BINDINGS]
        return {"draining": service.agent.choice.is_draining, "bindings": left}

    async def show_mobile_networks(self, arguments: Arguments) -> Answer:
        """See ``network_commands.py``."""
        rows = network_rows(self._service, limit_of(arguments))
        routed = sum(row["state"] == "routed" for row in rows)
        return {"rows": rows, "summary": {"routed": routed, "shown": len(rows)}}

    async def show_pool(self, arguments: Arguments) -> Answer:
        """See ``pool_commands.py``."""
        return pool_answer(self._service, limit_of(arguments))

    async def show_secure(self, arguments: Arguments) -> Answer:
        """Mobility security associations; never a key."""
        rows = [
            {
                "home_address": format_address(entry.home_address),
                "kind": "mn-ha",
                "spi": entry.spi,
                "algorithm": entry.algorithm,
                "replay": entry.replay,
                "replay_window_s": entry.replay_window_s,
                "direction": entry.direction,
                "origin": entry.origin,
            }
            for entry in self._service.hosts.entries(limit_of(arguments))
        ]
        rows += [
            {
                "home_address": str(host.home_address),
                "kind": "mn-aaa",
                "spi": host.aaa.spi,
                "algorithm": "chap" if host.aaa.spi == CHAP_SPI else host.aaa.algorithm,
                "direction": "inbound",
                "origin": "file",
            }
            for host in self._service.section.hosts
            if host.aaa is not None
        ]
        rows += [
            {
                "home_address": format_address(entry.home_address),
                "kind": "mn-aaa",
                "spi": entry.spi,
                "algorithm": "chap" if entry.spi == CHAP_SPI else entry.algorithm,
                "direction": "inbound",
                "origin": entry.origin,
            }
            for entry in self._service.hosts.aaa_entries(limit_of(arguments))
        ]
        rows += [
            {
                "kind": "fa-ha",
                "foreign_agent": str(agent.address),
                "spi": item.spi,
                "algorithm": item.algorithm,
                "direction": item.direction,
                "origin": "file",
            }
            for agent in self._service.section.foreign_agents
            for item in agent.associations
        ]
        return {"rows": rows, "summary": {"shown": len(rows)}}

    async def host_add(self, arguments: Arguments) -> Answer:
        """Add a host to the directory, or replace what the directory says of it."""
        service = self._service
        document = dict(arguments)
        home_address = document.pop("home_address", None)
        more: dict[str, Any] = {
            name: document.pop(name)
            for name in ("nai", "aaa", "networks", "dynamic_networks", "profile")
            if name in document
        }
        if isinstance(more.get("aaa"), dict):
            more["aaa"] = _with_key(more["aaa"])
        shaped: dict[str, Any] = {"home_address": home_address, **more}
        shaped["association"] = [_with_key(document)]
        try:
            host = load_host("host add", shaped, service.section)
        except ConfigError as error:
            raise CommandError(str(error)) from None
        if not host.home_address:
            raise CommandError("hosts without a home_address stand in the configuration file only")
        if (kept := service.agent.addresses.owner(int(host.home_address))) is not None:
            raise CommandError(f"{home_address} is kept for {kept.decode()} out of a pool")
        if service.hosts.is_static(int(host.home_address)):
            raise CommandError(
                f"{home_address} stands in the configuration file: change it there and reload"
            )
        if host.nai is not None:
            known = service.hosts.lookup_nai(host.nai.encode())
            if known is not None and known.home_address != int(host.home_address):
                other = format_address(known.home_address)
                raise CommandError(f"{host.nai} is the NAI of {other} already: use another")
        await service.store.run(lambda connection: insert_host(connection, host))
        service.hosts.forget(int(host.home_address))
        service.revise_networks()
        await service.lead_networks()
        return {"home_address": format_address(host.home_address)}

    async def host_remove(self, arguments: Arguments) -> Answer:
        """Remove a host from the directory and withdraw its bindings."""
        service = self._service
        home_address = address_of(arguments)
        if service.hosts.is_static(home_address):
            raise CommandError(
                f"{format_address(home_address)} stands in the configuration file: remove it"
                " there and reload"
            )
        host = service.hosts.lookup(home_address)
        if not await service.store.run(lambda connection: delete_host(connection, home_address)):
            raise CommandError(f"{format_address(home_address)} is not in the directory")
        service.hosts.forget(home_address)
        service.withdraw_host(home_address, host)
        await service.lead_networks()
        return {"home_address": format_address(home_address)}

    # clearing

    async def clear_binding(self, arguments: Arguments) -> Answer:
        """Withdraw the bindings of one node, or of all; peers that negotiated it are told.

        ``revoke``: wait for their acknowledgments, and say how many came.
        """
        service = self._service
        cleared, told = 0, list[int]()
        if not arguments.get("all"):
            home_address = address_of(arguments)
            if not service.agent.bindings_of(home_address):
                raise CommandError(f"{format_address(home_address)} has no binding")
            cleared = 1
            told += self._clear(home_address)
        else:
            async for home_address in self._all_bound():
                cleared += 1
                told += self._clear(home_address)
        answer: Answer = {"cleared": cleared}
        if arguments.get("revoke"):
            answer |= await self._await_acknowledgments(told)
        return answer

    async def _all_bound(self) -> AsyncIterator[int]:
        """Home addresses with bindings, no faster than the store takes their withdrawal."""
        service, after = self._service, -1
        while found := service.store.query(
            "SELECT home_address FROM node WHERE home_address > ? AND bindings <> x''"
            " ORDER BY home_address LIMIT 256",
            (after,),
        ):
            for (home_address,) in found:
                yield home_address
            after = found[-1][0]
            await asyncio.sleep(0)
            while service.pipeline.outstanding > PAUSE_ABOVE:
                await asyncio.sleep(0.01)

    async def _await_acknowledgments(self, told: list[int]) -> Answer:
        """Wait until peers acknowledged, or their time is over."""
        agent, pipeline = self._service.agent, self._service.pipeline
        deadline = time.monotonic() + ACKNOWLEDGMENT_WAIT_S
        while pipeline.outstanding and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        while (waiting := agent.revoking(told)) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return {"told": len(told), "acknowledged": len(told) - len(waiting)}

    def _clear(self, home_address: int) -> list[int]:
        """Withdraw a node's bindings; the node, if somebody is told of it."""
        agent, pipeline, now = self._service.agent, self._service.pipeline, clock.now()
        bindings = agent.bindings_of(home_address)
        pipeline.carry_out(agent.clear_binding(home_address, now), now)
        pipeline.flush()
        is_told = any(binding.services & SERVICE_REVOCATION for binding in bindings)
        return [home_address] if is_told else []


def _with_key(document: Mapping[str, Any]) -> dict[str, Any]:
    """A table of the configuration with the key that came with a command."""
    shaped = dict(document)
    if "key_hex" in shaped:
        shaped["key"] = shaped.pop("key_hex")
    return shaped


def _tunnel(binding: Binding) -> str:
    """``ip``, or the far end of a UDP tunnel."""
    if not binding.tunnel_port:
        return "ip"
    port = "?" if binding.tunnel_port == HALF_BOUND else str(binding.tunnel_port)
    return f"udp {format_address(binding.source_address)}:{port}"


def _foreign_agent(binding: Binding) -> str:
    """Who relayed the registration, as far as one can tell; empty for the node itself."""
    if not binding.flags & FLAG_COLOCATED:
        return format_address(binding.source_address)
    is_own = binding.source_address in (binding.care_of_address, binding.home_address)
    return "" if is_own or binding.tunnel_port else format_address(binding.source_address)


def _revocation(binding: Binding) -> str:
    """With whom revocation was negotiated."""
    if not binding.services & SERVICE_REVOCATION:
        return ""
    return "mobile-node" if binding.services & SERVICE_DIRECT else "foreign-agent"


def _add_xdp(rows: list[dict[str, object]], more: Sequence[dict[str, object]]) -> None:
    """Put what AF_XDP tells of an interface into its row, or behind the others."""
    known = {row["interface"]: row for row in rows}
    for row in more:
        if row["interface"] in known:
            known[row["interface"]] |= row
        else:
            rows.append({**row, "role": "xdp"})
