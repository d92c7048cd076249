"""``fastmip bench ...``: the packet engine on packets from outside, and the suite of a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import fastmip
from fastmip.errors import FastmipError
from fastmip.runtime.cli.failures import Failure
from fastmip.runtime.cli.groups import AbbreviatingGroup
from fastmip.runtime.cli.render import json_option, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

EXPLANATION = """\
Benchmarks are a suite of the checkout:
  sh ./run bench                       all of it, with a table
  sh ./run bench --json FILE           and a file for scripts
  sh ./run bench --compare OLD.json    and the change since
  fastmip bench engine|control         a part of it
A home agent between namespaces of this machine, beside the kernel's own forwarding:
  fastmip bench wire --io kernel --size 64 --output DIR
On packets of yours, checkable from outside:
  fastmip bench engine --pcap IN --bindings CSV --out OUT --repeat N
Load for a device of yours, and what comes back of it:
  fastmip bench load IFACE --mac MAC --to ADDRESSES --receive IFACE"""

GROUPS = {"engine": ["engine"], "control": ["control", "store"], "all": []}
"""Command -> groups of the suite."""


LAZY = {
    "load": "fastmip.runtime.cli.bench_load:load",
    "wire": "fastmip.runtime.cli.bench_wire:wire",
}


@click.group(cls=AbbreviatingGroup, lazy=LAZY, invoke_without_command=True)
@click.pass_context
def bench(ctx: click.Context) -> None:
    """Measure the packet engine, the wire, registrations."""
    if ctx.invoked_subcommand is None:
        click.echo(EXPLANATION)


@bench.command()
@click.option("--pcap", type=click.Path(path_type=Path), help="Packets to send: a classic pcap.")
@click.option(
    "--bindings",
    "csv_file",
    type=click.Path(path_type=Path),
    help="CSV file with the header home_address,remote,local[,mtu].",
)
@click.option(
    "--side",
    type=click.Choice(["home", "tunnel"]),
    default="home",
    show_default=True,
    help="Where the packets come from: home is encapsulated, tunnel is decapsulated.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write what comes out (raw IP pcap).")
@click.option("--repeat", type=click.IntRange(1, 1_000_000), default=1, show_default=True)
@json_option
def engine(
    pcap: Path | None,
    csv_file: Path | None,
    side: str,
    out: Path | None,
    repeat: int,
    *,
    as_json: bool,
) -> None:
    """Measure the packet engine; with --pcap on packets from outside.

    Counters are of all passes, packets and output of the first. Time is spent in the
    pipeline: reading and writing files does not count.
    """
    if pcap is None and csv_file is None and out is None:
        _suite(GROUPS["engine"])
        return
    if pcap is None or csv_file is None:
        raise click.UsageError("--pcap needs --bindings, and the other way round")
    rows, summary = run_capture(pcap, csv_file, out, side=side, repeat=repeat)
    if as_json:
        print_json({"command": "bench engine", "rows": rows, "summary": summary})
    else:
        print_table(rows, summary)


def run_capture(
    pcap: Path, csv_file: Path, out: Path | None, *, side: str, repeat: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Send a capture through an engine of its own; verdicts with packets, and the figures.

    Raises Failure for files that cannot be used.
    """
    from fastmip import _dataplane  # noqa: PLC0415 - the explanation above needs no engine
    from fastmip.runtime.cli.bindings_csv import read_bindings, tunnel_records  # noqa: PLC0415

    try:
        bindings = read_bindings(csv_file)
        cache = _dataplane.BindingCache(
            max_bindings=len(bindings),
            local_addresses=sorted({binding.local for binding in bindings}),
        )
        cache.restore(tunnel_records(bindings))
        sides = {"home": _dataplane.HOME, "tunnel": _dataplane.TUNNEL}
        told = _dataplane.run_pcap(cache, pcap, out, side=sides[side], repeat=repeat)
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from None
    except (FastmipError, ValueError) as error:
        raise Failure(str(error)) from None
    rows = [
        {"verdict": name, "packets": packets, "bytes": size}
        for name, (packets, size) in cache.counters().items()
        if packets
    ]
    sent = told["packets"] * repeat
    summary: dict[str, Any] = {
        "packets": told["packets"],
        "skipped": told["skipped"],
        "left_home": told["home"],
        "left_tunnel": told["tunnel"],
        "bindings": cache.bindings(),
        "repeat": repeat,
        "ns": told["ns"],
        "ns_per_packet": round(told["ns"] / sent, 3) if sent else None,
        **cache.balance(),
    }
    return rows, summary


def _part(name: str, explanation: str) -> None:
    @bench.command(
        name,
        help=explanation,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    @click.pass_context
    def command(ctx: click.Context) -> None:
        _suite(GROUPS[name], ctx.args)


_part("control", "Measure registrations and the store.")
_part("all", "Run the whole suite.")


def _suite(groups: Sequence[str], arguments: Sequence[str] = ()) -> None:
    """Run groups of the suite of the checkout this program comes from; ends the program."""
    checkout = _checkout()
    if checkout is None:
        raise Failure("the suite of benchmarks is in a checkout: run sh ./run bench there")
    only = ["--only", *groups] if groups else []
    command = [sys.executable, "-m", "bench.run", *only, *arguments]
    done = subprocess.run(command, cwd=checkout, check=False)  # noqa: S603 - our own module
    raise SystemExit(done.returncode)


def _checkout() -> Path | None:
    """Return the checkout around the package, or the one around us."""
    candidates = (Path(fastmip.__file__).parents[2], Path.cwd())
    return next((path for path in candidates if (path / "bench" / "run.py").is_file()), None)
