"""Counters as Prometheus reads them, and its port under clients that mean no good."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from scapy.layers.inet import IP, UDP
from tests.engine.lab import CARE_OF, HOME_AGENT, NODE, engine_for
from tests.reference.tunnels import HOME, Binding, Twin

from fastmip import __version__, _dataplane
from fastmip.runtime import metrics_port
from fastmip.runtime.engine_view import Observed
from fastmip.runtime.listen import parse_listen
from fastmip.runtime.metrics import MetricsPage
from fastmip.runtime.metrics_port import MAX_CLIENTS, MAX_REQUEST_LEN, MetricsPort
from fastmip.runtime.service import StartError

TWIN = Twin("home-agent", (HOME_AGENT,), {NODE: [Binding(CARE_OF, HOME_AGENT)]})
TO_NODE = bytes(IP(src="10.9.0.7", dst="10.1.0.5") / UDP())
COUNTERS = {"haRegRequestsReceived": 7, "haBindings": 3, "port-434-received": 9, "io-home-read": 5}
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def page_of(
    engine: _dataplane.Engine, offloaded: Mapping[str, tuple[int, int]] = MappingProxyType({})
) -> dict[str, list[Sample]]:
    """Samples by name."""
    observed = Observed(engine, COUNTERS, frozenset(["haBindings"]), {"tunnel": 2}, offloaded)
    text = MetricsPage(lambda: {"home-agent": observed}, time.monotonic()).render().decode()
    samples: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    return samples


def value(samples: dict[str, list[Sample]], name: str, **labels: str) -> float:
    (found,) = (s for s in samples[name] if labels.items() <= s.labels.items())
    return found.value


def test_every_counter_has_its_metric() -> None:
    engine = engine_for(TWIN)
    _dataplane.MemoryPort(engine).inject(HOME, [TO_NODE] * 3)
    page = page_of(engine)
    assert value(page, "fastmip_packets_total", verdict="encapsulated", severity="info") == 3
    assert value(page, "fastmip_packet_bytes_total", verdict="encapsulated") == 3 * 28
    assert value(page, "fastmip_input_packets_total", role="home-agent") == 3
    assert value(page, "fastmip_events_total", event="fragments-sent") == 0
    assert value(page, "fastmip_engine_bindings") == 1
    assert value(page, "fastmip_stage_packets_total", worker="control", stage="encapsulate") == 3
    assert value(page, "fastmip_stage_calls_total", worker="0", stage="rx") == 0
    assert value(page, "fastmip_haRegRequestsReceived_total", role="home-agent") == 7
    assert value(page, "fastmip_port_434_received_total") == 9
    assert value(page, "fastmip_bindings", role="home-agent") == 3
    assert value(page, "fastmip_port_packets_total", counter="home-read") == 5
    assert value(page, "fastmip_socket_lost_packets_total", socket="tunnel") == 2
    assert value(page, "fastmip_info", version=__version__) == 1
    assert value(page, "process_resident_memory_bytes") > 1 << 20


def test_what_the_kernel_carried_counts_by_its_verdict() -> None:
    engine = engine_for(TWIN)
    _dataplane.MemoryPort(engine).inject(HOME, [TO_NODE] * 3)
    page = page_of(engine, {"encapsulated": (10, 1000), "drop-redirect": (2, 200)})
    assert value(page, "fastmip_packets_total", verdict="encapsulated") == 13
    assert value(page, "fastmip_packet_bytes_total", verdict="encapsulated") == 3 * 28 + 1000
    assert value(page, "fastmip_packets_total", verdict="drop-redirect", severity="warning") == 2
    assert value(page, "fastmip_input_packets_total") == 3


def test_labels_are_bounded() -> None:
    page = page_of(engine_for(TWIN))
    verdicts = {sample.labels["verdict"] for sample in page["fastmip_packets_total"]}
    assert verdicts == {name for name, _, _ in _dataplane.verdicts()}
    names = {label for samples in page.values() for sample in samples for label in sample.labels}
    known = {"role", "verdict", "severity", "event", "worker", "stage", "counter", "socket"}
    assert names <= known | {"version"}
    assert sum(map(len, page.values())) < 500


def test_a_daemon_without_an_engine_has_a_page_too() -> None:
    text = MetricsPage(lambda: {}, time.monotonic()).render()
    assert b"fastmip_uptime_seconds" in text


def test_a_page_is_made_twice_a_second_at_most() -> None:
    asked = 0

    def observe() -> dict[str, Observed]:
        nonlocal asked
        asked += 1
        return {}

    page = MetricsPage(observe, time.monotonic())
    began = time.monotonic()
    for _ in range(200):
        page.render()
    assert asked <= 1 + (time.monotonic() - began) / 0.5


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MetricsPort]:
    monkeypatch.setattr(metrics_port, "DEADLINE_S", 1.0)
    port = MetricsPort("127.0.0.1:0", lambda: b"page 1\n" * 1000)
    port.open()
    yield port
    await port.close()


async def ask(port: MetricsPort, request: bytes) -> bytes:
    """Send all of a request, read all of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_get_and_head(port: MetricsPort) -> None:
    answer = await ask(port, GET)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    assert body == b"page 1\n" * 1000
    assert f"Content-Length: {len(body)}".encode() in head
    assert await ask(port, GET.replace(b"GET", b"HEAD")) == head + b"\r\n\r\n"
    assert await ask(port, GET.replace(b"/metrics", b"/metrics?name=x")) == answer
    assert await ask(port, b"GET /metrics HTTP/1.0\n\n") == answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\r\n\r\n", b"400"),
        (b"GET /metrics SSH-2.0\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
    ],
)
async def test_anything_else_is_refused(port: MetricsPort, request_: bytes, status: bytes) -> None:
    assert (await ask(port, request_)).startswith(b"HTTP/1.1 " + status)


