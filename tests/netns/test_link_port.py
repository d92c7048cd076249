"""Requests off a link: what the kernel would drop or verify, by real packets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.helpers.handmade import address
from tests.helpers.namespaces import Namespaces

from fastmip.agents.effects import Arrival, Endpoint
from fastmip.runtime.link_layer import udp_packet
from fastmip.runtime.link_port import LinkPort
from fastmip.runtime.service import StartError

pytestmark = pytest.mark.netns

AGENT = address("10.3.1.1")
REQUEST = b"\x01" + bytes(23)


@pytest.fixture
def spaces() -> Iterator[Namespaces]:
    with Namespaces("fa", "mn") as made:
        made.wire("fa", "air", "mn", "eth0")
        made.ip("fa", "addr", "add", "10.3.1.1/24", "dev", "air")
        made.ip("mn", "addr", "add", "10.1.0.5/32", "dev", "eth0")
        made.ip("mn", "route", "add", "10.3.1.1", "dev", "eth0")
        yield made


class Inbox:
    """A port and what it delivered."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, Arrival]] = []
        self.port = LinkPort(self.got.extend, lambda destination: destination == AGENT)

    async def wait(self, count: int = 1) -> list[tuple[bytes, Arrival]]:
        async with asyncio.timeout(5):
            while len(self.got) < count:
                await asyncio.sleep(0.005)
        return self.got


@pytest.fixture
async def inbox(spaces: Namespaces) -> AsyncIterator[Inbox]:
    box = Inbox()
    with spaces.inside("fa"):
        box.port.open(asyncio.get_running_loop(), ["air"])
    yield box
    box.port.close()


def mac(spaces: Namespaces, name: str, port: str) -> bytes:
    text = spaces.run(name, "cat", f"/sys/class/net/{port}/address").strip()
    return bytes.fromhex(text.replace(":", ""))


def put(spaces: Namespaces, *packets: bytes) -> None:
    """Put packets on the link by hand."""
    target = mac(spaces, "fa", "air")
    with spaces.inside("mn"), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as raw:
        for packet in packets:
            raw.sendto(packet, ("eth0", 0x0800, 0, 0, target))


def packet(data: bytes = REQUEST, *, to: int = AGENT) -> bytes:
    """From a node without an address."""
    ends = Endpoint(0, 40000), Endpoint(to, 434)
    return udp_packet(data, *ends, ttl=255, identification=1)


async def test_a_request_without_an_address_comes_with_its_mac(
    spaces: Namespaces, inbox: Inbox
) -> None:
    put(spaces, packet())
    expected = Arrival(
        Endpoint(0, 40000), Endpoint(AGENT, 434), "air", mac(spaces, "mn", "eth0"), 255
    )
    assert await inbox.wait() == [(REQUEST, expected)]


async def test_a_kernel_s_own_unfinished_checksum_is_believed(
    spaces: Namespaces, inbox: Inbox
) -> None:
    with spaces.inside("mn"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("10.1.0.5", 0))
        client.sendto(REQUEST, ("10.3.1.1", 434))
    [(data, arrival)] = await inbox.wait()
    assert (data, arrival.source.address) == (REQUEST, address("10.1.0.5"))


async def test_damaged_requests_are_dropped(spaces: Namespaces, inbox: Inbox) -> None:
    good = packet()
    flipped = bytearray(good)
    flipped[-1] ^= 1
    header = bytearray(good)
    header[1] ^= 4
    longer = bytearray(good)
    longer[25] += 9  # a UDP length past the end
    put(spaces, bytes(flipped), bytes(header), bytes(longer), good)
    assert len(await inbox.wait()) == 1
    assert inbox.port.counters == {"link-received": 1, "link-damaged": 3}


async def test_no_checksum_is_accepted_rfc5944_3_1(spaces: Namespaces, inbox: Inbox) -> None:
    bare = bytearray(packet())
    bare[26:28] = b"\0\0"
    put(spaces, bytes(bare))
    assert len(await inbox.wait()) == 1


async def test_only_requests_to_us_or_all_agents_are_taken(
    spaces: Namespaces, inbox: Inbox
) -> None:
    reply = packet(b"\x03" + bytes(19))
    elsewhere = packet(to=address("10.1.0.1"))
    fragment = bytearray(packet())
    fragment[6] = 0x20
    put(spaces, reply, elsewhere, bytes(fragment), packet(to=address("224.0.0.11")))
    [(_, arrival)] = await inbox.wait()
    assert arrival.destination.address == address("224.0.0.11")


async def test_the_link_s_padding_is_no_part_of_the_request(
    spaces: Namespaces, inbox: Inbox
) -> None:
    put(spaces, packet() + bytes(18))
    assert (await inbox.wait())[0][0] == REQUEST


async def test_a_missing_link_is_refused_with_a_remedy(spaces: Namespaces) -> None:
    with spaces.inside("fa"), pytest.raises(StartError, match="nowhere: no such interface"):
        Inbox().port.open(asyncio.get_running_loop(), ["nowhere"])
