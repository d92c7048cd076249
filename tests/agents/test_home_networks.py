"""Mobile networks at the home agent: requests, answers, ownership, the end (RFC 5177, 6626)."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from tests.agents.home_lab import (
    CARE_OF,
    CARE_OF_2,
    FOREIGN_AGENT,
    NODE,
    OTHER,
    D,
    Lab,
    S,
    T,
    associations,
    codes,
    only_reply,
    violations,
)
from tests.helpers.handmade_extensions import by_agent

from fastmip.agents.effects import CommitOutcome, Effect
from fastmip.agents.hosts import Host, NetworkPolicy
from fastmip.auth.associations import ReplayStyle

NET, NET_2, POOL = (0x0A020800, 24), (0x0A020900, 24), (0x0A100000, 16)
STRANGE = (0x0A630000, 24)


def asked(*networks: tuple[int, int]) -> bytes:
    """Mobile Network Request extensions (RFC 5177 4.1)."""
    return b"".join(struct.pack("!BBBBI", 148, 6, 0, length, p) for p, length in networks)


def routers(*, dynamic: int = 0, **fields: Any) -> Lab:
    """A lab whose nodes are mobile routers, the first of two networks."""
    lab = Lab(**fields)
    lab.hosts[NODE] = replace(lab.hosts[NODE], networks=(NET, NET_2), dynamic_networks=dynamic)
    lab.hosts[OTHER] = replace(lab.hosts[OTHER], networks=(NET_2,), dynamic_networks=dynamic)
    lab.set_policy(networks=NetworkPolicy((POOL,), 28, 26))
    return lab


def register(lab: Lab, *networks: tuple[int, int], **fields: Any) -> list[Effect]:
    """A request of now, a second after the last one."""
    lab.pass_time(1)
    arrival = lab.arrival(fields.get("care_of", CARE_OF))
    return lab.send(lab.request(extensions=asked(*networks), **fields), arrival)


def answers(effects: list[Effect]) -> list[tuple[int, int, int, int]]:
    """Subtype, code, prefix and length of each acknowledgement of the one reply."""
    data, at, found = only_reply(effects).data, 20, []
    while data[at] != 32:
        if data[at] == 148:
            assert (data[at + 1], data[at + 5]) == (8, 0)
            subtype, code, length, prefix = struct.unpack_from("!BBBxI", data, at + 2)
            found.append((subtype, code, prefix, length))
        at += 2 + data[at + 1]
    return found


def test_a_configured_prefix_is_granted_and_routed_rfc5177_6_3() -> None:
    lab = routers()
    effects = register(lab, NET)
    assert (codes(effects), answers(effects)) == ([0], [(1, 0, *NET)])
    assert lab.prefixes == {NET: NODE}
    assert lab.count("haMobileNetworks") == 1


def test_prefixes_are_judged_one_by_one_rfc5177_6_3() -> None:
    lab = routers()
    effects = register(lab, STRANGE, NET, (NET[0], 0), (NET[0], 33), (NET_2[0] + 7, 24))
    assert codes(effects) == [0]
    assert answers(effects) == [
        (1, 2, *STRANGE),
        (1, 0, *NET),
        (1, 1, NET[0], 0),
        (1, 1, NET[0], 33),
        (1, 0, NET_2[0] + 7, 24),
    ]
    assert set(lab.prefixes) == {NET, NET_2}
    assert violations(effects) == ["other"]


def test_when_every_prefix_fails_the_registration_does_rfc5177_6_3() -> None:
    lab = routers()
    effects = register(lab, STRANGE, (NET[0], 23))
    assert (codes(effects), lab.prefixes, lab.tunnels) == ([147], {}, {})
    assert answers(effects) == [(1, 2, *STRANGE), (1, 2, NET[0], 23)]
    assert lab.count("haMobileNetworkError") == 1


@pytest.mark.parametrize("replay", [ReplayStyle.TIMESTAMPS, ReplayStyle.NONCES])
def test_a_denied_renewal_leaves_the_binding_and_takes_the_prefixes(replay: ReplayStyle) -> None:
    lab = routers(replay=replay)
    if replay is ReplayStyle.NONCES:
        for networks, code in ((NET, 0), (STRANGE, 147)):
            nonce = only_reply(register(lab, NET)).data[12:16]
            lab.pass_time(1)
            identification = int.from_bytes(nonce + bytes(4))
            data = lab.request(extensions=asked(networks), identification=identification)
            assert codes(lab.send(data)) == [code]
            lab.pass_time(1)
    else:
        assert codes(register(lab, NET)) == [0]
        assert lab.prefixes
        assert codes(register(lab, STRANGE)) == [147]
    assert (lab.prefixes, lab.care_of_addresses()) == ({}, [CARE_OF])


def test_a_node_that_is_no_router_may_not_ask_rfc5177_6_1() -> None:
    lab = Lab()
    effects = register(lab, NET)
    assert (codes(effects), answers(effects)) == ([148], [])
    assert codes(register(lab)) == [0], "without it is a mobile node"
    assert not answers(register(lab))


def test_implicit_mode_routes_what_is_configured_and_says_so_rfc5177_4_2() -> None:
    lab = routers()
    effects = register(lab)
    assert answers(effects) == [(2, 0, *NET), (2, 0, *NET_2)]
    assert lab.prefixes == {NET: NODE, NET_2: NODE}


def test_a_prefix_missing_from_a_renewal_is_withdrawn_rfc5177_6_3() -> None:
    lab = routers()
    register(lab, NET, NET_2)
    assert set(lab.prefixes) == {NET, NET_2}
    register(lab, NET_2)
    assert lab.prefixes == {NET_2: NODE}
    register(lab, NET)
    assert lab.prefixes == {NET: NODE}


def test_a_prefix_belongs_to_one_router_at_a_time() -> None:
    lab = routers()
    register(lab, NET_2)
    effects = register(lab, NET_2, home_address=OTHER, care_of=CARE_OF_2)
    assert (codes(effects), answers(effects)) == ([147], [(1, 3, *NET_2)])
    register(lab, NET)
    effects = register(lab, NET_2, home_address=OTHER, care_of=CARE_OF_2)
    assert answers(effects) == [(1, 0, *NET_2)]
    assert lab.prefixes == {NET: NODE, NET_2: OTHER}


@pytest.mark.parametrize("length", [16, 23, 25, 32])
def test_prefixes_of_two_routers_never_overlap(length: int) -> None:
    lab = routers()
    wide = (NET[0] & ~(0xFFFFFFFF >> length), length)
    lab.hosts[OTHER] = replace(lab.hosts[OTHER], networks=(wide,))
    register(lab, NET)
    effects = register(lab, wide, home_address=OTHER, care_of=CARE_OF_2)
    assert answers(effects) == [(1, 3, *wide)]
    assert lab.prefixes == {NET: NODE}


def test_prefixes_of_one_router_may_lie_in_each_other() -> None:
    lab = routers()
    inside = (NET[0] + 128, 25)
    lab.hosts[NODE] = replace(lab.hosts[NODE], networks=(NET, inside))
    assert answers(register(lab, inside, NET)) == [(1, 0, *inside), (1, 0, *NET)]
    register(lab, inside)
    assert lab.prefixes == {inside: NODE}


def test_two_requests_in_work_cannot_both_have_it() -> None:
    lab = routers()
    lab.pass_time(1)
    first = lab.receive(lab.request(extensions=asked(NET_2)))
    second = lab.send(lab.request(extensions=asked(NET_2), home_address=OTHER))
    assert answers(second) == [(1, 3, *NET_2)]
    lab.outcome = CommitOutcome.STORE_FAILED
    assert codes(lab.carry_out(first)) == [130]
    lab.outcome = CommitOutcome.COMMITTED
    assert codes(register(lab, NET_2, home_address=OTHER, care_of=CARE_OF_2)) == [0]
    assert lab.prefixes == {NET_2: OTHER}


def test_without_room_in_the_engine_forwarding_fails_rfc5177_6_6() -> None:
    lab = routers()
    register(lab, NET)
    lab.full = True
    effects = register(lab, NET, NET_2)
    assert answers(effects) == [(1, 0, *NET), (1, 3, *NET_2)]
    assert lab.prefixes == {NET: NODE}


def test_a_deregistration_ignores_prefixes_and_ends_them_rfc5177_6_7() -> None:
    lab = routers()
    register(lab, NET)
    effects = register(lab, STRANGE, (1, 0), lifetime=0, care_of=NODE)
    assert (codes(effects), answers(effects)) == ([0], [])
    assert (lab.prefixes, lab.tunnels) == ({}, {})


def test_prefixes_stay_while_one_binding_is_left() -> None:
    lab = routers()
    register(lab, NET)
    register(lab, NET, care_of=CARE_OF_2, flags=S | D | T)
    register(lab, lifetime=0, care_of=CARE_OF_2)
    assert lab.prefixes == {NET: NODE}
    lab.pass_time(301)
    assert (lab.prefixes, lab.tunnels) == ({}, {})


@pytest.mark.parametrize("way", ["expiry", "operator", "host removed", "restart after expiry"])
def test_a_prefix_never_survives_its_binding(way: str) -> None:
    lab = routers(dynamic=1)
    register(lab, NET, (0, 0))
    assert len(lab.prefixes) == 2
    if way == "expiry":
        lab.pass_time(301)
    elif way == "operator":
        lab.carry_out(lab.agent.clear_binding(NODE, lab.now))
    elif way == "host removed":
        host = lab.hosts.pop(NODE)
        lab.carry_out(lab.agent.host_removed(NODE, lab.now, host))
    else:
        lab.boot_ns += 301 * 10**9
        lab.wall_ns += 301 * 10**9
        lab.start()
    assert lab.prefixes == {}


def test_a_restart_routes_what_was_routed() -> None:
    lab = routers(dynamic=1)
    register(lab, NET, (0, 0))
    before = dict(lab.prefixes)
    lab.start()
    assert lab.prefixes == before
    assert codes(register(lab, NET_2, home_address=OTHER, care_of=CARE_OF_2)) == [0]
    lab.hosts[NODE] = replace(lab.hosts[NODE], networks=())
    lab.start()
    assert set(lab.prefixes) == before.keys() - {NET} | {NET_2}, "no longer configured"


def test_a_reload_takes_back_what_is_not_configured_any_more() -> None:
    lab = routers(dynamic=1)
    register(lab, NET, NET_2, (0, 0))
    lab.hosts[NODE] = replace(lab.hosts[NODE], networks=(NET,))
    lab.carry_out(lab.agent.revise_networks(lab.now))
    assert NET in lab.prefixes
    assert NET_2 not in lab.prefixes
    assert (len(lab.prefixes), lab.care_of_addresses()) == (2, [CARE_OF])
    lab.set_policy(networks=NetworkPolicy())
    lab.carry_out(lab.agent.revise_networks(lab.now))
    assert set(lab.prefixes) == {NET}


def test_a_reload_waits_for_a_commit_in_work() -> None:
    lab = routers()
    lab.pass_time(1)
    first = lab.receive(lab.request(extensions=asked(NET)))
    lab.hosts[NODE] = replace(lab.hosts[NODE], networks=())
    assert lab.agent.revise_networks(lab.now) == []
    register(lab, NET_2, home_address=OTHER, care_of=CARE_OF_2)
    lab.carry_out(lab.agent.revise_networks(lab.now) + first)
    lab.carry_out(lab.agent.revise_networks(lab.now))
    assert lab.prefixes == {NET_2: OTHER}


def test_a_repeated_request_is_told_the_same_again() -> None:
    lab = routers(dynamic=2)
    lab.pass_time(1)
    data = lab.request(extensions=asked(NET, (0, 0), STRANGE))
    first, again = lab.send(data), lab.send(data)
    assert answers(first) == answers(again)
    assert codes(again) == [0]


def test_prefixes_nobody_vouches_for_count_for_nothing_rfc5177_10() -> None:
    lab = routers()
    lab.pass_time(1)
    data = by_agent(lab.request(care_of=FOREIGN_AGENT, flags=T) + asked(STRANGE))
    effects = lab.send(data, lab.arrival(FOREIGN_AGENT))
    assert answers(effects) == [(2, 0, *NET), (2, 0, *NET_2)]


# prefixes out of pools


def test_an_all_zero_prefix_gets_one_rfc6626_3_2() -> None:
    lab = routers(dynamic=3)
    effects = register(lab, (0, 0), (0, 27), (0, 20))
    assert answers(effects) == [
        (1, 0, 0x0A100000, 28),
        (1, 0, 0x0A100020, 27),
        (1, 0, 0x0A100040, 26),
    ]
    assert set(lab.prefixes.values()) == {NODE}


def test_the_limit_of_a_router_and_lengths_out_of_range_rfc6626_4() -> None:
    lab = routers(dynamic=1)
    effects = register(lab, (0, 0), (0, 28), (0, 33))
    assert [code for _, code, _, _ in answers(effects)] == [0, 4, 1]
    assert len(lab.prefixes) == 1


def test_without_pools_it_is_an_invalid_prefix_rfc6626_3_1() -> None:
    lab = routers(dynamic=1)
    lab.set_policy(networks=NetworkPolicy())
    effects = register(lab, (0, 0))
    assert (codes(effects), answers(effects)) == ([147], [(1, 1, 0, 0)])


@pytest.mark.parametrize("by_name", [False, True])
def test_a_renewal_keeps_what_was_allocated(by_name: bool) -> None:
    lab = routers(dynamic=1)
    ((_, _, *network),) = answers(register(lab, (0, 0)))
    prefix, length = network
    for _ in range(3):
        again = answers(register(lab, (prefix, length) if by_name else (0, 0)))
        assert again == [(1, 0, prefix, length)]
    assert lab.prefixes == {(prefix, length): NODE}


def test_a_router_gets_its_prefix_again_also_after_a_restart() -> None:
    lab = routers(dynamic=1)
    register(lab, (0, 0), home_address=OTHER, care_of=CARE_OF_2)
    first = answers(register(lab, (0, 0)))
    register(lab, lifetime=0, care_of=NODE)
    lab.start()
    assert lab.count("haMobileNetworksRemembered") == 1
    assert answers(register(lab, (0, 0))) == first


def test_an_exhausted_pool_takes_what_is_only_remembered_and_then_says_4() -> None:
    lab = routers(dynamic=2)
    lab.set_policy(networks=NetworkPolicy(((0x0A100000, 27),), 28, 28))
    register(lab, (0, 0), (0, 0))
    register(lab, lifetime=0, care_of=NODE)
    effects = register(lab, (0, 0), home_address=OTHER, care_of=CARE_OF_2)
    assert answers(effects) == [(1, 0, 0x0A100000, 28)]
    effects = register(lab, (0, 0), (0, 0))
    assert answers(effects) == [(1, 0, 0x0A100010, 28), (1, 4, 0, 0)]
    lab.start()
    assert len(lab.prefixes) == 2


def test_another_routers_allocation_is_not_to_be_had_by_name() -> None:
    lab = routers(dynamic=1)
    ((_, _, prefix, length),) = answers(register(lab, (0, 0)))
    effects = register(lab, (prefix, length), home_address=OTHER, care_of=CARE_OF_2)
    assert answers(effects) == [(1, 2, prefix, length)]


def test_a_host_may_become_a_router_and_stop_being_one() -> None:
    lab = Lab(hosts={NODE: Host(NODE, associations())})
    register(lab)
    lab.hosts[NODE] = replace(lab.hosts[NODE], networks=(NET,))
    register(lab)
    assert lab.prefixes == {NET: NODE}
    lab.hosts[NODE] = replace(lab.hosts[NODE], networks=(), dynamic_networks=1)
    assert codes(register(lab)) == [0]
    assert lab.prefixes == {}


# routers within routers


def nest(depth: int) -> Lab:
    """So many routers, each with its care-of address in the network of the one before."""
    lab = Lab()
    for number in range(depth):
        home_address = 0x0A010020 + number
        network = (0x0A020000 + (number << 8), 24)
        lab.hosts[home_address] = Host(home_address, associations(), networks=(network,))
        care_of = (0x0A020000 + ((number - 1) << 8) + 9) if number else CARE_OF
        assert codes(register(lab, home_address=home_address, care_of=care_of)) == [0]
    return lab


def test_routers_and_nodes_may_visit_a_mobile_network_to_depth_4_rfc5177_8() -> None:
    lab = nest(4)
    assert codes(register(lab, care_of=0x0A020309)) == [0], "a node below four routers"
    lab.hosts[OTHER] = replace(lab.hosts[OTHER], networks=((0x0A020400, 24),))
    assert codes(register(lab, home_address=OTHER, care_of=0x0A020309)) == [0]
    assert codes(register(lab, care_of=0x0A020409)) == [129], "below five"


@pytest.mark.parametrize("care_of", [0x0A020009, 0x0A020109, 0x0A020209])
def test_a_router_behind_itself_is_refused(care_of: int) -> None:
    lab = nest(3)
    before = dict(lab.prefixes)
    effects = register(lab, home_address=0x0A010020, care_of=care_of)
    assert codes(effects) == [129]
    assert (lab.prefixes, lab.care_of_addresses(0x0A010020)) == (before, [CARE_OF])


def test_a_circle_is_closed_by_nobody_whatever_the_order() -> None:
    lab = Lab()
    lab.hosts[NODE] = replace(lab.hosts[NODE], networks=(NET,))
    lab.hosts[OTHER] = replace(lab.hosts[OTHER], networks=(NET_2,))
    assert codes(register(lab, care_of=NET_2[0] + 9)) == [0], "the other is at home"
    assert codes(register(lab, home_address=OTHER, care_of=NET[0] + 9)) == [129]
    assert codes(register(lab, home_address=OTHER, care_of=CARE_OF_2)) == [0]


def test_a_routers_home_address_is_a_care_of_address_a_nodes_is_not() -> None:
    lab = Lab()
    lab.hosts[OTHER] = replace(lab.hosts[OTHER], networks=(NET_2,))
    register(lab, home_address=OTHER, care_of=CARE_OF_2)
    assert codes(register(lab, care_of=OTHER)) == [0]
    lab.hosts[OTHER] = replace(lab.hosts[OTHER], networks=())
    assert codes(register(lab, care_of=OTHER)) == [129]


def test_a_router_known_by_its_name_alone_gets_its_prefix_again_rfc6626_3_2() -> None:
    lab = routers(dynamic=1)
    name = b"mr@aa.com"
    lab.hosts[NODE] = replace(lab.hosts[NODE], nai=name)
    found = []
    for _ in range(2):
        lab.pass_time(1)
        extensions = bytes((131, len(name))) + name + asked((0, 0))
        effects = lab.send(lab.request(home_address=0, extensions=extensions))
        reply = only_reply(effects).data
        assert (reply[1], int.from_bytes(reply[4:8])) == (0, NODE)
        found.append(answers(effects))
        register(lab, lifetime=0, care_of=NODE)
    assert found[0] == found[1] == [(1, 0, 0x0A100000, 28)]
