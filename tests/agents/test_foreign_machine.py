"""A foreign agent in any order of events keeps its promises (Hypothesis state machine).

Whatever nodes ask, home agents answer, ICMP reports, clocks do and operators clear: the tables
stay bounded and agree, what runtime was told to carry is what the visitor list says, nobody is
served who was not accepted, and nothing is sent that a foreign agent must not send.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.agents.foreign_lab import (
    HOME_AGENT,
    NODE,
    Bench,
    D,
    G,
    M,
    S,
    T,
    identification,
    reply,
    request,
)

from fastmip.agents.effects import Effect, Endpoint, InstallVisitor, RemoveVisitor, SendDatagram

NODES = st.integers(0, 5)
MACS = st.integers(0, 3)
FLAGS = st.sampled_from([0, T, T | S, T | M, G, T | G, D, D | T])
LIFETIMES = st.sampled_from([0, 1, 5, 60, 1800, 5000])


def mac(number: int) -> bytes:
    return (0x020000000100 + number).to_bytes(6, "big")


class ForeignMachine(RuleBasedStateMachine):
    """Nodes, home agents and an operator around one foreign agent."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(max_visitors=3, max_pending=6, max_pending_per_node=4)
        self.asked: list[tuple[int, int, int]] = []
        """Identification, home address and lifetime of what was relayed."""
        self.carried: set[int] = set()
        self.accepted: set[int] = set()

    def run(self, effects: list[Effect]) -> list[SendDatagram]:
        return self.bench.run(effects)

    def check(self, before: int) -> None:
        for effect in self.bench.effects[before:]:
            if isinstance(effect, InstallVisitor):
                assert effect.home_address in self.accepted
                self.carried.add(effect.home_address)
            elif isinstance(effect, RemoveVisitor):
                self.carried.discard(effect.home_address)

    @rule(node=NODES, by=MACS, flags=FLAGS, lifetime=LIFETIMES, ttl=st.sampled_from([255, 64]))
    def ask(self, node: int, by: int, flags: int, lifetime: int, ttl: int) -> None:
        before = len(self.bench.effects)
        number = identification()
        home = NODE + node
        data = request(number, home_address=home, flags=flags, lifetime=lifetime)
        sent = self.bench.ask(data, mac=mac(by), ttl=ttl, source=Endpoint(home, 40000))
        assert len(sent) <= 1
        for message in sent:
            if message.destination == Endpoint(HOME_AGENT, 434):
                assert message.data == data
                self.asked.append((number, home, lifetime))
            else:
                assert message.mac == mac(by)
                assert message.data[0] == 3
                assert 64 <= message.data[1] < 128
                assert len(message.data) <= len(data)
        self.check(before)

    @rule(
        which=st.integers(0, 30),
        code=st.sampled_from([0, 0, 0, 1, 131, 136]),
        granted=LIFETIMES,
        carried=st.booleans(),
    )
    def answer(self, which: int, code: int, granted: int, carried: bool) -> None:
        if not self.asked:
            return
        number, home, _ = self.asked[-1 - which % len(self.asked)]
        if code < 2:
            self.accepted.add(home)
        before = len(self.bench.effects)
        self.bench.carried = carried
        data = reply(number, home_address=home, code=code, lifetime=granted)
        sent = self.bench.answer(data)
        assert all(message.data[: len(data)] == data for message in sent)
        assert len(sent) <= 1
        self.check(before)

    @rule(node=NODES, flags=FLAGS, lifetime=LIFETIMES)
    def visit(self, node: int, flags: int, lifetime: int) -> None:
        """Asked and answered at once."""
        self.ask(node, 0, flags, lifetime, 255)
        self.answer(0, 0, lifetime, True)

    @rule(number=st.integers(0, 2**64 - 1), home=NODES)
    def forge(self, number: int, home: int) -> None:
        if all((number ^ known) & 0xFFFFFFFF for known, _, _ in self.asked):
            assert self.bench.answer(reply(number, home_address=NODE + home)) == []

    @rule(which=st.integers(0, 30), code=st.integers(0, 15))
    def report(self, which: int, code: int) -> None:
        if self.asked:
            number, home, lifetime = self.asked[which % len(self.asked)]
            quoted = request(number, home_address=home, lifetime=lifetime, flags=T)
            self.run(
                self.bench.agent.receive_report(
                    quoted[:24], Endpoint(HOME_AGENT, 434), 3, code, self.bench.now
                )
            )

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.5, 70.0]))
    def wait(self, seconds: float) -> None:
        before = len(self.bench.effects)
        for message in self.bench.tick(seconds):
            assert message.data[:2] == b"\x03\x4e"  # nothing but a registration timeout
        self.check(before)

    @rule(node=NODES)
    def clear(self, node: int) -> None:
        before = len(self.bench.effects)
        self.run(self.bench.agent.clear_visitor(NODE + node, self.bench.now))
        self.check(before)
        assert self.bench.agent.visitor(NODE + node) is None

    @rule(data=st.binary(max_size=60))
    def noise(self, data: bytes) -> None:
        before = len(self.bench.effects)
        self.bench.ask(data)
        self.bench.answer(data)
        self.check(before)

    @invariant()
    def tables_are_bounded_and_agree(self) -> None:
        agent = self.bench.agent
        visitors = {v.home_address for v in agent.visitors() if not v.colocated}
        assert visitors == self.carried
        assert len(visitors) <= 3 + 6  # the limit, and what was pending when it was reached
        pending = list(agent.pending())
        assert len(pending) <= 6 + 3
        assert len({entry.key for entry in pending}) == len(pending)
        assert sum(map(len, agent._pending._by_number.values())) == len(pending)
        assert sum(agent._pending._by_mac.values()) == len(pending)

    @invariant()
    def the_deadline_is_ahead_of_what_is_due(self) -> None:
        agent = self.bench.agent
        if list(agent.pending()) or self.carried:
            assert agent.next_deadline() is not None


TestForeignMachine = ForeignMachine.TestCase
TestForeignMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
