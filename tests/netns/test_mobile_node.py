"""The mobile node on real kernels: alone against a scripted home agent, then with ours."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.utils import rdpcap
from tests.helpers.waiting import wait_until

from fastmip.runtime.demo.lab import HOME, VISITED_A, VISITED_B, Lab, Link
from fastmip.runtime.demo.stage import Daemon

pytestmark = pytest.mark.netns

HERE = Path(__file__).parent
KEY = bytes(range(16)).hex()

MOBILE_NODE = """\
[daemon]
state_dir = "{directory}/mn-state"
control_socket = "{directory}/mn.sock"
log_format = "json"
[mobile_node]
home_address = "10.1.0.5"
home_network = "10.1.0.0/24"
home_agent = "10.1.0.1"
interfaces = ["eth0", "wlan0"]
{more}
[mobile_node.association]
spi = 256
key = "{key}"
"""

HOME_AGENT = """\
[daemon]
state_dir = "{directory}/ha-state"
control_socket = "{directory}/ha.sock"
log_format = "json"
[engine]
max_bindings = 64
[home_agent]
address = "10.1.0.1"
home_network = "10.1.0.0/24"
interface = "eth0"
[[home_agent.host]]
home_address = "10.1.0.5"
[[home_agent.host.association]]
spi = 256
key = "{key}"
"""


@dataclass
class Scripted:
    """The scripted home agent and what it was asked."""

    process: subprocess.Popen[bytes]
    output: Path

    def requests(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output.read_text().splitlines()]
        return [line for line in lines if "ready" not in line]


@dataclass
class Field:
    """A lab with daemons, and the questions tests ask of it."""

    lab: Lab
    nodes: list[Daemon] = field(default_factory=list)

    def config(self, template: str, more: str = "") -> str:
        return template.format(directory=self.lab.directory, key=KEY, more=more)

    def start(self, node: str, configuration: str) -> Daemon:
        (self.lab.directory / f"{node}.toml").unlink(missing_ok=True)
        daemon = Daemon(self.lab, node, configuration)
        self.nodes.append(daemon)
        wait_until(daemon.is_ready, 15, f"the daemon on {node}")
        return daemon

    def mobile_node(self, more: str = "") -> Daemon:
        return self.start("mn", self.config(MOBILE_NODE, more))

    def home_agent(self) -> Daemon:
        return self.start("ha", self.config(HOME_AGENT))

    def scripted_home_agent(self, lifetime: int = 600) -> Scripted:
        output = self.lab.directory / "scripted"
        with output.open("wb") as stream:
            script = str(HERE / "scripted_home_agent.py")
            process = self.lab.popen(
                "ha", [sys.executable, script, "10.1.0.1", str(lifetime)], stdout=stream
            )
        wait_until(lambda: "ready" in output.read_text(), 10, "the scripted home agent")
        return Scripted(process, output)

    def attach(self, port: str, link: Link) -> None:
        self.lab.plug(port, link)
        self.lab.lease(port, link)

    def detach(self, port: str) -> None:
        self.lab.unplug(port)
        self.lab.release(port)

    def kernel_state(self) -> str:
        """All a mobile node may touch, as one text."""
        script = (
            "ip -4 rule; ip -4 route show table all | grep -v 'table local';"
            " ip -4 -o address | sed 's/valid_lft.*//'; ip -o link | cut -d: -f2;"
            " for i in all eth0 wlan0; do for n in arp_ignore arp_announce rp_filter accept_local;"
            " do grep -H . /proc/sys/net/ipv4/conf/$i/$n; done; done"
        )
        return self.lab.run("mn", "sh", "-c", script).stdout

    def pings(self, node: str, address: str, *options: str) -> bool:
        done = self.lab.run(node, "ping", "-c1", "-W2", *options, address, check=False)
        return done.returncode == 0

    def state(self, daemon: Daemon) -> str:
        return str(daemon.ask("show binding")["summary"]["state"])

    def wait_for_state(self, daemon: Daemon, state: str, seconds: float = 8) -> None:
        wait_until(lambda: self.state(daemon) == state, seconds, f"state {state}")

    def stop(self, daemon: Daemon) -> None:
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(timeout=15) == 0, daemon.log.read_text()

    def care_of_addresses(self, home_agent: Daemon) -> set[str]:
        return {row["care_of_address"] for row in home_agent.ask("show binding")["rows"]}

    def requests_sent(self, daemon: Daemon) -> int:
        rows = {row["counter"]: row["value"] for row in daemon.ask("show traffic")["rows"]}
        return int(rows["mnRegRequestsSent"])

    def device_mtu(self) -> int:
        shown = self.lab.run("mn", "ip", "-j", "link", "show", "dev", "fmmn0").stdout
        return int(json.loads(shown)[0]["mtu"])

    def wait_for_routing(self, *addresses: str) -> None:
        """The last change for a link is its unmarked rule; it may come after the registration."""

        def is_complete() -> bool:
            rules = self.lab.run("mn", "ip", "rule").stdout
            return all(f"from {address} lookup 43" in rules for address in addresses)

        wait_until(is_complete, 8, f"routing for {addresses}")

    def wait_for_bindings(self, home_agent: Daemon, wanted: set[str]) -> None:
        wait_until(lambda: wanted <= self.care_of_addresses(home_agent), 8, f"bindings {wanted}")

    def capture(self, node: str, port: str, name: str) -> Callable[[], Any]:
        """Capture a port of a machine; the result stops it and returns its packets."""
        path = self.lab.directory / f"{name}.pcap"
        process = self.lab.popen(
            node,
            ["tcpdump", "-i", port, "-U", "--immediate-mode", "-w", str(path), "-Z", "root"],
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        heard = b""

        def listening() -> bool:
            nonlocal heard
            heard += process.stderr.read() or b"" if process.stderr else b""
            return b"listening on" in heard

        wait_until(listening, 10, "tcpdump")

        def finish() -> Any:
            time.sleep(0.1)  # what was sent is on its way into the file
            process.send_signal(signal.SIGINT)
            process.wait(timeout=10)
            return rdpcap(str(path))

        return finish


@pytest.fixture
def ground(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Field]:
    """A lab whose daemons run this checkout."""
    source = str(HERE.parents[1] / "src")
    monkeypatch.setenv("PYTHONPATH", source + os.pathsep + os.environ.get("PYTHONPATH", ""))
    made = Field(lab)
    yield made
    for daemon in made.nodes:
        daemon.process.kill()  # a stop would wait for a home agent that stops as well
        daemon.process.wait()
        told = daemon.log.read_text()
        print(told)  # noqa: T201 -- pytest shows it when a test fails
        assert "Traceback" not in told


# -- alone, against a scripted home agent ------------------------------------------------------


def test_everything_is_as_before_after_a_stop(ground: Field) -> None:
    scripted = ground.scripted_home_agent()
    for name, value in (("arp_ignore", "0"), ("arp_announce", "1"), ("rp_filter", "1")):
        path = f"/proc/sys/net/ipv4/conf/eth0/{name}"
        ground.lab.run("mn", "sh", "-c", f"echo {value} > {path}")
    ground.attach("eth0", VISITED_A)
    before = ground.kernel_state()
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    ground.wait_for_routing("10.3.1.5")
    during = ground.kernel_state()
    assert "from 10.1.0.5 lookup 434" in during
    assert "from 10.3.1.5 lookup 435" in during
    assert "default dev fmmn0 table 434" in during
    assert re.search(r"fmmn0\s+inet 10\.1\.0\.5/32", during)
    for setting in ("arp_ignore:1", "arp_announce:2", "rp_filter:2"):
        assert f"eth0/{setting}" in during
    ground.stop(node)
    assert ground.kernel_state() == before
    first, last = scripted.requests()[0], scripted.requests()[-1]
    assert (first["care_of"], first["source"], first["lifetime"]) == ("10.3.1.5", "10.3.1.5", 300)
    assert (last["care_of"], last["source"], last["lifetime"]) == ("10.3.1.5", "10.3.1.5", 0)
    assert all(request["good"] for request in scripted.requests())


def test_a_killed_daemon_leaves_nothing_after_its_next_run(ground: Field) -> None:
    ground.scripted_home_agent()
    ground.attach("eth0", VISITED_A)
    ground.attach("wlan0", HOME)
    before = ground.kernel_state()
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    assert node.ask("prefer", interface="wlan0") == {"preferred": "wlan0"}
    ground.wait_for_state(node, "home")
    node.process.kill()
    node.process.wait()
    assert ground.kernel_state() != before
    # The kernel takes the process's io_uring down in the background: not at once.
    wait_until(lambda: "fmmn0" not in ground.kernel_state(), 3, "the device to die")
    again = ground.mobile_node()
    ground.wait_for_state(again, "registered")
    assert ground.kernel_state().count("from 10.1.0.5 lookup 434") == 1
    ground.stop(again)
    assert ground.kernel_state() == before


def test_what_an_operator_configured_stays(ground: Field) -> None:
    ground.scripted_home_agent()
    ground.lab.plug("eth0", HOME)
    ground.lab.ip("mn", "address add 10.1.0.5/24 dev eth0", "route add default via 10.1.0.1")
    before = ground.kernel_state()
    node = ground.mobile_node()
    ground.wait_for_state(node, "home")
    ground.stop(node)
    assert ground.kernel_state() == before
    assert "10.1.0.5/24" in before


def test_a_link_that_bounces_faster_than_we_look_gets_its_routes_back(ground: Field) -> None:
    ground.scripted_home_agent()
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    ground.wait_for_routing("10.3.1.5")
    tables = ground.lab.run("mn", "ip", "route", "show", "table", "435").stdout
    assert "default via 10.3.1.254" in tables
    ground.lab.ip(
        "mn",
        "link set eth0 down",
        "link set eth0 up",
        "route replace default via 10.3.1.254 dev eth0 metric 100",
    )

    def is_back() -> bool:
        shown = ground.lab.run("mn", "ip", "route", "show", "table", "435", check=False)
        return shown.stdout == tables and ground.state(node) == "registered"

    wait_until(is_back, 8, "the link's own routes")


def test_a_tunnel_device_that_was_set_down_carries_again(ground: Field) -> None:
    ground.scripted_home_agent()
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    ground.wait_for_routing("10.3.1.5")
    before = ground.kernel_state()
    ground.lab.ip("mn", "link set fmmn0 down")
    assert ground.kernel_state() != before
    wait_until(lambda: ground.kernel_state() == before, 8, "the tunnel device and its route")
    ground.stop(node)


def test_a_gateway_at_home_is_not_looked_for_in_the_tunnel(ground: Field) -> None:
    ground.scripted_home_agent()
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    ground.wait_for_routing("10.3.1.5")
    ground.lab.plug("wlan0", HOME)
    ground.lab.ip("mn", "address add 10.1.0.77/24 dev wlan0")
    ground.lab.ip("mn", "route add default via 10.1.0.1 metric 50")  # no word of a device
    shown = ground.lab.run("mn", "ip", "route", "show", "default", "metric", "50").stdout
    assert "dev wlan0" in shown
    ground.stop(node)


def test_an_interface_that_is_not_there_is_said_and_waited_for(ground: Field) -> None:
    ground.scripted_home_agent()
    ground.lab.ip("mn", "link set eth0 name gone0")
    node = ground.mobile_node()
    ground.wait_for_state(node, "isolated")
    assert '"interface": "eth0"' in node.log.read_text()
    assert "interface-missing" in node.log.read_text()
    ground.lab.ip("mn", "link set gone0 name eth0", "link set eth0 up")
    ground.attach("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    ground.stop(node)


def test_an_interface_that_vanishes_isolates_the_node(ground: Field) -> None:
    ground.scripted_home_agent()
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    ground.lab.ip("mn", "link delete eth0")
    ground.wait_for_state(node, "isolated")
    ground.attach("wlan0", VISITED_B)
    ground.wait_for_state(node, "registered")
    assert node.ask("show binding")["summary"]["care_of_address"] == "10.3.2.6"
    ground.stop(node)


def test_two_links_at_once_each_speak_with_their_own_address(ground: Field) -> None:
    scripted = ground.scripted_home_agent()
    ground.attach("eth0", VISITED_A)
    ground.attach("wlan0", VISITED_B)
    finish = ground.capture("mn", "wlan0", "wlan0")
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    node.ask("prefer", interface="wlan0")
    wait_until(lambda: len(scripted.requests()) >= 3, 8, "registration and release")
    register, move, release = scripted.requests()[:3]
    assert (register["source"], register["flags"]) == ("10.3.1.5", 0x22)
    assert (move["source"], move["flags"], move["lifetime"]) == ("10.3.2.6", 0xA2, 300)
    assert (release["source"], release["care_of"], release["lifetime"]) == (
        "10.3.1.5",
        "10.3.1.5",
        0,
    )
    sent = [p for p in finish() if UDP in p and p[UDP].dport == 434]
    assert {p[IP].src for p in sent} == {"10.3.2.6"}, "the release left by the other link"


def test_away_no_arp_names_or_answers_for_the_home_address_rfc5944_4_6(ground: Field) -> None:
    ground.scripted_home_agent()
    ground.attach("eth0", VISITED_A)
    finish = ground.capture("mn", "eth0", "visited")
    node = ground.mobile_node("reverse_tunnel = false")
    ground.wait_for_state(node, "registered")
    ground.lab.run("mn", "ip", "neigh", "flush", "all")
    ground.pings("mn", "10.9.0.7", "-I", "10.1.0.5")  # native: the kernel has to ask for the router
    asked = ground.lab.run(
        "ar1", sys.executable, "-c", _ASK_ARP, "visit0", "10.1.0.5", "10.3.1.5"
    ).stdout.split()
    assert asked == ["10.3.1.5"]
    told = [p[ARP] for p in finish() if ARP in p]
    mine = ground.lab.mac("mn", "eth0")
    own = [p for p in told if p.hwsrc == mine]
    assert own
    assert all(p.psrc == "10.3.1.5" for p in own)


_ASK_ARP = """
import sys
from scapy.all import ARP, Ether, conf, srp
conf.verb = 0
interface, *addresses = sys.argv[1:]
for address in addresses:
    frame = Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=address)
    answered, _ = srp(frame, iface=interface, timeout=0.7)
    for _, answer in answered:
        print(answer[ARP].psrc)
