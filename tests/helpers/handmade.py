"""Registration messages made by struct and hmac alone: nothing of ours judges itself."""

from __future__ import annotations

import hmac
import socket
import struct
import time
from typing import NamedTuple

NTP_ERA = 2208988800
"""Seconds from 1900 to 1970."""
SPI = 256
KEY = bytes(range(16))


def address(text: str) -> int:
    """Host-order integer of a dotted quad."""
    return int.from_bytes(socket.inet_aton(text), "big")


def timestamp(offset_s: float = 0.0) -> int:
    """Identification of now: the NTP time of RFC 5944 5.7.1."""
    return int((time.time() + offset_s + NTP_ERA) * 2**32)


def request(
    home_address: str,
    care_of_address: str,
    *,
    home_agent: str = "10.1.0.1",
    lifetime_s: int = 300,
    flags: int = 0x22,
    identification: int | None = None,
    key: bytes = KEY,
    spi: int = SPI,
) -> bytes:
    """A Registration Request with HMAC-MD5 Mobile-Home authentication (RFC 5944 3.3, 3.5.2)."""
    covered = struct.pack(
        "!BBHIIIQBBI",
        1,
        flags,
        lifetime_s,
        address(home_address),
        address(home_agent),
        address(care_of_address),
        timestamp() if identification is None else identification,
        32,
        20,
        spi,
    )
    return covered + hmac.digest(key, covered, "md5")


class Reply(NamedTuple):
    """The fixed part of a Registration Reply (RFC 5944 3.4)."""

    code: int
    lifetime_s: int
    home_address: int
    home_agent: int
    identification: int


def read_reply(data: bytes, *, key: bytes = KEY) -> Reply:
    """Read a reply and verify its Mobile-Home authenticator."""
    kind, code, lifetime_s, home, agent, identification = struct.unpack_from("!BBHIIQ", data)
    assert kind == 3
    assert data[20:22] == b"\x20\x14"
    assert hmac.digest(key, data[:-16], "md5") == data[-16:]
    assert len(data) == 20 + 22
    return Reply(code, lifetime_s, home, agent, identification)
