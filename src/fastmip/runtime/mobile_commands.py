"""What an operator can ask of the mobile node: show, prefer, clear traffic.

Rows are flat dictionaries of text and numbers; the key of the association never appears.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastmip.runtime import clock
from fastmip.runtime.answers import errors_answer, interface_row, violations_answer
from fastmip.runtime.config import AaaConfig
from fastmip.runtime.engine_view import engine_facts, stage_rows
from fastmip.runtime.host_hook import facts
from fastmip.runtime.mobile_driver import handover_row
from fastmip.runtime.service import Answer, Arguments, Command, CommandError
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from fastmip.runtime.config_types import AssociationConfig
    from fastmip.runtime.mobile_service import MobileService


class MobileCommands:
    """The control commands of one mobile node."""

    def __init__(self, service: MobileService) -> None:
        self._service = service
        self._cleared: dict[str, int] = {}
        """Counters at the latest ``clear traffic``."""

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
            "show handover": self.show_handover,
            "show agent": self.show_agent,
            "show host-configuration": self.show_host_configuration,
            "prefer": self.prefer,
            **({} if self._service.section.router is None else {"show mobile-networks": self.show}),
            "clear traffic": self.clear_traffic,
        }

    async def show_binding(self, _arguments: Arguments) -> Answer:
        """Our own bindings: care-of addresses the home agent holds, as far as we know."""
        shown = self._service.agent.status(clock.now())
        rows: Any = shown["bindings"]
        keys = (
            "state",
            "home_address",
            "home_agent",
            "interface",
            "care_of_address",
            "gateway",
            "agent",
            "keepalive_s",
        )
        home = {"home_address": shown["home_address"]}
        return {"rows": [home | row for row in rows], "summary": {k: shown[k] for k in keys}}

    async def show_tunnel(self, _arguments: Arguments) -> Answer:
        """Our tunnels, the sending one first."""
        service = self._service
        rows: list[dict[str, object]] = [
            {
                "local": format_address(tunnel["local"]),
                "remote": format_address(tunnel["remote"]),
                "encapsulation": service.section.encapsulation,
                "path_mtu": tunnel["mtu"],
                "sent_packets": tunnel["sent_packets"],
                "sent_bytes": tunnel["sent_bytes"],
                "received_packets": tunnel["received_packets"],
                "received_bytes": tunnel["received_bytes"],
            }
            for tunnel in service.engine.traffic(int(service.section.home_address))
        ]
        return {"rows": rows, "summary": {"tunnels": len(rows)}}

    def counters(self) -> dict[str, int]:
        """Every counter and gauge by name, since the start."""
        service = self._service
        found = dict(service.agent.counters())
        if service.port is not None:
            found |= {f"mn-port-{name}": n for name, n in service.port.counters.items()}
        if service.discovery is not None:
            found |= {f"mn-{name}": n for name, n in service.discovery.counters.items()}
        if service.driver is not None:
            found["mn-effects-refused"] = service.driver.failures
            found["mn-datagrams-dropped"] = service.driver.dropped
        found |= {f"io-{name}": n for name, n in service.engine.port_counters().items()}
        return found

    async def show_traffic(self, _arguments: Arguments) -> Answer:
        """Registration counters since the latest ``clear traffic``, by their MIB names."""
        rows = [
            {"counter": name, "value": value - self._cleared.get(name, 0)}
            for name, value in self.counters().items()
        ]
        return {"rows": rows, "summary": {}}

    async def clear_traffic(self, _arguments: Arguments) -> Answer:
        """Let counters start from zero."""
        self._cleared = self.counters()
        self._service.engine.clear_counters()
        return {}

    async def show_errors(self, _arguments: Arguments) -> Answer:
        """Every verdict of the engine that has packets, and the balance of all."""
        return errors_answer(self._service.engine)

    async def show_secure(self, _arguments: Arguments) -> Answer:
        """The mobility security associations, the home agent's first; never their keys."""
        section = self._service.section
        rows = [_secure_row("home_agent", format_address(section.home_agent), section.association)]
        for agent in section.foreign_agents:
            address = format_address(agent.address)
            rows += [_secure_row("foreign_agent", address, one) for one in agent.associations]
        if section.aaa is not None:
            rows.append(_secure_row("aaa", "", section.aaa))
        return {"rows": rows, "summary": {"shown": len(rows)}}

    async def show_runtime(self, _arguments: Arguments) -> Answer:
        """Cost of each stage of the engine."""
        service = self._service
        rows = stage_rows(service.engine)
        facts = {**service.tunnel.port.facts(), **engine_facts(service.engine)}
        return {"rows": rows, "summary": {**service.status(), **facts}}

    async def show_violation(self, _arguments: Arguments) -> Answer:
        """RFC 2006 mipSecViolationTable, latest peer last."""
        driver = self._service.driver
        return violations_answer(None if driver is None else driver.violations)

    async def show_interface(self, _arguments: Arguments) -> Answer:
        """The links in their order of preference, and the tunnel device."""
        service = self._service
        rows: list[dict[str, object]] = []
        for name in (*service.section.interfaces, service.section.tunnel_device):
            row = await interface_row(service.kernel, name)
            link = service.watcher.state(name) if service.watcher is not None else None
            if link is not None:
                addresses = [f"{format_address(a)}/{n}" for a, n in link.addresses]
                row |= {
                    "carrier": link.carrier,
                    "addresses": " ".join(addresses),
                    "gateway": format_address(link.gateway) if link.gateway else "",
                }
            row["role"] = "tunnel" if name == service.section.tunnel_device else "link"
            rows.append(row)
        return {"rows": rows, "summary": {}}

    async def show_handover(self, _arguments: Arguments) -> Answer:
        """Latest moves; times in milliseconds after the new link came up."""
        service = self._service
        first = {} if service.driver is None else service.driver.first_packets
        handovers: Any = service.agent.status(clock.now())["handovers"]
        rows = [handover_row(fields, first.get(fields["reply_ns"], 0)) for fields in handovers]
        return {"rows": rows, "summary": {"handovers": len(rows)}}

    async def show_agent(self, _arguments: Arguments) -> Answer:
        """Mobility agents heard on the links (RFC 2006 mnFATable), the newest heard last."""
        rows: Any = self._service.agent.status(clock.now())["agents"]
        return {"rows": rows, "summary": {"agents": len(rows)}}

    async def show(self, _arguments: Arguments) -> Answer:
        """Our mobile networks and the home agent's word on each (RFC 5177)."""
        shown = self._service.agent.status(clock.now())
        rows: Any = shown["networks"]
        carried = sum(row["state"] in ("forwarded", "assumed") for row in rows)
        return {"rows": rows, "summary": {"networks": len(rows), "carried": carried}}

    async def show_host_configuration(self, _arguments: Arguments) -> Answer:
        """What the home agent told of the home network (RFC 4332)."""
        hook = self._service.hook
        known = {} if hook is None else facts(hook.told)
        rows = [{"name": name, "value": value} for name, value in known.items()]
        asked = self._service.section.host_configuration
        return {"rows": rows, "summary": {"asked": asked, "told": len(rows)}}

    async def prefer(self, arguments: Arguments) -> Answer:
        """Put ``interface`` before all others; without it the configured order holds again."""
        service = self._service
        interface = arguments.get("interface") or None
        if interface is not None and interface not in service.section.interfaces:
            names = ", ".join(service.section.interfaces)
            raise CommandError(f"{interface} is none of mobile_node.interfaces: choose of {names}")
        if service.driver is None:
            raise CommandError("the mobile node is not running yet: try again")
        chosen = None if interface is None else str(interface)
        service.driver.submit(lambda now: service.agent.prefer(chosen, now))
        return {"preferred": chosen or ""}


def _secure_row(
    kind: str, address: str, association: AssociationConfig | AaaConfig
) -> dict[str, object]:
    if isinstance(association, AaaConfig):
        return {
            kind: address,
            "spi": association.spi,
            "algorithm": association.algorithm,
            "origin": "file",
        }
    return {
        kind: address,
        "spi": association.spi,
        "algorithm": association.algorithm,
        "replay": association.replay,
        "replay_window_s": association.replay_window,
        "direction": association.direction,
        "origin": "file",
    }
