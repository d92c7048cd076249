"""Revocation at the foreign agent (RFC 3543): both ways, and everything that is ignored."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tests.agents.foreign_lab import (
    AGENT,
    FOREIGN_HOME,
    HOME_AGENT,
    LINK,
    MAC,
    NODE,
    NTP_EPOCH,
    WALL_S,
    Bench,
    D,
    identification,
    reply,
    request,
    short,
    sign_foreign_home,
)

from fastmip.agents.effects import Endpoint, RemoveVisitor, SendDatagram

HOME_CLOCK = WALL_S + NTP_EPOCH


def support(*, inform: bool = True, stamp: int = HOME_CLOCK) -> bytes:
    return short(137, struct.pack("!HI", 0x8000 * inform, stamp))


def revocation(
    stamp: int,
    *,
    flags: int = 0xC000,
    home: int = NODE,
    home_domain: int = HOME_AGENT,
    foreign_domain: int = AGENT,
) -> bytes:
    return struct.pack("!BBHIIII", 7, 0, flags, home, home_domain, foreign_domain, stamp)


def acknowledgment(stamp: int, *, inform: bool = True, home: int = NODE) -> bytes:
    return struct.pack("!BBHII", 15, 0, 0x8000 * inform, home, stamp)


def visited(*, inform: bool = True, **policy: Any) -> Bench:
    """A bench with a visitor whose home agent negotiated revocation."""
    bench = Bench(
        has_revocation=True,
        home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get,
        **policy,
    )
    number = identification()
    data = request(number)
    [relayed] = bench.ask(data)
    assert relayed.data == sign_foreign_home(data + support(stamp=HOME_CLOCK))
    bench.answer(sign_foreign_home(reply(number) + support(inform=inform)))
    assert bench.count("faVisitors") == 1
    bench.tick(5)
    return bench


def test_the_home_agent_revokes_and_is_answered_rfc3543_4_2_2_2() -> None:
    bench = visited()
    [answer] = bench.answer(sign_foreign_home(revocation(HOME_CLOCK + 5)))
    assert answer == SendDatagram(
        sign_foreign_home(acknowledgment(HOME_CLOCK + 5)),
        Endpoint(AGENT, 434),
        Endpoint(HOME_AGENT, 434),
    )
    assert RemoveVisitor(NODE, LINK) in bench.effects
    assert bench.count("faVisitors") == 0
    assert bench.notices.told == [(LINK, NODE, MAC)]


def test_with_i_negotiated_the_home_agent_decides_whether_the_node_is_told() -> None:
    bench = visited()
    [answer] = bench.answer(sign_foreign_home(revocation(HOME_CLOCK + 5, flags=0x8000)))
    assert answer.data[2:4] == b"\0\0"
    assert bench.notices.told == []


def test_without_i_negotiated_the_node_is_told_by_default_rfc3543_3_2() -> None:
    bench = visited(inform=False)
    bench.answer(sign_foreign_home(revocation(HOME_CLOCK + 5, flags=0x8000)))
    assert bench.notices.told == [(LINK, NODE, MAC)]


@pytest.mark.parametrize(
    ("message", "counter"),
    [
        (revocation(HOME_CLOCK + 5), "faRevocationsUnproven"),
        (
            sign_foreign_home(revocation(HOME_CLOCK + 5), key=bytes(16)),
            "faRevocationsUnproven",
        ),
        (
            sign_foreign_home(revocation(HOME_CLOCK + 5, flags=0x4000)),
            "faRevocationsReflected",
        ),
        (sign_foreign_home(revocation(HOME_CLOCK)), "faRevocationsStale"),
        (sign_foreign_home(revocation(HOME_CLOCK - 60)), "faRevocationsStale"),
        (
            sign_foreign_home(revocation(HOME_CLOCK + 5, home=NODE + 1)),
            "faRevocationsUnmatched",
        ),
        (
            sign_foreign_home(revocation(HOME_CLOCK + 5, foreign_domain=AGENT + 9)),
            "faRevocationsUnmatched",
        ),
        (
            sign_foreign_home(revocation(HOME_CLOCK + 5, home_domain=0)),
            "faRevocationsUnproven",
        ),
    ],
)
def test_what_is_forged_reflected_or_late_is_ignored_sec_30(message: bytes, counter: str) -> None:
    bench = visited()
    assert bench.answer(message) == []
    assert bench.count("faVisitors") == 1
    assert bench.count(counter) == 1
    assert bench.notices.told == []


def test_a_revocation_of_an_earlier_registration_is_ignored_sec_31() -> None:
    bench = visited()
    number = identification()
    bench.ask(request(number))
    later = support(stamp=HOME_CLOCK + 100)
    bench.answer(sign_foreign_home(reply(number) + later))
    assert bench.answer(sign_foreign_home(revocation(HOME_CLOCK + 50))) == []
    assert bench.count("faVisitors") == 1


def test_a_repetition_is_answered_again_and_a_replay_is_not() -> None:
    bench = visited()
    first = sign_foreign_home(revocation(HOME_CLOCK + 5))
    bench.answer(first)
    assert bench.answer(first) == []
    assert len(bench.answer(sign_foreign_home(revocation(HOME_CLOCK + 6)))) == 1
    assert len(bench.notices.told) == 1


def test_who_did_not_negotiate_is_not_revoked() -> None:
    bench = Bench(has_revocation=True, home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get)
    bench.register()  # the reply has no revocation support
    bench.tick(5)
    assert bench.answer(sign_foreign_home(revocation(HOME_CLOCK + 5))) == []
    assert bench.count("faVisitors") == 1


def test_a_cleared_visitor_is_revoked_until_acknowledged_rfc3543_4_2_3_1() -> None:
    bench = visited()
    stamp = HOME_CLOCK + 5
    [sent] = bench.run(bench.agent.clear_visitor(NODE, bench.now))
    assert sent.data == sign_foreign_home(revocation(stamp, flags=0x4000))
    assert (sent.source, sent.destination) == (Endpoint(AGENT, 434), Endpoint(HOME_AGENT, 434))
    assert bench.count("faVisitors") == 0
    assert bench.notices.told == []  # the home agent will say
    again = bench.tick(3.5)
    assert [message.data[16:20] for message in again] == [
        struct.pack("!I", stamp + 1),
        struct.pack("!I", stamp + 3),
    ]
    assert bench.agent.unacknowledged == 1
    bench.answer(sign_foreign_home(acknowledgment(stamp + 1)))
    assert bench.agent.unacknowledged == 0
    assert bench.notices.told == [(LINK, NODE, MAC)]
    assert bench.tick(60) == []


def test_the_home_agent_may_say_that_the_node_is_not_told() -> None:
    bench = visited()
    bench.run(bench.agent.clear_visitor(NODE, bench.now))
    bench.answer(sign_foreign_home(acknowledgment(HOME_CLOCK + 5, inform=False)))
    assert bench.agent.unacknowledged == 0
    assert bench.notices.told == []


def test_the_i_bit_of_an_acknowledgment_counts_only_if_we_set_ours_rfc3543_3_4() -> None:
    bench = visited(inform=False)
    [sent] = bench.run(bench.agent.clear_visitor(NODE, bench.now))
    assert sent.data[2:4] == b"\0\0"
    assert bench.notices.told == [(LINK, NODE, MAC)]
    bench.answer(sign_foreign_home(acknowledgment(HOME_CLOCK + 5, inform=True)))
    assert bench.agent.unacknowledged == 0
    assert bench.notices.told == [(LINK, NODE, MAC)]  # not once more


@pytest.mark.parametrize(
    "message",
    [
        acknowledgment(HOME_CLOCK + 5),
        sign_foreign_home(acknowledgment(HOME_CLOCK + 5), key=bytes(16)),
        sign_foreign_home(acknowledgment(HOME_CLOCK + 77)),
        sign_foreign_home(acknowledgment(HOME_CLOCK + 5, home=NODE + 1)),
    ],
)
def test_a_forged_acknowledgment_ends_nothing(message: bytes) -> None:
    bench = visited()
    bench.run(bench.agent.clear_visitor(NODE, bench.now))
    bench.answer(message)
    assert bench.agent.unacknowledged == 1
    assert bench.notices.told == []


def test_a_new_registration_ends_the_repetitions() -> None:
    bench = visited()
    bench.run(bench.agent.clear_visitor(NODE, bench.now))
    number = identification()
    bench.ask(request(number))
    bench.answer(sign_foreign_home(reply(number) + support(stamp=HOME_CLOCK + 6)))
    assert bench.agent.unacknowledged == 0
    assert bench.tick(10) == []


def test_nothing_is_sent_beyond_the_life_of_the_binding() -> None:
    bench = Bench(has_revocation=True, home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get)
    number = identification()
    bench.ask(request(number, lifetime=10))
    bench.answer(sign_foreign_home(reply(number, lifetime=10) + support()))
    bench.tick(5)
    bench.run(bench.agent.clear_visitor(NODE, bench.now))
    bench.tick(5.1)
    assert bench.tick(100) == []
    assert bench.agent.unacknowledged == 0


def test_a_colocated_node_cannot_be_revoked_rfc3543_4_3_1() -> None:
    bench = Bench(
        has_revocation=True,
        requires_revocation=True,
        home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get,
    )
    assert bench.denial(request(identification(), flags=D, care_of=AGENT + 99)) == 65


def test_a_home_agent_without_revocation_gets_status_65_where_it_is_required() -> None:
    bench = Bench(
        has_revocation=True,
        requires_revocation=True,
        home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get,
    )
    number = identification()
    bench.ask(request(number))
    inner = reply(number)
    [passed] = bench.answer(sign_foreign_home(inner))
    assert passed.data == inner + b"\x2d\x02\x00\x41"
    assert bench.installed == []


def test_everybody_is_revoked_at_the_end() -> None:
    bench = visited()
    sent = bench.run(bench.agent.revoke_all(bench.now))
    assert [message.data[0] for message in sent] == [7]
    assert bench.count("faVisitors") == 0
