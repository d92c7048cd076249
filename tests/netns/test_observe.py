"""A real daemon is looked into: trace, capture, top, metrics; and what becomes of a wedged one."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scapy.layers.inet import IP, UDP
from tests.helpers.home_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    HomeAgentLab,
)
from tests.helpers.namespaces import wait_for

pytestmark = pytest.mark.netns

CLI = [sys.executable, "-c", "from fastmip.runtime.cli.main import main; main()"]
FORGED = IP(src="10.1.0.6", dst=CORRESPONDENT) / UDP(sport=5, dport=7777) / b"forged"
THROUGH = IP(src=HOME_ADDRESS, dst=CORRESPONDENT) / UDP(sport=5, dport=7777) / b"through"
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000
"""waitpid: threads too."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as built:
        yield built


def cli(lab: HomeAgentLab, *words: str) -> str:
    """What a command prints; it must succeed."""
    command = [*CLI, *words, "--socket", str(lab.socket_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def document(lab: HomeAgentLab, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli(lab, *words, "--json"))
    assert found["schema"] == 1
    return found


def start_capture(lab: HomeAgentLab, *words: str) -> subprocess.Popen[str]:
    command = [*CLI, "capture", *words, "--socket", str(lab.socket_path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def tshark(file: Path, *fields: str) -> list[list[str]]:
    command = ["tshark", "-n", "-r", str(file), "-T", "fields", "-E", "separator=/t"]
    for field in fields:
        command += ["-e", field]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in told.splitlines()]


def test_a_trace_follows_a_packet_through_a_real_daemon(lab: HomeAgentLab) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client)
    assert "tracing the next 2 packets" in cli(lab, "trace", "add", "2", "--match", HOME_ADDRESS)
    lab.net.run("cn", "ping", "-q", "-c", "1", "-W", "1", HOME_ADDRESS, check=False)
    tunnel.sendto(bytes(THROUGH), (HOME_AGENT, 0))
    wait_for("both", lambda: document(lab, "show", "trace")["summary"]["packets"] == 2)
    there, back = document(lab, "show", "trace")["rows"]
    assert (there["side"], there["port"], there["verdict"], there["lookup"]) == (
        "home",
        "kernel",
        "encapsulated",
        HOME_ADDRESS,
    )
    assert f"{HOME_ADDRESS} at {CARE_OF} from {HOME_AGENT}, ipip" in there["line"]
    assert there["tx"][0].startswith(f"tunnel: {HOME_AGENT} > {CARE_OF}")
    assert "icmp echo request" in there["tx"][0]
    assert (back["side"], back["verdict"]) == ("tunnel", "decapsulated")
    assert back["tx"][0].startswith(f"home: {HOME_ADDRESS} > {CORRESPONDENT}")
    text = cli(lab, "sh", "trace")
    assert "  verdict  encapsulated" in text
    assert "2 packets traced" in text
    cli(lab, "trace", "clear")
    assert document(lab, "show", "trace")["rows"] == []


def test_a_capture_is_read_by_tshark_and_ends_with_its_client(
    lab: HomeAgentLab, tmp_path: Path
) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client)
    file = tmp_path / "drops.pcapng"
    file.touch(0o644)
    capturing = start_capture(lab, "--drops", "-w", str(file))
    wait_for("the file", lambda: file.stat().st_size > 0)
    before = file.stat().st_size
    tunnel.sendto(bytes(FORGED), (HOME_AGENT, 0))
    wait_for("the packet", lambda: file.stat().st_size > before)
    capturing.send_signal(signal.SIGINT)
    _, told = capturing.communicate(timeout=20)
    assert capturing.returncode == 0, told
    assert "1 packets captured" in told
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ((name, comment, sources, moment),) = tshark(
        file, "frame.interface_name", "frame.comment", "ip.src", "frame.time_epoch"
    )
    assert (name, sources) == ("rx", f"{CARE_OF},10.1.0.6")
    assert comment.startswith("drop-no-binding: ")
    assert len(moment.partition(".")[2]) == 9


def test_a_capture_of_every_point_into_a_pipe(lab: HomeAgentLab, tmp_path: Path) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client)
    points = [word for point in ("rx", "decap", "tx") for word in ("--point", point)]
    file = tmp_path / "all.pcapng"
    shell = " ".join([*map(repr, CLI), "capture", *points, "--match", "port=7777", "--count", "3"])
    shell += f" -w - --socket {lab.socket_path} > {file}"
    capturing = subprocess.Popen(["sh", "-c", shell], stderr=subprocess.PIPE, text=True)
    wait_for("the capture", lambda: file.exists() and file.stat().st_size > 0)
    tunnel.sendto(bytes(THROUGH), (HOME_AGENT, 0))
    _, told = capturing.communicate(timeout=20)
    assert "3 packets captured" in told
    assert tshark(file, "frame.interface_name", "ip.src") == [
        ["rx", f"{CARE_OF},{HOME_ADDRESS}"],
        ["decap", HOME_ADDRESS],
        ["tx", HOME_ADDRESS],
    ]


