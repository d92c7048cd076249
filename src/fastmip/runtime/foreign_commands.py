"""What an operator can ask of the foreign agent: show and clear.

Rows are flat dictionaries of text and numbers; keys of associations never appear.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastmip.agents.effects import NEVER
from fastmip.agents.foreign_counters import (
    CODE_COUNTERS,
    PENDING,
    VIOLATIONS_SUPPRESSED,
    VISITORS,
)
from fastmip.runtime import clock
from fastmip.runtime.engine_view import engine_facts, stage_rows
from fastmip.runtime.netlink import read_sysctl
from fastmip.runtime.service import Answer, Arguments, Command, CommandError
from fastmip.wire.addresses import AddressError, format_address, parse_address
from fastmip.wire.codes import code_name

if TYPE_CHECKING:
    from fastmip.agents.visitors import Visitor
    from fastmip.runtime.foreign_service import ForeignService

DEFAULT_ROWS = 1000
_SECOND = 1_000_000_000
GAUGES = (VISITORS, PENDING)
_FLAGS = ((0x80, "S"), (0x40, "B"), (0x20, "D"), (0x10, "M"), (0x08, "G"), (0x02, "T"))
_ENCAPSULATIONS = {4: "ipip", 47: "gre", 55: "minimal"}
_TRAFFIC = ("sent_packets", "sent_bytes", "received_packets", "received_bytes")
_CODES = {counter: code_name(int(code)) for code, counter in CODE_COUNTERS.items()}


class ForeignCommands:
    """The control commands of one foreign agent."""

    def __init__(self, service: ForeignService) -> None:
        self._service = service
        self._cleared: dict[str, int] = {}
        """Counters at the latest ``clear traffic``."""

    def table(self) -> dict[str, Command]:
        """Commands by name."""
        return {
            "show visitor": self.show_visitor,
            "show pending": self.show_pending,
            "show traffic": self.show_traffic,
            "show errors": self.show_errors,
            "show runtime": self.show_runtime,
            "show violation": self.show_violation,
            "show interface": self.show_interface,
            "clear visitor": self.clear_visitor,
            "clear traffic": self.clear_traffic,
        }

    async def show_visitor(self, arguments: Arguments) -> Answer:
        """Visitors in order of their home address, by the columns of faVisitorTable."""
        service = self._service
        now = clock.now()
        visitors = sorted(service.agent.visitors(), key=lambda visitor: visitor.home_address)
        if "home_address" in arguments:
            wanted = _address(arguments)
            visitors = [visitor for visitor in visitors if visitor.home_address == wanted]
        limit = arguments.get("limit", DEFAULT_ROWS)
        chosen = visitors[: limit if isinstance(limit, int) else DEFAULT_ROWS]
        rows = [self._row(visitor, now.boot_ns) for visitor in chosen]
        return {
            "rows": rows,
            "summary": {
                "visitors": service.agent.counters()[VISITORS],
                "busy": service.agent.is_busy(),
            },
        }

    def _row(self, visitor: Visitor, now_ns: int) -> dict[str, object]:
        endless = visitor.expires_ns == NEVER
        tunnel = visitor.tunnel
        row: dict[str, object] = {
            "home_address": format_address(visitor.home_address),
            "interface": visitor.interface,
            "mac": visitor.mac.hex(":"),
            "source_address": format_address(visitor.source.address),
            "home_agent": format_address(visitor.home_agent),
            "care_of_address": "co-located"
            if visitor.colocated
            else format_address(visitor.care_of_address),
            "lifetime_s": "infinite" if endless else visitor.lifetime,
            "remaining_s": "infinite"
            if endless
            else max(0, (visitor.expires_ns - now_ns) // _SECOND),
            "flags": "".join(name for bit, name in _FLAGS if visitor.flags & bit),
            "encapsulation": _ENCAPSULATIONS.get(tunnel.encapsulation, "?")
            + ("/udp" if tunnel.remote_port else ""),
            "delivery": _delivery(visitor),
            "revocable": visitor.revocable,
            "identification": f"{visitor.identification:016x}",
        }
        if visitor.nai is not None:
            row["nai"] = visitor.nai.decode("utf-8", "backslashreplace")
        if not visitor.colocated:
            for counts in self._service.engine.traffic(visitor.home_address):
                row |= {name: counts[name] for name in _TRAFFIC}
        return row

    async def show_pending(self, _arguments: Arguments) -> Answer:
        """Requests that wait for their home agents, oldest first."""
        now = clock.now()
        rows = [
            {
                "home_address": format_address(pending.request.home_address),
                "interface": pending.key.interface,
                "mac": pending.key.mac.hex(":"),
                "home_agent": format_address(pending.request.home_agent),
                "care_of_address": format_address(pending.request.care_of_address),
                "lifetime_s": pending.request.lifetime,
                "flags": "".join(name for bit, name in _FLAGS if pending.request.flags & bit),
                "proven": pending.asker.proven_spi is not None,
                "gives_up_in_s": round((pending.expires_ns - now.boot_ns) / 1e9, 1),
                "identification": f"{pending.request.identification:016x}",
            }
            for pending in self._service.agent.pending()
        ]
        return {"rows": rows, "summary": {"pending": len(rows)}}

    # counters

    def counters(self) -> dict[str, int]:
        """Every counter and gauge by name, since the start."""
        service = self._service
        found = dict(service.agent.counters())
        found |= service.link_port.counters
        # A home agent beside us tells of the port we share.
        if service.port is not None and service.config.home_agent is None:
            found |= {f"port-434-{name}": n for name, n in service.port.counters.items()}
        found |= {f"io-{name}": n for name, n in service.engine.port_counters().items()}
        return found

    async def show_traffic(self, _arguments: Arguments) -> Answer:
        """Counters since the latest ``clear traffic``; of codes also the fullest minute."""
        rows: list[dict[str, Any]] = []
        for name, value in self.counters().items():
            row: dict[str, Any] = {"counter": name, "value": value - self._cleared.get(name, 0)}
            peak = self._service.agent.peaks.get(name)
            if peak is not None:
                row["code"] = _CODES.get(name, "")
                row["most_in_a_minute"] = peak.most
                row["when"] = _timestamp(peak.wall_ns)
            rows.append(row)
        return {"rows": rows, "summary": {}}

    async def show_errors(self, _arguments: Arguments) -> Answer:
        """Every verdict and event of the engine that occurred, and the balance of verdicts."""
        engine = self._service.engine
        rows: list[dict[str, object]] = [
            {"verdict": name, "packets": packets, "bytes": size}
            for name, (packets, size) in engine.counters().items()
            if packets
        ]
        rows += [{"event": name, "packets": n} for name, n in engine.events().items() if n]
        return {"rows": rows, "summary": dict(engine.balance())}

    async def show_runtime(self, _arguments: Arguments) -> Answer:
        """Cost of each stage of the engine, and what its port works on."""
        service = self._service
        rows = stage_rows(service.engine)
        facts = {} if service.tunnel is None else service.tunnel.port.facts()
        return {
            "rows": rows,
            "summary": {**service.status(), **facts, **engine_facts(service.engine)},
        }

    async def show_violation(self, _arguments: Arguments) -> Answer:
        """RFC 2006 mipSecViolationTable, latest peer last."""
        pipeline = self._service.pipeline
        rows = [
            {
                "mipSecViolatorAddress": format_address(peer),
                "mipSecViolationCounter": row.count,
                "mipSecRecentViolationSPI": row.latest.spi,
                "mipSecRecentViolationTime": _timestamp(row.wall_ns),
                "mipSecRecentViolationReason": row.latest.reason,
                "home_address": format_address(row.latest.home_address),
            }
            for peer, row in pipeline.violations.items()
        ]
        suppressed = self._service.agent.counters()[VIOLATIONS_SUPPRESSED]
        total = pipeline.violations_noted + suppressed
        return {"rows": rows, "summary": {"mipSecTotalViolations": total}}

    async def show_interface(self, _arguments: Arguments) -> Answer:
        """The links of visitors and the tunnel device."""
        service = self._service
        rows: list[dict[str, object]] = []
        for name in (*service.section.interfaces, service.section.tunnel_device):
            found = await service.kernel.interface(name)
            row: dict[str, object] = {"interface": name, "state": "missing"}
            if found is not None:
                row |= {
                    "state": "up" if found.is_up else "down",
                    "mac": found.mac.hex(":"),
                    "mtu": found.mtu_bytes,
                    "rp_filter": read_sysctl(f"net/ipv4/conf/{name}/rp_filter"),
                }
            is_tunnel = name == service.section.tunnel_device
            row["role"] = "tunnel" if is_tunnel else "visitors"
            rows.append(row)
        return {"rows": rows, "summary": {}}

    # clearing

    async def clear_visitor(self, arguments: Arguments) -> Answer:
        """Take a visitor away, or all of them; home agents and nodes are told."""
        service = self._service
        now = clock.now()
        if "home_address" in arguments:
            home_address = _address(arguments)
            if service.agent.visitor(home_address) is None:
                raise CommandError(f"{format_address(home_address)} is no visitor here")
            effects = service.agent.clear_visitor(home_address, now)
            cleared = 1
        else:
            cleared = service.agent.counters()[VISITORS]
            effects = service.agent.revoke_all(now, "cleared")
        service.pipeline.carry_out(effects, now)
        await service.pipeline.settle()
        return {"cleared": cleared}

    async def clear_traffic(self, _arguments: Arguments) -> Answer:
        """Let counters start from zero; gauges stay."""
        self._cleared = {n: v for n, v in self.counters().items() if n not in GAUGES}
        self._service.engine.clear_counters()
        return {}


def _delivery(visitor: Visitor) -> str:
    if visitor.colocated:
        return "its own"
    if not visitor.tunnel.reverse:
        return "triangular"
    return "encapsulating" if visitor.encapsulating else "direct"


def _address(arguments: Arguments) -> int:
    try:
        return parse_address(str(arguments["home_address"]))
    except AddressError as error:
        raise CommandError(f"home_address: {error}") from None


def _timestamp(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="seconds")
