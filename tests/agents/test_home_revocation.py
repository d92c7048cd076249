"""Revocation at the home agent (RFC 3543): negotiated, sent, received, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from tests.agents.home_lab import (
    CARE_OF,
    CARE_OF_2,
    FA_KEY,
    FA_SPI,
    FOREIGN_AGENT,
    HOME_AGENT,
    KEY,
    NODE,
    NTP_EPOCH,
    OTHER,
    OTHER_KEY,
    SPI,
    D,
    Lab,
    S,
    T,
    codes,
    datagrams,
    ntp,
    only_reply,
    sign,
    unsigned_request,
    violations,
)

from fastmip.agents.bindings import SERVICE_DIRECT, SERVICE_INFORM, SERVICE_REVOCATION
from fastmip.agents.effects import (
    CommitOutcome,
    Effect,
    Endpoint,
    SendDatagram,
    StopProxyArp,
)

OFFERED_AT = 1000
"""The foreign agent's clock when it relayed the registration; it is not ours."""


def support(timestamp: int = OFFERED_AT, *, inform: bool = True) -> bytes:
    """Extension 137 by hand (RFC 3543 3.2)."""
    return struct.pack("!BBHI", 137, 6, 0x8000 if inform else 0, timestamp)


def by_agent(message: bytes, key: bytes = FA_KEY, spi: int = FA_SPI) -> bytes:
    return sign(message, key, spi, kind=34)


def revocation(
    identifier: int,
    *,
    flags: int = 0x4000,
    home_address: int = NODE,
    home_domain: int = HOME_AGENT,
    foreign_domain: int = FOREIGN_AGENT,
) -> bytes:
    """A foreign agent's revocation without authentication (RFC 3543 3.3)."""
    return struct.pack(
        "!BBHIIII", 7, 0, flags, home_address, home_domain, foreign_domain, identifier
    )


def acknowledgment(identifier: int, *, inform: bool = False) -> bytes:
    """An acknowledgment without authentication (RFC 3543 3.4)."""
    return struct.pack("!BBHII", 15, 0, 0x8000 if inform else 0, NODE, identifier)


def relay(
    lab: Lab, *, extensions: bytes | None = None, agent: int = FOREIGN_AGENT, **fields: Any
) -> list[Effect]:
    """A registration through a foreign agent that offers revocation."""
    fields = {"flags": T, "care_of": FOREIGN_AGENT, **fields}
    message = sign(unsigned_request(ntp(lab.wall_s), **fields))
    message += support() if extensions is None else extensions
    return lab.send(by_agent(message), lab.arrival(agent, port=434))


def tell(lab: Lab, data: bytes, source: int = FOREIGN_AGENT, port: int = 434) -> list[Effect]:
    """Deliver a message of the foreign agent."""
    return lab.send(data, lab.arrival(source, port=port))


def stamp(lab: Lab) -> int:
    """Our clock in extension 137 and in revocations."""
    return (int(lab.wall_s) + NTP_EPOCH) & 0xFFFFFFFF


def registered() -> Lab:
    lab = Lab()
    relay(lab)
    lab.pass_time(5)
    return lab


# negotiation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "policy", "answered"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_support_is_answered_behind_the_mobile_nodes_part_rfc3543_3_2(
    asked: bool, policy: bool, answered: bool
) -> None:
    lab = Lab()
    lab.set_policy(revocation_inform=policy)
    effects = relay(lab, extensions=support(inform=asked))
    fixed = struct.pack("!BBHIIQ", 3, 0, 300, NODE, HOME_AGENT, ntp(lab.wall_s))
    reply = sign(fixed) + support(stamp(lab), inform=answered)
    assert only_reply(effects).data == by_agent(reply)
    (binding,) = lab.agent.bindings_of(NODE)
    assert binding.services == SERVICE_REVOCATION | (SERVICE_INFORM if answered else 0)
    assert binding.revocation_timestamp == OFFERED_AT


def test_support_is_answered_to_a_direct_mobile_node_rfc3543_4_2_1() -> None:
    lab = Lab()
    effects = lab.send(lab.request(extensions=support()))
    fixed = struct.pack("!BBHIIQ", 3, 0, 300, NODE, HOME_AGENT, ntp(lab.wall_s))
    assert only_reply(effects).data == sign(fixed + support(stamp(lab)))
    (binding,) = lab.agent.bindings_of(NODE)
    assert binding.services == SERVICE_REVOCATION | SERVICE_INFORM | SERVICE_DIRECT


def _signed_by_node(lab: Lab, **fields: Any) -> bytes:
    return lab.request(extensions=support(), **fields)


