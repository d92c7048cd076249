"""A foreign agent on paper: struct and hmac only, so that it judges the mobile node's bytes.

It follows RFC 5944 2.1, 3.3, 3.7, RFC 3024 3.3, RFC 4721 2-4 and RFC 4636 alone, and knows
nothing of ``fastmip.wire`` or ``fastmip.auth``.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

FOREIGN_KEY = bytes(range(32, 48))
FOREIGN_SPI = 0x300
R, B, H, F, M, G, T, U = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800, 0x0400, 0x0100, 0x0080


def ones_complement(data: bytes) -> int:
    if len(data) & 1:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def extensions_of(data: bytes, start: int) -> list[tuple[int, int, bytes]]:
    """(type, offset, data) of each extension; type 36 has the long format."""
    found, at = [], start
    while at < len(data):
        if data[at] == 36:
            length = struct.unpack_from("!H", data, at + 2)[0]
            found.append((36, at, data[at + 4 : at + 4 + length]))
            at += 4 + length
        else:
            length = data[at + 1]
            found.append((data[at], at, data[at + 2 : at + 2 + length]))
            at += 2 + length
    assert at == len(data), "the last extension ends with the message"
    return found


@dataclass
class PaperForeignAgent:
    """One foreign agent on one link."""

    interface: str
    address: int
    mac: bytes
    care_of: tuple[int, ...]
    flags: int = F | T
    lifetime_s: int = 3
    registration_lifetime_s: int = 600
    prefix_length: int | None = 24
    challenge: bytes = b""
    sequence: int = 0
    code: int | None = None
    """Deny with this."""
    codes: dict[int, int] = field(default_factory=dict)
    """Care-of address -> deny with this."""
    behind: bytes = b""
    """Put behind every reply of the home agent."""
    error: int = 0
    """Let the home agent decide, then say this by RFC 4636."""
    key: bytes | None = None
    """An association with the mobile node: demand and give Mobile-Foreign authentication."""
    fresh_challenges: list[bytes] = field(default_factory=list)
    """Sent one by one in replies."""
    silent: bool = False
    requests: list[bytes] = field(default_factory=list)

    def advertisement(self, **changes: int) -> bytes:
        """The ICMP message, and count on (RFC 5944 2.3.2)."""
        lifetime = changes.get("lifetime_s", self.lifetime_s)
        sequence = self.sequence
        self.sequence = 256 if sequence == 0xFFFF else sequence + 1
        body = struct.pack("!BBH", 1, 2, lifetime) + struct.pack("!Ii", self.address, 0)
        size = 6 + 4 * len(self.care_of)
        body += struct.pack(
            "!BBHHH", 16, size, sequence, self.registration_lifetime_s, self.flags
        ) + struct.pack(f"!{len(self.care_of)}I", *self.care_of)
        if self.prefix_length is not None:
            body += bytes((19, 1, self.prefix_length))
        if self.challenge:
            body += bytes((24, len(self.challenge))) + self.challenge
        message = struct.pack("!BBH", 9, 0, 0) + body
        return message[:2] + struct.pack("!H", ones_complement(message)) + message[4:]

    def answer(self, data: bytes, relay: Callable[[bytes], bytes]) -> bytes | None:
        """What the mobile node gets for a request; ``relay`` asks its home agent."""
        self.requests.append(data)
        if self.silent:
            return None
        lifetime, home, agent, care_of, ident = struct.unpack("!xxHIIIQ", data[:24])
        for_home, mine = self.split(data)
        code = self.codes.get(care_of, self.code)
        if code is None and self.challenge:
            code = self.challenge_code(mine)
        if code is not None:
            lowest = min(lifetime, self.registration_lifetime_s)
            reply = struct.pack("!BBHIIQ", 3, code, lowest, home, agent, ident)
            return self.sign(reply + self.next_challenge())
        reply = relay(for_home) + self.behind
        if self.error:
            reply += bytes((45, 2, 0, self.error))
        return self.sign(reply + self.next_challenge())

    def next_challenge(self) -> bytes:
        if not self.fresh_challenges:
            return b""
        self.challenge = self.fresh_challenges.pop(0)
        return bytes((132, len(self.challenge))) + self.challenge

    def challenge_code(self, mine: list[tuple[int, int, bytes]]) -> int | None:
        """RFC 4721 3.2, for one challenge at a time."""
        told = [body for kind, _, body in mine if kind == 132]
        if not told:
            return 105
        return None if told == [self.challenge] else 104

    def split(self, data: bytes) -> tuple[bytes, list[tuple[int, int, bytes]]]:
        """What the home agent gets, and what is ours: all behind the Mobile-Home one."""
        found = extensions_of(data, 24)
        place = next(n for n, (kind, _, _) in enumerate(found) if kind == 32)
        mine = found[place + 1 :]
        end = mine[0][1] if mine else len(data)
        order = [kind for kind, _, _ in mine]
        assert order == sorted(order, key=[132, 36, 130, 33].index), "RFC 5944 3.6.1.3"
        if self.key is not None:
            kind, at, body = mine[-1]
            assert kind == 33
            assert body[4:] == hmac.digest(self.key, data[: at + 6], "md5")
        return data[:end], mine

    def sign(self, reply: bytes) -> bytes:
        if self.key is None:
            return reply
        covered = reply + struct.pack("!BBI", 33, 20, FOREIGN_SPI)
        return covered + hmac.digest(self.key, covered, "md5")
