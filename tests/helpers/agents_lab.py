"""Home agent, two foreign agents and a mobile node, all real daemons, among stock kernels.

The lab is the one of ``fastmip demo --scene foreign`` (``fastmip.runtime.demo.topology``,
``AGENTS``). It is shared by the tests of a module: agents keep running while tests ask for the
same configuration, the mobile node starts anew for each test.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.helpers.waiting import wait_until

from fastmip.runtime.demo.lab import Lab
from fastmip.runtime.demo.stage import Daemon
from fastmip.runtime.demo.topology import AGENTS, HOME, HOME_ADDRESS, Link, Topology

KEY = bytes(range(16)).hex()
SHARED_KEY = bytes(range(100, 116)).hex()
FA1, FA2, HA, CN, HH = "10.3.1.1", "10.3.2.1", "10.1.0.1", "10.9.0.7", "10.1.0.50"

_DAEMON = """\
[daemon]
state_dir = "{folder}/{node}-state"
control_socket = "{folder}/{node}.sock"
log_format = "json"
log_level = "debug"
[engine]
max_bindings = 1024
"""
_HOME_AGENT = """\
[home_agent]
address = "10.1.0.1"
home_network = "10.1.0.0/24"
interface = "eth0"
{settings}
[[home_agent.host]]
home_address = "10.1.0.5"
[[home_agent.host.association]]
spi = 256
key = "{key}"
{more}
"""
_FOREIGN_AGENT = """\
[foreign_agent]
interfaces = ["visit0"]
{settings}
{more}
"""
_MOBILE_NODE = """\
[mobile_node]
home_address = "10.1.0.5"
home_network = "10.1.0.0/24"
home_agent = "10.1.0.1"
interfaces = ["eth0", "wlan0"]
care_of = "{care_of}"
handover = "{handover}"
{settings}
[mobile_node.association]
spi = 256
key = "{key}"
{more}
"""
PROVEN_HOME_AGENT = f"""
[[foreign_agent.home_agent]]
address = "10.1.0.1"
[[foreign_agent.home_agent.association]]
spi = 512
key = "{SHARED_KEY}"
"""
PROVEN_FOREIGN_AGENTS = "".join(
    f"""
[[home_agent.foreign_agent]]
address = "{address}"
[[home_agent.foreign_agent.association]]
spi = 512
key = "{SHARED_KEY}"
"""
    for address in (FA1, FA2, "10.4.0.2")
)
"""The third foreign agent is known by its translator's address."""

_CLEAR = (
    ("ha", "clear binding"),
    *((node, "clear visitor") for node in ("fa1", "fa2", "fa3")),
)

_TALK = """
import socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5, ("10.1.0.5", 0))
peer.settimeout(25)
for line in sys.stdin.buffer:
    peer.sendall(line)
    got = b""
    while not got.endswith(b"\\n"):
        data = peer.recv(4096)
        if not data:
            sys.exit("the connection ended")
        got += data
    sys.stdout.buffer.write(got)
    sys.stdout.flush()
"""
_ECHO = """
import socket, sys
listening = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
peer, _ = listening.accept()
while data := peer.recv(4096):
    peer.sendall(data)
"""


