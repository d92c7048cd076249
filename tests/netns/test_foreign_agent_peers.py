"""The foreign agent and a real home agent: proofs, revocation both ways, a translator between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.foreign_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    SHARED_KEY,
    SHARED_SPI,
    ForeignAgentLab,
)
from tests.helpers.namespaces import wait_for
from tests.netns.test_foreign_agent import frames

pytestmark = pytest.mark.netns

SHARED = f'spi = {SHARED_SPI}\nkey = "{SHARED_KEY.hex()}"\n'
PROVEN_HOME_AGENT = (
    f'[[foreign_agent.home_agent]]\naddress = "{HOME_AGENT}"\n'
    f"[[foreign_agent.home_agent.association]]\n{SHARED}"
)
PROVEN_FOREIGN_AGENT = (
    f'[[home_agent.foreign_agent]]\naddress = "{CARE_OF}"\n'
    f"[[home_agent.foreign_agent.association]]\n{SHARED}"
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ForeignAgentLab]:
    with ForeignAgentLab(tmp_path) as built:
        yield built


@pytest.fixture
def proven(lab: ForeignAgentLab) -> ForeignAgentLab:
    """Both agents share an association and negotiate revocation."""
    lab.settings = "revocation = true"
    lab.more = PROVEN_HOME_AGENT
    lab.home_settings = PROVEN_FOREIGN_AGENT
    lab.start()
    return lab


def test_t08_clearing_a_visitor_ends_its_binding_at_the_home_agent(
    proven: ForeignAgentLab,
) -> None:
    proven.register()
    [visitor] = proven.fa.ask("show visitor")["rows"]
    assert visitor["revocable"]
    assert len(proven.ha.ask("show binding")["rows"]) == 1
    proven.fa.ask("clear visitor", home_address=HOME_ADDRESS)
    wait_for("the binding's end", lambda: proven.ha.ask("show binding")["rows"] == [])
    assert proven.fa.counter("faRevocationsAcknowledged") == 1


def test_t08_clearing_a_binding_ends_the_visit_and_the_node_is_told(
    proven: ForeignAgentLab,
) -> None:
    proven.register()
    air = proven.packets("mn", "eth0")
    time.sleep(1.1)  # a revocation keeps a second from the registration (RFC 3543 3.3)
    proven.ha.ask("clear binding", home_address=HOME_ADDRESS, revoke=True)
    wait_for("the visitor's end", lambda: proven.fa.ask("status")["visitors"] == 0)
    assert proven.fa.counter("faRevocationsAccepted") == 1
    told = [p for p in frames(air, 0.5) if p[9] == 1 and p[20] == 9 and p[16:20] != b"\xe0\0\0\1"]
    assert [p[38:40] for p in told] == [b"\0\0"]


def test_a_clean_stop_revokes_and_leaves_no_binding_behind(proven: ForeignAgentLab) -> None:
    proven.register()
    time.sleep(1.1)
    proven.fa.end()
    assert proven.ha.ask("show binding")["rows"] == []


def test_t25_a_foreign_agent_behind_a_translator_is_reached_through_udp(
    lab: ForeignAgentLab,
) -> None:
    """T25, RFC 3519 4.5: the home agent sees the translator and tunnels in UDP, both ways."""
    lab.settings = 'nat = "translating"\nnat_keepalive = 10'
    lab.more = PROVEN_HOME_AGENT
    # The home agent knows us by the translator's address, the source it sees.
    lab.home_settings = PROVEN_FOREIGN_AGENT.replace(CARE_OF, "10.8.0.254")
    rules = (
        "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; };"
        " add rule ip nat post oif to-ha ip saddr 10.3.0.0/16 masquerade"
    )
    lab.net.run("rt", "nft", rules)
    lab.start()
    core = lab.packets("rt", "to-ha")
    lab.register()
    [visitor] = lab.fa.ask("show visitor")["rows"]
    assert visitor["encapsulation"] == "ipip/udp"
    assert lab.ping("cn", HOME_ADDRESS, 3)
    assert lab.ping("mn", CORRESPONDENT, 3, "-I", HOME_ADDRESS)
    seen = frames(core)
    tunnelled = [p for p in seen if p[9] == 17 and p[28:30] == b"\x04\x04"]
    assert len(tunnelled) >= 12
    assert [p for p in seen if p[9] == 4] == []
    assert lab.code(lab.request(flags=0)) == 75  # behind a translator T is mandatory
