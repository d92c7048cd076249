"""The demonstration end to end: root, unprivileged, interrupted; judged by Wireshark as well."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers.demo_run import DEMO, LIMIT_S, UNPRIVILEGED, Run, leftovers, run_demo
from tests.helpers.roots import plain_chroot
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.slow]

MOVES = ("home-a", "a-b", "b-home")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, source_path: dict[str, str]) -> Run:
    """Run the demo once, as root, for all judges below."""
    return run_demo(tmp_path_factory.mktemp("demo"), source_path)


def _assert_success(run: Run) -> None:
    assert run.status == 0, run.output
    for style in ("break", "make"):
        for move in MOVES:
            stem = f"demo.{style}.{move}"
            assert run.rows[f"{stem}.tcp_survived"] is True
            registrations = run.rows[f"{stem}.registrations"]
            assert isinstance(registrations, int)
            assert registrations >= 1
    assert [check for check in run.checks if check["value"] is not True] == []
    assert len(run.checks) == 10
    duration = run.rows["demo.duration"]
    assert isinstance(duration, float)
    assert duration < LIMIT_S
    assert leftovers(run.pid) == []


def test_tcp_survives_every_move_as_root(finished: Run) -> None:
    _assert_success(finished)


def test_make_before_break_loses_nothing(finished: Run) -> None:
    lost = {
        f"{move}.{way}": finished.rows[f"demo.make.{move}.{way}.lost"]
        for move in MOVES
        for way in ("down", "up")
    }
    assert set(lost.values()) == {0}, lost


def test_tcp_never_waits_longer_than_its_own_timer_needs(finished: Run) -> None:
    """Catches what only looks like survival: seconds of silence, then recovery."""
    stalls = {name: value for name, value in finished.rows.items() if name.endswith(".stall")}
    assert len(stalls) == 12
    assert all(isinstance(value, int) and value < 2000 for value in stalls.values()), stalls


def test_segments_made_at_home_already_fit_the_tunnel(finished: Run) -> None:
    lengths = finished.tshark("tcp.options.mss_val", only="tcp.flags.syn==1 and ip.src==10.1.0.5")
    assert {mss for (mss,) in lengths} == {"1440"}  # 1500 - 20 for the tunnel - 40
    assert not finished.tshark("icmp.mtu", only="icmp.type==3 and icmp.code==4")


def test_wireshark_has_no_complaint_about_any_control_message(finished: Run) -> None:
    messages = finished.tshark(
        "mip.type", "mip.ext.type", "_ws.expert", "_ws.malformed", only="mip"
    )
    kinds = {kind for kind, *_ in messages}
    assert kinds == {"1", "3"}
    assert {tuple(complaints) for _, _, *complaints in messages} == {("", "")}
    assert all("32" in extensions.split(",") for _, extensions, *_ in messages)
    at_home_agent = finished.tshark("mip.type", only='frame.interface_name matches "^ha-" and mip')
    assert len(at_home_agent) >= 12  # a request and a reply for each of six moves


def test_wireshark_sees_one_unbroken_connection_each_way(finished: Run) -> None:
    for port in (5001, 5002):
        data = finished.tshark("tcp.stream", "tcp.port", only=f"tcp.port=={port} and tcp.len>0")
        used = {tuple(sorted(ports.split(","))) for _, ports in data}
        assert len(used) == 1
        streams = {stream for stream, _ in data}
        resets = finished.tshark("tcp.stream", only=f"tcp.port=={port} and tcp.flags.reset==1")
        assert not streams & {stream for (stream,) in resets}


def test_wireshark_sees_the_tunnel_and_never_the_home_address_natively(finished: Run) -> None:
    outside = 'frame.interface_name=="ha-outside"'
    tunnelled = finished.tshark("ip.src", "ip.dst", only=f"{outside} and ip.proto==4")
    outer = {(src.split(",")[0], dst.split(",")[0]) for src, dst in tunnelled}
    assert {destination for _, destination in outer} >= {"10.3.1.5", "10.3.2.5", "10.1.0.1"}
    for interface in ("mn-eth0", "mn-wlan0"):
        away = f'frame.interface_name=="{interface}" and ip.src==10.1.0.5 and not ip.proto==4'
        natively = finished.tshark("eth.dst", only=away)
        routers = {mac for (mac,) in natively}
        visited = finished.tshark(
            "arp.src.hw_mac",
            only="arp.opcode==2 and (arp.src.proto_ipv4==10.3.1.254 or"
            " arp.src.proto_ipv4==10.3.2.254)",
        )
        assert not routers & {mac for (mac,) in visited}


def test_tunnel_packets_leave_only_by_the_link_that_owns_their_care_of_address(
    finished: Run,
) -> None:
    own = {"mn-eth0": {"10.3.1.5", "10.3.2.5"}, "mn-wlan0": {"10.3.1.6", "10.3.2.6"}}
    for interface, addresses in own.items():
        sent = f'frame.interface_name=="{interface}" and ip.proto==4 and ip.dst==10.1.0.1'
        sources = {source.split(",")[0] for (source,) in finished.tshark("ip.src", only=sent)}
        assert sources
        assert sources <= addresses


def test_home_host_hears_home_agent_and_mobile_node_announce_in_turn(finished: Run) -> None:
    announced = finished.tshark(
        "arp.src.hw_mac",
        only='frame.interface_name=="hh" and arp.isgratuitous and arp.src.proto_ipv4==10.1.0.5',
    )
    turns = [mac for n, (mac,) in enumerate(announced) if n == 0 or announced[n - 1] != [mac]]
    away = [check for check in finished.checks if "home agent's MAC" in str(check["detail"])]
    agent = str(away[0]["detail"]).split()[0]
    assert turns.count(agent) >= 2
    assert len(set(turns)) == 3  # home agent, eth0 and wlan0 of the mobile node


def test_report_needs_nothing_from_anywhere(finished: Run) -> None:
    page = (finished.directory / "report.html").read_text()
    assert "TCP survived every move." in page
    assert not re.search(r"https?:|src=|href=|@import|url\(|<script", page)
    assert len(page) < 1 << 20


def test_works_without_privileges_in_a_user_namespace(
    tmp_path: Path, source_path: dict[str, str]
) -> None:
    run = run_demo(tmp_path, source_path, UNPRIVILEGED)
    _assert_success(run)


def test_works_as_root_in_a_plain_chroot(tmp_path: Path, source_path: dict[str, str]) -> None:
    run = run_demo(tmp_path, source_path, plain_chroot(tmp_path / "chroot"))
    _assert_success(run)


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
