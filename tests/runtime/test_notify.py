"""sd_notify without a library, and when the watchdog is fed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from fastmip.runtime import daemon as daemon_module
from fastmip.runtime.config import Config, EngineConfig
from fastmip.runtime.daemon import Daemon
from fastmip.runtime.notify import notify, watchdog_interval_s
from fastmip.runtime.service import Command


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(3)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def test_fields_travel_as_lines(manager: socket.socket) -> None:
    assert notify(READY=1, STATUS="home-agent: 3 bindings")
    assert manager.recv(200) == b"READY=1\nSTATUS=home-agent: 3 bindings"


def test_an_abstract_socket_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"fastmip-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert notify(WATCHDOG=1)
        assert listening.recv(200) == b"WATCHDOG=1"


def test_nobody_listening_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify(READY=1)


def test_the_watchdog_is_fed_at_least_twice_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert watchdog_interval_s() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval_s(2.0) == 2.0


class Role:
    """A service whose worker's heart the test beats."""

    name = "home-agent"

    def __init__(self) -> None:
        self.beat = 0
        self.alive = True

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    async def keep(self) -> None: ...

    def status(self) -> dict[str, object]:
        return {"bindings": 3}

    def heartbeats(self) -> list[int]:
        self.beat += self.alive
        return [self.beat]

    def observed(self) -> None: ...

    def commands(self) -> Mapping[str, Command]:
        return {}

    async def plan_reload(self, _new: Config) -> list[str]:
        return []

    async def apply_reload(self, _new: Config) -> None: ...


async def test_a_wedged_worker_stops_the_feeding_and_aborts(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    aborted = asyncio.Event()
    monkeypatch.setattr(daemon_module, "watchdog_interval_s", lambda: 0.01)
    monkeypatch.setattr(daemon_module, "MISSED_S", 0.1)
    monkeypatch.setattr(os, "abort", aborted.set)
    role = Role()
    quick = msgspec.structs.replace(EngineConfig(), wedged_after=0.2)  # below what a file may say
    process = Daemon(Config(engine=quick), "fastmip.toml")
    process._services.append(role)
    watching = asyncio.create_task(process._watch())
    manager.setblocking(False)
    async with asyncio.timeout(5):
        fed = await asyncio.get_running_loop().sock_recv(manager, 200)
        assert fed == b"WATCHDOG=1\nSTATUS=home-agent: 3 bindings"
        assert not aborted.is_set()
        role.alive = False
        await aborted.wait()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    fed_count = 0
    with contextlib.suppress(BlockingIOError):
        while manager.recv(200):
            fed_count += 1
    assert fed_count < 25, "the watchdog was fed although the worker stood still"
