"""One port for two roles: each datagram goes to the first that claims it."""

from __future__ import annotations

import asyncio
import socket

from tests.helpers.handmade import address

from fastmip.agents.effects import Arrival, Endpoint
from fastmip.runtime.control_hub import ControlHub
from fastmip.runtime.control_port import ControlPort

PORT = 43411


async def test_each_datagram_goes_to_the_first_role_that_claims_it() -> None:
    first: list[tuple[bytes, Arrival]] = []
    second: list[tuple[bytes, Arrival]] = []
    hub = ControlHub(port=PORT)
    one = hub.join(lambda data, _arrival: data == b"one", first.extend)
    two = hub.join(lambda _data, _arrival: True, second.extend)
    loop = asyncio.get_running_loop()
    one.open(loop)
    two.open(loop)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for data in (b"one", b"two", b"one", b"three"):
            client.sendto(data, ("127.0.0.1", PORT))
        async with asyncio.timeout(5):
            while len(first) + len(second) < 4:
                await asyncio.sleep(0)
        assert [data for data, _ in first] == [b"one", b"one"]
        assert [data for data, _ in second] == [b"two", b"three"]
        two.close()  # the other role still needs the port
        client.sendto(b"one", ("127.0.0.1", PORT))
        async with asyncio.timeout(5):
            while len(first) < 3:
                await asyncio.sleep(0)
    assert one.counters["received"] == 5
    one.close()


async def test_a_role_that_joins_as_the_first_is_asked_first() -> None:
    catch_all: list[tuple[bytes, Arrival]] = []
    late: list[tuple[bytes, Arrival]] = []
    hub = ControlHub(port=PORT)
    one = hub.join(lambda _data, _arrival: True, catch_all.extend)
    two = hub.join(lambda data, _arrival: data == b"two", late.extend, first=True)
    for role in (one, two):
        role.open(asyncio.get_running_loop())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for data in (b"two", b"one"):
            client.sendto(data, ("127.0.0.1", PORT))
        async with asyncio.timeout(5):
            while len(catch_all) + len(late) < 2:
                await asyncio.sleep(0)
    assert [data for data, _ in late] == [b"two"]
    assert [data for data, _ in catch_all] == [b"one"]
    for role in (one, two):
        role.close()


async def test_icmp_errors_about_what_was_sent_are_reported_with_the_quote() -> None:
    reports: list[tuple[bytes, Endpoint, int, int]] = []
    port = ControlPort(lambda _batch: None, port=PORT, report=lambda *about: reports.append(about))
    port.open(asyncio.get_running_loop())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as vacant:
        vacant.bind(("127.0.0.3", 0))
        nobody = Endpoint(address("127.0.0.3"), vacant.getsockname()[1])
    source = Endpoint(address("127.0.0.1"), PORT)
    from fastmip.agents.effects import SendDatagram  # noqa: PLC0415

    port.send(SendDatagram(b"is anybody there", source, nobody))
    async with asyncio.timeout(5):
        while not reports:
            await asyncio.sleep(0.005)
    assert reports == [(b"is anybody there", nobody, 3, 3)]
    port.send(SendDatagram(b"again", source, source))  # an earlier error harms no later send
    assert port.counters["send-failures"] == 0
    port.close()