"""


@pytest.mark.slow
def test_home_sequence_on_the_wire_rfc5944_4_6(ground: Field) -> None:
    ground.scripted_home_agent()
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    ground.detach("eth0")
    finish = ground.capture("mn", "eth0", "home")
    ground.attach("eth0", HOME)
    ground.wait_for_state(node, "home")
    time.sleep(2.3)  # the repeats
    packets = finish()
    mac = ground.lab.mac("mn", "eth0")
    gratuitous = [
        i
        for i, p in enumerate(packets)
        if ARP in p and p[ARP].psrc == p[ARP].pdst == "10.1.0.5" and p[ARP].hwsrc == mac
    ]
    requests = [i for i, p in enumerate(packets) if UDP in p and p[UDP].dport == 434]
    assert len(gratuitous) == 4
    assert all(packets[i][Ether].dst == "ff:ff:ff:ff:ff:ff" for i in gratuitous)
    assert gratuitous[0] < requests[0], "announced before the request is sent"
    request = packets[requests[0]]
    assert (request[IP].src, request[IP].dst) == ("10.1.0.5", "10.1.0.1")
    data = bytes(request[UDP].payload)
    assert data[:4] == b"\x01\x00\x00\x00"
    assert data[12:16] == bytes([10, 1, 0, 5])
    asked = ground.lab.run("hh", sys.executable, "-c", _ASK_ARP, "eth0", "10.1.0.5").stdout.split()
    assert asked == ["10.1.0.5"], "ARP is answered again"


# -- with our home agent -------------------------------------------------------------------------


def talk(ground: Field, seconds: float) -> subprocess.Popen[bytes]:
    """Start a TCP conversation of the home address with the correspondent."""
    script = str(HERE / "echo_over_moves.py")
    server = ground.lab.popen("cn", [sys.executable, script, "server", "7000"], stdout=-1)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    client = ground.lab.popen(
        "mn",
        [sys.executable, script, "client", "10.1.0.5", "10.9.0.7", "7000", str(seconds)],
        stdout=-1,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    return client


@pytest.mark.slow
def test_a_tcp_connection_survives_every_kind_of_move(ground: Field) -> None:
    home_agent = ground.home_agent()
    ground.attach("eth0", HOME)
    node = ground.mobile_node()
    ground.wait_for_state(node, "home")
    client = talk(ground, 12)
    for link in (VISITED_A, VISITED_B, HOME):
        ground.detach("eth0")
        ground.attach("eth0", link)
        ground.wait_for_state(node, "home" if link is HOME else "registered")
        time.sleep(0.5)
    assert ground.care_of_addresses(home_agent) == set()
    for port, other, link in (
        ("wlan0", "eth0", VISITED_A),
        ("eth0", "wlan0", VISITED_B),
        ("wlan0", "eth0", HOME),
    ):
        ground.attach(port, link)
        node.ask("prefer", interface=port)
        address = link.leases[port].split("/")[0]
        wanted = set() if link is HOME else {address}
        ground.wait_for_bindings(home_agent, wanted)
        ground.wait_for_state(node, "home" if link is HOME else "registered")
        time.sleep(0.3)
        ground.detach(other)
    output, _ = client.communicate(timeout=60)
    result = json.loads(output)
    assert client.returncode == 0, result
    assert result["received"] == result["sent"] > 500
    hosts_table = ground.lab.neighbour("ha", "10.1.0.5")
    assert hosts_table == ground.lab.mac("mn", "wlan0"), "direct delivery is restored"
    kinds = [row["kind"] for row in node.ask("show handover")["rows"]]
    assert kinds.count("return-home") == 2
    assert "make-before-break" in kinds


def test_make_before_break_loses_nothing(ground: Field) -> None:
    ground.home_agent()
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    ping = ground.lab.popen(
        "cn", ["ping", "-i", "0.01", "-c", "400", "-W", "3", "10.1.0.5"], stdout=-1
    )
    time.sleep(0.5)
    ground.attach("wlan0", VISITED_B)
    node.ask("prefer", interface="wlan0")
    wait_until(
        lambda: [row["interface"] for row in node.ask("show binding")["rows"]] == ["wlan0"],
        6,
        "the old binding released",
    )
    ground.detach("eth0")
    output, _ = ping.communicate(timeout=60)
    assert " 0% packet loss" in output.decode(), output.decode()


def test_strict_reverse_path_filters_are_relaxed_and_restored(ground: Field) -> None:
    ground.home_agent()
    for name in ("all", "default", "eth0", "wlan0"):
        path = f"/proc/sys/net/ipv4/conf/{name}/rp_filter"
        ground.lab.run("mn", "sh", "-c", f"echo 1 > {path}")
    ground.attach("eth0", VISITED_A)
    ground.attach("wlan0", VISITED_B)
    before = ground.kernel_state()
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    ground.wait_for_routing("10.3.1.5", "10.3.2.6")
    assert ground.pings("cn", "10.1.0.5")
    assert ground.pings("cn", "10.3.2.6"), "the other link answers for itself"
    node.ask("prefer", interface="wlan0")
    wait_until(
        lambda: node.ask("show binding")["summary"]["interface"] == "wlan0", 5, "the other link"
    )
    assert ground.pings("cn", "10.1.0.5")
    ground.stop(node)
    assert ground.kernel_state() == before


def test_a_home_agent_that_comes_late_is_found(ground: Field) -> None:
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node()
    ground.wait_for_state(node, "pending")
    wait_until(lambda: ground.requests_sent(node) >= 2, 8, "a retransmission")
    ground.home_agent()
    ground.wait_for_state(node, "registered", 20)
    assert ground.pings("mn", "10.9.0.7", "-I", "10.1.0.5")


def test_the_tunnel_device_follows_the_mtu_of_the_link(ground: Field) -> None:
    ground.home_agent()
    ground.lab.ip("mn", "link set wlan0 mtu 1400")
    ground.attach("eth0", VISITED_A)
    ground.attach("wlan0", VISITED_B)
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    assert ground.device_mtu() == 1480
    assert ground.pings("mn", "10.9.0.7", "-s", "1452", "-M", "do")
    node.ask("prefer", interface="wlan0")
    wait_until(lambda: ground.device_mtu() == 1380, 5, "the smaller MTU")
    assert ground.pings("mn", "10.9.0.7", "-s", "1352", "-M", "do")


def test_without_reverse_tunnel_only_inbound_packets_are_tunnelled(ground: Field) -> None:
    ground.home_agent()
    ground.lab.run("ar1", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/visit0/rp_filter")
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node("reverse_tunnel = false")
    ground.wait_for_state(node, "registered")
    assert ground.pings("mn", "10.9.0.7", "-I", "10.1.0.5")
    verdicts = {row["verdict"]: row["packets"] for row in node.ask("show errors")["rows"]}
    assert verdicts.get("decapsulated", 0) >= 1
    assert "encapsulated" not in verdicts


def test_the_visited_network_stays_reachable_directly_rfc5944_4_2_1(ground: Field) -> None:
    ground.home_agent()
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    assert ground.pings("mn", "10.3.1.254")
    assert ground.pings("mn", "10.1.0.50"), "the home network is reached through the tunnel"
    assert ground.pings("hh", "10.1.0.5")
    assert ground.pings("ar1", "10.3.1.5"), "the care-of address answers too"


def test_the_daemon_says_what_it_does(ground: Field) -> None:
    ground.home_agent()
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node()
    ground.wait_for_state(node, "registered")
    assert ground.pings("mn", "10.9.0.7")
    for command in ("traffic", "errors", "secure", "runtime", "interface", "tunnel", "handover"):
        shown = node.ask(f"show {command}")
        assert shown["rows"], command
        assert KEY not in json.dumps(shown)
    assert node.ask("show violation")["summary"] == {"mipSecTotalViolations": 0}
    counters = {row["counter"]: row["value"] for row in node.ask("show traffic")["rows"]}
    assert counters["mnRegRequestsAccepted"] == 1
    assert KEY not in node.log.read_text()


def test_an_address_that_flaps_neither_storms_nor_wedges_rfc5944_2_4_2(ground: Field) -> None:
    home_agent = ground.home_agent()
    ground.attach("eth0", VISITED_A)
    node = ground.mobile_node()
    ground.wait_for_bindings(home_agent, {"10.3.1.5"})
    sent, began = ground.requests_sent(node), time.monotonic()
    for turn in range(100):  # ten a second
        old, new = ("10.3.1.5", "10.3.1.6") if turn % 2 == 0 else ("10.3.1.6", "10.3.1.5")
        ground.lab.ip(
            "mn",
            f"address delete {old}/24 dev eth0",
            f"address add {new}/24 dev eth0",
            f"route replace default via 10.3.1.254 dev eth0 src {new}",
        )
        time.sleep(max(0.0, began + (turn + 1) / 10 - time.monotonic()))
    elapsed_s = time.monotonic() - began
    assert ground.requests_sent(node) - sent <= elapsed_s + 3  # the average, and a burst's worth
    wait_until(lambda: ground.care_of_addresses(home_agent) == {"10.3.1.5"}, 15, "the last address")
    wait_until(lambda: ground.pings("cn", "10.1.0.5"), 10, "a reply through the tunnel")
