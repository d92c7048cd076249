"""The home agent daemon and the mobile node daemon together: NAT, encapsulations, revocation."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import handmade
from tests.helpers.home_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    RUN,
    SOURCE,
    HomeAgentLab,
)
from tests.helpers.namespaces import wait_for
from tests.netns.test_home_agent_tunnels import OUTSIDE, PRIVATE, echo_server, exchange, translate

pytestmark = pytest.mark.netns


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as built:
        yield built


@pytest.fixture
def node(lab: HomeAgentLab) -> Iterator[Any]:
    """Start the mobile node's daemon in ``away`` with more lines of its table."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*settings: str) -> None:
        file, lines = lab.folder / "mobile.toml", "\n".join(settings)
        file.touch(0o600)
        file.write_text(
            f"""
            [daemon]
            state_dir = "{lab.folder}/mobile"
            control_socket = "{lab.folder}/mobile.sock"
            [mobile_node]
            home_address = "{HOME_ADDRESS}"
            home_network = "10.1.0.0/24"
            home_agent = "{HOME_AGENT}"
            interfaces = ["eth0"]
            {lines}
            [mobile_node.association]
            spi = {handmade.SPI}
            key = "{handmade.KEY.hex()}"
            """
        )
        command = [
            "ip",
            "netns",
            "exec",
            lab.net.full("away"),
            sys.executable,
            "-c",
            RUN,
            str(file),
        ]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        with (lab.folder / "mobile.log").open("wb") as log:
            daemon = subprocess.Popen(
                [*command, str(file)], env=environment, stdout=log, stderr=log
            )
        started.append(daemon)

    yield start
    for daemon in started:
        daemon.terminate()
        daemon.wait(20)


def binding(lab: HomeAgentLab) -> dict[str, Any]:
    """The node's binding, as soon as there is one."""
    (row,) = wait_for("the registration", lambda: lab.ask("show binding")["rows"], 20)
    return dict(row)


def test_t25_the_mobile_node_keeps_tcp_behind_a_translator_rfc3519(
    lab: HomeAgentLab, node: Any
) -> None:
    translate(lab)
    lab.net.ip("away", "address", "del", f"{CARE_OF}/24", "dev", "eth0")
    lab.net.ip("away", "route", "replace", "default", "via", "192.168.7.254")
    lab.settings = "nat_max_lifetime = 5"
    lab.start()
    echo_server(lab)
    node('nat = "auto"')
    row = binding(lab)
    assert (row["care_of_address"], row["source_address"]) == (PRIVATE, OUTSIDE)
    assert row["tunnel"] == f"udp {OUTSIDE}:{row['source_port']}"
    wait_for("the tunnel", lambda: lab.ping("cn", HOME_ADDRESS), 10)
    with lab.net.inside("away"):
        connection = socket.socket()
    with connection:
        connection.settimeout(10)
        connection.bind((HOME_ADDRESS, 0))
        connection.connect((CORRESPONDENT, 7000))
        exchange(connection, 500_000)
        renewed = lab.counter("haUdpTunnelsGranted")
        wait_for("a renewal", lambda: lab.counter("haUdpTunnelsGranted") > renewed, 10)
        exchange(connection, 500_000)


@pytest.mark.parametrize("encapsulation", ["gre", "minimal"])
def test_the_mobile_node_gets_the_tunnel_it_asks_for(
    lab: HomeAgentLab, node: Any, encapsulation: str
) -> None:
    lab.start()
    node(f'encapsulation = "{encapsulation}"')
    row = binding(lab)
    assert (row["encapsulation"], row["tunnel"]) == (encapsulation, "ip")
    wait_for("the tunnel", lambda: lab.ping("cn", HOME_ADDRESS), 10)
    (tunnel,) = lab.ask("show tunnel")["rows"]
    assert tunnel["encapsulation"] == encapsulation
    assert tunnel["received_packets"] >= 1


def test_a_revoked_mobile_node_acknowledges_and_comes_again_rfc3543_4_2_2_3(
    lab: HomeAgentLab, node: Any
) -> None:
    lab.start()
    node("revocation = true")
    first = binding(lab)
    assert first["revocation"] == "mobile-node"
    answer = lab.ask("clear binding", home_address=HOME_ADDRESS, revoke=True)
    assert answer == {"cleared": 1, "told": 1, "acknowledged": 1}
    again = binding(lab)
    assert again["identification"] > first["identification"]
