"""What happens around the kernel port on the run: links, routes and rules that change."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from tests.helpers.namespaces import wait_for
from tests.helpers.tunnel_lab import (
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_HOST,
    TunnelLab,
    tunnel_lab,
)
from tests.netns.test_kernel_port import (
    IP_MTU_DISCOVER,
    IP_PMTUDISC_DO,
    IP_RECVERR,
    receive,
    receiver,
    sender,
    wait_for_error,
)

pytestmark = pytest.mark.netns


@pytest.fixture
def lab() -> Iterator[TunnelLab]:
    with tunnel_lab() as built:
        yield built
        built.agent.engine.stop()
        built.node.engine.stop()
        built.agent.check_balance()
        built.node.check_balance()


def test_a_link_mtu_lowered_on_the_run_is_learnt_and_told_to_the_sender(lab: TunnelLab) -> None:
    """No router reports it: the home agent's own kernel refuses with EMSGSIZE."""
    lab.ip("ha", "link", "set", "t0", "mtu", "1300")
    with sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there:
        there.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        there.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        there.send(bytes(1400))
        wait_for("the refusal", lambda: lab.agent.count("tunnel-too-big") == 1)
        there.send(bytes(1400))
        code, kind, icmp_code, told = wait_for_error(there)
    assert (code, kind, icmp_code) == (errno.EMSGSIZE, 3, 4)
    assert told <= 1280


def test_a_route_that_vanished_is_told_to_the_sender_rfc1812_4_3_3_1(lab: TunnelLab) -> None:
    with sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there:
        there.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        lab.ip("ha", "route", "add", "unreachable", f"{CARE_OF_ADDRESS}/32")
        there.send(b"lost")
        wait_for("the refusal", lambda: lab.agent.count("tunnel-unreachable") == 1)
        there.send(b"answered")
        code, kind, icmp_code, _ = wait_for_error(there)
    assert (code, kind, icmp_code) == (errno.EHOSTUNREACH, 3, 1)
    lab.ip("ha", "route", "delete", "unreachable", f"{CARE_OF_ADDRESS}/32")
    lab.run("cn", "ping", "-c3", "-i0.1", "-W2", HOME_ADDRESS)  # the first may hear of the last


def test_the_same_datagram_again_and_again_is_no_circle(lab: TunnelLab) -> None:
    """Datagrams with DF may all have Identification 0; a heartbeat's look the same for ever."""
    with (
        receiver(lab, "hh", HOME_HOST, 5000) as here,
        sender(lab, "cn", CORRESPONDENT, HOME_HOST, 5000, 40) as there,
        lab.socket("cn", socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        port = there.getsockname()[1]
        beat = IP(src=CORRESPONDENT, dst=HOME_HOST, ttl=40, flags="DF", id=7) / UDP(
            sport=port, dport=5000
        )
        for _ in range(3):
            raw.sendto(bytes(beat / b"alive"), (HOME_HOST, 0))
            assert receive(here) == (b"alive", 39)
            time.sleep(0.3)  # the pace of the heartbeat
    assert lab.agent.count("home-circling") == 0


def test_a_worker_stopped_twice_sleeps_when_started_again(lab: TunnelLab) -> None:
    lab.agent.engine.stop()
    lab.agent.engine.stop()
    lab.agent.engine.start()
    lab.run("cn", "ping", "-c1", "-W2", HOME_ADDRESS)
    before = lab.agent.engine.heartbeats()[0]
    time.sleep(0.5)
    assert lab.agent.engine.heartbeats()[0] - before < 50


def test_connection_tracking_large_pings_options_and_traceroute_pass(lab: TunnelLab) -> None:
    """Fragments both ways, record route, TTL-limited probes, with nft tracking at the agent."""
    table = "add table ip t; add chain ip t f { type filter hook forward priority 0; }"
    lab.run("ha", "nft", f"{table}; add rule ip t f ct state invalid drop")
    for size in (1452, 1453, 60000):
        lab.run("cn", "ping", "-c2", "-i0.1", "-W3", "-M", "dont", "-s", str(size), HOME_ADDRESS)
    lab.run("mn", "ping", "-c2", "-i0.1", "-W3", "-s", "60000", "-I", HOME_ADDRESS, CORRESPONDENT)
    lab.run("cn", "ping", "-c1", "-W2", "-M", "do", "-s", "1452", HOME_ADDRESS)
    shown = lab.run("cn", "ping", "-c1", "-W2", "-M", "do", "-s", "1453", HOME_ADDRESS, check=False)
    assert "mtu" in shown
    lab.run("cn", "ping", "-c1", "-W2", "-R", HOME_ADDRESS)
    first = lab.run("cn", "ping", "-c1", "-W2", "-t", "1", HOME_ADDRESS, check=False)
    assert "10.9.0.1" in first  # the home agent is one hop, the node the next
    lab.run("cn", "ping", "-c1", "-W2", "-t", "2", HOME_ADDRESS)
