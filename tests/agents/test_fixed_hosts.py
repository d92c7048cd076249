"""Hosts that are registered for good: when the agent speaks, and what it lets be carried."""

from __future__ import annotations

import random

from tests.agents.mobile_world import HOME, HOME_AGENT, SECOND, WALL, associations
from tests.agents.paper_home_agent import PaperHomeAgent, parse_request

from fastmip.agents.effects import (
    NEVER,
    Arrival,
    Effect,
    Endpoint,
    InstallVisitor,
    Now,
    RemoveVisitor,
    SendDatagram,
)
from fastmip.agents.fixed_hosts import FixedHost, FixedHosts
from fastmip.wire.addresses import parse_address

CARE_OF = parse_address("10.2.8.1")
MAC = bytes.fromhex("020000000077")


class Place:
    """The hosts, a clock, and a home agent that answers or does not."""

    def __init__(self, lifetime_s: int = 0xFFFF) -> None:
        host = FixedHost(HOME, HOME_AGENT, CARE_OF, "cabin0", MAC, associations(), lifetime_s)
        self.hosts = FixedHosts([host], random.Random(1).getrandbits)  # noqa: S311 - repeatable
        self.home_agent = PaperHomeAgent(HOME_AGENT)
        self.boot_ns = 1000 * SECOND
        self.answers = True
        self.log: list[Effect] = []
        self.requests: list[SendDatagram] = []
        self.take(self.hosts.handle_timer(self.now))

    @property
    def now(self) -> Now:
        return Now(self.boot_ns, WALL + self.boot_ns)

    def take(self, effects: list[Effect]) -> None:
        self.log += effects
        for effect in effects:
            if isinstance(effect, SendDatagram):
                self.requests.append(effect)
                if self.answers:
                    reply = self.home_agent.answer(effect.data, self.boot_ns, self.now.wall_ns)
                    self.hear(reply)

    def hear(self, data: bytes) -> None:
        assert self.hosts.claims(data)
        arrival = Arrival(Endpoint(HOME_AGENT, 434), Endpoint(CARE_OF, 434))
        self.take(self.hosts.receive(data, arrival, self.now))

    def run(self, seconds: int) -> None:
        end = self.boot_ns + seconds * SECOND
        while (due := self.hosts.next_deadline()) is not None and due <= end:
            assert due > self.boot_ns, "a deadline must lie ahead"
            self.boot_ns = due
            self.take(self.hosts.handle_timer(self.now))
        self.boot_ns = end

    def of(self, kind: type) -> list[Effect]:
        return [effect for effect in self.log if isinstance(effect, kind)]


def test_a_host_is_registered_once_for_good_with_our_address_rfc5944_4_5() -> None:
    place = Place()
    place.run(100_000)
    request = parse_request(place.requests[0].data)
    assert (request.home_address, request.care_of, request.lifetime) == (HOME, CARE_OF, 0xFFFF)
    assert place.requests[0].source.address == CARE_OF
    assert place.requests[0].destination == Endpoint(HOME_AGENT, 434)
    (visitor,) = place.of(InstallVisitor)[:1]
    assert isinstance(visitor, InstallVisitor)
    assert (visitor.interface, visitor.mac, visitor.reverse) == ("cabin0", MAC, True)
    assert (visitor.tunnel.remote, visitor.tunnel.local) == (HOME_AGENT, CARE_OF)
    assert visitor.tunnel.expires_ns == NEVER
    assert len(place.requests) == 1


def test_a_bounded_lifetime_is_renewed_at_half_time_and_ends_without_answers() -> None:
    place = Place(lifetime_s=100)
    place.run(49)
    assert len(place.requests) == 1
    place.run(2)
    assert len(place.requests) == 2
    place.answers = False
    place.run(200)
    (removed,) = place.of(RemoveVisitor)
    assert removed == RemoveVisitor(HOME, "cabin0")
    assert place.hosts.rows(place.now)[0]["registered"] is False
    place.answers = True
    place.run(100)
    assert place.hosts.rows(place.now)[0]["registered"] is True


def test_strangers_replies_change_nothing() -> None:
    place = Place()
    before = len(place.of(InstallVisitor))
    forged = bytearray(20)
    forged[0], forged[4:8] = 3, HOME.to_bytes(4)
    place.hear(bytes(forged))
    assert len(place.of(InstallVisitor)) == before
    assert not place.hosts.claims(b"")
    assert not place.hosts.claims(bytes(20))