NO_DEAL: list[tuple[str, Callable[[Lab], bytes], int]] = [
    ("not asked", lambda lab: lab.request(), CARE_OF),
    ("not co-located", lambda lab: _signed_by_node(lab, flags=T), CARE_OF),
    (
        "unknown foreign agent",
        lambda lab: sign(unsigned_request(ntp(lab.wall_s), flags=T)) + support(),
        CARE_OF,
    ),
    (
        "not under the signature",
        lambda lab: (
            by_agent(sign(unsigned_request(ntp(lab.wall_s), flags=T, care_of=FOREIGN_AGENT)))
            + support()
        ),
        FOREIGN_AGENT,
    ),
    (
        "relayed co-located",
        lambda lab: by_agent(
            sign(unsigned_request(ntp(lab.wall_s), flags=D | T, care_of=CARE_OF)) + support()
        ),
        FOREIGN_AGENT,
    ),
    ("relayed, its own word", lambda lab: by_agent(_signed_by_node(lab)), FOREIGN_AGENT),
]


@pytest.mark.parametrize(
    ("make", "source"), [entry[1:] for entry in NO_DEAL], ids=[entry[0] for entry in NO_DEAL]
)
def test_nothing_is_negotiated_without_a_proven_offer_sec32(
    make: Callable[[Lab], bytes], source: int
) -> None:
    lab = Lab()
    effects = lab.send(make(lab), lab.arrival(source))
    for effect in datagrams(effects):
        assert struct.pack("!BB", 137, 6) not in effect.data[20:]
    for binding in lab.agent.bindings_of(NODE):
        assert binding.services == 0


def test_a_home_agent_without_revocation_answers_and_hears_nothing() -> None:
    lab = Lab()
    lab.set_policy(revocation=False)
    effects = relay(lab)
    assert struct.pack("!BB", 137, 6) not in only_reply(effects).data[20:]
    lab.pass_time(5)
    assert tell(lab, by_agent(revocation(OFFERED_AT + 5))) == []
    assert lab.count("haUnexpectedMessageType") == 1


# sent ---------------------------------------------------------------------------------------


def withdraw(lab: Lab) -> list[Effect]:
    return lab.carry_out(lab.agent.clear_binding(NODE, lab.now))


def test_withdrawal_is_told_and_repeated_until_acknowledged_rfc3543_4_2_2_1() -> None:
    lab = registered()
    effects = withdraw(lab)
    sent = only_reply(effects)
    assert sent == SendDatagram(
        by_agent(revocation(stamp(lab), flags=0xC000)),
        Endpoint(HOME_AGENT, 434),
        Endpoint(FOREIGN_AGENT, 434),
    )
    assert lab.tunnels == {}
    assert lab.agent.revoking([NODE, OTHER]) == [NODE]
    first = stamp(lab)
    again = only_reply(lab.pass_time(1))
    assert again.data == by_agent(revocation(stamp(lab), flags=0xC000))
    assert datagrams(lab.pass_time(1)) == []
    assert len(datagrams(lab.pass_time(1))) == 1
    assert tell(lab, by_agent(acknowledgment(first, inform=True))) == []
    assert lab.agent.revoking([NODE]) == []
    assert datagrams(lab.pass_time(600)) == []
    assert lab.count("haRevocationsAcknowledged") == 1
    assert lab.count("haRevocationsSent") == 3


def test_the_i_bit_only_where_it_was_negotiated_rfc3543_3_3() -> None:
    lab = Lab()
    relay(lab, extensions=support(inform=False))
    lab.pass_time(5)
    assert only_reply(withdraw(lab)).data == by_agent(revocation(stamp(lab), flags=0x8000))


def test_a_direct_mobile_node_is_told_with_its_own_signature_rfc3543_3_3() -> None:
    lab = Lab()
    lab.send(lab.request(extensions=support()))
    lab.pass_time(5)
    expected = sign(revocation(stamp(lab), flags=0xC000, foreign_domain=CARE_OF))
    assert only_reply(withdraw(lab)) == SendDatagram(
        expected, Endpoint(HOME_AGENT, 434), Endpoint(CARE_OF, 434)
    )
    identifier = stamp(lab)
    wrong = sign(acknowledgment(identifier), FA_KEY, FA_SPI, kind=34)
    assert tell(lab, wrong, CARE_OF) == []
    assert lab.count("haRevocationsUnproven") == 1
    assert lab.agent.revoking([NODE, OTHER]) == [NODE]
    tell(lab, sign(acknowledgment(identifier), KEY, SPI), CARE_OF)
    assert lab.agent.revoking([NODE]) == []


