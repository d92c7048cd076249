"""A mobile node among foreign agents on real kernels: the agents are scripts, the rest is ours."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.l2 import ARP, Ether
from tests.helpers.waiting import wait_until
from tests.netns.test_mobile_node import HERE, Field, ground
from tests.netns.test_mobile_roaming import Talk

from fastmip.runtime.demo.lab import HOME, VISITED_A, VISITED_B, Link
from fastmip.runtime.demo.stage import Daemon

pytestmark = pytest.mark.netns
__all__ = ["ground"]

R, F, T = 0x8000, 0x1000, 0x0100
SCRIPT = str(HERE / "scripted_foreign_agent.py")
VISITOR = 'care_of = "foreign-agent"\nhandover = "seamless"'


@dataclass
class ScriptedAgent:
    """A scripted foreign agent and what it was asked."""

    process: subprocess.Popen[bytes]
    output: Path

    def requests(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output.read_text().splitlines()]
        return [line for line in lines if "ready" not in line]


def foreign_agent(ground: Field, link: Link, flags: int = F | T) -> ScriptedAgent:
    """On the access router of a visited link; its kernel must not route for the visitor too."""
    node = {"A": "ar1", "B": "ar2"}[link.name]
    number = {"A": "1", "B": "2"}[link.name]
    ground.lab.ip(node, "rule add from 10.1.0.5 iif visit0 blackhole")
    # The tunnel is to the agent's address on the visited link.
    output = ground.lab.directory / f"agent-{link.name}"
    with output.open("wb") as stream:
        process = ground.lab.popen(
            node,
            [
                sys.executable,
                SCRIPT,
                "visit0",
                link.gateway,
                "24",
                "10.1.0.5",
                f"10.3.{number}.254",
                f"{flags:x}",
            ],
            stdout=stream,
        )
    wait_until(lambda: "ready" in output.read_text(), 10, "the scripted foreign agent")
    return ScriptedAgent(process, output)


def care_of(ground: Field, home_agent: Daemon) -> set[str]:
    return ground.care_of_addresses(home_agent)


def test_a_link_without_address_is_enough_rfc5944_1_7(ground: Field) -> None:
    home_agent = ground.home_agent()
    agent = foreign_agent(ground, VISITED_A)
    before = ground.kernel_state()
    node = ground.mobile_node(VISITOR)
    frames = ground.capture("mn", "eth0", "visit")
    ground.lab.plug("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    assert care_of(ground, home_agent) == {"10.3.1.254"}
    [asked, *_] = agent.requests()
    assert (asked["source"], asked["ttl"], asked["flags"]) == ("10.1.0.5", 255, 0x02)
    assert ground.pings("cn", "10.1.0.5")
    assert ground.pings("mn", "10.9.0.7", "-I", "10.1.0.5")
    assert ground.pings("mn", "10.9.0.7"), "without naming a source, too"
    own = ground.lab.mac("mn", "eth0")
    asked_by_arp = [p for p in frames() if ARP in p and p[Ether].src == own]
    assert asked_by_arp == [], "away from home nothing is asked or told by ARP (4.6)"
    [row] = node.ask("show agent")["rows"]
    assert (row["agent"], row["in_use"], row["flags"]) == ("10.3.1.254", True, "FT")
    assert node.ask("show handover")["rows"][-1]["agent"] == "10.3.1.254"
    ground.stop(node)
    assert care_of(ground, home_agent) == set()
    ground.lab.unplug("eth0")
    assert ground.kernel_state() == before


def test_tcp_lives_from_agent_to_agent_to_an_own_address_and_home(ground: Field) -> None:
    home_agent = ground.home_agent()
    agents = [foreign_agent(ground, VISITED_A), foreign_agent(ground, VISITED_B)]
    node = ground.mobile_node('care_of = "foreign-agent-first"\nhandover = "fast"')
    ground.lab.plug("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    talk = Talk(ground)
    assert talk.goes_on()
    ground.lab.unplug("eth0")
    ground.lab.plug("eth0", VISITED_B)
    wait_until(lambda: care_of(ground, home_agent) == {"10.3.2.254"}, 8, "the second agent")
    assert talk.goes_on()
    ground.lab.unplug("eth0")
    for agent in agents:
        agent.process.kill()
    ground.attach("eth0", VISITED_A)
    wait_until(lambda: care_of(ground, home_agent) == {"10.3.1.5"}, 12, "its own address")
    assert talk.goes_on()
    ground.detach("eth0")
    ground.attach("eth0", HOME)
    ground.wait_for_state(node, "home", 12)
    assert talk.goes_on()
    ground.stop(node)


def test_a_denial_leads_to_the_own_address_and_a_new_start_to_a_request(ground: Field) -> None:
    home_agent = ground.home_agent()
    agent = foreign_agent(ground, VISITED_A)
    node = ground.mobile_node('care_of = "foreign-agent-first"\nhandover = "fast"')
    ground.attach("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    assert care_of(ground, home_agent) == {"10.3.1.254"}

    def has_counted() -> bool:
        return bool(node.ask("show agent")["rows"][0]["sequence"] > 2)

    wait_until(has_counted, 8, "numbers that can fall")
    count = len(agent.requests())
    agent.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: len(agent.requests()) > count, 8, "a request after the new start")
    wait_until(has_counted, 8, "numbers that can fall again")
    agent.process.send_signal(signal.SIGUSR2)
    agent.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: care_of(ground, home_agent) == {"10.3.1.5"}, 12, "its own address")
    ground.wait_for_state(node, "registered")  # the reply is later than the binding
    assert ground.pings("cn", "10.1.0.5")
    ground.stop(node)


def test_r_makes_an_own_address_register_through_the_agent(ground: Field) -> None:
    home_agent = ground.home_agent()
    agent = foreign_agent(ground, VISITED_A, R | F | T)
    node = ground.mobile_node('care_of = "co-located-first"')
    ground.attach("eth0", VISITED_A)
    wait_until(agent.requests, 8, "a request through the agent")
    ground.wait_for_state(node, "registered")
    assert agent.requests()[-1]["source"] == "10.3.1.5"
    assert agent.requests()[-1]["flags"] & 0x20
    assert care_of(ground, home_agent) == {"10.3.1.5"}
    assert ground.pings("cn", "10.1.0.5")
    ground.stop(node)
