"""Running the demo as a user would, and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 90
MOVES = ("home-a", "a-b", "b-home")
"""Of the first scene."""
DEMO = [sys.executable, "-c", "from fastmip.runtime.cli.main import main; main()", "demo"]
UNPRIVILEGED = ["setpriv", "--inh-caps=-all", "--bounding-set=-all,+setfcap"]
"""No capability but the one a user needs whose number is already 0 to be 0 inside, too."""


@dataclass
class Run:
    """A finished demo."""

    status: int
    output: str
    directory: Path
    rows: dict[str, object]
    checks: list[dict[str, object]]
    pid: int

    def tshark(self, *fields: str, only: str = "") -> list[list[str]]:
        """Fields of the captured packets that pass a display filter."""
        command = ["tshark", "-n", "-r", str(self.directory / "demo.pcapng"), "-T", "fields"]
        for field in fields:
            command += ["-e", field]
        command += ["-Y", only] if only else []
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        return [line.split("\t") for line in result.stdout.splitlines()]


def leftovers(pid: int) -> list[str]:
    """Namespaces, processes and directories of the demo with this process id."""
    prefix = f"fm{pid}n"
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    found = [line for line in listed.stdout.splitlines() if line.startswith(prefix)]
    found += [str(path) for path in Path("/tmp").glob(f"{prefix}*")]  # noqa: S108 -- where the demo's own directory would be
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if prefix.encode() in command:
            found.append(f"{process.name}: {command.decode()}")
    return found


def run_demo(
    directory: Path,
    environment: dict[str, str],
    before: Sequence[str] = (),
    *,
    scene: str = "home-agent",
    io: str = "kernel",
    more: Sequence[str] = (),
) -> Run:
    """Run a scene to its end."""
    json_file = directory / "demo.json"
    options = ["--scene", scene, "--io", io, "--output", str(directory), "--json", str(json_file)]
    process = subprocess.Popen(
        [*before, *DEMO, *options, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    output, _ = process.communicate(timeout=LIMIT_S)
    print(output)  # noqa: T201 -- pytest shows it when an assertion fails
    rows = json.loads(json_file.read_text()) if json_file.exists() else []
    return Run(
        process.returncode,
        output,
        directory,
        {row["name"]: row["value"] for row in rows if "check" not in row},
        [row for row in rows if "check" in row],
        process.pid,
    )


def assert_success(run: Run, *, checks: int = 10) -> None:
    """The first scene went well and left nothing."""
    assert run.status == 0, run.output
    for style in ("break", "make"):
        for move in MOVES:
            stem = f"demo.{style}.{move}"
            assert run.rows[f"{stem}.tcp_survived"] is True
            registrations = run.rows[f"{stem}.registrations"]
            assert isinstance(registrations, int)
            assert registrations >= 1
    assert [check for check in run.checks if check["value"] is not True] == []
    assert len(run.checks) == checks
    duration = run.rows["demo.duration"]
    assert isinstance(duration, float)
    assert duration < LIMIT_S
    assert leftovers(run.pid) == []