def test_a_direct_node_that_is_served_no_more_is_told_and_answers() -> None:
    lab = Lab()
    lab.send(lab.request(extensions=support()))
    lab.pass_time(5)
    host = lab.hosts.pop(NODE)
    effects = lab.carry_out(lab.agent.host_removed(NODE, lab.now, host))
    expected = sign(revocation(stamp(lab), flags=0xC000, foreign_domain=CARE_OF))
    assert only_reply(effects).data == expected
    assert lab.tunnels == {}
    tell(lab, sign(acknowledgment(stamp(lab)), OTHER_KEY), CARE_OF)
    assert lab.agent.revoking([NODE]) == [NODE]
    tell(lab, sign(acknowledgment(stamp(lab))), CARE_OF)
    assert lab.agent.revoking([NODE]) == []


def test_a_host_without_bindings_leaves_nothing_in_memory() -> None:
    lab = Lab(cache_nodes=16)
    host = lab.hosts.pop(NODE)
    assert lab.agent.host_removed(NODE, lab.now, host) == []
    for n in range(40):
        lab.agent.host_removed(OTHER + n, lab.now, host)
    assert lab.count("haCachedNodes") == 16


def test_an_agent_left_behind_is_told_without_the_i_bit_rfc3543_4_2_2_1() -> None:
    lab = registered()
    effects = lab.send(lab.request())
    reply, told = datagrams(effects)
    assert reply.data[:2] == b"\3\0"
    assert told.data == by_agent(revocation(stamp(lab), flags=0x8000))
    assert lab.care_of_addresses() == [CARE_OF]


def test_coming_home_is_told_too_but_giving_up_through_the_agent_is_not() -> None:
    lab = registered()
    effects = lab.send(lab.request(lifetime=0, care_of=NODE), lab.arrival(NODE))
    assert [effect.data[0] for effect in datagrams(effects)] == [3, 7]
    lab = registered()
    effects = relay(lab, lifetime=0, extensions=b"")
    assert [effect.data[0] for effect in datagrams(effects)] == [3]


def test_renewal_and_kept_bindings_tell_nobody() -> None:
    lab = registered()
    assert [effect.data[0] for effect in datagrams(relay(lab))] == [3]
    lab.pass_time(1)
    effects = lab.send(lab.request(flags=D | S))
    assert [effect.data[0] for effect in datagrams(effects)] == [3]


def test_expiry_tells_nobody_rfc3543_3_3() -> None:
    lab = registered()
    assert datagrams(lab.pass_time(400)) == []


def test_a_new_registration_with_the_agent_stops_the_repetitions() -> None:
    lab = registered()
    withdraw(lab)
    relay(lab, extensions=support(OFFERED_AT + 6))
    assert datagrams(lab.pass_time(100)) == []
    assert lab.agent.revoking([NODE]) == []


def test_no_revocation_within_a_second_of_the_registration_rfc3543_3_3() -> None:
    lab = Lab()
    relay(lab)
    assert datagrams(withdraw(lab)) == []
    assert len(datagrams(lab.pass_time(1))) == 1


def test_a_withdrawal_the_store_refuses_tells_nobody_yet() -> None:
    lab = registered()
    lab.outcome = CommitOutcome.STORE_FAILED
    assert datagrams(withdraw(lab)) == []
    lab.outcome = CommitOutcome.COMMITTED
    assert len(datagrams(lab.pass_time(10))) >= 1


def test_what_was_negotiated_survives_a_restart() -> None:
    lab = registered()
    lab.start()
    assert len(datagrams(withdraw(lab))) == 1


@pytest.mark.parametrize(
    ("change", "source"),
    [
        (lambda data: data, FOREIGN_AGENT + 1),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), FOREIGN_AGENT),
        (lambda data: data[:12], FOREIGN_AGENT),
        (lambda data: by_agent(data[:12], OTHER_KEY), FOREIGN_AGENT),
        (lambda data: by_agent(data[:8] + b"\0\0\0\1"), FOREIGN_AGENT),
        (lambda data: data + b"\x01", FOREIGN_AGENT),
    ],
)
def test_a_forged_acknowledgment_ends_nothing_sec30(
    change: Callable[[bytes], bytes], source: int
) -> None:
    lab = registered()
    withdraw(lab)
    data = change(by_agent(acknowledgment(stamp(lab))))
    assert tell(lab, data, source) == []
    assert lab.agent.revoking([NODE, OTHER]) == [NODE]


