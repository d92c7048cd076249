"""Host configuration at the mobile node (RFC 4332)."""

from __future__ import annotations

import struct
from typing import Any

from tests.agents.mobile_world import HOME_AGENT, World, visit_a
from tests.agents.paper_home_agent import PaperHomeAgent

from fastmip.agents.effects import Effect, UseHostConfiguration
from fastmip.agents.exchange import Identity
from fastmip.wire.host_configuration import HostConfiguration, request_host_configuration

ASKING = Identity(extensions=(request_host_configuration(),))


def told(suffix: bytes) -> bytes:
    """A domain by hand (RFC 4332 3.7)."""
    return struct.pack("!BBHIHH", 134, 10 + len(suffix), 0, 9, 14, 6) + suffix


def world(extensions: bytes = told(b"wustl.edu"), **changes: Any) -> World:
    made = World(home_agent=PaperHomeAgent(HOME_AGENT, extensions=extensions), **changes)
    made.exact = False
    made.link(visit_a())
    return made


def used(made: World) -> list[HostConfiguration]:
    return [one.told for one in made.of(UseHostConfiguration)]


def test_what_is_asked_for_and_authenticated_is_used_once_rfc4332_2() -> None:
    made = world(identity=ASKING, lifetime_s=30)
    made.run(1)
    assert made.state == "registered"
    ask = struct.pack("!BBHIHHH", 134, 12, 0, 9, 14, 0, 0)
    assert made.requests[0][1].data[24:38] == ask
    assert made.requests[0][1].data[38] == 32
    made.run(60)
    assert len(made.requests) > 2
    assert used(made) == [HostConfiguration(dns_suffix=b"wustl.edu")]
    made.home_agent.extensions = told(b"example.org")
    made.run(60)
    made.home_agent.extensions = b""
    made.run(60)
    assert [one.dns_suffix for one in used(made)] == [b"wustl.edu", b"example.org"]


def test_what_nobody_asked_for_is_not_used() -> None:
    made = world()
    made.run(1)
    assert made.state == "registered"
    assert used(made) == []


def test_what_stands_behind_the_authentication_is_not_used() -> None:
    made = world(b"", identity=ASKING)
    hear = made.hear

    def with_more(data: bytes, source: int = HOME_AGENT) -> list[Effect]:
        return hear(data + told(b"evil.example"), source)

    made.hear = with_more  # type: ignore[method-assign]
    made.run(1)
    assert made.state == "registered"
    assert used(made) == []
