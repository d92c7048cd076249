"""A home agent on paper: struct and hmac only, so that it judges the mobile node's bytes.

It knows nothing of ``fastmip.wire`` or ``fastmip.auth``: what it reads and writes follows
RFC 5944 3.3, 3.4, 3.5 and 5.7 alone.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field

KEY = bytes(range(16))
SPI = 0x100
NTP_OFFSET = 2_208_988_800


@dataclass(frozen=True)
class Request:
    """The fields of a registration request as RFC 5944 3.3 draws them."""

    flags: int
    lifetime: int
    home_address: int
    home_agent: int
    care_of: int
    identification: int

    @property
    def simultaneous(self) -> bool:
        return bool(self.flags & 0x80)

    @property
    def reverse(self) -> bool:
        return bool(self.flags & 0x02)


def mac(data: bytes, key: bytes = KEY) -> bytes:
    return hmac.digest(key, data, "md5")


def parse_request(data: bytes, key: bytes = KEY, *, exact: bool = True) -> Request:
    """Read a request and insist on its exact form: 24 bytes, one MHAE, nothing else.

    Without ``exact``, other extensions may stand before the MHAE, which ends the message.
    """
    assert not exact or len(data) == 24 + 2 + 4 + 16, f"{len(data)} bytes"
    kind, flags, lifetime, home, agent, care_of, ident = struct.unpack("!BBHIIIQ", data[:24])
    assert kind == 1
    assert flags & 0x05 == 0, "reserved bits r and x are sent zero (RFC 5944 3.3)"
    assert data[-22:-16] == struct.pack("!BBI", 32, 20, SPI)
    assert data[-16:] == mac(data[:-16], key), "authenticator over everything before it (3.5.1)"
    return Request(flags, lifetime, home, agent, care_of, ident)


def build_reply(
    code: int,
    lifetime: int,
    home_address: int,
    home_agent: int,
    identification: int,
    *,
    key: bytes = KEY,
    spi: int = SPI,
    extensions: bytes = b"",
) -> bytes:
    """A reply with one MHAE at its end."""
    fixed = struct.pack("!BBHIIQ", 3, code, lifetime, home_address, home_agent, identification)
    covered = fixed + extensions + struct.pack("!BBI", 32, 20, spi)
    return covered + mac(covered, key)


@dataclass
class PaperHomeAgent:
    """RFC 5944 3.8.2, reduced to what a mobile node can see; either style of replay protection."""

    address: int
    max_lifetime: int = 65535
    window_s: int = 7
    clock_offset_s: int = 0
    """Its wall clock minus ours."""
    simultaneous: bool = True
    code: int | None = None
    """Answer this instead of judging."""
    extensions: bytes = b""
    """Put into every reply, under its authentication."""
    bindings: dict[int, tuple[Request, int]] = field(default_factory=dict)
    """Care-of address -> (request, end on the simulated boot clock)."""
    last: int = 0
    nonces: bool = False
    nonce: int = 0
    """The nonce issued last, 0 before any."""

    def answer(self, data: bytes, boot_ns: int, wall_ns: int, *, exact: bool = True) -> bytes:
        request = parse_request(data, exact=exact)
        for care_of in [c for c, (_, end) in self.bindings.items() if end <= boot_ns]:
            del self.bindings[care_of]
        if self.nonces:
            return self._answer_by_nonce(request, boot_ns)
        now = wall_ns / 1e9 + NTP_OFFSET + self.clock_offset_s
        when = request.identification / 2**32
        if self.code is not None:
            return self._reply(self.code, 0, request, request.identification)
        if abs(when - now) > self.window_s or request.identification <= self.last:
            ident = int(now) << 32 | (request.identification & 0xFFFFFFFF)
            return self._reply(133, 0, request, ident)
        self.last = request.identification
        return self._accept(request, boot_ns, self.last)

    def _answer_by_nonce(self, request: Request, boot_ns: int) -> bytes:
        """RFC 5944 5.7.2: the high half of a request is what we sent last; replies bring a new one.

        A byte-identical copy of the request accepted last is answered as it was.
        """
        low = request.identification & 0xFFFFFFFF
        if request.identification == self.last and self.last:
            return self._accept(request, boot_ns, self.nonce << 32 | low)
        is_fresh = self.nonce != 0 and request.identification >> 32 == self.nonce
        self.nonce = (self.nonce * 1103515245 + 12345) % 0xFFFFFFFF or 1
        answer = self.nonce << 32 | low
        if self.code is not None:
            return self._reply(self.code, 0, request, answer)
        if not is_fresh:
            return self._reply(133, 0, request, answer)
        self.last = request.identification
        return self._accept(request, boot_ns, answer)

    def _accept(self, request: Request, boot_ns: int, answer: int) -> bytes:
        """RFC 5944 3.8.2.2."""
        lifetime = min(request.lifetime, self.max_lifetime)
        if request.lifetime == 0:
            if request.care_of == request.home_address:
                self.bindings.clear()
            else:
                self.bindings.pop(request.care_of, None)
        else:
            if not (request.simultaneous and self.simultaneous):
                self.bindings.clear()
            self.bindings[request.care_of] = (request, boot_ns + lifetime * 10**9)
        return self._reply(0 if self.simultaneous else 1, lifetime, request, answer)

    def _reply(self, code: int, lifetime: int, request: Request, ident: int) -> bytes:
        return build_reply(
            code,
            lifetime,
            request.home_address,
            self.address,
            ident,
            extensions=self.extensions,
        )
