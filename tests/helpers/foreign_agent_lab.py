"""A foreign agent among stock kernels, with a real home agent and a node made by hand.

::

    cn 10.9.0.7 --- rt --- ha 10.1.0.1 (virtual home network 10.1.0.0/24)
                     \\--- fa 10.3.0.1 | 10.3.1.1 --- air --- mn (10.1.0.5)

``fa`` and ``ha`` run the daemon from a TOML file each. ``mn`` is a stock kernel with the home
address on the visited link; its messages the test makes by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers import handmade
from tests.helpers.home_agent_lab import RUN, SOURCE
from tests.helpers.namespaces import Namespaces, wait_for

HOME_AGENT = "10.1.0.1"
HOME_ADDRESS = "10.1.0.5"
CARE_OF = "10.3.1.1"
CORRESPONDENT = "10.9.0.7"
T, D, M, G = 0x02, 0x20, 0x10, 0x08
SHARED_SPI, SHARED_KEY = 0x300, bytes(range(100, 116))


class Machine:
    """A namespace that runs the daemon."""

    def __init__(self, net: Namespaces, name: str, folder: Path) -> None:
        self.net = net
        self.name = name
        self.folder = folder
        folder.mkdir()
        self.config = folder / "fastmip.toml"
        self.socket_path = folder / "control.sock"
        self.daemon: subprocess.Popen[bytes] | None = None

    def write(self, tables: str) -> None:
        """Write the file: ``[daemon]`` and these tables."""
        self.config.touch(0o600)
        self.config.write_text(
            f'[daemon]\nstate_dir = "{self.folder}"\n'
            f'control_socket = "{self.socket_path}"\n{tables}'
        )

    def start(self) -> None:
        """Start and wait until it answers."""
        command = ["ip", "netns", "exec", self.net.full(self.name)]
        command += [sys.executable, "-c", RUN, str(self.config)]
        with (self.folder / "log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.daemon = daemon
        wait_for(f"the daemon on {self.name}", lambda: self._answers(daemon), 20)

    def _answers(self, daemon: subprocess.Popen[bytes]) -> bool:
        assert daemon.poll() is None, self.log()
        try:
            return bool(self.ask("status"))
        except OSError:
            return False

    def end(self, number: int = signal.SIGTERM) -> int:
        """End the daemon by a signal; returns the exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        return self.daemon.wait(20)

    def close(self) -> None:
        """Kill what still runs."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait(20)

    def log(self) -> str:
        """What its daemons logged."""
        return (self.folder / "log").read_text()

    def ask(self, command: str, **arguments: object) -> Any:
        """The result of a control command that must succeed."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.socket_path))
            client.sendall(json.dumps({"command": command, "args": arguments}).encode() + b"\n")
            with client.makefile() as lines:
                answer = json.loads(lines.readline())
        assert answer["ok"], answer
        return answer["result"]

    def counter(self, name: str) -> int:
        """A counter of ``show traffic``."""
        rows = self.ask("show traffic")["rows"]
        return int({row["counter"]: row["value"] for row in rows}[name])

    def verdicts(self) -> dict[str, int]:
        """Packets by verdict."""
        rows = self.ask("show errors")["rows"]
        return {row["verdict"]: row["packets"] for row in rows if "verdict" in row}


