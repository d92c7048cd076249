"""The network of the scene ``plane`` with its daemons, for tests of mobile routers."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.helpers.waiting import wait_until

from fastmip.runtime.demo import plane_topology as places
from fastmip.runtime.demo.lab import Lab
from fastmip.runtime.demo.plane_topology import AIRCRAFT
from fastmip.runtime.demo.stage import Daemon, write_private
from fastmip.runtime.demo.topology import Link

CN = "10.9.0.7"
_TALK = """
import socket, sys
peer = socket.create_connection((sys.argv[1], 7000), 5, (sys.argv[2], 0))
peer.settimeout(25)
for line in sys.stdin.buffer:
    peer.sendall(line)
    got = b""
    while not got.endswith(b"\\n"):
        got += peer.recv(4096) or sys.exit("the connection ended")
    print("echo", flush=True)
"""
_ECHO = """
import socket
listening = socket.create_server(("", 7000))
print("ready", flush=True)
while True:
    peer, _ = listening.accept()
    while data := peer.recv(4096):
        peer.sendall(data)
"""


class AircraftLab:
    """Home agents and ground stations run from the start; what is on board as told."""

    def __init__(self) -> None:
        self.lab = Lab(AIRCRAFT)
        self.daemons: dict[str, Daemon] = {}
        self._configurations: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.lab.__enter__()
        for name in places.KEYS:
            write_private(self.lab.directory / f"{name}.key", secrets.token_hex(16) + "\n")
        self._configurations = places.configurations(self.lab.directory)
        self.start("haw", "haa", "fa1", "fa2")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for node in self.daemons:
                words = (self.lab.directory / f"{node}.log").read_text(errors="replace")
                print(f"--- {node}\n{words[-3000:]}")  # noqa: T201 - pytest shows it
        self.lab.__exit__(kind, error, trace)

    def start(self, *nodes: str, change: Callable[[str], str] = str) -> None:
        """Run their daemons, with their configurations changed; returns when they serve."""
        for node in nodes:
            self.daemons[node] = Daemon(self.lab, node, change(self._configurations[node]))
        for node in nodes:
            wait_until(self.daemons[node].is_ready, 20, f"the daemon on {node}")

    def stop(self, node: str) -> None:
        """End a daemon in order."""
        daemon = self.daemons.pop(node)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(timeout=20) == 0, daemon.log.read_text()

    def move(self, port: str, place: Link) -> None:
        """Plug ``mr``, ``mr2`` or ``mn`` in somewhere else; with an address where one is given."""
        lab = self.lab
        lab.unplug(port)
        if port == "mr":
            lab.run("mr", "ip", "-4", "address", "flush", "dev", "up0", "scope", "global")
        lab.plug(port, place)
        if port in place.leases:
            to = f"address add {place.leases[port]} dev up0"
            lab.ip(port, to, f"route replace default via {place.gateway} dev up0")

    def care_of(self, home_agent: str, home_address: str) -> list[str]:
        """What a home agent holds for a node."""
        rows = self.daemons[home_agent].ask("show binding")["rows"]
        return [str(r["care_of_address"]) for r in rows if r["home_address"] == home_address]

    def registered(self, home_agent: str, home_address: str, care_of: str) -> None:
        """Wait until a home agent holds exactly this."""
        wait_until(
            lambda: self.care_of(home_agent, home_address) == [care_of],
            20,
            f"{home_address} at {care_of}",
        )

    def pings(self, node: str, address: str, *options: str) -> bool:
        """One echo request, and whether it is answered."""
        done = self.lab.run(node, "ping", "-c1", "-W2", *options, address, check=False)
        return done.returncode == 0

    def reaches(self, node: str, address: str, *options: str) -> None:
        """Wait until an echo request is answered."""
        wait_until(lambda: self.pings(node, address, *options), 20, f"{node} reaches {address}")

    def rows(self, node: str, command: str) -> list[dict[str, Any]]:
        """Rows of an answer."""
        found: list[dict[str, Any]] = self.daemons[node].ask(command)["rows"]
        return found

    def conversation(self, node: str, address: str) -> Callable[[], None]:
        """A TCP connection from the correspondent; call it to send a line there and back."""
        lab = self.lab
        echo = lab.popen(node, [sys.executable, "-c", _ECHO], stdout=subprocess.PIPE)
        assert echo.stdout is not None
        assert echo.stdout.readline() == b"ready\n"
        talk = lab.popen(
            "cn",
            [sys.executable, "-c", _TALK, address, CN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

        def say() -> None:
            assert talk.stdin is not None
            assert talk.stdout is not None
            talk.stdin.write(b"x" * 3000 + b"\n")
            talk.stdin.flush()
            assert talk.stdout.readline() == b"echo\n"

        return say
