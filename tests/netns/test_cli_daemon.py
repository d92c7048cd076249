"""The command line against the real daemon, which holds only the systemd unit's capabilities."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.deployed import Deployed, documented_fields, init_pair
from tests.helpers.namespaces import Namespaces

pytestmark = pytest.mark.netns


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Deployed]:
    key = init_pair(tmp_path, "--home-interface", "home0")
    with Namespaces("ha", "host") as namespaces:
        namespaces.wire("ha", "home0", "host", "eth0")
        namespaces.ip("ha", "address", "add", "10.1.0.1/24", "dev", "home0")
        namespaces.run("ha", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        with Deployed(namespaces, "ha", tmp_path / "home-agent.toml", key) as running:
            yield running


def test_the_daemon_serves_with_the_units_three_capabilities(daemon: Deployed) -> None:
    pid = daemon.document("status")["summary"]["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    held = dict(re.findall(r"^(Cap(?:Prm|Eff|Bnd)):\t([0-9a-f]+)$", status, re.M))
    assert set(held.values()) == {"0000000000003400"}
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert daemon.key.encode() not in arguments
    interfaces = {r["interface"]: r for r in daemon.document("show", "interface")["rows"]}
    assert interfaces["home0"]["state"] == interfaces["fmha0"]["state"] == "up"


def test_every_show_command_answers_in_the_documented_schema(daemon: Deployed) -> None:
    documents = {
        subject: daemon.document("show", subject)
        for subject in (
            *("binding", "tunnel", "traffic", "secure", "runtime"),
            *("errors", "interface", "violation", "host"),
        )
    }
    assert documents["binding"]["summary"] == {"bindings": 0, "shown": 0}
    for subject in ("secure", "host"):
        fields = documented_fields(f"show {subject}")
        assert {name for row in documents[subject]["rows"] for name in row} == fields
    # With several roles each row tells its own; nothing has grown yet.
    told = {name for row in documents["traffic"]["rows"] for name in row}
    assert {"counter", "value"} <= told <= documented_fields("show traffic") | {"role"}
    interfaces = documents["interface"]["rows"]
    fields = {name for name in documented_fields("show interface") if not name.startswith("xdp_")}
    assert {name for row in interfaces for name in row} == fields
    [secure] = documents["secure"]["rows"]
    assert secure == {
        "home_address": "10.1.0.5",
        "kind": "mn-ha",
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


def test_hosts_come_and_go_on_the_run_and_their_keys_stay_secret(daemon: Deployed) -> None:
    key = daemon.config.parent / "new.key"
    daemon.ask("host", "add", "10.1.0.9", "--spi", "300", "--new-key-file", str(key))
    secret = key.read_text().strip()
    assert key.stat().st_mode & 0o777 == 0o600
    rows = daemon.document("host", "list")["rows"]
    assert rows == [
        {"home_address": "10.1.0.5", "nai": "", "origin": "file"},
        {"home_address": "10.1.0.9", "nai": "", "origin": "directory"},
    ]
    assert secret not in json.dumps(daemon.document("show", "secure"))
    refused = daemon.ask("host", "add", "10.1.0.5", "--key-file", str(key), code=1)
    assert "stands in the configuration file" in refused
    outside = daemon.ask("host", "add", "10.2.0.5", "--key-file", str(key), code=1)
    assert "not in home_network 10.1.0.0/24" in outside
    daemon.ask("host", "remove", "10.1.0.9")
    assert "is not in the directory" in daemon.ask("host", "remove", "10.1.0.9", code=1)
    assert secret not in daemon.log.read_text()


def test_reload_applies_the_difference_or_refuses_the_whole_file(daemon: Deployed) -> None:
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


def test_the_doctor_finds_nothing_to_fail_where_the_daemon_runs(daemon: Deployed) -> None:
    # Run inside the daemon's namespace: only there /proc shows its port and its socket.
    done = daemon.run("doctor", str(daemon.config), "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0, document
    checks = {row["check"]: row for row in document["rows"]}
    assert checks["port-434"]["detail"] == "held, and a fastmip daemon runs here"
    assert checks["ip-forward"]["status"] == "ok"
