"""Home agent and foreign agent daemons revoke each other's registrations (RFC 3543, T08)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.foreign_agent_lab import (
    CARE_OF,
    HOME_ADDRESS,
    HOME_AGENT,
    SHARED_KEY,
    SHARED_SPI,
    ForeignAgentLab,
)
from tests.helpers.namespaces import wait_for

SHARED = f'spi = {SHARED_SPI}\nkey = "{SHARED_KEY.hex()}"\n'

pytestmark = pytest.mark.netns


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ForeignAgentLab]:
    with ForeignAgentLab(tmp_path) as built:
        built.settings = "revocation = true"
        built.more = (
            f'[[foreign_agent.home_agent]]\naddress = "{HOME_AGENT}"\n'
            f"[[foreign_agent.home_agent.association]]\n{SHARED}"
        )
        built.home_settings = (
            f'[[home_agent.foreign_agent]]\naddress = "{CARE_OF}"\n'
            f"[[home_agent.foreign_agent.association]]\n{SHARED}"
        )
        built.start()
        built.register()
        time.sleep(1.1)
        yield built


def test_the_home_agent_revokes_and_the_visitor_is_gone_rfc3543_4_2_2(
    lab: ForeignAgentLab,
) -> None:
    (row,) = lab.ha.ask("show binding")["rows"]
    assert (row["foreign_agent"], row["revocation"]) == (CARE_OF, "foreign-agent")
    assert lab.ping("cn", HOME_ADDRESS)
    answer = lab.ha.ask("clear binding", home_address=HOME_ADDRESS, revoke=True)
    assert answer == {"cleared": 1, "told": 1, "acknowledged": 1}
    assert lab.fa.ask("show visitor")["rows"] == []
    assert lab.ha.counter("haRevocationsSent") == 1
    assert lab.ha.counter("haRevocationsAcknowledged") == 1
    assert not lab.ping("cn", HOME_ADDRESS)


def test_the_foreign_agent_revokes_and_the_binding_is_gone_rfc3543_4_2_3(
    lab: ForeignAgentLab,
) -> None:
    lab.fa.ask("clear visitor", home_address=HOME_ADDRESS)
    wait_for("the end", lambda: lab.ha.ask("show binding")["rows"] == [])
    assert lab.ha.counter("haRevocationsAccepted") == 1
    wait_for("the answer", lambda: lab.fa.counter("faRevocationsAcknowledged") == 1)
    # It may come again, and be told again.
    lab.register()
    assert len(lab.ha.ask("show binding")["rows"]) == 1


def test_a_foreign_agent_that_stops_tells_the_home_agent(lab: ForeignAgentLab) -> None:
    assert lab.fa.end() == 0
    wait_for("the end", lambda: lab.ha.ask("show binding")["rows"] == [])
    assert lab.ha.counter("haRevocationsAccepted") == 1
