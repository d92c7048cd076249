"""``fastmip top``: what the packets do now; rates from the daemon's counters of two moments."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fastmip.runtime.cli.client import ControlClient, control_options
from fastmip.runtime.cli.failures import Failure, Unreachable, printable
from fastmip.runtime.cli.render import console_for_stdout, json_option, print_json

if TYPE_CHECKING:
    from pathlib import Path

Snapshot = dict[str, Any]
Row = dict[str, Any]
COUNTERS_SHOWN: Final = 12
VERDICTS_SHOWN: Final = 16


@click.command()
@click.option("--once", is_flag=True, help="Print once, after one interval, and end.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@json_option
@control_options
def top(
    socket_path: Path, timeout_s: float, interval_s: float, *, once: bool, as_json: bool
) -> None:
    """Show rates of packets and registrations, workers and costs, until Ctrl-C.

    --json prints one document, as --once does for people.
    """
    client = ControlClient(socket_path, timeout_s)
    before = _look(client)
    console = console_for_stdout()
    if once or as_json:
        time.sleep(interval_s)
        rows, summary = compare(before, _look(client))
        if as_json:
            print_json({"command": "top", "rows": rows, "summary": summary})
        else:
            console.print(picture(rows, summary))
        return
    if not console.is_terminal:
        raise Failure("top: standard output is no terminal: use --once")
    _watch(client, console, before, interval_s)


def _watch(client: ControlClient, console: Console, before: Snapshot, interval_s: float) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            now = _look(client)
            live.update(picture(*compare(before, now)), refresh=True)
            before = now


def _look(client: ControlClient) -> Snapshot:
    snapshot = client.ask("observe")
    if not isinstance(snapshot, dict) or not isinstance(snapshot.get("roles"), list):
        raise Unreachable("observe: the daemon's answer has no roles: update it")
    return snapshot


def compare(before: Snapshot, now: Snapshot) -> tuple[list[Row], Row]:
    """What changed, as rows of role, kind, name, per_second, total and more of some kinds.

    A counter that was cleared between the two counts from zero.
    """
    seconds = max(now["monotonic_s"] - before["monotonic_s"], 1e-6)
    then = {role["role"]: role for role in before["roles"]}
    rows: list[Row] = []
    for role in now["roles"]:
        rows += _role_rows(then.get(role["role"], {}), role, seconds)
    threads = before.get("threads_cpu_s", {})
    summary: Row = {
        "seconds": round(seconds, 3),
        "cpu_percent": round(100 * (now["cpu_s"] - before["cpu_s"]) / seconds, 1),
    }
    for name, spent in now.get("threads_cpu_s", {}).items():
        percent = 100 * (spent - threads.get(name, 0.0)) / seconds
        summary[f"{printable(name)}_cpu_percent"] = round(percent, 1)
    return rows, summary


def _rate(now: float, before: float, seconds: float) -> float:
    return round((now - before if now >= before else now) / seconds, 1)


def _role_rows(then: Snapshot, role: Snapshot, seconds: float) -> list[Row]:
    name = role["role"]
    rows: list[Row] = [
        {"role": name, "kind": "gauge", "name": "tunnels", "total": role["bindings"]}
    ]
    rows += [
        {"role": name, "kind": "gauge", "name": gauge, "total": value}
        for gauge, value in role["gauges"].items()
    ]
    verdicts = then.get("verdicts", {})
    for verdict, (packets, size) in role["verdicts"].items():
        packets_then, size_then = verdicts.get(verdict, (0, 0))
        rows.append(
            {
                "role": name,
                "kind": "verdict",
                "name": verdict,
                "per_second": _rate(packets, packets_then, seconds),
                "bits_per_second": 8 * _rate(size, size_then, seconds),
                "total": packets,
            }
        )
    for kind in ("counters", "lost"):
        values = then.get(kind, {})
        rows += [
            {
                "role": name,
                "kind": "counter" if kind == "counters" else kind,
                "name": counter,
                "per_second": _rate(value, values.get(counter, 0), seconds),
                "total": value,
            }
            for counter, value in role[kind].items()
        ]
    return rows + _worker_rows(then, role, seconds)


def _worker_rows(then: Snapshot, role: Snapshot, seconds: float) -> list[Row]:
    rows: list[Row] = []
    workers = then.get("workers", [])
    for number, worker in enumerate(role["workers"]):
        was = workers[number] if number < len(workers) else {}
        rows.append(
            {
                "role": role["role"],
                "kind": "worker",
                "name": str(number),
                "state": worker["state"],
                "per_second": _rate(worker["batches"], was.get("batches", 0), seconds),
                "sleeps_per_second": _rate(worker["sleeps"], was.get("sleeps", 0), seconds),
                "total": worker["batches"],
            }
        )
    stages = {(stage["worker"], stage["stage"]): stage for stage in then.get("stages", [])}
    for stage in role["stages"]:
        was = stages.get((stage["worker"], stage["stage"]), {"packets": 0, "calls": 0})
        packets = _rate(stage["packets"], was["packets"], seconds)
        calls = _rate(stage["calls"], was["calls"], seconds)
        rows.append(
            {
                "role": role["role"],
                "kind": "stage",
                "name": stage["stage"],
                "worker": stage["worker"],
                "per_second": packets,
                "packets_per_call": round(packets / calls, 1) if calls else 0.0,
                "ns_per_packet": stage["ns_per_packet"],
                "total": stage["packets"],
            }
        )
    return rows


def picture(rows: list[Row], summary: Row) -> RenderableType:
    """Draw it for people: what moves, most of it first."""
    parts: list[RenderableType] = [_headline(rows, summary)]
    verdicts = [row for row in rows if row["kind"] == "verdict"]
    verdicts.sort(key=lambda row: (-row["per_second"], row["name"]))
    parts.append(
        _table(
            ("verdict", "packets/s", "Mbit/s", "packets"),
            [
                (
                    row["name"],
                    f"{row['per_second']:,.0f}",
                    f"{row['bits_per_second'] / 1e6:,.1f}",
                    f"{row['total']:,}",
                )
                for row in verdicts[:VERDICTS_SHOWN]
            ],
        )
    )
    parts.append(
        _table(
            ("worker", "stage", "packets/s", "a call", "ns/packet"),
            [
                (
                    row["worker"],
                    row["name"],
                    f"{row['per_second']:,.0f}",
                    f"{row['packets_per_call']:.1f}",
                    f"{row['ns_per_packet']:.1f}",
                )
                for row in rows
                if row["kind"] == "stage" and row["total"]
            ],
        )
    )
    moving = [row for row in rows if row["kind"] in ("counter", "lost") and row["per_second"]]
    moving.sort(key=lambda row: (-row["per_second"], row["name"]))
    parts.append(
        _table(
            ("counter", "a second", "total"),
            [
                (row["name"], f"{row['per_second']:,.1f}", f"{row['total']:,}")
                for row in moving[:COUNTERS_SHOWN]
            ],
        )
    )
    return Group(*parts)


def _headline(rows: list[Row], summary: Row) -> Text:
    """Roles with their gauges, the workers and the CPU."""
    lines = []
    for role in dict.fromkeys(row["role"] for row in rows):
        mine = [row for row in rows if row["role"] == role]
        gauges = ", ".join(f"{r['name']} {r['total']:,}" for r in mine if r["kind"] == "gauge")
        lines.append(f"{role}: {gauges}")
        lines += [
            f"  worker {r['name']}: {r['state']}, {r['per_second']:,.0f} batches/s,"
            f" {r['sleeps_per_second']:,.0f} sleeps/s"
            for r in mine
            if r["kind"] == "worker"
        ]
    cpu = [f"process {summary['cpu_percent']} %"]
    ending = "_cpu_percent"
    cpu += [
        f"{name.removesuffix(ending)} {value} %"
        for name, value in summary.items()
        if name.endswith(ending)
    ]
    lines.append(f"CPU over {summary['seconds']:.1f} s: {', '.join(cpu)}")
    return Text("\n".join(map(printable, lines)) + "\n")


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> RenderableType:
    if not rows:
        return Text("")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    words = {"verdict", "stage", "counter"}
    for column in columns:
        table.add_column(Text(column), justify="left" if column in words else "right")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    return Group(table, Text(""))
