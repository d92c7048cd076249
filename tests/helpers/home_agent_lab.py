"""A home agent among stock kernels: home link, router, correspondent, visited link.

::

    cn 10.9.0.7 --- rt --- home link 10.1.0.0/24 (bridge): ha .1, hh .50, mn .5
                     \\--- visited link: away 10.3.1.5 (and .6 to .9)

``ha`` runs the daemon from a TOML file. ``away`` and ``mn`` are the mobile node away and at
home: plain namespaces whose messages the test makes by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers import handmade
from tests.helpers.namespaces import Namespaces, wait_for

SOURCE = Path(__file__).parents[2] / "src"
RUN = "import sys; from fastmip.runtime.daemon import run_daemon; sys.exit(run_daemon(sys.argv[1]))"
HOME_AGENT = "10.1.0.1"
HOME_ADDRESS = "10.1.0.5"
CARE_OF = "10.3.1.5"
CORRESPONDENT = "10.9.0.7"
HOME_HOST = "10.1.0.50"


class HomeAgentLab:
    """Namespaces with a daemon; a context manager that leaves nothing behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "fastmip.toml"
        self.socket_path = folder / "run" / "control.sock"
        self.store = folder / "state" / "fastmip.db"
        self.environment: dict[str, str] = {}
        self.hosts = [HOME_ADDRESS]
        self.settings = ""
        """More lines of ``[home_agent]``."""
        self.more: list[str] = []
        """Further tables of the file."""
        self.workers = 1
        self.engine_settings = os.environ.get("FASTMIP_TEST_ENGINE", "")
        """More lines of ``[engine]``; the variable runs tests with others."""
        self.max_bindings = 4096
        self.has_home_link = True
        self.net = Namespaces("ha", "rt", "hh", "cn", "away", "mn")
        self.daemon: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> HomeAgentLab:
        self._stack.enter_context(self.net)
        self._stack.callback(self._end_daemon)
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        net = self.net
        net.ip("rt", "link", "add", "home", "type", "bridge")
        net.ip("rt", "link", "set", "home", "up")
        for name in ("ha", "hh", "mn"):
            net.wire(name, "eth0", "rt", f"to-{name}")
            net.ip("rt", "link", "set", f"to-{name}", "master", "home")
        for name in ("cn", "away"):
            net.wire(name, "eth0", "rt", f"to-{name}")
        addresses = [
            ("ha", "eth0", "10.1.0.1/24", "10.1.0.254"),
            ("hh", "eth0", "10.1.0.50/24", "10.1.0.254"),
            ("mn", "eth0", "10.1.0.5/24", "10.1.0.254"),
            ("cn", "eth0", "10.9.0.7/24", "10.9.0.1"),
            ("away", "eth0", "10.3.1.5/24", "10.3.1.254"),
            ("rt", "home", "10.1.0.254/24", ""),
            ("rt", "to-cn", "10.9.0.1/24", ""),
            ("rt", "to-away", "10.3.1.254/24", ""),
        ]
        for name, device, address, gateway in addresses:
            net.ip(name, "address", "add", address, "dev", device)
            if gateway:
                net.ip(name, "route", "add", "default", "via", gateway)
        net.ip("mn", "link", "set", "eth0", "down")  # it left
        net.sysctl("rt", ip_forward=1)
        net.sysctl("ha", ip_forward=1)

    # the daemon

    def write_config(self) -> None:
        """Write the daemon's file, keys inside, mode 0600."""
        lines = [
            "[daemon]",
            f'state_dir = "{self.store.parent}"',
            f'control_socket = "{self.socket_path}"',
            'log_level = "info"',
            "[engine]",
            f"max_bindings = {self.max_bindings}",
            f"workers = {self.workers}",
            self.engine_settings,
            "[home_agent]",
            f'address = "{HOME_AGENT}"',
            'home_network = "10.1.0.0/24"',
            'interface = "eth0"' if self.has_home_link else "",
            self.settings,
        ]
        for host in self.hosts:
            lines += [
                "[[home_agent.host]]",
                f'home_address = "{host}"',
                "[[home_agent.host.association]]",
                f"spi = {handmade.SPI}",
                f'key = "{handmade.KEY.hex()}"',
            ]
        lines += self.more
        self.config.touch(0o600)
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, *prefix: str) -> subprocess.Popen[bytes]:
        """Start the daemon (``prefix``: strace and the like) and wait until it answers."""
        self.write_config()
        command = ["ip", "netns", "exec", self.net.full("ha"), *prefix]
        command += [sys.executable, "-c", RUN, str(self.config)]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), **self.environment}
        with (self.folder / "log").open("ab") as log:
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.daemon = daemon
        wait_for("the daemon", lambda: self._answers(daemon), 20)
        return daemon

    def _answers(self, daemon: subprocess.Popen[bytes]) -> bool:
        assert daemon.poll() is None, self.log()
        try:
            return bool(self.ask("status"))
        except OSError:
            return False

    def stop(self) -> int:
        """Stop cleanly; returns the exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(20)

    def kill(self) -> None:
        """kill -9."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait(20)

    def _end_daemon(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait(20)

    def log(self) -> str:
        """What the daemons of this lab logged."""
        return (self.folder / "log").read_text()

    def request(self, command: str, **arguments: object) -> dict[str, Any]:
        """One exchange on the control socket, the whole answer."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.socket_path))
            client.sendall(json.dumps({"command": command, "args": arguments}).encode() + b"\n")
            with client.makefile() as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        return answer

    def ask(self, command: str, **arguments: object) -> Any:
        """The result of a command that must succeed."""
        answer = self.request(command, **arguments)
        assert answer["ok"], answer
        return answer["result"]

    def counter(self, name: str) -> int:
        """A counter of ``show traffic``."""
        rows = self.ask("show traffic")["rows"]
        return int({row["counter"]: row["value"] for row in rows}[name])

    def verdict(self, name: str) -> int:
        """Packets of a verdict of ``show errors``, 0 when there were none."""
        rows = self.ask("show errors")["rows"]
        return int({row.get("verdict"): row["packets"] for row in rows}.get(name, 0))

    def at_end(self, what: Callable[[], object]) -> None:
        """Do this when the lab ends."""
        self._stack.callback(what)

    # the mobile node, by hand

    def udp(self, where: str, address: str, port: int = 0) -> socket.socket:
        """A UDP socket in a namespace, closed with the lab."""
        with self.net.inside(where):
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stack.callback(opened.close)
        opened.settimeout(3)
        opened.bind((address, port))
        return opened

    def raw(self, where: str, protocol: int) -> socket.socket:
        """A raw IP socket in a namespace, closed with the lab."""
        with self.net.inside(where):
            opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
        self._stack.callback(opened.close)
        opened.settimeout(3)
        return opened

    def packet(self, where: str, device: str, protocol: int) -> socket.socket:
        """A packet socket in a namespace, closed with the lab."""
        with self.net.inside(where):
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
            opened.bind((device, protocol))
        self._stack.callback(opened.close)
        opened.settimeout(3)
        return opened

    def exchange(
        self, client: socket.socket, message: bytes, destination: str = HOME_AGENT
    ) -> handmade.Reply:
        """Send a request and read the authentic reply; it must come from the home agent."""
        client.sendto(message, (destination, 434))
        data, source = client.recvfrom(2048)
        assert source == (HOME_AGENT, 434)
        return handmade.read_reply(data)

    def register(self, client: socket.socket, home: str = HOME_ADDRESS, **more: Any) -> None:
        """Register from the visited network; must be accepted."""
        care_of = client.getsockname()[0]
        reply = self.exchange(client, handmade.request(home, care_of, **more))
        assert reply.code == 0, reply

    def return_home(self) -> None:
        """Plug the mobile node into its home link again."""
        self.net.ip("mn", "link", "set", "eth0", "up")
        self.net.ip("mn", "route", "add", "default", "via", "10.1.0.254")

    def neighbour(self, where: str, address: str) -> str:
        """Link-layer address in a stock kernel's ARP table, empty when unknown."""
        words = self.net.run(where, "ip", "neighbour", "show", address).split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""

    def mac(self, where: str, device: str = "eth0") -> str:
        """Link-layer address of a device."""
        return self.net.run(where, "cat", f"/sys/class/net/{device}/address").strip()

    def ping(self, where: str, address: str, count: int = 1) -> bool:
        """Whether every ping is answered."""
        command = ["ping", "-q", "-c", str(count), "-i", "0.05", "-W", "2", address]
        text = self.net.run(where, *command, check=False)
        return f" {count} received" in text

    def kernel_state(self) -> list[str]:
        """Rules, routes, devices and settings of the home agent's kernel."""
        commands = ["ip -4 rule", "ip -4 route show table all", "ip -br link", "ip -br address"]
        state = [self.net.run("ha", *command.split()) for command in commands]
        settings = "/proc/sys/net/ipv4/conf/eth0/rp_filter /proc/sys/net/ipv4/ip_forward"
        return [*state, self.net.run("ha", "cat", *settings.split())]
