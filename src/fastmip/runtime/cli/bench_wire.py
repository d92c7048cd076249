"""``fastmip bench wire``: a home agent between namespaces, beside the kernel's own ways."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click
import msgspec

from fastmip.runtime.bench import report
from fastmip.runtime.bench.bpf_calls import BpfError
from fastmip.runtime.bench.device import IOS, KINDS, MAX_BINDINGS, Setting
from fastmip.runtime.bench.search import Search
from fastmip.runtime.bench.wire import Measured, Plan, WireBench
from fastmip.runtime.cli.failures import Failure
from fastmip.runtime.cli.render import json_option, print_json, print_table
from fastmip.runtime.demo.lab import LabError

_PROGRAMS = {"ip": "iproute2", "nsenter": "util-linux", "setpriv": "util-linux"}
_COUNTS = {"k": 1000, "M": 1_000_000}


def _bindings(
    _ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[int, ...]:
    found = []
    for text in texts:
        digits, scale = (text[:-1], _COUNTS[text[-1]]) if text[-1:] in _COUNTS else (text, 1)
        number = int(digits) * scale if digits.isdecimal() else 0
        if not 1 <= number <= MAX_BINDINGS:
            raise click.BadParameter(f"{text}: expected 1 to {MAX_BINDINGS}, or 10k, or 1M")
        found.append(number)
    return tuple(found)


def _sizes(
    _ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    for text in texts:
        if text != "imix" and not (text.isdecimal() and 64 <= int(text) <= 1480):
            raise click.BadParameter(f"{text}: expected 64 to 1480, or imix")
    return texts


@click.command()
@click.option(
    "--io",
    "ios",
    type=click.Choice(list(IOS)),
    multiple=True,
    default=("kernel",),
    show_default=True,
    help="How the home agent gets its packets; may be given several times, as the next three.",
)
@click.option(
    "--size",
    "sizes",
    callback=_sizes,
    multiple=True,
    default=("64", "1400"),
    show_default=True,
    help="IPv4 total length before the tunnel, or imix.",
)
@click.option(
    "--bindings",
    callback=_bindings,
    multiple=True,
    default=("100k",),
    show_default=True,
    help="Bindings; destinations are drawn from all of them.",
)
@click.option(
    "--encapsulation",
    "kinds",
    type=click.Choice(list(KINDS)),
    multiple=True,
    default=("ipip",),
    show_default=True,
    help="Kind of the tunnels; udp is one in UDP (RFC 3519).",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads."
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Bursts at overload, references in turn.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    help="Of a burst.",
)
@click.option(
    "--trials",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Times a rate must fail before it counts as lossy.",
)
@click.option(
    "--trial-seconds",
    type=click.FloatRange(0.05, 3600),
    default=0.3,
    show_default=True,
    help="Of a trial; RFC 2544 says 60.",
)
@click.option(
    "--real-time",
    is_flag=True,
    help="Load and workers before everything else here; others stand still during a burst.",
)
@click.option("--no-loss", is_flag=True, help="Rates at overload only: no search, no latencies.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for wire.html, wire.json and each plot as SVG.",
)
@json_option
def wire(
    ios: tuple[str, ...],
    sizes: tuple[str, ...],
    bindings: tuple[int, ...],
    kinds: tuple[str, ...],
    workers: int,
    rounds: int,
    seconds: float,
    trials: int,
    trial_seconds: float,
    *,
    real_time: bool,
    no_loss: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure a home agent's forwarding between network namespaces of this machine.

    Delivered rate at overload, highest loss-free rate (RFC 2544 26.1), latencies at 10, 50 and
    90 % of it, beside the kernel's ip_forward and its LWT-BPF encapsulation in the same rounds.
    Takes root.
    """
    _require_all()
    search = Search(trials, resolution=0.05)
    plan = Plan(rounds, seconds, search, trial_seconds, loss=not no_loss, real_time=real_time)
    settings = [
        Setting(io, count, kind, workers) for io in ios for count in bindings for kind in kinds
    ]
    try:
        measured = _measure(plan, settings, sizes)
    except (BpfError, LabError) as error:
        raise Failure(str(error)) from None
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "wire.html").write_text(
            report.write_html(measured, f"fastmip {' '.join(sys.argv[1:])}"), encoding="utf-8"
        )
        for name, drawn in report.drawings(measured).items():
            (output / f"{name}.svg").write_text(drawn, encoding="utf-8")
        document = {"machine": report.machine(), "rows": report.documents(measured)}
        (output / "wire.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(document)) + b"\n"
        )
    if as_json:
        shown = report.documents(measured)
        print_json({"command": "bench wire", "rows": shown, "summary": report.machine()})
    else:
        print_table(report.rows(measured), report.machine())


def _require_all() -> None:
    if os.geteuid():
        raise Failure("bench wire: run as root: programs inside the kernel take its privileges")
    for program, package in _PROGRAMS.items():
        if not shutil.which(program):
            raise Failure(f"{program} is missing: install {package}")


def _measure(plan: Plan, settings: list[Setting], sizes: tuple[str, ...]) -> list[Measured]:
    measured: list[Measured] = []
    is_watched = sys.stderr.isatty()

    def tell(text: str) -> None:
        if is_watched:
            click.echo(f"\r\033[K{text}", nl=False, err=True)

    with WireBench(plan) as bench:
        for size in sizes:
            tell(f"references {size}")
            measured += bench.references(size)
        for setting in settings:
            tell(f"starting {setting.io} with {setting.bindings} bindings")
            with bench.device(setting) as agent:
                measured += [bench.measure(agent, size, tell) for size in sizes]
    tell("")
    return measured
