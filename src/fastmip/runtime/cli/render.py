"""Draw rows as a table for people, or as one JSON document for programs.

The document is ``{"schema": 1, "command": ..., "rows": [...], "summary": {...}}``. Fields may
be added under the same schema number; a removed or renamed field raises it.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastmip.runtime.cli.client import SCHEMA
from fastmip.runtime.cli.failures import Unreachable, printable

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

UNLIMITED_WIDTH = 10_000
"""Columns of a table that goes into a pipe: nothing is wrapped or cut."""

Row = dict[str, Any]


def json_option(command: F) -> F:
    """Add ``--json`` to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def print_result(command: str, result: object, *, as_json: bool) -> None:
    """Print ``{"rows": ..., "summary": ...}`` of a command; Unreachable if it is not that."""
    rows, summary = rows_and_summary(command, result)
    if as_json:
        print_json({"command": command, "rows": rows, "summary": summary})
    else:
        print_table(rows, summary)


def print_json(document: dict[str, Any]) -> None:
    """Print a document with its schema number, one object over several lines."""
    click.echo(json.dumps({"schema": SCHEMA, **document}, indent=2))


def print_done(command: str, *lines: str, as_json: bool, **facts: object) -> None:
    """Say that a command was carried out: lines for people, or its facts as ``summary``."""
    if as_json:
        print_json({"command": command, "summary": facts})
        return
    for line in lines:
        click.echo(line)


def print_table(rows: list[Row], summary: Row) -> None:
    """Print rows as a table with the union of their keys as columns, then the summary."""
    console = console_for_stdout()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if rows:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for name in columns:
            numeric = all(_is_number(row.get(name)) for row in rows)
            table.add_column(
                Text(printable(name)),
                justify="right" if numeric else "left",
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(Text(cell(row.get(name))) for name in columns))
        console.print(table)
    elif not summary:
        console.print("nothing to show")
    for name, value in summary.items():
        console.print(Text(f"{printable(name)}: {cell(value)}"))


def console_for_stdout() -> Console:
    """Make a console: no colour and no line width where the output is not a terminal."""
    if sys.stdout.isatty():
        return Console(highlight=False)  # rich itself honours NO_COLOR
    return Console(highlight=False, no_color=True, width=UNLIMITED_WIDTH)


def cell(value: object) -> str:
    """Write one value: a dash for nothing, yes and no, thousandths for fractions."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value) or "-"
    if isinstance(value, dict):
        return (
            ", ".join(f"{printable(str(name))}={cell(item)}" for name, item in value.items()) or "-"
        )
    return printable(str(value))


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def rows_and_summary(command: str, result: object) -> tuple[list[Row], Row]:
    """Take a result apart. Raises Unreachable for anything but rows and a summary."""
    if isinstance(result, dict):
        rows, summary = result.get("rows", []), result.get("summary") or {}
        if (
            isinstance(rows, list)
            and all(isinstance(row, dict) for row in rows)
            and isinstance(summary, dict)
        ):
            return rows, summary
    raise Unreachable(f"{command}: the daemon's answer has no rows: update it")
