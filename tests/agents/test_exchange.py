"""Requests byte for byte, and the order in which replies are judged."""

from __future__ import annotations

import hashlib
import hmac
import struct

import pytest
from tests.agents.paper_home_agent import KEY, SPI, build_reply, parse_request

from fastmip.agents.exchange import (
    Goal,
    Identity,
    Purpose,
    ReplyRefused,
    RequestWriter,
    Terms,
    read_reply,
    request_flags,
)
from fastmip.auth.associations import (
    AssociationSet,
    Direction,
    ReplayStyle,
    SecurityAssociation,
)
from fastmip.auth.mn_aaa import ChapKey, sign_mn_aaa
from fastmip.errors import FastmipError
from fastmip.wire.addresses import parse_address
from fastmip.wire.vendor import VendorRegistry

HOME, AGENT = parse_address("10.1.0.5"), parse_address("10.1.0.1")
CARE_OF = parse_address("10.3.0.1")
GOAL = Goal(Purpose.REGISTER, CARE_OF, "eth0")
UNIX_OF_VECTOR = 0xE93C7F00 - 2_208_988_800


def zero_bits(_count: int) -> int:
    return 0


def writer(replay: ReplayStyle = ReplayStyle.TIMESTAMPS) -> RequestWriter:
    association = SecurityAssociation(SPI, KEY, replay=replay)
    return RequestWriter(HOME, AssociationSet([association]), zero_bits, Identity())


def test_a_request_byte_for_byte_rfc5944_3_3_and_3_5_2() -> None:
    exchange = writer().begin(GOAL, AGENT, 300, Terms(0x02), 0, UNIX_OF_VECTOR * 10**9)
    assert exchange.data[:16].hex() == "0102012c0a0100050a0100010a030001"
    assert exchange.data[16:24].hex() == "e93c7f0000000000"
    assert exchange.data[24:30].hex() == "201400000100"
    parse_request(exchange.data)  # checks length and authenticator by hmac alone


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        ({"simultaneous": False, "reverse": False, "encapsulation": 4, "away": True}, 0x20),
        ({"simultaneous": True, "reverse": True, "encapsulation": 4, "away": True}, 0xA2),
        ({"simultaneous": False, "reverse": True, "encapsulation": 47, "away": True}, 0x2A),
        ({"simultaneous": False, "reverse": False, "encapsulation": 55, "away": True}, 0x30),
        ({"simultaneous": True, "reverse": True, "encapsulation": 47, "away": False}, 0),
    ],
)
def test_flags_say_d_exactly_with_a_colocated_address_rfc5944_3_6_1_2(
    asked: dict[str, int], flags: int
) -> None:
    assert request_flags(**asked) == flags  # type: ignore[arg-type]  # booleans among the integers


def test_copies_are_new_requests_with_timestamps_and_identical_with_nonces_rfc5944_3_6_3() -> None:
    stamps = writer()
    exchange = stamps.begin(GOAL, AGENT, 300, Terms(0x22), 0, 10**18)
    before = exchange.data
    stamps.repeat(exchange, Terms(0x22), 10**9, 10**18 + 10**9)
    assert parse_request(exchange.data).identification > parse_request(before).identification
    assert exchange.lifetime_start_ns == 10**9
    nonces = writer(ReplayStyle.NONCES)
    exchange = nonces.begin(GOAL, AGENT, 300, Terms(0x22), 0, 0)
    before = exchange.data
    nonces.repeat(exchange, Terms(0x22), 10**9, 10**9)
    assert exchange.data == before
    assert exchange.lifetime_start_ns == 0
    assert exchange.transmissions == 2


def test_associations_must_cover_both_directions() -> None:
    lonely = SecurityAssociation(SPI, KEY, direction=Direction.INBOUND)
    with pytest.raises(FastmipError, match="each direction"):
        RequestWriter(HOME, AssociationSet([lonely]), zero_bits, Identity())
    with pytest.raises(FastmipError, match="each direction"):
        RequestWriter(
            HOME,
            AssociationSet([SecurityAssociation(SPI, KEY, direction=Direction.OUTBOUND)]),
            zero_bits,
            Identity(),
        )


def test_keys_of_the_two_directions_may_differ() -> None:
    other = bytes(range(16, 32))
    keys = AssociationSet(
        [
            SecurityAssociation(SPI, KEY, direction=Direction.OUTBOUND),
            SecurityAssociation(0x777, other, direction=Direction.INBOUND),
        ]
    )
    exchange = RequestWriter(HOME, keys, zero_bits, Identity()).begin(
        GOAL, AGENT, 300, Terms(0x22), 0, 10**18
    )
    parse_request(exchange.data)
    good = build_reply(0, 300, HOME, AGENT, exchange.identification, key=other, spi=0x777)
    found = read_reply(good, HOME, exchange, keys, Identity(), AGENT)
    assert found.reply.code == 0
    wrong = build_reply(0, 300, HOME, AGENT, exchange.identification)
    with pytest.raises(ReplyRefused, match="unknown SPI"):
        read_reply(wrong, HOME, exchange, keys, Identity(), AGENT)


