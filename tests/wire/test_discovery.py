"""Agent advertisements and solicitations (RFC 1256, RFC 5944 2.1-2.2)."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum

from fastmip.errors import WireError
from fastmip.wire import discovery
from fastmip.wire.codes import AdvertisementExtension, ExtensionType
from fastmip.wire.discovery import (
    ADVERTISEMENT_EXTENSIONS,
    AGENT_B,
    AGENT_F,
    AGENT_H,
    AGENT_R,
    AGENT_T,
    AGENT_X,
    CODE_AGENT_ONLY,
    AgentAdvertisement,
    AgentChallenge,
    AgentSolicitation,
    MobilityAgent,
    PrefixLengths,
    RouterAddress,
    next_sequence,
)
from fastmip.wire.extensions import RawExtension, UnknownExtension
from fastmip.wire.registry import CONTROL_EXTENSIONS

FOREIGN_AGENT = 0x0A030001
CHALLENGE = bytes.fromhex("a1b2c3d4e5f60718")
ADVERTISEMENT = AgentAdvertisement(
    9,
    (RouterAddress(FOREIGN_AGENT),),
    MobilityAgent(0, 300, AGENT_R | AGENT_F | AGENT_T | AGENT_X, (FOREIGN_AGENT,)),
    (24,),
    CHALLENGE,
    code=CODE_AGENT_ONLY,
)
# Worked out by hand and dissected by Wireshark; its odd length shows the missing pad is allowed.
GOLDEN = bytes.fromhex(
    "091075fa010200090a03000100000000 100a0000012c91400a030001 130118 1808a1b2c3d4e5f60718"
)


def sealed(message: bytes) -> bytes:
    """The message with a checksum that scapy computed."""
    zeroed = message[:2] + bytes(2) + message[4:]
    return message[:2] + struct.pack("!H", checksum(zeroed)) + message[4:]


def header(code: int = 0, count: int = 0, words: int = 2, lifetime: int = 9) -> bytes:
    """An advertisement's first eight bytes by the figure of RFC 1256 3.1."""
    return struct.pack("!BBHBBH", 9, code, 0, count, words, lifetime)


def test_advertisement_vector_rfc5944_2_1() -> None:
    assert AgentAdvertisement.decode(GOLDEN) == ADVERTISEMENT
    assert ADVERTISEMENT.encode() == GOLDEN + b"\0"


def test_solicitation_vector_rfc1256_3_2() -> None:
    assert AgentSolicitation().encode() == bytes.fromhex("0a00f5ff00000000")
    AgentSolicitation.decode(bytes.fromhex("0a00f5ff00000000"))


U16, U32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
AGENTS = st.builds(MobilityAgent, U16, U16, U16, st.lists(U32, max_size=62).map(tuple))
ROUTERS = st.lists(
    st.builds(RouterAddress, U32, st.integers(-(2**31), 2**31 - 1)), max_size=255
).map(tuple)


@given(
    U16,
    ROUTERS,
    st.none() | AGENTS,
    st.none() | st.integers(0, 32),
    st.none() | st.binary(max_size=255),
    st.none() | st.binary(max_size=254),
    st.sampled_from([0, 16]),
)
def test_round_trip(
    lifetime: int,
    routers: tuple[RouterAddress, ...],
    agent: MobilityAgent | None,
    prefix: int | None,
    challenge: bytes | None,
    nai: bytes | None,
    code: int,
) -> None:
    prefixes = None if prefix is None else (prefix,) * len(routers)
    built = AgentAdvertisement(lifetime, routers, agent, prefixes, challenge, nai, code)
    wire = built.encode()
    assert AgentAdvertisement.decode(wire) == built
    assert len(wire) % 2 == 0
    assert checksum(wire) == 0


@given(st.binary(max_size=64), st.sampled_from([b"", b"\x09\0", b"\x0a\0"]), st.booleans())
def test_decoding_raises_wire_error_and_nothing_else(data: bytes, start: bytes, seal: bool) -> None:
    message = start + data
    if seal and len(message) >= 4:
        message = sealed(message)
    for decode in (AgentAdvertisement.decode, AgentSolicitation.decode):
        try:
            decode(message)
        except WireError:
            continue


