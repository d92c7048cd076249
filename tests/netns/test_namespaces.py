"""The helper that makes namespaces for tests: nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.namespaces import Namespaces, sweep, wait_for

pytestmark = pytest.mark.netns

KILLED = """
import os, signal
from tests.helpers.namespaces import Namespaces
net = Namespaces("one", "two").__enter__()
net.start("one", "sleep", "60")
print(net.prefix, flush=True)
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
        prefix = killed.stdout.strip()
        assert len(left(prefix)) == 2, killed.stderr
        pids = subprocess.run(
            ["ip", "netns", "pids", f"{prefix}-one"], check=True, capture_output=True, text=True
        ).stdout.split()
        assert pids
        assert {f"{prefix}-one", f"{prefix}-two"} <= set(sweep())
        assert left(prefix) == []
        wait_for("what ran there to end", lambda: not any(map(runs, pids)))
        assert len(left(net.prefix)) == 1
