"""Events for those who watch: names, overflow, secrets, and the way over the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from fastmip.runtime.control_socket import ControlSocket
from fastmip.runtime.event_stream import EVENTS, MAX_WAITING, MAX_WATCHERS, EventStream
from fastmip.runtime.logging import tell_watchers
from fastmip.runtime.service import Arguments


def run(coroutine: object) -> object:
    return asyncio.run(coroutine)  # type: ignore[arg-type]


async def _ended(stream: EventStream) -> None:
    while stream.is_watched:
        await asyncio.sleep(0.01)


async def _begun(stream: EventStream) -> None:
    while not stream.is_watched:
        await asyncio.sleep(0.01)


async def settle() -> None:
    """Let tasks run until they wait for something."""
    for _ in range(10):
        await asyncio.sleep(0)


async def first(events: AsyncIterator[object]) -> dict[str, object]:
    found = await asyncio.wait_for(anext(events), 5)
    assert isinstance(found, dict)
    return found


def test_events_reach_those_who_asked_for_them_by_name_or_first_words() -> None:
    async def check() -> None:
        stream = EventStream()
        stream.emit("nobody-looks")
        everything, some = stream.watch([]), stream.watch(["registration", "moved"])
        waiting = [asyncio.ensure_future(first(s)) for s in (everything, some)]
        await settle()
        assert stream.is_watched
        for name in ("expired", "registrations", "registration-denied"):
            stream.emit(name, code=133)
        found = await asyncio.gather(*waiting)
        assert [event["event"] for event in found] == ["expired", "registration-denied"]
        assert found[1]["code"] == 133
        assert "timestamp" in found[1]
        await everything.aclose()  # type: ignore[attr-defined]
        await some.aclose()  # type: ignore[attr-defined]
        assert not stream.is_watched

    run(check())


def test_who_reads_too_slowly_is_told_how_much_was_left_out() -> None:
    async def check() -> None:
        stream = EventStream()
        events = stream.watch([])
        waiting = asyncio.ensure_future(first(events))
        await settle()
        stream.emit("one")
        assert (await waiting)["event"] == "one"
        for _ in range(MAX_WAITING + 7):
            stream.emit("storm")
        for _ in range(MAX_WAITING):
            await first(events)
        stream.emit("after")
        assert (await first(events))["omitted"] == 7

    run(check())


def test_no_more_watch_than_there_is_room_for() -> None:
    async def check() -> None:
        stream = EventStream()
        many = [stream.watch([]) for _ in range(MAX_WATCHERS)]
        tasks = [asyncio.ensure_future(first(events)) for events in many]
        await settle()
        assert not stream.has_room
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert stream.has_room

    run(check())


def test_logged_events_are_watched_without_secrets() -> None:
    async def check() -> None:
        events = EVENTS.watch(["association-added"])
        waiting = asyncio.ensure_future(first(events))
        await settle()
        key = "00112233445566778899aabbccddeeff"
        logged = {"event": "association-added", "key": "x", "note": f"key {key}"}
        assert tell_watchers(structlog.get_logger(), "info", dict(logged)) == logged
        found = await waiting
        assert found["key"] == "[withheld]"
        assert key not in str(found)
        await events.aclose()  # type: ignore[attr-defined]

    run(check())


def test_a_stream_goes_over_the_control_socket_until_the_client_closes(tmp_path: Path) -> None:
    async def check() -> None:
        stream = EventStream()

        async def dispatch(command: str, _arguments: Arguments) -> object:
            assert command == "debug"
            return stream.watch([])

        path = tmp_path / "control.sock"
        control = ControlSocket(path, dispatch)
        await control.start()
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"command": "debug"}\n')
        await asyncio.wait_for(_begun(stream), 5)
        stream.emit("moved", care_of="10.3.1.5")
        line = json.loads(await asyncio.wait_for(reader.readline(), 5))
        assert line["ok"]
        assert line["result"]["care_of"] == "10.3.1.5"
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await asyncio.wait_for(_ended(stream), 5)
        await control.stop()

    run(check())
