"""The mobile router: what it asks for, and what it does with the home agent's word on it."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tests.agents.mobile_world import HOME, HOME_AGENT, World, at_home, down, link, visit_a
from tests.agents.paper_home_agent import PaperHomeAgent
from tests.agents.visitor_world import FA1, fa1, visitor

from fastmip.agents.effects import InstallTunnels, UseNetworks
from fastmip.agents.router_networks import RouterNetworks, RouterSettings
from fastmip.wire.addresses import parse_address
from fastmip.wire.codes import FLAG_REVERSE_TUNNEL
from fastmip.wire.mobile_network import MobileNetworkAcknowledgement as Ack
from fastmip.wire.mobile_network import network_requests
from fastmip.wire.registration import RegistrationRequest

NET = (parse_address("10.2.8.0"), 24)
OTHER = (parse_address("10.2.9.0"), 24)
GIVEN = (parse_address("10.2.128.16"), 28)


def router(
    *networks: tuple[int, int], dynamic: tuple[int, ...] = (), implicit: bool = False
) -> RouterNetworks:
    return RouterNetworks(RouterSettings(networks, dynamic, implicit))


def asked(networks: RouterNetworks) -> list[tuple[int, int]]:
    return [(one.prefix, one.length) for one in networks.requests()]


def carried(networks: RouterNetworks) -> list[tuple[int, int]]:
    told = [effect for effect in networks.changes() if isinstance(effect, UseNetworks)]
    return [(prefix, length) for prefix, length, _ in told[-1].networks] if told else []


def states(networks: RouterNetworks) -> list[tuple[object, object]]:
    return [(row["state"], row["code"]) for row in networks.rows()]


def test_explicit_mode_names_every_network_and_carries_what_is_granted_rfc5177_5() -> None:
    networks = router(NET, OTHER)
    assert asked(networks) == [NET, OTHER]
    networks.accepted([Ack(*NET, 0), Ack(*OTHER, 2)])
    assert carried(networks) == [NET]
    assert states(networks) == [("forwarded", 0), ("refused", 2)]
    assert asked(networks) == [NET, OTHER]  # every request names all of them
    networks.accepted([Ack(*NET, 0), Ack(*OTHER, 0)])
    assert carried(networks) == [NET, OTHER]


@pytest.mark.parametrize("code", [1, 2, 3, 4, 77])
def test_a_network_refused_is_shown_with_its_reason(code: int) -> None:
    networks = router(NET)
    networks.requests()
    networks.accepted([Ack(*NET, code)])
    assert states(networks) == [("refused", code)]
    assert carried(networks) == []


def test_a_home_agent_that_says_nothing_knows_no_networks_rfc5177_5_1() -> None:
    networks = router(NET)
    networks.requests()
    networks.accepted([])
    assert states(networks) == [("unsupported", "")]
    assert carried(networks) == []


def test_implicit_mode_names_nothing_and_carries_what_it_is_told_rfc5177_5() -> None:
    networks = router(NET, implicit=True)
    assert asked(networks) == []
    networks.accepted([])
    assert carried(networks) == [NET]
    assert states(networks) == [("assumed", "")]
    networks.accepted([Ack(*NET, 0, implicit=True), Ack(*OTHER, 0, implicit=True)])
    assert carried(networks) == [NET, OTHER]
    networks.accepted([Ack(*OTHER, 0, implicit=True)])
    assert carried(networks) == [OTHER]
    networks.ended()
    assert states(networks) == [("refused", "")]


def test_a_denial_for_all_networks_ends_asking_for_them_rfc5177_5_1() -> None:
    networks = router(NET, OTHER)
    networks.requests()
    assert networks.mend(147, [Ack(*NET, 3), Ack(*OTHER, 3)])
    assert asked(networks) == []
    assert not networks.mend(147, [])


def test_a_host_that_is_no_router_asks_for_nothing_again_rfc5177_5_1() -> None:
    networks = router(NET, dynamic=(28,))
    networks.requests()
    assert networks.mend(148, [])
    assert asked(networks) == []
    assert not networks.mend(148, [])
    assert not networks.mend(130, [])


def test_a_dynamic_network_is_asked_for_once_and_named_then_rfc6626() -> None:
    networks = router(NET, dynamic=(28,))
    assert asked(networks) == [NET, (0, 28)]
    networks.accepted([Ack(*NET, 0), Ack(*GIVEN, 0)])
    assert asked(networks) == [NET, GIVEN]
    assert networks.changes()[0] == UseNetworks(((*NET, False), (*GIVEN, True)))
    assert not networks.accepted([Ack(*NET, 0), Ack(*GIVEN, 0)])
    assert networks.changes() == []
    # The home agent forgot it: given up at once, and asked for anew at once.
    networks.requests()
    assert networks.accepted([Ack(*NET, 0), Ack(*GIVEN, 2)])
    assert carried(networks) == [NET]
    assert asked(networks) == [NET, (0, 28)]


def test_an_empty_pool_is_asked_again_with_the_next_registration_rfc6626() -> None:
    networks = router(NET, dynamic=(0,))
    networks.requests()
    assert not networks.accepted([Ack(*NET, 0), Ack(0, 0, 4)])
    assert states(networks) == [("forwarded", 0), ("refused", 4)]
    assert asked(networks) == [NET, (0, 0)]


def test_a_given_network_ends_with_the_deregistration() -> None:
    networks = router(dynamic=(28,))
    networks.requests()
    networks.accepted([Ack(*GIVEN, 0)])
    assert carried(networks) == [GIVEN]
    networks.ended()
    assert networks.changes()[0] == UseNetworks(())


@pytest.mark.parametrize("given", [(0, 0), (0, 33), NET])
def test_a_lying_home_agent_gives_nothing(given: tuple[int, int]) -> None:
    networks = router(NET, dynamic=(24,))
    networks.requests()
    networks.accepted([Ack(*NET, 0), Ack(*given, 0)])
    assert carried(networks) == [NET]


def test_acknowledgements_beside_the_point_change_nothing() -> None:
    networks = router(NET)
    networks.requests()
    networks.accepted([Ack(*OTHER, 0), Ack(*NET, 0), Ack(*OTHER, 0)])
    assert carried(networks) == [NET]


# -- in registrations --------------------------------------------------------------------------


def world_of(**changes: Any) -> World:
    world = World(
        home_agent=PaperHomeAgent(HOME_AGENT),
        router=RouterSettings((NET,), (28,)),
        **changes,
    )
    world.exact = False
    return world


def requests_of(world: World) -> list[RegistrationRequest]:
    return [RegistrationRequest.decode(datagram.data) for _, datagram, _ in world.requests]


def test_registrations_name_networks_and_deregistrations_do_not_rfc5177_5() -> None:
    world = world_of(reverse_tunnel=False)
    world.link(visit_a())
    world.run(1)
    world.link(at_home())
    world.run(1)
    away, home = requests_of(world)
    named = [(one.prefix, one.length) for one in network_requests(away.extensions)]
    assert named == [NET, (0, 28)]
    assert away.flags & FLAG_REVERSE_TUNNEL
    assert home.lifetime == 0
    assert network_requests(home.extensions) == []


def test_no_care_of_address_out_of_an_own_network_rfc5177_8() -> None:
    world = world_of()
    inside, gateway = NET[0] + 30, NET[0] + 1
    world.link(link("eth0", inside, gateway))
    world.run(3)
    assert world.requests == []
    assert world.state == "isolated"
    world.link(visit_a("wlan0"))
    world.run(1)
    assert world.state == "registered"
    world.link(down("wlan0"))
    world.run(3)
    assert world.state == "isolated"


def test_behind_a_foreign_agent_a_second_tunnel_ends_at_the_home_address_rfc5177_7() -> None:
    world = visitor(router=RouterSettings((NET,)))
    world.exact = False
    world.place(fa1())
    world.run(2)
    assert world.state == "registered"
    (tunnel,) = world.of(InstallTunnels)[-1].tunnels
    assert (tunnel.remote, tunnel.local, tunnel.reverse) == (HOME_AGENT, HOME, True)
    request = requests_of(world)[0]
    assert request.care_of_address == FA1
    assert request.flags & FLAG_REVERSE_TUNNEL
    # 148, length 6, subtype 0, prefix length, prefix (RFC 5177 4.1)
    assert struct.pack("!BBBBI", 148, 6, 0, 24, NET[0]) in world.requests[0][1].data


def test_a_foreign_agent_without_reverse_tunnels_is_not_settled_for() -> None:
    world = visitor(router=RouterSettings((NET,)))
    world.place(fa1(code=74))
    world.run(3)
    assert all(request.flags & FLAG_REVERSE_TUNNEL for request in requests_of(world))
    assert world.state == "pending"
