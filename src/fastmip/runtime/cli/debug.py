"""``fastmip debug``: events as they happen, until interrupted."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import click

from fastmip.runtime.cli.client import ControlClient, control_options
from fastmip.runtime.cli.failures import printable

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("events", nargs=-1, metavar="[EVENT]...")
@click.option("--count", type=click.IntRange(min=1), help="End after so many events.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@control_options
def debug(
    socket_path: Path,
    timeout_s: float,
    events: tuple[str, ...],
    count: int | None,
    *,
    as_json: bool,
) -> None:
    """Print events as they happen: what is logged, and every control message.

    EVENT is a name such as registration-denied, or its first words: registration.
    """
    client = ControlClient(socket_path, timeout_s)
    stream = client.stream("debug", {"events": list(events)})
    for event in itertools.islice(stream, count):
        click.echo(json.dumps(event) if as_json else _line(event))


def _line(event: dict[str, Any]) -> str:
    """Time, name and fields for people."""
    rest = {k: v for k, v in event.items() if k not in ("event", "timestamp", "level")}
    fields = " ".join(f"{name}={value}" for name, value in rest.items())
    return printable(f"{event.get('timestamp', '')} {event.get('event', '')} {fields}".rstrip())