def test_checks_come_in_the_order_of_rfc5944_3_6_2_1() -> None:
    keys = AssociationSet([SecurityAssociation(SPI, KEY)])
    exchange = writer().begin(GOAL, AGENT, 300, Terms(0x22), 0, 10**18)
    ident = exchange.identification

    def refused(data: bytes, pending: bool = True) -> str:
        with pytest.raises(ReplyRefused) as caught:
            read_reply(data, HOME, exchange if pending else None, keys, Identity(), AGENT)
        return caught.value.counter

    bad_key = bytes(16)
    assert refused(b"") == "mnRepliesDroppedInvalidExtension"
    assert refused(build_reply(0, 1, HOME + 1, AGENT, 0, key=bad_key)) == (
        "mnRepliesInvalidHomeAddress"
    )
    assert refused(build_reply(0, 1, HOME, AGENT, ident), pending=False) == "mnRepliesInvalidID"
    assert refused(build_reply(70, 1, HOME, AGENT, ident + 1)) == "mnRepliesInvalidID"
    assert refused(build_reply(70, 1, HOME, AGENT, ident, key=bad_key)) == "mnRepliesUnknownFA"
    assert refused(build_reply(0, 1, HOME, AGENT, ident, key=bad_key)) == (
        "mnRepliesHAAuthenticationFailure"
    )


def test_what_stands_behind_the_agent_s_proof_is_not_believed_rfc5944_3_5_3() -> None:
    keys = AssociationSet([SecurityAssociation(SPI, KEY)])
    foreign_key = bytes(range(48, 64))
    shared = AssociationSet([SecurityAssociation(0x200, foreign_key)])
    identity = Identity(foreign={CARE_OF: shared})
    goal = GOAL._replace(agent=CARE_OF, is_colocated=False)
    exchange = writer().begin(goal, AGENT, 300, Terms(0x02), 0, 10**18)
    inner = build_reply(0, 300, HOME, AGENT, exchange.identification)
    said = b"\x2d\x02\x00\x42" + b"\x84\x04next"  # 66, and a challenge

    def proof(message: bytes) -> bytes:
        covered = message + struct.pack("!BBI", 33, 20, 0x200)
        return covered + hmac.digest(foreign_key, covered, "md5")

    before = read_reply(proof(inner + said), HOME, exchange, keys, identity, CARE_OF)
    assert (before.foreign_error, before.challenge) == (66, b"next")
    behind = read_reply(proof(inner) + said, HOME, exchange, keys, identity, CARE_OF)
    assert (behind.foreign_error, behind.challenge) == (0, b"")


AAA_KEY = bytes(range(32, 48))


def with_aaa() -> Identity:
    secret = ChapKey(AAA_KEY)
    return Identity(sign_for_aaa=lambda message, challenge: sign_mn_aaa(message, secret, challenge))


def test_without_an_agent_aaa_signs_for_a_challenge_of_zero_rfc4721_3_5() -> None:
    association = AssociationSet([SecurityAssociation(SPI, KEY)])
    by_itself = RequestWriter(HOME, association, zero_bits, with_aaa())
    data = by_itself.begin(GOAL, AGENT, 300, Terms(0x22), 0, 10**18).data
    plain, header = data[:-24], data[-24:-16]
    parse_request(plain)
    assert header == struct.pack("!BBHI", 36, 1, 20, 2)
    # RFC 4721 8 by hand: the octet 0, the key, the digest of all before, and the octet 0.
    digest = hashlib.md5(plain + header).digest()  # noqa: S324 - its formula
    assert data[-16:] == hashlib.md5(b"\0" + AAA_KEY + digest + b"\0").digest()  # noqa: S324
    released = by_itself.begin(
        Goal(Purpose.RELEASE, CARE_OF, "eth0"), AGENT, 0, Terms(0x22), 0, 10**18
    )
    assert len(released.data) == len(data)


def test_at_home_and_where_an_agent_asks_no_question_aaa_says_nothing() -> None:
    writer_of_aaa = RequestWriter(
        HOME, AssociationSet([SecurityAssociation(SPI, KEY)]), zero_bits, with_aaa()
    )
    home = Goal(Purpose.DEREGISTER, HOME, "eth0")
    parse_request(writer_of_aaa.begin(home, AGENT, 0, Terms(0), 0, 10**18).data)
    visited = GOAL._replace(agent=CARE_OF, is_colocated=False)
    parse_request(writer_of_aaa.begin(visited, AGENT, 300, Terms(0x02), 0, 10**18).data)


CRITICAL = struct.pack("!BBHIH", 38, 0, 6, 9, 7)


def test_who_vouches_for_a_critical_vendor_extension_decides_whose_word_it_is_rfc3115_2_3() -> None:
    keys = AssociationSet([SecurityAssociation(SPI, KEY)])
    exchange = writer().begin(GOAL, AGENT, 300, Terms(0x22), 0, 10**18)
    ident = exchange.identification

    def read(data: bytes, identity: Identity, agent: int = 0) -> tuple[str, bool]:
        exchange.goal = GOAL._replace(agent=agent, is_colocated=not agent)
        found = read_reply(data, HOME, exchange, keys, identity, agent or AGENT)
        return found.critical, found.critical_of_agent

    of_home = build_reply(0, 300, HOME, AGENT, ident, extensions=CRITICAL)
    assert read(of_home, Identity()) == ("vendor 9 type 7", False)
    known = Identity(vendors=VendorRegistry({(9, 7): "a friend's"}))
    assert read(of_home, known) == ("", False)
    behind = build_reply(0, 300, HOME, AGENT, ident) + CRITICAL
    assert read(behind, Identity()) == ("", False), "nobody vouches for it"
    assert read(behind, Identity(), CARE_OF) == ("vendor 9 type 7", True)
    assert read(of_home + CRITICAL, Identity(), CARE_OF) == ("vendor 9 type 7", False)
