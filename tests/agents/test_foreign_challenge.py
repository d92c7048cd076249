"""Challenges at the foreign agent (RFC 4721 3.2, 3.3): 104, 105, 106, and what never is."""

from __future__ import annotations

import hmac
import struct
from typing import Any

import pytest
from tests.agents.foreign_lab import (
    AGENT,
    HOME_AGENT,
    LINK,
    MOBILE_FOREIGN,
    NODE,
    OTHER_MAC,
    Bench,
    identification,
    reply,
    request,
    short,
    sign_mobile_foreign,
)

from fastmip.agents.foreign_policy import ForeignLink

AAA_KEY = bytes(16)


def with_aaa(message: bytes, challenge: bytes) -> bytes:
    """Mobile-AAA authentication behind a challenge; nobody here verifies it."""
    covered = message + short(132, challenge) + struct.pack("!BBHI", 36, 1, 20, 0x400)
    return covered + hmac.digest(AAA_KEY, covered, "md5")


def proving() -> Bench:
    return Bench(has_challenge=True, mobile_nodes=lambda _home, _nai: MOBILE_FOREIGN)


def test_a_challenge_answered_by_mobile_foreign_authentication_is_relayed_and_removed() -> None:
    bench = proving()
    challenge = bench.agent.window(LINK).advertise()
    inner = request(identification())
    [relayed] = bench.ask(sign_mobile_foreign(inner + short(132, challenge)))
    assert relayed.data == inner


def test_behind_mobile_aaa_authentication_it_stays_rfc4721_3_2() -> None:
    bench = Bench(has_challenge=True)
    challenge = bench.agent.window(LINK).advertise()
    data = with_aaa(request(identification()), challenge)
    [relayed] = bench.ask(data)
    assert relayed.data == data


def test_without_an_association_a_challenge_must_be_there() -> None:
    bench = Bench(has_challenge=True)
    assert bench.denial(request(identification())) == 105
    assert bench.count("cmiFaMissingChallenge") == 1


def test_with_an_association_it_may_be_absent() -> None:
    bench = proving()
    assert len(bench.ask(sign_mobile_foreign(request(identification())))) == 1
    assert bench.count("faRegRequestsRelayed") == 1


def test_a_challenge_nobody_proves_is_dropped_rfc4721_3_2() -> None:
    bench = Bench(has_challenge=True)
    challenge = bench.agent.window(LINK).advertise()
    assert bench.ask(request(identification()) + short(132, challenge)) == []
    assert bench.count("faChallengeWithoutProof") == 1


@pytest.mark.parametrize("has_challenge", [True, False])
def test_what_was_not_issued_is_104(has_challenge: bool) -> None:
    bench = Bench(has_challenge=has_challenge)
    bench.agent.window(LINK).advertise()
    assert bench.denial(with_aaa(request(identification()), b"12345678")) == 104


def test_an_old_one_is_unknown_and_the_window_has_two() -> None:
    bench = Bench(has_challenge=True)
    window = bench.agent.window(LINK)
    old, one, two = (window.advertise() for _ in range(3))
    assert bench.denial(with_aaa(request(identification()), old)) == 104
    assert bench.denial(with_aaa(request(identification()), one)) is None
    assert bench.denial(with_aaa(request(identification()), two), mac=OTHER_MAC) is None


def test_the_window_is_as_wide_as_configured_rfc4721_9() -> None:
    bench = Bench(has_challenge=True, challenge_window=3)
    window = bench.agent.window(LINK)
    old, oldest_good, *_ = (window.advertise() for _ in range(4))
    assert bench.denial(with_aaa(request(identification()), old)) == 104
    assert bench.denial(with_aaa(request(identification()), oldest_good)) is None


def test_a_used_one_is_106_but_for_a_repetition_of_what_is_pending() -> None:
    bench = proving()
    challenge = bench.agent.window(LINK).advertise()
    number = identification()
    behind = short(132, challenge)
    bench.ask(sign_mobile_foreign(request(number) + behind))
    again = identification()
    assert len(bench.ask(sign_mobile_foreign(request(again) + behind))) == 1
    assert bench.count("faRegRequestsRelayed") == 2
    bench.answer(reply(again))
    late = sign_mobile_foreign(request(identification()) + behind)
    assert bench.denial(late) == 106


