"""The home agent's registration, end to end over bytes (RFC 5944 3.8)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.agents.home_lab import (
    BOOT_S,
    CARE_OF,
    CARE_OF_2,
    CARE_OF_3,
    FA_KEY,
    FA_SPI,
    FOREIGN_AGENT,
    HOME_AGENT,
    HOME_AGENT_2,
    HOME_BROADCAST,
    NODE,
    OTHER,
    OTHER_KEY,
    SECOND,
    B,
    D,
    G,
    Lab,
    M,
    R,
    S,
    T,
    X,
    associations,
    codes,
    datagrams,
    ntp,
    only_reply,
    reply,
    sign,
    unsigned_request,
)

from fastmip.agents.effects import (
    NEVER,
    Commit,
    CommitOutcome,
    Endpoint,
    SendDatagram,
    Tunnel,
)
from fastmip.agents.hosts import Host, Prefix, ReverseTunnel


def test_first_registration_commits_then_replies_byte_for_byte_rfc5944_3_8_3() -> None:
    lab = Lab()
    identification = ntp(lab.wall_s)
    effects = lab.receive(lab.request(identification=identification))
    (commit,) = effects
    assert isinstance(commit, Commit)
    assert commit.home_address == NODE
    assert commit.tunnels == (Tunnel(CARE_OF, HOME_AGENT, (BOOT_S + 300) * SECOND, 4, True),)
    assert commit.row[:3] == (NODE, identification, 0)
    assert len(commit.row.bindings) == 64
    sent = only_reply(lab.carry_out(effects))
    assert sent == SendDatagram(
        reply(0, identification), Endpoint(HOME_AGENT, 434), Endpoint(CARE_OF, 40000)
    )


def test_no_reply_leaves_before_the_commit() -> None:
    lab = Lab()
    assert datagrams(lab.receive(lab.request())) == []
    assert lab.count("haRegRepliesSent") == 0


def test_lifetime_is_lowered_never_raised_rfc5944_3_8_2_2() -> None:
    lab = Lab()
    asked = lab.request(lifetime=65534, flags=D)
    assert only_reply(lab.send(asked)).data == reply(0, ntp(lab.wall_s), lifetime=1800)
    assert lab.tunnels[NODE][0].expires_ns == (BOOT_S + 1800) * SECOND
    assert not lab.tunnels[NODE][0].reverse
    lab.pass_time(1)
    assert only_reply(lab.send(lab.request(lifetime=5))).data[2:4] == b"\0\5"


def test_infinite_lifetime_only_where_the_policy_grants_it() -> None:
    lab = Lab()
    assert only_reply(lab.send(lab.request(lifetime=0xFFFF))).data[2:4] == struct.pack("!H", 1800)
    lab.set_policy(max_lifetime_s=0xFFFF)
    lab.pass_time(1)
    assert only_reply(lab.send(lab.request(lifetime=0xFFFF))).data[2:4] == b"\xff\xff"
    assert lab.tunnels[NODE][0].expires_ns == NEVER
    lab.pass_time(400 * 86400)
    assert lab.care_of_addresses() == [CARE_OF]


def test_host_limits_override_the_policy() -> None:
    lab = Lab()
    lab.hosts[NODE] = Host(NODE, associations(), max_lifetime_s=60, simultaneous_bindings=1)
    sent = only_reply(lab.send(lab.request()))
    assert sent.data == reply(1, ntp(lab.wall_s), lifetime=60)


def test_refresh_keeps_one_binding_and_prolongs_it() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(100)
    lab.send(lab.request())
    assert lab.tunnels[NODE] == (Tunnel(CARE_OF, HOME_AGENT, (BOOT_S + 400) * SECOND, 4, True),)
    lab.pass_time(299)
    assert lab.care_of_addresses() == [CARE_OF]
    lab.pass_time(1)
    assert lab.care_of_addresses() == []


def test_move_replaces_the_binding() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    lab.send(lab.request(care_of=CARE_OF_2), lab.arrival(CARE_OF_2))
    assert lab.care_of_addresses() == [CARE_OF_2]


def test_simultaneous_bindings_are_kept_newest_first_rfc5944_3_8_2_2() -> None:
    lab = Lab()
    for care_of in (CARE_OF, CARE_OF_2, CARE_OF_3):
        lab.pass_time(1)
        lab.send(lab.request(care_of=care_of, flags=S | D), lab.arrival(care_of))
    assert lab.care_of_addresses() == [CARE_OF_3, CARE_OF_2, CARE_OF]
    lab.pass_time(1)
    lab.send(lab.request(care_of=CARE_OF_2, flags=S | D), lab.arrival(CARE_OF_2))
    assert lab.care_of_addresses() == [CARE_OF_2, CARE_OF_3, CARE_OF]
    lab.pass_time(1)
    lab.send(lab.request(care_of=CARE_OF, flags=D))
    assert lab.care_of_addresses() == [CARE_OF]


def test_simultaneous_bindings_turned_off_answer_1_and_replace_c05() -> None:
    lab = Lab()
    lab.set_policy(simultaneous_bindings=1)
    assert codes(lab.send(lab.request(flags=S | D))) == [1]
    lab.pass_time(1)
    assert codes(lab.send(lab.request(care_of=CARE_OF_2, flags=S | D), lab.arrival(CARE_OF_2))) == [
        1
    ]
    assert lab.care_of_addresses() == [CARE_OF_2]
    assert lab.count("haMultiBindingUnsupported") == 2


def test_deregistration_of_one_leaves_the_others_rfc5944_3_8_2_2() -> None:
    lab = Lab()
    for care_of in (CARE_OF, CARE_OF_2):
        lab.pass_time(1)
        lab.send(lab.request(care_of=care_of, flags=S | D), lab.arrival(care_of))
    lab.pass_time(1)
    sent = only_reply(lab.send(lab.request(lifetime=0, care_of=CARE_OF, flags=D)))
    assert sent.data == reply(0, ntp(lab.wall_s), lifetime=0)
    assert lab.care_of_addresses() == [CARE_OF_2]


def test_deregistration_of_all_rfc5944_3_8_2_2() -> None:
    lab = Lab()
    for care_of in (CARE_OF, CARE_OF_2):
        lab.pass_time(1)
        lab.send(lab.request(care_of=care_of, flags=S | D), lab.arrival(care_of))
    lab.pass_time(1)
    gone = lab.request(lifetime=0, care_of=NODE, flags=0)
    sent = only_reply(lab.send(gone, lab.arrival(CARE_OF)))
    assert sent.data == reply(0, ntp(lab.wall_s), lifetime=0)
    assert lab.care_of_addresses() == []
    assert lab.rows[NODE] == (NODE, ntp(lab.wall_s), 0, b"")
    assert lab.count("haDeRegRequestsReceived") == 1
    assert lab.count("haDeRegRepliesSent") == 1


def test_deregistration_without_binding_is_accepted_and_moves_the_mark() -> None:
    lab = Lab()
    assert codes(lab.send(lab.request(lifetime=0, care_of=NODE), lab.arrival(NODE))) == [0]
    assert lab.rows[NODE].identification == ntp(lab.wall_s)


def test_relayed_request_with_a_foreign_agent_care_of_address_works() -> None:
    lab = Lab()
    relayed = lab.arrival(CARE_OF, port=434)
    sent = only_reply(lab.send(lab.request(flags=T | B), relayed))
    assert sent.destination == Endpoint(CARE_OF, 434)
    assert sent.data == reply(0, ntp(lab.wall_s))
    (binding,) = lab.agent.bindings_of(NODE)
    assert binding.flags == T | B
    assert binding.source_address == CARE_OF


def test_second_own_address_is_copied_and_starts_the_tunnel_rfc5944_3_8_3_2() -> None:
    lab = Lab()
    sent = only_reply(
        lab.send(lab.request(home_agent=HOME_AGENT_2), lab.arrival(destination=HOME_AGENT_2))
    )
    assert sent.data == reply(0, ntp(lab.wall_s), home_agent=HOME_AGENT_2)
    assert sent.source == Endpoint(HOME_AGENT_2, 434)
    assert lab.tunnels[NODE][0].local == HOME_AGENT_2


Change = Callable[[Lab], None]


_IPIP = frozenset({4})


def _policy(**changes: Any) -> Change:
    return lambda lab: lab.set_policy(**changes)


def _fill(lab: Lab) -> None:
    """As many simultaneous bindings as the policy allows."""
    for index in range(lab.policy.simultaneous_bindings):
        lab.send(
            lab.request(care_of=CARE_OF_3 + index, flags=S | D), lab.arrival(CARE_OF_3 + index)
        )
        lab.pass_time(1)


def _bind_other(lab: Lab) -> None:
    lab.send(lab.request(home_address=OTHER))


DENIALS: list[tuple[str, int, Change, dict[str, Any], int]] = [
    ("own address", 129, _policy(), {"care_of": NODE}, NODE),
    ("the home agent", 129, _policy(), {"care_of": HOME_AGENT}, HOME_AGENT),
    ("its other address", 129, _policy(), {"care_of": HOME_AGENT_2}, HOME_AGENT_2),
    ("zero", 129, _policy(strict_source=False), {"care_of": 0}, CARE_OF),
    ("multicast", 129, _policy(strict_source=False), {"care_of": 0xE0000001}, CARE_OF),
    ("all ones", 129, _policy(strict_source=False), {"care_of": 0xFFFFFFFF}, CARE_OF),
    ("loopback", 129, _policy(strict_source=False), {"care_of": 0x7F000001}, CARE_OF),
    ("home broadcast", 129, _policy(strict_source=False), {"care_of": HOME_BROADCAST}, CARE_OF),
    ("home network", 129, _policy(strict_source=False), {"care_of": 0x0A010000}, CARE_OF),
    ("a bound node", 129, _bind_other, {"care_of": OTHER}, OTHER),
    (
        "outside the service area",
        129,
        _policy(care_of_prefixes=(Prefix(0xC0000200, 24),)),
        {},
        CARE_OF,
    ),
    ("behind a translator", 129, _policy(), {"care_of": CARE_OF_2}, CARE_OF),
    ("bindings exhausted", 130, _policy(max_bindings=0), {}, CARE_OF),
    ("strict r bit", 134, _policy(strict_reserved=True), {"flags": D | R}, CARE_OF),
    ("strict x bit", 134, _policy(strict_reserved=True), {"flags": D | X}, CARE_OF),
    ("simultaneous limit", 135, _fill, {"flags": S | D}, CARE_OF),
    ("another home agent", 136, _policy(), {"home_agent": 0x0A090901}, CARE_OF),
    ("any home agent", 136, _policy(), {"home_agent": 0}, CARE_OF),
    ("all home agents", 136, _policy(), {"home_agent": 0xFFFFFFFF}, CARE_OF),
    (
        "reverse tunnel refused",
        137,
        _policy(reverse_tunnel=ReverseTunnel.REFUSE),
        {"flags": D | T},
        CARE_OF,
    ),
    (
        "reverse tunnel mandatory",
        138,
        _policy(reverse_tunnel=ReverseTunnel.REQUIRE),
        {"flags": D},
        CARE_OF,
    ),
    ("minimal encapsulation", 139, _policy(encapsulations=_IPIP), {"flags": D | M}, CARE_OF),
    ("GRE", 139, _policy(encapsulations=_IPIP), {"flags": D | G}, CARE_OF),
    ("both", 139, _policy(encapsulations=_IPIP), {"flags": D | M | G}, CARE_OF),
]


@pytest.mark.parametrize(
    ("code", "prepare", "fields", "source"),
    [entry[1:] for entry in DENIALS],
    ids=[f"{entry[1]}-{entry[0]}".replace(" ", "-") for entry in DENIALS],
)
def test_denial_answers_its_code_byte_for_byte_and_changes_nothing(
    code: int, prepare: Change, fields: dict[str, Any], source: int
) -> None:
    lab = Lab()
    prepare(lab)
    before = (dict(lab.rows), dict(lab.tunnels))
    identification = ntp(lab.wall_s)
    sent = lab.send(lab.request(identification=identification, **fields), lab.arrival(source))
    assert [type(effect) for effect in sent] == [SendDatagram]
    assert only_reply(sent).data == reply(code, identification)
    assert (lab.rows, lab.tunnels) == before


@pytest.mark.parametrize("destination", [HOME_BROADCAST, 0xFFFFFFFF, 0xE000000B])
def test_broadcast_request_gets_136_from_the_unicast_address_sec24(destination: int) -> None:
    lab = Lab()
    identification = ntp(lab.wall_s)
    request = lab.request(home_agent=HOME_BROADCAST)
    sent = only_reply(lab.send(request, lab.arrival(destination=destination)))
    assert sent.data == reply(136, identification)
    assert sent.source == Endpoint(HOME_AGENT, 434)
    lab.pass_time(2)
    unicast_field = lab.request()
    assert codes(lab.send(unicast_field, lab.arrival(destination=destination))) == [136]


def test_unauthenticated_broadcast_is_silent_sec24() -> None:
    lab = Lab()
    bare = unsigned_request(ntp(lab.wall_s), home_agent=HOME_BROADCAST)
    assert lab.send(bare, lab.arrival(destination=HOME_BROADCAST)) == []


def test_reserved_bits_are_ignored_by_default_c01() -> None:
    lab = Lab()
    assert codes(lab.send(lab.request(flags=D | R | X))) == [0]


def test_deregistration_passes_where_tunnels_are_refused() -> None:
    lab = Lab()
    lab.set_policy(reverse_tunnel=ReverseTunnel.REQUIRE)
    lab.send(lab.request())
    lab.pass_time(1)
    home = lab.request(lifetime=0, care_of=NODE, flags=M)
    assert codes(lab.send(home, lab.arrival(NODE))) == [0]
    assert lab.care_of_addresses() == []


def test_deregistration_may_come_from_any_foreign_agent_rfc5944_3_8_2_2() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    gone = lab.request(lifetime=0, care_of=CARE_OF)
    sent = only_reply(lab.send(gone, lab.arrival(CARE_OF_3, port=434)))
    assert sent.destination == Endpoint(CARE_OF_3, 434)
    assert lab.care_of_addresses() == []


def test_care_of_address_of_an_unbound_home_address_is_allowed() -> None:
    lab = Lab()
    assert codes(lab.send(lab.request(care_of=OTHER), lab.arrival(OTHER))) == [0]


def test_two_nodes_cannot_point_at_each_other_sec41() -> None:
    lab = Lab()
    assert codes(lab.send(lab.request(care_of=OTHER), lab.arrival(OTHER))) == [0]
    back = lab.request(home_address=OTHER, care_of=NODE)
    assert codes(lab.send(back, lab.arrival(NODE))) == [129]


def test_laboratory_on_the_loopback_network_works() -> None:
    lab = Lab()
    lab.set_policy(home_agent_address=0x7F000001)
    request = lab.request(home_agent=0x7F000001, care_of=0x7F000002)
    arrival = lab.arrival(0x7F000002, destination=0x7F000001)
    assert codes(lab.send(request, arrival)) == [0]


def test_home_agent_address_cannot_be_a_home_address() -> None:
    lab = Lab()
    lab.hosts[HOME_AGENT] = Host(HOME_AGENT, associations())
    assert codes(lab.send(lab.request(home_address=HOME_AGENT))) == [129]


@pytest.mark.parametrize("outcome", [CommitOutcome.ENGINE_FULL, CommitOutcome.STORE_FAILED])
def test_failed_commit_answers_130_and_keeps_the_saved_binding(outcome: CommitOutcome) -> None:
    lab = Lab()
    lab.send(lab.request())
    before = (dict(lab.rows), dict(lab.tunnels))
    lab.pass_time(1)
    lab.outcome = outcome
    identification = ntp(lab.wall_s)
    sent = only_reply(
        lab.send(
            lab.request(identification=identification, care_of=CARE_OF_2), lab.arrival(CARE_OF_2)
        )
    )
    assert sent.data == reply(130, identification)
    assert (lab.rows, lab.tunnels) == before
    assert [b.care_of_address for b in lab.agent.bindings_of(NODE)] == [CARE_OF]
    assert lab.count("haCommitsFailed") == 1
    lab.outcome = CommitOutcome.COMMITTED
    lab.pass_time(1)
    same = lab.request(identification=identification, care_of=CARE_OF_2)
    assert codes(lab.send(same, lab.arrival(CARE_OF_2))) == [0]
    assert lab.care_of_addresses() == [CARE_OF_2]


def test_requests_during_a_commit_wait_and_the_latest_wins() -> None:
    lab = Lab()
    first = lab.request(at=lab.wall_s)
    (commit,) = lab.receive(first)
    assert isinstance(commit, Commit)
    second = lab.request(at=lab.wall_s + 0.1, care_of=CARE_OF_2)
    third = lab.request(at=lab.wall_s + 0.2, care_of=CARE_OF_3)
    assert lab.receive(first) == []
    assert lab.receive(second, lab.arrival(CARE_OF_2)) == []
    assert lab.receive(third, lab.arrival(CARE_OF_3)) == []
    assert lab.receive(third, lab.arrival(CARE_OF_3)) == []
    assert lab.receive(second, lab.arrival(CARE_OF_2)) == []
    sent = lab.carry_out([commit])
    assert [(d.data[1], d.destination.address) for d in datagrams(sent)] == [
        (0, CARE_OF),
        (0, CARE_OF_3),
    ]
    assert lab.care_of_addresses() == [CARE_OF_3]
    assert lab.count("haRetransmissionsInWork") == 2
    assert lab.count("haHeldRequestsReplaced") == 2


def test_forged_request_cannot_displace_a_held_one() -> None:
    lab = Lab()
    (commit,) = lab.receive(lab.request())
    held = lab.request(at=lab.wall_s + 0.1, care_of=CARE_OF_2)
    lab.receive(held, lab.arrival(CARE_OF_2))
    forged = lab.request(at=lab.wall_s + 0.2, care_of=CARE_OF_3, key=bytes(16))
    lab.receive(forged, lab.arrival(CARE_OF_3))
    lab.carry_out([commit])
    assert lab.care_of_addresses() == [CARE_OF_2]


def test_held_request_of_a_removed_host_is_dropped() -> None:
    lab = Lab()
    (commit,) = lab.receive(lab.request())
    lab.receive(lab.request(at=lab.wall_s + 1, care_of=CARE_OF_2), lab.arrival(CARE_OF_2))
    del lab.hosts[NODE]
    sent = lab.carry_out([commit])
    assert codes(sent) == [0]
    assert lab.care_of_addresses() == [CARE_OF]


def test_held_request_is_dropped_when_its_key_was_changed() -> None:
    lab = Lab()
    (commit,) = lab.receive(lab.request())
    lab.receive(lab.request(at=lab.wall_s + 1, care_of=CARE_OF_2), lab.arrival(CARE_OF_2))
    lab.hosts[NODE] = Host(NODE, associations(key=OTHER_KEY))
    lab.carry_out([commit])
    assert lab.care_of_addresses() == [CARE_OF]


def test_host_being_removed_drops_what_it_held() -> None:
    lab = Lab()
    (commit,) = lab.receive(lab.request())
    lab.receive(lab.request(at=lab.wall_s + 1, care_of=CARE_OF_2), lab.arrival(CARE_OF_2))
    assert lab.agent.host_removed(NODE, lab.now) == []
    assert codes(lab.carry_out([commit])) == [0]
    assert lab.care_of_addresses() == []


def test_clear_binding_withdraws_and_keeps_the_mark() -> None:
    lab = Lab()
    lab.send(lab.request())
    effects = lab.carry_out(lab.agent.clear_binding(NODE, lab.now))
    assert datagrams(effects) == []
    assert lab.care_of_addresses() == []
    assert lab.rows[NODE] == (NODE, ntp(lab.wall_s), 0, b"")
    assert lab.agent.bindings_of(NODE) == []
    assert lab.agent.clear_binding(NODE, lab.now) == []
    assert codes(lab.send(lab.request(at=lab.wall_s + 1))) == [0]


def test_clear_binding_waits_for_the_request_in_work() -> None:
    lab = Lab()
    (commit,) = lab.receive(lab.request())
    assert lab.agent.clear_binding(NODE, lab.now) == []
    assert codes(lab.carry_out([commit])) == [0]
    assert lab.care_of_addresses() == []


def test_host_removed_drops_what_it_held_and_had() -> None:
    lab = Lab()
    lab.send(lab.request())
    (commit,) = lab.receive(lab.request(at=lab.wall_s + 0.1))
    lab.receive(lab.request(at=lab.wall_s + 0.2, care_of=CARE_OF_2), lab.arrival(CARE_OF_2))
    del lab.hosts[NODE]
    assert lab.agent.host_removed(NODE, lab.now) == []
    lab.carry_out([commit])
    assert lab.care_of_addresses() == []
    assert lab.send(lab.request(at=lab.wall_s + 1)) == []


def test_failed_withdrawal_is_tried_again_until_it_is_stored() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.outcome = CommitOutcome.STORE_FAILED
    lab.carry_out(lab.agent.clear_binding(NODE, lab.now))
    assert lab.care_of_addresses() == [CARE_OF]
    lab.pass_time(6)
    assert lab.care_of_addresses() == [CARE_OF]
    lab.outcome = CommitOutcome.COMMITTED
    lab.pass_time(6)
    assert lab.care_of_addresses() == []


def test_unknown_token_is_ignored() -> None:
    assert Lab().agent.commit_done(99, CommitOutcome.COMMITTED, Lab().now) == []


def test_policy_change_applies_to_the_next_request() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.set_policy(max_lifetime_s=10)
    lab.pass_time(1)
    assert only_reply(lab.send(lab.request())).data[2:4] == b"\0\x0a"


def test_counters_follow_rfc2006() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    lab.set_policy(encapsulations=_IPIP)
    lab.send(lab.request(flags=D | M))
    counted = {name: value for name, value in lab.agent.counters().items() if value}
    assert counted == {
        "haRegRequestsReceived": 2,
        "haRegistrationAccepted": 1,
        "cmiHaEncapsulationUnavailable": 1,
        "haRegRepliesSent": 2,
        "haGratuitiousARPsSent": 1,
        "haBindings": 1,
        "haCachedNodes": 1,
    }


def test_known_foreign_agent_relays_for_a_colocated_address_without_signing_rfc5944_3_5_4() -> None:
    lab = Lab()
    relayed = lab.arrival(FOREIGN_AGENT, port=434)
    assert codes(lab.send(lab.request(flags=D), relayed)) == [0]
    assert lab.care_of_addresses() == [CARE_OF]
    lab.pass_time(1)
    signed = sign(lab.request(flags=D), FA_KEY, FA_SPI, kind=34)
    assert codes(lab.send(signed, relayed)) == [0]
    lab.pass_time(1)
    spoilt = sign(lab.request(flags=D), OTHER_KEY, FA_SPI, kind=34)
    assert codes(lab.send(spoilt, relayed)) == [132]


def test_hosts_are_values() -> None:
    host = Host(NODE, associations())
    assert replace(host, max_lifetime_s=5) != host
    assert repr(associations()).find("key") == -1