def test_captures_of_killed_clients_leave_their_places(lab: HomeAgentLab, tmp_path: Path) -> None:
    lab.start()
    for number in range(10):  # more than places for captures
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(lab.socket_path))
            client.sendall(b'{"command": "capture"}\n')
            client.settimeout(10)
            with client.makefile() as lines:
                assert json.loads(lines.readline())["ok"], number
    refused = start_capture(lab, "--match", "nonsense", "-w", str(tmp_path / "none"))
    _, told = refused.communicate(timeout=20)
    assert (refused.returncode, told.count("\n")) == (1, 1)
    assert "nonsense: no such term" in told
    assert not (tmp_path / "none").exists()


def test_top_and_runtime_tell_what_goes_on(lab: HomeAgentLab) -> None:
    lab.workers = 2
    lab.start()
    client = lab.udp("away", CARE_OF)
    lab.register(client)
    sending = lab.net.start("cn", "ping", "-q", "-i", "0.05", "-W", "1", HOME_ADDRESS)
    wait_for("packets", lambda: lab.verdict("encapsulated") > 5)
    rows = document(lab, "top", "--once")["rows"]
    found = {(row["kind"], row["name"]): row for row in rows if row["kind"] != "stage"}
    assert found["verdict", "encapsulated"]["per_second"] > 0
    assert found["worker", "1"]["state"] == "running"
    assert found["gauge", "haBindings"]["total"] == 1
    assert "encapsulated" in cli(lab, "top", "--once", "--interval", "0.2")
    runtime = document(lab, "show", "runtime")
    assert {row["worker"] for row in runtime["rows"]} == {"0", "1"}
    rx = [row for row in runtime["rows"] if row["stage"] == "rx" and row["packets"]]
    assert rx
    assert all(row["packets_per_call"] >= 1 for row in rx)
    assert runtime["summary"]["worker_1"].startswith("running, ")
    sending.terminate()
    sending.wait(10)


def scrape(lab: HomeAgentLab) -> dict[str, float]:
    """Samples that have one value, and those of packets by verdict."""
    with lab.net.inside("ha"):
        client = socket.create_connection(("127.0.0.1", 9434), timeout=10)
    with client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        page = b""
        while chunk := client.recv(65536):
            page += chunk
    head, _, body = page.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    return {
        sample.name + sample.labels.get("verdict", ""): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_prometheus_reads_a_real_daemon(lab: HomeAgentLab) -> None:
    lab.more = ["[metrics]"]
    lab.start()
    client = lab.udp("away", CARE_OF)
    lab.register(client)
    lab.net.run("cn", "ping", "-q", "-c", "1", "-W", "1", HOME_ADDRESS, check=False)
    wait_for("the packet", lambda: scrape(lab)["fastmip_packets_totalencapsulated"] >= 1)
    page = scrape(lab)
    assert page["fastmip_haRegRequestsReceived_total"] == 1
    assert page["fastmip_bindings"] == 1
    assert page["fastmip_worker_running"] == 1
    with lab.net.inside("ha"):
        silent = [socket.create_connection(("127.0.0.1", 9434)) for _ in range(8)]
    lab.register(client)  # the daemon goes on
    assert lab.counter("haRegRequestsReceived") == 2
    for one in silent:
        one.close()


def stop_worker(pid: int) -> int:
    """Stop one thread and no other, as a debugger does; a worker takes no signals."""
    (thread,) = (
        int(task.name)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if (task / "comm").read_text().strip() == "fastmip-0"
    )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        assert libc.ptrace(request, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(thread, WALL)
    return thread


def end_of(daemon: subprocess.Popen[bytes], thread: int) -> int:
    """How the daemon ends by itself. Who stopped a thread must take note of its end first."""
    wait_for("the end", lambda: os.waitpid(thread, WALL | os.WNOHANG)[0] == thread, 40)
    return daemon.wait(20)


def test_a_daemon_without_traffic_costs_nothing(lab: HomeAgentLab) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    document(lab, "trace", "clear")  # whatever was started lazily is started now
    found = document(lab, "top", "--once", "--interval", "4")
    (worker,) = (row for row in found["rows"] if row["kind"] == "worker")
    assert worker["sleeps_per_second"] < 100, "it sleeps until something comes"
    # The kernel counts CPU time in hundredths of a second: two of them in four seconds.
    assert found["summary"]["fastmip-0_cpu_percent"] <= 0.5


def test_a_wedged_worker_ends_the_daemon_with_one_line(lab: HomeAgentLab) -> None:
    lab.engine_settings = "wedged_after = 2"
    daemon = lab.start()
    assert end_of(daemon, stop_worker(daemon.pid)) == -signal.SIGABRT
    lines = [line for line in lab.log().splitlines() if "worker-wedged" in line]
    assert len(lines) == 1
    told = json.loads(lines[0])
    assert (told["role"], told["worker"]) == ("home-agent", 0)
    assert told["seconds"] >= 2
    assert "Traceback" not in lab.log()
    lab.start()  # what the first left behind is cleared away
    lab.register(lab.udp("away", CARE_OF))
    assert lab.ping("cn", HOME_AGENT)


def test_a_daemon_with_a_wedged_worker_does_not_hang_on_stop(lab: HomeAgentLab) -> None:
    lab.engine_settings = "wedged_after = 3600"
    daemon = lab.start()
    thread = stop_worker(daemon.pid)
    daemon.send_signal(signal.SIGTERM)
    assert end_of(daemon, thread) == -signal.SIGABRT
    assert "a worker did not end within 10 s: aborting" in lab.log()
