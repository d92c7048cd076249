"""Sends a load from inside the kernel (BPF_PROG_RUN with live frames), at millions a second.

Frames are handed over in bursts, as a NIC's driver does, for a fraction of what any socket
costs. The kernel runs the program on frame after frame until a signal ends the call, so a load
is sent by a main thread; ``Generator`` is a process that has one, in any namespace.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from fastmip.runtime.bench import bpf_calls
from fastmip.runtime.bench.bpf_calls import BpfError, Map
from fastmip.runtime.bench.traffic import PACE, Load, generator_code

_FOR_EVER = 2**31 - 1
_GRACE_S = 60


@dataclass(frozen=True, slots=True)
class Sent:
    """What a load became."""

    packets: int
    octets: int
    seconds: float
    cpu_seconds: float
    """Of the core that sent: the program, and what the kernel does with a packet at once."""

    @property
    def pps(self) -> float:
        """Packets per second."""
        return self.packets / self.seconds


def send(load: Load, interface: str, *, out: bool) -> Sent:
    """Send a load; call it from the main thread, which gets SIGALRM meanwhile.

    ``out``: by the interface, to whatever it is connected to; otherwise as if it had been received
    there. Raises BpfError, also where the interface's driver cannot send such frames.
    """
    try:
        index = socket.if_nametoindex(interface)
    except OSError:
        raise BpfError(f"{interface}: no such interface") from None
    pace = Map(bpf_calls.ARRAY, PACE.size)
    code = generator_code(load, pace.fd, out=out)
    program = bpf_calls.load_program(bpf_calls.XDP, code, "fastmip_load")
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        start, used = time.monotonic(), time.process_time()
        # Again and again: the first one might come between two calls.
        signal.setitimer(signal.ITIMER_REAL, load.seconds, 0.01)
        while time.monotonic() - start < load.seconds:
            _run(program, load, interface, index)
        seconds, used = time.monotonic() - start, time.process_time() - used
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        told = PACE.unpack(pace.read())
        pace.close()
        os.close(program)
    return Sent(told[1], told[2], seconds, used)


def _run(program: int, load: Load, interface: str, index: int) -> None:
    try:
        bpf_calls.run_live(program, load.frame(), index, repeat=_FOR_EVER, batch=load.batch)
    except InterruptedError:
        pass
    except OSError as error:
        raise BpfError(f"{interface}: the kernel does not send: {error.strerror}") from None


class Generator:
    """A process that sends loads, one after the other; it ends with its maker."""

    def __init__(self, inside: Sequence[str] = ()) -> None:
        """``inside``: the beginning of a command that enters a namespace, chooses a CPU."""
        command = [*inside, sys.executable, "-m", __name__]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe)  # noqa: S603 - our own

    def send(self, load: Load, interface: str, *, out: bool) -> Sent:
        """As ``send`` above, from that process."""
        fields = asdict(load) | {
            "destination_mac": load.destination_mac.hex(),
            "source_mac": load.source_mac.hex(),
        }
        answer = b""
        if self._process.stdin and self._process.stdout:
            self._process.stdin.write(json.dumps([fields, interface, out]).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise BpfError("the load generator ended")
        told = json.loads(answer)
        if isinstance(told, str):
            raise BpfError(told)
        return Sent(**told)

    def __enter__(self) -> Self:
        """Return the running process."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._process.communicate(timeout=_GRACE_S)


def _from_json(fields: dict[str, Any]) -> Load:
    fields["sizes"] = tuple((size, weight) for size, weight in fields["sizes"])
    for name in ("destination_mac", "source_mac"):
        fields[name] = bytes.fromhex(fields[name])
    return Load(**fields)


def _serve() -> None:
    for line in sys.stdin:
        fields, interface, out = json.loads(line)
        try:
            told: object = asdict(send(_from_json(fields), interface, out=out))
        except BpfError as error:
            told = str(error)
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
