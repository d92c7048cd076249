"""Which advertisements a mobile node believes, and what they change."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tests.agents.paper_foreign_agent import B, F, H, PaperForeignAgent, R, T, ones_complement

from fastmip.agents.agent_cache import MAX_AGENTS, AgentCache, Refused, started_again
from fastmip.agents.effects import Arrival, Endpoint, Now
from fastmip.wire.addresses import parse_address

HOME = parse_address("10.1.0.5")
FA1, FA2 = parse_address("10.3.1.1"), parse_address("10.3.2.1")
MAC1, MAC2 = bytes.fromhex("020000000101"), bytes.fromhex("020000000102")
ALL_HOSTS = parse_address("224.0.0.1")
SECOND = 10**9


def paper(**changes: Any) -> PaperForeignAgent:
    values: dict[str, Any] = {
        "interface": "eth0",
        "address": FA1,
        "mac": MAC1,
        "care_of": (FA1,),
    }
    return PaperForeignAgent(**(values | changes))


def arrival(**changes: Any) -> Arrival:
    values: dict[str, Any] = {
        "source": Endpoint(FA1, 0),
        "destination": Endpoint(ALL_HOSTS, 0),
        "interface": "eth0",
        "mac": MAC1,
        "ttl": 1,
    }
    return Arrival(**(values | changes))


def at(seconds: float) -> Now:
    return Now(int(seconds * SECOND), 0)


def refusal(cache: AgentCache, data: bytes, **changes: Any) -> str:
    with pytest.raises(Refused) as caught:
        cache.hear(data, arrival(**changes), at(0))
    return caught.value.counter


def test_an_advertisement_becomes_an_agent_rfc5944_2_1() -> None:
    cache = AgentCache(HOME)
    sent = paper(care_of=(FA1, FA2), flags=F | T | R, challenge=b"12345678").advertisement()
    heard = cache.hear(sent, arrival(), at(0))
    assert heard.is_new
    [agent] = cache.agents("eth0", at(2.9))
    assert (agent.address, agent.mac, agent.care_of_addresses) == (FA1, MAC1, (FA1, FA2))
    assert (agent.registration_lifetime_s, agent.challenge) == (600, b"12345678")
    assert agent.is_foreign
    assert agent.requires_registration
    assert agent.reverse_tunnels
    assert not agent.is_busy
    assert [(p.network, p.length) for p in agent.prefixes] == [(FA1 & ~0xFF, 24)]
    assert cache.agents("wlan0", at(0)) == []


def test_its_lifetime_ends_it_rfc5944_2_4_2_1() -> None:
    cache = AgentCache(HOME)
    cache.hear(paper().advertisement(), arrival(), at(0))
    assert cache.next_deadline() == 3 * SECOND
    assert cache.agents("eth0", at(3)) == []
    assert [agent.address for agent in cache.expire(at(3))] == [FA1]
    assert cache.next_deadline() is None


def test_a_lifetime_of_zero_is_a_good_bye_rfc1256_4_3() -> None:
    cache = AgentCache(HOME)
    cache.hear(paper().advertisement(), arrival(), at(0))
    assert cache.hear(paper().advertisement(lifetime_s=0), arrival(), at(1)).is_gone
    assert cache.agents("eth0", at(1)) == []


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [(9, 10, False), (9, 0, True), (9, 8, True), (0xFFFF, 256, False), (300, 255, True)],
)
def test_numbers_tell_a_new_start_from_a_rollover_rfc5944_2_4_4(
    before: int, after: int, again: bool
) -> None:
    assert started_again(before, after) is again
    cache = AgentCache(HOME)
    cache.hear(paper(sequence=before).advertisement(), arrival(), at(0))
    heard = cache.hear(paper(sequence=after).advertisement(), arrival(), at(1))
    assert (heard.rebooted, heard.agent.boots) == (again, int(again))


@pytest.mark.parametrize("how", ["silent", "link down"])
def test_an_agent_that_was_away_may_have_started_again(how: str) -> None:
    cache = AgentCache(HOME)
    cache.hear(paper(sequence=40).advertisement(), arrival(), at(0))
    if how == "silent":
        cache.expire(at(10))
    else:
        cache.forget("eth0")
    heard = cache.hear(paper(sequence=2).advertisement(), arrival(), at(20))
    assert heard.is_new
    assert heard.rebooted
    cache.forget("eth0")
    assert not cache.hear(paper(sequence=3).advertisement(), arrival(), at(30)).rebooted


def test_forgeries_are_refused_by_name_sec33() -> None:
    cache = AgentCache(HOME)
    good = paper().advertisement()
    cache.hear(good, arrival(), at(0))
    assert refusal(cache, good, ttl=2) == "mnAdvertisementsFromAfar"
    assert refusal(cache, good, ttl=255) == "mnAdvertisementsFromAfar"
    assert refusal(cache, good[:-1] + b"\0") == "mnAdvertisementsDamaged"
    assert refusal(cache, b"") == "mnAdvertisementsDamaged"
    off_link = Endpoint(parse_address("10.99.0.1"), 0)
    assert refusal(cache, good, source=off_link) == "mnAdvertisementsMisplaced"
    assert refusal(cache, good, mac=None) == "mnAdvertisementsMisplaced"
    assert refusal(cache, good, source=Endpoint(HOME, 0)) == "mnAdvertisementsMisplaced"
    assert refusal(cache, good, source=Endpoint(0, 0)) == "mnAdvertisementsMisplaced"
    unicast = Endpoint(HOME, 0)
    reset = paper(sequence=0, flags=F | B).advertisement()
    assert refusal(cache, reset, mac=MAC2, destination=unicast) == ("mnAdvertisementsImpostor")
    [agent] = cache.agents("eth0", at(1))
    assert (agent.mac, agent.boots, agent.is_busy) == (MAC1, 0, False)


def test_a_unicast_of_the_agent_itself_counts_rfc3543_4_1() -> None:
    cache = AgentCache(HOME)
    cache.hear(paper(sequence=40).advertisement(), arrival(), at(0))
    reset = paper(sequence=0, flags=F | B).advertisement()
    heard = cache.hear(reset, arrival(destination=Endpoint(HOME, 0)), at(1))
    assert heard.rebooted
    assert heard.agent.is_busy


def test_another_sender_behind_the_same_address_is_another_agent() -> None:
    cache = AgentCache(HOME)
    cache.hear(paper(sequence=40).advertisement(), arrival(), at(0))
    heard = cache.hear(paper(sequence=3).advertisement(), arrival(mac=MAC2), at(1))
    assert heard.is_new
    assert not heard.rebooted
    assert [agent.mac for agent in cache.agents("eth0", at(1))] == [MAC1, MAC2]


def test_a_plain_router_is_no_agent_rfc5944_2_4() -> None:
    message = struct.pack("!BBHBBHIi", 9, 0, 0, 1, 2, 30, FA1, 0)
    message = message[:2] + struct.pack("!H", ones_complement(message)) + message[4:]
    assert refusal(AgentCache(HOME), message) == "mnAdvertisementsPlainRouter"


def test_an_unknown_extension_below_128_drops_it_rfc5944_1_8() -> None:
    message = paper().advertisement() + bytes((99, 1, 0))
    message = message[:2] + b"\0\0" + message[4:]
    message = message[:2] + struct.pack("!H", ones_complement(message)) + message[4:]
    assert refusal(AgentCache(HOME), message) == "mnAdvsDroppedInvalidExtension"


def test_reserved_flags_do_not_matter_rfc5944_2_4() -> None:
    cache = AgentCache(HOME)
    cache.hear(paper(flags=F | 0x021F).advertisement(), arrival(), at(0))
    assert cache.agents("eth0", at(0))[0].is_foreign


def test_an_agent_without_care_of_address_is_none_to_register_with() -> None:
    cache = AgentCache(HOME)
    cache.hear(paper(care_of=(), flags=F | H).advertisement(), arrival(), at(0))
    [agent] = cache.agents("eth0", at(0))
    assert (agent.is_foreign, agent.is_home) == (False, True)


def test_memory_is_bounded() -> None:
    cache = AgentCache(HOME)
    for number in range(3 * MAX_AGENTS):
        address = FA1 + number
        data = paper(address=address, care_of=(address,), prefix_length=None).advertisement()
        mac = number.to_bytes(6, "big")
        cache.hear(data, arrival(source=Endpoint(address, 0), mac=mac), at(0))
    assert len(cache.all()) == MAX_AGENTS
