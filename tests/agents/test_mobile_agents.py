"""The mobile node among foreign agents: discovery, registration through them, moves."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from tests.agents.mobile_world import (
    GATEWAY_A,
    HOME,
    HOME_AGENT,
    SECOND,
    A,
    B,
    World,
    down,
    visit_a,
    visit_b,
)
from tests.agents.paper_foreign_agent import B as BUSY
from tests.agents.paper_foreign_agent import (
    F,
    G,
    H,
    M,
    R,
    T,
)
from tests.agents.paper_home_agent import PaperHomeAgent
from tests.agents.visitor_world import (
    BARE,
    FA1,
    FA2,
    MAC1,
    MAC2,
    fa1,
    fa2,
    kinds_behind_home,
    registered,
    visitor,
)

from fastmip.agents.effects import (
    GratuitousArp,
    InstallTunnels,
    PinNeighbour,
    RouteThroughTunnel,
    SendDatagram,
    SetArp,
    UnpinNeighbour,
)
from fastmip.agents.mobile_state import HandoverPolicy
from fastmip.agents.offers import CareOf
from fastmip.wire.addresses import format_address

# -- attaching -----------------------------------------------------------------------------------


def test_a_link_that_comes_up_is_solicited_at_once_and_the_answer_used_rfc5944_2_4() -> None:
    world = visitor()
    world.advertise_s = 0
    assert [when for when, _ in world.solicitations] == [world.boot_ns]
    world.place(fa1())
    world.run(1.5)
    assert world.state == "registered"
    assert world.node.counters()["mnSolicitationsSent"] == 2


def test_the_request_goes_to_the_agent_from_the_home_address_rfc5944_3_6_1_1() -> None:
    world = registered(fa1())
    [(_, datagram, request)] = world.requests
    assert (datagram.source.address, datagram.destination.address) == (HOME, FA1)
    assert (datagram.destination.port, datagram.mac, datagram.interface) == (434, MAC1, "eth0")
    assert datagram.ttl == 255, "RFC 3024 3.2: T is set"
    assert (request.care_of, request.home_agent) == (FA1, HOME_AGENT)
    assert request.flags == 0x02, "T, and no D"


def test_without_reverse_tunnelling_the_ttl_is_the_usual_one_c02() -> None:
    world = registered(fa1(), reverse_tunnel=False)
    assert world.sent()[0].flags == 0
    assert world.requests[0][1].ttl is None


def test_t_is_not_asked_of_an_agent_that_does_not_offer_it() -> None:
    assert registered(fa1(flags=F)).sent()[0].flags == 0


def test_the_agent_is_the_default_router_and_reached_without_arp_rfc5944_4_2_1() -> None:
    world = registered(fa1())
    assert world.of(RouteThroughTunnel)[-1] == RouteThroughTunnel(True, False, "eth0", FA1)
    assert world.tunnels() == ()
    order = [type(e) for e in world.world_effects() if not isinstance(e, SetArp)]
    assert order[:2] == [RouteThroughTunnel, PinNeighbour]
    assert order.index(PinNeighbour) < order.index(SendDatagram)
    assert world.of(PinNeighbour) == [PinNeighbour(FA1, "eth0", MAC1)]
    assert not world.of(GratuitousArp)
    assert [effect.enabled for effect in world.of(SetArp)] == [False]


def test_lifetimes_respect_what_the_agent_relays() -> None:
    world = registered(fa1(registration_lifetime_s=120))
    assert world.sent()[0].lifetime == 120
    world.run(200)
    assert world.node.counters()["mnRegistrationsExpired"] == 0


def test_a_day_with_one_agent() -> None:
    world = registered(fa1())
    world.run(86_400 / 8)
    assert world.state == "registered"
    assert len(world.requests) < 50


def test_a_busy_agent_is_passed_over_but_not_left_rfc5944_2_1_1() -> None:
    busy = fa1(flags=F | T | BUSY)
    world = visitor()
    world.place(busy)
    world.run(1)
    assert world.requests == []
    world.place(fa2())
    world.run(1.1)
    assert [request.care_of for request in world.sent()] == [FA2]
    world.agents[1].flags |= BUSY
    world.run(300)
    assert {request.care_of for request in world.sent()} == {FA2}


# -- moving --------------------------------------------------------------------------------------


def test_lazy_stays_until_the_advertisements_stop_rfc5944_2_4_2_1() -> None:
    first = fa1()
    world = registered(first)
    world.place(fa2())
    world.run(20)
    assert len(world.requests) == 1
    world.remove(first)
    gone = world.boot_ns
    world.run(5)
    assert world.state == "registered"
    when, _, request = world.requests[1]
    assert request.care_of == FA2
    assert 2 * SECOND <= when - gone <= 3 * SECOND, "the lifetime of the last advertisement"
    assert world.of(UnpinNeighbour) == [UnpinNeighbour(FA1, "eth0")]


def test_eager_moves_with_the_first_advertisement_of_another_subnet_rfc5944_2_4_2_2() -> None:
    world = registered(fa1(), eager=True)
    world.place(fa2())
    world.run(0.01)
    assert [request.care_of for request in world.sent()] == [FA1, FA2]
    world.run(30)
    assert [r.care_of for r in world.sent() if r.lifetime] == [FA1, FA2], "and no way back"


@pytest.mark.parametrize("lacks", ["first", "second"])
def test_eager_needs_prefix_lengths_of_both_rfc5944_2_4_2_2(lacks: str) -> None:
    lengths = {lacks: None}
    world = registered(fa1(prefix_length=lengths.get("first", 24)), eager=True)
    world.place(fa2(prefix_length=lengths.get("second", 24)))
    world.run(30)
    assert [request.care_of for request in world.sent()] == [FA1]


def test_another_agent_of_the_same_subnet_is_no_move() -> None:
    world = registered(fa1(), eager=True)
    world.place(fa2(address=FA1 + 1, care_of=(FA1 + 1,)))
    world.run(30)
    assert [request.care_of for request in world.sent()] == [FA1]


def test_a_move_keeps_the_old_registration_until_the_new_one_works() -> None:
    world = registered(fa1(), eager=True)
    world.place(fa2())
    world.run(2)
    asked = [(r.care_of, r.lifetime, r.simultaneous) for r in world.sent()]
    assert asked == [(FA1, 300, False), (FA2, 300, True), (FA1, 0, False)]
    assert world.requests[2][1].destination.address == FA1, "given back through its own agent"
    assert set(world.home_agent.bindings) == {FA2}
    gateways = [effect.gateway for effect in world.of(RouteThroughTunnel)]
    assert gateways[-2:] == [FA1, FA2]


def test_fast_does_not_keep_the_old_one() -> None:
    world = registered(fa1(), eager=True, handover=HandoverPolicy.FAST)
    world.place(fa2())
    world.run(2)
    assert [(r.care_of, r.simultaneous) for r in world.sent()] == [(FA1, False), (FA2, False)]


def test_what_an_old_agent_does_not_give_back_is_replaced() -> None:
    first = fa1()
    world = registered(first)
    world.place(fa2())
    world.run(1)
    world.remove(first)
    world.run(10)
    assert [(r.care_of, r.simultaneous) for r in world.sent()] == [(FA1, False), (FA2, False)]
    assert set(world.home_agent.bindings) == {FA2}


def test_a_link_that_went_down_takes_its_agents_with_it() -> None:
    world = registered(fa1())
    world.agents.clear()
    world.link(down("eth0"))
    assert world.state == "isolated"
    assert world.node.status(world.now)["agents"] == []
    world.place(fa2())
    world.link(BARE)
    world.run(0.1)
    assert world.state == "registered"
    handovers: Any = world.node.status(world.now)["handovers"]
    assert [(h["kind"], h["agent"]) for h in handovers] == [
        ("start", format_address(FA1)),
        ("break-before-make", format_address(FA2)),
    ]
    assert handovers[-1]["agent_heard_ns"] >= handovers[-1]["link_up_ns"]


def test_only_another_device_makes_a_link_that_came_back_register_again() -> None:
    agent = fa1()
    world = registered(agent)
    for mac, requests in (("aa", 1), ("aa", 1), ("bb", 2), ("bb", 2)):
        world.link(down("eth0"))
        world.link(replace(BARE, mac=mac))
        world.run(2)
        assert len(world.requests) == requests
        assert world.state == "registered"


def test_a_new_start_of_the_agent_means_to_register_again_rfc5944_2_4_4() -> None:
    agent = fa1(sequence=70)
    world = registered(agent)
    agent.sequence = 0
    world.run(1.1)
    assert len(world.requests) == 2
    assert world.node.counters()["mnAgentRebootsDectected"] == 1
    agent.sequence = 0xFFFF
    world.run(3)
    assert len(world.requests) == 2, "a rollover to 256 is no new start"


def test_an_agent_that_started_again_and_is_busy_is_left_rfc3543() -> None:
    agent = fa1(sequence=70)
    world = registered(agent)
    world.place(fa2())
    world.run(1)
    agent.sequence, agent.flags = 0, F | T | BUSY
    world.run(2)
    assert world.sent()[-1].care_of in (FA2, FA1)
    assert FA2 in world.home_agent.bindings


def test_home_is_where_the_home_agent_advertises_rfc5944_2_4_3() -> None:
    world = registered(fa1())
    world.agents.clear()
    world.link(down("eth0"))
    world.link(BARE)
    ha = fa1(address=HOME_AGENT, mac=MAC2, care_of=(), flags=H)
    world.place(ha)
    world.run(0.2)
    assert world.state == "home"
    order = [type(e).__name__ for e in world.world_effects()]
    home = order.index("ConfigureHome")
    assert order[home:].index("GratuitousArp") < order[home:].index("SendDatagram")
    assert (world.sent()[-1].lifetime, world.sent()[-1].care_of) == (0, HOME)
    assert world.requests[-1][1].destination.address == HOME_AGENT, "direct, not through an agent"
    world.remove(ha)
    world.place(fa1())
    world.run(5)
    assert world.state == "registered"


def test_a_home_agent_of_others_is_not_home() -> None:
    world = visitor()
    world.place(fa1(flags=F | H | T))
    world.run(1)
    assert world.state == "registered"


# -- which kind of care-of address ---------------------------------------------------------------


def test_agents_first_takes_its_own_address_when_no_agent_answers() -> None:
    world = World(care_of=CareOf.FOREIGN_AGENT_FIRST, handover=HandoverPolicy.SMOOTH)
    world.link(visit_a())
    world.run(1)
    assert world.requests == []
    world.run(3)
    assert world.state == "registered"
    assert world.sent()[0].care_of == A
    assert len(world.solicitations) >= 2
    world.place(fa1())
    world.run(1)
    assert world.sent()[1].care_of == FA1


def test_in_a_hurry_an_agent_has_a_third_of_a_second_to_answer() -> None:
    world = World(care_of=CareOf.FOREIGN_AGENT_FIRST, handover=HandoverPolicy.FAST)
    world.link(visit_a())
    world.run(0.29)
    assert world.requests == []
    world.run(0.02)
    assert [request.care_of for request in world.sent()] == [A]
    assert len(world.solicitations) == 1
    world.place(fa1())
    world.run(2)
    assert world.sent()[-1].care_of == FA1, "one that is heard later is preferred all the same"


def test_agents_first_falls_back_to_its_own_address_when_all_deny() -> None:
    world = World(care_of=CareOf.FOREIGN_AGENT_FIRST, handover=HandoverPolicy.FAST)
    world.place(fa1(code=65))
    world.link(visit_a())
    world.run(4)
    assert [request.care_of for request in world.sent()] == [FA1, A]
    assert world.state == "registered"


def test_its_own_first_registers_directly_and_solicits_no_more() -> None:
    world = World(care_of=CareOf.COLOCATED_FIRST)
    world.place(fa1())
    world.link(visit_a())
    world.run(100)
    assert [request.care_of for request in world.sent()] == [A]
    assert world.requests[0][1].destination.address == HOME_AGENT
    assert world.solicitations == []


def test_r_brings_a_colocated_registration_through_the_agent_rfc5944_2_4_1() -> None:
    world = World(care_of=CareOf.COLOCATED_FIRST)
    strict = fa1(flags=F | T | R)
    world.place(strict)
    world.link(visit_a())
    world.run(3)
    _, datagram, request = world.requests[-1]
    assert (datagram.source.address, datagram.destination.address) == (A, FA1)
    assert (request.care_of, request.flags & 0x20) == (A, 0x20)
    assert world.tunnels() == (A,), "the tunnel ends here, not at the agent"
    assert world.of(RouteThroughTunnel)[-1] == RouteThroughTunnel(True, True, "eth0")
    assert strict.requests


def test_from_an_agent_to_an_own_address_and_back() -> None:
    world = World(care_of=CareOf.FOREIGN_AGENT_FIRST, handover=HandoverPolicy.FAST)
    world.link(BARE)
    world.place(fa1())
    world.run(1)
    world.agents.clear()
    world.link(down("eth0"))
    world.link(visit_b())
    world.run(4)
    assert set(world.home_agent.bindings) == {B}
    assert world.tunnels() == (B,)
    world.link(down("eth0"))
    world.place(fa1())
    world.link(BARE)
    world.run(1)
    assert set(world.home_agent.bindings) == {FA1}
    assert world.tunnels() == ()


def test_advertisements_mean_nothing_to_a_node_that_uses_none() -> None:
    world = World()
    world.place(fa1(address=GATEWAY_A))
    world.link(visit_a())
    world.run(10)
    assert [request.care_of for request in world.sent()] == [A]
    assert world.solicitations == []
    assert world.node.counters()["mnAdvertisementsReceived"] == 0


# -- delivery ------------------------------------------------------------------------------------


def test_encapsulating_delivery_is_a_tunnel_to_the_agent_rfc3024_5_2() -> None:
    agent = fa1()
    world = registered(agent, encapsulating_delivery=True)
    assert kinds_behind_home(agent.requests[0]) == [130]
    [tunnel] = world.of(InstallTunnels)[-1].tunnels
    assert (tunnel.remote, tunnel.local, tunnel.reverse) == (FA1, HOME, True)
    local = ((FA1 & ~0xFF, 24),)
    assert world.of(RouteThroughTunnel)[-1] == RouteThroughTunnel(True, True, "eth0", FA1, local)
    routes = len(world.of(RouteThroughTunnel))
    world.run(30)
    assert len(world.of(RouteThroughTunnel)) == routes


def test_encapsulating_delivery_is_asked_for_with_t_alone_rfc3024_3_3() -> None:
    agent = fa1()
    registered(agent, encapsulating_delivery=True, reverse_tunnel=False)
    assert kinds_behind_home(agent.requests[0]) == []


@pytest.mark.parametrize(
    ("wanted", "offered", "asked"),
    [(47, G, 0x08), (47, M, 0), (55, M, 0x10), (55, G, 0), (47, 0, 0)],
)
def test_only_an_advertised_encapsulation_is_asked_for_rfc5944_3_6_1_2(
    wanted: int, offered: int, asked: int
) -> None:
    world = registered(fa1(flags=F | T | offered), encapsulation=wanted)
    assert world.sent()[0].flags & 0x18 == asked


def test_79_falls_back_to_direct_delivery_rfc3024_3_4() -> None:
    agent = fa1(code=79)
    world = visitor(encapsulating_delivery=True)
    world.place(agent)
    world.run(0.01)
    agent.code = None
    world.run(2)
    assert [kinds_behind_home(data) for data in agent.requests] == [[130], []]
    assert world.tunnels() == ()


def test_broadcasts_come_nested_to_the_home_address_rfc5944_4_3() -> None:
    world = registered(fa1(), broadcasts=True)
    assert world.sent()[0].flags == 0x42
    [tunnel] = world.of(InstallTunnels)[-1].tunnels
    assert (tunnel.remote, tunnel.local, tunnel.broadcasts) == (HOME_AGENT, HOME, True)
    assert world.of(RouteThroughTunnel)[-1] == RouteThroughTunnel(True, False, "eth0", FA1)


def test_a_stop_gives_the_care_of_address_back_through_the_agent() -> None:
    world = registered(fa1())
    world.run(1)
    world.take(world.node.stop(world.now))
    world.run(0.2)
    assert world.stopped()
    assert world.home_agent.bindings == {}
    assert world.requests[-1][1].destination.address == FA1


def test_pace_is_kept_among_many_agents_that_deny_rfc5944_3_6_3() -> None:
    world = visitor()
    agents = [
        fa1(
            address=FA1 + n,
            mac=n.to_bytes(6, "big"),
            care_of=(FA1 + n,),
            code=66,
        )
        for n in range(1, 20)
    ]
    world.place(*agents)
    world.run(40)
    sent = [when for when, _, _ in world.requests]
    assert len(sent) > 10
    assert all(b - a >= SECOND for a, b in itertools.pairwise(sent[3:]))


def test_smooth_lets_a_new_link_wait_its_turn_to_solicit_rfc1256_5() -> None:
    world = World(care_of=CareOf.FOREIGN_AGENT)
    world.link(BARE)
    assert world.solicitations == []
    world.run(1.01)
    assert world.solicitations


def test_a_paper_agent_relays_what_its_home_agent_says() -> None:
    """The paper agents are worth something only if they can refuse."""
    world = visitor(home_agent=PaperHomeAgent(HOME_AGENT, code=131))
    world.place(fa1())
    world.run(1)
    assert world.state == "pending"
    assert world.node.counters()["mnRegRequestsDeniedByHA"] >= 1
