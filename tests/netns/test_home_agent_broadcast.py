"""Broadcasts of the home link on their way to mobile nodes (RFC 5944 4.3, 4.4)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from tests.helpers.home_agent_lab import (
    CARE_OF,
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_HOST,
    HomeAgentLab,
)
from tests.helpers.namespaces import wait_for

B, D, T = 0x40, 0x20, 0x02

pytestmark = pytest.mark.netns


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as built:
        built.settings = 'broadcast = ["netbios", "multicast"]'
        yield built


def shout(lab: HomeAgentLab, destination: str, port: int) -> None:
    """Send a broadcast or multicast from a host on the home link."""
    sender = lab.udp("hh", HOME_HOST)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sender.sendto(b"hear", (destination, port))


def test_t22_broadcasts_of_the_home_link_reach_nodes_that_asked_rfc5944_4_3(
    lab: HomeAgentLab,
) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client, flags=D | B | T)
    (row,) = lab.ask("show binding")["rows"]
    assert row["broadcasts"]
    for destination in ("10.1.0.255", "239.1.2.3"):
        shout(lab, destination, 138)
        outer = IP(tunnel.recv(2048))
        assert (outer.src, outer.dst) == (HOME_AGENT, CARE_OF)
        inner = outer.payload
        assert (inner.src, inner.dst, inner[UDP].dport) == (HOME_HOST, destination, 138)
    shout(lab, "10.1.0.255", 5000)
    tunnel.settimeout(0.3)
    with pytest.raises(TimeoutError):
        tunnel.recv(2048)
    assert lab.counter("broadcasts-copied") == 2


def test_t22_they_are_nested_for_a_foreign_agents_care_of_address_rfc5944_4_3(
    lab: HomeAgentLab,
) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client, flags=B | T)
    shout(lab, "10.1.0.255", 138)
    outer = IP(tunnel.recv(2048))
    assert (outer.src, outer.dst) == (HOME_AGENT, CARE_OF)
    middle = outer.payload
    assert (middle.src, middle.dst, middle.proto) == (HOME_AGENT, HOME_ADDRESS, 4)
    assert (middle.payload.src, middle.payload.dst) == (HOME_HOST, "10.1.0.255")


def test_t22_without_the_b_bit_nobody_hears_them(lab: HomeAgentLab) -> None:
    lab.start()
    client, tunnel = lab.udp("away", CARE_OF), lab.raw("away", 4)
    lab.register(client, flags=D | T)
    shout(lab, "10.1.0.255", 138)
    wait_for("the broadcast", lambda: lab.counter("broadcasts-taken"))
    tunnel.settimeout(0.3)
    with pytest.raises(TimeoutError):
        tunnel.recv(2048)
    assert lab.counter("broadcasts-copied") == 0
