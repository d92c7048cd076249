"""The half of revocation both agents share (RFC 3543): bytes, spacing, replays, reflections."""

from __future__ import annotations

import hmac
import struct

import pytest

from fastmip.agents.effects import NEVER, Arrival, Effect, Endpoint, Now, SendDatagram
from fastmip.agents.revocation import (
    COUNTERS,
    MAX_UNDER_WAY,
    TRIES,
    Accepted,
    BindingName,
    Notice,
    RevocationGuard,
    RevocationSender,
    acknowledgment,
    counters,
    is_later,
    name_of,
    proof,
    timestamp,
)
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.wire.codes import ExtensionType
from fastmip.wire.revocation import RevocationAcknowledgment, RevocationMessage

SECOND = 1_000_000_000
NTP = 2_208_988_800
WALL_S = 1_790_000_000
HOME, AGENT, VISITED = 0x0A010005, 0x0A010001, 0x0A030101
KEY, SPI = bytes(range(16)), 0x300
ASSOCIATION = SecurityAssociation(SPI, KEY)
SHARED = AssociationSet([ASSOCIATION])
NAME = BindingName(HOME, AGENT, VISITED)
FOREIGN_HOME = ExtensionType.FOREIGN_HOME_AUTHENTICATION


def at(seconds: float) -> Now:
    return Now(int(seconds * SECOND), int((WALL_S + seconds) * SECOND))


def signed(covered: bytes, kind: int = 34, key: bytes = KEY, spi: int = SPI) -> bytes:
    covered += struct.pack("!BBI", kind, 20, spi)
    return covered + hmac.digest(key, covered, "md5")


def revocation(identifier: int, *, flags: int = 0xC000) -> bytes:
    """Made by hand from RFC 3543 3.3."""
    fixed = struct.pack("!BBHIIII", 7, 0, flags, HOME, AGENT, VISITED, identifier)
    return signed(fixed)


def acknowledged(identifier: int, *, flags: int = 0) -> bytes:
    """Made by hand from RFC 3543 3.4."""
    return signed(struct.pack("!BBHII", 15, 0, flags, HOME, identifier))


def notice(
    *, registered_s: float = 0, lifetime_s: float = 1800, name: BindingName = NAME
) -> Notice:
    return Notice(
        name,
        True,
        True,
        Endpoint(AGENT, 434),
        Endpoint(VISITED, 434),
        FOREIGN_HOME,
        ASSOCIATION,
        int(registered_s * SECOND),
        int((registered_s + lifetime_s) * SECOND),
        (NTP + WALL_S + int(registered_s)) & 0xFFFFFFFF,
    )


def sender() -> tuple[RevocationSender, dict[str, int]]:
    count = dict.fromkeys(counters("ha"), 0)
    return RevocationSender(count, "ha"), count


def run(sending: RevocationSender, seconds: float) -> list[tuple[float, Effect]]:
    """Let the timer run from second 10 on; what was sent, and when."""
    sent: list[tuple[float, Effect]] = []
    while (deadline := sending.next_deadline()) is not None and deadline <= seconds * SECOND:
        moment = at(deadline / SECOND)
        sent += [(deadline / SECOND, effect) for effect in sending.handle_timer(moment)]
    return sent


def test_a_revocation_byte_for_byte_rfc3543_3_3() -> None:
    sending, count = sender()
    (effect,) = sending.start(notice(), at(10))
    stamp = NTP + WALL_S + 10
    assert effect == SendDatagram(revocation(stamp), Endpoint(AGENT, 434), Endpoint(VISITED, 434))
    assert count["haRevocationsSent"] == 1


def test_it_is_repeated_with_new_identifiers_ever_more_slowly_rfc3543_4_2_2_1() -> None:
    sending, count = sender()
    sending.start(notice(), at(10))
    sent = run(sending, 1000)
    assert [moment for moment, _ in sent[:6]] == [11, 13, 17, 25, 41, 73]
    assert len(sent) == TRIES - 1
    identifiers = [RevocationMessage.decode(effect.data).identifier for _, effect in sent]  # type: ignore[union-attr]
    assert identifiers == sorted(set(identifiers))
    for moment, effect in sent:
        assert isinstance(effect, SendDatagram)
        assert effect.data == revocation(NTP + WALL_S + int(moment))
    assert len(sending) == 0
    assert count["haRevocationsAbandoned"] == 1
    assert count["haRevocationsRepeated"] == TRIES - 1


def test_never_beyond_the_life_of_the_binding_rfc3543_3_3() -> None:
    sending, _ = sender()
    sending.start(notice(lifetime_s=14), at(10))
    assert [moment for moment, _ in run(sending, 1000)] == [11, 13]
    assert sending.start(notice(lifetime_s=5), at(10)) == []


def test_never_within_a_second_of_the_registration_rfc3543_3_3() -> None:
    sending, _ = sender()
    assert sending.start(notice(registered_s=9.5), at(10)) == []
    assert sending.next_deadline() == int(10.5 * SECOND)
    assert [moment for moment, _ in run(sending, 12)] == [10.5, 11.5]


def test_a_binding_is_not_revoked_twice_at_a_time() -> None:
    sending, _ = sender()
    assert len(sending.start(notice(), at(10))) == 1
    assert sending.start(notice(), at(10.1)) == []
    assert len(sending) == 1