# received -----------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [True, False])
def test_a_foreign_agents_revocation_is_committed_then_acknowledged_rfc3543_4_2_3_2(
    asked: bool,
) -> None:
    lab = registered()
    data = by_agent(revocation(OFFERED_AT + 5, flags=0x4000 if asked else 0))
    effects = tell(lab, data, port=4000)
    assert effects[1:] == [
        StopProxyArp(NODE),
        SendDatagram(
            by_agent(acknowledgment(OFFERED_AT + 5, inform=asked)),
            Endpoint(HOME_AGENT, 434),
            Endpoint(FOREIGN_AGENT, 4000),
        ),
    ]
    assert lab.tunnels == {}
    assert lab.count("haRevocationsAccepted") == 1
    assert lab.agent.bindings_of(NODE) == []


def test_no_acknowledgment_before_the_commit_nor_without_it() -> None:
    lab = registered()
    lab.outcome = CommitOutcome.STORE_FAILED
    data = by_agent(revocation(OFFERED_AT + 5))
    assert datagrams(tell(lab, data)) == []
    assert lab.care_of_addresses() == [FOREIGN_AGENT]
    lab.outcome = CommitOutcome.COMMITTED
    assert len(datagrams(tell(lab, by_agent(revocation(OFFERED_AT + 6))))) == 1


def test_a_lost_acknowledgment_is_given_again_to_a_newer_repetition() -> None:
    lab = registered()
    tell(lab, by_agent(revocation(OFFERED_AT + 5)))
    (again,) = datagrams(tell(lab, by_agent(revocation(OFFERED_AT + 6))))
    assert again.data == by_agent(acknowledgment(OFFERED_AT + 6, inform=True))
    assert tell(lab, by_agent(revocation(OFFERED_AT + 6))) == []
    assert lab.count("haRevocationsRepeatedByPeer") == 1
    assert lab.count("haRevocationsStale") == 1


def test_other_bindings_stay_and_the_node_is_not_told() -> None:
    lab = registered()
    lab.send(lab.request(flags=D | S))
    lab.pass_time(2)
    (sent,) = datagrams(tell(lab, by_agent(revocation(OFFERED_AT + 5))))
    assert sent.data == by_agent(acknowledgment(OFFERED_AT + 5, inform=False))
    assert lab.care_of_addresses() == [CARE_OF]


def test_a_replay_after_a_new_registration_ends_nothing_sec31() -> None:
    lab = registered()
    old = by_agent(revocation(OFFERED_AT + 5))
    tell(lab, old)
    relay(lab, extensions=support(OFFERED_AT + 8))
    for identifier in (5, 7, 8):
        assert tell(lab, by_agent(revocation(OFFERED_AT + identifier))) == []
    assert tell(lab, old) == []
    assert lab.care_of_addresses() == [FOREIGN_AGENT]
    assert lab.count("haRevocationsStale") == 4
    assert len(datagrams(tell(lab, by_agent(revocation(OFFERED_AT + 9))))) == 1


def test_so_does_one_after_a_restart_sec31() -> None:
    lab = registered()
    old = by_agent(revocation(OFFERED_AT + 5))
    tell(lab, old)
    relay(lab, extensions=support(OFFERED_AT + 8))
    lab.start()
    assert tell(lab, old) == []
    assert lab.count("haRevocationsStale") == 1
    assert len(lab.agent.bindings_of(NODE)) == 1


REFUSED: list[tuple[str, bytes, int, str]] = [
    ("wrong key", by_agent(revocation(2000), OTHER_KEY), FOREIGN_AGENT, "Unproven"),
    ("unknown SPI", by_agent(revocation(2000), FA_KEY, 0x301), FOREIGN_AGENT, "Unproven"),
    ("no signature", revocation(2000), FOREIGN_AGENT, "Unproven"),
    ("signed as a mobile node", sign(revocation(2000)), FOREIGN_AGENT, "Unproven"),
    ("another source", by_agent(revocation(2000)), CARE_OF, "Unmatched"),
    ("reflected", by_agent(revocation(2000, flags=0xC000)), FOREIGN_AGENT, "Reflected"),
    ("stale", by_agent(revocation(OFFERED_AT)), FOREIGN_AGENT, "Stale"),
    ("home domain 0", by_agent(revocation(2000, home_domain=0)), FOREIGN_AGENT, "Unmatched"),
    (
        "another care-of address",
        by_agent(revocation(2000, foreign_domain=CARE_OF)),
        FOREIGN_AGENT,
        "Unmatched",
    ),
    (
        "another node",
        by_agent(revocation(2000, home_address=OTHER)),
        FOREIGN_AGENT,
        "Unmatched",
    ),
]


