"""Invariant: no bytes make the home agent raise, hang, or act for anybody who did not sign.

Inputs are sequences of datagrams (two bytes of length before each), so that states between
requests are reached too. A commit or a change of ARP needs a request that our key signed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Hashable

from fastmip.agents.effects import (
    Arrival,
    Commit,
    CommitOutcome,
    Effect,
    Endpoint,
    NodeRow,
    Now,
    SendDatagram,
    Violation,
)
from fastmip.agents.home import HomeAgent
from fastmip.agents.hosts import HomeAgentPolicy, Host, Prefix
from fastmip.auth.associations import AssociationSet, ReplayStyle, SecurityAssociation
from fastmip.auth.authenticators import append_authentication, verify_authentication
from fastmip.auth.freshness import ntp_time
from fastmip.wire.codes import FLAG_SIMULTANEOUS, ExtensionType
from fastmip.wire.extensions import RawExtension
from fastmip.wire.registration import RegistrationReply, RegistrationRequest

SECOND = 1_000_000_000
HOME_AGENT, NODE, NONCE_NODE, CARE_OF = 0x0A010001, 0x0A010005, 0x0A010006, 0x0A030005
START = Now(1000 * SECOND, 1_790_000_000 * SECOND)
MOBILE_HOME = ExtensionType.MOBILE_HOME_AUTHENTICATION
ASSOCIATIONS = {
    NODE: SecurityAssociation(0x100, bytes(range(16))),
    NONCE_NODE: SecurityAssociation(0x101, bytes(range(16, 32)), replay=ReplayStyle.NONCES),
}
FOREIGN = SecurityAssociation(0x300, bytes(range(40, 56)))
FOREIGN_AGENT = CARE_OF + 1
POLICY = HomeAgentPolicy(
    HOME_AGENT,
    Prefix(0x0A010000, 24),
    "home0",
    strict_reserved=True,
    answer_bad_authentication=True,
    foreign_agents={FOREIGN_AGENT: AssociationSet([FOREIGN])}.get,
)
HOSTS = {address: Host(address, AssociationSet([a])) for address, a in ASSOCIATIONS.items()}
_signed: set[bytes] = set()


def _request(
    second: int,
    node: int = NODE,
    flags: int = 0x22,
    lifetime: int = 300,
    care_of: int = CARE_OF,
    nonce: int = 0,
) -> bytes:
    stamp = ntp_time(START.wall_ns + second * SECOND)
    identification = stamp if node == NODE else nonce << 32 | second + 1
    vendor = RawExtension(134, data=bytes(second))
    request = RegistrationRequest(
        flags, lifetime, node, HOME_AGENT, care_of, identification, (vendor,)
    )
    signed = append_authentication(request.encode(), MOBILE_HOME, ASSOCIATIONS[node])
    _signed.add(signed)
    return signed


def _sequence(*datagrams: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(datagram)) + datagram for datagram in datagrams)


SEEDS = [
    _sequence(_request(0)),
    _sequence(_request(0), _request(1), _request(1)),
    _sequence(_request(0), _request(1, flags=0xA2, care_of=CARE_OF + 9), _request(2, lifetime=0)),
    _sequence(_request(0), _request(1, lifetime=0, care_of=NODE)),
    _sequence(_request(0, NONCE_NODE), _request(1, NONCE_NODE, nonce=1)),
    _sequence(_request(0, flags=0xFF), _request(1, flags=FLAG_SIMULTANEOUS, care_of=HOME_AGENT)),
    _sequence(
        append_authentication(
            _request(0, care_of=FOREIGN_AGENT), ExtensionType.FOREIGN_HOME_AUTHENTICATION, FOREIGN
        )
    ),
]


class _World:
    """One home agent with a store that works and clocks that stand."""

    def __init__(self) -> None:
        self.rows: dict[int, NodeRow] = {}
        dice = random.Random(1)
        self.agent = HomeAgent(
            POLICY,
            hosts=HOSTS.get,
            load=self.rows.get,
            boot=1,
            random=dice.randbytes,
            started=START,
        )

    def receive(self, data: bytes, source: int, *, slow: bool) -> Hashable:
        """Hand a datagram over, check and carry out what comes of it; returns its traits."""
        arrival = Arrival(Endpoint(source, 4000), Endpoint(HOME_AGENT, 434), "home0", bytes(6))
        effects = self.agent.receive_datagram(data, arrival, START)
        if any(not isinstance(effect, SendDatagram | Violation) for effect in effects):
            assert any(data.startswith(signed) for signed in _signed), "acted for a stranger"
        traits = [self._check(effect, data) for effect in effects]
        if not slow:
            traits += self.finish(effects)
        return tuple(traits)

    def finish(self, effects: list[Effect]) -> list[Hashable]:
        """End the commits among effects, and those that follow from them."""
        traits: list[Hashable] = []
        for effect in effects:
            if isinstance(effect, Commit):
                self.rows[effect.home_address] = effect.row
                after = self.agent.commit_done(effect.token, CommitOutcome.COMMITTED, START)
                traits += [self._check(one, b"") for one in after]
                traits += self.finish(after)
        return traits

    @staticmethod
    def _check(effect: Effect, data: bytes) -> Hashable:
        if not isinstance(effect, SendDatagram):
            return type(effect).__name__
        reply = RegistrationReply.decode(effect.data)
        assert len(effect.data) <= 100, "an answer that amplifies"
        assert not reply.malformed
        (authentication,) = reply.authentications(MOBILE_HOME)
        association = ASSOCIATIONS[reply.home_address]
        assert verify_authentication(effect.data, authentication, association)
        if data:
            assert reply.identification & 0xFFFFFFFF == int.from_bytes(data[20:24])
        return reply.code


def target(data: bytes) -> Hashable:
    """Cut the input into datagrams and send them one after the other."""
    world = _World()
    outcome: list[Hashable] = []
    position = 0
    while position + 2 <= len(data) and len(outcome) < 8:
        length = int.from_bytes(data[position : position + 2])
        datagram = data[position + 2 : position + 2 + length]
        position += 2 + length
        source = int.from_bytes(datagram[12:16]) or FOREIGN_AGENT
        outcome.append(world.receive(datagram, source, slow=len(datagram) % 5 == 4))
    counts = world.agent.counters()
    moved = tuple(name for name, count in counts.items() if count)
    return (tuple(outcome), moved)


if __name__ == "__main__":
    from fuzz.run import main

    raise SystemExit(main(("home",)))
