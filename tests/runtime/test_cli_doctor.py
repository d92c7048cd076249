"""The doctor's checks over machines made for the purpose, and once over this one."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fastmip.runtime.cli import doctor as doctor_command
from fastmip.runtime.cli import doctor_checks as checks
from fastmip.runtime.cli.doctor_checks import FAIL, OK, WARN, Finding, Subject, diagnose
from fastmip.runtime.cli.doctor_machine import ClockStatus, LinuxMachine
from fastmip.runtime.cli.main import main

HEALTHY_FILES = {
    "/proc/self/status": "Name:\tfastmip\nCapEff:\t0000000000003400\n",
    "/proc/net/udp": "  sl  local_address\n   1: 00000000:0035 00000000:0000 07\n",
    "/proc/net/unix": "Num RefCount Protocol Flags Type St Inode Path\n",
    "/proc/sys/net/ipv4/ip_forward": "1\n",
    "/proc/sys/net/ipv4/conf/all/rp_filter": "0\n",
    "/proc/sys/net/ipv4/conf/eth0/rp_filter": "0\n",
    "/sys/class/net/eth0/mtu": "1500\n",
    "/sys/class/net/eth0/operstate": "up\n",
    "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "/proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable:    4000000 kB\n",
    "/proc/cpuinfo": "processor : 0\nflags : fpu sse2 avx avx2\n",
    "/proc/sys/kernel/osrelease": "6.12.3-amd64\n",
    "/proc/self/mounts": "/dev/sda1 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n",
}
RULES: dict[str, Any] = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"chain": {"family": "inet", "name": "in", "hook": "input", "policy": "accept"}},
    ]
}
SYNCHRONISED = ClockStatus(is_synchronised=True, max_error_s=0.01)


@dataclass
class FakeMachine:
    """A machine that is healthy but for what a test changes."""

    files: dict[str, str] = field(default_factory=lambda: dict(HEALTHY_FILES))
    tun_error: str | None = None
    raw_error: str | None = None
    clock_status: ClockStatus | None = SYNCHRONISED
    features: dict[str, bool] | None = field(default_factory=lambda: {"rx-gro": False})
    rules: str | None = field(default_factory=lambda: json.dumps(RULES))
    sqlite: tuple[int, ...] = (3, 40, 1)
    driver_name: str | None = "ice"
    attached: str | None = None
    bpf: str | None = None
    users: str = ""

    def output_users(self) -> str:
        return self.users

    def driver(self, interface: str) -> str | None:
        assert interface
        return self.driver_name

    def xdp_program(self, interface: str) -> str | None:
        assert interface
        return self.attached

    def bpf_error(self) -> str | None:
        return self.bpf

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def open_tun(self) -> str | None:
        return self.tun_error

    def open_raw_socket(self, protocol: int) -> str | None:
        assert protocol in {4, 47, 55}
        return self.raw_error

    def clock(self) -> ClockStatus | None:
        return self.clock_status

    def offloads(self, interface: str) -> dict[str, bool] | None:
        assert interface
        return self.features

    def ruleset(self) -> str | None:
        return self.rules

    def sqlite_version(self) -> tuple[int, ...]:
        return self.sqlite


HOME_AGENT = Subject(interfaces=("eth0",), tunnel_devices=("fmha0",), max_bindings=131072)
MOBILE_NODE = Subject(is_home_agent=False, interfaces=("eth0",))


def found(machine: FakeMachine, check: str, subject: Subject = HOME_AGENT) -> list[Finding]:
    return [finding for finding in diagnose(machine, subject) if finding.check == check]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return FakeMachine()


def test_a_healthy_machine_gets_no_warning(machine: FakeMachine) -> None:
    findings = diagnose(machine, HOME_AGENT)
    assert {finding.status for finding in findings} == {OK}
    assert len({finding.check for finding in findings}) >= len(checks.CHECKS)


def file_case(path: str, text: str | None, check: str, status: str, remedy: str) -> Any:
    return pytest.param(path, text, check, status, remedy, id=f"{check}-{status}-{text}")


@pytest.mark.parametrize(
    ("path", "text", "check", "status", "remedy"),
    [
        file_case("/proc/self/status", "CapEff:\t0000000000001400\n", "capabilities", FAIL, "root"),
        file_case("/proc/self/status", None, "capabilities", FAIL, "root"),
        file_case("/proc/sys/net/ipv4/ip_forward", "0\n", "ip-forward", FAIL, "ip_forward=1"),
        file_case("/proc/sys/net/ipv4/ip_forward", None, "ip-forward", FAIL, "ip_forward=1"),
        file_case("/proc/sys/net/ipv4/conf/all/rp_filter", "1", "rp-filter", FAIL, "rp_filter=0"),
        file_case("/proc/sys/net/ipv4/conf/eth0/rp_filter", "1", "rp-filter", WARN, "eth0.rp_filt"),
        file_case("/proc/sys/net/ipv4/conf/all/rp_filter", "2", "rp-filter", OK, ""),
        file_case("/sys/class/net/eth0/mtu", None, "interface", FAIL, "ip link"),
        file_case("/sys/class/net/eth0/operstate", "down\n", "interface", WARN, "set eth0 up"),
        file_case("/sys/class/net/eth0/operstate", "unknown\n", "interface", OK, ""),
        file_case("/sys/class/net/eth0/mtu", "1400\n", "mtu", WARN, "path_mtu = 1400"),
        file_case(
            "/sys/kernel/mm/transparent_hugepage/enabled",
            "always madvise [never]\n",
            "huge-pages",
            WARN,
            "echo madvise",
        ),
        file_case("/proc/meminfo", "MemAvailable: 30000 kB\n", "memory", FAIL, "max_bindings"),
        file_case("/proc/cpuinfo", "flags : fpu sse2\n", "cpu", WARN, "AVX2"),
        file_case("/proc/cpuinfo", "flags : avx2 avx512f\n", "cpu", OK, ""),
        file_case("/proc/sys/kernel/osrelease", "strange", "kernel", WARN, "uname"),
        file_case("/proc/self/mounts", "none / tmpfs rw 0 0\n", "state-dir", WARN, "on a disk"),
    ],
)
def test_each_file_of_the_machine_is_judged(
    machine: FakeMachine, path: str, text: str | None, check: str, status: str, remedy: str
) -> None:
    machine.files.pop(path)
    if text is not None:
        machine.files[path] = text
    [finding] = found(machine, check)
    assert finding.status == status
    assert remedy in finding.remedy
    assert bool(finding.remedy) == (status != OK)


def test_missing_capabilities_are_named(machine: FakeMachine) -> None:
    machine.files["/proc/self/status"] = "CapEff:\t0000000000000400\n"
    [finding] = found(machine, "capabilities")
    assert finding.detail == "missing CAP_NET_ADMIN, CAP_NET_RAW"


def test_tun_and_raw_sockets_that_do_not_open_fail(machine: FakeMachine) -> None:
    machine.tun_error = "No such file or directory"
    machine.raw_error = "Operation not permitted"
    assert found(machine, "tun")[0].status == FAIL
    assert "modprobe tun" in found(machine, "tun")[0].remedy
    assert found(machine, "raw-sockets")[0].status == FAIL
    machine.tun_error = "Permission denied"
    assert found(machine, "tun")[0].remedy == "run chmod 666 /dev/net/tun"


def test_the_kernels_own_tunnel_drivers_are_named_with_a_remedy(machine: FakeMachine) -> None:
    machine.files["/proc/modules"] = (
        "gre 16384 1 ip_gre, Live 0x0\ntunnel4 16384 1 ipip, Live 0x0\n"
    )
    [finding] = found(machine, "kernel-tunnels")
    assert finding.status == WARN
    assert finding.remedy == "run modprobe -r ip_gre gre ipip tunnel4"


def test_port_434_is_free_ours_or_a_strangers(machine: FakeMachine) -> None:
    assert found(machine, "port-434")[0].detail == "free"
    machine.files["/proc/net/udp"] += "   2: 0101000A:01B2 00000000:0000 07\n"
    assert found(machine, "port-434")[0].status == WARN
    machine.files["/proc/net/unix"] += "0: 2 0 10000 0001 01 9 /run/fastmip/control.sock\n"
    assert found(machine, "port-434")[0].status == OK


def test_a_mobile_node_needs_no_forwarding(machine: FakeMachine) -> None:
    machine.files["/proc/sys/net/ipv4/ip_forward"] = "0\n"
    assert found(machine, "ip-forward", MOBILE_NODE) == []


def test_lro_fails_gro_warns_and_both_name_the_command(machine: FakeMachine) -> None:
    machine.features = {"rx-lro": True, "rx-gro": True, "rx-udp-gro-forwarding": True}
    lro, gro = found(machine, "offloads")
    assert (lro.status, gro.status) == (FAIL, WARN)
    assert "ethtool -K eth0 lro off" in lro.remedy
    assert "ethtool -K eth0 gro off rx-udp-gro-forwarding off" in gro.remedy
    machine.features = {"rx-lro": True, "rx-gro": False}
    assert [finding.status for finding in found(machine, "offloads")] == [FAIL]
    machine.features = {"rx-lro": False, "rx-gro": False}
    assert [finding.status for finding in found(machine, "offloads")] == [OK]
    machine.features = None
    assert found(machine, "offloads")[0].status == WARN


def test_the_clock_matters_only_with_timestamps(machine: FakeMachine) -> None:
    machine.clock_status = ClockStatus(is_synchronised=False, max_error_s=16.0)
    assert found(machine, "clock")[0].status == WARN
    assert "133" in found(machine, "clock")[0].detail
    nonces = HOME_AGENT._replace(uses_timestamps=False)
    assert found(machine, "clock", nonces)[0].status == OK
    machine.clock_status = None
    assert found(machine, "clock")[0].status == WARN


def test_chains_that_drop_are_pointed_out_where_they_matter(machine: FakeMachine) -> None:
    rules = {
        "nftables": [
            {"chain": {"family": "inet", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "ip", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip6", "hook": "output", "policy": "drop"}},
        ]
    }
    machine.rules = json.dumps(rules)
    assert [finding.status for finding in found(machine, "firewall")] == [WARN, WARN]
    assert len(found(machine, "firewall", MOBILE_NODE)) == 1
    for unreadable in (None, "{", "[]", "3"):
        machine.rules = unreadable
        assert [finding.status for finding in found(machine, "firewall")] == [OK]


def test_an_old_sqlite_fails(machine: FakeMachine) -> None:
    machine.sqlite = (3, 23, 1)
    assert found(machine, "sqlite")[0].status == FAIL


def test_the_state_directory_is_judged_by_its_own_mount(machine: FakeMachine) -> None:
    on_run = HOME_AGENT._replace(state_dir="/run/fastmip")
    assert found(machine, "state-dir", on_run)[0].status == WARN
    beside = HOME_AGENT._replace(state_dir="/running/fastmip")
    assert found(machine, "state-dir", beside)[0].status == OK


def test_an_empty_machine_never_ends_in_a_traceback(machine: FakeMachine) -> None:
    machine.files.clear()
    machine.features = machine.rules = machine.clock_status = None
    assert FAIL in {finding.status for finding in diagnose(machine, HOME_AGENT)}


def test_the_configuration_says_what_to_look_at(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(
        main, ["init", str(tmp_path / "x"), "--home-interface", "nosuch0", "--interface", "nosuch1"]
    )
    assert made.exit_code == 0, made.output
    for name, interface in (("home-agent", "nosuch0"), ("mobile-node", "nosuch1")):
        result = runner.invoke(main, ["doctor", str(tmp_path / "x" / f"{name}.toml"), "--json"])
        assert result.exit_code == 1
        document = json.loads(result.output)
        failed = [r["detail"] for r in document["rows"] if r["check"] == "interface"]
        assert failed == [f"{interface} does not exist"]
        has_forwarding = any(r["check"] == "ip-forward" for r in document["rows"])
        assert has_forwarding == (name == "home-agent")


def test_the_exit_code_is_one_only_for_failures(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_command, "LinuxMachine", lambda: machine)
    runner = CliRunner()
    machine.clock_status = ClockStatus(is_synchronised=False, max_error_s=16.0)
    result = runner.invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "warn  clock" in result.output
    assert "-> run chrony" in result.output
    assert "\x1b[" not in result.output
    machine.tun_error = "No such device"
    result = runner.invoke(main, ["doc"])
    assert result.exit_code == 1
    assert "fail  tun" in result.output
    assert result.output.rstrip().endswith("1 warn, 1 fail")


def test_this_machine_is_read_as_the_system_tools_read_it() -> None:
    machine = LinuxMachine()
    assert machine.read("/proc/self/status") is not None
    assert machine.read("/no/such/file") is None
    assert machine.offloads("no-such-dev") is None
    offloads = machine.offloads("lo")
    assert offloads is not None
    shown = subprocess.run(["ethtool", "-k", "lo"], capture_output=True, text=True, check=True)
    told = dict(re.findall(r"^\t*([a-z0-9-]+): (on|off)", shown.stdout, re.MULTILINE))
    # ethtool has older names for the features below; all others it prints by the kernel's.
    older = {"rx-gro": "generic-receive-offload", "rx-lro": "large-receive-offload"}
    common = {name for name in offloads if name in told or name in older}
    assert len(common) > 20
    assert {name: offloads[name] for name in common} == {
        name: told[older.get(name, name)] == "on" for name in common
    }
    assert machine.clock() is not None
    assert machine.sqlite_version() >= (3, 24)


def test_a_foreign_agent_forwards_too() -> None:
    machine = FakeMachine()
    machine.files["/proc/sys/net/ipv4/ip_forward"] = "0\n"
    for is_foreign_agent, statuses in ((True, [FAIL]), (False, [])):
        subject = Subject(is_home_agent=False, is_foreign_agent=is_foreign_agent)
        found = [f.status for f in diagnose(machine, subject) if f.check == "ip-forward"]
        assert found == statuses


XDP = Subject(interfaces=("eth0",), io="xdp", io_interfaces=("eth0",))
BPF_HELD = "CapEff:\t000000c000003400\n"


def io_of(machine: FakeMachine, subject: Subject = XDP) -> Finding:
    """The first finding about io, of a machine whose daemon may load programs."""
    machine.files["/proc/self/status"] = BPF_HELD
    return found(machine, "io", subject)[0]


def test_xdp_is_chosen_where_nothing_is_against_it(machine: FakeMachine) -> None:
    finding = io_of(machine)
    assert finding.status == OK
    assert "would choose xdp: eth0: ice runs XDP natively (zero-copy), MTU 1500" in finding.detail
    assert "(configured: xdp)" in finding.detail
    machine.driver_name = "veth"
    assert "copy mode" in io_of(machine).detail
    [_, note] = found(machine, "io", XDP)
    assert note.status == WARN
    assert "ethtool -K PEER tx off" in note.detail


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"driver_name": "r8169"}, "driver r8169 runs no XDP itself"),
        ({"driver_name": None}, "its driver is not known"),
        ({"attached": "katran"}, "XDP program katran is attached"),
        ({"bpf": "libbpf.so.1 is missing"}, "libbpf.so.1 is missing"),
        ({"features": {"rx-lro": True}}, "LRO is on"),
    ],
)
def test_what_is_against_xdp_is_told(
    machine: FakeMachine, changes: dict[str, Any], reason: str
) -> None:
    for name, value in changes.items():
        setattr(machine, name, value)
    finding = io_of(machine)
    # In generic mode it works on any driver, only slower than the kernel's own way.
    assert finding.status == (FAIL if {"attached", "bpf"} & changes.keys() else WARN)
    assert "would choose kernel" in finding.detail
    assert reason in finding.detail
    assert "kernel" in finding.remedy
    assert io_of(machine, HOME_AGENT._replace(io_interfaces=("eth0",))).status == OK


def test_old_kernels_and_missing_capabilities_are_against_xdp(machine: FakeMachine) -> None:
    machine.files["/proc/sys/kernel/osrelease"] = "5.10.0\n"
    [finding] = found(machine, "io", XDP)
    assert "Linux before 5.18; CAP_BPF is missing" in finding.detail


def test_our_own_program_is_no_obstacle(machine: FakeMachine) -> None:
    machine.attached = "fastmip_xdp"
    assert io_of(machine).status == OK


def test_without_interfaces_the_doctor_says_what_it_needs(machine: FakeMachine) -> None:
    assert "give the configuration file" in io_of(machine, Subject()).detail


def test_large_frames_go_by_the_kernel(machine: FakeMachine) -> None:
    machine.files["/sys/class/net/eth0/mtu"] = "9000\n"
    io_of(machine)
    assert any("above 1500" in finding.detail for finding in found(machine, "io", XDP))


@pytest.mark.parametrize(
    ("wanted", "users", "status", "detail"),
    [
        ("socket", "", OK, "go through the IP stack"),
        ("auto", "", OK, "pass the IP stack by: nothing acts"),
        ("auto", "nftables filter output", OK, "through the IP stack: nftables filter output"),
        ("packet", "IPsec policies", WARN, "pass by IPsec policies"),
    ],
)
def test_what_outer_packets_pass_by_is_told(
    machine: FakeMachine, wanted: str, users: str, status: str, detail: str
) -> None:
    machine.users = users
    [finding] = found(machine, "transmit", HOME_AGENT._replace(transmit=wanted))
    assert finding.status == status
    assert detail in finding.detail
