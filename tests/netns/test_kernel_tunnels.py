"""The engine and the Linux kernel's own ipip and gre devices: each decapsulates the other's.

    cn 10.9.0.7 --- c0 [ha] t0 10.3.0.1 ===tap=== 10.3.0.5 eth0 [guest kernel], device tun1

The engine is a home agent on its kernel port; the guest, in user mode (``helpers/uml_guest.py``),
plays the mobile node with nothing but ``ip tunnel``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.helpers.namespaces import Namespaces, wait_for
from tests.helpers.tunnel_lab import (
    AGENT,
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    HOME_ADDRESS,
    TUN,
    Side,
    record,
)
from tests.helpers.uml_guest import UmlGuest

from fastmip.runtime.devices import GRE, IPIP

pytestmark = pytest.mark.netns

BULK = Path(__file__).parents[1] / "helpers/bulk.py"
SIZE = 1 << 20


class Device(NamedTuple):
    """A tunnel device of the guest, and the engine's record for it."""

    options: str
    record: dict[str, Any]
    protocol: int
    seen: tuple[str, ...]
    """Words tcpdump has for the packets of both directions."""


IPIP_DEVICE = Device("mode ipip", {"encapsulation": IPIP}, IPIP, ("proto IPIP",))
DEVICES = {
    "ipip": IPIP_DEVICE,
    "gre": Device("mode gre", {"encapsulation": GRE}, GRE, ("GREv0",)),
    "gre-key": Device(
        "mode gre key 77", {"encapsulation": GRE, "gre_key": 77}, GRE, ("GREv0", "key=0x4d")
    ),
    "gre-checksum": Device("mode gre ocsum", {"encapsulation": GRE}, GRE, ("GREv0",)),
    "gre-sequence": Device("mode gre oseq", {"encapsulation": GRE}, GRE, ("GREv0",)),
    "gre-all": Device(
        "mode gre key 77 ocsum oseq",
        {"encapsulation": GRE, "gre_key": 77},
        GRE,
        ("GREv0", "key=0x4d"),
    ),
}


class Lab(Namespaces):
    """The lab of the module docstring."""

    agent: Side
    guest: UmlGuest

    def build(self) -> None:
        """Wire, boot the guest, start the engine."""
        self.wire("cn", "eth0", "ha", "c0")
        self.ip("cn", "addr", "add", f"{CORRESPONDENT}/24", "dev", "eth0")
        self.ip("ha", "addr", "add", "10.9.0.1/24", "dev", "c0")
        self.ip("cn", "route", "add", "default", "via", "10.9.0.1")
        self.guest = UmlGuest(self, "ha", "t0")
        self.ip("ha", "addr", "add", f"{AGENT}/24", "dev", "t0")
        self.guest.run(f"ip addr add {CARE_OF_ADDRESS}/24 dev eth0")
        self.sysctl("ha", ip_forward=1)
        self.agent = Side(self, "ha", "home-agent", AGENT, mtu_bytes=65535, control_port=434)
        self.ip("ha", "route", "add", "10.1.0.0/24", "dev", TUN)
        self.agent.engine.start()

    def tunnel(self, device: Device) -> None:
        """The guest's device, and the engine's record."""
        self.guest.run(
            f"ip tunnel add tun1 {device.options} local {CARE_OF_ADDRESS} remote {AGENT} ttl 64"
            f" && ip addr add {HOME_ADDRESS}/32 dev tun1 && ip link set tun1 up"
            f" && ip route add 10.9.0.0/24 dev tun1 src {HOME_ADDRESS}"
        )
        self.agent.install(record(HOME_ADDRESS, CARE_OF_ADDRESS, AGENT, **device.record))

    def close(self) -> None:
        """End engine and guest, then the namespaces."""
        if hasattr(self, "agent"):
            self.agent.close()
        if hasattr(self, "guest"):
            self.guest.close()
        super().close()


@pytest.fixture(scope="module")
def built() -> Iterator[Lab]:
    with Lab("cn", "ha") as lab:
        lab.build()
        yield lab
        lab.agent.engine.stop()
        lab.agent.check_balance()


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, built: Lab) -> Iterator[Device]:
    found: Device = DEVICES[request.param]
    built.tunnel(found)
    yield found
    built.guest.run("ip tunnel del tun1")


def bulk(lab: Lab, *words: str) -> subprocess.Popen[str]:
    """``helpers/bulk.py`` at the correspondent."""
    return lab.start("cn", sys.executable, str(BULK), *words)


def answer(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=40)
    assert process.returncode == 0, output
    return output.strip()


def listens(lab: Lab, port: int) -> bool:
    return f":{port} " in lab.run("cn", "ss", "-Hltn")


