"""ARP on the home link when a node leaves and returns (RFC 5944 4.6; SEC-55)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.agents.home_lab import (
    CARE_OF,
    CARE_OF_2,
    HOME_AGENT,
    HOME_LINK,
    NODE,
    NODE_MAC,
    OTHER_KEY,
    D,
    Lab,
    M,
    S,
    only_reply,
    without_commits,
)

from fastmip.agents.effects import (
    CommitOutcome,
    Effect,
    Endpoint,
    GratuitousArp,
    SendDatagram,
    StartProxyArp,
    StopProxyArp,
)


def arp(effects: list[Effect]) -> list[Effect]:
    """ARP effects in order."""
    return [e for e in effects if isinstance(e, GratuitousArp | StartProxyArp | StopProxyArp)]


def go_home(lab: Lab, **fields: Any) -> list[Effect]:
    """Deregister as a mobile node does on its home link."""
    home = lab.arrival(NODE, interface=HOME_LINK, mac=NODE_MAC)
    return lab.send(lab.request(lifetime=0, care_of=NODE, flags=0, **fields), home)


def test_leaving_home_gratuitous_then_proxy_then_reply_rfc5944_4_6() -> None:
    lab = Lab()
    effects = without_commits(lab.send(lab.request()))
    assert effects[:2] == [GratuitousArp(NODE, None, HOME_LINK), StartProxyArp(NODE)]
    assert [type(e) for e in effects[2:]] == [SendDatagram]


def test_nothing_moves_before_the_commit_rfc5944_4_6() -> None:
    lab = Lab()
    assert arp(lab.receive(lab.request())) == []


def test_refresh_and_move_leave_arp_alone() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    assert arp(lab.send(lab.request())) == []
    lab.pass_time(1)
    assert arp(lab.send(lab.request(care_of=CARE_OF_2), lab.arrival(CARE_OF_2))) == []


def test_returning_home_stops_proxy_first_then_restores_the_nodes_address_rfc5944_4_6() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    effects = without_commits(go_home(lab))
    assert effects[:2] == [StopProxyArp(NODE), GratuitousArp(NODE, NODE_MAC, HOME_LINK)]
    assert [type(e) for e in effects[2:]] == [SendDatagram]
    assert lab.count("haGratuitiousARPsSent") == 2


def test_reply_to_a_node_at_home_goes_straight_onto_the_home_link_rfc5944_3_8_3_1() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    sent = only_reply(go_home(lab))
    assert (sent.interface, sent.mac) == (HOME_LINK, NODE_MAC)
    assert sent.source == Endpoint(HOME_AGENT, 434)
    assert sent.destination == Endpoint(NODE, 40000)


def test_denial_to_a_node_at_home_goes_there_too_and_moves_no_arp_rfc5944_3_8_3_1() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    effects = go_home(lab, home_agent=0)
    assert arp(effects) == []
    sent = only_reply(effects)
    assert sent.data[1] == 136
    assert (sent.interface, sent.mac) == (HOME_LINK, NODE_MAC)
    assert lab.care_of_addresses() == [CARE_OF]


def test_reply_goes_onto_the_home_link_when_the_request_came_by_another() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    routed = lab.arrival(NODE, interface="wan0", mac=bytes(6))
    effects = lab.send(lab.request(lifetime=0, care_of=NODE), routed)
    sent = only_reply(effects)
    assert (sent.interface, sent.mac) == (HOME_LINK, None)
    assert arp(effects) == [StopProxyArp(NODE)]


def test_deregistration_through_a_router_does_not_install_the_routers_address() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    relayed = lab.arrival(CARE_OF, interface=HOME_LINK, mac=bytes.fromhex("0200000000ff"))
    effects = lab.send(lab.request(lifetime=0, care_of=NODE), relayed)
    assert arp(effects) == [StopProxyArp(NODE)]
    assert only_reply(effects).interface == ""


def test_unknown_link_layer_address_installs_nothing() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    home = lab.arrival(NODE, interface=HOME_LINK)
    assert arp(lab.send(lab.request(lifetime=0, care_of=NODE), home)) == [StopProxyArp(NODE)]


def test_deregistration_at_home_without_binding_still_restores_the_address() -> None:
    lab = Lab()
    assert arp(go_home(lab)) == [StopProxyArp(NODE), GratuitousArp(NODE, NODE_MAC, HOME_LINK)]


def test_deregistration_of_one_of_two_keeps_proxy_arp() -> None:
    lab = Lab()
    for care_of in (CARE_OF, CARE_OF_2):
        lab.pass_time(1)
        lab.send(lab.request(care_of=care_of, flags=S | D), lab.arrival(care_of))
    lab.pass_time(1)
    one = lab.request(lifetime=0, care_of=CARE_OF)
    assert arp(lab.send(one)) == []
    lab.pass_time(1)
    two = lab.request(lifetime=0, care_of=CARE_OF_2)
    assert arp(lab.send(two, lab.arrival(CARE_OF_2))) == [StopProxyArp(NODE)]


def test_last_expiry_stops_proxy_arp_without_a_reply_rfc5944_3_8() -> None:
    lab = Lab()
    lab.send(lab.request(lifetime=10))
    assert lab.pass_time(9) == []
    effects = without_commits(lab.pass_time(1))
    assert effects[0] == StopProxyArp(NODE)
    assert {type(e) for e in effects} == {StopProxyArp}


def test_registration_after_expiry_starts_over() -> None:
    lab = Lab()
    lab.send(lab.request(lifetime=10))
    lab.pass_time(20)
    effects = arp(lab.send(lab.request()))
    assert effects == [GratuitousArp(NODE, None, HOME_LINK), StartProxyArp(NODE)]


def test_registration_after_expiry_starts_over_even_before_the_timer_ran() -> None:
    lab = Lab()
    lab.send(lab.request(lifetime=5))
    lab.boot_ns += 6 * 10**9
    lab.wall_ns += 6 * 10**9
    effects = arp(lab.send(lab.request()))
    assert effects == [GratuitousArp(NODE, None, HOME_LINK), StartProxyArp(NODE)]


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"flags": D | M}, CommitOutcome.COMMITTED),
        ({"home_agent": 0}, CommitOutcome.COMMITTED),
        ({"identification": 1}, CommitOutcome.COMMITTED),
        ({"key": OTHER_KEY}, CommitOutcome.COMMITTED),
        ({}, CommitOutcome.STORE_FAILED),
        ({}, CommitOutcome.ENGINE_FULL),
    ],
    ids=["139", "136", "133", "unauthenticated", "store", "engine"],
)
def test_a_rejected_request_moves_no_arp_sec55(
    fields: dict[str, Any], outcome: CommitOutcome
) -> None:
    lab = Lab(outcome=outcome)
    lab.set_policy(encapsulations=frozenset({4}))
    assert arp(lab.send(lab.request(**fields))) == []
    assert lab.tunnels == {}


def test_virtual_home_network_has_no_arp() -> None:
    lab = Lab()
    lab.set_policy(home_interface="")
    assert arp(lab.send(lab.request())) == []
    lab.pass_time(1)
    effects = lab.send(lab.request(lifetime=0, care_of=NODE), lab.arrival(NODE, mac=NODE_MAC))
    assert arp(effects) == []
    assert only_reply(effects).interface == ""
    lab.pass_time(1)
    lab.send(lab.request(lifetime=2))
    assert arp(lab.pass_time(3)) == []


def test_clear_binding_stops_proxy_arp_once_it_is_stored() -> None:
    lab = Lab()
    lab.send(lab.request())
    effects = lab.agent.clear_binding(NODE, lab.now)
    assert arp(effects) == []
    assert arp(lab.carry_out(effects)) == [StopProxyArp(NODE)]
