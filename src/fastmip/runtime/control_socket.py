"""The control socket: one JSON object per line in, one per line out, for the command line.

A Unix stream socket of mode 0600: whoever may open it is an operator. Requests of one
connection are answered in order; a bad one gets an error, the connection goes on. A command
that answers with a stream (``debug``) gets one line each time until the client closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from fastmip.errors import FastmipError
from fastmip.runtime.logging import get_logger
from fastmip.runtime.service import Arguments, StartError

SCHEMA = 1
MAX_REQUEST_LEN = 1 << 20

Dispatch = Callable[[str, Arguments], Awaitable[object]]

log = get_logger("control-socket")


class Request(msgspec.Struct):
    """One line of a client."""

    command: str
    args: dict[str, Any] = msgspec.field(default_factory=dict)


class ControlSocket:
    """Serves ``dispatch`` on a Unix socket."""

    def __init__(self, path: Path, dispatch: Dispatch) -> None:
        self._path = path
        self._dispatch = dispatch
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._decoder = msgspec.json.Decoder(Request)

    async def start(self) -> None:
        """Listen. Raises StartError when another daemon answers there, or on a bad path."""
        path = str(self._path)
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._remove_stale()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            mask = os.umask(0o177)
            try:
                listener.bind(path)
            finally:
                os.umask(mask)
            self._server = await asyncio.start_unix_server(
                self._accept, sock=listener, limit=MAX_REQUEST_LEN
            )
        except OSError as error:
            raise StartError(f"control socket {path}: {error.strerror or error}") from error

    def _remove_stale(self) -> None:
        if not self._path.is_socket():
            if self._path.exists():
                raise StartError(
                    f"control socket {self._path}: a file is in its place: remove it, or set"
                    " daemon.control_socket to another path"
                )
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink()  # left by a daemon that was killed
                return
        raise StartError(
            f"control socket {self._path}: another daemon answers there: stop it, or set"
            " daemon.control_socket to another path"
        )

    async def stop(self) -> None:
        """Close the socket and remove it; requests under way are cut off."""
        if self._server is None:
            return
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or we do
        finally:
            if task is not None:
                self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than the limit: where the next one starts is unknown
                writer.write(_refuse(f"request longer than {MAX_REQUEST_LEN} bytes"))
                await writer.drain()
                return
            if not line:
                return
            answer = await self._answer(line)
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await _stream(answer, reader, writer)
                return

    async def _answer(self, line: bytes) -> bytes | AsyncIterator[object]:
        try:
            request = self._decoder.decode(line)
            result = await self._dispatch(request.command, request.args)
            return result if isinstance(result, AsyncIterator) else _accept(result)
        except msgspec.MsgspecError as error:
            return _refuse(f"not a request: {error}")
        except FastmipError as error:
            return _refuse(str(error))
        except Exception as error:
            # A command must not end the daemon; the log has the place, the client the fact.
            log.exception("command-failed")
            return _refuse(f"internal error ({type(error).__name__}): see the log")


async def _stream(
    results: AsyncIterator[object], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send results as they come, until they end or the client closes or says anything more."""
    gone = asyncio.ensure_future(reader.read(1))
    try:
        while True:
            following = asyncio.ensure_future(anext(results))
            await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                return
            try:
                writer.write(_accept(following.result()))
            except StopAsyncIteration:
                return
            except FastmipError as error:
                writer.write(_refuse(str(error)))
                return
            await writer.drain()
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        if isinstance(results, AsyncGenerator):
            await results.aclose()  # what it opened is closed now, not when it is collected


def _accept(result: object) -> bytes:
    return msgspec.json.encode({"ok": True, "schema": SCHEMA, "result": result}) + b"\n"


def _refuse(reason: str) -> bytes:
    text = " ".join(reason.split())
    return msgspec.json.encode({"ok": False, "schema": SCHEMA, "error": text}) + b"\n"
