"""Traces and captures of a daemon, with engines that are fed from memory."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from scapy.layers.inet import IP, UDP
from tests.engine.lab import CARE_OF, HOME_AGENT, NODE, engine_for
from tests.helpers.control_server import ControlServer, result
from tests.reference.tunnels import HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane
from fastmip.runtime.cli.main import main
from fastmip.runtime.service import CommandError
from fastmip.runtime.taps import MIN_SLOTS, RING_BYTES, TraceBook, capture, slots_for

TWIN = Twin("home-agent", (HOME_AGENT,), {NODE: [Binding(CARE_OF, HOME_AGENT)]})
TO_NODE = bytes(IP(src="10.9.0.7", dst="10.1.0.5", ttl=9) / UDP(sport=5, dport=77))
FORGED = bytes(
    IP(src="10.3.9.9", dst="10.1.0.1", proto=4) / IP(src="10.1.0.5", dst="10.9.0.7") / UDP()
)
EXPECTED = {
    "number": 1,
    "worker": 1,
    "side": "home",
    "port": "memory",
    "rx": "10.9.0.7 > 10.1.0.5 ttl 9 | udp 5 > 77, 28 bytes",
    "lookup": "10.1.0.5",
    "verdict": "encapsulated",
}


@pytest.fixture
def engine() -> _dataplane.Engine:
    return engine_for(TWIN)


async def test_a_trace_is_told_in_words(engine: _dataplane.Engine) -> None:
    book = TraceBook()
    answer = book.add({"home-agent": engine}, {"count": 5, "match": ["10.1.0.5"]})
    assert answer == {"summary": {"tracing": 5, "roles": "home-agent"}}
    port = _dataplane.MemoryPort(engine)
    port.inject(HOME, [TO_NODE])
    port.inject(TUNNEL, [FORGED])
    shown: Any = book.show(names_role=False)
    assert shown["summary"] == {"packets": 2, "tracing": True}
    sent, forged = shown["rows"]
    assert {name: sent[name] for name in EXPECTED} == EXPECTED
    assert "10.1.0.5 at 10.3.1.20 from 10.1.0.1, ipip, fits 1480 bytes" in sent["line"]
    (left,) = sent["tx"]
    outer = "tunnel: 10.1.0.1 > 10.3.1.20 ttl 64 df"
    assert left == f"{outer} | ipip | 10.9.0.7 > 10.1.0.5 ttl 8 | udp 5 > 77, 48 bytes"
    assert (forged["verdict"], forged["tx"]) == ("drop-care-of-address", [])
    book.clear()
    assert book.show(names_role=False)["rows"] == []


async def test_a_trace_that_has_its_packets_is_closed_by_itself(engine: _dataplane.Engine) -> None:
    book = TraceBook()
    book.add({"home-agent": engine}, {"count": 1})
    _dataplane.MemoryPort(engine).inject(HOME, [TO_NODE] * 3)
    async with asyncio.timeout(10):
        while book._open:
            await asyncio.sleep(0.02)
    shown: Any = book.show(names_role=True)
    assert shown["summary"] == {"packets": 1, "tracing": False}
    assert shown["rows"][0]["role"] == "home-agent"


async def test_a_new_trace_takes_the_place_of_the_old_and_keeps_its_packets(
    engine: _dataplane.Engine,
) -> None:
    book = TraceBook()
    port = _dataplane.MemoryPort(engine)
    for _ in range(20):  # more than places for taps
        book.add({"home-agent": engine}, {"count": 1000})
        port.inject(HOME, [TO_NODE])
    shown: Any = book.show(names_role=False)
    assert [row["number"] for row in shown["rows"]] == list(range(1, 21))
    book.clear()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count: expected a number from 1 to 1000"),
        ({"count": "many"}, "count"),
        ({"count": 1, "match": "udp"}, "expected a list"),
        ({"count": 1, "match": ["udp"] * 9}, "9 terms: at most 8"),
        ({"count": 1, "match": ["nonsense"]}, "no such term"),
    ],
)
async def test_a_wrong_request_is_refused(
    engine: _dataplane.Engine, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        TraceBook().add({"home-agent": engine}, arguments)


async def gather(pieces: AsyncIterator[dict[str, Any]]) -> tuple[bytes, dict[str, Any]]:
    """The whole file and the last piece."""
    data = b""
    last: dict[str, Any] = {}
    async for last in pieces:
        data += base64.b64decode(last["pcapng"])
    return data, last


def tshark(data: bytes, *fields: str) -> list[list[str]]:
    command = ["tshark", "-n", "-r", "-", "-T", "fields", "-E", "separator=/t"]
    for field in fields:
        command += ["-e", field]
    told = subprocess.run(command, input=data, check=True, capture_output=True).stdout.decode()
    return [line.split("\t") for line in told.splitlines()]


async def test_a_capture_is_a_file_until_its_count(engine: _dataplane.Engine) -> None:
    pieces = capture({"home-agent": engine}, {"points": ["tx", "encap"], "count": 4})
    first = await anext(pieces)
    _dataplane.MemoryPort(engine).inject(HOME, [TO_NODE] * 5)
    data, last = await gather(pieces)
    assert (last["packets"], last["lost"], last["done"]) == (4, 0, True)
    data = base64.b64decode(first["pcapng"]) + data
    names = tshark(data, "frame.interface_name", "ip.dst")
    assert names == [["encap", "10.3.1.20,10.1.0.5"], ["tx", "10.3.1.20,10.1.0.5"]] * 2


async def test_roles_have_interfaces_of_their_own(engine: _dataplane.Engine) -> None:
    other = engine_for(TWIN)
    pieces = capture({"home-agent": engine, "mobile-node": other}, {"count": 1})
    first = await anext(pieces)
    for one in (other, engine):
        _dataplane.MemoryPort(one).inject(HOME, [TO_NODE])
    data, _ = await gather(pieces)
    names = tshark(base64.b64decode(first["pcapng"]) + data, "frame.interface_name")
    assert names == [["home-agent rx"], ["mobile-node rx"]]


async def test_drops_come_with_their_reason(engine: _dataplane.Engine) -> None:
    pieces = capture({"home-agent": engine}, {"drops": True, "count": 1})
    first = await anext(pieces)
    port = _dataplane.MemoryPort(engine)
    port.inject(HOME, [TO_NODE])
    port.inject(TUNNEL, [FORGED])
    data, _ = await gather(pieces)
    ((name, comment),) = tshark(
        base64.b64decode(first["pcapng"]) + data, "frame.interface_name", "frame.comment"
    )
    assert (name, comment.split(":")[0]) == ("rx", "drop-care-of-address")


async def test_a_capture_that_is_left_is_closed(engine: _dataplane.Engine) -> None:
    for _ in range(20):  # more than places for taps
        pieces = capture({"home-agent": engine}, {})
        await anext(pieces)
        await pieces.aclose()


async def test_too_many_captures_are_refused_and_nothing_stays(engine: _dataplane.Engine) -> None:
    full = engine_for(TWIN)
    taps = [_dataplane.Capture(full, points=["rx"]) for _ in range(8)]
    for _ in range(20):
        with pytest.raises(CommandError, match="open already"):
            await anext(capture({"home-agent": engine, "mobile-node": full}, {}))
    assert len(taps) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": ["nowhere"]}, "points: expected some of rx, decap, encap, tx"),
        ({"points": [["rx"]]}, "points: expected some of"),
        ({"points": ["tx"], "drops": True}, "at the point rx only"),
        ({"snap": 19}, "snap: expected a number from 20"),
        ({"count": -1}, "count: expected"),
    ],
)
async def test_a_wrong_capture_is_refused(
    engine: _dataplane.Engine, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        await anext(capture({"home-agent": engine}, arguments))


def test_a_full_disk_ends_a_capture_with_one_line(tmp_path: Path) -> None:
    path, full = tmp_path / "c", Path("/dev/full")
    mode = full.stat().st_mode
    piece = {"pcapng": base64.b64encode(bytes(64)).decode(), "packets": 0, "lost": 0}
    with ControlServer(path, lambda _: result(piece)):
        run = CliRunner().invoke(main, ["capture", "-w", str(full), "--socket", str(path)])
    assert run.exit_code == 1
    assert "/dev/full: No space left on device" in run.output
    assert full.stat().st_mode == mode, "a device is everybody's"


@pytest.mark.parametrize("snap", [20, 2048, 9000, 65535])
def test_rings_are_bounded_whatever_the_snap_length(snap: int) -> None:
    slots = slots_for(snap)
    assert slots & (slots - 1) == 0
    assert slots == MIN_SLOTS or slots * snap <= RING_BYTES
