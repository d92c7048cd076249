"""Identities, challenges, AAA and vendors at the home agent (RFC 2794, 3846, 4721, 3115, 4064)."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any

import pytest
from tests.agents.home_lab import (
    CARE_OF,
    FA_KEY,
    FA_SPI,
    FOREIGN_AGENT,
    HOME_AGENT,
    NODE,
    OTHER_KEY,
    D,
    Lab,
    T,
    associations,
    codes,
    ntp,
    only_reply,
    sign,
    unsigned_request,
    violations,
)

from fastmip.agents.hosts import Host
from fastmip.auth.associations import SecurityAssociation
from fastmip.auth.mn_aaa import ChapKey
from fastmip.wire.host_configuration import HostConfiguration
from fastmip.wire.vendor import VendorRegistry

NAI = b"mn@wustl.edu"
AAA_SPI, AAA_KEY = 0x200, b"\x11" * 16
CHALLENGE = bytes.fromhex("a1b2c3d4e5f60718")


def simple(kind: int, data: bytes) -> bytes:
    """An extension in simple format."""
    return struct.pack("!BB", kind, len(data)) + data


def mn_aaa(message: bytes, key: bytes = AAA_KEY, spi: int = AAA_SPI) -> bytes:
    """Append a Mobile-AAA authentication with HMAC-MD5 by hand (RFC 4721 6)."""
    covered = message + struct.pack("!BBHI", 36, 1, 20, spi)
    return covered + hmac.digest(key, covered, "md5")


def mn_aaa_chap(message: bytes, challenge: bytes, key: bytes = AAA_KEY) -> bytes:
    """The same by the formula of RADIUS servers (RFC 4721 8)."""
    covered = message + struct.pack("!BBHI", 36, 1, 20, 2)
    inner = hashlib.md5(covered).digest()  # noqa: S324 - the formula
    chap = challenge[:1] + key + inner + challenge[-237:]
    return covered + hashlib.md5(chap).digest()  # noqa: S324 - the formula


def critical(vendor: int, kind: int, value: bytes = b"") -> bytes:
    """A critical vendor extension by hand (RFC 3115 2.1)."""
    return struct.pack("!BBHIH", 38, 0, 6 + len(value), vendor, kind) + value


def normal(vendor: int, kind: int, value: bytes = b"") -> bytes:
    """A normal vendor extension by hand (RFC 3115 2.2)."""
    return struct.pack("!BBHIH", 134, 8 + len(value), 0, vendor, kind) + value


def fixed(code: int, identification: int, *, home_address: int = NODE) -> bytes:
    return struct.pack("!BBHIIQ", 3, code, 300, home_address, HOME_AGENT, identification)


def serve(lab: Lab, **fields: Any) -> None:
    """Give the node an identity or AAA secrets."""
    lab.hosts[NODE] = Host(NODE, associations(), **fields)


# NAI ----------------------------------------------------------------------------------------


def test_the_nai_is_echoed_in_every_reply_rfc2794_3() -> None:
    lab = Lab()
    extension = simple(131, NAI)
    identification = ntp(lab.wall_s)
    data = lab.request(identification=identification, extensions=extension)
    assert only_reply(lab.send(data)).data == sign(fixed(0, identification) + extension)
    lab.pass_time(1)
    lab.set_policy(max_bindings=0)
    lab.pass_time(1)
    old = lab.request(at=lab.wall_s - 60, extensions=extension)
    denied = only_reply(lab.send(old)).data
    assert denied[1] == 133
    assert denied[20 : 20 + len(extension)] == extension


def test_a_configured_nai_must_match() -> None:
    lab = Lab()
    serve(lab, nai=NAI)
    assert codes(lab.send(lab.request(extensions=simple(131, NAI)))) == [0]
    lab.pass_time(1)
    assert codes(lab.send(lab.request())) == [0]
    lab.pass_time(1)
    assert lab.send(lab.request(extensions=simple(131, b"other@wustl.edu"))) == []
    assert lab.count("haUnknownHomeAddress") == 1


def test_a_node_without_home_address_gets_the_one_of_its_nai_rfc2794_4() -> None:
    lab = Lab()
    serve(lab, nai=NAI)
    identification = ntp(lab.wall_s)
    extension = simple(131, NAI)
    data = lab.request(identification=identification, home_address=0, extensions=extension)
    expected = sign(fixed(0, identification) + extension)
    assert only_reply(lab.send(data)).data == expected
    assert set(lab.rows) == {NODE}
    assert [tunnel.remote for tunnel in lab.tunnels[NODE]] == [CARE_OF]
    assert lab.count("haHomeAddressesAssigned") == 1
    lab.pass_time(2)
    again = only_reply(lab.send(data)).data
    assert again[1] == 0
    assert again[4:8] == NODE.to_bytes(4)
    lab.pass_time(2)
    later = lab.request(extensions=extension, lifetime=0, care_of=NODE)
    assert codes(lab.send(later, lab.arrival(NODE))) == [0]
    assert not lab.tunnels.get(NODE)


def test_an_assigned_address_is_told_in_denials_and_is_the_same_after_a_deregistration() -> None:
    lab = Lab()
    serve(lab, nai=NAI)
    extension = simple(131, NAI)
    assert codes(lab.send(lab.request(home_address=0, extensions=extension))) == [0]
    lab.pass_time(2)
    gone = lab.request(home_address=0, extensions=extension, lifetime=0)
    assert codes(lab.send(gone)) == [0]
    assert not lab.tunnels.get(NODE)
    lab.pass_time(2)
    old = lab.request(home_address=0, extensions=extension, at=lab.wall_s - 60)
    denied = only_reply(lab.send(old)).data
    assert denied[1] == 133
    assert denied[4:8] == NODE.to_bytes(4)
    lab.pass_time(2)
    assert codes(lab.send(lab.request(home_address=0, extensions=extension))) == [0]
    assert set(lab.rows) == {NODE}


HOME_CONFIGURATION = (
    normal(9, 14, bytes.fromhex("0001 0018"))
    + normal(9, 14, bytes.fromhex("0002 0a010035 00000000"))
    + normal(9, 14, bytes.fromhex("0005 0a010001"))
    + normal(9, 14, b"\0\6wustl.edu")
    + normal(9, 14, b"\0\7https://wustl.edu/mn")
)


def test_host_configuration_is_told_to_who_asks_rfc4332_3() -> None:
    lab = Lab()
    told = HostConfiguration(
        24, (0x0A010035,), 0, b"", HOME_AGENT, b"wustl.edu", b"https://wustl.edu/mn"
    )
    lab.set_policy(host_configuration=told)
    ask = normal(9, 14, bytes(4))
    reply = only_reply(lab.send(lab.request(extensions=ask))).data
    assert reply == sign(fixed(0, ntp(lab.wall_s)) + HOME_CONFIGURATION)
    for other in (b"", normal(9, 14, bytes.fromhex("0000 0001")), normal(10, 14, bytes(4))):
        lab.pass_time(2)
        reply = only_reply(lab.send(lab.request(extensions=other))).data
        assert reply == sign(fixed(0, ntp(lab.wall_s)))
    lab.pass_time(2)
    denied = lab.send(lab.request(extensions=ask, at=lab.wall_s - 60))
    assert len(only_reply(denied).data) == 42
    lab.pass_time(2)
    unsigned = lab.request() + ask
    assert only_reply(lab.send(unsigned)).data == sign(fixed(0, ntp(lab.wall_s)))


def test_without_home_address_and_nai_it_is_nobody() -> None:
    lab = Lab()
    serve(lab, nai=NAI)
    assert lab.send(lab.request(home_address=0)) == []
    assert lab.send(lab.request(home_address=0, extensions=simple(131, b"x@y.z"))) == []
    wrong = lab.request(home_address=0, extensions=simple(131, NAI), key=OTHER_KEY)
    assert codes(lab.send(wrong)) == []
    assert lab.count("haUnknownHomeAddress") == 2
    assert lab.count("haBadAuthenticator") == 1


def test_a_nai_behind_the_authentication_is_not_believed_sec03() -> None:
    lab = Lab()
    serve(lab, nai=NAI)
    data = lab.request() + simple(131, b"other@wustl.edu")
    reply = only_reply(lab.send(data)).data
    assert reply == sign(fixed(0, ntp(lab.wall_s)))


def test_our_identity_is_told_where_it_is_configured_rfc3846_4() -> None:
    lab = Lab()
    lab.set_policy(identity=b"ha1@wustl.edu")
    reply = only_reply(lab.send(lab.request(extensions=simple(131, NAI)))).data
    ours = simple(136, b"\x01ha1@wustl.edu")
    assert reply == sign(fixed(0, ntp(lab.wall_s)) + simple(131, NAI) + ours)
    lab.pass_time(1)
    assert only_reply(lab.send(lab.request())).data == sign(fixed(0, ntp(lab.wall_s)) + ours)


def test_our_identity_makes_no_denial_larger_than_its_request() -> None:
    """A foreign agent would not send it on: the node would never learn our clock."""
    lab = Lab()
    lab.set_policy(identity=b"ha1@wustl.edu")
    late = lab.request(identification=ntp(lab.wall_s - 60))
    reply = only_reply(lab.send(late)).data
    assert reply[1] == 133
    assert len(reply) <= len(late)


# challenge and AAA --------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
def test_the_challenge_is_echoed_behind_the_authentication_rfc4721_3_4(before: bool) -> None:
    lab = Lab()
    challenge = simple(132, CHALLENGE)
    message = unsigned_request(ntp(lab.wall_s), flags=T, care_of=FOREIGN_AGENT)
    message = sign(message + challenge) if before else sign(message) + challenge
    effects = lab.send(sign(message, FA_KEY, FA_SPI, kind=34), lab.arrival(FOREIGN_AGENT))
    expected = sign(sign(fixed(0, ntp(lab.wall_s))) + challenge, FA_KEY, FA_SPI, kind=34)
    assert only_reply(effects).data == expected


def test_the_published_request_with_challenge_and_aaa_is_accepted_rfc4721() -> None:
    """Vector of the protocol map: NAI, Mobile-Home, challenge, Mobile-AAA."""
    data = bytes.fromhex(
        "0102012c0a0100050a0100010a030001e93c7f0012345678"
        "830c6d6e40777573746c2e656475"
        "201400000100038efb5d39f1b20abb62e2d4d3a28ebf"
        "8408a1b2c3d4e5f60718"
        "2401001400000200586ccef4fd9049eae3d4306b2769b86c"
    )
    wall_s = 0xE93C7F00 - 2_208_988_800
    lab = Lab(wall_ns=wall_s * 10**9)
    serve(lab, nai=NAI, aaa=(SecurityAssociation(AAA_SPI, AAA_KEY),))
    assert codes(lab.send(data, lab.arrival(0x0A030001))) == [0]


SECRET = (SecurityAssociation(AAA_SPI, AAA_KEY),)
CHAP = (ChapKey(AAA_KEY),)


@pytest.mark.parametrize(
    ("secrets", "key", "spi", "code"),
    [
        (SECRET, AAA_KEY, AAA_SPI, 0),
        (SECRET, OTHER_KEY, AAA_SPI, 144),
        (SECRET, AAA_KEY, AAA_SPI + 1, 144),
        ((), OTHER_KEY, AAA_SPI, 0),
    ],
    ids=["right", "wrong key", "unknown SPI", "not ours to check"],
)
def test_a_second_authentication_must_be_right_too_rfc4721_3_4(
    secrets: tuple[Any, ...], key: bytes, spi: int, code: int
) -> None:
    lab = Lab()
    serve(lab, aaa=secrets)
    message = sign(unsigned_request(ntp(lab.wall_s), flags=D | T))
    effects = lab.send(mn_aaa(message + simple(132, CHALLENGE), key, spi))
    assert codes(effects) == [code]
    assert violations(effects) == (["badAuthenticator"] if code else [])
    assert bool(lab.tunnels) is (code == 0)


@pytest.mark.parametrize(
    ("challenge", "signed_with", "code"),
    [(CHALLENGE, CHALLENGE, 0), (CHALLENGE, b"\0", 144), (b"", b"\0", 0), (b"", CHALLENGE, 144)],
)
def test_chap_spi_uses_the_challenge_or_zero_rfc4721_3_5(
    challenge: bytes, signed_with: bytes, code: int
) -> None:
    lab = Lab()
    serve(lab, aaa=CHAP)
    message = sign(unsigned_request(ntp(lab.wall_s), flags=D | T))
    message += simple(132, challenge) if challenge else b""
    assert codes(lab.send(mn_aaa_chap(message, signed_with))) == [code]


def test_aaa_alone_authorizes_only_where_the_policy_says_so_rfc4721_3_4() -> None:
    lab = Lab()
    serve(lab, aaa=SECRET)
    data = mn_aaa(unsigned_request(ntp(lab.wall_s), flags=D | T))
    assert lab.send(data) == []
    assert lab.count("haMissingAuthentication") == 1
    lab.set_policy(aaa_authorizes=True)
    assert only_reply(lab.send(data)).data == sign(fixed(0, ntp(lab.wall_s)))
    assert lab.care_of_addresses() == [CARE_OF]
    lab.pass_time(1)
    assert codes(lab.send(data)) == [0]  # an exact repetition
    lab.pass_time(20)
    assert codes(lab.send(data)) == [133]


@pytest.mark.parametrize("told", [True, False])
def test_a_wrong_aaa_alone_is_144_where_131_would_be_sent(told: bool) -> None:
    lab = Lab()
    serve(lab, aaa=SECRET)
    lab.set_policy(aaa_authorizes=True, answer_bad_authentication=told)
    data = mn_aaa(unsigned_request(ntp(lab.wall_s), flags=D | T), OTHER_KEY)
    effects = lab.send(data)
    assert codes(effects) == ([144] if told else [])
    assert violations(effects) == ["badAuthenticator"]
    assert lab.tunnels == {}


def test_every_flipped_bit_of_an_aaa_only_request_is_refused_sec02() -> None:
    lab = Lab()
    serve(lab, aaa=SECRET)
    lab.set_policy(aaa_authorizes=True)
    data = mn_aaa(unsigned_request(ntp(lab.wall_s), flags=D | T))
    for at in range(len(data)):
        lab.send(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert lab.tunnels == {}, at


# vendors and experiments --------------------------------------------------------------------

KNOWN = VendorRegistry({(9, 14): "cisco-host-configuration"})


@pytest.mark.parametrize(
    ("extension", "code"),
    [
        (critical(9, 14), 0),
        (critical(9, 15), 140),
        (critical(10, 14, b"x"), 140),
        (critical(9, 14) + critical(10, 1), 140),
        (normal(10, 14, b"x"), 0),
    ],
)
def test_unknown_critical_vendor_extensions_are_denied_rfc3115_2_4(
    extension: bytes, code: int
) -> None:
    lab = Lab()
    lab.set_policy(vendors=KNOWN)
    assert codes(lab.send(lab.request(extensions=extension))) == [code]


def test_one_added_by_a_foreign_agent_is_141_rfc3115_2_4() -> None:
    lab = Lab()
    lab.set_policy(vendors=KNOWN)
    message = sign(unsigned_request(ntp(lab.wall_s), flags=T, care_of=FOREIGN_AGENT))
    data = sign(message + critical(10, 1), FA_KEY, FA_SPI, kind=34)
    assert codes(lab.send(data, lab.arrival(FOREIGN_AGENT))) == [141]
    lab.pass_time(1)
    data = sign(unsigned_request(ntp(lab.wall_s))) + critical(10, 1)
    assert codes(lab.send(data)) == [141]


def test_experiments_are_unknown_unless_configured_rfc4064_sec23() -> None:
    lab = Lab()
    non_skippable = struct.pack("!BBH", 127, 5, 3) + b"abc"
    skippable = simple(255, b"\x05abc")
    assert lab.send(lab.request(extensions=non_skippable)) == []
    assert lab.count("haUnknownExtension") == 1
    assert codes(lab.send(lab.request(extensions=skippable))) == [0]
    assert lab.send(b"\xff" + bytes(40)) == []
    assert lab.count("haUnexpectedMessageType") == 1
    lab.pass_time(1)
    lab.set_policy(experimental=True)
    assert codes(lab.send(lab.request(extensions=non_skippable + skippable))) == [0]
    assert lab.send(b"\xff" + bytes(40)) == []
    assert lab.count("haExperimentalMessages") == 1


def test_a_host_changed_while_its_request_waited_is_found_again() -> None:
    lab = Lab()
    serve(lab, nai=NAI)
    (commit,) = lab.receive(lab.request(extensions=simple(131, NAI)))
    later = lab.request(at=lab.wall_s + 1, extensions=simple(131, NAI))
    assert lab.receive(later) == []
    serve(lab, nai=b"renamed@wustl.edu")
    assert codes(lab.carry_out([commit])) == [0]
    assert lab.count("haUnknownHomeAddress") == 1