class ForeignAgentLab:
    """Namespaces with both daemons; a context manager that leaves nothing behind."""

    def __init__(self, folder: Path) -> None:
        self.net = Namespaces("fa", "ha", "rt", "cn", "mn")
        self.fa = Machine(self.net, "fa", folder / "fa")
        self.ha = Machine(self.net, "ha", folder / "ha")
        self.settings = ""
        """More lines of ``[foreign_agent]``."""
        self.more = ""
        """Further tables of the foreign agent's file."""
        self.home_settings = ""
        """More lines of ``[home_agent]``, tables in it too."""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ForeignAgentLab:
        self._stack.enter_context(self.net)
        self._stack.callback(self.fa.close)
        self._stack.callback(self.ha.close)
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
        for name in ("fa", "ha", "cn"):
            net.wire(name, "core", "rt", f"to-{name}")
        addresses = [
            ("fa", "core", "10.3.0.1/24", "10.3.0.254"),
            ("ha", "core", "10.8.0.1/24", "10.8.0.254"),
            ("cn", "core", "10.9.0.7/24", "10.9.0.1"),
            ("rt", "to-fa", "10.3.0.254/24", ""),
            ("rt", "to-ha", "10.8.0.254/24", ""),
            ("rt", "to-cn", "10.9.0.1/24", ""),
            ("ha", "lo", f"{HOME_AGENT}/32", ""),
        ]
        for name, device, address, gateway in addresses:
            net.ip(name, "address", "add", address, "dev", device)
            if gateway:
                net.ip(name, "route", "add", "default", "via", gateway)
        net.ip("rt", "route", "add", "10.1.0.0/24", "via", "10.8.0.1")
        net.ip("rt", "route", "add", "10.3.1.0/24", "via", "10.3.0.1")
        for name in ("rt", "fa", "ha"):
            net.sysctl(name, ip_forward=1)
        self.build_air()

    def build_air(self) -> None:
        """Make the visited link, with the mobile node on it."""
        net = self.net
        net.wire("fa", "air", "mn", "eth0")
        net.ip("fa", "address", "add", f"{CARE_OF}/24", "dev", "air")
        net.ip("mn", "address", "add", f"{HOME_ADDRESS}/32", "dev", "eth0")
        # What a mobile node knows of its foreign agent: address and MAC of its advertisements.
        net.ip("mn", "route", "add", "default", "via", CARE_OF, "dev", "eth0", "onlink")
        mac = self.mac("fa", "air")
        net.ip("mn", "neigh", "add", CARE_OF, "lladdr", mac, "dev", "eth0", "nud", "permanent")
        net.sysctl("mn", conf__all__rp_filter=0, conf__eth0__rp_filter=0, conf__eth0__arp_ignore=8)

    def mac(self, name: str, device: str = "eth0") -> str:
        """Link-layer address of a device."""
        return self.net.run(name, "cat", f"/sys/class/net/{device}/address").strip()

    def start(self) -> None:
        """Start both daemons."""
        self.start_home_agent()
        self.start_foreign_agent()

    def start_home_agent(self) -> None:
        """Start the home agent."""
        self.ha.write(
            f'[home_agent]\naddress = "{HOME_AGENT}"\nhome_network = "10.1.0.0/24"\n'
            f"{self.home_settings}\n"
            f'[[home_agent.host]]\nhome_address = "{HOME_ADDRESS}"\n'
            f"[[home_agent.host.association]]\nspi = {handmade.SPI}\n"
            f'key = "{handmade.KEY.hex()}"\n'
        )
        self.ha.start()

    def write_foreign_agent(self) -> None:
        """Write the foreign agent's file."""
        self.fa.write(f'[foreign_agent]\ninterfaces = ["air"]\n{self.settings}\n{self.more}\n')

    def start_foreign_agent(self) -> None:
        """Start the foreign agent."""
        self.write_foreign_agent()
        self.fa.start()

    # the mobile node, by hand

    def node(self, *, ttl: int = 255, address: str = HOME_ADDRESS) -> socket.socket:
        """A UDP socket of the mobile node, closed with the lab."""
        with self.net.inside("mn"):
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stack.callback(opened.close)
        opened.settimeout(3)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        opened.bind((address, 0))
        return opened

    def packets(self, name: str, device: str) -> socket.socket:
        """A packet socket in a namespace, closed with the lab."""
        with self.net.inside(name):
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            opened.bind((device, 3))
        self._stack.callback(opened.close)
        opened.settimeout(3)
        return opened

    @staticmethod
    def request(**fields: Any) -> bytes:
        """A Registration Request for the foreign agent's care-of address."""
        values: dict[str, Any] = {"flags": T, "home_agent": HOME_AGENT} | fields
        home_address = values.pop("home_address", HOME_ADDRESS)
        care_of = values.pop("care_of", CARE_OF)
        return handmade.request(home_address, care_of, **values)

    def exchange(self, client: socket.socket, message: bytes) -> bytes:
        """Send to the foreign agent and return what it answers, from where it was asked."""
        client.sendto(message, (CARE_OF, 434))
        data, source = client.recvfrom(2048)
        assert source == (CARE_OF, 434)
        return data

    def register(self, client: socket.socket | None = None, **fields: Any) -> socket.socket:
        """Register through the foreign agent; must be accepted. Returns the socket used."""
        client = self.node() if client is None else client
        data = self.exchange(client, self.request(**fields))
        assert data[:2] == b"\x03\x00", data[:2]
        assert data[20:22] == b"\x20\x14"
        return client

    def code(self, message: bytes, *, ttl: int = 255) -> int:
        """The code a request is answered with."""
        return self.exchange(self.node(ttl=ttl), message)[1]

    def ping(self, where: str, address: str, count: int = 1, *options: str) -> bool:
        """Whether every ping is answered."""
        command = ["ping", "-q", "-c", str(count), "-i", "0.05", "-W", "2", *options, address]
        text = self.net.run(where, *command, check=False)
        return f" {count} received" in text

    def kernel_state(self, name: str = "fa") -> list[str]:
        """Rules, routes, permanent neighbours, devices and settings of a kernel."""
        commands = [
            "ip -4 rule",
            "ip -4 route show table all",
            "ip -4 neigh show nud permanent",
            "ip -br link",
            "ip -br address",
            "cat /proc/sys/net/ipv4/conf/air/rp_filter /proc/sys/net/ipv4/ip_forward",
        ]
        return [self.net.run(name, *command.split()) for command in commands]
