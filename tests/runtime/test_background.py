"""What nobody caught is heard of: a dead task or thread ends the daemon with a reason."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastmip.runtime import background
from fastmip.runtime.config import load_config
from fastmip.runtime.daemon import Daemon
from fastmip.runtime.logging import configure_logging
from fastmip.runtime.service import StartError

CONFIG = """
[daemon]
state_dir = "{0}"
control_socket = "{0}/control.sock"
[home_agent]
address = "10.1.0.1"
home_network = "10.1.0.0/24"
"""


class Idle:
    """A role that does nothing but what a test makes it do."""

    name = "idle"

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def keep(self) -> None: ...

    def status(self) -> dict[str, object]:
        return {}

    def heartbeats(self) -> list[int]:
        return []

    def observed(self) -> None: ...

    def commands(self) -> dict[str, object]:
        return {}


async def fail() -> None:
    raise ZeroDivisionError("planted")


async def test_a_failed_task_is_reported_and_a_cancelled_one_is_not() -> None:
    heard: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: heard.append(context))
    endless = background.start(asyncio.sleep(60), "endless")
    background.start(fail(), "doomed")
    endless.cancel()
    await asyncio.wait([endless])
    await asyncio.sleep(0)
    assert [(h[background.BACKGROUND], type(h["exception"])) for h in heard] == [
        ("doomed", ZeroDivisionError)
    ]


class TestDaemon:
    @pytest.fixture
    def daemon(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
        file = tmp_path / "fastmip.toml"
        file.write_text(CONFIG.format(tmp_path))
        file.chmod(0o600)
        daemon = Daemon(load_config(str(file)), str(file))
        monkeypatch.setattr(daemon, "_build", lambda _kernel: [Idle()])
        monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # restored afterwards
        return daemon

    @pytest.fixture
    def lines(self) -> Iterator[io.StringIO]:
        stream = io.StringIO()
        configure_logging("info", "json", stream)
        yield stream
        configure_logging("info", "json")

    async def run_with(self, daemon: Daemon, defect: Any) -> None:
        """Run the daemon; once it serves, let the defect happen."""
        asyncio.get_running_loop().call_later(0.1, defect)
        async with asyncio.timeout(10):
            await daemon.run()

    async def test_ends_with_a_reason_when_a_task_is_gone(
        self, daemon: Daemon, lines: io.StringIO
    ) -> None:
        with pytest.raises(StartError, match="link-watcher failed"):
            await self.run_with(daemon, lambda: background.start(fail(), "link-watcher"))
        logged = [json.loads(line) for line in lines.getvalue().splitlines()]
        (told,) = [line for line in logged if line["event"] == "defect"]
        assert "ZeroDivisionError" in json.dumps(told)

    async def test_ends_with_a_reason_when_a_thread_is_gone(self, daemon: Daemon) -> None:
        def die() -> None:
            raise ZeroDivisionError("planted")

        with pytest.raises(StartError, match="store-writer failed"):
            await self.run_with(
                daemon, lambda: threading.Thread(target=die, name="store-writer").start()
            )

    async def test_goes_on_when_one_callback_fails(
        self, daemon: Daemon, lines: io.StringIO
    ) -> None:
        def stumble() -> None:
            asyncio.get_running_loop().call_later(0.1, daemon._stopping.set)
            raise ZeroDivisionError("planted")

        await self.run_with(daemon, stumble)
        assert "ZeroDivisionError" in lines.getvalue()
