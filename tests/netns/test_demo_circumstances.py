"""The demonstration unprivileged, in a chroot, interrupted, and with its lab interfered with."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers.demo_run import DEMO, LIMIT_S, UNPRIVILEGED, assert_success, leftovers, run_demo
from tests.helpers.roots import plain_chroot
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.slow]


def test_works_without_privileges_in_a_user_namespace(
    tmp_path: Path, source_path: dict[str, str]
) -> None:
    run = run_demo(tmp_path, source_path, UNPRIVILEGED)
    assert_success(run)


def test_the_outcome_is_the_same_by_af_xdp(tmp_path: Path, source_path: dict[str, str]) -> None:
    assert_success(run_demo(tmp_path, source_path, io="xdp"))


def test_the_outcome_is_the_same_with_offload(tmp_path: Path, source_path: dict[str, str]) -> None:
    run = run_demo(tmp_path, source_path, more=["--offload"])
    assert_success(run, checks=11)
    assert any("only the kernel saw" in str(check["check"]) for check in run.checks), run.checks


def test_works_as_root_in_a_plain_chroot(tmp_path: Path, source_path: dict[str, str]) -> None:
    run = run_demo(tmp_path, source_path, plain_chroot(tmp_path / "chroot"))
    assert_success(run)


def test_without_privileges_in_a_chroot_says_why_it_cannot_work(
    tmp_path: Path, source_path: dict[str, str]
) -> None:
    """The kernel allows a chroot no user namespace."""
    before = [*plain_chroot(tmp_path / "chroot"), *UNPRIVILEGED]
    run = run_demo(tmp_path, source_path, before)
    assert run.status == 1
    assert run.output.startswith("Error: no user namespace (")
    assert "in a chroot the kernel allows none" in run.output
    assert run.output.count("\n") == 1
    assert run.rows == {}
    assert leftovers(run.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("before", [[], UNPRIVILEGED], ids=["root", "unprivileged"])
def test_nothing_is_left_after_a_signal_in_the_middle(
    tmp_path: Path, source_path: dict[str, str], number: signal.Signals, before: list[str]
) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*before, *DEMO, "--output", str(tmp_path)],
            stdout=file,
            stderr=file,
            env={**source_path, "PYTHONUNBUFFERED": "1"},
        )
    try:
        wait_until(lambda: b"eth0 plugged into A" in output.read_bytes(), 30, "the first move")
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
    finally:
        process.kill()
        process.wait()
    assert b"Traceback" not in output.read_bytes()
    wait_until(lambda: not leftovers(process.pid), 5, "the removal of everything")


def _interfere(
    directory: Path, environment: dict[str, str], after: bytes, what: Callable[[str], None]
) -> tuple[int, str, int]:
    """Run the demo, do something to its lab at a moment; its status, output and process id."""
    output = directory / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*DEMO, "--output", str(directory)], stdout=file, stderr=file, env=environment
        )
    try:
        wait_until(lambda: after in output.read_bytes(), 30, "the moment")
        what(f"fm{process.pid}n1")
        status = process.wait(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    return status, output.read_text(), process.pid


def test_fails_when_tcp_does_not_survive(tmp_path: Path, source_path: dict[str, str]) -> None:
    def cut_off_the_correspondent(prefix: str) -> None:
        command = ["ip", "-n", f"{prefix}-cn", "route", "delete", "default"]
        subprocess.run(command, check=True)

    environment = {**source_path, "PYTHONUNBUFFERED": "1"}
    moment = b"home agent: away at 10.3.2.5"
    status, output, pid = _interfere(tmp_path, environment, moment, cut_off_the_correspondent)
    assert status == 1
    table = [line.split() for line in output.splitlines() if " -> " in line and "  NO" in line]
    assert len(table) == 5  # all moves but the first
    assert "FAILED  TCP cn to mn" in output
    assert "FAILED  cn to hh, which never left home" in output
    assert "ok  hh to another host that never left home" in output
    assert "TCP did not survive." in (tmp_path / "report.html").read_text()
    assert leftovers(pid) == []


def test_says_so_when_a_daemon_dies(tmp_path: Path, source_path: dict[str, str]) -> None:
    def kill_the_home_agent(prefix: str) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # ended meanwhile
            name = arguments[-2:-1]  # the last one; each ends with a zero
            if name and prefix.encode() in name[0] and name[0].endswith(b"/ha.toml"):
                os.kill(int(process.name), signal.SIGKILL)

    environment = {**source_path, "PYTHONUNBUFFERED": "1"}
    moment = b"home agent: away at 10.3.1.5"
    status, output, pid = _interfere(tmp_path, environment, moment, kill_the_home_agent)
    assert status == 1
    assert "Error: the daemon on ha ended" in output
    assert "Traceback" not in output
    assert "home-agent-started" in (tmp_path / "ha.log").read_text()
    assert leftovers(pid) == []


def test_nothing_is_left_after_kill(tmp_path: Path, source_path: dict[str, str]) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*DEMO, "--output", str(tmp_path)],
            stdout=file,
            stderr=file,
            env={**source_path, "PYTHONUNBUFFERED": "1"},
        )
    wait_until(lambda: b"eth0 plugged into A" in output.read_bytes(), 30, "the first move")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = time.monotonic()
    wait_until(lambda: not leftovers(process.pid), 10, "the reaper")
    assert time.monotonic() - killed < 10
