"""The window of challenges of RFC 4721 3.2, against a model that remembers everything."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastmip.auth.challenges import (
    CHALLENGE_WINDOW,
    ChallengeVerdict,
    ChallengeWindow,
    is_retransmission,
)
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.nai import MobileNodeNai
from fastmip.wire.registration import RegistrationRequest

FRESH, STALE, UNKNOWN = ChallengeVerdict.FRESH, ChallengeVerdict.STALE, ChallengeVerdict.UNKNOWN


def dice() -> Callable[[int], bytes]:
    return random.Random(1).randbytes  # noqa: S311 - repeatable on purpose


def test_the_last_two_advertised_are_good_by_default_rfc4721_9() -> None:
    window = ChallengeWindow(dice())
    first, second, third = (window.advertise() for _ in range(3))
    assert CHALLENGE_WINDOW == 2
    assert [window.judge("a", c) for c in (first, second, third)] == [UNKNOWN, FRESH, FRESH]
    assert window.judge("a", b"never given") is UNKNOWN
    assert window.judge("a", b"") is UNKNOWN


def test_a_spent_challenge_is_stale_for_its_node_alone_rfc4721_3_2() -> None:
    window = ChallengeWindow(dice())
    challenge = window.advertise()
    assert window.use("a", challenge)
    assert window.judge("a", challenge) is STALE
    assert window.judge("b", challenge) is FRESH


def test_none_older_than_the_last_spent_is_good_rfc4721_4() -> None:
    window = ChallengeWindow(dice(), 4)
    challenges = [window.advertise() for _ in range(4)]
    window.use("a", challenges[2])
    assert [window.judge("a", c) for c in challenges] == [STALE, STALE, STALE, FRESH]


def test_a_challenge_in_a_reply_is_good_once_and_for_one_node_rfc4721_3_2() -> None:
    window = ChallengeWindow(dice())
    advertised = window.advertise()
    window.use("a", advertised)
    own = window.offer("a")
    assert own != advertised
    assert window.offer("a") == own, "an unspent one is repeated (RFC 4721 2.1)"
    assert (window.judge("a", own), window.judge("b", own)) == (FRESH, UNKNOWN)
    for _ in range(5):
        window.advertise()
    assert window.judge("a", own) is FRESH, "advertisements do not end it"
    window.use("a", own)
    assert window.judge("a", own) is STALE
    assert window.judge("a", advertised) is UNKNOWN


def test_the_advertised_one_spent_before_a_unicast_one_stays_stale() -> None:
    window = ChallengeWindow(dice())
    advertised = window.advertise()
    window.use("a", advertised)
    window.use("a", window.offer("a"))
    assert window.judge("a", advertised) is STALE


def test_strangers_end_nothing_and_store_nothing_rfc4721_12() -> None:
    window = ChallengeWindow(dice())
    first, second = window.advertise(), window.advertise()
    window.use("a", second)
    own = window.offer("a")
    for stranger in range(1000):
        assert window.newest() == second
        assert window.offer(stranger) == second
        window.judge(stranger, bytes(8))
        assert window.offer("a") == own
        window.judge("a", first)
    assert len(window) == 1
    assert window.judge("a", own) is FRESH
    assert window.judge("b", first) is FRESH


def test_records_are_bounded_and_those_that_guard_stay() -> None:
    window = ChallengeWindow(dice(), max_nodes=2)
    challenge = window.advertise()
    assert window.use("a", challenge)
    assert window.use("b", challenge)
    assert not window.use("c", challenge), "no room: dropping one would allow a replay"
    assert window.use("a", window.offer("a")), "who has a record needs no room"
    window.forget("a")
    assert (len(window), window.judge("a", challenge)) == (2, STALE)
    newer = [window.advertise() for _ in range(2)]
    assert window.use("c", newer[1]), "the oldest guards nothing any more"
    assert len(window) == 2
    window.forget("nobody")
    window.forget("a")
    assert len(window) == 1
    assert window.judge("c", newer[1]) is STALE


@pytest.mark.parametrize(
    ("window", "length", "nodes"), [(0, 8, 1), (2, 3, 1), (2, 256, 1), (2, 8, 0)]
)
def test_a_window_that_cannot_work_is_refused(window: int, length: int, nodes: int) -> None:
    with pytest.raises(ValueError, match="window"):
        ChallengeWindow(dice(), window, length=length, max_nodes=nodes)


class Memory(RuleBasedStateMachine):
    """Everything that ever happened, and what must follow from it."""

    NODES = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.window = ChallengeWindow(dice(), 3)
        self.advertised: list[bytes] = []
        self.unicast: dict[str, list[bytes]] = {node: [] for node in self.NODES}
        self.spent: dict[str, list[bytes]] = {node: [] for node in self.NODES}

    @rule()
    def advertise(self) -> None:
        self.advertised.append(self.window.advertise())

    @rule(node=st.sampled_from(NODES))
    def offer(self, node: str) -> None:
        found = self.window.offer(node)
        if not self.advertised:
            self.advertised.append(found)
        if found not in self.advertised and found not in self.unicast[node]:
            self.unicast[node].append(found)
        assert found not in self.spent[node]
        assert self.window.judge(node, found) is FRESH

    @rule(node=st.sampled_from(NODES), index=st.integers(0, 50))
    def request(self, node: str, index: int) -> None:
        given = self.advertised + [c for offered in self.unicast.values() for c in offered]
        if not given:
            return
        challenge = given[index % len(given)]
        expected = self.expected(node, challenge)
        verdict = self.window.judge(node, challenge)
        assert verdict in expected
        if verdict is FRESH:
            assert self.window.use(node, challenge)
            self.spent[node].append(challenge)

    def expected(self, node: str, challenge: bytes) -> set[ChallengeVerdict]:
        if challenge in self.spent[node]:
            return {STALE, UNKNOWN}
        if challenge in self.unicast[node]:
            return {FRESH}
        if challenge not in self.advertised[-3:]:
            return {UNKNOWN}
        used = [self.advertised.index(c) for c in self.spent[node] if c in self.advertised]
        older = used and self.advertised.index(challenge) < max(used)
        return {STALE} if older else {FRESH}

    @invariant()
    def only_users_are_remembered(self) -> None:
        assert len(self.window) == sum(bool(spent) for spent in self.spent.values())


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

REQUEST = RegistrationRequest(
    0x02,
    300,
    5,
    1,
    6,
    7 << 32,
    (MobileNodeNai(b"mn@wustl.edu"), MobileForeignChallenge(bytes(8))),
)


@given(st.integers(1, 0xFFFF), st.integers(0, 2**64 - 1))
def test_lifetime_and_identification_do_not_tell_a_retransmission_rfc4721_3_2(
    lifetime: int, identification: int
) -> None:
    again = replace(REQUEST, lifetime=lifetime, identification=identification)
    assert is_retransmission(REQUEST, again)


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, flags=0x22),
        replace(REQUEST, lifetime=0),
        replace(REQUEST, home_address=9),
        replace(REQUEST, home_agent=9),
        replace(REQUEST, care_of_address=9),
        replace(REQUEST, extensions=REQUEST.extensions[:1]),
        replace(REQUEST, extensions=REQUEST.extensions[1:]),
        replace(
            REQUEST, extensions=(REQUEST.extensions[0], MobileForeignChallenge(bytes(7) + b"\1"))
        ),
    ],
)
def test_whatever_else_differs_makes_it_a_new_request(other: RegistrationRequest) -> None:
    assert not is_retransmission(REQUEST, other)
