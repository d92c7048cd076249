"""A foreign agent on the bench: bytes made with struct and hmac, effects looked at one by one.

Nothing here uses fastmip's codecs or authenticators, so that what it expects is independent.
"""

from __future__ import annotations

import hmac
import itertools
import struct
from typing import Any

from fastmip.agents.effects import (
    Arrival,
    Effect,
    Endpoint,
    Event,
    InstallVisitor,
    Now,
    SendDatagram,
    SendIcmp,
    Violation,
)
from fastmip.agents.foreign import ForeignAgent
from fastmip.agents.foreign_policy import ForeignAgentPolicy, ForeignLink
from fastmip.auth.associations import AssociationSet, SecurityAssociation

SECOND = 1_000_000_000
NTP_EPOCH = 2_208_988_800
WALL_S = 1_790_000_000
BOOT_S = 5_000

AGENT = 0x0A030101
"""Our address and care-of address on the link."""
SECOND_CARE_OF = 0x0A030102
HOME_AGENT = 0x0A010001
HOME_AGENT_2 = 0x0A020001
NODE = 0x0A010005
MAC = bytes.fromhex("020000000005")
OTHER_MAC = bytes.fromhex("020000000006")
LINK = "air0"
FROM_NODE = Endpoint(NODE, 40000)
ALL_AGENTS = 0xE000000B

SPI, KEY = 0x100, bytes(range(16))
MF_SPI, MF_KEY = 0x200, bytes(range(32, 48))
FH_SPI, FH_KEY = 0x300, bytes(range(100, 116))
S, B, D, M, G, R, T, X = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01

_numbers = itertools.count(1)


def sign(message: bytes, key: bytes = KEY, spi: int = SPI, kind: int = 32) -> bytes:
    """Append an authentication extension with HMAC-MD5 (RFC 5944 3.5)."""
    covered = message + struct.pack("!BBI", kind, 20, spi)
    return covered + hmac.digest(key, covered, "md5")


def sign_mobile_foreign(message: bytes, key: bytes = MF_KEY, spi: int = MF_SPI) -> bytes:
    """Append Mobile-Foreign authentication."""
    return sign(message, key, spi, 33)


def sign_foreign_home(message: bytes, key: bytes = FH_KEY, spi: int = FH_SPI) -> bytes:
    """Append Foreign-Home authentication."""
    return sign(message, key, spi, 34)


def short(kind: int, data: bytes) -> bytes:
    """An extension with a one-byte length."""
    return bytes((kind, len(data))) + data


def identification() -> int:
    """A fresh one: the low half never repeats within a run."""
    return (WALL_S + NTP_EPOCH) << 32 | next(_numbers)


def unsigned(
    number: int,
    *,
    lifetime: int = 300,
    flags: int = T,
    home_address: int = NODE,
    home_agent: int = HOME_AGENT,
    care_of: int = AGENT,
) -> bytes:
    """The fixed part of a Registration Request."""
    return struct.pack("!BBHIIIQ", 1, flags, lifetime, home_address, home_agent, care_of, number)


def request(number: int, *, before: bytes = b"", **fields: Any) -> bytes:
    """A Registration Request with Mobile-Home authentication."""
    return sign(unsigned(number, **fields) + before)


def unsigned_reply(
    number: int,
    *,
    code: int = 0,
    lifetime: int = 300,
    home_address: int = NODE,
    home_agent: int = HOME_AGENT,
) -> bytes:
    """The fixed part of a Registration Reply."""
    return struct.pack("!BBHIIQ", 3, code, lifetime, home_address, home_agent, number)


def reply(number: int, *, before: bytes = b"", **fields: Any) -> bytes:
    """A Registration Reply with Mobile-Home authentication."""
    return sign(unsigned_reply(number, **fields) + before)


def association(spi: int, key: bytes) -> AssociationSet:
    """A set of one association."""
    return AssociationSet([SecurityAssociation(spi, key)])


FOREIGN_HOME = association(FH_SPI, FH_KEY)
MOBILE_FOREIGN = association(MF_SPI, MF_KEY)


