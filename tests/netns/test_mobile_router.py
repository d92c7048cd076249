"""T30, T32 to T34: mobile networks on real kernels, with our home agents and ground stations."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.helpers.aircraft_lab import CN, AircraftLab
from tests.helpers.waiting import wait_until

from fastmip.runtime.demo.plane_topology import (
    AIRLINE_HOME,
    BOARD,
    CABIN_AGENT,
    GROUND_1,
    GROUND_2,
    ON_BOARD,
    PLAIN,
    PLANE,
    SEAT,
    SECOND_ROUTER,
    SECOND_SEAT,
)
from fastmip.runtime.demo.plane_wire import read_probes

pytestmark = pytest.mark.netns

_STATE = (
    "ip -4 rule; ip -4 route show table all | grep -v 'table local';"
    " ip -4 -o address | sed 's/valid_lft.*//'; ip -o link | cut -d: -f2;"
    " for i in all up0 cabin0; do for n in forwarding arp_ignore rp_filter accept_redirects;"
    " do grep -H . /proc/sys/net/ipv4/conf/$i/$n; done; done"
)
_FORGE = """
import sys
from scapy.all import ICMP, IP, send
for source in ("10.2.7.1", "10.1.0.5", "10.2.0.9", "10.2.8.1"):
    send(IP(src=source, dst=sys.argv[1]) / ICMP() / b"forged", count=2, verbose=False)
"""
_PROBE = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 0)
s.bind((sys.argv[1], 4340))
s.sendto(bytes(1372), (sys.argv[2], 4340))
"""


@pytest.fixture(scope="module")
def aircraft() -> Iterator[AircraftLab]:
    """Home agents and ground stations."""
    with AircraftLab() as lab:
        yield lab


def _kernel(aircraft: AircraftLab) -> str:
    return aircraft.lab.run("mr", "sh", "-c", _STATE).stdout


def test_t30_hosts_on_board_stay_connected_while_the_router_moves(aircraft: AircraftLab) -> None:
    """T30: fa1, fa2, an address of its own; forged sources; the kernel as before at the end."""
    lab = aircraft.lab
    lab.run("mr", "sysctl", "-qw", "net.ipv4.ip_forward=0")
    aircraft.move("mr", GROUND_1)
    lab.unplug("mr")
    before = _kernel(aircraft)
    # Without the foreign agent, which would need the machine to forward everywhere.
    aircraft.start("mr", change=lambda text: text.partition("[foreign_agent]")[0])
    aircraft.move("mr", GROUND_1)
    aircraft.registered("haa", PLANE, GROUND_1.agent)
    wait_until(
        lambda: (
            [
                (row["network"], row["state"], row["code"])
                for row in aircraft.rows("mr", "show mobile-networks")
            ]
            == [(ON_BOARD, "forwarded", 0)]
        ),
        20,
        "the network forwarded",
    )
    aircraft.reaches("cn", SEAT)
    say = aircraft.conversation("lfn", SEAT)
    say()
    aircraft.move("mr", GROUND_2)
    aircraft.registered("haa", PLANE, GROUND_2.agent)
    say()
    # 1500 bytes of the link less two headers: larger packets are cut, or answered.
    assert aircraft.pings("cn", SEAT, "-s", "1432", "-M", "do")
    assert not aircraft.pings("lfn", CN, "-s", "1433", "-M", "do")
    _forged_sources_stay_on_board(aircraft)
    aircraft.move("mr", PLAIN)
    aircraft.registered("haa", PLANE, "10.3.3.9")
    say()
    assert aircraft.pings("lfn", CN)
    aircraft.lab.ip("haa", f"route replace {ON_BOARD} via {PLANE} dev home0")
    aircraft.move("mr", AIRLINE_HOME)
    wait_until(lambda: not aircraft.care_of("haa", PLANE), 20, "the router at home")
    aircraft.reaches("cn", SEAT)
    say()
    aircraft.stop("mr")
    assert aircraft.care_of("haa", PLANE) == []
    lab.unplug("mr")
    lab.run("mr", "ip", "-4", "address", "flush", "dev", "up0", "scope", "global")
    wait_until(lambda: _kernel(aircraft) == before, 10, "the kernel as before")


