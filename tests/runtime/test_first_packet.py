"""The first packet for the home address on a link: seen on loopback."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.helpers.handmade import address

from fastmip.runtime.first_packet import wait_for_packet

HOME, OTHER = "127.9.0.5", "127.9.0.6"


def send(source: str, destination: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        client.sendto(b"hello", (destination, 9))


@pytest.mark.netns
async def test_only_a_packet_of_somebody_else_to_the_home_address_counts() -> None:
    waiting = asyncio.create_task(
        wait_for_packet("lo", address(HOME), [address("127.0.0.9")], limit_s=30)
    )
    await asyncio.sleep(0.05)
    send("127.0.0.1", OTHER)
    send("127.0.0.9", HOME)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    send("127.0.0.1", HOME)
    assert await waiting


@pytest.mark.netns
async def test_it_gives_up_after_a_while_and_where_there_is_no_link() -> None:
    assert not await wait_for_packet("lo", address(HOME), [], limit_s=0.05)
    with pytest.raises(OSError, match="No such device"):
        await wait_for_packet("nonesuch0", address(HOME), [], limit_s=1)
