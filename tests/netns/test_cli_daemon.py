"""The command line against the real daemon, which holds only the systemd unit's capabilities."""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = str(ROOT / "src")
PROGRAM = "from fastmip.runtime.cli.main import main; main(prog_name='fastmip')"
FASTMIP = [sys.executable, "-c", PROGRAM]
CAPABILITIES = "-all,+net_admin,+net_raw,+net_bind_service"
START_S = 30

pytestmark = pytest.mark.netns
_numbers = itertools.count()


class RunningDaemon:
    """A home agent in a namespace of its own, with its log and its control socket."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self.directory = directory
        self.namespace = namespace
        self.config = directory / "home-agent.toml"
        self.log = directory / "log"
        self.environment = {
            **os.environ,
            "PYTHONPATH": SOURCE,
            "FASTMIP_SOCKET": str(directory / "run" / "control.sock"),
        }
        self.key = (directory / "10.1.0.5.key").read_text().strip()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it as systemd would: no capability but three, readiness told on a socket."""
        confined = [
            *("ip", "netns", "exec", self.namespace, "setpriv", f"--bounding-set={CAPABILITIES}"),
            *(f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}", "--no-new-privs"),
        ]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*confined, *FASTMIP, "run", str(self.config)],
                stdout=log,
                stderr=log,
                env=self.environment,
            )

    def ask(self, *words: str, code: int = 0) -> str:
        """Run a command to its end."""
        done = subprocess.run(
            [*FASTMIP, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == code, f"{words}: {output}\n{self.log.read_text()}"
        assert self.key not in output
        return output

    def document(self, *words: str) -> dict[str, Any]:
        """Run a command with --json."""
        found: dict[str, Any] = json.loads(self.ask(*words, "--json"))
        assert found["schema"] == 1
        assert found["command"] == " ".join(words)
        return found


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    namespace = f"fmcli{os.getpid()}-{next(_numbers)}"
    subprocess.run(
        [*FASTMIP, "init", str(tmp_path), "--home-interface", "home0"],
        env={**os.environ, "PYTHONPATH": SOURCE},
        check=True,
        capture_output=True,
        timeout=60,
    )
    config = tmp_path / "home-agent.toml"
    text = config.read_text().replace("/var/lib/fastmip", str(tmp_path / "state"))
    config.write_text(text.replace("/run/fastmip", str(tmp_path / "run")))
    ip("netns", "add", namespace)
    process: subprocess.Popen[bytes] | None = None
    try:
        inside = ("-n", namespace)
        ip(*inside, "link", "add", "home0", "type", "veth", "peer", "name", "hosts0")
        ip(*inside, "address", "add", "10.1.0.1/24", "dev", "home0")
        for name in ("lo", "home0", "hosts0"):
            ip(*inside, "link", "set", name, "up")
        ip("netns", "exec", namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        running = RunningDaemon(tmp_path, namespace)
        process = running.start()
        wait_for_socket(running, process)
        yield running
        process.terminate()
        assert process.wait(30) == 0, running.log.read_text()
        assert running.key not in running.log.read_text()
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait(30)
        ip("netns", "delete", namespace)


def wait_for_socket(running: RunningDaemon, process: subprocess.Popen[bytes]) -> None:
    path = running.directory / "run" / "control.sock"
    end = time.monotonic() + START_S
    while not path.is_socket():
        assert process.poll() is None, running.log.read_text()
        assert time.monotonic() < end, running.log.read_text()
        select.select([], [], [], 0.02)


def test_the_daemon_serves_with_the_units_three_capabilities(daemon: RunningDaemon) -> None:
    pid = daemon.document("status")["summary"]["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    held = dict(re.findall(r"^(Cap(?:Prm|Eff|Bnd)):\t([0-9a-f]+)$", status, re.M))
    assert set(held.values()) == {"0000000000003400"}
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert daemon.key.encode() not in arguments
    interfaces = {r["interface"]: r for r in daemon.document("show", "interface")["rows"]}
    assert interfaces["home0"]["state"] == interfaces["fmha0"]["state"] == "up"


def test_every_show_command_answers_in_the_documented_schema(daemon: RunningDaemon) -> None:
    documents = {
        subject: daemon.document("show", subject)
        for subject in (
            *("binding", "tunnel", "traffic", "secure", "runtime"),
            *("errors", "interface", "violation", "host"),
        )
    }
    assert documents["binding"]["summary"] == {"bindings": 0, "shown": 0}
    [secure] = documents["secure"]["rows"]
    assert secure == {
        "home_address": "10.1.0.5",
        "spi": 256,
        "algorithm": "hmac-sha256",
        "replay": "timestamps",
        "replay_window_s": 7,
        "direction": "both",
        "origin": "file",
    }
    counters = {row["counter"]: row["value"] for row in documents["traffic"]["rows"]}
    assert counters["haRegRequestsReceived"] == 0
    balance = documents["errors"]["summary"]
    assert balance["inputs"] + balance["generated"] + balance["copies"] == balance["verdicts"]
    assert "no role of this daemon" in daemon.ask("show", "handover", code=1)


def test_hosts_come_and_go_on_the_run_and_their_keys_stay_secret(daemon: RunningDaemon) -> None:
    key = daemon.directory / "new.key"
    daemon.ask("host", "add", "10.1.0.9", "--spi", "300", "--new-key-file", str(key))
    secret = key.read_text().strip()
    assert key.stat().st_mode & 0o777 == 0o600
    rows = daemon.document("host", "list")["rows"]
    assert rows == [
        {"home_address": "10.1.0.5", "origin": "file"},
        {"home_address": "10.1.0.9", "origin": "directory"},
    ]
    assert secret not in json.dumps(daemon.document("show", "secure"))
    refused = daemon.ask("host", "add", "10.1.0.5", "--key-file", str(key), code=1)
    assert "stands in the configuration file" in refused
    outside = daemon.ask("host", "add", "10.2.0.5", "--key-file", str(key), code=1)
    assert "not in home_network 10.1.0.0/24" in outside
    daemon.ask("host", "remove", "10.1.0.9")
    assert "is not in the directory" in daemon.ask("host", "remove", "10.1.0.9", code=1)
    assert secret not in daemon.log.read_text()


def test_reload_applies_the_difference_or_refuses_the_whole_file(daemon: RunningDaemon) -> None:
    good = daemon.config.read_text()
    change = "home_agent.max_lifetime: 1800 -> 900"
    daemon.config.write_text(good.replace("max_lifetime = 1800", "max_lifetime = 900"))
    assert change in daemon.ask("reload", "--dry-run")
    assert change in daemon.ask("reload")
    assert daemon.ask("reload") == "nothing to change\n"
    daemon.config.write_text(good.replace("spi = 256", "spi = 1"))
    assert "SPIs below 256 are reserved" in daemon.ask("reload", code=1)
    daemon.config.write_text(good.replace('address = "10.1.0.1"', 'address = "10.1.0.2"', 1))
    assert "restart" in daemon.ask("reload", code=1)
    assert [row["spi"] for row in daemon.document("show", "secure")["rows"]] == [256]


def test_the_doctor_finds_nothing_to_fail_where_the_daemon_runs(daemon: RunningDaemon) -> None:
    words = ["ip", "netns", "exec", daemon.namespace, *FASTMIP, "doctor", str(daemon.config)]
    done = subprocess.run(
        [*words, "--json"], env=daemon.environment, capture_output=True, check=False, timeout=60
    )
    document = json.loads(done.stdout)
    assert done.returncode == 0, document
    checks = {row["check"]: row for row in document["rows"]}
    # /proc/net/unix shows the socket only inside the daemon's own namespace.
    assert checks["port-434"]["detail"] == "held, and a fastmip daemon runs here"
    assert checks["ip-forward"]["status"] == "ok"
