"""Traces and captures of a daemon: opened, read in turn, closed.

Both look at every role's engine. The engine keeps what it saw in rings of fixed size; this end
empties them a few times a second while one is open, and costs nothing while none is. A capture
lives as long as its client listens; a trace until it has its packets.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from fastmip import __version__
from fastmip.errors import EngineFull
from fastmip.runtime.packet_filter import PacketFilter, parse_filter
from fastmip.runtime.packet_text import describe_packet
from fastmip.runtime.pcapng import LINKTYPE_RAW, PcapngWriter
from fastmip.runtime.service import Answer, Arguments, CommandError
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from fastmip._dataplane import Capture, Engine, Trace

MAX_TRACED: Final = 1000
"""Walks kept at most, also by one ``trace add``."""
READ_EVERY_S: Final = 0.02
"""How often an open capture's rings are emptied when little comes."""
READ_BYTES: Final = 1 << 20
"""Most of a capture sent to its client at once."""
RING_BYTES: Final = 4 << 20
"""Room of a capture's ring, for each worker."""
MIN_SLOTS: Final = 256
DEFAULT_SNAP: Final = 2048
_SIDES: Final = ("home", "tunnel")
_POINTS: Final = {
    "rx": "as the port received it",
    "decap": "out of its tunnel",
    "encap": "in its tunnel",
    "tx": "as it is given to the port that sends it",
}