def test_another_request_under_a_pending_one_s_challenge_is_106() -> None:
    bench = proving()
    behind = short(132, bench.agent.window(LINK).advertise())
    bench.ask(sign_mobile_foreign(request(identification()) + behind))
    other = sign_mobile_foreign(request(identification(), lifetime=0) + behind)
    assert bench.denial(other) == 106


def test_replies_carry_the_next_challenge_rfc4721_3_3() -> None:
    bench = Bench(has_challenge=True)
    challenge = bench.agent.window(LINK).advertise()
    number = identification()
    bench.ask(with_aaa(request(number), challenge))
    inner = reply(number)
    [passed] = bench.answer(inner + short(132, challenge))  # the home agent's echo is removed
    fresh = passed.data[len(inner) + 2 :]
    assert passed.data == inner + short(132, fresh)
    assert fresh != challenge
    renewal = identification()
    bench.tick(2)
    [relayed] = bench.ask(with_aaa(request(renewal), fresh))
    assert relayed.destination.port == 434


def test_a_home_agent_that_echoes_none_is_honoured_rfc4721_3_3() -> None:
    bench = Bench(has_challenge=True)
    number = identification()
    bench.ask(with_aaa(request(number), bench.agent.window(LINK).advertise()))
    [passed] = bench.answer(reply(number))
    assert passed.data[len(reply(number))] == 132  # a challenge, and no error before it
    assert bench.count("faVisitors") == 1


def test_a_denial_carries_one_too() -> None:
    bench = proving()
    challenge = bench.agent.window(LINK).advertise()
    [denied] = bench.ask(sign_mobile_foreign(request(identification(), care_of=9)))
    assert denied.data[20:22] == b"\x84\x08"
    assert denied.data[22:30] == challenge
    assert denied.data[30] == 33  # covered by our authentication


def test_a_home_agent_that_echoes_another_gets_status_109_rfc4721_3_3() -> None:
    bench = Bench(has_challenge=True)
    challenge = bench.agent.window(LINK).advertise()
    number = identification()
    bench.ask(with_aaa(request(number), challenge))
    inner = reply(number)
    [passed] = bench.answer(inner + short(132, b"other..."))
    assert passed.data[len(inner) : len(inner) + 4] == b"\x2d\x02\x00\x6d"
    assert bench.installed == []


def test_strangers_spend_nobody_s_challenge_sec_21() -> None:
    bench = Bench(has_challenge=True)
    window = bench.agent.window(LINK)
    challenge = window.advertise()
    for number in range(200):
        mac = (0x020000010000 + number).to_bytes(6, "big")
        bench.ask(with_aaa(request(identification()), challenge), mac=mac)
    assert len(window) == 0
    assert bench.denial(with_aaa(request(identification()), challenge)) is None
    assert NODE


# whose challenge it is ----------------------------------------------------------------------

NAI = short(131, b"mn@wustl.edu")
STRANGER = 0x08080808
"""A home agent that anybody could run, anywhere."""


def registered(bench: Bench, data: bytes, answer: bytes, **how: Any) -> None:
    """Send a request and have it accepted."""
    source = how.pop("home_agent", HOME_AGENT)
    bench.ask(data, **how)
    bench.answer(answer, source=source)
    bench.tick(2)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"before": NAI}),
        ({"before": NAI}, {}),
        ({"before": NAI}, {"before": NAI, "home_address": 0}),
        ({"before": NAI, "home_address": 0}, {}),
        ({"before": NAI, "home_address": 0}, {"before": NAI, "home_address": 0}),
        ({"before": NAI, "home_address": 0}, {"before": NAI, "home_address": NODE + 1}),
    ],
)
def test_another_name_makes_no_spent_challenge_good_rfc4721_3_2(
    first: dict[str, Any], then: dict[str, Any]
) -> None:
    bench = Bench(has_challenge=True)
    challenge = bench.agent.window(LINK).advertise()
    number = identification()
    answer = reply(number, before=first.get("before", b""))
    registered(bench, with_aaa(request(number, **first), challenge), answer)
    assert bench.denial(with_aaa(request(identification(), **then), challenge)) == 106
    elsewhere = with_aaa(request(identification(), **then), challenge)
    assert bench.denial(elsewhere, mac=OTHER_MAC) == 106


def test_a_name_behind_the_signature_is_none_rfc2794_3() -> None:
    bench = Bench(has_challenge=True)
    challenge = bench.agent.window(LINK).advertise()
    number = identification()
    registered(bench, with_aaa(request(number), challenge), reply(number))
    replayed = with_aaa(request(identification()), challenge) + NAI
    assert bench.denial(replayed) == 106
    nameless = with_aaa(request(identification(), home_address=0), challenge) + NAI
    assert bench.denial(nameless) == 96