def test_every_cut_is_invalid_or_ends_an_extension_rfc1256_5_2() -> None:
    whole = ADVERTISEMENT.encode()
    # After the address, after each extension, and after the pad.
    ends = {16: (False, False, False), 28: (True, False, False), 31: (True, True, False)}
    ends |= {41: (True, True, True), 42: (True, True, True)}
    for length in range(len(whole) + 1):
        cut = sealed(whole[:length]) if length >= 4 else whole[:length]
        if length not in ends:
            with pytest.raises(WireError):
                AgentAdvertisement.decode(cut)
            continue
        found = AgentAdvertisement.decode(cut)
        parts = (found.agent, found.prefix_lengths, found.challenge)
        assert tuple(part is not None for part in parts) == ends[length]


def test_one_wrong_bit_is_a_wrong_checksum_rfc1256_5_2() -> None:
    for message, decode in (
        (GOLDEN, AgentAdvertisement.decode),
        (AgentSolicitation().encode(), AgentSolicitation.decode),
    ):
        for bit in range(len(message) * 8):
            damaged = bytearray(message)
            damaged[bit // 8] ^= 0x80 >> bit % 8
            with pytest.raises(WireError):
                decode(bytes(damaged))


@pytest.mark.parametrize("code", sorted({*range(256)} - {0, 16}))
def test_other_codes_are_invalid_rfc1256_5_2(code: int) -> None:
    with pytest.raises(WireError, match="code"):
        AgentAdvertisement.decode(sealed(header(code)))
    with pytest.raises(WireError):
        AgentSolicitation.decode(sealed(bytes((10, code)) + bytes(6)))


def test_entries_may_be_larger_but_not_smaller_than_two_words_rfc1256_5_2() -> None:
    entries = struct.pack("!IiIIiI", 1, -2, 0xFFFFFFFF, 3, 4, 0xFFFFFFFF)
    found = AgentAdvertisement.decode(sealed(header(count=2, words=3) + entries))
    assert found.routers == (RouterAddress(1, -2), RouterAddress(3, 4))
    for words in (0, 1):
        with pytest.raises(WireError, match="words"):
            AgentAdvertisement.decode(sealed(header(count=2, words=words) + entries))
    with pytest.raises(WireError, match="addresses"):
        AgentAdvertisement.decode(sealed(header(count=4, words=2) + entries))


def test_an_agent_without_router_addresses_is_valid_rfc5944_2_1() -> None:
    for words in (0, 2):
        agent = MobilityAgent(7, 300, AGENT_H)
        found = AgentAdvertisement.decode(sealed(header(words=words) + agent.encode()))
        assert (found.routers, found.agent) == ((), agent)


@pytest.mark.parametrize("type_", [1, 15, 17, 32, 36, 38, 44, 126])
def test_an_unknown_extension_below_128_drops_the_message_rfc5944_1_8(type_: int) -> None:
    for message, decode in (
        (header(), AgentAdvertisement.decode),
        (bytes((10, 0)) + bytes(6), AgentSolicitation.decode),
    ):
        with pytest.raises(UnknownExtension):
            decode(sealed(message + bytes((type_, 0))))


@pytest.mark.parametrize("type_", [127, 128, 132, 137, 138, 139, 144, 255])
def test_others_are_skipped_and_127_is_ignored_rfc5944_1_8_rfc4064_4_2(type_: int) -> None:
    skipped = bytes((type_, 6)) + b"\x80\0\xe9\x3c\x7f\0"
    agent = MobilityAgent(7, 300, AGENT_H)
    found = AgentAdvertisement.decode(sealed(header() + skipped + agent.encode()))
    assert found == AgentAdvertisement(9, (), agent)


def test_the_number_spaces_are_two_rfc5944_1_8() -> None:
    assert {int(one) for one in AdvertisementExtension} & {int(one) for one in ExtensionType} == {
        0,
        127,
        136,
        137,
        139,
        255,
    }
    # 137 is revocation support in one space and a signature of RFC 4065 in the other.
    wire = bytes.fromhex("890680000000004d")
    (control,), _ = CONTROL_EXTENSIONS.decode(wire, 0)
    (router,), _ = ADVERTISEMENT_EXTENSIONS.decode(wire, 0)
    assert type(control).__name__ == "RevocationSupport"
    assert type(router) is RawExtension
    assert {16, 19, 24} & CONTROL_EXTENSIONS.types == set()


@pytest.mark.parametrize(
    "extension",
    [
        *("1005000012c9140", "1000", "100700000000000000", "1009000000000000000000"),
        *("130121", "1300", "13021818", "130200ff"),
        *("18ff00", "1306", "10", "88", "8800"),
    ],
)
def test_a_damaged_extension_drops_the_advertisement(extension: str) -> None:
    wire = bytes.fromhex(extension if len(extension) % 2 == 0 else extension + "0")
    one = header(count=1) + struct.pack("!Ii", 1, 0)
    with pytest.raises(WireError):
        AgentAdvertisement.decode(sealed(one + wire))


def test_of_two_the_first_counts() -> None:
    first, second = MobilityAgent(1, 1, AGENT_H), MobilityAgent(2, 2, AGENT_H)
    found = AgentAdvertisement.decode(sealed(header() + first.encode() + second.encode()))
    assert found.agent == first


def test_a_stranger_s_identity_is_no_foreign_agents_rfc4857_8_2() -> None:
    for subtype, expected in ((1, None), (2, None), (3, b"fa@x.org"), (4, None)):
        wire = bytes((136, 9, subtype)) + b"fa@x.org"
        assert AgentAdvertisement.decode(sealed(header() + wire)).nai == expected


def test_a_solicitation_may_be_longer_rfc1256_5_2() -> None:
    AgentSolicitation.decode(sealed(AgentSolicitation().encode() + bytes.fromhex("8001ff00")))
    for bad in ("80", "80ff", "8002ff"):
        with pytest.raises(WireError):
            AgentSolicitation.decode(sealed(AgentSolicitation().encode() + bytes.fromhex(bad)))


@pytest.mark.parametrize(
    ("flags", "care_of", "consistent"),
    [
        (AGENT_H, (), True),
        (AGENT_F, (1,), True),
        (AGENT_H | AGENT_F | AGENT_B | AGENT_R, (1, 2), True),
        (0, (1,), False),
        (AGENT_F, (), False),
        (AGENT_H | AGENT_B, (), False),
        (AGENT_H | AGENT_R, (), False),
    ],
)
def test_which_flags_go_together_rfc5944_2_1_1(
    flags: int, care_of: tuple[int, ...], consistent: bool
) -> None:
    agent = MobilityAgent(0, 1, flags, care_of)
    assert agent.is_consistent is consistent
    claims = (agent.requires_registration, agent.is_busy, agent.is_home_agent)
    assert claims == (bool(flags & 0x8000), bool(flags & 0x4000), bool(flags & 0x2000))
    assert agent.is_foreign_agent is bool(flags & 0x1000)


def test_flags_fill_the_word_without_overlap_rfc5944_2_1_1() -> None:
    letters = "RBHFMGrTUXI"
    flags = [getattr(discovery, f"AGENT_{letter}") for letter in letters]
    assert flags == [0x8000 >> place for place in range(len(letters))]


def test_sequence_numbers_roll_over_to_256_rfc5944_2_3_2() -> None:
    assert [next_sequence(n) for n in (0, 255, 0xFFFE, 0xFFFF)] == [1, 256, 0xFFFF, 256]


@pytest.mark.parametrize(
    "advertisement",
    [
        replace(ADVERTISEMENT, lifetime_s=65536),
        replace(ADVERTISEMENT, code=256),
        replace(ADVERTISEMENT, prefix_lengths=()),
        replace(ADVERTISEMENT, prefix_lengths=(33,)),
        replace(ADVERTISEMENT, prefix_lengths=(-1,)),
        replace(ADVERTISEMENT, routers=(RouterAddress(2**32),)),
        replace(ADVERTISEMENT, routers=(RouterAddress(0, 2**31),)),
        replace(ADVERTISEMENT, routers=(RouterAddress(1),) * 256, prefix_lengths=None),
        replace(ADVERTISEMENT, agent=MobilityAgent(65536, 1, 1)),
        replace(ADVERTISEMENT, agent=MobilityAgent(1, 1, 1, (2**32,))),
        replace(ADVERTISEMENT, agent=MobilityAgent(1, 1, 1, (1,) * 63)),
        replace(ADVERTISEMENT, challenge=bytes(256)),
        replace(ADVERTISEMENT, nai=bytes(255)),
    ],
)
def test_a_field_out_of_range_cannot_be_encoded(advertisement: AgentAdvertisement) -> None:
    with pytest.raises(WireError):
        advertisement.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100a 0102 012c b000 0a030001", MobilityAgent(0x102, 300, 0xB000, (FOREIGN_AGENT,))),
        ("1302 1820", PrefixLengths((24, 32))),
        ("1808 a1b2c3d4e5f60718", AgentChallenge(CHALLENGE)),
    ],
)
def test_extension_vector(
    text: str, expected: MobilityAgent | PrefixLengths | AgentChallenge
) -> None:
    wire = bytes.fromhex(text)
    assert ADVERTISEMENT_EXTENSIONS.decode(wire, 0) == ((expected,), False)
    assert expected.build() == wire
