"""What netlink datagrams tell, and what becomes of the kernel's dumps."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.agents.attachment import LinkState
from fastmip.runtime.movement import LinkWatcher, News, read_links, read_news
from fastmip.runtime.netlink import DefaultRoute, Link
from fastmip.wire.addresses import parse_address

NEW_LINK, DEL_LINK, NEW_ADDRESS, DEL_ADDRESS, NEW_ROUTE, DEL_ROUTE = 16, 17, 20, 21, 24, 25
UP = 0x1 | 0x40 | 0x10000
HOME = parse_address("10.1.0.5")
LEASE = parse_address("10.3.1.5")
ROUTER = parse_address("10.3.1.254")


def message(kind: int, body: bytes) -> bytes:
    length = 16 + len(body)
    return struct.pack("=IHHII", length, kind, 0, 0, 0) + body + bytes(-length % 4)


def link_body(index: int, flags: int) -> bytes:
    return struct.pack("=BxHiII", 0, 1, index, flags, 0)


def address_body(index: int, address: int) -> bytes:
    header = struct.pack("=BBBBi", 2, 24, 0, 0, index)
    other = struct.pack("=HH4s", 8, 1, bytes(4))  # IFA_ADDRESS
    local = struct.pack("=HH4s", 8, 2, address.to_bytes(4, "big"))
    return header + other + local


def route_body(length: int) -> bytes:
    return struct.pack("=BBBBBBBBI", 2, length, 0, 0, 254, 3, 0, 1, 0)


@pytest.mark.parametrize(
    ("data", "news"),
    [
        (message(NEW_ROUTE, route_body(24)), News(False)),
        (message(DEL_ROUTE, route_body(32)) * 3, News(False)),
        (message(NEW_ROUTE, route_body(0)), News(True)),
        (message(NEW_ROUTE, route_body(24)) + message(DEL_ROUTE, route_body(0)), News(True)),
        (message(NEW_ADDRESS, address_body(3, LEASE)), News(True)),
        (message(DEL_ADDRESS, address_body(3, LEASE)), News(True, ((3, LEASE),))),
        (message(NEW_LINK, link_body(3, UP)), News(True)),
        (message(NEW_LINK, link_body(3, UP & ~0x10000)), News(True, ((3, 0),))),
        (message(DEL_LINK, link_body(3, UP)), News(True, ((3, 0),))),
        (b"", News(False)),
    ],
    ids=[
        "a route to a prefix",
        "many routes to prefixes",
        "default route",
        "prefix and default route",
        "new address",
        "lost address",
        "link up",
        "carrier lost",
        "device gone",
        "nothing",
    ],
)
def test_news(data: bytes, news: News) -> None:
    assert read_news(data) == news


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_an_end(data: bytes) -> None:
    read_news(data)


@given(st.binary(max_size=60), st.sampled_from([16, 17, 20, 21, 24, 25]))
def test_truncated_messages_are_read_to_an_end(body: bytes, kind: int) -> None:
    read_news(message(kind, body))


class FakeKernel:
    """The three dumps."""

    def __init__(self) -> None:
        self.link_rows: list[Link] = []
        self.address_rows: list[tuple[int, int, int]] = []
        self.route_rows: list[DefaultRoute] = []
        self.fail = False

    async def links(self) -> list[Link]:
        if self.fail:
            raise OSError("no netlink today")
        return self.link_rows

    async def all_addresses(self) -> list[tuple[int, int, int]]:
        return self.address_rows

    async def default_routes(self) -> list[DefaultRoute]:
        return self.route_rows


def ours(interface: str, address: int, length: int) -> bool:
    return (interface, address, length) == ("eth0", HOME, 32)


async def read(kernel: Any, *interfaces: str) -> list[LinkState]:
    return await read_links(kernel, interfaces, ours)


async def test_a_link_is_carrier_addresses_and_its_best_default_route() -> None:
    kernel = FakeKernel()
    kernel.link_rows = [Link(3, "eth0", True, 1400), Link(4, "wlan0", False, 1500)]
    kernel.address_rows = [(3, LEASE, 24), (3, HOME, 32), (4, LEASE + 1, 24), (9, 1, 8)]
    kernel.route_rows = [DefaultRoute(3, ROUTER + 1, 200), DefaultRoute(3, ROUTER, 100)]
    assert await read(kernel, "wlan0", "eth0", "usb0") == [
        LinkState("wlan0", False, ((LEASE + 1, 24),), None, 0, 1500),
        LinkState("eth0", True, ((LEASE, 24),), ROUTER, 100, 1400),
        LinkState("usb0", False),
    ]


async def test_a_home_address_of_the_operators_is_seen() -> None:
    kernel = FakeKernel()
    kernel.link_rows = [Link(3, "eth0", True, 1500)]
    kernel.address_rows = [(3, HOME, 24)]
    [state] = await read(kernel, "eth0")
    assert state.addresses == ((HOME, 24),)


async def test_only_changes_are_delivered_and_trouble_is_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastmip.runtime.movement._RETRY_S", 0.01)
    kernel: Any = FakeKernel()
    kernel.link_rows = [Link(3, "fmtest0", True, 1500)]
    told: list[LinkState] = []

    async def deliver(state: LinkState) -> None:
        told.append(state)

    watcher = LinkWatcher(kernel, ["fmtest0"], is_ours=ours, deliver=deliver)
    await watcher.start()
    assert told == [LinkState("fmtest0", True)]
    watcher._wake.set()
    await asyncio.sleep(0)
    kernel.fail = True
    kernel.link_rows = [Link(3, "fmtest0", False, 1500)]
    watcher._wake.set()
    await asyncio.sleep(0.005)
    assert len(told) == 1
    kernel.fail = False
    async with asyncio.timeout(5):
        while len(told) < 2:
            await asyncio.sleep(0.005)
    assert told[1] == LinkState("fmtest0", False)
    assert watcher.state("fmtest0") == told[1]
    await watcher.stop()


async def test_a_carrier_gone_and_back_between_two_looks_is_told() -> None:
    kernel: Any = FakeKernel()
    kernel.link_rows = [Link(3, "fmtest0", True, 1500, carrier_losses=1)]
    told: list[LinkState] = []

    async def deliver(state: LinkState) -> None:
        told.append(state)

    watcher = LinkWatcher(kernel, ["fmtest0"], is_ours=ours, deliver=deliver)
    await watcher.start()
    kernel.link_rows = [Link(3, "fmtest0", True, 1500, carrier_losses=2)]
    watcher._wake.set()
    async with asyncio.timeout(5):
        while len(told) < 3:
            await asyncio.sleep(0.005)
    await watcher.stop()
    assert [state.carrier for state in told] == [True, False, True]
