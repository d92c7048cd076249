"""The second scene of the demo: agents, a translator, every encapsulation; judged on the wire."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from tests.helpers.demo_run import DEMO, LIMIT_S, UNPRIVILEGED, Run, leftovers, run_demo
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.slow]

ENCAPSULATIONS = {"ipip": "4", "minimal": "55", "gre": "47"}
MOVES = ("home-fa1", "fa1-fa2", "fa2-nat", "nat-home")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, source_path: dict[str, str]) -> Run:
    """Run the scene once, as root, for all judges below."""
    return run_demo(tmp_path_factory.mktemp("demo"), source_path, scene="foreign")


def _assert_success(run: Run) -> None:
    assert run.status == 0, run.output
    for encapsulation in ENCAPSULATIONS:
        for move in MOVES:
            stem = f"demo.{encapsulation}.{move}"
            assert run.rows[f"{stem}.tcp_survived"] is True
            registrations = run.rows[f"{stem}.registrations"]
            assert isinstance(registrations, int)
            assert registrations >= 1
    assert [check for check in run.checks if check["value"] is not True] == []
    assert len(run.checks) == 25  # an ARP table for each move, a tunnel for each away, streams
    duration = run.rows["demo.duration"]
    assert isinstance(duration, float)
    assert duration < LIMIT_S
    assert leftovers(run.pid) == []


def test_tcp_survives_agents_and_translator_over_every_encapsulation(finished: Run) -> None:
    _assert_success(finished)


def test_table_fits_a_terminal(finished: Run) -> None:
    lines = [line for line in finished.output.splitlines() if " -> " in line and "yes, " in line]
    assert len(lines) == 12
    assert all(len(line) <= 80 and "…" not in line for line in lines), lines


def _outer(run: Run, only: str) -> set[tuple[str, str, str]]:
    """Protocol, source and destination of outer headers beside the home agent."""
    rows = run.tshark(
        *("ip.proto", "ip.src", "ip.dst"),
        only=f'frame.interface_name=="ha-outside" and ip and not icmp and {only}',
    )
    return {tuple(cell.split(",")[0] for cell in row) for row in rows}  # type: ignore[misc]


def test_wireshark_sees_each_encapsulation_to_each_agent(finished: Run) -> None:
    agents = {"10.3.1.1", "10.3.2.1"}
    seen = _outer(finished, "(ip.addr==10.3.1.1 or ip.addr==10.3.2.1) and not mip")
    for number in ENCAPSULATIONS.values():
        ends = {(source, target) for kind, source, target in seen if kind == number}
        assert ends == {pair for a in agents for pair in (("10.1.0.1", a), (a, "10.1.0.1"))}
    assert {kind for kind, *_ in seen} == set(ENCAPSULATIONS.values())


def test_behind_the_translator_everything_is_udp_434(finished: Run) -> None:
    outside = 'frame.interface_name=="ha-outside" and not icmp'
    for end in ("ip.dst", "ip.src"):
        rows = finished.tshark("ip.proto", only=f"{outside} and {end}==10.4.0.2")
        assert {cell.split(",")[0] for (cell,) in rows} == {"17"}


def test_with_an_agent_the_node_needs_no_address_of_its_own(finished: Run) -> None:
    asked = finished.tshark(
        "ip.src", "ip.dst", "mip.coa", only='frame.interface_name=="mn-eth0" and mip.type==1'
    )
    for agent in ("10.3.1.1", "10.3.2.1"):
        assert ["10.1.0.5", agent, agent] in asked


def test_wireshark_has_no_complaint_about_any_control_message(finished: Run) -> None:
    messages = finished.tshark("mip.type", "_ws.expert", "_ws.malformed", only="mip and not icmp")
    control = {kind for kind, *_ in messages}
    assert control >= {"1", "3"}
    assert {tuple(complaints) for kind, *complaints in messages if kind in "13"} == {("", "")}


def test_report_shows_this_scene(finished: Run) -> None:
    page = (finished.directory / "report.html").read_text()
    assert "TCP survived every move." in page
    assert "foreign agent 10.3.2.1" in page
    assert "minimal encapsulation" in page
    assert not re.search(r"https?:|src=|href=|@import|url\(|<script", page)


def test_works_without_privileges_in_a_user_namespace(
    tmp_path: Path, source_path: dict[str, str]
) -> None:
    run = run_demo(tmp_path, source_path, UNPRIVILEGED, scene="foreign")
    _assert_success(run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_nothing_is_left_after_a_signal_in_the_middle(
    tmp_path: Path, source_path: dict[str, str], number: signal.Signals
) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*DEMO, "--scene", "foreign", "--output", str(tmp_path)],
            stdout=file,
            stderr=file,
            env={**source_path, "PYTHONUNBUFFERED": "1"},
        )
    try:
        wait_until(lambda: b"away at 10.3.1.1" in output.read_bytes(), 40, "the first move")
        os.kill(process.pid, number)
        process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert b"Traceback" not in output.read_bytes()
    wait_until(lambda: not leftovers(process.pid), 10, "the removal of everything")


def test_fails_when_tcp_does_not_survive(tmp_path: Path, source_path: dict[str, str]) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*DEMO, "--scene", "foreign", "--output", str(tmp_path)],
            stdout=file,
            stderr=file,
            env={**source_path, "PYTHONUNBUFFERED": "1"},
        )
    try:
        wait_until(lambda: b"away at 10.3.2.1" in output.read_bytes(), 40, "the moment")
        cut = ["ip", "-n", f"fm{process.pid}n1-cn", "route", "delete", "default"]
        subprocess.run(cut, check=True)
        status = process.wait(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    assert status == 1
    wait_until(lambda: not leftovers(process.pid), 10, "the removal of everything")
