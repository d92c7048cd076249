"""Real kernels for tests: the lab of the demo as a fixture.

``lab`` is a fresh lab with the mobile node unplugged::

    def test_something(lab):
        lab.plug("eth0", VISITED_A)
        lab.lease("eth0", VISITED_A)
        assert lab.run("mn", "ping", "-c1", "-W1", "10.9.0.7").returncode == 0

Commands run with ``lab.run(machine, *argv)``, processes with ``lab.popen(machine, argv)``;
both end with the test. ``tests.helpers.waiting.wait_until`` waits for conditions.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmip.runtime.demo.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Build a lab; take it down also when the test fails, and see that nothing is left."""
    with Lab() as built:
        yield built
    assert namespaces_of(built.prefix) == []
    assert not built.directory.exists()


def namespaces_of(prefix: str) -> list[str]:
    """Network namespaces of this machine whose names begin so."""
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    return [name for name in names if name.startswith(prefix)]


@pytest.fixture(scope="session")
def source_path() -> dict[str, str]:
    """Environment in which a child process finds this checkout's package."""
    inherited = os.environ.get("PYTHONPATH")
    source = str(Path(__file__).parents[2] / "src")
    return {**os.environ, "PYTHONPATH": f"{source}:{inherited}" if inherited else source}
