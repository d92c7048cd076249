"""The home agent against a slow, obvious model, over random histories.

The model knows the words of RFC 5944 3.8.2.2 and 5.7.1 and nothing of caches, wheels or
records. Histories mix registrations, replays, delays, deregistrations, time, expiry, commits
that take long or fail, operators and restarts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.agents.home_lab import (
    CARE_OF,
    CARE_OF_2,
    CARE_OF_3,
    NODE,
    NTP_EPOCH,
    OTHER,
    OTHER_KEY,
    SECOND,
    D,
    Lab,
    S,
    codes,
    ntp,
)

from fastmip.agents.bindings import tunnel_records
from fastmip.agents.effects import (
    Commit,
    CommitOutcome,
    Effect,
    GratuitousArp,
    StartProxyArp,
    StopProxyArp,
)
from fastmip.agents.home_counters import (
    BAD_AUTHENTICATOR,
    CODE_COUNTERS,
    DUPLICATES,
    HELD_DUPLICATE,
    HELD_REPLACED,
    REQUESTS,
)

LIMIT = 2
ENDS = (
    *sorted(CODE_COUNTERS.values()),
    *(BAD_AUTHENTICATOR, DUPLICATES, HELD_DUPLICATE, HELD_REPLACED),
)
"""Counters of which every request of these histories ends in exactly one."""
WINDOW_S = 7
HELD_BEYOND_S = 3


@dataclass(frozen=True)
class Ask:
    """A request as the model sees it."""

    node: int
    care_of: int
    lifetime: int
    simultaneous: bool
    identification: int
    data: bytes


def seconds_of(identification: int) -> float:
    """Unix time of a timestamp."""
    return identification / 2**32 - NTP_EPOCH


@dataclass
class Known:
    """What the model knows of a node: care-of address, end, identification, newest first."""

    bindings: list[tuple[int, int, int]] = field(default_factory=list)
    mark: int = 0
    accepted_since_start: int = 0
    in_work: Ask | None = None
    becomes: list[tuple[int, int, int]] = field(default_factory=list)
    held: Ask | None = None
    denied_at: int | None = None


class HomeAgentMachine(RuleBasedStateMachine):
    """See the module's text."""

    @initialize(infinite=st.booleans())
    def begin(self, infinite: bool) -> None:
        self.lab = Lab(cache_nodes=16)
        self.lab.set_policy(simultaneous_bindings=LIMIT, max_lifetime_s=0xFFFF if infinite else 200)
        self.known = {NODE: Known(), OTHER: Known()}
        self.sent: list[Ask] = []
        self.commits: dict[int, Commit] = {}
        self.proxied: set[int] = set()
        self.held: float | None = None

    # the model ------------------------------------------------------------------------------

    def live(self, node: int) -> list[tuple[int, int, int]]:
        return [b for b in self.known[node].bindings if b[1] > self.lab.boot_ns]

    def may_deny(self, known: Known) -> bool:
        now = self.lab.boot_ns
        if known.denied_at is not None and known.denied_at > now - SECOND:
            return False
        known.denied_at = now
        return True

    def time_of_day(self, mark: int) -> float:
        """The wall clock, but never set back by more than a little, nor far behind a mark."""
        boot_s = self.lab.boot_ns / SECOND
        held = self.lab.wall_s - boot_s
        if self.held is not None and self.held - held > HELD_BEYOND_S:
            held = self.held
        if mark and seconds_of(mark) - boot_s - held > WINDOW_S + HELD_BEYOND_S:
            held = seconds_of(mark) - boot_s
        self.held = held
        return boot_s + held

    def judge(self, ask: Ask) -> tuple[list[int], list[tuple[int, int, int]] | None]:
        """Codes answered at once, and the new bindings if it is accepted."""
        known = self.known[ask.node]
        live = self.live(ask.node)
        near = abs(seconds_of(ask.identification) - self.time_of_day(known.mark)) <= WINDOW_S
        if not near or ask.identification <= known.mark:
            repeated = [
                b
                for b in live
                if (b[0], b[2]) == (ask.care_of, ask.identification)
                and b[1] - self.lab.boot_ns >= SECOND
            ]
            same = ask.identification == known.mark == known.accepted_since_start
            code = 0 if near and same and repeated and ask.lifetime else 133
            return ([code] if self.may_deny(known) else []), None
        if not ask.lifetime:
            if ask.care_of == ask.node:
                return [], []
            return [], [b for b in live if b[0] != ask.care_of]
        kept = [b for b in live if b[0] != ask.care_of] if ask.simultaneous else []
        if len(kept) + 1 > LIMIT:
            return ([135] if self.may_deny(known) else []), None
        granted = min(ask.lifetime, self.lab.policy.max_lifetime_s)
        end = 2**64 - 1 if granted == 0xFFFF else self.lab.boot_ns + granted * SECOND
        return [], [(ask.care_of, end, ask.identification), *kept]

    # driving --------------------------------------------------------------------------------

    def ask(self, node: int, care_of: int, lifetime: int, simultaneous: bool, late: float) -> Ask:
        identification = ntp(self.lab.wall_s - late)
        data = self.lab.request(
            home_address=node,
            care_of=care_of,
            lifetime=lifetime,
            flags=D | S if simultaneous else D,
            identification=identification,
        )
        made = Ask(node, care_of, lifetime, simultaneous, identification, data)
        self.sent.append(made)
        return made

    def deliver(self, ask: Ask) -> None:
        """Hand a request over; whatever is accepted stays in work."""
        known = self.known[ask.node]
        arrival = self.lab.arrival(ask.care_of)
        effects = self.lab.receive(ask.data, arrival)
        if known.in_work is not None:
            assert codes(effects) == []
            if ask.data == known.in_work.data:
                return
            if known.held is None or ask.identification > known.held.identification:
                known.held = ask
            return
        self.check(ask, effects)

    def check(self, ask: Ask, effects: list[Effect]) -> None:
        expected, becomes = self.judge(ask)
        known = self.known[ask.node]
        assert codes(effects) == expected
        commits = [e for e in effects if isinstance(e, Commit)]
        assert len(commits) == (becomes is not None)
        if becomes is None:
            return
        known.in_work, known.becomes = ask, becomes
        (self.commits[ask.node],) = commits
        assert [(t.remote, t.expires_ns) for t in commits[0].tunnels] == [
            (care_of, end) for care_of, end, _ in becomes
        ]

    def finish(self, node: int, outcome: CommitOutcome) -> None:
        known = self.known[node]
        ask = known.in_work
        assert ask is not None
        was_live = bool(self.live(node))
        self.lab.outcome = outcome
        effects = self.lab.finish(self.commits.pop(node))
        self.lab.outcome = CommitOutcome.COMMITTED
        known.in_work = None
        self.note_arp(effects)
        if outcome is CommitOutcome.COMMITTED:
            known.bindings = known.becomes
            known.mark = known.accepted_since_start = ask.identification
            assert codes(effects)[:1] == [0]
            rest = [e for e in effects if isinstance(e, Commit)]
            answered = codes(effects)[1:]
        else:
            expected = [130] if self.may_deny(known) else []
            assert codes(effects)[: len(expected)] == expected
            rest = [e for e in effects if isinstance(e, Commit)]
            answered = codes(effects)[len(expected) :]
            assert was_live == bool(self.live(node))
        held, known.held = known.held, None
        if held is None:
            assert rest == []
            assert answered == []
            return
        codes_now, becomes = self.judge(held)
        assert answered == codes_now
        commits = [e for e in rest if isinstance(e, Commit)]
        assert len(commits) == (becomes is not None)
        if becomes is not None:
            known.in_work, known.becomes = held, becomes
            (self.commits[node],) = commits

    def note_arp(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, StartProxyArp):
                self.proxied.add(effect.home_address)
            elif isinstance(effect, StopProxyArp):
                self.proxied.discard(effect.home_address)
            elif isinstance(effect, GratuitousArp):
                assert effect.mac is None  # Nobody deregisters over the home link here.

    # rules ----------------------------------------------------------------------------------

    @rule(
        node=st.sampled_from([NODE, OTHER]),
        care_of=st.sampled_from([CARE_OF, CARE_OF_2, CARE_OF_3]),
        lifetime=st.sampled_from([0, 1, 5, 30, 300, 0xFFFF]),
        simultaneous=st.booleans(),
        late=st.sampled_from([0.0, 0.5, -0.5, 3.0, -3.0, 9.0, -9.0]),
        outcome=st.sampled_from([CommitOutcome.COMMITTED, *CommitOutcome]),
        quick=st.booleans(),
    )
    def register(self, outcome: CommitOutcome, quick: bool, **fields: Any) -> None:
        ask = self.ask(**fields)
        self.deliver(ask)
        if quick and self.known[ask.node].in_work is ask:
            self.finish(ask.node, outcome)

    @rule(node=st.sampled_from([NODE, OTHER]), late=st.sampled_from([0.0, 1.0]))
    def go_home(self, node: int, late: float) -> None:
        self.deliver(self.ask(node, node, 0, False, late))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        self.deliver(data.draw(st.sampled_from(self.sent[-6:])))

    @precondition(lambda self: self.commits)
    @rule(data=st.data(), outcome=st.sampled_from([CommitOutcome.COMMITTED, *CommitOutcome]))
    def end_commit(self, data: st.DataObject, outcome: CommitOutcome) -> None:
        self.finish(data.draw(st.sampled_from(sorted(self.commits))), outcome)

    @rule(node=st.sampled_from([NODE, OTHER]))
    def forge(self, node: int) -> None:
        forged = self.lab.request(home_address=node, key=OTHER_KEY)
        assert codes(self.lab.receive(forged)) == []

    @rule(seconds=st.sampled_from([1, 2, 5, 29, 100, 70000]))
    def pass_time(self, seconds: int) -> None:
        for _ in range(min(seconds, 3)):
            self.note_arp(self.lab.pass_time(seconds // min(seconds, 3)))

    @rule(step_s=st.sampled_from([-4, 4, -2, -3600, 3600]))
    def step_wall_clock(self, step_s: int) -> None:
        self.lab.wall_ns += step_s * SECOND

    @rule(node=st.sampled_from([NODE, OTHER]))
    def operator_clears(self, node: int) -> None:
        if node in self.commits:
            return
        self.note_arp(self.lab.carry_out(self.lab.agent.clear_binding(node, self.lab.now)))
        self.known[node].bindings = []

    @rule()
    def restart(self) -> None:
        """Memory and commits under way are lost, the store is not."""
        self.lab.start()
        rows = b"".join(row.bindings for row in self.lab.rows.values())
        tunnels = tunnel_records(
            rows, boot=self.lab.boot, now=self.lab.now, mtu_bytes=1500, reverse_flag=1
        )
        self.lab.agent.schedule_expiries(tunnels)
        self.commits = {}
        self.held = None
        self.proxied = set(tunnels["home_address"].tolist())
        for node, known in self.known.items():
            known.bindings = self.live(node)
            known.in_work = known.held = known.denied_at = None
            known.accepted_since_start = 0
            if not known.bindings:
                self.lab.tunnels.pop(node, None)

    def settled(self) -> bool:
        """No removal is due or was put off behind a commit."""
        deadline = self.lab.agent.next_deadline()
        return deadline is None or deadline > self.lab.boot_ns + SECOND

    # what must always hold ------------------------------------------------------------------

    @invariant()
    def engine_and_store_agree_with_the_model(self) -> None:
        if not hasattr(self, "known"):
            return
        now = self.lab.boot_ns
        for node, known in self.known.items():
            chain = self.lab.tunnels.get(node, ())
            assert [(t.remote, t.expires_ns) for t in chain if t.expires_ns > now] == [
                (care_of, end) for care_of, end, _ in self.live(node)
            ]
            row = self.lab.rows.get(node)
            assert (row.identification if row else 0) == known.mark
            if node not in self.commits and self.settled():
                assert (node in self.proxied) == bool(self.live(node))
        counted = self.lab.agent.counters()
        waiting = sum((k.in_work is not None) + (k.held is not None) for k in self.known.values())
        assert counted[REQUESTS] == sum(counted[name] for name in ENDS) + waiting
        if not self.commits and self.settled():
            total = sum(len(self.live(node)) for node in self.known)
            assert self.lab.count("haBindings") == total


HomeAgentMachine.TestCase.settings = settings(stateful_step_count=50)
TestHomeAgentMachine = HomeAgentMachine.TestCase
