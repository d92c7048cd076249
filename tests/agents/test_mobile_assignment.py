"""A mobile node that is given its home agent (RFC 4433 5.1), by hand-made replies."""

from __future__ import annotations

import struct

import pytest
from tests.agents.mobile_world import HOME, HOME_AGENT, World, visit_a
from tests.agents.paper_home_agent import build_reply

from fastmip.agents.effects import SendDatagram

HA2, HA3 = HOME_AGENT + 1, HOME_AGENT + 2
FIELD, IDENTIFICATION = slice(8, 12), slice(16, 24)


class Asked:
    """The node, and what it asks, without any home agent but the test."""

    def __init__(self, field: int | None = 0) -> None:
        self.world = World(any_home_agent=field)
        self.world.reachable = self.world.exact = False
        self.world.link(visit_a())

    def wait(self, seconds: float = 1.5) -> list[SendDatagram]:
        """Requests sent meanwhile."""
        before = len(self.world.of(SendDatagram))
        self.world.run(seconds)
        return self.world.of(SendDatagram)[before:]

    @property
    def last(self) -> SendDatagram:
        found: SendDatagram = self.world.of(SendDatagram)[-1]
        return found

    def answer(self, code: int, extensions: bytes = b"", lifetime: int = 60) -> None:
        """Of whoever was asked last."""
        asked = self.last
        identification = int.from_bytes(asked.data[IDENTIFICATION])
        home_agent = asked.destination.address
        reply = build_reply(code, lifetime, HOME, home_agent, identification, extensions=extensions)
        self.world.hear(reply, home_agent)

    def redirect(self, home_agent: int) -> None:
        self.answer(143, struct.pack("!BBHI", 139, 2, 4, home_agent))


def asks(sent: SendDatagram) -> tuple[int, int]:
    """Home Agent field, and the home agent of the extension, which is where it goes."""
    at = sent.data.index(b"\x8b\x01\x00\x04")
    requested = int.from_bytes(sent.data[at + 4 : at + 8])
    assert requested == sent.destination.address
    return int.from_bytes(sent.data[FIELD]), requested


@pytest.mark.parametrize("field", [0, 0xFFFFFFFF])
def test_it_asks_follows_and_remembers_rfc4433_5_1_2(field: int) -> None:
    asked = Asked(field)
    assert asks(asked.last) == (field, HOME_AGENT)
    asked.redirect(HA2)
    asked.wait()
    assert asks(asked.last) == (field, HA2)
    asked.answer(0)
    assert asked.world.state == "registered"
    assert asked.world.tunnels(), "through the home agent that accepted"
    (refresh, *_) = asked.wait(58)
    assert asks(refresh) == (HA2, HA2)
    assert asked.world.node.counters()["mnRedirectsFollowed"] == 1


def test_two_that_redirect_to_each_other_end_the_search_rfc4433_4_2() -> None:
    asked = Asked()
    asked.redirect(HA2)
    asked.wait()
    asked.redirect(HOME_AGENT)
    assert asked.wait(290) == []
    assert asked.world.node.counters()["mnRedirectLoops"] == 1
    assert asks(asked.wait(30)[0]) == (0, HOME_AGENT), "one day it begins anew"


@pytest.mark.parametrize(
    "extensions",
    [
        b"",
        struct.pack("!BBHI", 139, 2, 4, 0),
        struct.pack("!BBHI", 139, 2, 4, 0xFFFFFFFF),
        struct.pack("!BBHI", 139, 1, 4, HA2),
    ],
)
def test_a_143_that_names_nobody_is_a_denial_to_wait_after(extensions: bytes) -> None:
    asked = Asked()
    asked.answer(143, extensions)
    again = asked.wait(5)
    assert {asks(sent) for sent in again} == {(0, HOME_AGENT)}
    assert asked.world.node.counters()["mnRedirectsUnusable"] == 1


def test_a_forged_extension_behind_the_authentication_leads_nowhere() -> None:
    asked = Asked()
    identification = int.from_bytes(asked.last.data[IDENTIFICATION])
    reply = build_reply(143, 60, HOME, HOME_AGENT, identification)
    asked.world.hear(reply + struct.pack("!BBHI", 139, 2, 4, HA2), HOME_AGENT)
    asked.wait(5)
    assert asks(asked.last) == (0, HOME_AGENT)
    assert asked.world.node.counters()["mnRedirectsUnusable"] == 1


def test_a_forged_143_changes_nothing() -> None:
    asked = Asked()
    identification = int.from_bytes(asked.last.data[IDENTIFICATION])
    forged = build_reply(
        143,
        60,
        HOME,
        HOME_AGENT,
        identification,
        key=bytes(16),
        extensions=struct.pack("!BBHI", 139, 2, 4, HA2),
    )
    asked.world.hear(forged, HOME_AGENT)
    asked.wait(5)
    assert asks(asked.last) == (0, HOME_AGENT)


def test_drained_in_the_middle_of_a_session_the_old_tunnel_stays_until_the_new_one() -> None:
    asked = Asked()
    asked.answer(0)
    while not asked.wait(1):
        pass
    asked.redirect(HA2)
    assert asked.world.state == "registered"
    asked.wait()
    assert asks(asked.last) == (0, HA2)
    asked.answer(0)
    assert asked.world.state == "registered"


def test_a_home_agent_that_is_gone_is_given_up_for_the_first() -> None:
    asked = Asked()
    asked.redirect(HA2)
    asked.wait(30)
    assert asks(asked.last) == (0, HOME_AGENT)


def test_a_node_with_a_home_agent_of_its_own_follows_nobody() -> None:
    asked = Asked(None)
    asked.redirect(HA2)
    asked.wait(5)
    assert asked.last.destination.address == HOME_AGENT
