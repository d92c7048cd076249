"""Agent discovery over a real link: two sockets, a packet socket of the test beside them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.helpers.handmade import address
from tests.helpers.namespaces import Namespaces

from fastmip.agents.effects import Arrival, Endpoint, SendDatagram, SendIcmp
from fastmip.runtime.control_port import ControlPort
from fastmip.runtime.discovery_socket import (
    ALL_HOSTS,
    MOBILE_AGENTS,
    DiscoverySocket,
    Listener,
)
from fastmip.runtime.link_layer import icmp_packet
from fastmip.runtime.service import StartError

pytestmark = pytest.mark.netns

SOLICITATION = bytes.fromhex("0a00f5ff00000000")
ADVERTISEMENT = bytes.fromhex("0900f6fd00020000")
AGENT, NODE = address("10.3.1.1"), address("10.1.0.5")


@pytest.fixture
def spaces() -> Iterator[Namespaces]:
    with Namespaces("fa", "mn") as made:
        made.wire("fa", "air", "mn", "eth0")
        made.ip("fa", "addr", "add", "10.3.1.1/24", "dev", "air")
        yield made


class Side:
    """A discovery socket in a namespace and what it heard."""

    def __init__(self, listener: Listener) -> None:
        self.heard: list[tuple[bytes, Arrival]] = []
        self.socket = DiscoverySocket(listener, self.note)

    def note(self, data: bytes, arrival: Arrival) -> None:
        self.heard.append((data, arrival))

    async def hear(self, count: int = 1) -> list[tuple[bytes, Arrival]]:
        async with asyncio.timeout(5):
            while len(self.heard) < count:
                await asyncio.sleep(0.005)
        return self.heard


@pytest.fixture
async def link(spaces: Namespaces) -> AsyncIterator[tuple[Side, Side]]:
    loop = asyncio.get_running_loop()
    agent, node = Side(Listener.AGENT), Side(Listener.MOBILE_NODE)
    with spaces.inside("fa"):
        agent.socket.open(loop, ["air"])
    with spaces.inside("mn"):
        node.socket.open(loop, ["eth0"])
    yield agent, node
    agent.socket.close()
    node.socket.close()


def mac_of(spaces: Namespaces, name: str, port: str) -> bytes:
    text = spaces.run(name, "cat", f"/sys/class/net/{port}/address").strip()
    return bytes.fromhex(text.replace(":", ""))


async def test_a_solicitation_without_an_address_is_heard_with_its_sender(
    spaces: Namespaces, link: tuple[Side, Side]
) -> None:
    agent, node = link
    with spaces.inside("mn"):
        node.socket.send(SendIcmp(SOLICITATION, 0, MOBILE_AGENTS, "eth0"))
    mac = mac_of(spaces, "mn", "eth0")
    expected = Arrival(Endpoint(0, 0), Endpoint(MOBILE_AGENTS, 0), "air", mac, 1)
    assert await agent.hear() == [(SOLICITATION, expected)]
    assert node.heard == []  # not its own, and not a solicitation


async def test_an_advertisement_reaches_all_hosts_or_one_by_its_mac(
    spaces: Namespaces, link: tuple[Side, Side]
) -> None:
    agent, node = link
    mac = mac_of(spaces, "mn", "eth0")
    with spaces.inside("fa"):
        agent.socket.send(SendIcmp(ADVERTISEMENT, AGENT, ALL_HOSTS, "air"))
        agent.socket.send(SendIcmp(ADVERTISEMENT, AGENT, NODE, "air", mac))
    heard = await node.hear(2)
    assert [(data, arrival.destination.address) for data, arrival in heard] == [
        (ADVERTISEMENT, ALL_HOSTS),
        (ADVERTISEMENT, NODE),
    ]
    assert {arrival.mac for _, arrival in heard} == {mac_of(spaces, "fa", "air")}


async def test_only_the_time_to_live_of_a_neighbour_is_believed(
    spaces: Namespaces, link: tuple[Side, Side]
) -> None:
    agent, node = link
    with spaces.inside("mn"), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as raw:
        for ttl in (255, 2, 0, 1):
            packet = icmp_packet(SOLICITATION, NODE, MOBILE_AGENTS, ttl=ttl, identification=1)
            raw.sendto(packet, ("eth0", 0x0800, 0, 0, b"\xff" * 6))
    await agent.hear()
    assert agent.socket.counters["discovery-wrong-ttl"] == 3
    assert len(agent.heard) == 1
    assert node.heard == []


async def test_damaged_packets_are_counted(spaces: Namespaces, link: tuple[Side, Side]) -> None:
    agent, _ = link
    good = icmp_packet(SOLICITATION, NODE, MOBILE_AGENTS, ttl=1, identification=1)
    broken = bytearray(good)
    broken[12] ^= 1  # the source no longer fits the header's checksum
    with spaces.inside("mn"), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as raw:
        for packet in (bytes(broken), good[:24], good + bytes(18)):
            raw.sendto(packet, ("eth0", 0x0800, 0, 0, b"\xff" * 6))
    [(data, _)] = await agent.hear()
    assert data == SOLICITATION  # the link's padding is not part of it
    assert agent.socket.counters["discovery-damaged"] == 2


async def test_agents_join_the_groups_and_leave_them(
    spaces: Namespaces, link: tuple[Side, Side]
) -> None:
    agent, _ = link
    groups = {"224.0.0.2", "224.0.0.11"}  # all routers, all mobility agents
    assert groups <= set(spaces.run("fa", "ip", "maddr", "show", "dev", "air").split())
    agent.socket.remove("air")
    assert not groups & set(spaces.run("fa", "ip", "maddr", "show", "dev", "air").split())


async def test_a_missing_link_is_refused_with_a_remedy(spaces: Namespaces) -> None:
    with spaces.inside("fa"), pytest.raises(StartError, match="nowhere: no such interface"):
        Side(Listener.AGENT).socket.open(asyncio.get_running_loop(), ["nowhere"])


async def test_a_datagram_for_a_mac_needs_no_arp(spaces: Namespaces) -> None:
    """A foreign agent's reply to a node that answers no ARP, without a route to it."""
    spaces.ip("mn", "link", "set", "eth0", "arp", "off")
    spaces.ip("mn", "addr", "add", "10.1.0.5/32", "dev", "eth0")
    inbox: list[tuple[bytes, Arrival]] = []
    sender, receiver = ControlPort(inbox.extend), ControlPort(inbox.extend)
    loop = asyncio.get_running_loop()
    with spaces.inside("fa"):
        sender.open(loop)
    with spaces.inside("mn"):
        receiver.open(loop)
    spaces.sysctl("mn", conf__all__rp_filter=0, conf__eth0__rp_filter=0)
    message = SendDatagram(
        b"reply", Endpoint(AGENT, 434), Endpoint(NODE, 434), "air", mac_of(spaces, "mn", "eth0")
    )
    with spaces.inside("fa"):
        sender.send(message)
    try:
        async with asyncio.timeout(5):
            while not inbox:
                await asyncio.sleep(0.005)
    finally:
        sender.close()
        receiver.close()
    [(data, arrival)] = inbox
    assert (data, arrival.source, arrival.ttl) == (b"reply", Endpoint(AGENT, 434), 64)
    assert spaces.run("fa", "ip", "neigh", "show", "10.1.0.5") == ""