@pytest.mark.usefixtures("device")
def test_ping_and_tcp_pass_both_ways(built: Lab) -> None:
    lab, guest = built, built.guest
    before = lab.agent.engine.counters()
    lab.run("cn", "ping", "-c3", "-i0.05", "-W2", HOME_ADDRESS)
    guest.run(f"ping -c3 -i0.05 -W2 -I {HOME_ADDRESS} {CORRESPONDENT}")
    sink = bulk(lab, "sink", CORRESPONDENT, "6000")
    wait_for("the listener", lambda: listens(lab, 6000))
    sent = guest.run(
        f"python3 {BULK} source {HOME_ADDRESS} {CORRESPONDENT} 6000 {SIZE}", timeout_s=40
    )
    assert answer(sink) == sent.strip()
    guest.run(f"python3 {BULK} sink {HOME_ADDRESS} 6001 >/run/sink 2>&1 &")
    guest.run("for i in 1 2 3 4 5 6 7 8 9 10; do ss -Hltn | grep -q :6001 && exit; sleep 0.2; done")
    source = bulk(lab, "source", CORRESPONDENT, HOME_ADDRESS, "6001", str(SIZE))
    sent = answer(source)
    assert guest.run("sleep 0.2; cat /run/sink").strip() == sent
    after = lab.agent.engine.counters()
    passed = {name: after[name][0] - before[name][0] for name in after}
    assert passed["encapsulated"] + passed["encapsulated-fragments"] > SIZE // 1500
    assert passed["decapsulated"] > SIZE // 1500
    # Nothing but what path MTU discovery costs.
    assert {name for name, count in passed.items() if count and name.startswith("drop")} <= {
        "drop-too-big"
    }
    assert guest_errors(guest.run("ip -s tunnel show tun1")) == ["0", "0", "0"]


def guest_errors(shown: str) -> list[str]:
    """Errors, checksum errors and disorder received, of ``ip -s tunnel show``."""
    lines = shown.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("RX:"))
    return lines[at + 1].split()[2:5]


def test_tcpdump_sees_both_directions_well_formed(built: Lab, device: Device) -> None:
    lab = built
    dump = lab.start(
        "ha", "tcpdump", "-i", "t0", "-n", "-vv", "-l", "-c", "12", f"proto {device.protocol}"
    )
    wait_for("tcpdump", lambda: "t0" in lab.run("ha", "cat", "/proc/net/packet", check=False) or 1)
    for size in ("56", "1200"):
        lab.run("cn", "ping", "-c5", "-i0.1", "-W2", "-s", size, HOME_ADDRESS)
    output, _ = dump.communicate(timeout=20)
    for one, two in ((AGENT, CARE_OF_ADDRESS), (CARE_OF_ADDRESS, AGENT)):
        assert f"{one} > {two}" in output
    for words in device.seen:
        assert words in output
    assert "bad" not in output
    assert "incorrect" not in output
    assert "ICMP echo request" in output
    assert "ICMP echo reply" in output


def test_too_big_packet_is_answered_with_the_size_that_passes(built: Lab, device: Device) -> None:
    """The engine's budget leaves room for exactly the headers it puts on."""
    lab = built
    overhead = 20 if device.protocol == IPIP else 24 + 4 * ("gre_key" in device.record)
    fits = 1500 - overhead
    lab.run("cn", "ip", "route", "flush", "cache")
    lab.run("cn", "ping", "-c1", "-W2", "-M", "do", "-s", str(fits - 28), HOME_ADDRESS)
    shown = lab.run(
        "cn", "ping", "-c1", "-W2", "-M", "do", "-s", str(fits - 27), HOME_ADDRESS, check=False
    )
    assert f"mtu = {fits}" in shown or f"mtu={fits}" in shown
    lab.run("cn", "ip", "route", "flush", "cache")


def test_packet_with_another_key_or_encapsulation_is_dropped(built: Lab) -> None:
    """What was negotiated is what is accepted (RFC 3024 4.1), and silently."""
    lab, guest = built, built.guest
    lab.tunnel(DEVICES["gre-key"])
    guest.run("ip tunnel change tun1 mode gre key 78")
    before = lab.agent.count("decapsulated")
    guest.run(f"ping -c2 -i0.1 -W1 -I {HOME_ADDRESS} {CORRESPONDENT}", check=False)
    assert lab.agent.count("decapsulated") == before
    guest.run("ip tunnel del tun1")
    lab.tunnel(IPIP_DEVICE._replace(record=DEVICES["gre"].record))
    guest.run(f"ping -c2 -i0.1 -W1 -I {HOME_ADDRESS} {CORRESPONDENT}", check=False)
    assert lab.agent.count("decapsulated") == before
    guest.run("ip tunnel del tun1")
