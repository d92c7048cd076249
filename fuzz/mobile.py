"""Invariant: no bytes make the mobile node raise, hang, or believe what nobody signed.

Inputs are steps: a byte that says what (an advertisement of the agent or of another station, a
datagram through the agent or straight from the home agent, time), two bytes of length, the
bytes. Whoever sends garbage, requests keep their pace and answers go to nobody.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence

from fastmip.agents.attachment import LinkState
from fastmip.agents.effects import Arrival, Effect, Endpoint, Now, SendDatagram, SendIcmp
from fastmip.agents.hosts import Prefix
from fastmip.agents.mobile import MobileNode
from fastmip.agents.mobile_state import MobileNodeSettings, State
from fastmip.agents.offers import CareOf
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.auth.authenticators import append_authentication
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import ExtensionType
from fastmip.wire.discovery import (
    AGENT_B,
    AGENT_F,
    AGENT_H,
    AGENT_T,
    AgentAdvertisement,
    AgentSolicitation,
    MobilityAgent,
    RouterAddress,
)
from fastmip.wire.foreign_error import ForeignAgentError
from fastmip.wire.registration import RegistrationReply, RegistrationRequest

SECOND = 1_000_000_000
HOME, HOME_AGENT = 0x0A010005, 0x0A010001
AGENT, OTHER = 0x0A030101, 0x0A030102
MAC, OTHER_MAC = bytes.fromhex("0e0000000001"), bytes.fromhex("0e0000000002")
START = Now(5000 * SECOND, 1_790_000_000 * SECOND)
ASSOCIATION = SecurityAssociation(0x100, bytes(range(16)))
SETTINGS = MobileNodeSettings(
    HOME, Prefix(0x0A010000, 24), HOME_AGENT, ("eth0",), care_of=CareOf.FOREIGN_AGENT_FIRST
)
ADVERTISED, OTHERS, THROUGH_AGENT, STRAIGHT, TIME = range(5)
MAX_AGENTS = 256
_genuine: set[bytes] = set()
"""Accepting replies our home agent signed."""


def _advertisement(
    sequence: int, flags: int = AGENT_F | AGENT_T, address: int = AGENT, **more: object
) -> bytes:
    agent = MobilityAgent(sequence, 1800, flags, (address,))
    routers = (RouterAddress(address),)
    return AgentAdvertisement(9, routers, agent, (24,), **more).encode()  # type: ignore[arg-type] # mixed


def _reply(request: bytes, code: int, lifetime: int, behind: bytes = b"") -> bytes:
    asked = RegistrationRequest.decode(request)
    fixed = RegistrationReply(code, lifetime, HOME, HOME_AGENT, asked.identification).encode()
    if 64 <= code < 128:
        return fixed + behind
    mobile_home = ExtensionType.MOBILE_HOME_AUTHENTICATION
    signed = append_authentication(fixed, mobile_home, ASSOCIATION)
    if code <= 1:
        _genuine.add(signed)
    return signed + behind


class _World:
    """One mobile node on a link without an address of its own."""

    def __init__(self) -> None:
        self.now = START
        self.sent: list[bytes] = []
        self.times: list[int] = []
        self.believable = False
        self.node = MobileNode(SETTINGS, AssociationSet([ASSOCIATION]), random_bits=lambda n: n)
        self.take(self.node.link_changed(LinkState("eth0", True), self.now), b"")

    def step(self, kind: int, data: bytes) -> Hashable:
        """Take one step; returns its traits."""
        if kind == TIME:
            return self._wait(min(len(data), 200) * SECOND // 10)
        if kind in (ADVERTISED, OTHERS):
            mac, source = (MAC, AGENT) if kind == ADVERTISED else (OTHER_MAC, OTHER)
            group = Endpoint(0xE0000001 if len(data) % 4 else HOME, 0)
            arrival = Arrival(Endpoint(source, 0), group, "eth0", mac, 1)
            return self.take(self.node.receive_advertisement(data, arrival, self.now), data)
        source = AGENT if kind == THROUGH_AGENT else HOME_AGENT
        arrival = Arrival(Endpoint(source, 434), Endpoint(HOME, 40000), "eth0", MAC, 64)
        self.believable |= any(data.startswith(one) for one in _genuine)
        return self.take(self.node.receive_datagram(data, arrival, self.now), data)

    def _wait(self, span_ns: int) -> Hashable:
        end_ns = self.now.boot_ns + span_ns
        traits: list[Hashable] = []
        while (due_ns := self.node.next_deadline()) is not None and due_ns <= end_ns:
            self._move_to(due_ns)
            traits.append(self.take(self.node.handle_timer(self.now), b""))
            assert len(traits) < 2000, "it spins"
        self._move_to(end_ns)
        return tuple(traits[-3:])

    def _move_to(self, boot_ns: int) -> None:
        ahead_ns = boot_ns - self.now.boot_ns
        self.now = Now(boot_ns, self.now.wall_ns + ahead_ns)

    def take(self, effects: Sequence[Effect], data: bytes) -> Hashable:
        """Check what comes of a step."""
        traits: list[Hashable] = []
        for effect in effects:
            traits.append(type(effect).__name__)
            if isinstance(effect, SendDatagram):
                RegistrationRequest.decode(effect.data)
                assert effect.destination.port == 434
                assert len(effect.data) < 24 + 22 + 257 + 28, "a request that grows"
                self.sent.append(effect.data)
                self.times.append(self.now.boot_ns)
            elif isinstance(effect, SendIcmp):
                AgentSolicitation.decode(effect.message)
        if len(self.times) > 10:
            assert self.times[-1] - self.times[-11] >= 8 * SECOND, "faster than one a second"
        due_ns = self.node.next_deadline()
        assert due_ns is None or due_ns > self.now.boot_ns, "a deadline that has passed"
        state = self.node.state
        is_told = state in (State.REGISTERED, State.HOME)
        assert self.believable or not is_told, "registered on nobody's word"
        assert len(data) <= 65507
        agents = self.node.status(self.now)["agents"]
        assert isinstance(agents, list)
        assert len(agents) <= MAX_AGENTS
        return (tuple(traits[:6]), state.value)


def _sequence(*steps: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("!BH", kind, len(data)) + data for kind, data in steps)


def _answered(
    code: int, lifetime: int = 300, behind: bytes = b"", challenge: bytes | None = None
) -> list[tuple[int, bytes]]:
    """An advertisement, and an answer to the request it brings about."""
    steps = [(ADVERTISED, _advertisement(300, challenge=challenge))]
    world = _World()
    for kind, data in steps:
        world.step(kind, data)
    return [*steps, (THROUGH_AGENT, _reply(world.sent[-1], code, lifetime, behind))]


_AGAIN = (ADVERTISED, _advertisement(301))
SEEDS = [
    _sequence(*_answered(0), (TIME, bytes(150)), _AGAIN),
    _sequence(*_answered(0, behind=MobileForeignChallenge(bytes(8)).encode()), _AGAIN),
    _sequence(*_answered(0, behind=ForeignAgentError(66).encode()), _AGAIN),
    _sequence(*_answered(0), (ADVERTISED, _advertisement(0)), (TIME, bytes(20))),
    _sequence(*_answered(133), (TIME, bytes(30))),
    _sequence(*_answered(69, 60), (TIME, bytes(30))),
    _sequence(*_answered(77), (OTHERS, _advertisement(5, address=OTHER)), (TIME, bytes(30))),
    _sequence(
        (ADVERTISED, _advertisement(300, AGENT_F | AGENT_B)),
        (OTHERS, _advertisement(300, AGENT_H, OTHER)),
        (TIME, bytes(100)),
    ),
    _sequence((ADVERTISED, _advertisement(1, nai=b"fa@x.org")), (STRAIGHT, bytes(20))),
]


def target(data: bytes) -> Hashable:
    """Cut the input into steps and take them."""
    world = _World()
    outcome: list[Hashable] = []
    position = 0
    while position + 3 <= len(data) and len(outcome) < 10:
        kind, length = struct.unpack_from("!BH", data, position)
        position += 3
        outcome.append(world.step(kind % 5, data[position : position + length]))
        position += length
    moved = tuple(name for name, count in world.node.counters().items() if count)
    return (tuple(outcome), moved)


if __name__ == "__main__":
    from fuzz.run import main

    raise SystemExit(main(("mobile",)))