class Notices:
    """Stands for the advertiser."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, bytes]] = []

    def notify(
        self, interface: str, home_address: int, mac: bytes, *, busy: bool = False
    ) -> list[Effect]:
        """Note who is told."""
        self.told.append((interface, home_address, mac))
        return [SendIcmp(b"seq 0" + bytes([busy]), AGENT, home_address, interface, mac)]


class Bench:
    """A foreign agent with a clock that is turned by hand."""

    def __init__(self, **policy: Any) -> None:
        fields: dict[str, Any] = {
            "links": (ForeignLink(LINK, AGENT, (AGENT, SECOND_CARE_OF)),),
            "own": frozenset({AGENT, SECOND_CARE_OF}),
        }
        self.policy = ForeignAgentPolicy(**fields | policy)
        self.notices = Notices()
        self._random = itertools.count(1)
        self.agent = ForeignAgent(
            self.policy,
            random=lambda n: next(self._random).to_bytes(n, "big"),
            notifier=self.notices,
        )
        self.s = 0.0
        self.carried = True
        self.installed: list[InstallVisitor] = []
        self.effects: list[Effect] = []

    @property
    def now(self) -> Now:
        """The clocks."""
        ns = round(self.s * SECOND)
        return Now(BOOT_S * SECOND + ns, WALL_S * SECOND + ns)

    def run(self, effects: list[Effect]) -> list[SendDatagram]:
        """Carry effects out as the runtime would; returns the datagrams."""
        sent = []
        queue = list(effects)
        for effect in queue:
            self.effects.append(effect)
            if isinstance(effect, SendDatagram):
                sent.append(effect)
            elif isinstance(effect, InstallVisitor):
                self.installed.append(effect)
                queue += self.agent.visitor_installed(
                    effect.token, effect.home_address, self.carried, self.now
                )
        return sent

    def ask(
        self,
        data: bytes,
        *,
        mac: bytes | None = MAC,
        ttl: int = 255,
        source: Endpoint = FROM_NODE,
        destination: int = AGENT,
        interface: str = LINK,
    ) -> list[SendDatagram]:
        """A datagram from a node on the link."""
        arrival = Arrival(source, Endpoint(destination, 434), interface, mac, ttl)
        return self.run(self.agent.receive_datagram(data, arrival, self.now))

    def answer(
        self, data: bytes, *, source: int = HOME_AGENT, destination: int = AGENT, port: int = 434
    ) -> list[SendDatagram]:
        """A datagram from a home agent."""
        arrival = Arrival(Endpoint(source, port), Endpoint(destination, 434), "core0", None, 60)
        return self.run(self.agent.receive_datagram(data, arrival, self.now))

    def tick(self, seconds: float) -> list[SendDatagram]:
        """Let time pass, stopping where the agent has something to do."""
        sent = []
        end = self.s + seconds
        while (due := self.agent.next_deadline()) is not None:
            at = due / SECOND - BOOT_S
            if at > end:
                break
            self.s = max(self.s, at)
            sent += self.run(self.agent.handle_timer(self.now))
        self.s = end
        return sent

    def register(self, **fields: Any) -> list[SendDatagram]:
        """A registration through and through; returns what reached the node."""
        number = identification()
        agent = fields.get("home_agent", HOME_AGENT)
        lifetime = fields.get("lifetime", 300)
        home = fields.get("home_address", NODE)
        mac = fields.pop("mac", MAC)
        [relayed] = self.ask(request(number, **fields), mac=mac)
        data = reply(number, home_address=home, home_agent=agent, lifetime=lifetime)
        if self.policy.home_agent_associations(agent) is not None and lifetime:
            data = sign_foreign_home(data)
        return self.answer(data, source=agent, destination=relayed.source.address)

    def denial(self, data: bytes, **how: Any) -> int | None:
        """The code a request is denied with; None when it is relayed or not answered."""
        self.tick(1.1)
        sent = self.ask(data, **how)
        if not sent or sent[0].destination.port == 434:
            return None
        [message] = sent
        assert message.data[0] == 3
        assert message.data[4:12] == data[4:12], "home address and home agent are copied"
        assert message.data[12:20] == data[16:24], "and the Identification"
        return message.data[1]

    def count(self, name: str) -> int:
        """A counter."""
        return self.agent.counters()[name]

    @property
    def violations(self) -> list[Violation]:
        """Security violations reported so far."""
        return [effect for effect in self.effects if isinstance(effect, Violation)]

    @property
    def events(self) -> list[str]:
        """Names of events so far."""
        return [effect.name for effect in self.effects if isinstance(effect, Event)]
