"""A mobile node that roams among our own foreign agents, on real kernels, TCP alive throughout."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Ether
from tests.helpers.waiting import wait_until
from tests.netns.test_mobile_node import HOME_AGENT, KEY, Field, ground

from fastmip.runtime.demo.lab import HOME, VISITED_A, VISITED_B, Link
from fastmip.runtime.demo.stage import Daemon

pytestmark = pytest.mark.netns
__all__ = ["ground"]

FOREIGN_AGENT = """\
[daemon]
state_dir = "{directory}/{node}-state"
control_socket = "{directory}/{node}.sock"
log_format = "json"
[foreign_agent]
interfaces = ["visit0"]
{more}
[[advertise]]
interface = "visit0"
max_interval = 0.3
lifetime = 1
"""
FAST = 'care_of = "foreign-agent"\nhandover = "seamless"'
NODE = {"A": "ar1", "B": "ar2"}
MOBILE_FOREIGN = f"""
[[mobile_node.foreign_agent]]
address = "10.3.1.254"
[[mobile_node.foreign_agent.association]]
spi = 300
key = "{KEY[::-1]}"
"""
FOREIGN_MOBILE = f"""
[[foreign_agent.mobile_node]]
home_address = "10.1.0.5"
[[foreign_agent.mobile_node.association]]
spi = 300
key = "{KEY[::-1]}"
"""


def foreign_agent(ground: Field, link: Link, more: str = "") -> Daemon:
    """Our foreign agent on the access router of a visited link."""
    node = NODE[link.name]
    text = FOREIGN_AGENT.format(directory=ground.lab.directory, node=node, more=more)
    return ground.start(node, text)


def move(ground: Field, link: Link) -> None:
    ground.lab.unplug("eth0")
    ground.lab.plug("eth0", link)


def bound_to(ground: Field, home_agent: Daemon, *addresses: str) -> Callable[[], bool]:
    return lambda: ground.care_of_addresses(home_agent) == set(addresses)


def counters(daemon: Daemon) -> dict[str, int]:
    return {row["counter"]: row["value"] for row in daemon.ask("show traffic")["rows"]}


class Talk:
    """A TCP connection from the home address that says a word now and then."""

    def __init__(self, ground: Field) -> None:
        self.server = ground.lab.popen("cn", [sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
        assert self.server.stdout is not None
        self.server.stdout.readline()
        self.client = ground.lab.popen(
            "mn", [sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.said = 0

    def goes_on(self) -> bool:
        self.said += 1
        word = f"word {self.said}\n".encode()
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        self.client.stdin.write(word)
        self.client.stdin.flush()
        return self.client.stdout.readline() == word


SERVER = """
import socket
listening = socket.create_server(("10.9.0.7", 7777))
print("listening", flush=True)
peer, _ = listening.accept()
while data := peer.recv(4096):
    peer.sendall(data)
"""
CLIENT = """
import socket, sys
peer = socket.create_connection(("10.9.0.7", 7777), 10, ("10.1.0.5", 0))
peer.settimeout(20)
for line in sys.stdin.buffer:
    peer.sendall(line)
    got = b""
    while not got.endswith(b"\\n"):
        got += peer.recv(4096)
    sys.stdout.buffer.write(got)
    sys.stdout.flush()
