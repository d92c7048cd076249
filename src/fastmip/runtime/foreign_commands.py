"""What an operator can ask of the foreign agent: show and clear.

Rows are flat dictionaries of text and numbers; keys of associations never appear.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from fastmip.agents.effects import NEVER
from fastmip.agents.foreign_counters import (
    CODE_COUNTERS,
    PENDING,
    VIOLATIONS_SUPPRESSED,
    VISITORS,
)
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
from fastmip.runtime.engine_view import engine_facts, stage_rows
from fastmip.runtime.service import Answer, Arguments, Command, CommandError
from fastmip.wire.addresses import format_address
from fastmip.wire.codes import code_name

if TYPE_CHECKING:
    from fastmip.agents.visitors import Visitor
    from fastmip.runtime.foreign_service import ForeignService

_SECOND = 1_000_000_000
GAUGES = (VISITORS, PENDING)
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
            "show fixed-host": self.show_fixed_host,
            "show traffic": self.show_traffic,
            "show errors": self.show_errors,
            "show runtime": self.show_runtime,
            "show violation": self.show_violation,
            "show interface": self.show_interface,
            "clear visitor": self.clear_visitor,
            "clear traffic": self.clear_traffic,
        }

    async def show_fixed_host(self, _arguments: Arguments) -> Answer:
        """Hosts that we registered for good (RFC 5944 4.5)."""
        rows = self._service.fixed_hosts.rows(clock.now())
        carried = sum(bool(row["registered"]) for row in rows)
        return {"rows": rows, "summary": {"registered": carried, "shown": len(rows)}}

    async def show_visitor(self, arguments: Arguments) -> Answer:
        """Visitors in order of their home address, after ``after``, by faVisitorTable's columns."""
        service = self._service
        now = clock.now()
        visitors = sorted(service.agent.visitors(), key=lambda visitor: visitor.home_address)
        if "home_address" in arguments:
            wanted = address_of(arguments)
            visitors = [visitor for visitor in visitors if visitor.home_address == wanted]
        after = address_of(arguments, "after", -1)
        chosen = (visitor for visitor in visitors if visitor.home_address > after)
        shown = itertools.islice(chosen, limit_of(arguments))
        rows = [self._row(visitor, now.boot_ns) for visitor in shown]
        return {
            "rows": rows,
            "summary": {
                "visitors": service.agent.counters()[VISITORS],
                "shown": len(rows),
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
            "flags": flag_letters(visitor.flags),
            "encapsulation": ENCAPSULATIONS.get(tunnel.encapsulation, "?")
            + ("/udp" if tunnel.remote_port else ""),
            "delivery": _delivery(visitor),
            "revocable": visitor.revocable,
            "identification": f"{visitor.identification:016x}",
        }
        if visitor.nai is not None:
            row["nai"] = visitor.nai.decode("utf-8", "backslashreplace")
        if not visitor.colocated:
            for counts in self._service.engine.traffic(visitor.home_address):
                row |= {name: counts[name] for name in TRAFFIC}
        return row

    async def show_pending(self, arguments: Arguments) -> Answer:
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
                "flags": flag_letters(pending.request.flags),
                "proven": pending.asker.proven_spi is not None,
                "gives_up_in_s": round((pending.expires_ns - now.boot_ns) / 1e9, 1),
                "identification": f"{pending.request.identification:016x}",
            }
            for pending in itertools.islice(self._service.agent.pending(), limit_of(arguments))
        ]
        total = self._service.agent.counters()[PENDING]
        return {"rows": rows, "summary": {"pending": total, "shown": len(rows)}}

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
                row["when"] = timestamp(peak.wall_ns)
            rows.append(row)
        return {"rows": rows, "summary": {}}

    async def show_errors(self, _arguments: Arguments) -> Answer:
        """Every verdict and event of the engine that occurred, and the balance of verdicts."""
        return errors_answer(self._service.engine)

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
        suppressed = self._service.agent.counters()[VIOLATIONS_SUPPRESSED]
        return violations_answer(self._service.pipeline.violations, suppressed)

    async def show_interface(self, _arguments: Arguments) -> Answer:
        """The links of visitors and the tunnel device."""
        service = self._service
        rows: list[dict[str, object]] = []
        for name in (*service.section.interfaces, service.section.tunnel_device):
            row = await interface_row(service.kernel, name)
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
            home_address = address_of(arguments)
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
