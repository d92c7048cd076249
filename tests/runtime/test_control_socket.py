"""The control socket: lines of JSON, private, and hard to upset."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastmip.runtime.control_socket import MAX_REQUEST_LEN, ControlSocket
from fastmip.runtime.service import Arguments, CommandError, StartError


async def dispatch(command: str, arguments: Arguments) -> object:
    if command == "echo":
        return arguments
    if command == "break":
        raise RuntimeError("secret detail")
    raise CommandError(f"{command}: unknown\nsecond line")


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    where = tmp_path / "run" / "control.sock"
    server = ControlSocket(where, dispatch)
    await server.start()
    yield where
    await server.stop()
    assert not where.exists()


async def ask(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=4 * MAX_REQUEST_LEN)
    writer.writelines(lines)
    await writer.drain()
    writer.write_eof()
    answers = [json.loads(line) async for line in reader]
    writer.close()
    return answers


async def test_requests_are_answered_in_order(path: Path) -> None:
    lines = [json.dumps({"command": "echo", "args": {"n": n}}).encode() + b"\n" for n in range(50)]
    answers = await ask(path, *lines)
    assert answers == [{"ok": True, "schema": 1, "result": {"n": n}} for n in range(50)]


async def test_only_the_owner_may_open_it(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line",
    [b"\n", b"nonsense\n", b"[]\n", b'{"args": {}}\n', b'{"command": 7}\n', b"\xff\xfe\n",
     b'{"command": "echo", "args": []}\n', b'{"command": "unknown"}\n'],
)  # fmt: skip
async def test_a_bad_request_gets_one_line_and_the_connection_goes_on(
    path: Path, line: bytes
) -> None:
    bad, good = await ask(path, line, b'{"command": "echo"}\n')
    assert bad["ok"] is False
    assert "\n" not in bad["error"]
    assert good == {"ok": True, "schema": 1, "result": {}}


async def test_a_failing_command_names_no_detail_and_ends_nothing(path: Path) -> None:
    bad, good = await ask(path, b'{"command": "break"}\n', b'{"command": "echo"}\n')
    assert bad["error"] == "internal error (RuntimeError): see the log"
    assert good["ok"]


async def test_a_request_without_end_is_refused(path: Path) -> None:
    (answer,) = await ask(path, b"x" * (MAX_REQUEST_LEN + 10))
    assert answer == {
        "ok": False,
        "schema": 1,
        "error": f"request longer than {MAX_REQUEST_LEN} bytes",
    }


async def test_a_socket_left_by_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    where = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(where))
    server = ControlSocket(where, dispatch)
    await server.start()
    assert (await ask(where, b'{"command": "echo"}\n'))[0]["ok"]
    await server.stop()


async def test_a_file_in_its_place_is_not_removed(tmp_path: Path) -> None:
    where = tmp_path / "control.sock"
    where.write_text("somebody's")
    with pytest.raises(StartError, match="remove it"):
        await ControlSocket(where, dispatch).start()
    assert where.read_text() == "somebody's"


async def test_a_living_daemon_keeps_its_socket(path: Path) -> None:
    with pytest.raises(StartError, match="another daemon answers"):
        await ControlSocket(path, dispatch).start()
    assert (await ask(path, b'{"command": "echo"}\n'))[0]["ok"]


async def test_stop_does_not_wait_for_idle_clients(tmp_path: Path) -> None:
    server = ControlSocket(tmp_path / "control.sock", dispatch)
    await server.start()
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await server.stop()
    writer.close()
