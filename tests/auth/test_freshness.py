"""Identification: timestamps across eras, nonces, both sides, and resynchronisation."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.dissector import dissect

from fastmip.auth.associations import ReplayStyle
from fastmip.auth.freshness import (
    NEVER_ACCEPTED,
    NO_NONCE,
    RANDOM_BITS,
    TOLERATED_STEP_S,
    Freshness,
    IdentificationClock,
    IdentificationSource,
    NonceSource,
    TimestampSource,
    accepted_timestamp_reply,
    check_nonce,
    check_timestamp,
    identification_source,
    is_newer,
    new_nonce,
    nonce_reply,
    ntp_time,
    rejected_timestamp_reply,
    signed_difference,
)
from fastmip.wire.registration import RegistrationRequest

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
WALL = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * SECOND
ERA_END = int(datetime(2036, 2, 7, 6, 28, 16, tzinfo=UTC).timestamp()) * SECOND
WINDOW_UNITS = 7 << 32
U64 = st.integers(0, 2**64 - 1)
WALLS = st.integers(WALL - 50 * 365 * 24 * HOUR, WALL + 80 * 365 * 24 * HOUR)


def low(identification: int) -> int:
    return identification & 0xFFFFFFFF


def random_bits(seed: int = 1) -> random.Random:
    return random.Random(seed)  # noqa: S311 - repeatable on purpose


def timestamps(last_accepted: int = NEVER_ACCEPTED, seed: int = 1) -> TimestampSource:
    return TimestampSource(random_bits(seed).getrandbits, last_accepted)


# --- NTP time ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wall_ns", "expected"),
    [
        (0, 2208988800 << 32),  # 1 January 1970, the value of RFC 868 and every NTP text
        (WALL, 0xE93C7F00 << 32),
        (WALL + SECOND // 2, 0xE93C7F00 << 32 | 0x80000000),
        (ERA_END, 0),  # the first second of era 1
        (ERA_END - 1, 2**64 - 5),  # a nanosecond is 4.29 units
        (ERA_END + SECOND, 1 << 32),
    ],
)
def test_ntp_time(wall_ns: int, expected: int) -> None:
    assert ntp_time(wall_ns) == expected


def test_wireshark_reads_the_time_we_wrote_rfc5944_5_7_1() -> None:
    moments = [
        datetime(2024, 1, 1, 0, 0, 0, 250000, UTC),
        datetime(2026, 11, 23, 7, 40, 1, 999999, UTC),
        datetime(2036, 2, 7, 6, 28, 15, 500000, UTC),
        datetime(2036, 2, 7, 6, 28, 17, 500000, UTC),
    ]
    source = timestamps()
    messages = []
    for moment in moments:
        wall_ns = int(moment.timestamp()) * SECOND + moment.microsecond * 1000
        messages.append(RegistrationRequest(0, 1, 2, 3, 4, source.next(wall_ns)).encode())
    for moment, seen in zip(moments, dissect(messages, "mip.ident"), strict=True):
        text = seen["mip.ident"][0]
        whole, fraction = text.removesuffix(" UTC").split(".")
        read = datetime.strptime(whole, "%b %d, %Y %H:%M:%S").replace(tzinfo=UTC)
        read = read.replace(microsecond=int(fraction) // 1000)
        assert abs((read - moment).total_seconds()) <= 2e-5, text


# --- order ---------------------------------------------------------------------------------


@given(U64, st.integers(-(2**63) + 1, 2**63 - 1))
def test_difference_is_right_across_the_end_of_an_era(base: int, step: int) -> None:
    assert signed_difference((base + step) % 2**64, base) == step
    assert is_newer((base + step) % 2**64, base) is (step > 0)


def test_the_step_over_the_end_of_the_era_is_forward() -> None:
    assert is_newer(ntp_time(ERA_END), ntp_time(ERA_END - 1))
    assert not is_newer(ntp_time(ERA_END - 1), ntp_time(ERA_END))


# --- the home agent's check of timestamps ----------------------------------------------------


@given(WALLS, st.integers(1, 3600), st.integers(-(2**20), 2**20))
def test_the_window_includes_both_its_ends(wall_ns: int, window_s: int, beyond: int) -> None:
    now = ntp_time(wall_ns)
    for edge in (now + (window_s << 32), now - (window_s << 32)):
        outward = 1 if edge > now else -1
        identification = (edge + outward * beyond) % 2**64
        found = check_timestamp(identification, NEVER_ACCEPTED, wall_ns, window_s)
        if identification == NEVER_ACCEPTED:
            continue
        assert (found is Freshness.OUTSIDE_WINDOW) is (beyond > 0)


@pytest.mark.parametrize(
    ("offset_s", "expected"),
    [(-8, False), (-7, True), (0, True), (7, True), (8, False)],
)
def test_default_window_is_seven_seconds_rfc5944_5_7_1(offset_s: int, expected: bool) -> None:
    identification = ntp_time(WALL + offset_s * SECOND)
    found = check_timestamp(identification, NEVER_ACCEPTED, WALL)
    assert found is (Freshness.FRESH if expected else Freshness.OUTSIDE_WINDOW)


@given(WALLS, st.integers(1, 2**33))
def test_only_a_newer_timestamp_is_fresh_rfc5944_5_7_1(wall_ns: int, step: int) -> None:
    accepted = ntp_time(wall_ns)
    newer, older = (accepted + step) % 2**64, (accepted - step) % 2**64
    if NEVER_ACCEPTED in (accepted, newer, older):
        return
    assert check_timestamp(newer, accepted, wall_ns) is Freshness.FRESH
    assert check_timestamp(accepted, accepted, wall_ns) is Freshness.REPEATED
    assert check_timestamp(older, accepted, wall_ns) is Freshness.NOT_NEWER


@given(st.integers(0, 100), st.randoms(use_true_random=False))
def test_no_order_of_replays_is_ever_fresh_twice(start: int, dice: random.Random) -> None:
    wall_ns = ERA_END - 3 * SECOND + start * SECOND // 20
    source = TimestampSource(dice.getrandbits)
    sent = [source.next(wall_ns + n * 10_000_000) for n in range(20)]
    stream = sent * 2
    dice.shuffle(stream)
    accepted: list[int] = []
    last = NEVER_ACCEPTED
    for identification in stream:
        if check_timestamp(identification, last, wall_ns) is Freshness.FRESH:
            accepted.append(identification)
            last = identification
    assert len(set(accepted)) == len(accepted) >= 1
    assert all(is_newer(b, a) for a, b in pairwise(accepted))


def test_an_old_request_far_outside_the_window_is_told_so_even_if_it_is_the_last() -> None:
    last = ntp_time(WALL)
    assert check_timestamp(last, last, WALL + HOUR) is Freshness.OUTSIDE_WINDOW


def test_the_mark_for_nothing_accepted_is_itself_never_fresh() -> None:
    assert check_timestamp(NEVER_ACCEPTED, NEVER_ACCEPTED, ERA_END) is Freshness.NOT_NEWER


# --- the home agent's clock for them -----------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, HOUR), st.integers(-5 * HOUR, 5 * HOUR)), max_size=20))
def test_clock_for_timestamps_never_steps_back_by_more_than_is_tolerated(
    history: list[tuple[int, int]],
) -> None:
    clock = IdentificationClock()
    boot_ns, wall_ns = 1000 * SECOND, WALL
    shown = clock.read(boot_ns, wall_ns)
    assert shown == wall_ns
    for passed_ns, step_ns in history:
        boot_ns, wall_ns = boot_ns + passed_ns, wall_ns + passed_ns + step_ns
        expected = shown + passed_ns
        shown = clock.read(boot_ns, wall_ns)
        if wall_ns >= expected - TOLERATED_STEP_S * SECOND:
            assert shown == wall_ns
        else:
            assert shown == expected


def test_clock_believes_an_accepted_timestamp_after_a_restart_with_a_clock_set_back() -> None:
    accepted = ntp_time(WALL)
    clock = IdentificationClock()
    shown = clock.read(5 * SECOND, WALL - 30 * HOUR, accepted)
    assert abs(shown - WALL) <= 1
    assert check_timestamp(accepted, accepted, shown) is Freshness.REPEATED
    assert clock.read(65 * SECOND, WALL - 30 * HOUR + MINUTE) == shown + MINUTE


@pytest.mark.parametrize("window_s", [7, 3600])
def test_clock_is_not_moved_by_timestamps_of_nodes_that_are_ahead_within_the_window(
    window_s: int,
) -> None:
    clock = IdentificationClock()
    ahead = ntp_time(WALL + window_s * SECOND)
    assert clock.read(0, WALL, ahead, window_s) == WALL


# --- replies -------------------------------------------------------------------------------


@given(U64)
def test_accepted_reply_copies_the_whole_field_rfc5944_5_7_1(identification: int) -> None:
    assert accepted_timestamp_reply(identification) == identification


@given(U64, WALLS)
def test_rejected_reply_has_our_seconds_and_their_low_half_rfc5944_5_7_1(
    identification: int, wall_ns: int
) -> None:
    reply = rejected_timestamp_reply(identification, wall_ns)
    assert low(reply) == low(identification)
    assert reply >> 32 == (wall_ns // SECOND + 2208988800) % 2**32


@given(U64, st.integers(1, 2**32 - 1))
def test_nonce_reply_has_the_new_nonce_and_their_low_half_rfc5944_5_7_2(
    identification: int, nonce: int
) -> None:
    reply = nonce_reply(identification, nonce)
    assert (reply >> 32, low(reply)) == (nonce, low(identification))


# --- the home agent's check of nonces ----------------------------------------------------------


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_request_must_carry_the_nonce_issued_last_rfc5944_5_7_2(
    nonce: int, other: int, low_half: int
) -> None:
    found = check_nonce(other << 32 | low_half, NEVER_ACCEPTED, nonce)
    assert found is (Freshness.FRESH if other == nonce else Freshness.WRONG_NONCE)


@given(st.integers(0, 2**32 - 1), U64)
def test_nothing_is_fresh_before_a_nonce_was_issued(low_half: int, identification: int) -> None:
    for candidate in (low_half, identification):
        assert check_nonce(candidate, NEVER_ACCEPTED, NO_NONCE) is Freshness.WRONG_NONCE


def test_retransmission_of_the_accepted_request_is_repeated_not_wrong() -> None:
    accepted = 0x11111111_22222222
    assert check_nonce(accepted, accepted, 0x33333333) is Freshness.REPEATED


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 2**32 - 2, 2**32 - 1]))
def test_a_new_nonce_differs_from_the_last_and_from_none(previous: int, drawn: int) -> None:
    for last in (previous, drawn):
        nonce = new_nonce(last, lambda _: drawn)
        assert nonce not in (NO_NONCE, last)
        assert 0 < nonce < 2**32


# --- the mobile node with timestamps -------------------------------------------------------------


@given(st.lists(st.integers(-5 * HOUR, 5 * HOUR), min_size=1, max_size=30), st.integers(0, 99))
def test_each_identification_is_newer_whatever_the_clock_does_rfc5944_5_7_1(
    steps: list[int], seed: int
) -> None:
    source = timestamps(seed=seed)
    wall_ns, last = ERA_END - HOUR, None
    for step in [0, *steps]:
        wall_ns += step
        identification = source.next(wall_ns)
        assert 0 <= identification < 2**64
        assert last is None or is_newer(identification, last)
        last = identification


@given(WALLS, st.integers(0, 99))
def test_identification_is_the_clock_but_for_its_random_low_bits(wall_ns: int, seed: int) -> None:
    identification = timestamps(seed=seed).next(wall_ns)
    assert abs(signed_difference(identification, ntp_time(wall_ns))) < 1 << RANDOM_BITS


@given(st.lists(st.sampled_from([0, 1, SECOND, 2 * SECOND]), min_size=1, max_size=20), U64)
def test_low_half_differs_from_that_of_the_request_before_rfc5944_5_7(
    steps: list[int], drawn: int
) -> None:
    """Also when timers are exact and the dice always fall the same way."""
    source = TimestampSource(lambda bits: drawn & ((1 << bits) - 1))
    wall_ns, last = WALL, source.next(WALL)
    for step in steps:
        wall_ns += step
        identification = source.next(wall_ns)
        assert is_newer(identification, last)
        assert low(identification) != low(last)
        last = identification


def test_low_bits_are_random_rfc5944_5_7_1() -> None:
    seen = {timestamps(seed=seed).next(WALL) for seed in range(64)}
    assert len(seen) > 32


@given(WALLS, st.integers(-40 * 365 * 24 * 3600, 40 * 365 * 24 * 3600), st.integers(0, SECOND - 1))
def test_one_rejection_resynchronises_any_clock_rfc5944_5_7_1(
    home_ns: int, skew_s: int, skew_ns: int
) -> None:
    """The home agent's rules against the mobile node's, whatever lies between their clocks."""
    skew = skew_s * SECOND + skew_ns
    source = timestamps()
    first = source.next(home_ns + skew)
    if check_timestamp(first, NEVER_ACCEPTED, home_ns) is not Freshness.FRESH:
        source.resynchronise(rejected_timestamp_reply(first, home_ns))
    later_ns = home_ns + SECOND
    second = source.next(later_ns + skew)
    assert second != first
    assert check_timestamp(second, NEVER_ACCEPTED, later_ns) is Freshness.FRESH


def test_resynchronisation_backwards_stays_above_what_was_accepted() -> None:
    source = timestamps()
    accepted = source.next(WALL)
    source.accept(accepted)
    source.next(WALL + HOUR)  # our clock stepped forward
    home_ns = WALL + 2 * SECOND
    source.resynchronise(rejected_timestamp_reply(accepted, home_ns))
    again = source.next(WALL + HOUR + SECOND)
    assert is_newer(again, accepted)
    assert check_timestamp(again, accepted, home_ns + SECOND) is Freshness.FRESH


def test_an_older_reply_does_not_lower_what_was_accepted() -> None:
    source = timestamps()
    first, second = source.next(WALL), source.next(WALL + SECOND)
    source.accept(second)
    source.accept(first)
    source.resynchronise(rejected_timestamp_reply(second, WALL - HOUR))
    assert is_newer(source.next(WALL + SECOND), second)


def test_a_restarted_mobile_node_goes_on_above_what_it_remembers() -> None:
    remembered = ntp_time(WALL + HOUR)
    assert is_newer(timestamps(remembered).next(WALL), remembered)


# --- the mobile node with nonces -----------------------------------------------------------------


def test_nonces_synchronise_themselves_and_stay_so_rfc5944_5_7_2() -> None:
    dice = random_bits()
    source = NonceSource(dice.getrandbits)
    issued, accepted = NO_NONCE, NEVER_ACCEPTED
    outcomes = []
    lows = []
    for _ in range(10):
        identification = source.next(WALL)
        lows.append(low(identification))
        found = check_nonce(identification, accepted, issued)
        outcomes.append(found)
        issued = new_nonce(issued, dice.getrandbits)
        reply = nonce_reply(identification, issued)
        if found is Freshness.FRESH:
            accepted = identification
            source.accept(reply)
        else:
            source.resynchronise(reply)
    assert outcomes == [Freshness.WRONG_NONCE] + [Freshness.FRESH] * 9
    assert len(set(lows)) == 10


@given(st.integers(0, 2**32 - 1))
def test_low_half_differs_from_the_previous_one_rfc5944_5_7_2(drawn: int) -> None:
    source = NonceSource(lambda _: drawn)
    assert low(source.next(0)) != low(source.next(0))


def test_the_style_of_the_association_chooses_the_source() -> None:
    def made(style: ReplayStyle) -> IdentificationSource:
        return identification_source(style, random_bits().getrandbits)

    assert isinstance(made(ReplayStyle.TIMESTAMPS), TimestampSource)
    assert isinstance(made(ReplayStyle.NONCES), NonceSource)
