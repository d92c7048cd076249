"""The registration port: true destinations in, exact sources out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
from tests.helpers.handmade import address

from fastmip.agents.effects import Arrival, Endpoint, SendDatagram
from fastmip.runtime.control_port import BATCH, ControlPort
from fastmip.runtime.service import StartError

PORT = 43401


class Inbox:
    """A port and what it delivered."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[bytes, Arrival]]] = []
        self.port = ControlPort(self.batches.append, port=PORT)

    async def datagrams(self, count: int) -> list[tuple[bytes, Arrival]]:
        async with asyncio.timeout(5):
            while sum(map(len, self.batches)) < count:
                await asyncio.sleep(0)
        return [datagram for batch in self.batches for datagram in batch]


@pytest.fixture
async def inbox() -> Iterator[Inbox]:  # type: ignore[misc]  # an asynchronous generator
    box = Inbox()
    box.port.open(asyncio.get_running_loop())
    yield box
    box.port.close()


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.2", 0))
        opened.settimeout(3)
        yield opened


async def test_each_datagram_tells_its_destination_and_interface(
    inbox: Inbox, client: socket.socket
) -> None:
    for last in (1, 9, 200):
        client.sendto(bytes([last]), (f"127.0.0.{last}", PORT))
    found = await inbox.datagrams(3)
    source = Endpoint(address("127.0.0.2"), client.getsockname()[1])
    assert found == [
        (bytes([last]), Arrival(source, Endpoint(address(f"127.0.0.{last}"), PORT), "lo", ttl=64))
        for last in (1, 9, 200)
    ]


async def test_replies_leave_from_exactly_the_source_asked_for(
    inbox: Inbox, client: socket.socket
) -> None:
    target = Endpoint(address("127.0.0.2"), client.getsockname()[1])
    for source in ("127.0.0.1", "127.0.0.77"):
        inbox.port.send(SendDatagram(b"hello", Endpoint(address(source), PORT), target))
        assert client.recvfrom(100) == (b"hello", (source, PORT))
    assert inbox.port.counters["sent"] == 2


async def test_the_time_to_live_is_told_and_can_be_chosen(
    inbox: Inbox, client: socket.socket
) -> None:
    client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
    client.sendto(b"far", ("127.0.0.1", PORT))
    [(_, arrival)] = await inbox.datagrams(1)
    assert arrival.ttl == 255
    client.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
    for ttl, expected in ((1, 1), (255, 255), (None, 64)):
        inbox.port.send(SendDatagram(b"x", arrival.destination, arrival.source, ttl=ttl))
        _, ancillary, _, _ = client.recvmsg(10, 100)
        assert [int.from_bytes(data, "little") for _, _, data in ancillary] == [expected]


async def test_a_reply_that_cannot_leave_is_counted(inbox: Inbox) -> None:
    elsewhere = Endpoint(address("192.0.2.1"), PORT)  # not an address of this machine
    inbox.port.send(SendDatagram(b"x", elsewhere, Endpoint(address("127.0.0.2"), 9)))
    assert inbox.port.counters == {
        "received": 0,
        "sent": 0,
        "send-failures": 1,
        "receive-overflows": 0,
    }


async def test_large_and_empty_datagrams_come_whole(inbox: Inbox, client: socket.socket) -> None:
    client.sendto(b"", ("127.0.0.1", PORT))
    client.sendto(bytes(range(256)) * 250, ("127.0.0.1", PORT))
    found = await inbox.datagrams(2)
    assert [data for data, _ in found] == [b"", bytes(range(256)) * 250]


async def test_the_loop_gets_a_turn_after_a_batch(inbox: Inbox, client: socket.socket) -> None:
    for _ in range(3 * BATCH):
        client.sendto(b"x", ("127.0.0.1", PORT))
    await inbox.datagrams(3 * BATCH)
    assert max(map(len, inbox.batches)) <= BATCH


async def test_a_paused_port_leaves_datagrams_to_the_kernel(
    inbox: Inbox, client: socket.socket
) -> None:
    inbox.port.pause()
    client.sendto(b"later", ("127.0.0.1", PORT))
    for _ in range(20):
        await asyncio.sleep(0)
    assert inbox.batches == []
    inbox.port.resume()
    assert (await inbox.datagrams(1))[0][0] == b"later"


async def test_a_second_agent_on_the_port_is_refused_with_a_remedy(inbox: Inbox) -> None:
    assert inbox.batches == []
    with pytest.raises(StartError, match="another Mobile IP agent"):
        Inbox().port.open(asyncio.get_running_loop())