class Talk:
    """One TCP connection from the mobile node's home address to the correspondent."""

    _ports = iter(range(7000, 8000))

    def __init__(self, lab: Lab) -> None:
        """Connect; the mobile node must be reachable."""
        words = [CN, str(next(Talk._ports))]
        server = lab.popen("cn", [sys.executable, "-c", _ECHO, *words], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        self._client = lab.popen(
            "mn",
            [sys.executable, "-c", _TALK, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.echoes(b"hello")

    def echoes(self, word: bytes) -> bool:
        """Whether a word comes back over the connection."""
        if self._client.stdin is None or self._client.stdout is None:
            return False
        self._client.stdin.write(word + b"\n")
        self._client.stdin.flush()
        return self._client.stdout.readline() == word + b"\n"


class Pings:
    """Numbered echo requests at a pace, in the background."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Take over a running ping."""
        self._process = process
        self.sent = self.received = self.duplicates = 0

    def stop(self) -> None:
        """End it and read its summary."""
        time.sleep(0.1)
        self._process.send_signal(signal.SIGINT)
        output = self._process.communicate(timeout=10)[0].decode()
        found = re.search(
            r"(\d+) packets transmitted, (\d+) received(?:, \+(\d+) duplicates)?", output
        )
        assert found, output
        self.sent, self.received = int(found[1]), int(found[2])
        self.duplicates = int(found[3] or 0)

    @property
    def lost(self) -> int:
        """Requests without a reply, after ``stop``."""
        return self.sent - self.received


class Capture:
    """tcpdump on a port; after ``stop`` its packets can be read with tshark."""

    def __init__(self, lab: Lab, node: str, port: str, path: Path) -> None:
        """Start; returns when packets are being written."""
        self._path = path
        self._process = lab.popen(
            node,
            ["tcpdump", "-i", port, "-U", "--immediate-mode", "-w", str(path), "-Z", "root"],
            stderr=subprocess.PIPE,
        )
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        self._heard = b""
        wait_until(self._listening, 10, "tcpdump")

    def _listening(self) -> bool:
        if self._process.stderr is not None:
            self._heard += self._process.stderr.read() or b""
        return b"listening on" in self._heard

    def stop(self) -> None:
        """End the capture."""
        if self._process.poll() is None:
            time.sleep(0.15)  # what was sent is on its way into the file
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=10)

    def rows(self, only: str, *fields: str) -> list[tuple[str, ...]]:
        """Fields of the packets that pass a display filter; stops the capture first."""
        self.stop()
        command = ["tshark", "-n", "-r", str(self._path), "-Y", only, "-T", "fields"]
        for field in fields:
            command += ["-e", field]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [tuple(line.split("\t")) for line in done.stdout.splitlines()]

    def count(self, only: str) -> int:
        """How many packets pass a display filter."""
        return len(self.rows(only, "frame.number"))


class AgentsLab:
    """The lab with its daemons; a context manager that leaves nothing behind."""

    def __init__(self, topology: Topology = AGENTS) -> None:
        """Nothing is built before the context is entered."""
        self.net = Lab(topology)
        self._running: dict[str, tuple[str, Daemon]] = {}
        self._captures = 0
        self._open: list[Capture] = []
        self._plugged: dict[str, Link] = {}

    def __enter__(self) -> Self:
        """Build the lab."""
        source = str(Path(__file__).parents[2] / "src")
        inherited = os.environ.get("PYTHONPATH", "")
        if source not in inherited.split(os.pathsep):
            os.environ["PYTHONPATH"] = source + os.pathsep + inherited
        self.net.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take all down; a traceback in a log fails the last test."""
        logs = {node: daemon.log for node, (_, daemon) in self._running.items()}
        texts = {node: log.read_text() for node, log in logs.items()}
        self.net.__exit__(kind, error, trace)
        for node, text in texts.items():
            start = text.find("Traceback")
            assert start < 0, f"{node}: {text[start : start + 2000]}"

    # ------------------------------------------------------------- daemons
    def run(self, node: str, tables: str) -> Daemon:
        """A daemon with this configuration on a machine; one that has it already stays."""
        text = _DAEMON.format(folder=self.net.directory, node=node) + tables
        if node in self._running and self._running[node][0] == text:
            return self._running[node][1]
        self.end(node)
        daemon = Daemon(self.net, node, text)
        self._running[node] = (text, daemon)
        wait_until(daemon.is_ready, 20, f"the daemon on {node}")
        return daemon

    def end(self, node: str) -> None:
        """Stop a daemon, if there is one, in order."""
        if node in self._running:
            _, daemon = self._running.pop(node)
            daemon.process.terminate()
            assert daemon.process.wait(timeout=15) == 0, daemon.log.read_text()[-3000:]
            assert "Traceback" not in daemon.log.read_text()

    def home_agent(self, settings: str = "", more: str = "") -> Daemon:
        """The home agent, ``settings`` in its table and further tables."""
        return self.run("ha", _HOME_AGENT.format(settings=settings, more=more, key=KEY))

    def foreign_agent(self, node: str, settings: str = "", more: str = "") -> Daemon:
        """A foreign agent."""
        return self.run(node, _FOREIGN_AGENT.format(settings=settings, more=more))

    def agents(self) -> Daemon:
        """All three agents as they are without settings; returns the home agent."""
        self.foreign_agent("fa1")
        self.foreign_agent("fa2")
        return self.home_agent()

    def mobile_node(
        self,
        settings: str = "",
        more: str = "",
        *,
        handover: str = "fast",
        care_of: str = "foreign-agent-first",
        key: str = KEY,
    ) -> Daemon:
        """The mobile node, always started anew."""
        self.end("mn")
        text = _MOBILE_NODE.format(
            settings=settings, more=more, key=key, handover=handover, care_of=care_of
        )
        return self.run("mn", text)

    def forget(self, node: str) -> None:
        """Do not end this daemon again: it was killed."""
        self._running.pop(node)

    def daemon(self, node: str) -> Daemon:
        """A running daemon."""
        return self._running[node][1]

    def reset(self) -> None:
        """After a test: the mobile node gone, its links and bindings too."""
        for capture in self._open:
            capture.stop()
        self._open.clear()
        self.end("mn")
        for port in list(self._plugged):
            self.leave(port)
        for node, command in _CLEAR:
            if node in self._running:
                self.daemon(node).ask(command, all=True)

    # ------------------------------------------------------------ movement
    def attach(self, port: str, link: Link) -> None:
        """Plug a port into a link and play the DHCP client, where there is a server."""
        self.net.plug(port, link)
        self.net.lease(port, link)
        self._plugged[port] = link

    def leave(self, port: str) -> None:
        """Unplug a port."""
        self.net.unplug(port)
        self.net.release(port)
        self._plugged.pop(port, None)

    def move(self, link: Link, port: str = "eth0") -> None:
        """Break before make: to a link, until the home agent knows."""
        self.leave(port)
        self.attach(port, link)
        self.settled(link, port)

    def settled(self, link: Link, port: str = "eth0", seconds: float = 15) -> None:
        """Wait until home agent and mobile node agree on this attachment."""
        wanted = set() if link is HOME else {link.care_of_address(port)}
        state = "home" if link is HOME else "registered"
        wait_until(
            lambda: self.care_of() == wanted and self.state() == state,
            seconds,
            f"the binding on {link.name} ({self.care_of()}, {self.state()})",
        )

    # -------------------------------------------------------------- seeing
    def state(self) -> str:
        """The mobile node's state."""
        return str(self.daemon("mn").ask("show binding")["summary"]["state"])

    def bindings(self) -> list[dict[str, Any]]:
        """What the home agent holds."""
        rows: list[dict[str, Any]] = self.daemon("ha").ask("show binding")["rows"]
        return rows

    def care_of(self) -> set[str]:
        """Care-of addresses at the home agent."""
        return {str(row["care_of_address"]) for row in self.bindings()}

    def visitors(self, node: str) -> list[dict[str, Any]]:
        """Visitors of a foreign agent."""
        rows: list[dict[str, Any]] = self.daemon(node).ask("show visitor")["rows"]
        return rows

    def counter(self, node: str, name: str) -> int:
        """A counter of ``show traffic``."""
        rows = self.daemon(node).ask("show traffic")["rows"]
        return int({row["counter"]: row["value"] for row in rows}[name])

    def verdict(self, node: str, name: str) -> int:
        """Packets of a verdict of ``show errors``, 0 when there were none."""
        rows = self.daemon(node).ask("show errors")["rows"]
        return int({row.get("verdict"): row.get("packets") for row in rows}.get(name) or 0)

    def pings(self, node: str, address: str, *options: str) -> bool:
        """Whether one of up to three echo requests is answered."""
        command = ["ping", "-c", "3", "-i", "0.2", "-W", "1", *options, address]
        done = self.net.run(node, *command, check=False)
        return ", 0 received" not in done.stdout and " received" in done.stdout

    def both_ways(self) -> bool:
        """Whether correspondent and mobile node reach each other by the home address."""
        return self.pings("cn", HOME_ADDRESS) and self.pings("mn", CN, "-I", HOME_ADDRESS)

    def start_pings(self, node: str, address: str, *options: str, interval: str = "0.02") -> Pings:
        """Echo requests in the background."""
        command = ["ping", "-q", "-i", interval, *options, address]
        return Pings(self.net.popen(node, command, stdout=subprocess.PIPE))

    def talk(self) -> Talk:
        """A TCP connection from the home address."""
        return Talk(self.net)

    def capture(self, node: str, port: str) -> Capture:
        """Capture a port of a machine."""
        self._captures += 1
        path = self.net.directory / f"{self._captures}.pcap"
        capture = Capture(self.net, node, port, path)
        self._open.append(capture)
        return capture

    def python(self, node: str, code: str, *arguments: str) -> str:
        """Run a piece of Python on a machine."""
        return self.net.run(node, sys.executable, "-c", code, *arguments).stdout


@contextmanager
def one_test(lab: AgentsLab) -> Iterator[AgentsLab]:
    """Give a test the shared lab and tidy up after it."""
    yield lab
    lab.reset()


def eventually(condition: Callable[[], object], seconds: float, what: str) -> None:
    """As ``wait_until``, with the words in another order."""
    wait_until(condition, seconds, what)
