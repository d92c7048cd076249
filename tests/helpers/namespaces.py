"""Network namespaces for tests and benchmarks that need real kernels as peers."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)
_NAMES = Path("/run/netns")
_STALE = re.compile(r"fmt(\d+)x\d+-")


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 5.0) -> Any:
    """Wait until ``condition()`` is true and return its value; fail naming ``what``."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"gave up after {timeout_s:g} s waiting for {what}")
        time.sleep(0.01)


def sweep(names: Path = _NAMES) -> list[str]:
    """Remove namespaces whose test run was killed, with what still runs in them."""
    found = [path.name for path in names.iterdir()] if names.is_dir() else []
    stale = [
        name
        for name in found
        if (made := _STALE.match(name)) and not Path("/proc", made[1]).exists()
    ]
    for name in stale:
        listed = subprocess.run(
            ["ip", "netns", "pids", name], check=False, capture_output=True, text=True
        )
        for pid in listed.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    return stale


sweep_once = functools.cache(sweep)
"""For the first set of namespaces of a process."""


class Namespaces:
    """A set of namespaces with a unique prefix; a context manager that removes all it made."""

    def __init__(self, *names: str) -> None:
        self.prefix = f"fmt{os.getpid()}x{next(_numbers)}"
        self.names = names
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        sweep_once()
        try:
            for name in self.names:
                self._ip("netns", "add", self.full(name))
                self.ip(name, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def full(self, name: str) -> str:
        """The name of a namespace as ``ip netns`` knows it."""
        return f"{self.prefix}-{name}"

    @staticmethod
    def _ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"ip {' '.join(words)}: {done.stderr.strip()}")

    def ip(self, name: str, *words: str) -> None:
        """``ip`` in a namespace; its error message fails the test."""
        self._ip("-n", self.full(name), *words)

    def wire(self, one: str, one_port: str, two: str, two_port: str, *options: str) -> None:
        """A veth pair between two namespaces, both ends up."""
        peer = ["peer", "name", two_port, "netns", self.full(two)]
        self.ip(one, "link", "add", one_port, *options, "type", "veth", *peer, *options)
        self.ip(one, "link", "set", one_port, "up")
        self.ip(two, "link", "set", two_port, "up")

    def sysctl(self, name: str, **settings: int) -> None:
        """Write settings below /proc/sys/net/ipv4; ``__`` stands for ``/``."""
        with self.inside(name):
            for key, value in settings.items():
                path = Path("/proc/sys/net/ipv4") / key.replace("__", "/")
                path.write_text(str(value))

    def run(self, name: str, *command: str, check: bool = True, timeout_s: float = 30) -> str:
        """A command in a namespace: its standard output."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.full(name), *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, name: str, *command: str) -> subprocess.Popen[str]:
        """A command in a namespace, in the background; ended with the namespaces."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.full(name), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._processes.append(process)
        return process

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread is in the namespace: sockets and devices are made there."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.full(name)}", os.O_RDONLY)
        try:
            _setns(there)
            try:
                yield
            finally:
                _setns(here)
        finally:
            os.close(there)
            os.close(here)

    def statistics(self, name: str, port: str, *counters: str) -> list[int]:
        """Interface counters such as ``rx_packets``."""
        base = f"/sys/class/net/{port}/statistics"
        text = self.run(name, "cat", *[f"{base}/{counter}" for counter in counters])
        return [int(line) for line in text.split()]

    def close(self) -> None:
        """End what runs in the namespaces and remove them."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
        self._processes.clear()
        for name in self.names:
            subprocess.run(
                ["ip", "netns", "delete", self.full(name)], check=False, capture_output=True
            )


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")