class TraceBook:
    """The walks of traced packets, and the traces that are still looking."""

    def __init__(self) -> None:
        self._walks: deque[dict[str, Any]] = deque(maxlen=MAX_TRACED)
        self._open: list[tuple[str, Trace]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0

    def add(self, engines: Mapping[str, Engine], arguments: Arguments) -> Answer:
        """Trace the next packets that match. Raises CommandError."""
        from fastmip import _dataplane  # noqa: PLC0415 - only a started role has an engine

        count = arguments.get("count", 1)
        if not isinstance(count, int) or not 1 <= count <= MAX_TRACED:
            raise CommandError(f"count: expected a number from 1 to {MAX_TRACED}")
        chosen = filter_of(arguments)
        self._read()
        self._close()
        try:
            for role, engine in engines.items():
                trace = _dataplane.Trace(
                    engine, count=count, terms=chosen.terms, verdicts=chosen.verdicts
                )
                self._open.append((role, trace))
        except EngineFull as error:
            self._close()
            raise CommandError(str(error)) from None
        self._look()
        return {"summary": {"tracing": count, "roles": ", ".join(engines)}}

    def show(self, *, names_role: bool) -> Answer:
        """Walks from the oldest on."""
        self._read()
        rows = [
            walk if names_role else {k: v for k, v in walk.items() if k != "role"}
            for walk in self._walks
        ]
        waiting = sum(not trace.is_done() for _, trace in self._open)
        return {"rows": rows, "summary": {"packets": len(rows), "tracing": bool(waiting)}}

    def clear(self) -> Answer:
        """Stop tracing and forget."""
        self._close()
        self._walks.clear()
        self._number = 0
        return {}

    def _look(self) -> None:
        """Take what there is; close what is done, so that the loops run as if never traced."""
        self._read()
        for role, trace in list(self._open):
            if trace.is_done():
                trace.close()
                self._open.remove((role, trace))
        if self._open:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(0.25, self._look)

    def _read(self) -> None:
        for role, trace in self._open:
            for walk in trace.read():
                self._number += 1
                self._walks.append({"number": self._number, "role": role} | tell_walk(walk))

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, trace in self._open:
            trace.close()
        self._open.clear()


def filter_of(arguments: Arguments) -> PacketFilter:
    """The filter a request asks for. Raises CommandError."""
    from fastmip import _dataplane  # noqa: PLC0415 - only a started role has an engine

    words = arguments.get("match", [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CommandError("match: expected a list of terms")
    chosen = parse_filter(
        words,
        verdicts=[name for name, _, _ in _dataplane.verdicts()],
        drops=_dataplane.drop_verdicts(),
        only_drops=bool(arguments.get("drops")),
    )
    if len(chosen.terms) > 8:
        raise CommandError(f"match: {len(chosen.terms)} terms: at most 8")
    return chosen


def tell_walk(walk: Mapping[str, Any]) -> dict[str, object]:
    """One packet's walk through the engine in words."""
    line = walk["line"]
    left = [
        f"{_SIDES[side]}: {describe_packet(data, length)}" for side, length, data in walk["left"]
    ]
    if walk["left_count"] > len(left):
        left.append(f"and {walk['left_count'] - len(left)} more")
    moment = datetime.fromtimestamp(walk["wall_ns"] // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {
        "time": f"{moment}.{walk['wall_ns'] % 10**9:09d}Z",
        "worker": walk["worker"],
        "side": _SIDES[walk["side"]],
        "port": walk["port"],
        "rx": describe_packet(walk["data"], walk["length"]),
        "lookup": format_address(walk["key"]) if walk["key"] else "",
        "line": "" if line is None else _tell_line(line),
        "verdict": walk["verdict"],
        "tx": left,
        "ns": round(walk["ns"]),
    }


def _tell_line(line: Mapping[str, Any]) -> str:
    """The binding line that was found."""
    left_s = line["remaining_ns"] / 1e9
    lifetime = f"{left_s:.0f} s left" if left_s > 0 else "expired"
    if left_s > 1e9:
        lifetime = "endless"
    return (
        f"{line['number']}: {format_address(line['home'])} at {format_address(line['remote'])}"
        f" from {format_address(line['local'])}, {line['encapsulation']}"
        f"{' in UDP' if line['udp'] else ''}, fits {line['budget']} bytes, {lifetime}"
        f"{', reverse tunnel' if line['reverse'] else ''}"
        + (f", 1 of {line['chain']}" if line["chain"] > 1 else "")
    )


def slots_for(snap: int) -> int:
    """Packets of a ring that hold a snap length each: a power of two, at least ``MIN_SLOTS``."""
    return max(MIN_SLOTS, 1 << (RING_BYTES // (snap + 64)).bit_length() - 1)


async def capture(
    engines: Mapping[str, Engine], arguments: Arguments
) -> AsyncGenerator[dict[str, Any], None]:
    """A pcapng file piece by piece, until ``count`` packets or the client's end.

    Raises CommandError before the first piece.
    """
    captures = open_captures(engines, arguments)
    try:
        yield _piece(_header(engines, arguments), captures)
        while True:
            done = all(one.is_done() for one in captures)
            blocks = b"".join(one.read(READ_BYTES) for one in captures)
            if blocks:
                yield _piece(blocks, captures)
            elif done:
                break
            if len(blocks) < READ_BYTES // 2:
                await asyncio.sleep(READ_EVERY_S)
        yield _piece(b"", captures) | {"done": True}
    finally:
        for one in captures:
            one.close()


def points_of(arguments: Arguments) -> list[str]:
    """Points that are asked for, in the order of a packet's way. Raises CommandError."""
    asked = arguments.get("points") or (["rx"] if arguments.get("drops") else ["rx", "tx"])
    if not isinstance(asked, list) or not all(point in list(_POINTS) for point in asked):
        raise CommandError(f"points: expected some of {', '.join(_POINTS)}")
    if arguments.get("drops") and asked != ["rx"]:
        raise CommandError("a dropped packet is seen at the point rx only: leave --point out")
    return [point for point in _POINTS if point in asked]


def _number_of(arguments: Arguments, name: str, default: int, least: int, most: int) -> int:
    value = arguments.get(name, default)
    if not isinstance(value, int) or not least <= value <= most:
        raise CommandError(f"{name}: expected a number from {least} to {most}")
    return value


def open_captures(engines: Mapping[str, Engine], arguments: Arguments) -> list[Capture]:
    """A capture of each engine; none stays open when one is refused. Raises CommandError."""
    from fastmip import _dataplane  # noqa: PLC0415 - only a started role has an engine

    points, chosen = points_of(arguments), filter_of(arguments)
    snap = _number_of(arguments, "snap", DEFAULT_SNAP, 20, 65535)
    count = _number_of(arguments, "count", 0, 0, 1 << 40)
    captures: list[Capture] = []
    try:
        for number, engine in enumerate(engines.values()):
            captures.append(
                _dataplane.Capture(
                    engine,
                    points=points,
                    terms=chosen.terms,
                    verdicts=chosen.verdicts,
                    snap=snap,
                    slots=slots_for(snap),
                    count=count,
                    first_interface=number * len(points),
                )
            )
    except EngineFull as error:
        for one in captures:
            one.close()
        raise CommandError(str(error)) from None
    return captures


def _header(engines: Mapping[str, Engine], arguments: Arguments) -> bytes:
    """Section header and interfaces; with several roles their names are in the interfaces'."""
    file = io.BytesIO()
    writer = PcapngWriter(file, f"fastmip {__version__}")
    snap = _number_of(arguments, "snap", DEFAULT_SNAP, 20, 65535)
    for role in engines:
        prefix = f"{role} " if len(engines) > 1 else ""
        for point in points_of(arguments):
            writer.add_interface(
                prefix + point, f"{role}: {_POINTS[point]}", snap, link_type=LINKTYPE_RAW
            )
    return file.getvalue()


def _piece(data: bytes, captures: list[Capture]) -> dict[str, object]:
    return {
        "pcapng": base64.b64encode(data).decode("ascii"),
        "packets": sum(one.packets for one in captures),
        "lost": sum(one.lost() for one in captures),
    }