@pytest.mark.parametrize(
    ("data", "source", "counter"),
    [entry[1:] for entry in REFUSED],
    ids=[entry[0] for entry in REFUSED],
)
def test_forged_reflected_and_stale_revocations_change_nothing_sec30(
    data: bytes, source: int, counter: str
) -> None:
    lab = registered()
    effects = tell(lab, data, source)
    assert datagrams(effects) == []
    assert bool(violations(effects)) is (counter == "Unproven")
    assert lab.care_of_addresses() == [FOREIGN_AGENT]
    assert lab.count(f"haRevocations{counter}") == 1
    assert lab.count("haRevocationsReceived") == 1


@pytest.mark.parametrize(
    "data",
    [b"\x07", b"\x07" + bytes(18), b"\x0f" + bytes(10)],
)
def test_stumps_are_counted_and_dropped(data: bytes) -> None:
    lab = registered()
    assert tell(lab, data) == []
    assert lab.count("haMalformedMessage") == 1


def test_a_revocation_of_a_binding_that_negotiated_nothing_is_ignored() -> None:
    lab = Lab()
    relay(lab, extensions=b"")
    lab.pass_time(5)
    assert tell(lab, by_agent(revocation(2000))) == []
    assert lab.count("haRevocationsUnmatched") == 1
    assert lab.care_of_addresses() == [FOREIGN_AGENT]


def test_a_stranger_loads_no_node_and_a_flood_is_reported_sparingly_sec20() -> None:
    lab = registered()
    lab.start()
    for n in range(200):
        tell(lab, by_agent(revocation(n, home_address=0x0A010000 + n), OTHER_KEY))
    assert lab.loads == 0
    assert lab.count("haViolationsSuppressed") >= 100


def test_a_revocation_while_a_commit_is_outstanding_waits_for_it() -> None:
    lab = registered()
    (commit,) = lab.receive(lab.request(flags=D | S, care_of=CARE_OF_2), lab.arrival(CARE_OF_2))
    assert tell(lab, by_agent(revocation(OFFERED_AT + 5))) == []
    assert lab.care_of_addresses() == [FOREIGN_AGENT]
    reply, acknowledged = datagrams(lab.carry_out([commit]))
    assert (reply.data[0], acknowledged.data[0]) == (3, 15)
    assert acknowledged.data[8:12] == (OFFERED_AT + 5).to_bytes(4)
    assert lab.care_of_addresses() == [CARE_OF_2]
    assert lab.count("haRevocationsHeld") == 1


def test_a_revocation_that_waited_is_judged_by_what_came_of_the_commit_sec31() -> None:
    lab = registered()
    message = sign(unsigned_request(ntp(lab.wall_s), flags=T, care_of=FOREIGN_AGENT))
    renewal = by_agent(message + support(OFFERED_AT + 9))
    (commit,) = lab.receive(renewal, lab.arrival(FOREIGN_AGENT, port=434))
    assert tell(lab, by_agent(revocation(OFFERED_AT + 5))) == []
    assert [sent.data[0] for sent in datagrams(lab.carry_out([commit]))] == [3]
    assert lab.care_of_addresses() == [FOREIGN_AGENT]
    assert lab.count("haRevocationsStale") == 1


def test_a_request_that_waits_too_comes_behind_the_revocation() -> None:
    lab = registered()
    (commit,) = lab.receive(lab.request(flags=D | S, care_of=CARE_OF_2), lab.arrival(CARE_OF_2))
    lab.pass_time(1)
    lab.receive(lab.request(flags=D | S), lab.arrival())
    tell(lab, by_agent(revocation(OFFERED_AT + 5)))
    kinds = [sent.data[0] for sent in datagrams(lab.carry_out([commit]))]
    assert kinds == [3, 15, 3]
    assert sorted(lab.care_of_addresses()) == sorted([CARE_OF, CARE_OF_2])


def test_so_many_revocations_wait_and_no_more() -> None:
    lab = registered()
    lab.receive(lab.request(flags=D | S, care_of=CARE_OF_2), lab.arrival(CARE_OF_2))
    for n in range(100):
        tell(lab, by_agent(revocation(OFFERED_AT + n)))
    node = lab.agent._nodes.get(NODE, lab.now)
    assert node.revocations is not None
    assert [held.message.identifier for held in node.revocations.values()] == [OFFERED_AT + 99]
    assert not node.is_clean


def test_a_registration_after_a_revocation_is_accepted() -> None:
    lab = registered()
    tell(lab, by_agent(revocation(OFFERED_AT + 5)))
    assert codes(relay(lab, extensions=support(OFFERED_AT + 6))) == [0]
