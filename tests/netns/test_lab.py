"""The lab: stock kernels reach each other, the mobile node can be moved, nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from tests.helpers.waiting import wait_until

from fastmip.runtime.demo.lab import (
    HOME,
    HOME_ADDRESS,
    NODES,
    VISITED_A,
    VISITED_B,
    Lab,
    LabError,
    Link,
    stale_namespaces,
    sweep_stale_labs,
)

pytestmark = pytest.mark.netns

_CHILD = """
import sys, time
from fastmip.runtime.demo.lab import Lab
lab = Lab()
lab.build()
lab.popen("cn", ["sleep", "1000"])
print(lab.prefix, lab.directory, lab._reaper.pid, flush=True)
time.sleep(1000)
"""


def _namespaces(prefix: str) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if line.startswith(f"{prefix}-")]


def _pings(lab: Lab, node: str, address: str) -> bool:
    return lab.run(node, "ping", "-c1", "-W2", address, check=False).returncode == 0


@pytest.mark.parametrize("link", [HOME, VISITED_A, VISITED_B], ids=lambda link: link.name)
def test_mobile_node_reaches_the_correspondent_natively_from_every_link(
    lab: Lab, link: Link
) -> None:
    lab.plug("wlan0", link)
    lab.lease("wlan0", link)
    assert _pings(lab, "mn", "10.9.0.7")
    lab.unplug("wlan0")
    lab.release("wlan0")
    assert not lab.run("mn", "ip", "-4", "address", "show", "dev", "wlan0").stdout
    assert not _pings(lab, "mn", "10.9.0.7")


def test_carrier_follows_the_plug(lab: Lab) -> None:
    def carrier() -> bool:
        return "LOWER_UP" in lab.run("mn", "ip", "link", "show", "eth0").stdout

    assert not carrier()
    lab.plug("eth0", VISITED_A)
    wait_until(carrier, 2, "carrier")
    lab.unplug("eth0")
    wait_until(lambda: not carrier(), 2, "carrier lost")


def test_access_routers_filter_sources_that_are_not_of_their_link(lab: Lab) -> None:
    lab.plug("eth0", VISITED_A)
    lab.lease("eth0", VISITED_A)
    lab.ip("mn", f"address add {HOME_ADDRESS}/32 dev lo")
    assert _pings(lab, "mn", VISITED_A.gateway)  # its ARP entry: a router ignores foreign ARP too
    natively = lab.run("mn", "ping", "-c1", "-W1", "-I", HOME_ADDRESS, "10.9.0.7", check=False)
    assert natively.returncode == 1
    lines = [
        line.split() for line in lab.run("ar1", "cat", "/proc/net/netstat").stdout.splitlines()
    ]
    names, values = next(pair for pair in pairwise(lines) if "IPReversePathFilter" in pair[0])
    assert int(values[names.index("IPReversePathFilter")]) > 0


def test_a_command_that_fails_says_which_and_why(lab: Lab) -> None:
    with pytest.raises(LabError, match="no-such-device"):
        lab.ip("cn", "link set lo up", "link set no-such-device up")


def test_nothing_is_left_after_close() -> None:
    with Lab() as lab:
        process = lab.popen("cn", ["sleep", "1000"])
        assert len(_namespaces(lab.prefix)) == len(NODES)
    assert _namespaces(lab.prefix) == []
    assert process.returncode is not None
    assert not lab.directory.exists()


def test_nothing_is_left_when_the_maker_is_killed(source_path: dict[str, str]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdout=subprocess.PIPE, text=True, env=source_path
    )
    assert child.stdout is not None
    prefix, directory, _ = child.stdout.readline().split()
    assert len(_namespaces(prefix)) == len(NODES)
    child.kill()
    child.wait()
    child.stdout.close()
    wait_until(lambda: not _namespaces(prefix), 10, "the reaper")
    wait_until(lambda: not Path(directory).exists(), 5, "the removal of the directory")


def test_the_next_lab_sweeps_what_maker_and_reaper_left(source_path: dict[str, str]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdout=subprocess.PIPE, text=True, env=source_path
    )
    assert child.stdout is not None
    prefix, directory, reaper = child.stdout.readline().split()
    os.kill(int(reaper), signal.SIGKILL)
    child.kill()
    child.wait()
    child.stdout.close()
    assert {f"{prefix}-{node}" for node in NODES} <= set(stale_namespaces())
    sweep_stale_labs()
    assert _namespaces(prefix) == []
    assert not Path(directory).exists()
