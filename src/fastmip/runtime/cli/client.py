"""Ask the daemon: one JSON object per line each way on the control socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import msgspec

from fastmip.runtime.cli.failures import Failure, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

F = TypeVar("F", bound="Callable[..., Any]")

DEFAULT_SOCKET = Path("/run/fastmip/control.sock")
SCHEMA = 1
"""Version of the answers this client understands."""
MAX_ANSWER_LEN = 1 << 30
CHUNK_LEN = 1 << 20
_WAIT_S = 1.0


class Answer(msgspec.Struct):
    """What the daemon says; unknown fields are left for later versions."""

    ok: bool
    schema: int = SCHEMA
    result: Any = None
    error: str = ""


class ControlClient:
    """A client of one control socket; every request opens a connection of its own."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        """Take the socket's path and the longest silence to bear, in seconds."""
        self._path = path
        self._timeout_s = timeout_s

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Send a command and return its result.

        Raises Unreachable when nobody answers in time or not in our language, Failure when
        the daemon refuses.
        """
        request = {"command": command, "args": arguments or {}}
        answer = self._decode(self._exchange(msgspec.json.encode(request) + b"\n"))
        if not answer.ok:
            raise Failure(answer.error or "the daemon refused without a reason")
        if answer.schema != SCHEMA:
            self._unreachable(f"speaks schema {answer.schema}, this program {SCHEMA}: update one")
        return answer.result

    def stream(self, command: str, arguments: dict[str, Any] | None = None) -> Iterator[Any]:
        """Send a command and return its results as they come, for as long as they come.

        Raises as ``ask``.
        """
        request = {"command": command, "args": arguments or {}}
        with self._connect(msgspec.json.encode(request) + b"\n") as connection:
            try:
                for line in _lines(connection):
                    answer = self._decode(line)
                    if not answer.ok:
                        raise Failure(answer.error or "the daemon refused without a reason")
                    yield answer.result
            except OSError as error:
                self._unreachable(f"failed: {error.strerror or error}")
        self._unreachable("closed: the daemon has stopped")

    def _exchange(self, request: bytes) -> bytes:
        with self._connect(request) as connection:
            try:
                return self._read_line(connection)
            except TimeoutError:
                self._unreachable(f"gave no answer for {self._timeout_s:g} s: try --timeout")
            except OSError as error:
                self._unreachable(f"failed: {error.strerror or error}")

    def _connect(self, request: bytes) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._send(connection, request)
        except BaseException:
            connection.close()
            raise
        return connection

    def _send(self, connection: socket.socket, request: bytes) -> None:
        try:
            connection.settimeout(self._timeout_s)
            connection.connect(os.fspath(self._path))
            connection.sendall(request)
        except FileNotFoundError:
            self._unreachable("does not exist: is the daemon running? (fastmip run CONFIG)")
        except ConnectionRefusedError:
            self._unreachable("has no daemon behind it: start one (fastmip run CONFIG)")
        except PermissionError:
            self._unreachable("may not be opened by this user: run as root (sudo)")
        except TimeoutError:
            self._unreachable(f"gave no answer for {self._timeout_s:g} s: try --timeout")
        except OSError as error:
            self._unreachable(f"failed: {error.strerror or error}")

    def _read_line(self, connection: socket.socket) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            chunk = connection.recv(CHUNK_LEN)
            if not chunk:
                self._unreachable("closed before the answer was complete")
            line += chunk
            if len(line) > MAX_ANSWER_LEN:
                self._unreachable("sent an answer without end")
        return bytes(line)

    def _decode(self, line: bytes) -> Answer:
        try:
            return msgspec.json.decode(line, type=Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._unreachable("sent something that is no answer")

    def _unreachable(self, what: str) -> NoReturn:
        raise Unreachable(f"control socket {self._path} {what}")


def control_options(command: F) -> F:
    """Add ``--socket`` and ``--timeout`` to a command that talks to the daemon."""
    command = click.option(
        "--socket",
        "socket_path",
        type=click.Path(path_type=Path),
        default=DEFAULT_SOCKET,
        show_default=True,
        envvar="FASTMIP_SOCKET",
        show_envvar=True,
        help="Control socket of the daemon.",
    )(command)
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0.1, max=3600),
        default=10.0,
        show_default=True,
        help="Longest wait for the daemon, seconds.",
    )(command)


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """Every line, for as long as they come."""
    # Ctrl-C between Python's last look at signals and the wait itself is acted on after the wait.
    connection.settimeout(_WAIT_S)
    kept = b""
    while True:
        try:
            received = connection.recv(CHUNK_LEN)
        except TimeoutError:
            continue
        if not received:
            return
        *lines, kept = (kept + received).split(b"\n")
        yield from lines