def test_a_clock_set_back_does_not_repeat_an_identifier() -> None:
    sending, _ = sender()
    sending.start(notice(), at(10))
    (effect,) = sending.handle_timer(Now(11 * SECOND, (WALL_S - 500) * SECOND))
    assert isinstance(effect, SendDatagram)
    assert RevocationMessage.decode(effect.data).identifier == NTP + WALL_S + 11


def test_an_acknowledgment_of_any_try_ends_it_rfc3543_3_5() -> None:
    sending, count = sender()
    sending.start(notice(), at(10))
    run(sending, 12)
    first = RevocationAcknowledgment.decode(acknowledged(NTP + WALL_S + 10))
    found = sending.awaited(first, VISITED)
    assert found == notice()
    sending.acknowledged(found)
    assert run(sending, 1000) == []
    assert count["haRevocationsAcknowledged"] == 1
    assert sending.awaited(first, VISITED) is None


@pytest.mark.parametrize(
    ("identifier", "peer"), [(NTP + WALL_S + 9, VISITED), (NTP + WALL_S + 10, VISITED + 1)]
)
def test_an_acknowledgment_of_nothing_we_sent_ends_nothing(identifier: int, peer: int) -> None:
    sending, count = sender()
    sending.start(notice(), at(10))
    answer = RevocationAcknowledgment.decode(acknowledged(identifier))
    assert sending.awaited(answer, peer) is None
    assert count["haRevocationAcknowledgmentsUnmatched"] == 1
    assert NAME in sending


def test_a_new_registration_stops_the_repetitions() -> None:
    sending, _ = sender()
    sending.start(notice(), at(10))
    sending.cancel(NAME)
    assert run(sending, 1000) == []
    sending.cancel(NAME)


def test_beyond_the_limit_each_is_sent_once() -> None:
    sending, count = sender()
    for n in range(MAX_UNDER_WAY):
        sending.start(notice(name=BindingName(n, AGENT, VISITED)), at(10))
    assert len(sending.start(notice(), at(10))) == 1
    assert len(sending) == MAX_UNDER_WAY
    assert count["haRevocationsSent"] == MAX_UNDER_WAY + 1


@pytest.mark.parametrize(
    ("data", "right"),
    [
        (revocation(1), True),
        (revocation(1)[:-1] + bytes([revocation(1)[-1] ^ 1]), False),
        (revocation(1)[:20], False),
        (signed(revocation(1)), False),
        (revocation(1) + b"\x86\x02\x00\x00", False),
        (revocation(1) + b"\x86\xff", False),
        (signed(revocation(1)[:20], key=bytes(16)), False),
        (signed(revocation(1)[:20], spi=0x301), False),
        (signed(revocation(1)[:20], kind=32), False),
    ],
)
def test_proof_is_one_right_authentication_at_the_end_rfc3543_3_3(
    data: bytes, *, right: bool
) -> None:
    message = RevocationMessage.decode(data)
    found = proof(data, message, FOREIGN_HOME, SHARED)
    assert (found is ASSOCIATION) is right
    assert proof(data, message, FOREIGN_HOME, None) is None


def test_the_answer_is_swapped_and_signed_rfc3543_3_4() -> None:
    arrival = Arrival(Endpoint(VISITED, 4000), Endpoint(AGENT, 434))
    asked = RevocationMessage.decode(revocation(77, flags=0x4000))
    for inform, flags in ((True, 0x8000), (False, 0)):
        assert acknowledgment(
            asked, arrival, FOREIGN_HOME, ASSOCIATION, inform=inform
        ) == SendDatagram(
            acknowledged(77, flags=flags), Endpoint(AGENT, 434), Endpoint(VISITED, 4000)
        )
    silent = RevocationMessage.decode(revocation(77, flags=0))
    answer = acknowledgment(silent, arrival, FOREIGN_HOME, ASSOCIATION, inform=True)
    assert answer.data == acknowledged(77)


def test_timestamps_are_seconds_and_compare_across_the_era() -> None:
    assert timestamp(at(10)) == NTP + WALL_S + 10
    assert is_later(1, 0xFFFFFFFF)
    assert not is_later(0xFFFFFFFF, 1)
    assert not is_later(5, 5)


def test_replays_are_told_from_news_by_peer_and_binding_rfc3543_3_5() -> None:
    guard = RevocationGuard(capacity=2)
    name = name_of(RevocationMessage.decode(revocation(100)))
    assert name == NAME
    assert guard.is_news(VISITED, NAME, 100, [99])
    assert not guard.is_news(VISITED, NAME, 100, [100])
    guard.accept(VISITED, NAME, Accepted(100, inform=True))
    assert not guard.is_news(VISITED, NAME, 100, [99])
    assert guard.is_news(VISITED, NAME, 101, [99])
    assert guard.is_news(VISITED + 1, NAME, 100, [99])
    assert guard.last(VISITED, NAME) == Accepted(100, inform=True)
    for other in (1, 2):
        guard.accept(other, NAME, Accepted(5, inform=False))
    assert guard.last(VISITED, NAME) is None


def test_every_counter_has_its_sentence() -> None:
    assert set(counters("fa")) == {f"fa{name}" for name in COUNTERS}
    sending, _ = sender()
    assert sending.start(notice(lifetime_s=NEVER), at(10))
