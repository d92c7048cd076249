"""``fastmip trace`` and ``fastmip show trace``: the walk of single packets through the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fastmip.runtime.cli.client import ControlClient, control_options
from fastmip.runtime.cli.failures import printable
from fastmip.runtime.cli.groups import AbbreviatingGroup
from fastmip.runtime.cli.render import json_option, print_done, print_json, rows_and_summary

if TYPE_CHECKING:
    from pathlib import Path

MATCH_HELP = (
    "Only packets with this: an address, a network, a protocol, proto=N, port=N, spi=N or"
    " verdict=NAME (verdict=drop: any drop). Several must all hold."
)


@click.group(cls=AbbreviatingGroup)
def trace() -> None:
    """Follow single packets through the engine."""


@trace.command()
@click.argument("count", type=click.IntRange(1, 1000), default=10)
@click.option("--match", multiple=True, metavar="TERM", help=MATCH_HELP)
@json_option
@control_options
def add(
    socket_path: Path, timeout_s: float, count: int, match: tuple[str, ...], *, as_json: bool
) -> None:
    """Trace the next COUNT packets (10); `show trace` prints them.

    Packets traced before stay until `trace clear`; the daemon keeps the last 1000.
    """
    client = ControlClient(socket_path, timeout_s)
    result = client.ask("trace add", {"count": count, "match": list(match)})
    _, summary = rows_and_summary("trace add", result)
    roles = printable(str(summary.get("roles", "")))
    line = f"tracing the next {count} packets of {roles}: see fastmip show trace"
    print_done("trace add", line, as_json=as_json, **summary)


@trace.command()
@json_option
@control_options
def clear(socket_path: Path, timeout_s: float, *, as_json: bool) -> None:
    """Stop tracing and forget the packets."""
    ControlClient(socket_path, timeout_s).ask("trace clear")
    print_done("trace clear", "traced packets forgotten", as_json=as_json)


@click.command("trace")
@json_option
@control_options
def show_trace(socket_path: Path, timeout_s: float, *, as_json: bool) -> None:
    """Packets that were traced, step by step."""
    result = ControlClient(socket_path, timeout_s).ask("show trace")
    rows, summary = rows_and_summary("show trace", result)
    if as_json:
        print_json({"command": "show trace", "rows": rows, "summary": summary})
        return
    for row in rows:
        for line in walk_lines(row):
            click.echo(printable(line))
    waiting = ", more to come" if summary.get("tracing") else ""
    click.echo(f"{len(rows)} packets traced{waiting}")


def walk_lines(row: dict[str, Any]) -> list[str]:
    """One packet's walk, a step a line."""
    role = f"{row['role']}, " if "role" in row else ""
    lines = [
        f"packet {row.get('number')}: {row.get('time')}, {role}worker {row.get('worker')},"
        f" {row.get('ns')} ns",
        f"  rx       {row.get('side')}, {row.get('port')} port: {row.get('rx')}",
    ]
    if row.get("lookup"):
        lines.append(f"  lookup   {row['lookup']}: {row.get('line') or 'no binding'}")
    lines.append(f"  verdict  {row.get('verdict')}")
    lines += [f"  tx       {left}" for left in row.get("tx", [])]
    return lines
