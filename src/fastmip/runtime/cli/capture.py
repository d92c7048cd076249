"""``fastmip capture``: packets inside the engine as a pcapng file."""

from __future__ import annotations

import base64
import binascii
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from fastmip.runtime.cli.client import ControlClient, control_options
from fastmip.runtime.cli.failures import Failure, Unreachable
from fastmip.runtime.cli.trace import MATCH_HELP

if TYPE_CHECKING:
    from collections.abc import Iterator

STDOUT = Path("-")
POINTS = ("rx", "decap", "encap", "tx")


@click.command()
@click.option(
    "--point",
    "points",
    multiple=True,
    type=click.Choice(POINTS),
    help="Where to look, several times if you like.  [default: rx, tx]",
)
@click.option("--match", multiple=True, metavar="TERM", help=MATCH_HELP)
@click.option("--count", type=click.IntRange(min=1), help="End after so many packets.")
@click.option("--drops", is_flag=True, help="Only packets that were dropped, with the reason.")
@click.option(
    "--snap",
    type=click.IntRange(20, 65535),
    default=2048,
    show_default=True,
    help="Longest beginning of a packet to keep, bytes.",
)
@click.option(
    "-w",
    "--write",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    required=True,
    help="File to write, mode 0600; - for standard output.",
)
@control_options
def capture(
    socket_path: Path,
    timeout_s: float,
    points: tuple[str, ...],
    match: tuple[str, ...],
    count: int | None,
    snap: int,
    file: Path,
    *,
    drops: bool,
) -> None:
    """Capture packets as the engine sees them, until Ctrl-C.

    Wireshark and tshark read what is written; a dropped packet carries its reason as a comment.
    """
    arguments: dict[str, Any] = {"match": list(match), "snap": snap, "drops": drops}
    if points:
        arguments["points"] = list(points)
    if count is not None:
        arguments["count"] = count
    pieces = ControlClient(socket_path, timeout_s).stream("capture", arguments)
    first = next(pieces)  # refused, no file is made
    last = first
    with _open(file) as output:
        try:
            for last in _written(output, first, pieces):
                if last.get("done"):
                    break
        except BrokenPipeError:  # who reads has seen enough
            _silence_stdout()
        except OSError as error:
            raise Failure(f"{file}: {error.strerror}: the capture ends here") from None
        except KeyboardInterrupt:
            pass
    told = f"{last.get('packets', 0)} packets captured"
    if last.get("lost"):
        told += f", {last['lost']} lost: use --match, --snap, or fewer points"
    click.echo(told, err=True)


def _written(
    output: BinaryIO, first: dict[str, Any], pieces: Iterator[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Write every piece before it is told."""
    _write(output, first)
    yield first
    for piece in pieces:
        _write(output, piece)
        yield piece


def _write(output: BinaryIO, piece: dict[str, Any]) -> None:
    try:
        data = base64.b64decode(piece["pcapng"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        raise Unreachable("capture: the daemon's answer is no capture: update it") from None
    view = memoryview(data)
    while view:
        view = view[output.write(view) :]


def _open(file: Path) -> BinaryIO:
    """Make the file with mode 0600, or take standard output."""
    if file == STDOUT:
        if sys.stdout.isatty():
            raise Failure("capture: standard output is a terminal: write to a file or a pipe")
        return os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(file, flags, 0o600)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # not /dev/null and the like
            os.fchmod(descriptor, 0o600)  # also where a file was already
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}: name another file") from None
    return os.fdopen(descriptor, "wb", buffering=0)


def _silence_stdout() -> None:
    """Nothing may complain about the closed pipe once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