def test_a_stranger_s_home_agent_spends_nobody_s_challenge() -> None:
    bench = Bench(has_challenge=True)
    challenge = bench.agent.window(LINK).advertise()
    number = identification()
    data = with_aaa(request(number, home_agent=STRANGER, before=NAI), challenge)
    answer = reply(number, home_agent=STRANGER, before=NAI)
    registered(bench, data, answer, home_agent=STRANGER, mac=OTHER_MAC)
    number = identification()
    gone = with_aaa(request(number, home_agent=STRANGER, before=NAI, lifetime=0), challenge)
    assert bench.denial(gone, mac=OTHER_MAC) == 106
    bench.tick(301)
    own = with_aaa(request(identification(), before=NAI), challenge)
    assert bench.denial(own) is None


def test_the_proof_of_one_node_spends_nothing_of_the_node_it_names() -> None:
    """The association of this one belongs to its home address, and vouches for no NAI."""
    bench = Bench(
        has_challenge=True,
        mobile_nodes=lambda home, nai: MOBILE_FOREIGN if home == NODE or nai else None,
    )
    challenge = bench.agent.window(LINK).advertise()
    bench.ask(sign_mobile_foreign(request(identification(), before=NAI) + short(132, challenge)))
    victim = request(identification(), home_address=0, before=NAI) + short(132, challenge)
    assert bench.denial(sign_mobile_foreign(victim), mac=OTHER_MAC) is None


def test_a_challenge_without_a_proof_that_anybody_checks_is_67() -> None:
    """Mobile-Foreign authentication that we cannot verify proves nothing."""
    bench = Bench(has_challenge=True)
    challenge = bench.agent.window(LINK).advertise()
    data = sign_mobile_foreign(request(identification()) + short(132, challenge))
    assert bench.denial(data) == 67
    assert bench.violations[0].reason


def test_with_two_challenges_nobody_knows_which_is_answered() -> None:
    bench = Bench(has_challenge=True)
    one, two = (bench.agent.window(LINK).advertise() for _ in range(2))
    old = request(identification(), before=short(132, one))
    assert bench.denial(with_aaa(old, two)) == 70


def test_without_room_to_remember_it_nothing_comes_of_a_challenge_rfc4721_3_2() -> None:
    bench = Bench(has_challenge=True)
    window = bench.agent.window(LINK)
    window._max_nodes = 1
    challenge = window.advertise()
    number = identification()
    registered(bench, with_aaa(request(number), challenge), reply(number))
    number = identification()
    other: dict[str, Any] = {"home_address": NODE + 1}
    bench.ask(with_aaa(request(number, **other), challenge), mac=OTHER_MAC)
    inner = reply(number, **other)
    [passed] = bench.answer(inner)
    assert passed.data[len(inner) :][:4] == b"\x2d\x02\x00\x42"
    assert [effect.home_address for effect in bench.installed] == [NODE]


def test_the_challenge_of_a_reply_is_good_under_either_name() -> None:
    bench = Bench(has_challenge=True)
    challenge = bench.agent.window(LINK).advertise()
    number = identification()
    bench.ask(with_aaa(request(number, before=NAI, home_address=0), challenge))
    inner = reply(number, before=NAI)
    [passed] = bench.answer(inner)
    fresh = passed.data[len(inner) + 2 :]
    bench.tick(2)
    assert bench.denial(with_aaa(request(identification(), before=NAI), fresh)) is None


@pytest.mark.parametrize("is_general", [True, False])
def test_a_challenge_is_demanded_where_it_is_advertised_rfc4721_3_2(is_general: bool) -> None:
    links = (
        ForeignLink(LINK, AGENT, (AGENT,), has_challenge=True),
        ForeignLink("air1", AGENT, (AGENT,), has_challenge=False),
        ForeignLink("air2", AGENT, (AGENT,)),
    )
    bench = Bench(links=links, has_challenge=is_general)
    macs = (bytes((2, 0, 0, 0, 3, number)) for number in range(9))
    codes = {
        link.interface: bench.denial(
            request(identification()), interface=link.interface, mac=next(macs)
        )
        for link in links
    }
    assert codes == {LINK: 105, "air1": None, "air2": 105 if is_general else None}
