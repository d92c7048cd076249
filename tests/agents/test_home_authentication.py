"""Who may speak and when: authentication and replay protection (RFC 5944 3.8.2.1, 5.7)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agents.home_lab import (
    CARE_OF,
    CARE_OF_2,
    FA_KEY,
    FA_SPI,
    FOREIGN_AGENT,
    HOME_AGENT,
    KEY,
    NODE,
    OTHER,
    OTHER_KEY,
    SPI,
    D,
    Lab,
    S,
    T,
    associations,
    codes,
    datagrams,
    mac_md5,
    ntp,
    only_reply,
    reply,
    sign,
    unsigned_request,
    violations,
)

from fastmip.agents.effects import Commit, CommitOutcome, Effect, NodeRow
from fastmip.agents.hosts import Host
from fastmip.auth.associations import (
    Algorithm,
    AssociationSet,
    Direction,
    ReplayStyle,
    SecurityAssociation,
)


def relayed(request: bytes) -> bytes:
    """As the known foreign agent passes a request on (RFC 5944 3.5.4)."""
    return sign(request, FA_KEY, FA_SPI, kind=34)


def foreign_reply(whole: bytes) -> bytes:
    """A reply with Foreign-Home authentication behind."""
    return sign(whole, FA_KEY, FA_SPI, kind=34)


# SEC-01: what is silent ---------------------------------------------------------------------

NOT_OURS = "haUnknownHomeAddress"
SILENT = [
    ("empty", b"", "haUnexpectedMessageType"),
    ("reply", b"\x03" + bytes(40), "haUnexpectedMessageType"),
    ("tunnel data", b"\x04\x04\0\0" + bytes(40), "haUnexpectedMessageType"),
    ("type only", b"\x01", "haMalformedMessage"),
    ("no authentication", unsigned_request(ntp()), "haMissingAuthentication"),
    (
        "unknown node",
        sign(unsigned_request(ntp(), home_address=0x0A010063)),
        "haUnknownHomeAddress",
    ),
    ("no home address", sign(unsigned_request(ntp(), home_address=0)), NOT_OURS),
    ("unknown SPI", sign(unsigned_request(ntp()), KEY, 0x999), "haUnknownSPI"),
    ("wrong key", sign(unsigned_request(ntp()), OTHER_KEY), "haBadAuthenticator"),
    ("twice", sign(sign(unsigned_request(ntp()))), "haRepeatedAuthentication"),
    (
        "unknown extension before",
        sign(unsigned_request(ntp(), extensions=b"\x7d\x01x")),
        "haUnknownExtension",
    ),
    (
        "unknown extension behind",
        sign(unsigned_request(ntp())) + b"\x7d\x01x",
        "haUnknownExtension",
    ),
    (
        "authentication cut off",
        sign(unsigned_request(ntp()))[:-1],
        "haMalformedMessage",
    ),
    (
        "overrun before authentication",
        sign(unsigned_request(ntp(), extensions=b"\x83\xff")),
        "haMalformedMessage",
    ),
    (
        "foreign-home authentication from a stranger",
        relayed(sign(unsigned_request(ntp()))),
        "haUnexpectedForeignHomeAuthentication",
    ),
    (
        "authenticator too short",
        sign(unsigned_request(ntp()))[:24] + b"\x20\x02ab",
        "haMalformedMessage",
    ),
]


@pytest.mark.parametrize(
    ("data", "counter"),
    [entry[1:] for entry in SILENT],
    ids=[entry[0].replace(" ", "-") for entry in SILENT],
)
def test_silence_with_one_named_counter_sec01_rfc5944_3_8_2_1(data: bytes, counter: str) -> None:
    lab = Lab()
    before = lab.agent.counters()
    assert datagrams(lab.send(data)) == []
    changed = {
        name
        for name, value in lab.agent.counters().items()
        if value != before[name] and name not in ("haRegRequestsReceived", "haCachedNodes")
    }
    assert changed == {counter}
    assert lab.rows == {}


@pytest.mark.parametrize(
    ("source", "port"), [(CARE_OF, 0), (0, 434), (0xFFFFFFFF, 434), (0xE0000001, 434)]
)
def test_unanswerable_sources_are_dropped_first(source: int, port: int) -> None:
    lab = Lab()
    assert lab.send(lab.request(), lab.arrival(source, port=port)) == []
    assert lab.count("haBadSourceAddress") == 1


def test_skippable_extensions_are_skipped_sec23() -> None:
    lab = Lab()
    odd = bytes((200, 3)) + b"abc" + bytes((131, 2)) + b"mn" + bytes(7)
    assert codes(lab.send(sign(lab.request(extensions=odd)[:-22]))) == [0]


def test_every_flipped_bit_up_to_the_authenticator_is_refused_sec02() -> None:
    good = Lab().request()
    for position in range(len(good) * 8):
        lab = Lab()
        bad = bytearray(good)
        bad[position // 8] ^= 0x80 >> position % 8
        assert datagrams(lab.send(bytes(bad))) == [], f"bit {position}"
        assert lab.rows == {}


def test_every_truncation_is_silent_sec22() -> None:
    lab = Lab()
    good = relayed(lab.request())
    whole = len(good) - 22
    for length in range(len(good)):
        if length == whole:
            continue
        effects = lab.receive(good[:length])
        assert [e for e in effects if isinstance(e, Commit)] == []
        # From there on the Mobile-Home authentication holds and the rest is damaged.
        assert set(codes(effects)) <= ({134} if length > whole else set())


def test_damage_behind_a_verified_authentication_is_134_rfc5944_3_8_2_3() -> None:
    lab = Lab()
    assert codes(lab.send(lab.request() + b"\x83\xff")) == [134]


def test_five_thousand_pads_are_harmless() -> None:
    lab = Lab()
    padded = sign(unsigned_request(ntp(lab.wall_s), extensions=bytes(5000)))
    assert codes(lab.send(padded)) == [0]


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_by_silence_or_134_sec22(tail: bytes) -> None:
    lab = Lab()
    for data in (tail, b"\x01" + tail, unsigned_request(ntp()) + tail):
        assert lab.send(data) == [] or violations(lab.send(data))
    effects = lab.send(lab.request() + tail)
    assert codes(effects) in ([], [0], [134])


# 131 and the foreign agent (RFC 5944 3.8.2.1 a, c, d; SEC-02, SEC-05) --------------------------


def test_bad_authenticator_is_silent_by_default_and_reported() -> None:
    lab = Lab()
    effects = lab.send(lab.request(key=OTHER_KEY))
    assert violations(effects) == ["badAuthenticator"]
    assert codes(effects) == []


def test_bad_authenticator_is_answered_131_if_the_policy_wants_it() -> None:
    lab = Lab()
    lab.set_policy(answer_bad_authentication=True)
    identification = ntp(lab.wall_s)
    sent = only_reply(lab.send(lab.request(key=OTHER_KEY)))
    assert sent.data == reply(131, identification)
    assert lab.rows == {}


def test_a_stranger_elicits_no_more_bytes_than_it_sent_sec20() -> None:
    lab = Lab()
    lab.set_policy(answer_bad_authentication=True)
    short = unsigned_request(ntp(lab.wall_s)) + struct.pack("!BBI", 32, 4, SPI)
    assert codes(lab.send(short)) == []
    assert lab.count("haRepliesSuppressed") == 1
    lab.pass_time(2)
    whole = unsigned_request(ntp(lab.wall_s)) + struct.pack("!BBI", 32, 16, SPI) + bytes(12)
    assert len(only_reply(lab.send(whole)).data) == len(whole)


def test_bad_authenticator_behind_a_valid_foreign_agent_must_be_131() -> None:
    lab = Lab()
    bad = relayed(lab.request(key=OTHER_KEY, care_of=FOREIGN_AGENT, flags=T))
    sent = only_reply(lab.send(bad, lab.arrival(FOREIGN_AGENT)))
    assert sent.data == foreign_reply(reply(131, ntp(lab.wall_s)))


def test_unknown_spi_behind_a_valid_foreign_agent_must_be_131() -> None:
    lab = Lab()
    bad = relayed(sign(unsigned_request(ntp(lab.wall_s), care_of=FOREIGN_AGENT), KEY, 0x999))
    effects = lab.send(bad, lab.arrival(FOREIGN_AGENT))
    assert codes(effects) == [131]
    assert violations(effects) == ["badSPI"]


def test_bad_authenticator_behind_a_bad_foreign_agent_is_silent() -> None:
    lab = Lab()
    lab.set_policy(answer_bad_authentication=True)
    bad = lab.request(key=OTHER_KEY, care_of=FOREIGN_AGENT)
    both_bad = sign(bad, OTHER_KEY, FA_SPI, kind=34)
    for data in (bad, both_bad):
        assert codes(lab.send(data, lab.arrival(FOREIGN_AGENT))) == []
    stranger = relayed(lab.request(key=OTHER_KEY))
    assert codes(lab.send(stranger)) == []


def test_foreign_agent_proves_itself_and_is_answered_with_both_rfc5944_3_8_3_3() -> None:
    lab = Lab()
    identification = ntp(lab.wall_s)
    data = relayed(lab.request(care_of=FOREIGN_AGENT, flags=T))
    sent = only_reply(lab.send(data, lab.arrival(FOREIGN_AGENT, port=434)))
    assert sent.data == foreign_reply(reply(0, identification))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda request: request,
        lambda request: sign(request, OTHER_KEY, FA_SPI, kind=34),
        lambda request: sign(request, FA_KEY, 0x301, kind=34),
        lambda request: relayed(relayed(request)),
        lambda request: sign(relayed(request[:-22])),
    ],
    ids=["missing", "wrong-key", "unknown-spi", "twice", "before-the-mobile-home"],
)
def test_unproven_foreign_agent_is_132_and_reported_rfc5944_3_8_2_1_c(spoil: object) -> None:
    assert callable(spoil)
    lab = Lab()
    data = spoil(lab.request(care_of=FOREIGN_AGENT, flags=T))
    effects = lab.send(data, lab.arrival(FOREIGN_AGENT))
    assert codes(effects) == [132]
    assert len(violations(effects)) == 1
    assert lab.rows == {}


def test_foreign_home_authentication_is_not_needed_on_a_deregistration_sec05() -> None:
    lab = Lab()
    lab.send(relayed(lab.request(care_of=FOREIGN_AGENT, flags=T)), lab.arrival(FOREIGN_AGENT))
    lab.pass_time(1)
    gone = lab.request(lifetime=0, care_of=FOREIGN_AGENT)
    sent = only_reply(lab.send(gone, lab.arrival(FOREIGN_AGENT)))
    assert sent.data == reply(0, ntp(lab.wall_s), lifetime=0)


# several associations -------------------------------------------------------------------------


def test_reply_is_signed_as_the_request_was() -> None:
    lab = Lab()
    lab.hosts[NODE] = Host(
        NODE, AssociationSet([SecurityAssociation(SPI, KEY), SecurityAssociation(0x200, OTHER_KEY)])
    )
    identification = ntp(lab.wall_s)
    data = sign(unsigned_request(identification), OTHER_KEY, 0x200)
    assert only_reply(lab.send(data)).data == reply(0, identification, key=OTHER_KEY, spi=0x200)


def test_reply_uses_the_outbound_association_where_directions_differ() -> None:
    lab = Lab()
    lab.hosts[NODE] = Host(
        NODE,
        AssociationSet(
            [
                SecurityAssociation(SPI, KEY, direction=Direction.INBOUND),
                SecurityAssociation(0x200, OTHER_KEY, direction=Direction.OUTBOUND),
            ]
        ),
    )
    sent = only_reply(lab.send(lab.request()))
    assert sent.data == reply(0, ntp(lab.wall_s), key=OTHER_KEY, spi=0x200)


def test_no_reply_without_an_association_to_sign_it() -> None:
    lab = Lab()
    inbound = SecurityAssociation(SPI, KEY, direction=Direction.INBOUND)
    lab.hosts[NODE] = Host(NODE, AssociationSet([inbound]))
    assert datagrams(lab.send(lab.request())) == []
    assert lab.count("haNoReplyAssociation") == 1


def test_stronger_algorithm_cannot_be_answered_with_a_weaker_one() -> None:
    lab = Lab()
    strong = SecurityAssociation(SPI, KEY, algorithm=Algorithm.HMAC_SHA256)
    lab.hosts[NODE] = Host(NODE, AssociationSet([strong]))
    assert datagrams(lab.send(lab.request())) == []
    assert lab.count("haBadAuthenticator") == 1


# timestamps (RFC 5944 5.7.1; SEC-10 to SEC-16) --------------------------------------------------


def test_exact_repetition_is_answered_again_and_prolongs_nothing_sec10() -> None:
    lab = Lab()
    data = lab.request(identification=ntp(lab.wall_s))
    identification = ntp(lab.wall_s)
    lab.send(data)
    before = (dict(lab.rows), dict(lab.tunnels))
    lab.pass_time(5.5)
    effects = lab.send(data, lab.arrival(CARE_OF, port=999))
    assert [type(effect).__name__ for effect in effects] == ["SendDatagram"]
    assert only_reply(effects).data == reply(0, identification, lifetime=294)
    assert (lab.rows, lab.tunnels) == before
    assert lab.count("haDuplicateRequests") == 1
    assert lab.count("haRegistrationAccepted") == 1


def test_repetition_outside_the_window_is_133() -> None:
    lab = Lab()
    data = lab.request()
    lab.send(data)
    lab.pass_time(8)
    assert codes(lab.send(data)) == [133]


def test_repetition_of_a_replaced_registration_is_133() -> None:
    lab = Lab()
    data = lab.request()
    lab.send(data)
    lab.pass_time(1)
    lab.send(lab.request(care_of=CARE_OF_2), lab.arrival(CARE_OF_2))
    lab.pass_time(1)
    assert codes(lab.send(data)) == [133]
    assert lab.care_of_addresses() == [CARE_OF_2]


def test_repetition_of_a_deregistration_is_133() -> None:
    lab = Lab()
    lab.send(lab.request())
    lab.pass_time(1)
    gone = lab.request(lifetime=0, care_of=NODE)
    assert codes(lab.send(gone, lab.arrival(NODE))) == [0]
    assert codes(lab.send(gone, lab.arrival(NODE))) == [133]


def test_another_request_with_the_last_identification_is_no_duplicate() -> None:
    lab = Lab()
    lab.send(lab.request(flags=S | D))
    lab.pass_time(1)
    identification = ntp(lab.wall_s)
    second = lab.request(care_of=CARE_OF_2, flags=S | D, identification=identification)
    lab.send(second, lab.arrival(CARE_OF_2))
    stolen = lab.request(care_of=CARE_OF, flags=S | D, identification=identification)
    assert codes(lab.send(stolen)) == [133]
    lab.pass_time(1)
    gone = lab.request(care_of=CARE_OF_2, lifetime=0, identification=identification)
    assert codes(lab.send(gone, lab.arrival(CARE_OF_2))) == [133]
    assert lab.care_of_addresses() == [CARE_OF_2, CARE_OF]


def test_repetition_in_the_last_second_is_not_answered_with_lifetime_0() -> None:
    lab = Lab()
    data = lab.request(lifetime=1)
    lab.send(data)
    lab.pass_time(0.5)
    assert codes(lab.send(data)) == [133]


def test_delayed_older_request_is_133_and_moves_nothing_sec12() -> None:
    lab = Lab()
    delayed = lab.request(at=lab.wall_s - 1, care_of=CARE_OF_2)
    lab.send(lab.request())
    effects = lab.send(delayed, lab.arrival(CARE_OF_2))
    assert codes(effects) == [133]
    assert violations(effects) == ["badIdentifier"]
    assert lab.care_of_addresses() == [CARE_OF]


@pytest.mark.parametrize("offset_s", [-8, 8, -86400, 86400])
def test_133_carries_our_time_and_the_low_half_sec13(offset_s: int) -> None:
    lab = Lab()
    lab.wall_ns += 250_000_000
    low = 0x89ABCDEF
    identification = (ntp(lab.wall_s + offset_s) & ~0xFFFFFFFF) | low
    sent = only_reply(lab.send(lab.request(identification=identification)))
    assert sent.data == reply(133, (ntp(lab.wall_s) & ~0xFFFFFFFF) | low)


@pytest.mark.parametrize("offset_s", [-6.9, 6.9])
def test_timestamps_inside_the_window_are_accepted(offset_s: float) -> None:
    lab = Lab()
    assert codes(lab.send(lab.request(at=lab.wall_s + offset_s))) == [0]


def test_end_of_the_ntp_era_is_a_step_of_one_sec16() -> None:
    lab = Lab()
    lab.wall_ns = (2**32 - 2_208_988_800) * 10**9 - 500_000_000
    assert codes(lab.send(lab.request())) == [0]
    lab.pass_time(1)
    assert lab.request()[16:20] == b"\0\0\0\0"
    assert codes(lab.send(lab.request())) == [0]
    lab.pass_time(1)
    assert codes(lab.send(lab.request(at=lab.wall_s - 2.2))) == [133]


def test_replay_after_restart_is_133_sec11() -> None:
    lab = Lab()
    data = lab.request()
    lab.send(data)
    lab.start()
    assert codes(lab.send(data)) == [133]
    assert lab.care_of_addresses() == [CARE_OF]
    assert codes(lab.send(lab.request(at=lab.wall_s + 0.5))) == [0]


def test_mark_outlives_the_binding_sec11() -> None:
    lab = Lab()
    first = lab.request()
    lab.send(first)
    lab.pass_time(1)
    lab.send(lab.request(lifetime=0, care_of=NODE), lab.arrival(NODE))
    lab.start()
    assert codes(lab.send(first)) == [133]
    assert lab.care_of_addresses() == []


def test_refused_request_does_not_move_the_mark() -> None:
    lab = Lab()
    lab.send(lab.request(at=lab.wall_s + 3, home_agent=0))
    assert lab.rows == {}
    assert codes(lab.send(lab.request())) == [0]


def test_marks_are_kept_per_node() -> None:
    lab = Lab()
    lab.send(lab.request(at=lab.wall_s + 3))
    assert codes(lab.send(lab.request(home_address=OTHER))) == [0]


def test_authenticators_bind_the_home_agent_field_sec17() -> None:
    """A request captured on its way elsewhere is refused here, authentic as it is."""
    lab = Lab()
    assert codes(lab.send(lab.request(home_agent=0x0B000001))) == [136]


# nonces (RFC 5944 5.7.2; SEC-15) --------------------------------------------------------------


def identification_of(effects: list[Effect]) -> tuple[int, int]:
    """Both halves of the Identification of the one reply."""
    high, low = struct.unpack("!II", only_reply(effects).data[12:20])
    return high, low


def nonce_lab() -> tuple[Lab, int]:
    """A node with nonces and the first nonce it was given."""
    lab = Lab(replay=ReplayStyle.NONCES)
    effects = lab.send(lab.request(identification=(7 << 32) | 1))
    assert codes(effects) == [133]
    high, low = identification_of(effects)
    assert low == 1
    assert high not in (0, 7)
    lab.pass_time(2)
    return lab, high


def test_nonce_from_a_133_is_good_once() -> None:
    lab, nonce = nonce_lab()
    data = lab.request(identification=nonce << 32 | 2)
    effects = lab.send(data)
    assert codes(effects) == [0]
    high, low = identification_of(effects)
    assert low == 2
    assert high not in (0, nonce)
    assert lab.rows[NODE].identification == nonce << 32 | 2
    assert lab.rows[NODE].nonce == high
    again = lab.send(lab.request(identification=nonce << 32 | 3))
    assert codes(again) == [133]
    assert lab.care_of_addresses() == [CARE_OF]


def test_byte_identical_retransmission_with_nonces_gets_the_same_identification() -> None:
    lab, nonce = nonce_lab()
    data = lab.request(identification=nonce << 32 | 2)
    first = identification_of(lab.send(data))
    lab.pass_time(2)
    effects = lab.send(data)
    assert codes(effects) == [0]
    assert identification_of(effects) == first
    assert only_reply(effects).data[2:4] == struct.pack("!H", 298)
    lab.pass_time(2)
    assert codes(lab.send(lab.request(identification=first[0] << 32 | 9))) == [0]


def test_nonce_survives_a_restart_and_an_old_one_does_not() -> None:
    lab, nonce = nonce_lab()
    data = lab.request(identification=nonce << 32 | 2)
    issued, _ = identification_of(lab.send(data))
    lab.start()
    assert codes(lab.send(data)) == [133]
    lab.start()
    assert codes(lab.send(lab.request(identification=issued << 32 | 3))) == [0]


def test_denial_spends_the_nonce_durably() -> None:
    lab, nonce = nonce_lab()
    refused = lab.request(identification=nonce << 32 | 2, home_agent=0)
    effects = lab.send(refused)
    assert codes(effects) == [136]
    issued, low = identification_of(effects)
    assert (low, lab.rows[NODE].nonce) == (2, issued)
    assert lab.rows[NODE].bindings == b""
    lab.pass_time(2)
    assert codes(lab.send(refused)) == [133]
    lab.start()
    assert codes(lab.send(refused)) == [133]


def test_denial_with_nonces_is_sent_although_the_store_fails() -> None:
    lab, nonce = nonce_lab()
    lab.outcome = CommitOutcome.STORE_FAILED
    effects = lab.send(lab.request(identification=nonce << 32 | 2, home_agent=0))
    assert codes(effects) == [136]
    second, _ = identification_of(effects)
    lab.pass_time(2)
    effects = lab.send(lab.request(identification=second << 32 | 3))
    assert codes(effects) == [130]
    issued, _ = identification_of(effects)
    assert len({nonce, second, issued}) == 3
    lab.outcome = CommitOutcome.COMMITTED
    lab.pass_time(2)
    assert codes(lab.send(lab.request(identification=issued << 32 | 4))) == [0]


def test_timestamp_is_no_nonce_and_nonce_no_timestamp_sec15() -> None:
    lab, _ = nonce_lab()
    assert codes(lab.send(lab.request())) == [133]
    stamped = Lab()
    stamped.send(stamped.request())
    assert codes(stamped.send(stamped.request(identification=(7 << 32) | 1))) == [133]


def test_node_may_change_from_nonces_to_timestamps() -> None:
    lab = Lab()
    spent = 0xF5000000 << 32 | 2  # As a timestamp it would lie three years ahead.
    lab.rows[NODE] = NodeRow(NODE, spent, 0xF5000001, b"")
    assert codes(lab.send(lab.request())) == [0]
    assert lab.rows[NODE].nonce == 0


def test_nonce_of_a_133_is_not_forgotten_when_memory_is_short() -> None:
    lab = Lab(replay=ReplayStyle.NONCES, cache_nodes=16)
    nonce, _ = identification_of(lab.send(lab.request(identification=(7 << 32) | 1)))
    for index in range(40):
        lab.hosts[0x0B000000 + index] = Host(0x0B000000 + index, associations())
        lab.send(lab.request(home_address=0x0B000000 + index))
    assert codes(lab.send(lab.request(identification=nonce << 32 | 2))) == [0]


def test_extension_behind_the_authentication_is_not_trusted_sec03() -> None:
    """What follows the Mobile-Home authentication cannot change what is registered."""
    lab = Lab()
    trailing = lab.request(flags=S | D | T) + bytes((144, 6, 0, 0, 0x80, 4, 0, 0))
    lab.send(trailing)
    (binding,) = lab.agent.bindings_of(NODE)
    assert binding.care_of_address == CARE_OF
    assert binding.encapsulation == 4


def test_lab_signs_as_rfc2104_says() -> None:
    """The lab's own oracle against the vector of the protocol's test set."""
    fixed = bytes.fromhex("0102012c0a0100050a0100010a030001e93c7f0012345678")
    covered = fixed + bytes.fromhex("201400000100")
    assert mac_md5(KEY, covered).hex() == "99ab7825d14992fc13e8ca876b8b8d29"
    assert int.from_bytes(fixed[8:12]) == HOME_AGENT
