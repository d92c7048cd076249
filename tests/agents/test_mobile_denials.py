"""What a mobile node does when a foreign agent denies, errs, falls silent or challenges it."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import pytest
from tests.agents.mobile_world import HOME, HOME_AGENT, World, settings, visit_a
from tests.agents.paper_foreign_agent import (
    FOREIGN_KEY,
    F,
    T,
    extensions_of,
)
from tests.agents.paper_home_agent import PaperHomeAgent
from tests.agents.visitor_world import (
    FA1,
    FA2,
    fa1,
    fa2,
    kinds_behind_home,
    registered,
    visitor,
    with_mobile_foreign,
)

from fastmip.agents.effects import (
    RouteThroughTunnel,
    Violation,
)
from fastmip.agents.exchange import Identity
from fastmip.wire.vendor import VendorRegistry

# -- denials -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [64, 65, 66, 70, 76, 77, 78, 80, 82, 88, 95, 96, 100, 109, 194])
def test_a_denial_leads_to_the_next_care_of_address_then_agent_rfc5944_2_4(code: int) -> None:
    second = FA1 + 1
    world = visitor()
    world.place(fa1(care_of=(FA1, second), code=code), fa2())
    world.run(4)
    assert [request.care_of for request in world.sent()] == [FA1, second, FA2]
    assert world.state == "registered"
    assert world.node.counters()["mnRegRequestsDeniedByFA"] == 2


@pytest.mark.parametrize(
    ("code", "is_reported"), [(67, True), (68, True), (66, False), (77, False)]
)
def test_a_denied_authentication_is_a_security_exception_rfc5944_3_6_2_1(
    code: int, is_reported: bool
) -> None:
    world = visitor()
    world.place(fa1(code=code))
    world.run(0.5)
    reports = [(report.peer, report.reason) for report in world.of(Violation)]
    assert reports == [(FA1, "badAuthenticator")] * is_reported


def test_only_the_refused_care_of_address_is_passed_over() -> None:
    second = FA1 + 1
    world = visitor()
    world.place(fa1(care_of=(FA1, second), codes={FA1: 77}))
    world.run(3)
    assert world.state == "registered"
    assert set(world.home_agent.bindings) == {second}


def test_one_agent_that_denies_for_ever_is_asked_ever_more_slowly() -> None:
    world = visitor()
    world.place(fa1(code=66))
    world.run(600)
    assert 5 < len(world.requests) < 30


@pytest.mark.parametrize(
    ("code", "changes", "before", "after"),
    [
        (74, {}, 0x02, 0x00),
        (75, {"reverse_tunnel": False}, 0x00, 0x02),
        (72, {"encapsulation": 55}, 0x12, 0x02),
    ],
)
def test_denials_that_name_a_flag_change_it_rfc3024(
    code: int, changes: dict[str, Any], before: int, after: int
) -> None:
    agent = fa1(flags=F | T | 0x0800, code=code)
    world = visitor(**changes)
    world.place(agent)
    world.run(0.01)
    agent.code = None
    world.run(2)
    assert [request.flags for request in world.sent()] == [before, after]
    assert world.state == "registered"


def test_69_asks_for_the_lifetime_it_names_rfc5944_3_6_2_3() -> None:
    agent = fa1(registration_lifetime_s=0xFFFF, code=69)
    world = visitor()
    world.place(agent)
    world.run(0.01)
    agent.code = None
    data = agent.requests[0]
    reply = struct.pack("!BBHIIQ", 3, 69, 77, HOME, HOME_AGENT, int.from_bytes(data[16:24]))
    world.hear(reply, FA1)
    world.run(2)
    assert [request.lifetime for request in world.sent()] == [300, 77]


def test_a_denial_never_ends_a_registration_sec04() -> None:
    agent = fa1()
    world = registered(agent)
    agent.code = 66
    world.run(272)
    assert len(world.requests) > 1
    assert world.node.counters()["mnRegRequestsDeniedByFA"] >= 1
    bindings: Any = world.node.status(world.now)["bindings"]
    assert [row["accepted"] for row in bindings] == [True]
    assert world.of(RouteThroughTunnel)[-1].gateway == FA1


def test_a_denial_by_somebody_else_is_ignored_sec04() -> None:
    agent = fa1(silent=True)
    world = visitor()
    world.place(agent)
    world.run(0.01)
    data = agent.requests[0]
    reply = struct.pack("!BBHIIQ", 3, 66, 0, HOME, HOME_AGENT, int.from_bytes(data[16:24]))
    world.hear(reply, FA2)
    assert world.node.counters()["mnRepliesUnknownFA"] == 1
    assert world.node.counters()["mnRegRequestsDeniedByFA"] == 0


def test_an_agent_that_does_not_answer_gives_way_to_another() -> None:
    world = visitor()
    world.place(fa1(silent=True), fa2())
    world.run(12)
    assert world.state == "registered"
    assert set(world.home_agent.bindings) == {FA2}


def test_an_error_behind_an_acceptance_gives_the_binding_back_rfc4636_5() -> None:
    world = visitor()
    agent = fa1(error=66)
    world.place(agent, fa2())
    world.run(0.01)
    agent.error = 0
    world.run(5)
    kinds = [(request.care_of, request.lifetime) for request in world.sent()]
    assert kinds == [(FA1, 300), (FA1, 0), (FA2, 300)]
    assert world.state == "registered"
    assert set(world.home_agent.bindings) == {FA2}
    assert world.node.counters()["mnRegRequestsDeniedByFA"] == 1


@pytest.mark.parametrize(
    "error",
    [
        bytes((45, 2, 0, 0)),
        bytes((45, 2, 0, 250)),
        bytes((45, 2, 9, 66)),
        bytes((45, 1, 0)),
        bytes((45, 3, 0, 66, 66)),
    ],
    ids=["status 0", "unknown status", "unknown subtype", "too short", "too long"],
)
def test_a_status_nobody_knows_is_an_error_all_the_same_rfc4636_4(error: bytes) -> None:
    world = visitor()
    world.place(fa1(behind=error))
    world.run(5)
    assert world.state != "registered"
    assert not any(route.gateway for route in world.of(RouteThroughTunnel))


# -- challenges and authentication ---------------------------------------------------------------


def test_mobile_foreign_authentication_is_given_and_demanded_rfc5944_3_5_3() -> None:
    agent = fa1(key=FOREIGN_KEY)
    world = registered(agent, identity=with_mobile_foreign())
    assert kinds_behind_home(agent.requests[0]) == [33]
    agent.key = None
    world.run(280)
    assert world.node.counters()["mnRepliesFAAuthenticationFailure"] > 0


def test_a_challenge_is_answered_with_the_newest_rfc4721_3_1() -> None:
    agent = fa1(key=FOREIGN_KEY, challenge=b"one-eight")
    world = registered(agent, identity=with_mobile_foreign())
    assert kinds_behind_home(agent.requests[0]) == [132, 33]
    assert world.sent()[0].flags == 0x02


def test_a_refused_challenge_is_never_used_again_rfc4721_3_5() -> None:
    agent = fa1(key=FOREIGN_KEY, challenge=b"old", code=106)
    world = visitor(identity=with_mobile_foreign())
    world.place(agent)
    world.run(0.5)
    assert len(agent.requests) == 1
    agent.code = None
    world.run(0.2)
    assert len(agent.requests) == 1, "nothing new was heard yet"
    agent.challenge = b"new"
    world.run(2)
    assert world.state == "registered"
    told = [body for kind, _, body in extensions_of(agent.requests[-1], 24) if kind == 132]
    assert told == [b"new"]


@pytest.mark.parametrize(("challenge", "code"), [(b"old", 104), (b"old", 106), (b"", 105)])
def test_a_new_challenge_is_solicited_at_a_bounded_rate_rfc4721_3_3(
    challenge: bytes, code: int
) -> None:
    agent = fa1(key=FOREIGN_KEY, challenge=challenge, code=code)
    world = visitor(identity=with_mobile_foreign())
    world.advertise_s = 0
    world.place(agent)
    agent.lifetime_s = 600
    world.advertise(agent)
    before = len(world.solicitations)
    world.run(10)
    asked = len(world.solicitations) - before
    assert 3 <= asked <= 6, "then ever more rarely"
    agent.code, agent.challenge = None, b"new"
    world.advertise(agent)
    world.run(90)
    assert world.state == "registered"
    rested = len(world.solicitations)
    world.run(30)
    assert len(world.solicitations) == rested


def test_the_challenge_of_a_reply_is_used_next_rfc4721_3_5() -> None:
    agent = fa1(key=FOREIGN_KEY, challenge=b"first", fresh_challenges=[b"second", b"third"])
    world = visitor(identity=with_mobile_foreign(), lifetime_s=20)
    world.advertise_s = 0
    world.place(agent)
    agent.lifetime_s = 600
    world.advertise(agent)
    world.run(18)
    told = [
        body for data in agent.requests for kind, _, body in extensions_of(data, 24) if kind == 132
    ]
    assert told == [b"first", b"second"]


def test_aaa_answers_a_challenge_behind_it_rfc4721_3_1() -> None:
    def sign(message: bytes, challenge: bytes) -> bytes:
        return message + struct.pack("!BBHI", 36, 1, 20, 0x200) + challenge.ljust(16, b"\0")

    agent = fa1(challenge=b"question")
    world = visitor(identity=Identity(sign_for_aaa=sign))
    world.place(agent)
    world.run(1)
    assert world.state == "registered"
    assert kinds_behind_home(agent.requests[0]) == [132, 36]


def test_a_challenge_nobody_can_answer_is_left_out() -> None:
    agent = fa1(challenge=b"question", code=105)
    world = visitor()
    world.place(agent)
    world.run(1)
    assert kinds_behind_home(agent.requests[0]) == []


def test_the_nai_stands_before_the_authentication_rfc2794_2() -> None:
    agent = fa1()
    world = visitor(identity=Identity(nai=b"mn@wustl.edu"))
    world.exact = False
    world.place(agent)
    world.run(1)
    assert world.state == "registered"
    assert [kind for kind, _, _ in extensions_of(agent.requests[0], 24)] == [131, 32]


# -- vendors -------------------------------------------------------------------------------------

CRITICAL = struct.pack("!BBHIH", 38, 0, 6, 9, 7)


def colocated(**changes: Any) -> World:
    world = World(home_agent=PaperHomeAgent(HOME_AGENT, extensions=CRITICAL), **changes)
    world.link(visit_a())
    return world


def test_a_reply_with_an_unknown_critical_vendor_extension_is_a_denial_rfc3115_2_3() -> None:
    world = colocated()
    world.run(20)
    assert world.state == "pending"
    counters = world.node.counters()
    assert counters["mnRepliesUnknownCritical"] == len(world.sent())
    assert counters["mnRegRequestsAccepted"] == 0
    assert [request.lifetime for request in world.sent()][:3] == [300, 0, 300]
    gaps = [after - before for (before, *_), (after, *_) in pairwise(world.requests)]
    assert gaps == sorted(gaps), "ever more slowly"
    denied = world.events("registration-denied")[0]
    assert denied["reason"] == "unknown critical vendor 9 type 7"


def test_a_registration_stays_although_its_renewal_says_something_unknown_rfc3115_2_3() -> None:
    world = World(lifetime_s=60)
    world.link(visit_a())
    world.run(1)
    world.home_agent.extensions = CRITICAL
    world.run(57)
    assert world.node.counters()["mnRepliesUnknownCritical"] >= 1
    assert world.state == "registered"
    assert all(request.lifetime for request in world.sent())


def test_a_known_critical_vendor_extension_is_passed_over_rfc3115_2_3() -> None:
    world = colocated(identity=Identity(vendors=VendorRegistry({(9, 7): "a friend's"})))
    world.run(1)
    assert world.state == "registered"


def test_the_known_ones_can_change() -> None:
    world = colocated()
    world.run(1)
    known = Identity(vendors=VendorRegistry({(9, 7): "a friend's"}))
    world.take(world.node.change_settings(settings(identity=known), world.now))
    world.run(10)
    assert world.state == "registered"


def test_an_agent_s_unknown_critical_vendor_extension_is_its_denial_rfc3115_2_3() -> None:
    agent = fa1(behind=CRITICAL)
    world = visitor()
    world.place(agent, fa2())
    world.run(10)
    assert world.state == "registered"
    assert set(world.home_agent.bindings) == {FA2}
    denied = world.node.counters()["mnRegRequestsDeniedByFA"]
    assert denied == 2, "the request, and what gave the address back"


@pytest.mark.parametrize("code", [143, 144, 147, 148])
def test_an_answer_to_what_was_not_asked_for_makes_it_wait_rfc4433_rfc5177(code: int) -> None:
    world = World(home_agent=PaperHomeAgent(HOME_AGENT, code=code))
    world.link(visit_a())
    world.run(20)
    sent = world.sent()
    assert 4 <= len(sent) <= 6
    assert {(r.home_agent, r.flags, r.lifetime) for r in sent} == {(HOME_AGENT, 0x22, 300)}
    assert world.node.counters()["mnRegRequestsDeniedByHA"] == len(sent)
