"""T21: two home agents on one home link share nodes; loaded, drained or at odds (RFC 4433).

Each has the other one in its list for the node's care-of address: while both have room they send
it in a circle, and as soon as one has none the other one takes it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import handmade
from tests.helpers.handmade import KEY
from tests.helpers.home_agent_lab import CARE_OF, HOME_ADDRESS, HOME_AGENT, RUN, SOURCE
from tests.helpers.namespaces import Namespaces, wait_for

pytestmark = pytest.mark.netns

OTHER = "10.1.0.2"
NEIGHBOUR = "10.1.0.6"
"""Another node, which knows of no other home agent than ha1."""
ROUTER = "10.3.1.254"
ADDRESSES = {"ha1": HOME_AGENT, "ha2": OTHER}
MOBILE_NODE = """
[mobile_node]
home_address = "10.1.0.5"
home_network = "10.1.0.0/24"
home_agent = "10.1.0.1"
dynamic_home_agent = "any"
lifetime = 3
interfaces = ["eth0"]
{settings}
[mobile_node.association]{association}
"""
ASSOCIATION = f"""
spi = 256
key = "{KEY.hex()}"
"""


def home_agent(address: str, other: str) -> str:
    return f"""
[home_agent]
address = "{address}"
home_network = "10.1.0.0/24"
interface = "eth0"
max_bindings = 1
[home_agent.group]
key = "{"5a" * 32}"
policy = "nearest-to-coa"
[[home_agent.group.member]]
address = "{other}"
care_of_networks = ["10.3.1.0/24"]
[[home_agent.host]]
home_address = "{HOME_ADDRESS}"
[[home_agent.host.association]]{ASSOCIATION}
[[home_agent.host]]
home_address = "{NEIGHBOUR}"
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

    def run(self, node: str, tables: str) -> subprocess.Popen[bytes]:
        """Start a daemon."""
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
        return process

    @contextmanager
    def mobile_node(self, settings: str = "") -> Iterator[None]:
        """A mobile node that registers with whom it is sent to."""
        tables = MOBILE_NODE.format(settings=settings, association=ASSOCIATION)
        process = self.run("mn", tables)
        try:
            wait_for("the mobile node", lambda: self.answers("mn"), 20)
            yield
        finally:
            end(process)
            self.clear()

    def clear(self) -> None:
        """Nobody is bound any more."""
        for node in ADDRESSES:
            for address in self.bound(node):
                self.ask(node, "clear binding", home_address=address)
            self.ask(node, "drain", state="off")

    def fill(self) -> None:
        """Another node takes the only place at ha1, and ha2 hears of it."""
        message = handmade.request(NEIGHBOUR, CARE_OF)
        assert self.exchange(message, HOME_AGENT)[1] == 0
        self.hear(1, 0)

    def exchange(self, message: bytes, agent: str, source: str = CARE_OF) -> bytes:
        """The reply to a message by hand from where the mobile node is."""
        with self.net.inside("mn"):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with client:
            client.settimeout(10)
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
            client.bind((source, 0))
            client.sendto(message, (agent, 434))
            return client.recv(2048)

    def counter(self, node: str, name: str) -> int:
        rows = self.ask(node, "show traffic")["rows"]
        return int({row["counter"]: row["value"] for row in rows}[name])

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

    def hear(self, *bindings: int) -> None:
        """Wait until both know how many nodes each serves, and that none is drained."""
        expected = dict(zip(ADDRESSES.values(), bindings, strict=True))

        def known() -> bool:
            told = [self.ask(node, "show group")["rows"] for node in ADDRESSES]
            return all(
                {row["home_agent"]: row["bindings"] for row in rows} == expected
                and {row["state"] for row in rows} == {"up"}
                for rows in told
            )

        wait_for("the loads", known, 20)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as stack:
        made = Pair(tmp_path_factory.mktemp("pair"), stack)
        made.run("ha1", home_agent(HOME_AGENT, OTHER))
        made.run("ha2", home_agent(OTHER, HOME_AGENT))
        for node in ADDRESSES:
            wait_for(node, partial(made.answers, node), 20)
        yield made


def test_t21_full_or_drained_a_home_agent_sends_nodes_on_rfc4433(pair: Pair) -> None:
    pair.fill()
    with pair.mobile_node():
        wait_for("ha2 to serve it", lambda: pair.bound("ha2") == [HOME_ADDRESS], 20)
        assert pair.bound("ha1") == [NEIGHBOUR]
        pair.ask("ha1", "clear binding", home_address=NEIGHBOUR)
        pair.hear(0, 1)
        assert pair.ask("ha2", "drain", state="on")["draining"]
        wait_for("it to move to ha1", lambda: pair.bound("ha1") == [HOME_ADDRESS], 20)


def test_t21_sent_in_a_circle_a_node_stops_and_says_so_rfc4433(pair: Pair) -> None:
    pair.hear(0, 0)
    with pair.mobile_node():
        wait_for("the circle to be seen", lambda: pair.counter("mn", "mnRedirectLoops") == 1, 20)
        assert pair.bound("ha1") == pair.bound("ha2") == []


def test_t21_through_a_foreign_agent_rfc4433_4_1_1(pair: Pair) -> None:
    process = pair.run("rt", '[foreign_agent]\ninterfaces = ["to-mn"]\n')
    try:
        wait_for("the foreign agent", lambda: pair.answers("rt"), 20)
        unnamed = handmade.request(NEIGHBOUR, ROUTER, home_agent="0.0.0.0")  # noqa: S104
        pair.net.ip("mn", "address", "add", f"{NEIGHBOUR}/32", "dev", "eth0")
        assert pair.exchange(unnamed, ROUTER, NEIGHBOUR)[1] == 90  # nor any Requested HA
        pair.net.ip("mn", "address", "delete", f"{NEIGHBOUR}/32", "dev", "eth0")
        pair.fill()
        with pair.mobile_node('care_of = "foreign-agent"'):
            wait_for("ha2 to serve it", lambda: pair.bound("ha2") == [HOME_ADDRESS], 20)
            assert pair.bound("ha1") == [NEIGHBOUR]
            visitors = pair.ask("rt", "show visitor")["rows"]
            assert [(row["home_address"], row["home_agent"]) for row in visitors] == [
                (HOME_ADDRESS, OTHER)
            ]
    finally:
        end(process)
