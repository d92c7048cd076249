"""RFC 2005 section 6: the eleven features of the interoperability meeting, as acceptance tests.

Home agent, two foreign agents and mobile node are real daemons; all else are stock kernels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.helpers.agents_lab import CN, FA1, FA2, HA, AgentsLab, eventually, one_test

from fastmip.runtime.demo.topology import FOREIGN_1, FOREIGN_2, HOME, HOME_ADDRESS

pytestmark = pytest.mark.netns

_SOLICIT = """
import sys
from scapy.all import Ether, IP, Raw, get_if_hwaddr, sendp
frame = Ether(src=get_if_hwaddr("eth0"), dst="01:00:5e:00:00:0b")
packet = IP(src="10.1.0.5", dst="224.0.0.11", ttl=1, proto=1)
sendp(frame / packet / Raw(bytes.fromhex("0a00f5ff00000000")), iface="eth0", verbose=0)
"""
_REPLAY = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 0))
s.settimeout(2)
s.sendto(bytes.fromhex(sys.argv[2]), ("10.1.0.1", 434))
try:
    print(s.recv(2048).hex())
except TimeoutError:
    print("silence")
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[AgentsLab]:
    """One lab for all tests of this file."""
    with AgentsLab() as lab:
        lab.agents()
        yield lab


@pytest.fixture
def lab(shared: AgentsLab) -> Iterator[AgentsLab]:
    """The shared lab with its agents as they are without settings."""
    shared.agents()
    with one_test(shared):
        yield shared


def test_point_01_nodes_receive_and_process_advertisements(lab: AgentsLab) -> None:
    node = lab.mobile_node()
    lab.attach("eth0", FOREIGN_1)
    eventually(lambda: node.ask("show agent")["rows"], 10, "an agent heard")
    [agent] = node.ask("show agent")["rows"]
    assert agent["agent"] == FA1
    assert agent["care_of_addresses"] in (FA1, [FA1])
    assert agent["mac"] == lab.net.mac("fa1", "visit0")
    assert {"F", "M", "G", "T"} <= set(agent["flags"])


def test_point_02_agents_answer_solicitations_with_advertisements(lab: AgentsLab) -> None:
    table = '[[advertise]]\ninterface = "visit0"\nsolicited_only = true'
    lab.foreign_agent("fa1", more=table)
    lab.attach("eth0", FOREIGN_1)
    air = lab.capture("mn", "eth0")
    time.sleep(2.5)
    lab.python("mn", _SOLICIT)
    time.sleep(1)
    rows = air.rows("icmp.type == 9 or icmp.type == 10", "icmp.type", "ip.src")
    assert rows == [("10", HOME_ADDRESS), ("9", FA1)]


def test_point_03_nodes_register_with_agents_on_foreign_networks(lab: AgentsLab) -> None:
    lab.mobile_node()
    for link, agent in ((FOREIGN_1, "fa1"), (FOREIGN_2, "fa2")):
        lab.move(link)
        [visitor] = lab.visitors(agent)
        assert visitor["home_address"] == HOME_ADDRESS
        [binding] = lab.bindings()
        assert binding["care_of_address"] == binding["foreign_agent"] == link.agent


def test_point_04_tunnelled_by_the_home_agent_detunnelled_by_the_foreign_agent(
    lab: AgentsLab,
) -> None:
    lab.mobile_node()
    lab.move(FOREIGN_1)
    core, air = lab.capture("inet", "to-fa1"), lab.capture("mn", "eth0")
    assert lab.pings("cn", HOME_ADDRESS)
    echo = f"icmp.type == 8 and ip.dst == {HOME_ADDRESS}"
    assert set(core.rows(echo, "ip.src", "ip.dst")) == {(f"{HA},{CN}", f"{FA1},{HOME_ADDRESS}")}
    assert set(air.rows(echo, "ip.src", "ip.dst")) == {(CN, HOME_ADDRESS)}


def test_point_05_packets_from_the_node_are_routed_directly(lab: AgentsLab) -> None:
    """Without reverse tunnelling; the core must let foreign sources pass for that."""
    lab.net.run("inet", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/to-fa1/rp_filter")
    try:
        lab.mobile_node("reverse_tunnel = false")
        lab.move(FOREIGN_1)
        core = lab.capture("inet", "to-fa1")
        assert lab.pings("mn", CN, "-I", HOME_ADDRESS)
        request = core.rows(f"icmp.type == 8 and ip.dst == {CN}", "ip.src", "ip.dst")
        reply = core.rows("icmp.type == 0", "ip.src", "ip.dst")
        assert set(request) == {(HOME_ADDRESS, CN)}
        assert set(reply) == {(f"{HA},{CN}", f"{FA1},{HOME_ADDRESS}")}
    finally:
        lab.net.run("inet", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/to-fa1/rp_filter")


def test_point_06_a_change_of_subnet_is_discovered_and_registered(lab: AgentsLab) -> None:
    """By the network alone: no carrier tells, advertisements run out and others are heard."""
    lab.mobile_node()
    lab.move(FOREIGN_1)
    lab.net.ip("sw", f"link set p-eth0 master {FOREIGN_2.bridge}")
    eventually(lambda: lab.care_of() == {FA2}, 20, "the new care-of address")
    assert lab.both_ways()


def test_point_07_a_rebooted_agent_is_registered_with_again(lab: AgentsLab) -> None:
    lab.mobile_node()
    lab.move(FOREIGN_1)
    time.sleep(2.5)  # the sequence number has left 0 and 1 behind
    lab.daemon("fa1").process.kill()
    lab.daemon("fa1").process.wait()
    lab.forget("fa1")
    lab.foreign_agent("fa1")
    eventually(lambda: lab.visitors("fa1"), 15, "the visitor again")
    eventually(lab.both_ways, 5, "packets again")


@pytest.mark.parametrize("encapsulation", ["ipip", "minimal", "gre"])
def test_point_08_ip_in_ip_and_minimal_encapsulation(lab: AgentsLab, encapsulation: str) -> None:
    """And GRE, which the meeting did not test."""
    lab.mobile_node(f'encapsulation = "{encapsulation}"')
    lab.move(FOREIGN_1)
    core = lab.capture("ha", "eth1")
    assert lab.both_ways()
    [binding] = lab.bindings()
    assert binding["encapsulation"] == encapsulation
    number = {"ipip": 4, "minimal": 55, "gre": 47}[encapsulation]
    ends = core.rows(f"ip.proto == {number}", "ip.src", "ip.dst")
    outer = {(source.split(",")[0], target.split(",")[0]) for source, target in ends}
    assert outer == {(HA, FA1), (FA1, HA)}
    others = " or ".join(f"ip.proto == {n}" for n in {4, 55, 47} - {number})
    assert core.count(others) == 0


def test_point_09_nodes_deregister_when_they_return_home(lab: AgentsLab) -> None:
    lab.mobile_node()
    lab.move(FOREIGN_1)
    assert lab.both_ways()
    home = lab.capture("ha", "eth0")
    lab.move(HOME)
    assert lab.bindings() == []
    assert lab.both_ways()
    said = home.rows("mip", "mip.type", "mip.life", "mip.code", "mip.coa")
    assert ("1", "0", "", HOME_ADDRESS) in said
    assert ("3", "0", "0", "") in said


def test_point_10_bad_authenticators_and_replays_are_rejected(lab: AgentsLab) -> None:
    """A recorded request sent again, a bit of it flipped, and another key: no binding moves."""
    core = lab.capture("ha", "eth1")
    lab.mobile_node()
    for link in (FOREIGN_1, FOREIGN_2, FOREIGN_1):
        lab.move(link)
    payload = core.rows("mip.type == 1", "udp.payload")[0][0].replace(":", "")
    before = lab.bindings()
    replayed = lab.python("fa1", _REPLAY, FA1, payload).strip()
    assert replayed[2:4] == "85", f"133, identification mismatch, is due: {replayed}"
    flipped = f"{payload[:-1]}{int(payload[-1], 16) ^ 1:x}"
    forged = lab.python("fa1", _REPLAY, FA1, flipped).strip()
    assert forged == "silence", "strangers learn nothing"
    total = lab.daemon("ha").ask("show violation")["summary"]["mipSecTotalViolations"]
    assert total >= 1
    after = lab.bindings()
    assert [row["identification"] for row in after] == [row["identification"] for row in before]
    assert lab.both_ways()
    lab.end("mn")
    lab.leave("eth0")
    wrong = lab.mobile_node(key=bytes(range(200, 216)).hex())
    lab.attach("eth0", FOREIGN_1)
    eventually(lambda: lab.counter("mn", "mnRegRequestsSent"), 10, "a request")
    time.sleep(1)
    assert wrong.ask("show binding")["summary"]["state"] != "registered"
    lab.end("mn")


def test_point_11_tcp_stays_open_with_data_flowing_home_away_and_home(lab: AgentsLab) -> None:
    lab.mobile_node()
    lab.move(HOME)
    at_cn = lab.capture("cn", "eth0")
    talk = lab.talk()
    for link in (FOREIGN_1, HOME):
        lab.move(link)
        for turn in range(20):
            assert talk.echoes(f"{link.name} {turn}".encode() * 50)
    assert at_cn.count("tcp.flags.reset == 1") == 0
    assert at_cn.count("tcp.flags.syn == 1 and tcp.flags.ack == 0") == 1
