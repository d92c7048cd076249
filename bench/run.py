"""Run benchmarks, print a table, write and compare JSON.

``python -m bench.run [--only NAME...] [--json FILE] [--compare OLD.json] [--list]``
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.helpers.roots import leave_chroot

from bench.results import Benchmark, Result, machine

HERE = Path(__file__).parent
NOT_BENCHMARKS = {"__init__", "run", "results", "conftest"}


def discover() -> dict[str, Benchmark]:
    """Group name -> function, from every module of this folder that defines BENCHMARKS."""
    found: dict[str, Benchmark] = {}
    for path in sorted(HERE.glob("*.py")):
        if path.stem in NOT_BENCHMARKS:
            continue
        module = importlib.import_module(f"bench.{path.stem}")
        found.update(getattr(module, "BENCHMARKS", {}))
    return found


def wanted(group: str, only: list[str]) -> bool:
    """A name selects a group when either is a dotted prefix of the other."""
    if not only:
        return True
    return any(
        f"{group}.".startswith(f"{name}.") or f"{name}.".startswith(f"{group}.") for name in only
    )


def select(results: list[Result], only: list[str]) -> list[Result]:
    """Keep the figures asked for by a dotted prefix."""
    if not only:
        return results
    return [r for r in results if any(f"{r.name}.".startswith(f"{name}.") for name in only)]


def as_object(result: Result) -> dict[str, Any]:
    """One figure as scripts read it; floats rounded to what was measured."""
    return {
        "name": result.name,
        "value": float(f"{result.value:.6g}"),
        "unit": result.unit,
        "ratio": None if result.ratio is None else float(f"{result.ratio:.4g}"),
        "reference": result.reference,
        "command": result.command,
        "machine": machine(),
    }


def table(results: list[Result], old: dict[str, float]) -> Table:
    """The figures, with the change against an earlier file where there is one."""
    shown = Table(title="fastmip benchmarks")
    for column in ("name", "value", "unit", "ratio", "reference"):
        shown.add_column(column, justify="right" if column in {"value", "ratio"} else "left")
    if old:
        shown.add_column("new/old", justify="right")
    for r in results:
        row = [r.name, f"{r.value:.4g}", r.unit, "" if r.ratio is None else f"{r.ratio:.3g}"]
        row.append(r.reference)
        if old:
            before = old.get(r.name)
            row.append(f"{r.value / before:.3f}" if before else "-")
        shown.add_row(*row)
    return shown


def main(argv: list[str]) -> int:
    """Run what was asked for; exit status 1 when nothing matched or a benchmark failed."""
    parser = argparse.ArgumentParser(prog="sh ./run bench")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--compare", type=Path, metavar="OLD.json")
    parser.add_argument("--list", action="store_true", help="print the groups and stop")
    args = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 140)
    progress = Console(stderr=True)
    groups = {name: run for name, run in discover().items() if wanted(name, args.only)}
    if args.list:
        console.print("\n".join(groups), highlight=False)
        return 0
    old: dict[str, float] = {}
    if args.compare:
        old = {o["name"]: o["value"] for o in json.loads(args.compare.read_text())}
    results: list[Result] = []
    for number, (name, run) in enumerate(groups.items(), 1):
        progress.print(f"[{number}/{len(groups)}] {name} ...", highlight=False)
        began = time.monotonic()
        results += select(list(run()), args.only)
        progress.print(f"    {time.monotonic() - began:.1f} s", highlight=False)
    if not results:
        progress.print(f"no benchmark matches {' '.join(args.only)}; see --list")
        return 1
    console.print(table(results, old))
    console.print(" ".join(f"{k}={v}" for k, v in machine().items()), highlight=False)
    if args.json:
        args.json.write_text(json.dumps([as_object(r) for r in results], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    leave_chroot()  # before a benchmark brings threads
    sys.exit(main(sys.argv[1:]))