async def test_an_endless_header_is_cut_off(port: MetricsPort) -> None:
    answer = await ask(port, b"GET /metrics HTTP/1.1\r\nX: " + b"a" * (4 * MAX_REQUEST_LEN))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
    assert (await ask(port, GET)).startswith(b"HTTP/1.1 200")


async def test_silent_clients_are_cut_off_and_others_get_their_turn(port: MetricsPort) -> None:
    silent = [socket.create_connection(("127.0.0.1", port.port)) for _ in range(MAX_CLIENTS)]
    try:
        for client in silent:
            client.setblocking(False)
        assert (await ask(port, GET)).startswith(b"HTTP/1.1 200"), "after their second"
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            assert await loop.sock_recv(silent[0], 1) == b""
    finally:
        for client in silent:
            client.close()


async def test_a_flood_of_connections_takes_no_more_than_its_places(port: MetricsPort) -> None:
    loop = asyncio.get_running_loop()
    flood = []
    for _ in range(100):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port.port))
        flood.append(client)
    await asyncio.sleep(0.1)
    assert len(port._clients) <= MAX_CLIENTS
    for client in flood:
        client.close()
    async with asyncio.timeout(20):
        while not (await ask(port, GET)).startswith(b"HTTP/1.1 200"):
            await asyncio.sleep(0.1)
    assert loop.is_running()


async def test_a_reader_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "DEADLINE_S", 0.5)
    port = MetricsPort("127.0.0.1:0", lambda: bytes(32 << 20))
    port.open()
    client = socket.create_connection(("127.0.0.1", port.port))
    client.sendall(GET)
    async with asyncio.timeout(20):
        while not port._clients:
            await asyncio.sleep(0.01)
        while port._clients:
            await asyncio.sleep(0.01)
    client.close()
    await port.close()


async def test_a_taken_port_is_refused_in_one_line(port: MetricsPort) -> None:
    with pytest.raises(StartError, match=r"metrics\.listen 127.0.0.1:\d+: .*set another"):
        MetricsPort(f"127.0.0.1:{port.port}", bytes).open()


@pytest.mark.parametrize("text", ["127.0.0.1:9434", "[::1]:0", "0.0.0.0:65535"])
def test_addresses_to_listen_on(text: str) -> None:
    host, number = parse_listen(text)
    assert f"{f'[{host}]' if ':' in host else host}:{number}" == text


@pytest.mark.parametrize(
    "text",
    ["9434", ":9434", "localhost:9434", "127.0.0.1:", "127.0.0.1:65536", "::1:9434", "[::1]"],
)
def test_what_is_no_address_to_listen_on(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_listen(text)
