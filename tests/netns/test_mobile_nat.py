"""A mobile node behind a real address translator (nft masquerade): UDP tunnels, RFC 3519."""

from __future__ import annotations

import subprocess
import time

import pytest
from scapy.layers.inet import IP, UDP
from tests.helpers.waiting import wait_until
from tests.netns.test_mobile_node import HOME_AGENT, MOBILE_NODE, Field, ground
from tests.netns.test_mobile_roaming import foreign_agent

from fastmip.runtime.demo.lab import VISITED_A
from fastmip.runtime.demo.stage import Daemon

pytestmark = pytest.mark.netns
__all__ = ["ground"]

MASQUERADE = """
table ip translator {{
  chain out {{
    type nat hook postrouting priority srcnat;
    oifname "up0" masquerade {how}
  }}
  chain closed {{
    type filter hook forward priority filter;
    iifname "up0" ct state new drop
  }}
}}
"""


def translator(ground: Field, how: str = "") -> None:
    """The access router of link A translates, and lets nothing in that was not asked for."""
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{ground.lab.ns('ar1')}", "nft", "-f", "-"],
        input=MASQUERADE.format(how=how),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def home_agent(ground: Field, more: str = "") -> Daemon:
    text = ground.config(HOME_AGENT).replace(
        'interface = "eth0"\n', f'interface = "eth0"\n{more}\n'
    )
    return ground.start("ha", text)


def mobile_node(ground: Field, more: str) -> Daemon:
    return ground.start("mn", ground.config(MOBILE_NODE, more))


def test_a_node_behind_a_translator_is_reached_through_udp_t25(ground: Field) -> None:
    translator(ground)
    agent = home_agent(ground)
    node = mobile_node(ground, 'nat = "auto"')
    frames = ground.capture("inet", "to-ar1", "translated")
    ground.attach("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    [row] = node.ask("show binding")["rows"]
    assert row["udp_port"] == 434
    assert ground.pings("cn", "10.1.0.5")
    assert ground.pings("mn", "10.9.0.7", "-I", "10.1.0.5", "-s", "1200")
    carried = [p for p in frames() if IP in p and "10.8.1.1" in (p[IP].src, p[IP].dst)]
    assert carried
    assert all(UDP in p for p in carried), "nothing but UDP passes the translator"
    assert any(bytes(p[UDP].payload)[:2] == b"\x04\x04" for p in carried)
    [binding] = agent.ask("show binding")["rows"]
    assert binding["source_address"] == "10.8.1.1"
    ground.stop(node)
    assert agent.ask("show binding")["rows"] == []


def test_without_a_translator_the_tunnel_is_plain_unless_forced_t26(ground: Field) -> None:
    home_agent(ground)
    node = mobile_node(ground, 'nat = "auto"')
    ground.attach("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    assert node.ask("show binding")["rows"][0]["udp_port"] == 0
    assert ground.pings("cn", "10.1.0.5")
    ground.stop(node)
    forced = mobile_node(ground, 'nat = "forced"')
    ground.wait_for_state(forced, "registered")
    assert forced.ask("show binding")["rows"][0]["udp_port"] == 434
    assert ground.pings("cn", "10.1.0.5")
    ground.stop(forced)


def test_a_translator_that_forgets_is_noticed_by_a_keepalive_t27(ground: Field) -> None:
    translator(ground, "random")
    for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
        path = f"/proc/sys/net/netfilter/{name}"
        ground.lab.run("ar1", "sh", "-c", f"echo 2 > {path}")
    home_agent(ground, "nat_keepalive = 10\nnat_max_lifetime = 600")
    node = mobile_node(ground, 'nat = "auto"\nlifetime = 600')
    ground.attach("eth0", VISITED_A)
    ground.wait_for_state(node, "registered")
    assert ground.pings("cn", "10.1.0.5")
    sent = ground.requests_sent(node)
    time.sleep(4)  # the translator forgets whom it does not hear for two seconds
    assert not ground.pings("cn", "10.1.0.5")
    wait_until(lambda: ground.requests_sent(node) > sent, 30, "a new registration")
    wait_until(lambda: ground.pings("cn", "10.1.0.5"), 8, "the new way")
    counters = {row["counter"]: row["value"] for row in node.ask("show traffic")["rows"]}
    assert counters["mnKeepalivesUnanswered"] >= 1
    assert counters["mnKeepalivesSent"] >= 3
    ground.stop(node)


def test_r_and_u_of_an_agent_leave_the_tunnel_half_bound_t28(ground: Field) -> None:
    """The agent registers, the keepalive tells the home agent where we are (RFC 3519 4.11)."""
    translator(ground)
    agent = home_agent(ground)
    relay = foreign_agent(ground, VISITED_A, 'nat = "translating"\nregistration_required = true')
    node = mobile_node(ground, 'nat = "auto"\ncare_of = "co-located-first"')
    ground.attach("eth0", VISITED_A)

    def through_the_agent() -> bool:
        rows = node.ask("show binding")["rows"]
        return bool(rows) and (rows[0]["agent"], rows[0]["udp_port"]) == ("10.3.1.254", 434)

    wait_until(through_the_agent, 12, "a registration through the agent")
    wait_until(lambda: ground.pings("cn", "10.1.0.5"), 8, "the keepalive to bind the tunnel")
    assert ground.pings("mn", "10.9.0.7", "-I", "10.1.0.5")
    [binding] = agent.ask("show binding")["rows"]
    assert binding["source_address"] == "10.8.1.1"
    assert relay.process.poll() is None
    ground.stop(node)
