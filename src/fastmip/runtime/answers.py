"""What the control commands of all roles have in common: arguments, words, and whole answers.

Rows are flat dictionaries of text and numbers; keys of associations never appear.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from fastmip.runtime.engine_view import NOTHING, all_verdicts
from fastmip.runtime.netlink import read_sysctl
from fastmip.runtime.service import Answer, Arguments, CommandError
from fastmip.wire.addresses import AddressError, format_address, parse_address

if TYPE_CHECKING:
    from fastmip._dataplane import Engine
    from fastmip.runtime.netlink import Kernel
    from fastmip.runtime.violations import ViolationTable

DEFAULT_ROWS: Final = 1000
MAX_ROWS: Final = 10_000
"""Rows of one answer: more would hold the loop up; ask again with ``after``."""
ENCAPSULATIONS: Final = {4: "ipip", 47: "gre", 55: "minimal"}
TRAFFIC: Final = ("sent_packets", "sent_bytes", "received_packets", "received_bytes")
"""Counts of a tunnel."""
_FLAGS = ((0x80, "S"), (0x40, "B"), (0x20, "D"), (0x10, "M"), (0x08, "G"), (0x02, "T"))
_REASON_NUMBERS = {
    "noMobilitySecurityAssociation": 1,
    "badAuthenticator": 2,
    "badIdentifier": 3,
    "badSPI": 4,
    "missingSecurityExtension": 5,
}
_OTHER_REASON = 6


def address_of(arguments: Arguments, name: str = "home_address", default: int | None = None) -> int:
    """An IPv4 address among the arguments. Raises CommandError."""
    text = arguments.get(name)
    if text is None and default is not None:
        return default
    try:
        return parse_address(str(text))
    except AddressError:
        raise CommandError(f"{name}: expected an IPv4 address, got {text!r}") from None


def limit_of(arguments: Arguments) -> int:
    """How many rows are wanted. Raises CommandError."""
    limit = arguments.get("limit", DEFAULT_ROWS)
    if not isinstance(limit, int) or not 1 <= limit <= MAX_ROWS:
        raise CommandError(f"limit: expected 1 to {MAX_ROWS}")
    return limit


def timestamp(wall_ns: int) -> str:
    """A time of day, to the second."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="seconds")


def flag_letters(flags: int) -> str:
    """The flags of a registration by their letters."""
    return "".join(letter for bit, letter in _FLAGS if flags & bit)


def errors_answer(engine: Engine, offloaded: Mapping[str, tuple[int, int]] = NOTHING) -> Answer:
    """Every verdict and event of an engine that occurred, and the balance of verdicts.

    ``offloaded``: verdicts of packets that never came to the engine.
    """
    rows: list[dict[str, object]] = [
        {"verdict": name, "packets": packets, "bytes": size}
        for name, (packets, size) in all_verdicts(engine, offloaded).items()
        if packets
    ]
    rows += [{"event": name, "packets": n} for name, n in engine.events().items() if n]
    summary = dict(engine.balance())
    if offloaded:
        summary["offloaded"] = sum(packets for packets, _ in offloaded.values())
    return {"rows": rows, "summary": summary}


def violations_answer(table: ViolationTable | None, suppressed: int = 0) -> Answer:
    """RFC 2006 mipSecViolationTable, latest peer last; ``suppressed`` ones count besides."""
    rows = [
        {
            "mipSecViolatorAddress": format_address(peer),
            "mipSecViolationCounter": row.count,
            "mipSecRecentViolationSPI": row.latest.spi,
            "mipSecRecentViolationTime": timestamp(row.wall_ns),
            "mipSecRecentViolationIDLow": row.latest.identification & 0xFFFFFFFF,
            "mipSecRecentViolationIDHigh": row.latest.identification >> 32,
            "mipSecRecentViolationReason": row.latest.reason,
            "reason_number": _REASON_NUMBERS.get(row.latest.reason, _OTHER_REASON),
            "home_address": format_address(row.latest.home_address),
        }
        for peer, row in ({} if table is None else table.rows).items()
    ]
    total = suppressed + (0 if table is None else table.noted)
    return {"rows": rows, "summary": {"mipSecTotalViolations": total}}


async def interface_row(kernel: Kernel, name: str) -> dict[str, object]:
    """What an interface is doing."""
    found = await kernel.interface(name)
    if found is None:
        return {"interface": name, "state": "missing"}
    return {
        "interface": name,
        "state": "up" if found.is_up else "down",
        "mac": found.mac.hex(":"),
        "mtu": found.mtu_bytes,
        "rp_filter": read_sysctl(f"net/ipv4/conf/{name}/rp_filter"),
    }