def _forged_sources_stay_on_board(aircraft: AircraftLab) -> None:
    """What comes in from outside the network, by address, goes nowhere (RFC 5177 10)."""
    lab = aircraft.lab
    count = "nft -j list counter ip seen icmps | grep -o '\"packets\": [0-9]*'"
    lab.run("cn", "nft", "add table ip seen")
    lab.run("cn", "nft", "add counter ip seen icmps")
    lab.run("cn", "nft", "add chain ip seen in { type filter hook input priority 0; }")
    lab.run("cn", "nft", "add rule ip seen in icmp type echo-request counter name icmps")
    lab.run("lfn", sys.executable, "-c", _FORGE, CN)
    assert aircraft.pings("lfn", CN)  # in order, and after them
    seen = lab.run("cn", "sh", "-c", count).stdout.split()
    assert seen[-1] == "1", seen


def test_t32_a_router_on_board_of_a_router(aircraft: AircraftLab) -> None:
    """T32: four headers of tunnels behind a ground agent; both move at once; TCP stays."""
    lab = aircraft.lab
    lab.run("mr", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    aircraft.start("mr", "mr2", "mn")
    aircraft.move("mr", GROUND_1)
    aircraft.move("mr2", BOARD)
    aircraft.move("mn", BOARD)
    aircraft.registered("haa", PLANE, GROUND_1.agent)
    aircraft.registered("haa", SECOND_ROUTER, CABIN_AGENT)
    aircraft.registered("haw", "10.1.0.5", CABIN_AGENT)
    aircraft.reaches("cn", SECOND_SEAT)
    say = aircraft.conversation("lfn2", SECOND_SEAT)
    say()
    # Four headers on the last link but one: 80 bytes (RFC 5177 8).
    assert aircraft.pings("lfn2", CN, "-s", "1300", "-M", "do")
    aircraft.move("mr", GROUND_2)
    aircraft.registered("haa", PLANE, GROUND_2.agent)
    say()
    assert aircraft.care_of("haa", SECOND_ROUTER) == [CABIN_AGENT]
    assert aircraft.pings("lfn2", "10.1.0.5")  # visitor and nested router, through both homes
    assert aircraft.pings("lfn2", SEAT)
    counters = {r["counter"]: r["value"] for r in aircraft.rows("mr", "show traffic")}
    assert counters["faVisitors"] == 2
    for node in ("mn", "mr2", "mr"):
        aircraft.stop(node)


_SEEN = (
    ("to-haw", ["10.9.0.7>10.1.0.5"], 1400),
    ("to-haw", ["10.1.0.1>10.2.0.9", "10.9.0.7>10.1.0.5"], 1420),
    ("to-haa", ["10.2.0.1>10.3.1.1", "10.1.0.1>10.2.0.9", "10.9.0.7>10.1.0.5"], 1440),
    ("cabin0", ["10.9.0.7>10.1.0.5"], 1400),
    ("visit0", ["10.2.0.9>10.1.0.1", "10.1.0.5>10.9.0.7"], 1420),
    ("to-haa", ["10.3.1.1>10.2.0.1", "10.2.0.9>10.1.0.1", "10.1.0.5>10.9.0.7"], 1440),
    ("to-haw", ["10.2.0.9>10.1.0.1", "10.1.0.5>10.9.0.7"], 1420),
)
"""Of the homework with plain RFC 5944: the care-of address is the router's home address."""


def test_t31_with_the_routers_home_address_as_care_of_address_rfc5944_4_5(
    aircraft: AircraftLab,
) -> None:
    """T31, plain RFC 5944: two headers at most, whatever the router is behind."""
    lab, offered = aircraft.lab, f'interfaces = ["cabin0"]\ncare_of_addresses = ["{PLANE}"]\n'
    lab.run("mr", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    aircraft.start("mr", change=lambda text: text.replace('interfaces = ["cabin0"]\n', offered))
    aircraft.start("mn")
    aircraft.move("mr", GROUND_1)
    aircraft.registered("haa", PLANE, GROUND_1.agent)
    aircraft.move("mn", BOARD)
    aircraft.registered("haw", "10.1.0.5", PLANE)
    aircraft.reaches("cn", "10.1.0.5")  # the reply has come down, and everybody acted on it
    ends = (("inet", "to-haw"), ("inet", "to-haa"), ("fa1", "visit0"), ("mr", "cabin0"))
    taps = [{"name": port, "namespace": lab.ns(node), "interface": port} for node, port in ends]
    capture = lab.directory / "t31.pcapng"
    command = [sys.executable, "-m", "fastmip.runtime.demo.capture", str(capture), json.dumps(taps)]
    sniffer = lab.popen(None, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert sniffer.stdout is not None
    assert sniffer.stdin is not None
    sniffer.stdout.readline()  # the taps are open
    for node, source, to in (("cn", CN, "10.1.0.5"), ("mn", "10.1.0.5", CN)):
        lab.run(node, sys.executable, "-c", _PROBE, source, to)
    aircraft.reaches("cn", "10.1.0.5")  # in order: the probes are through
    sniffer.stdin.close()
    sniffer.wait(timeout=20)
    seen = [(one.tap, one.stack.split(), one.length) for one in read_probes(capture)]
    assert [one for one in _SEEN if one not in seen] == []
    assert max(len(stack) for _, stack, _ in seen) == 3
    for node in ("mn", "mr"):
        aircraft.stop(node)


_FIXED_HOST = """
[[foreign_agent.fixed_host]]
home_address = "10.1.0.5"
home_agent = "10.1.0.1"
interface = "cabin0"
mac = "{mac}"
[[foreign_agent.fixed_host.association]]
spi = 256
key_file = "{folder}/mn.key"
"""


def test_t33_a_fixed_host_is_registered_for_good_rfc5944_4_5(aircraft: AircraftLab) -> None:
    """T33: a stock host of WUSTL.EDU on board; the router registers it, the host does nothing."""
    lab = aircraft.lab
    lab.run("mr", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    fixed = _FIXED_HOST.format(mac=lab.mac("mn", "eth0"), folder=lab.directory)
    aircraft.start("mr", change=lambda text: text.replace("[[advertise]]", f"{fixed}[[advertise]]"))
    lab.ip("mn", "address add 10.1.0.5/32 dev eth0", "link set eth0 up")
    lab.plug("mn", BOARD)
    lab.ip("mn", f"route add default via {CABIN_AGENT} dev eth0 onlink")
    aircraft.move("mr", GROUND_1)
    aircraft.registered("haa", PLANE, GROUND_1.agent)
    aircraft.registered("haw", "10.1.0.5", CABIN_AGENT)
    (row,) = aircraft.rows("haw", "show binding")
    shown = aircraft.rows("mr", "show fixed-host")
    assert [(one["home_address"], one["registered"]) for one in shown] == [("10.1.0.5", True)]
    aircraft.reaches("cn", "10.1.0.5")
    assert aircraft.pings("mn", CN)
    aircraft.move("mr", GROUND_2)
    aircraft.registered("haa", PLANE, GROUND_2.agent)
    aircraft.reaches("cn", "10.1.0.5")
    (after,) = aircraft.rows("haw", "show binding")
    assert after["identification"] == row["identification"]
    aircraft.stop("mr")
    lab.ip("mn", "address flush dev eth0")
    aircraft.daemons["haw"].ask("clear binding", home_address="10.1.0.5")


def test_t34_a_router_takes_the_network_it_is_given_rfc6626(aircraft: AircraftLab) -> None:
    """T34: a prefix out of the pool on the ingress interface, as long as the binding lasts."""

    def addresses() -> str:
        return aircraft.lab.run("mr2", "ip", "-4", "-o", "address", "show", "dev", "in0").stdout

    def change(text: str) -> str:
        return text.replace('networks = ["10.2.9.0/24"]', "dynamic = [28]")

    aircraft.start("mr2", change=change)
    aircraft.move("mr2", GROUND_1)
    aircraft.registered("haa", SECOND_ROUTER, GROUND_1.agent)
    wait_until(lambda: "10.2.128." in addresses(), 10, "a network on the ingress interface")
    (row,) = aircraft.rows("mr2", "show mobile-networks")
    assert (row["origin"], row["state"]) == ("dynamic", "forwarded")
    first = addresses().split("10.2.128.")[1].split("/")[0]
    assert row["network"] == f"10.2.128.{int(first) - 1}/28"
    aircraft.reaches("cn", f"10.2.128.{first}")
    assert aircraft.pings("mr2", CN, "-I", f"10.2.128.{first}")
    aircraft.move("mr2", GROUND_2)
    aircraft.registered("haa", SECOND_ROUTER, GROUND_2.agent)
    aircraft.reaches("cn", f"10.2.128.{first}")
    aircraft.stop("mr2")
    assert "10.2.128." not in addresses()