"""


def test_tcp_lives_from_agent_to_agent_to_an_own_address_and_home_t01(ground: Field) -> None:
    home_agent = ground.home_agent()
    agents = [foreign_agent(ground, VISITED_A), foreign_agent(ground, VISITED_B)]
    node = ground.mobile_node('care_of = "foreign-agent-first"\nhandover = "seamless"')
    frames = ground.capture("mn", "eth0", "roaming")
    ground.lab.plug("eth0", VISITED_A)
    wait_until(bound_to(ground, home_agent, "10.3.1.254"), 8, "the first agent")
    talk = Talk(ground)
    assert talk.goes_on()
    [visitor] = agents[0].ask("show visitor")["rows"]
    assert visitor["home_address"] == "10.1.0.5"
    for _ in range(2):
        move(ground, VISITED_B)
        wait_until(bound_to(ground, home_agent, "10.3.2.254"), 8, "the second agent")
        assert talk.goes_on()
        move(ground, VISITED_A)
        wait_until(bound_to(ground, home_agent, "10.3.1.254"), 8, "the first agent again")
        assert talk.goes_on()
    own = ground.lab.mac("mn", "eth0")
    asked = [p for p in frames() if ARP in p and p[Ether].src == own]
    assert asked == [], "no ARP away from home (4.6)"
    ground.stop(agents[0])
    ground.lab.unplug("eth0")
    ground.attach("eth0", VISITED_A)
    wait_until(bound_to(ground, home_agent, "10.3.1.5"), 12, "its own address")
    assert talk.goes_on()
    ground.detach("eth0")
    ground.attach("eth0", HOME)
    ground.wait_for_state(node, "home", 12)
    assert talk.goes_on()
    ground.detach("eth0")
    ground.lab.plug("eth0", VISITED_B)
    wait_until(bound_to(ground, home_agent, "10.3.2.254"), 8, "away again")
    assert talk.goes_on()
    kinds = [row["kind"] for row in node.ask("show handover")["rows"]]
    assert kinds.count("break-before-make") >= 5
    assert "return-home" in kinds
    ground.stop(node)


def test_a_second_link_makes_before_it_breaks_t09(ground: Field) -> None:
    home_agent = ground.home_agent()
    foreign_agent(ground, VISITED_A)
    foreign_agent(ground, VISITED_B)
    node = ground.mobile_node(FAST)
    ground.lab.plug("wlan0", VISITED_B)
    wait_until(bound_to(ground, home_agent, "10.3.2.254"), 8, "the second agent")
    ground.wait_for_state(node, "registered")
    stream = ground.lab.popen(
        "cn",
        ["ping", "-i", "0.01", "-c", "600", "-W", "2", "10.1.0.5"],
        stdout=subprocess.PIPE,
    )
    ground.lab.plug("eth0", VISITED_A)
    wait_until(bound_to(ground, home_agent, "10.3.1.254"), 10, "the preferred link")
    out, _ = stream.communicate(timeout=20)
    assert "600 packets transmitted, 600 received" in out.decode(), "nothing was lost"
    [*_, row] = node.ask("show handover")["rows"]
    assert row["kind"] == "make-before-break"
    ground.stop(node)


def test_lazy_and_eager_see_two_agents_on_one_link(ground: Field) -> None:
    home_agent = ground.home_agent()
    foreign_agent(ground, VISITED_A)
    second = foreign_agent(ground, VISITED_B)
    node = ground.mobile_node(FAST)
    ground.lab.plug("eth0", VISITED_A)
    wait_until(bound_to(ground, home_agent, "10.3.1.254"), 8, "the first agent")
    # Both access routers on one bridge: two subnets on one link.
    ground.lab.ip("sw", "link set p-ar2 master visit-a")
    wait_until(lambda: len(node.ask("show agent")["rows"]) == 2, 8, "both agents")
    assert ground.care_of_addresses(home_agent) == {"10.3.1.254"}, "lazy stays"
    assert ground.requests_sent(node) == 1
    ground.lab.ip("sw", "link set p-ar1 nomaster")
    wait_until(bound_to(ground, home_agent, "10.3.2.254"), 10, "the agent that is left")
    wait_until(lambda: ground.pings("cn", "10.1.0.5"), 5, "a way through the agent that is left")
    ground.stop(node)
    eager = ground.mobile_node(FAST + '\nmove_detection = "eager"')
    wait_until(bound_to(ground, home_agent, "10.3.2.254"), 8, "the second agent")
    ground.lab.ip("sw", "link set p-ar1 master visit-a")
    wait_until(bound_to(ground, home_agent, "10.3.1.254"), 8, "eager moves")
    assert ground.pings("cn", "10.1.0.5")
    assert second.process.poll() is None
    ground.stop(eager)


def test_an_agent_that_starts_again_is_registered_with_again_rfc5944_2_4_4(ground: Field) -> None:
    ground.home_agent()
    agent = foreign_agent(ground, VISITED_A)
    node = ground.mobile_node(FAST)
    ground.lab.plug("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    wait_until(lambda: node.ask("show agent")["rows"][0]["sequence"] > 2, 8, "some time")
    agent.process.kill()
    agent.process.wait()
    again = foreign_agent(ground, VISITED_A)
    wait_until(lambda: again.ask("show visitor")["rows"], 10, "the visitor is known again")
    wait_until(lambda: ground.pings("cn", "10.1.0.5"), 8, "packets")
    ground.stop(node)


def test_challenge_and_mobile_foreign_authentication_t41(ground: Field) -> None:
    ground.home_agent()
    agent = foreign_agent(ground, VISITED_A, "challenge = true" + FOREIGN_MOBILE)
    node = ground.mobile_node(FAST + "\nlifetime = 20" + MOBILE_FOREIGN)
    ground.lab.plug("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    assert node.ask("show agent")["rows"][0]["challenge"]
    before = ground.requests_sent(node)
    wait_until(lambda: ground.requests_sent(node) > before, 25, "a refresh")
    ground.wait_for_state(node, "registered")
    assert counters(node)["mnRegRequestsDeniedByFA"] == 0
    assert ground.pings("cn", "10.1.0.5")
    assert agent.process.poll() is None
    ground.stop(node)


def test_encapsulating_delivery_reverse_tunnels_what_is_sent_through_it_t04(ground: Field) -> None:
    ground.home_agent()
    agent = foreign_agent(ground, VISITED_A)
    node = ground.mobile_node(FAST + '\ndelivery = "encapsulating"')
    ground.lab.plug("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    [visitor] = agent.ask("show visitor")["rows"]
    assert visitor["delivery"] == "encapsulating"
    frames = ground.capture("mn", "eth0", "encapsulating")
    assert ground.pings("cn", "10.1.0.5")
    assert ground.pings("mn", "10.9.0.7", "-I", "10.1.0.5")
    up = [p for p in frames() if IP in p and p[Ether].src == ground.lab.mac("mn", "eth0")]
    assert {(p[IP].proto, p[IP].src, p[IP].dst) for p in up if p[IP].proto in (1, 4)} == {
        (4, "10.1.0.5", "10.3.1.254")
    }
    more = ground.capture("mn", "eth0", "local")
    ground.lab.run("mn", "ping", "-c1", "-W1", "-I", "10.1.0.5", "10.3.1.77", check=False)
    sent = [p[IP].dst for p in more() if IP in p and p[IP].proto == 1]
    assert "10.3.1.77" in sent, "the agent's own network is reached directly (RFC 3024 5.4)"
    ground.stop(node)


def test_an_agent_that_is_full_leaves_the_node_its_own_address_t14(ground: Field) -> None:
    home_agent = ground.home_agent()
    foreign_agent(ground, VISITED_A, "max_lifetime = 60\nhome_networks = ['10.77.0.0/24']")
    node = ground.mobile_node('care_of = "foreign-agent-first"\nhandover = "fast"')
    ground.attach("eth0", VISITED_A)
    wait_until(bound_to(ground, home_agent, "10.3.1.5"), 10, "its own address")
    assert counters(node)["mnRegRequestsDeniedByFA"] >= 1
    assert ground.pings("cn", "10.1.0.5")
    ground.stop(node)


def test_r_brings_an_own_address_through_the_agent_t15(ground: Field) -> None:
    text = ground.config(HOME_AGENT)
    # Relayed by an agent it does not know, for an address that is not the agent's.
    lenient = text.replace("[home_agent]\n", "[home_agent]\nstrict_source = false\n")
    home_agent = ground.start("ha", lenient)
    foreign_agent(ground, VISITED_A, "registration_required = true")
    node = ground.mobile_node('care_of = "co-located-first"')
    ground.attach("eth0", VISITED_A)
    wait_until(bound_to(ground, home_agent, "10.3.1.5"), 8, "its own address")

    def through_the_agent() -> Any:
        return node.ask("show binding")["rows"][0]["agent"] == "10.3.1.254"

    wait_until(through_the_agent, 8, "registered through the agent")
    ground.wait_for_state(node, "registered")
    assert ground.pings("cn", "10.1.0.5")
    ground.stop(node)


def test_an_interface_that_is_plugged_in_again_hears_agents_again(ground: Field) -> None:
    """Another device of the same name: every socket and neighbour of the first one is gone."""
    ground.home_agent()
    foreign_agent(ground, VISITED_A)
    node = ground.mobile_node(FAST)
    ground.lab.plug("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    ground.lab.ip("mn", "link delete eth0")
    ground.wait_for_state(node, "isolated")
    peer = f"peer name p-eth0 netns {ground.lab.ns('sw')}"
    ground.lab.ip("mn", f"link add eth0 type veth {peer}", "link set eth0 up")
    ground.lab.plug("eth0", VISITED_A)
    ground.wait_for_state(node, "registered", 10)
    wait_until(lambda: ground.pings("cn", "10.1.0.5"), 8, "packets")
    ground.stop(node)
