"""Challenges at the foreign agent (RFC 4721 3.2, 3.3): 104, 105, 106, and what never is."""

from __future__ import annotations

import hmac
import struct

import pytest
from tests.agents.foreign_lab import (
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
