"""Any order of registrations through agents and translators, revocations, keepalives, restarts.

The model is a list of what should be bound, kept by hand. After every step engine, store and
agent must agree with it, and nobody is told of a binding that still stands.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.agents.home_lab import (
    CARE_OF,
    CARE_OF_2,
    FA_KEY,
    FA_SPI,
    FOREIGN_AGENT,
    HOME_AGENT,
    NODE,
    SECOND,
    D,
    G,
    Lab,
    M,
    S,
    T,
    codes,
    datagrams,
    ntp,
    sign,
    unsigned_request,
)

from fastmip.agents.bindings import tunnel_of, unpack_bindings
from fastmip.agents.effects import Effect, Endpoint

NAT = 0x0A040002
ENCAPSULATIONS = {0: 4, M: 55, G: 47, M | G: 55}
HALF_BOUND = 0xFFFF


class Bound(NamedTuple):
    """A binding as it should be."""

    care_of: int
    remote: int
    port: int
    encapsulation: int
    ends_ns: int
    revocable: bool


class HomeTunnelMachine(RuleBasedStateMachine):
    """One mobile node, a foreign agent, a translator, and an attacker."""

    @initialize()
    def begin(self) -> None:
        self.lab = Lab()
        self.bound: list[Bound] = []
        self.agent_clock = 1000

    # what happens

    def settle(self, seconds: float = 1.0) -> None:
        """Time passes; what has ended leaves the model."""
        self.lab.pass_time(seconds)
        self.agent_clock += int(seconds)
        self.bound = [b for b in self.bound if b.ends_ns > self.lab.boot_ns]

    def accept(self, effects: list[Effect], new: Bound, *, simultaneous: bool) -> None:
        assert 0 in codes([e for e in datagrams(effects) if e.data[0] == 3])
        kept = [b for b in self.bound if b.care_of != new.care_of] if simultaneous else []
        self.bound = [new, *kept]

    @rule(
        bits=st.sampled_from(sorted(ENCAPSULATIONS)),
        simultaneous=st.booleans(),
        lifetime=st.integers(5, 600),
        care_of=st.sampled_from([CARE_OF, CARE_OF_2]),
        udp=st.sampled_from(["no", "nat", "forced", "half"]),
        port=st.integers(1024, 60000),
        field=st.sampled_from([0, 4, 47, 55]),
    )
    def register_directly(
        self,
        bits: int,
        simultaneous: bool,
        lifetime: int,
        care_of: int,
        udp: str,
        port: int,
        field: int,
    ) -> None:
        self.settle()
        flags = D | T | bits | (S if simultaneous else 0)
        extension = b""
        if udp != "no":
            wanted = {"nat": 0, "forced": 0x80, "half": 0x40}[udp]
            extension = struct.pack("!BBBBBBH", 144, 6, 0, 0, wanted, field, 0)
        source = care_of if udp in ("no", "forced") else NAT
        data = self.lab.request(
            flags=flags, lifetime=lifetime, care_of=care_of, extensions=extension
        )
        effects = self.lab.send(data, self.lab.arrival(source, port=port))
        encapsulation = field if udp != "no" and field else ENCAPSULATIONS[bits]
        tunnel_port = {"no": 0, "nat": port, "forced": port, "half": HALF_BOUND}[udp]
        ends_ns = self.lab.boot_ns + lifetime * SECOND
        new = Bound(care_of, source, tunnel_port, encapsulation, ends_ns, revocable=False)
        self.accept(effects, new, simultaneous=simultaneous)

    @rule(simultaneous=st.booleans(), lifetime=st.integers(5, 600), offers=st.booleans())
    def register_through_the_agent(self, simultaneous: bool, lifetime: int, offers: bool) -> None:
        self.settle()
        flags = T | (S if simultaneous else 0)
        message = sign(
            unsigned_request(
                ntp(self.lab.wall_s), flags=flags, lifetime=lifetime, care_of=FOREIGN_AGENT
            )
        )
        if offers:
            message += struct.pack("!BBHI", 137, 6, 0x8000, self.agent_clock)
        data = sign(message, FA_KEY, FA_SPI, kind=34)
        effects = self.lab.send(data, self.lab.arrival(FOREIGN_AGENT, port=434))
        ends_ns = self.lab.boot_ns + lifetime * SECOND
        new = Bound(FOREIGN_AGENT, FOREIGN_AGENT, 0, 4, ends_ns, revocable=offers)
        self.accept(effects, new, simultaneous=simultaneous)

    def revocation(self, identifier: int, *, key: bytes = FA_KEY) -> list[Effect]:
        message = struct.pack(
            "!BBHIIII", 7, 0, 0x4000, NODE, HOME_AGENT, FOREIGN_AGENT, identifier & 0xFFFFFFFF
        )
        data = sign(message, key, FA_SPI, kind=34)
        return self.lab.send(data, self.lab.arrival(FOREIGN_AGENT, port=434))

    @rule()
    def the_agent_revokes(self) -> None:
        self.settle(2)
        effects = self.revocation(self.agent_clock)
        answered = [effect.data[0] for effect in datagrams(effects)]
        if any(b.revocable for b in self.bound):
            assert answered == [15]
            self.bound = [b for b in self.bound if not b.revocable]

    @rule(age=st.integers(0, 10_000), wrong_key=st.booleans())
    def somebody_forges_a_revocation(self, age: int, wrong_key: bool) -> None:
        """A wrong key, or a timestamp of the foreign agent from before this registration."""
        if wrong_key:
            assert datagrams(self.revocation(self.agent_clock + 1, key=bytes(16))) == []
        else:
            assert datagrams(self.revocation(900 - age)) == []

    @rule(port=st.integers(1024, 60000), right=st.booleans())
    def a_keepalive_comes(self, port: int, right: bool) -> None:
        source = Endpoint(NAT if right else NAT + 1, port)
        self.lab.carry_out(self.lab.agent.receive_keepalive(NODE, source, self.lab.now))
        if right:
            self.bound = [b._replace(port=port) if b.port == HALF_BOUND else b for b in self.bound]

    @rule()
    def the_operator_withdraws(self) -> None:
        self.settle(2)
        effects = self.lab.carry_out(self.lab.agent.clear_binding(NODE, self.lab.now))
        told = [effect.data[0] for effect in datagrams(effects)]
        assert told == [7] * sum(b.revocable for b in self.bound)
        self.bound = []

    @rule(care_of=st.sampled_from([CARE_OF, CARE_OF_2, FOREIGN_AGENT, NODE]))
    def deregister(self, care_of: int) -> None:
        self.settle()
        data = self.lab.request(flags=D, lifetime=0, care_of=care_of)
        effects = self.lab.send(data, self.lab.arrival(CARE_OF))
        assert codes([e for e in datagrams(effects) if e.data[0] == 3]) == [0]
        self.bound = [b for b in self.bound if care_of not in (NODE, b.care_of)]

    @rule(seconds=st.integers(1, 300))
    def time_passes(self, seconds: int) -> None:
        self.settle(seconds)

    @precondition(lambda self: self.lab.agent.next_deadline() is not None)
    @rule()
    def the_daemon_restarts(self) -> None:
        self.settle()
        self.lab.start()
        # The runtime fills the expiry wheel; here the next touch does, which is later.
        self.lab.agent.clear_binding(NODE + 1, self.lab.now)

    # what must hold

    @invariant()
    def everybody_agrees(self) -> None:
        if not hasattr(self, "lab"):
            return
        lab = self.lab
        expected = [(b.remote, b.port, b.encapsulation, b.ends_ns) for b in self.bound]
        engine = [
            (t.remote, t.remote_port, t.encapsulation, t.expires_ns)
            for t in lab.tunnels.get(NODE, ())
            if t.expires_ns > lab.boot_ns
        ]
        assert engine == expected
        row = lab.rows.get(NODE)
        stored = [] if row is None else unpack_bindings(row.bindings, boot=lab.boot, anchor=None)
        alive = [b for b in stored if b.expires_boot_ns > lab.boot_ns]
        assert [tunnel_of(b) for b in alive] == [
            t for t in lab.tunnels.get(NODE, ()) if t.expires_ns > lab.boot_ns
        ]
        known = [b for b in lab.agent.bindings_of(NODE) if b.expires_boot_ns > lab.boot_ns]
        assert known == alive

    @invariant()
    def nobody_is_told_of_a_binding_that_stands(self) -> None:
        if hasattr(self, "lab") and any(b.care_of == FOREIGN_AGENT for b in self.bound):
            assert self.lab.agent.revoking([NODE]) == []


TestHomeTunnelMachine = HomeTunnelMachine.TestCase
TestHomeTunnelMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True
)
