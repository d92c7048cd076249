"""Run the fuzz targets one after the other: ``python -m fuzz.run [SECONDS] [--seed N]``.

The seconds are shared out evenly. Exit status 1 and a file under build/fuzz for a finding.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import sys
import time

from fuzz import mutation

TARGETS = ("control", "discovery", "foreign", "home", "mobile")


def main(names: tuple[str, ...] = TARGETS, arguments: list[str] | None = None) -> int:
    """Parse the command line and fuzz; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=30.0)
    parser.add_argument("--seconds", dest="seconds_option", type=float)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    options = parser.parse_args(arguments)
    seconds = options.seconds_option or options.seconds
    # A hang shows where it hangs; the real stream, because a test may have replaced the other.
    faulthandler.dump_traceback_later(seconds + 60, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        return _fuzz(names, seconds, options.seed)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _fuzz(names: tuple[str, ...], seconds: float, seed: int) -> int:
    for name in names:
        module = importlib.import_module(f"fuzz.{name}")
        print(f"{name}: {seconds / len(names):.0f} s, seed {seed}", flush=True)
        try:
            result = mutation.run(name, module.target, module.SEEDS, seconds / len(names), seed)
        except mutation.Finding as finding:
            print(finding, file=sys.stderr)
            return 1
        print(f"{name}: {result.runs} inputs, {result.outcomes} outcomes, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
