"""Invariant: no bytes make the foreign agent raise, hang, or carry anybody its home agent did not.

Inputs are sequences of datagrams: a byte that says from where (a node on the link, a home agent
that shares an association, one that shares none, a solicitation, an ICMP error), two bytes of
length, the datagram. A visitor comes or goes by a reply or a revocation that a home agent with
an association signed, or by a reply of a home agent without one to what was asked of it; a
deregistration goes without that signature (RFC 5944 3.5.4, C-06).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Hashable

from fastmip.agents.advertiser import AdvertisedLink, Advertiser
from fastmip.agents.effects import (
    Arrival,
    Effect,
    Endpoint,
    Event,
    InstallVisitor,
    Now,
    RemoveVisitor,
    SendDatagram,
    SendIcmp,
    Violation,
)
from fastmip.agents.foreign import ForeignAgent
from fastmip.agents.foreign_policy import ForeignAgentPolicy, ForeignLink
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.auth.authenticators import append_authentication
from fastmip.wire.authext import GeneralizedAuthentication
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import ExtensionType
from fastmip.wire.discovery import AGENT_F, AGENT_T, AGENT_X, AgentAdvertisement, AgentSolicitation
from fastmip.wire.extensions import Extension
from fastmip.wire.nai import MobileNodeNai
from fastmip.wire.registration import RegistrationReply, RegistrationRequest
from fastmip.wire.revocation import RevocationMessage, RevocationSupport
from fastmip.wire.tunneling import EncapsulatingDelivery, UdpTunnelReply

SECOND = 1_000_000_000
AGENT, NODE, OTHER_NODE = 0x0A030101, 0x0A010005, 0x0A020006
TRUSTED, STRANGER = 0x0A010001, 0x0A020001
MAC = bytes.fromhex("020000000005")
START = Now(5000 * SECOND, 1_790_000_000 * SECOND)
CLOCK = (START.wall_ns // SECOND + 2_208_988_800) & 0xFFFFFFFF
MOBILE_HOME = SecurityAssociation(0x100, bytes(range(16)))
MOBILE_FOREIGN = SecurityAssociation(0x200, bytes(range(32, 48)))
FOREIGN_HOME = SecurityAssociation(0x300, bytes(range(100, 116)))
PENDING, VISITORS = 4, 6
POLICY = ForeignAgentPolicy(
    (ForeignLink("air0", AGENT, (AGENT,)),),
    frozenset({AGENT}),
    max_visitors=VISITORS,
    max_pending=PENDING,
    has_challenge=True,
    has_revocation=True,
    mobile_nodes=lambda home, _nai: AssociationSet([MOBILE_FOREIGN]) if home == NODE else None,
    home_agent_associations=lambda of: AssociationSet([FOREIGN_HOME]) if of == TRUSTED else None,
)
ADVERTISED = AdvertisedLink(
    "air0", AGENT, AGENT_F | AGENT_T | AGENT_X, 1800, (AGENT,), has_challenge=True
)
FROM_NODE, FROM_TRUSTED, FROM_STRANGER, SOLICITED, REPORTED = range(5)
_proven: set[bytes] = set()
"""What a home agent with an association signed for us."""


def _challenge() -> bytes:
    """The first one the world below advertises."""
    return random.Random(1).randbytes(8)


def _request(
    number: int, *extensions: Extension, home: int = NODE, agent: int = TRUSTED, flags: int = 0x02,
    lifetime: int = 300, behind: tuple[Extension, ...] = (), proof: bool = True,
) -> bytes:  # fmt: skip
    fixed = RegistrationRequest(flags, lifetime, home, agent, AGENT, number, extensions).encode()
    data = append_authentication(fixed, ExtensionType.MOBILE_HOME_AUTHENTICATION, MOBILE_HOME)
    data += b"".join(extension.encode() for extension in behind)
    if proof:
        foreign = ExtensionType.MOBILE_FOREIGN_AUTHENTICATION
        data = append_authentication(data, foreign, MOBILE_FOREIGN)
    return data


def _reply(
    number: int, *extensions: Extension, home: int = NODE, agent: int = TRUSTED, code: int = 0,
    lifetime: int = 300, before: tuple[Extension, ...] = (),
) -> bytes:  # fmt: skip
    fixed = RegistrationReply(code, lifetime, home, agent, number, before).encode()
    data = append_authentication(fixed, ExtensionType.MOBILE_HOME_AUTHENTICATION, MOBILE_HOME)
    data += b"".join(extension.encode() for extension in extensions)
    return _signed(data) if agent == TRUSTED else data


def _signed(data: bytes) -> bytes:
    signed = append_authentication(data, ExtensionType.FOREIGN_HOME_AUTHENTICATION, FOREIGN_HOME)
    _proven.add(signed)
    return signed


def _revocation(later_s: int) -> bytes:
    message = RevocationMessage(True, True, NODE, TRUSTED, AGENT, CLOCK + later_s)
    return _signed(message.encode())


def _sequence(*steps: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("!BH", kind, len(data)) + data for kind, data in steps)


_CHALLENGED = (MobileForeignChallenge(_challenge()),)
_AAA = (*_CHALLENGED, GeneralizedAuthentication(1, 0x400, bytes(16)))
_SUPPORT = RevocationSupport(True, CLOCK)
SEEDS = [
    _sequence((FROM_NODE, _request(7, behind=_CHALLENGED)), (FROM_TRUSTED, _reply(7))),
    _sequence(
        (FROM_NODE, _request(7, behind=_CHALLENGED)),
        (FROM_TRUSTED, _reply(7, _SUPPORT)),
        (FROM_TRUSTED, _revocation(5)),
        (FROM_TRUSTED, _revocation(6)),
    ),
    _sequence(
        (FROM_NODE, _request(7, behind=_CHALLENGED)),
        (FROM_TRUSTED, _reply(7)),
        (FROM_NODE, _request(8, lifetime=0)),
        (FROM_TRUSTED, _reply(8, lifetime=0)),
    ),
    _sequence(
        (FROM_NODE, _request(9, MobileNodeNai(b"mn@x.org"), behind=_CHALLENGED)),
        (FROM_TRUSTED, _reply(9, *_CHALLENGED, before=(MobileNodeNai(b"mn@x.org"),))),
    ),
    _sequence(
        (FROM_NODE, _request(3, home=OTHER_NODE, agent=STRANGER, behind=_AAA, proof=False)),
        (FROM_STRANGER, _reply(3, home=OTHER_NODE, agent=STRANGER)),
    ),
    _sequence(
        (FROM_NODE, _request(7, behind=(EncapsulatingDelivery(), *_CHALLENGED))),
        (FROM_TRUSTED, _reply(7, UdpTunnelReply(0, False, 30), code=136)),
    ),
    _sequence((SOLICITED, AgentSolicitation().encode()), (FROM_NODE, _request(7))),
    _sequence(
        (FROM_NODE, _request(7, behind=_CHALLENGED)), (REPORTED, _request(7, behind=_CHALLENGED))
    ),
]


class _World:
    """One foreign agent whose engine always has room, and clocks that stand."""

    def __init__(self) -> None:
        dice = random.Random(1)
        self.agent = ForeignAgent(POLICY, random=dice.randbytes)
        self.advertiser = Advertiser(
            [ADVERTISED], random=lambda: 0.5, now=START, challenges=self.agent.window
        )
        self.agent.window("air0").advertise()
        self.asked: set[tuple[int, bytes]] = set()
        """Where a request was relayed to that is answered without a signature for us, and the
        low half of its Identification."""

    def step(self, kind: int, data: bytes) -> Hashable:
        """Hand one over, check and carry out what comes of it; returns its traits."""
        effects = self._offer(kind, data)
        # A signature is what counts, not where it comes from.
        may_move = any(data.startswith(one) for one in _proven)
        may_move |= (kind, data[16:20]) in self.asked
        traits: list[Hashable] = [kind]
        while effects:
            effect = effects.pop(0)
            if isinstance(effect, InstallVisitor | RemoveVisitor):
                assert may_move, f"{type(effect).__name__} for a stranger"
            if isinstance(effect, InstallVisitor):
                assert data[2:4] != bytes(2), "a visitor without a lifetime"
                effects += self.agent.visitor_installed(
                    effect.token, effect.home_address, len(data) % 7 != 0, START
                )
            traits.append(self._check(effect, data))
        assert sum(1 for _ in self.agent.pending()) <= PENDING + VISITORS
        assert sum(1 for _ in self.agent.visitors()) <= VISITORS
        return tuple(traits)

    def _offer(self, kind: int, data: bytes) -> list[Effect]:
        if kind == SOLICITED:
            source = Endpoint(NODE if len(data) % 2 else 0, 0)
            arrival = Arrival(source, Endpoint(0xE000000B, 0), "air0", MAC, 1)
            return self.advertiser.receive_solicitation(data, arrival, START)
        if kind == REPORTED:
            return self.agent.receive_report(data, Endpoint(TRUSTED, 434), 3, len(data) % 8, START)
        if kind in (FROM_TRUSTED, FROM_STRANGER):
            source = Endpoint(TRUSTED if kind == FROM_TRUSTED else STRANGER, 434)
            arrival = Arrival(source, Endpoint(AGENT, 434), "core0", None, 60)
        else:
            source = Endpoint(int.from_bytes(data[4:8]), 40000)
            arrival = Arrival(source, Endpoint(AGENT, 434), "air0", MAC, 255)
        return self.agent.receive_datagram(data, arrival, START)

    def _check(self, effect: Effect, data: bytes) -> Hashable:
        if isinstance(effect, SendIcmp):
            AgentAdvertisement.decode(effect.message)
            return "advertised"
        if not isinstance(effect, SendDatagram):
            assert isinstance(effect, InstallVisitor | RemoveVisitor | Event | Violation)
            return type(effect).__name__
        assert len(effect.data) <= len(data) + 150, "an answer that amplifies"
        if effect.data[0] == 1:
            assert effect.destination.port == 434
            RegistrationRequest.decode(effect.data)
            deregisters = effect.data[2:4] == bytes(2)
            if effect.destination.address == STRANGER:
                self.asked.add((FROM_STRANGER, effect.data[20:24]))
            elif deregisters:
                self.asked.add((FROM_TRUSTED, effect.data[20:24]))
            return ("relayed", effect.destination.address)
        if effect.data[0] == 3:
            reply = RegistrationReply.decode(effect.data)
            assert effect.mac == MAC, "to nobody but who asked"
            return ("answered", reply.code)
        return ("sent", effect.data[0])


def target(data: bytes) -> Hashable:
    """Cut the input into datagrams and hand them over one after the other."""
    world = _World()
    outcome: list[Hashable] = []
    position = 0
    while position + 3 <= len(data) and len(outcome) < 8:
        kind, length = struct.unpack_from("!BH", data, position)
        position += 3
        outcome.append(world.step(kind % 5, data[position : position + length]))
        position += length
    moved = tuple(name for name, count in world.agent.counters().items() if count)
    return (tuple(outcome), moved)


if __name__ == "__main__":
    from fuzz.run import main

    raise SystemExit(main(("foreign",)))
