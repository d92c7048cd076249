"""What a mobile node agrees on with our home agent: encapsulations, broadcasts, revocation."""

from __future__ import annotations

import subprocess
import sys

import pytest
from scapy.layers.inet import IP, UDP
from tests.helpers.waiting import wait_until
from tests.netns.test_mobile_node import HOME_AGENT, KEY, MOBILE_NODE, Field, ground
from tests.netns.test_mobile_roaming import FAST, foreign_agent

from fastmip.runtime.demo.lab import HOME, VISITED_A
from fastmip.runtime.demo.stage import Daemon

pytestmark = pytest.mark.netns
__all__ = ["ground"]


def home_agent(ground: Field, more: str = "") -> Daemon:
    text = ground.config(HOME_AGENT)
    return ground.start("ha", text.replace("[home_agent]\n", f"[home_agent]\n{more}\n"))


@pytest.mark.parametrize(("name", "protocol"), [("minimal", 55), ("gre", 47)])
@pytest.mark.parametrize("through", ["own", "agent"])
def test_another_encapsulation_carries_both_ways(
    ground: Field, name: str, protocol: int, through: str
) -> None:
    home_agent(ground)
    if through == "agent":
        foreign_agent(ground, VISITED_A)
    kind = FAST if through == "agent" else 'care_of = "co-located"'
    node = ground.mobile_node(f'{kind}\nencapsulation = "{name}"')
    frames = ground.capture("inet", "to-ar1", f"{name}-{through}")
    if through == "agent":
        ground.lab.plug("eth0", VISITED_A)
    else:
        ground.attach("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    assert ground.pings("cn", "10.1.0.5")
    assert ground.pings("mn", "10.9.0.7", "-I", "10.1.0.5", "-s", "1000")
    ways = {(p[IP].proto, p[IP].src == "10.1.0.1") for p in frames() if IP in p}
    assert {(protocol, True), (protocol, False)} <= ways
    assert not {(4, True), (4, False)} & ways
    ground.stop(node)


HEAR = """
import socket
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind(("", 9999))
print("listening", flush=True)
print(heard.recvfrom(100), flush=True)
"""
SEND = """
import socket, sys, time
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for _ in range(20):
    raw.sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 0))
    time.sleep(0.1)
"""


SHOUT = """
import socket, time
shout = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
shout.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for _ in range(20):
    shout.sendto(b"to all", ("10.1.0.255", 9999))
    time.sleep(0.1)
"""


@pytest.mark.parametrize("sender", ["handmade", "home host"])
@pytest.mark.parametrize("through", ["own", "agent"])
def test_broadcasts_of_the_home_network_arrive_t22(
    ground: Field, through: str, sender: str
) -> None:
    """Plain to an own address, nested to an agent's (4.3); by hand, and by our home agent."""
    home_agent(ground, 'broadcast = ["all"]')
    kind, care_of = 'care_of = "co-located"', "10.3.1.5"
    if through == "agent":
        foreign_agent(ground, VISITED_A)
        kind, care_of = FAST, "10.3.1.254"
    node = ground.mobile_node(f"{kind}\nbroadcasts = true")
    if through == "agent":
        ground.lab.plug("eth0", VISITED_A)
    else:
        ground.attach("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    assert node.ask("show binding")["summary"]["state"] == "registered"
    listener = ground.lab.popen("mn", [sys.executable, "-c", HEAR], stdout=subprocess.PIPE)
    assert listener.stdout is not None
    assert listener.stdout.readline() == b"listening\n"
    packet = IP(src="10.1.0.50", dst="10.1.0.255", ttl=64) / UDP(sport=9, dport=9999) / b"to all"
    if through == "agent":
        packet = IP(src="10.1.0.1", dst="10.1.0.5") / packet
    packet = IP(src="10.1.0.1", dst=care_of) / packet
    if sender == "handmade":
        ground.lab.run("ha", sys.executable, "-c", SEND, bytes(packet).hex(), care_of)
    else:
        ground.lab.run("hh", sys.executable, "-c", SHOUT)
    wait_until(lambda: listener.poll() is not None, 5, "a broadcast")
    assert b"to all" in listener.stdout.read()
    ground.stop(node)


def test_the_home_agent_revokes_an_address_of_the_nodes_own_rfc3543(ground: Field) -> None:
    agent = home_agent(ground)
    node = ground.mobile_node("revocation = true")
    ground.attach("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    before = ground.requests_sent(node)
    answer = agent.ask("clear binding", home_address="10.1.0.5", revoke=True)
    assert answer["cleared"] == 1

    def told() -> bool:
        rows = node.ask("show traffic")["rows"]
        return any(r["counter"] == "mnRevocationsAccepted" and r["value"] == 1 for r in rows)

    wait_until(told, 8, "the revocation")
    rows = agent.ask("show traffic")["rows"]
    assert {"haRevocationsAcknowledged": 1}.items() <= {
        row["counter"]: row["value"] for row in rows
    }.items()
    wait_until(lambda: ground.requests_sent(node) > before, 8, "a new registration")
    ground.wait_for_state(node, "registered")
    ground.stop(node)


def test_the_first_packet_is_seen_behind_an_agent_and_at_home(ground: Field) -> None:
    home_agent(ground)
    foreign_agent(ground, VISITED_A)
    node = ground.mobile_node(FAST)
    quiet = ["ping", "-q", "-i", "0.1", "-W", "1", "10.1.0.5"]
    caller = ground.lab.popen("cn", quiet)
    ground.lab.plug("eth0", VISITED_A)

    def seen(to: str) -> bool:
        rows = node.ask("show handover")["rows"]
        return any(r["to_address"] == to and r["first_packet_ms"] is not None for r in rows)

    wait_until(lambda: seen("10.3.1.254"), 20, "a packet behind the agent")
    ground.lab.unplug("eth0")
    ground.attach("eth0", HOME)
    wait_until(lambda: seen("10.1.0.5"), 20, "a packet at home")
    for row in node.ask("show handover")["rows"]:
        assert row["first_packet_ms"] is None or row["first_packet_ms"] > 0
    caller.kill()
    caller.wait()
    ground.stop(node)


ALL_ROLES = f"""
[foreign_agent]
interfaces = ["wlan0"]
[home_agent]
address = "10.88.0.1"
home_network = "10.88.0.0/24"
[[home_agent.host]]
home_address = "10.88.0.9"
[[home_agent.host.association]]
spi = 256
key = "{KEY}"
"""


def test_the_roles_of_a_daemon_share_the_registration_port_rfc3543(ground: Field) -> None:
    agent = home_agent(ground)
    setup = (
        "ip link set wlan0 up; ip address add 10.77.0.1/24 dev wlan0;"
        " ip address add 10.88.0.1/32 dev lo; sysctl -q net.ipv4.ip_forward=1"
    )
    ground.lab.run("mn", "sh", "-c", setup)
    text = ground.config(MOBILE_NODE, "revocation = true") + ALL_ROLES
    node = ground.start("mn", text.replace('["eth0", "wlan0"]', '["eth0"]'))
    assert node.ask("status")["roles"] == "foreign-agent, home-agent, mobile-node"
    ground.attach("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    assert agent.ask("clear binding", home_address="10.1.0.5", revoke=True)["told"] == 1

    def acknowledged() -> bool:
        rows = agent.ask("show traffic")["rows"]
        return any(r["counter"] == "haRevocationsAcknowledged" and r["value"] for r in rows)

    wait_until(acknowledged, 8, "the acknowledgment")
    ground.wait_for_state(node, "registered", 90)
    ground.stop(node)


AAA = f"""
[mobile_node.aaa]
spi = 512
key = "{KEY[::-1]}"
"""
AAA_AT_HOME = f"""
[home_agent.host.aaa]
spi = 512
key = "{KEY[::-1]}"
"""


def test_a_challenge_is_answered_for_the_home_agent_to_judge_rfc4721(ground: Field) -> None:
    text = ground.config(HOME_AGENT)
    agent = ground.start("ha", text + AAA_AT_HOME)
    foreign_agent(ground, VISITED_A, "challenge = true")
    node = ground.mobile_node(FAST + AAA)
    ground.lab.plug("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    assert ground.pings("cn", "10.1.0.5")
    assert [row["spi"] for row in node.ask("show secure")["rows"]] == [256, 512]
    assert agent.process.poll() is None
    ground.stop(node)


def test_aaa_signs_also_where_no_foreign_agent_asks_rfc4721_3_5(ground: Field) -> None:
    ground.start("ha", ground.config(HOME_AGENT) + AAA_AT_HOME)
    ground.attach("eth0", VISITED_A)
    stranger = ground.mobile_node(AAA.replace(KEY[::-1], KEY))
    wait_until(lambda: '"code": 144' in stranger.log.read_text(), 8, "a denial with 144")
    ground.stop(stranger)
    node = ground.mobile_node(AAA)
    ground.wait_for_state(node, "registered")
    ground.stop(node)


def test_a_nai_and_vendor_extensions_reach_the_home_agent_rfc2794_rfc3115(ground: Field) -> None:
    text = ground.config(HOME_AGENT)
    host = 'home_address = "10.1.0.5"\n'
    ground.start("ha", text.replace(host, host + 'nai = "mn@example.org"\n'))
    more = 'nai = "mn@example.org"\n[[mobile_node.vendor_extension]]\nvendor = 9\ntype = 1\n'
    node = ground.mobile_node(more + 'value = "00ff"')
    ground.attach("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    assert ground.pings("cn", "10.1.0.5")
    ground.stop(node)
    strict = ground.mobile_node(more + "critical = true")

    def denied() -> bool:
        rows = strict.ask("show traffic")["rows"]
        return any(r["counter"] == "mnRegRequestsDeniedByHA" and r["value"] for r in rows)

    wait_until(denied, 8, "a denial with 140")
    assert '"code": 140' in strict.log.read_text()


def test_the_home_agents_advertisement_is_home_enough_rfc5944_2_4_3(ground: Field) -> None:
    home_agent(ground)
    foreign_agent(ground, VISITED_A)
    node = ground.mobile_node(FAST)
    ground.lab.plug("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    ground.lab.unplug("eth0")
    ground.lab.plug("eth0", HOME)
    ground.wait_for_state(node, "home", 10)
    assert ground.pings("hh", "10.1.0.5")
    assert ground.pings("mn", "10.9.0.7", "-I", "10.1.0.5")
    ground.stop(node)


def test_an_agent_that_drops_its_visitor_is_registered_with_again_t08(ground: Field) -> None:
    home_agent(ground)
    agent = foreign_agent(ground, VISITED_A)
    node = ground.mobile_node(FAST)
    ground.lab.plug("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    wait_until(lambda: node.ask("show agent")["rows"][0]["sequence"] > 2, 8, "some time")
    before = ground.requests_sent(node)
    agent.ask("clear visitor", home_address="10.1.0.5")
    wait_until(lambda: ground.requests_sent(node) > before, 8, "a new registration")
    wait_until(lambda: agent.ask("show visitor")["rows"], 8, "the visitor again")
    assert ground.pings("cn", "10.1.0.5")
    ground.stop(node)
