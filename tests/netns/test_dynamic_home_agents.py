"""T21: two home agents on one home link share nodes; drained, loaded or at odds (RFC 4433)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.handmade import KEY
from tests.helpers.home_agent_lab import HOME_ADDRESS, HOME_AGENT, RUN, SOURCE
from tests.helpers.namespaces import Namespaces, wait_for

pytestmark = pytest.mark.netns

OTHER = "10.1.0.2"
ADDRESSES = {"ha1": HOME_AGENT, "ha2": OTHER}
MOBILE_NODE = """
[mobile_node]
home_address = "10.1.0.5"
home_network = "10.1.0.0/24"
home_agent = "10.1.0.1"
dynamic_home_agent = "any"
lifetime = 30
interfaces = ["eth0"]
"""
ASSOCIATION = f"""
spi = 256
key = "{KEY.hex()}"
"""


def home_agent(address: str, other: str, settings: str = "") -> str:
    return f"""
[home_agent]
address = "{address}"
home_network = "10.1.0.0/24"
interface = "eth0"
[home_agent.group]
key = "{"5a" * 32}"
{settings}
[[home_agent.group.member]]
address = "{other}"
[[home_agent.host]]
home_address = "{HOME_ADDRESS}"
[[home_agent.host.association]]{ASSOCIATION}
[[home_agent.host]]
home_address = "10.1.0.6"
[[home_agent.host.association]]{ASSOCIATION}
"""


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(20)


class Pair:
    """ha1, ha2 and a host hh on a bridge of rt; the mobile node behind rt, away."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.net = stack.enter_context(Namespaces("ha1", "ha2", "rt", "hh", "mn"))
        net = self.net
        net.ip("rt", "link", "add", "home", "type", "bridge")
        net.ip("rt", "link", "set", "home", "up")
        for name in ("ha1", "ha2", "hh", "mn"):
            net.wire(name, "eth0", "rt", f"to-{name}")
        for name in ("ha1", "ha2", "hh"):
            net.ip("rt", "link", "set", f"to-{name}", "master", "home")
        for name, device, address, gateway in (
            ("ha1", "eth0", "10.1.0.1/24", "10.1.0.254"),
            ("ha2", "eth0", "10.1.0.2/24", "10.1.0.254"),
            ("hh", "eth0", "10.1.0.50/24", "10.1.0.254"),
            ("mn", "eth0", "10.3.1.5/24", "10.3.1.254"),
            ("rt", "home", "10.1.0.254/24", ""),
            ("rt", "to-mn", "10.3.1.254/24", ""),
        ):
            net.ip(name, "address", "add", address, "dev", device)
            if gateway:
                net.ip(name, "route", "add", "default", "via", gateway)
        for name in ("ha1", "ha2", "rt"):
            net.sysctl(name, ip_forward=1)

    def run(self, node: str, tables: str) -> None:
        """Start a daemon and wait until it answers."""
        config = self.folder / f"{node}.toml"
        config.touch(0o600)
        config.write_text(
            f'[daemon]\nstate_dir = "{self.folder}/{node}-state"\n'
            f'control_socket = "{self.folder}/{node}.sock"\n'
            f"[engine]\nmax_bindings = 1024\n{tables}"
        )
        command = ["ip", "netns", "exec", self.net.full(node), sys.executable, "-c", RUN]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        with (self.folder / f"{node}.log").open("ab") as log:
            process = subprocess.Popen([*command, str(config)], env=environment, stderr=log)
        self.stack.callback(end, process)
        wait_for(node, lambda: self.answers(node), 20)

    def answers(self, node: str) -> bool:
        try:
            return bool(self.ask(node, "status"))
        except OSError:
            return False

    def ask(self, node: str, command: str, **arguments: object) -> Any:
        """What the daemon answers to a control command."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.folder / f"{node}.sock"))
            request = {"command": command, "args": arguments}
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile() as lines:
                answer = json.loads(lines.readline())
        assert answer["ok"], answer
        return answer["result"]

    def bound(self, node: str) -> list[str]:
        return [row["home_address"] for row in self.ask(node, "show binding")["rows"]]

    def hear_each_other(self) -> None:
        """Wait until the home agents know each other's load."""

        def known() -> bool:
            rows = [row for node in ADDRESSES for row in self.ask(node, "show group")["rows"]]
            return len(rows) == 4 and {row["state"] for row in rows} <= {"up", "draining"}

        wait_for("the group", known, 20)


def test_t21_a_drained_home_agent_sends_its_nodes_on_rfc4433(tmp_path: Path) -> None:
    with ExitStack() as stack:
        pair = Pair(tmp_path, stack)
        pair.run("ha1", home_agent(HOME_AGENT, OTHER))
        pair.run("ha2", home_agent(OTHER, HOME_AGENT))
        pair.hear_each_other()
        assert pair.ask("ha1", "drain", state="on") == {"draining": True, "bindings": 0}
        pair.run("mn", f"{MOBILE_NODE}[mobile_node.association]{ASSOCIATION}")
        wait_for("ha2 to serve it", lambda: HOME_ADDRESS in pair.bound("ha2"), 20)
        assert pair.bound("ha1") == []
        pair.ask("ha1", "drain", state="off")
        pair.ask("ha2", "drain", state="on")
        wait_for("it to move back", lambda: HOME_ADDRESS in pair.bound("ha1"), 60)
