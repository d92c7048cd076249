"""The stage: lab, daemons, traffic and capture brought up together and taken down in order."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from fastmip.runtime.demo import topology as places
from fastmip.runtime.demo.capture import Sighting, Tap
from fastmip.runtime.demo.lab import Lab, LabError
from fastmip.runtime.demo.measure import Recorder
from fastmip.runtime.demo.topology import ROUTERS_ONLY, Topology
from fastmip.runtime.demo.traffic import Flow, Report

TCP_RATE = 750_000
"""Bytes per second of each TCP transfer: enough to see, little enough to leave the CPU alone."""
STREAM_INTERVAL_S = 0.002
"""Between two datagrams of the measured stream: the resolution of the handover gap."""
STAY_INTERVAL_S = 0.005

_COMMAND_LINE = "from fastmip.runtime.cli.main import main; main()"


def measured_flows() -> dict[str, list[Flow]]:
    """Flows of every machine: between correspondent and mobile node, and of those who stay."""
    mobile, correspondent = places.HOME_ADDRESS, places.CORRESPONDENT
    host, other = places.HOME_HOST, places.OTHER_HOME_HOST
    return {
        "cn": [
            Flow("tcp-down", "tcp-send", correspondent, 5001, rate=TCP_RATE),
            Flow("tcp-up", "tcp-receive", correspondent, 5002),
            Flow(
                "udp-down", "udp-send", correspondent, 0, mobile, 6001, interval_s=STREAM_INTERVAL_S
            ),
            Flow("udp-up", "udp-receive", correspondent, 6002),
            Flow("stay-cn", "udp-send", correspondent, 0, host, 6004, interval_s=STAY_INTERVAL_S),
        ],
        "mn": [
            Flow("tcp-down", "tcp-receive", mobile, 0, correspondent, 5001),
            Flow("tcp-up", "tcp-send", mobile, 0, correspondent, 5002, rate=TCP_RATE),
            Flow("udp-down", "udp-receive", mobile, 6001),
            Flow(
                "udp-up", "udp-send", mobile, 0, correspondent, 6002, interval_s=STREAM_INTERVAL_S
            ),
            Flow("udp-neighbour", "udp-receive", mobile, 6003),
        ],
        "hh": [
            Flow("udp-neighbour", "udp-send", host, 0, mobile, 6003, interval_s=STAY_INTERVAL_S),
            Flow("stay-cn", "udp-receive", host, 6004),
            Flow("stay-home", "udp-send", host, 0, other, 6005, interval_s=STAY_INTERVAL_S),
        ],
        "hh2": [Flow("stay-home", "udp-receive", other, 6005)],
    }


class Daemon:
    """A running ``fastmip run`` and its control socket."""

    def __init__(self, lab: Lab, node: str, configuration: str) -> None:
        self.node = node
        self.socket = lab.directory / f"{node}.sock"
        self.log = lab.directory / f"{node}.log"
        path = lab.directory / f"{node}.toml"
        path.unlink(missing_ok=True)  # of an earlier start
        write_private(path, configuration)
        with self.log.open("ab") as log:
            self.process = lab.popen(
                node,
                [sys.executable, "-c", _COMMAND_LINE, "run", str(path)],
                stdout=log,
                stderr=log,
            )

    def is_ready(self) -> bool:
        """Whether the daemon answers. Raises ``LabError`` when it has ended."""
        if self.process.poll() is not None:
            raise LabError(f"the daemon on {self.node} ended: {self.last_words()}")
        try:
            return bool(self._converse("status", {})["ok"])
        except OSError:
            return False

    def last_words(self) -> str:
        """The last line of the daemon's log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.process.returncode}, no output"

    def stop(self) -> None:
        """End it in order. Raises ``LabError`` when it does not end well."""
        self.process.terminate()
        try:
            status = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"the daemon on {self.node} does not stop") from error
        if status:
            raise LabError(f"the daemon on {self.node} ended badly: {self.last_words()}")

    def ask(self, command: str, **arguments: object) -> Any:
        """Put one command to the control socket and return its result.

        Raises ``LabError`` when nobody listens or the answer is a refusal.
        """
        try:
            answer = self._converse(command, arguments)
        except OSError as error:
            try:
                self.process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                raise LabError(f"{self.node}: {command}: {error.strerror or error}") from error
            raise LabError(f"the daemon on {self.node} ended: {self.last_words()}") from error
        if not answer["ok"]:
            raise LabError(f"{self.node}: {command}: {answer['error']}")
        return answer["result"]

    def _converse(self, command: str, arguments: dict[str, object]) -> Any:
        """One request, one answer. Raises ``OSError`` when there is none."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect(str(self.socket))
            sock.sendall(msgspec.json.encode({"command": command, "args": arguments}) + b"\n")
            with sock.makefile("rb") as answers:
                line = answers.readline()
        if not line:
            raise ConnectionResetError(errno.ECONNRESET, "no answer")
        return msgspec.json.decode(line)


class Stage:
    """A lab with daemons, traffic and capture; a context manager.

    ``tick`` is called about every 50 ms while the stage waits for something.
    """

    def __init__(
        self,
        capture_file: Path,
        tick: Callable[[], None],
        topology: Topology = ROUTERS_ONLY,
    ) -> None:
        self.lab = Lab(topology)
        self.tick = tick
        self.flows = measured_flows()
        self.recorder = Recorder([flow for flows in self.flows.values() for flow in flows])
        self._capture_file = capture_file
        self._capture: subprocess.Popen[bytes] | None = None
        self._traffic: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        self._daemons: dict[str, Daemon] = {}

    def __enter__(self) -> Self:
        self.lab.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lab.__exit__(kind, error, trace)
        for reader in self._readers:
            reader.join(timeout=5)

    def daemon(self, node: str) -> Daemon:
        """The daemon of a machine. Raises ``LabError`` when none was started there."""
        if node not in self._daemons:
            raise LabError(f"no daemon was started on {node}")
        return self._daemons[node]

    @property
    def home_agent(self) -> Daemon:
        """The home agent's daemon. Raises ``LabError`` before ``start_daemons``."""
        return self.daemon("ha")

    @property
    def mobile_node(self) -> Daemon:
        """The mobile node's daemon. Raises ``LabError`` before ``start_daemons``."""
        return self.daemon("mn")

    # -------------------------------------------------------------- waiting
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.wait_until(lambda: False, seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition, at most so long; whether it came true."""
        deadline = time.monotonic() + seconds
        while True:
            if condition():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.tick()
            time.sleep(min(0.05, left))

    def require(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition. Raises ``LabError`` naming ``what`` when it stays away."""
        if not self.wait_until(condition, seconds):
            raise LabError(f"{what}: not within {seconds:g} s")

    # ------------------------------------------------------------- programs
    def start_capture(self, taps: Iterable[Tap]) -> None:
        """Open the taps; returns when packets are being written."""
        self._capture = self._start_program("capture", None, str(self._capture_file), list(taps))
        if self._capture.stdout is None or not self._capture.stdout.readline():
            raise LabError(f"the capture did not start: {self._said('capture')}")
        self._read(self._capture, Sighting)

    def start_daemons(self, configurations: Mapping[str, str]) -> None:
        """Start a daemon on each machine named; returns when all serve."""
        started = {node: Daemon(self.lab, node, text) for node, text in configurations.items()}
        self._daemons.update(started)
        for node, daemon in started.items():
            self.require(daemon.is_ready, 15, f"the daemon on {node} serves")

    def start_traffic(self) -> None:
        """Start every flow; returns when both TCP transfers deliver."""
        for node, flows in self.flows.items():
            process = self._start_program("traffic", node, flows)
            self._traffic.append(process)
            self._read(process, Report)
        self.require(self.traffic_flows, 10, "TCP and UDP between correspondent and mobile node")

    def traffic_flows(self) -> bool:
        """Whether every measured flow has delivered something; False also when one broke."""
        for process in self._traffic:
            if process.poll() is not None:
                raise LabError("a traffic program ended: " + self._said("traffic"))
        return all(count for count, _ in self.recorder.progress().values())

    def stop_traffic(self) -> None:
        """Stop senders, let receivers finish, then end the capture."""
        for process in self._traffic:
            _tell(process, b"stop\n")
        transfers = self.recorder.tcp.values()
        self.wait_until(lambda: all(_has_ended(t.sender, t.receiver) for t in transfers), 8)
        self.wait(0.2)  # datagrams in flight
        for process in [*self._traffic, *([self._capture] if self._capture else [])]:
            if process.stdin:
                process.stdin.close()
            process.wait(timeout=10)
        for reader in self._readers:
            reader.join(timeout=5)

    def _start_program(
        self, name: str, node: str | None, *arguments: object
    ) -> subprocess.Popen[bytes]:
        """Start a module of this package, in a machine or beside them all."""
        texts = [a if isinstance(a, str) else msgspec.json.encode(a).decode() for a in arguments]
        argv = [sys.executable, "-m", f"fastmip.runtime.demo.{name}", *texts]
        with (self.lab.directory / f"{name}.log").open("ab") as log:
            return self.lab.popen(
                node, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )

    def _said(self, name: str) -> str:
        lines = (self.lab.directory / f"{name}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "no output"

    def _read(self, process: subprocess.Popen[bytes], kind: Any) -> None:
        decoder = msgspec.json.Decoder(kind)

        def read() -> None:
            if process.stdout is None:
                return
            for line in process.stdout:
                self.recorder.take(decoder.decode(line))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        self._readers.append(thread)


def _has_ended(*ends: object) -> bool:
    return all(getattr(end, "state", "open") not in ("open", "waiting") for end in ends)


def _tell(process: subprocess.Popen[bytes], line: bytes) -> None:
    if process.stdin and process.poll() is None:
        process.stdin.write(line)
        process.stdin.flush()


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, and never for a moment otherwise."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)
