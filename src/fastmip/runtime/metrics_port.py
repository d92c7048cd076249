"""``GET /metrics`` by HTTP/1.1: one page, one request a connection, nothing else.

Whoever connects may be slow, silent or hostile, and the daemon has better things to do. So
connections are accepted by hand, at most ``MAX_CLIENTS`` at a time: the rest wait in the kernel's
queue, or are refused by it, and cost nothing here. Each has ``DEADLINE_S`` for everything,
and ``MAX_REQUEST_LEN`` bytes for its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from fastmip.runtime import background
from fastmip.runtime.listen import parse_listen
from fastmip.runtime.logging import get_logger
from fastmip.runtime.metrics import CONTENT_TYPE
from fastmip.runtime.service import StartError

MAX_CLIENTS: Final = 8
BACKLOG: Final = 16
MAX_REQUEST_LEN: Final = 8192
DEADLINE_S: Final = 5.0
PAUSE_S: Final = 0.5
"""After a connection could not be accepted (no descriptors left)."""
PATH: Final = "/metrics"

log = get_logger("metrics")


class MetricsPort:
    """Serves one page."""

    def __init__(self, listen: str, page: Callable[[], bytes]) -> None:
        """Take address and port to listen on, and what makes the page."""
        self._listen = listen
        self._page = page
        self._socket: socket.socket | None = None
        self._room = asyncio.Semaphore(MAX_CLIENTS)
        self._accepting: asyncio.Task[None] | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self.port = 0
        """Port in use, also when 0 was asked for."""

    def open(self) -> None:
        """Listen. Raises StartError."""
        host, port = parse_listen(self._listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            listening.bind((host, port))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            raise StartError(
                f"metrics.listen {self._listen}: {error.strerror or error}: set another address"
                " or port"
            ) from error
        self._socket = listening
        self.port = listening.getsockname()[1]
        self._accepting = background.start(self._accept(listening), "metrics")

    async def close(self) -> None:
        """Cut everybody off."""
        tasks = [*self._clients, *([self._accepting] if self._accepting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError as error:
                self._room.release()
                log.warning("metrics-not-accepted", reason=error.strerror or str(error))
                await asyncio.sleep(PAUSE_S)
                continue
            except BaseException:
                self._room.release()
                raise
            task = asyncio.create_task(self._serve(client))
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)

    async def _serve(self, client: socket.socket) -> None:
        """One client, whatever it does."""
        try:
            client.setblocking(False)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(DEADLINE_S):
                    await self._exchange(client)
        finally:
            client.close()
            self._room.release()

    async def _exchange(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        request = b""
        while b"\r\n\r\n" not in request and b"\n\n" not in request:
            chunk = await loop.sock_recv(client, 4096)
            if not chunk:
                return
            request += chunk
            if len(request) > MAX_REQUEST_LEN:
                await loop.sock_sendall(client, _answer("431 Request Header Fields Too Large"))
                return
        await loop.sock_sendall(client, self._response(request))
        client.shutdown(socket.SHUT_WR)

    def _response(self, request: bytes) -> bytes:
        words = request.split(b"\n", 1)[0].split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _answer("400 Bad Request")
        method, target = words[0], words[1].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            return _answer("405 Method Not Allowed", more="Allow: GET, HEAD\r\n")
        if target != PATH.encode():
            return _answer("404 Not Found", f"the metrics are at {PATH}\n".encode())
        page = self._page()
        answer = _answer("200 OK", page, kind=CONTENT_TYPE)
        return answer if method == b"GET" else answer[: len(answer) - len(page)]


def _answer(
    status: str, body: bytes = b"", *, kind: str = "text/plain; charset=utf-8", more: str = ""
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + body
