"""What docs/deployment.md promises: a pair from ``fastmip init`` carries packets, firewalled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.helpers.deployed import Deployed, documented_fields, init_pair
from tests.helpers.namespaces import Namespaces
from tests.helpers.waiting import wait_until

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"

pytestmark = pytest.mark.netns


def firewall_of_the_document() -> str:
    found = re.findall(r"```\n(table inet filter .*?)```", DEPLOYMENT.read_text(), re.S)
    assert len(found) == 1
    return str(found[0])


def build(namespaces: Namespaces) -> None:
    """Home agent and router in one; a visited network and a correspondent behind it."""
    namespaces.wire("ha", "home0", "host", "eth0")
    namespaces.wire("ha", "visited0", "mn", "eth0")
    namespaces.wire("ha", "core0", "cn", "eth0")
    for name, device, address in (
        ("ha", "home0", "10.1.0.1/24"),
        ("ha", "visited0", "10.2.0.1/24"),
        ("ha", "core0", "10.9.0.1/24"),
        ("mn", "eth0", "10.2.0.9/24"),
        ("cn", "eth0", "10.9.0.7/24"),
    ):
        namespaces.ip(name, "address", "add", address, "dev", device)
    namespaces.ip("mn", "route", "add", "default", "via", "10.2.0.1")
    namespaces.ip("cn", "route", "add", "default", "via", "10.9.0.1")
    namespaces.run("ha", "sysctl", "-qw", "net.ipv4.ip_forward=1")


def test_a_pair_from_init_carries_packets_through_the_documented_firewall(tmp_path: Path) -> None:
    key = init_pair(tmp_path, "--home-interface", "home0")
    rules = tmp_path / "rules.nft"
    rules.write_text(firewall_of_the_document())
    with Namespaces("ha", "host", "mn", "cn") as namespaces:
        build(namespaces)
        namespaces.run("ha", "nft", "-f", str(rules))
        with (
            Deployed(namespaces, "ha", tmp_path / "home-agent.toml", key) as agent,
            Deployed(namespaces, "mn", tmp_path / "mobile-node.toml", key) as node,
        ):
            wait_until(
                lambda: agent.document("show", "binding")["rows"], 20, "a binding at the home agent"
            )
            [binding] = agent.document("show", "binding")["rows"]
            assert set(binding) == documented_fields("show binding")
            assert binding["home_address"] == "10.1.0.5"
            assert binding["care_of_address"] == "10.2.0.9"
            assert binding["reverse_tunnel"] is True
            namespaces.run("cn", "ping", "-c", "3", "-i", "0.2", "-W", "2", "10.1.0.5")
            [tunnel] = agent.document("show", "tunnel")["rows"]
            assert documented_fields("show tunnel") <= set(tunnel)
            assert (tunnel["local"], tunnel["remote"]) == ("10.1.0.1", "10.2.0.9")
            assert tunnel["sent_packets"] >= 3
            assert tunnel["received_packets"] >= 3
            [own] = node.document("show", "binding")["rows"]
            assert own["care_of_address"] == "10.2.0.9"
            [move] = node.document("show", "handover")["rows"]
            assert documented_fields("show handover") <= set(move)
            assert move["to_interface"] == "eth0"
            judged = agent.run("doctor", str(agent.config))
            assert "the input chain drops by default" in judged.stdout
            assert judged.returncode == 0
            agent.ask("clear", "binding", "10.1.0.5")
            assert agent.document("show", "binding")["rows"] == []
