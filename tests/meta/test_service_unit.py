"""The systemd unit: what it promises about privileges, and that systemd understands it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from fastmip.runtime.cli.doctor_checks import CAPABILITIES
from fastmip.runtime.cli.failures import ConfigRefused
from fastmip.runtime.config import DaemonConfig

UNIT = Path(__file__).parents[2] / "deploy" / "fastmip.service"


def directives(text: str) -> dict[str, dict[str, list[str]]]:
    """Section -> key -> values, in order; systemd's format is INI with repeated keys."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            assert line.endswith("]"), line
            section = sections.setdefault(line[1:-1], {})
            continue
        name, equals, value = line.partition("=")
        assert equals, line
        section.setdefault(name, []).append(value)
    return sections


SERVICE = directives(UNIT.read_text())["Service"]


def test_the_daemon_gets_exactly_three_capabilities_and_no_root() -> None:
    for name in ("CapabilityBoundingSet", "AmbientCapabilities"):
        [value] = SERVICE[name]
        assert set(value.split()) == {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}
        assert set(value.split()) == set(CAPABILITIES)
    assert SERVICE["User"] == ["fastmip"]
    assert SERVICE["NoNewPrivileges"] == ["yes"]


def test_start_reload_and_watchdog_are_the_daemons() -> None:
    assert SERVICE["Type"] == ["notify"]
    assert SERVICE["ExecStart"] == ["/opt/fastmip/bin/fastmip run /etc/fastmip/fastmip.toml"]
    assert SERVICE["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert int(SERVICE["WatchdogSec"][0]) > 0
    assert str(ConfigRefused.exit_code) in SERVICE["RestartPreventExitStatus"][0].split()


def test_directories_are_private_and_the_configurations_defaults() -> None:
    defaults = DaemonConfig()
    assert [f"/var/lib/{name}" for name in SERVICE["StateDirectory"]] == [str(defaults.state_dir)]
    assert f"/run/{SERVICE['RuntimeDirectory'][0]}" == str(defaults.control_socket.parent)
    for name in ("StateDirectoryMode", "RuntimeDirectoryMode", "ConfigurationDirectoryMode"):
        assert SERVICE[name] == ["0700"]
    assert SERVICE["UMask"] == ["0077"]


def test_what_the_daemon_needs_is_not_hardened_away() -> None:
    assert SERVICE["DeviceAllow"] == ["/dev/net/tun rw"]
    assert "ProtectKernelTunables" not in SERVICE
    families = set(SERVICE["RestrictAddressFamilies"][0].split())
    assert {"AF_UNIX", "AF_INET", "AF_NETLINK", "AF_PACKET"} <= families


def test_systemd_understands_the_unit_where_systemd_is_installed(tmp_path: Path) -> None:
    text = UNIT.read_text()
    start = SERVICE["ExecStart"][0]
    assert start in text
    # verify wants to see the program; the real one is where an administrator put it.
    unit = tmp_path / "fastmip.service"
    unit.write_text(text.replace(start, "/bin/true"))
    judge = shutil.which("systemd-analyze")
    if judge is None:
        return  # the tests above have parsed the unit
    verified = subprocess.run(
        [judge, "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    assert unit.name not in verified.stderr
    judged = subprocess.run(
        [judge, "security", "--offline=yes", "--json=short", "--threshold=30", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr  # exposure at most 3.0 of 10
    assert json.loads(judged.stdout)
