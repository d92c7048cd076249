"""A control socket served from a thread with canned answers, and every request kept."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

Handler = Callable[[dict[str, Any]], bytes | None]
"""Request -> bytes to answer with; None says nothing and keeps the connection open."""


def result(value: object) -> bytes:
    """Encode an answer that went well."""
    return json.dumps({"ok": True, "schema": 1, "result": value}).encode() + b"\n"


def refusal(reason: str) -> bytes:
    """Encode a refusal."""
    return json.dumps({"ok": False, "error": reason}).encode() + b"\n"


class ControlServer:
    """Serves one Unix socket until left; ``requests`` holds what clients asked, in order."""

    def __init__(self, path: Path, handler: Handler) -> None:
        """Listen at once, so that a client may connect before the thread runs."""
        self.requests: list[dict[str, Any]] = []
        self._handler = handler
        self._leave = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        self._listener.listen(8)
        self._listener.settimeout(0.05)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> ControlServer:
        """Start serving."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop serving and join the thread."""
        self._leave.set()
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while not self._leave.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        with connection.makefile("rb") as stream:
            request = json.loads(stream.readline())
        self.requests.append(request)
        answer = self._handler(request)
        if answer is None:
            self._leave.wait(5)
        else:
            connection.sendall(answer)
