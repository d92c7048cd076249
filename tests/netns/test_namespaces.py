"""The helper that makes namespaces for tests: nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.namespaces import Namespaces, sweep, wait_for

pytestmark = pytest.mark.netns

KILLED = """
import os, signal, subprocess
from tests.helpers.namespaces import Namespaces, wait_for
net = Namespaces("one", "two").__enter__()
net.start("one", "sleep", "60")
listing = ["ip", "netns", "pids", net.full("one")]
pids = wait_for("the process", lambda: subprocess.check_output(listing, text=True).split())
print(net.prefix, *pids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def left(prefix: str) -> list[Path]:
    return list(Path("/run/netns").glob(f"{prefix}-*"))


def runs(pid: str) -> bool:
    """Whether a process lives; a dead one that nobody waited for has no command line."""
    try:
        return bool(Path("/proc", pid, "cmdline").read_bytes())
    except FileNotFoundError:
        return False


def test_a_killed_run_is_cleared_away_and_a_living_one_is_not() -> None:
    with Namespaces("mine") as net:
        killed = subprocess.run(
            [sys.executable, "-c", KILLED],
            check=False,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert killed.stdout, killed.stderr
        prefix, *pids = killed.stdout.split()
        assert pids
        sweep()  # or another run that began just now
        assert left(prefix) == []
        wait_for("what ran there to end", lambda: not any(map(runs, pids)))
        assert len(left(net.prefix)) == 1
