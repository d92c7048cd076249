"""Extensions and messages beside the plain registration, made by struct and hmac alone."""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

from tests.helpers.handmade import KEY, SPI, address, timestamp

FA_SPI = 768
FA_KEY = bytes(range(100, 116))
NTP_ERA = 2208988800


def sign(message: bytes, key: bytes = KEY, spi: int = SPI, kind: int = 32) -> bytes:
    """Append an authentication extension with HMAC-MD5 (RFC 5944 3.5)."""
    covered = message + struct.pack("!BBI", kind, 20, spi)
    return covered + hmac.digest(key, covered, "md5")


def by_agent(message: bytes, key: bytes = FA_KEY) -> bytes:
    """Append a foreign agent's authentication."""
    return sign(message, key, FA_SPI, kind=34)


def request(
    home_address: str,
    care_of_address: str,
    *,
    extensions: bytes = b"",
    flags: int = 0x22,
    lifetime_s: int = 300,
    home_agent: str = "10.1.0.1",
) -> bytes:
    """A Registration Request with extensions before its authentication."""
    fixed = struct.pack(
        "!BBHIIIQ",
        *(1, flags, lifetime_s, address(home_address), address(home_agent)),
        *(address(care_of_address), timestamp()),
    )
    return sign(fixed + extensions)


def udp_request(flags: int = 0, encapsulation: int = 0) -> bytes:
    """UDP Tunnel Request (RFC 3519 3.1)."""
    return struct.pack("!BBBBBBH", 144, 6, 0, 0, flags, encapsulation, 0)


def support(stamp: int, *, inform: bool = True) -> bytes:
    """Revocation Support (RFC 3543 3.2)."""
    return struct.pack("!BBHI", 137, 6, 0x8000 if inform else 0, stamp)


def revocation(
    home: str, home_domain: str, foreign_domain: str, identifier: int, *, flags: int = 0x4000
) -> bytes:
    """A revocation without authentication (RFC 3543 3.3)."""
    names = (address(home), address(home_domain), address(foreign_domain))
    return struct.pack("!BBHIIII", 7, 0, flags, *names, identifier)


def acknowledgment(home: str, identifier: int, *, inform: bool = False) -> bytes:
    """An acknowledgment without authentication (RFC 3543 3.4)."""
    return struct.pack("!BBHII", 15, 0, 0x8000 if inform else 0, address(home), identifier)


class Reply(NamedTuple):
    """A Registration Reply taken apart."""

    code: int
    lifetime_s: int
    before: bytes
    """What stands between the fixed part and the Mobile-Home authentication."""
    behind: bytes


def read_reply(data: bytes, *, agent_key: bytes | None = None) -> Reply:
    """Verify a reply's authenticators and take it apart; short extensions only."""
    kind, code, lifetime_s = struct.unpack_from("!BBH", data)
    assert kind == 3
    at = 20
    while data[at] != 32:
        at += 2 + data[at + 1]
    end = at + 22
    assert hmac.digest(KEY, data[: end - 16], "md5") == data[end - 16 : end]
    behind = data[end:]
    if agent_key is not None:
        assert behind[-22:-20] == b"\x22\x14"
        assert hmac.digest(agent_key, data[:-16], "md5") == data[-16:]
        behind = behind[:-22]
    return Reply(code, lifetime_s, data[20:at], behind)
