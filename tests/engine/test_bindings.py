"""The binding cache as the control thread uses it: prepare, publish, abandon, remove, extend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.engine.lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_AGENT,
    NODE,
    OTHER_CARE_OF,
    a,
    assert_balanced,
    engine_for,
)
from tests.reference.encapsulations import Method
from tests.reference.ipv4 import Header, header
from tests.reference.tunnels import HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane
from fastmip.agents import bindings as python
from fastmip.agents.bindings import TUNNEL_DTYPE, TUNNEL_RECORD
from fastmip.errors import EngineFull


def make(max_bindings: int = 64, role: str = "home-agent") -> _dataplane.Engine:
    """An empty engine."""
    return _dataplane.Engine(
        max_bindings=max_bindings, role=role, local_addresses=[HOME_AGENT], icmp_burst=10_000
    )


def record(home: int = NODE, remote: int = CARE_OF, **fields: int) -> bytes:
    """One tunnel record."""
    return Binding(remote, HOME_AGENT, **fields).record(home)  # type: ignore[arg-type]


def reached(engine: _dataplane.Engine, home: int, now_ns: int = 0) -> list[int]:
    """Care-of addresses a packet to this home address leaves for."""
    port = _dataplane.MemoryPort(engine)
    port.inject(HOME, [header(CORRESPONDENT, home, 17, 0)], now_ns=now_ns)
    assert_balanced(engine)
    return [Header(packet).destination for packet in port.take(TUNNEL)]


def test_the_record_and_its_flags_are_python_s_too() -> None:
    assert _dataplane.TUNNEL_RECORD_SIZE == TUNNEL_RECORD.size == TUNNEL_DTYPE.itemsize == 40
    names = ("REVERSE", "FIRST_ONLY", "BROADCAST", "NESTED", "GRE_KEY")
    for name in names:
        assert getattr(_dataplane, f"FLAG_{name}") == getattr(python, f"RECORD_{name}")


def test_nothing_is_visible_before_publish() -> None:
    engine = make()
    ticket = engine.prepare(record())
    assert (engine.bindings(), reached(engine, NODE)) == (0, [])
    engine.publish(ticket)
    assert (engine.bindings(), reached(engine, NODE)) == (1, [CARE_OF])


def test_a_move_replaces_the_chain() -> None:
    engine = make()
    engine.restore(record())
    ticket = engine.prepare(record(remote=OTHER_CARE_OF))
    assert reached(engine, NODE) == [CARE_OF]
    engine.publish(ticket)
    assert (engine.bindings(), reached(engine, NODE)) == (1, [OTHER_CARE_OF])


def test_abandon_leaves_the_old_chain() -> None:
    engine = make()
    engine.restore(record())
    engine.abandon(engine.prepare(record(remote=OTHER_CARE_OF)))
    assert (engine.bindings(), reached(engine, NODE)) == (1, [CARE_OF])


def test_tickets_are_good_for_one_use() -> None:
    engine = make()
    ticket = engine.prepare(record())
    engine.publish(ticket)
    for use in (engine.publish, engine.abandon):
        with pytest.raises(KeyError):
            use(ticket)


def test_two_prepared_chains_of_one_node_do_not_disturb_each_other() -> None:
    engine = make()
    first, second = engine.prepare(record()), engine.prepare(record(remote=OTHER_CARE_OF))
    engine.abandon(first)
    assert not engine.remove(NODE)
    engine.publish(second)
    assert reached(engine, NODE) == [OTHER_CARE_OF]
    assert engine.remove(NODE)
    assert (engine.bindings(), reached(engine, NODE)) == (0, [])


def test_removal_while_a_chain_is_prepared() -> None:
    engine = make()
    engine.restore(record())
    ticket = engine.prepare(record(remote=OTHER_CARE_OF))
    assert engine.remove(NODE)
    assert reached(engine, NODE) == []
    engine.publish(ticket)
    assert reached(engine, NODE) == [OTHER_CARE_OF]


def test_simultaneous_bindings_get_a_copy_each_rfc5944_4_2_3() -> None:
    engine = make()
    remotes = [a("10.3.0.1") + number for number in range(8)]
    engine.restore(b"".join(record(remote=remote) for remote in remotes))
    assert engine.bindings() == 8
    assert reached(engine, NODE) == remotes
    assert engine.balance() == {"inputs": 1, "generated": 0, "copies": 7, "verdicts": 8}


def test_expired_bindings_get_no_copy_and_the_last_makes_the_node_at_home() -> None:
    engine = make()
    engine.restore(record(expires_ns=50) + record(remote=OTHER_CARE_OF, expires_ns=60))
    assert reached(engine, NODE, now_ns=49) == [CARE_OF, OTHER_CARE_OF]
    assert reached(engine, NODE, now_ns=50) == [OTHER_CARE_OF]
    assert reached(engine, NODE, now_ns=60) == []
    assert engine.counters()["returned-expired"][0] == 1
    assert engine.extend(NODE, CARE_OF, 100)
    assert not engine.extend(NODE, HOME_AGENT, 100)
    assert not engine.extend(CORRESPONDENT, CARE_OF, 100)
    assert reached(engine, NODE, now_ns=60) == [CARE_OF]


def test_a_mobile_node_sends_on_the_first_record_and_hears_all_of_them() -> None:
    chain = [Binding(HOME_AGENT, CARE_OF), Binding(HOME_AGENT, OTHER_CARE_OF)]
    engine = engine_for(Twin("mobile-node", (), {NODE: chain}))
    port = _dataplane.MemoryPort(engine)
    assert port.inject(HOME, [header(NODE, CORRESPONDENT, 17, 0)]) == ["encapsulated"]
    assert [Header(p).source for p in port.take(TUNNEL)] == [CARE_OF]
    for care_of in (CARE_OF, OTHER_CARE_OF):
        inner = header(CORRESPONDENT, NODE, 17, 0)
        tunnelled = header(HOME_AGENT, care_of, 4, 20) + inner
        assert port.inject(TUNNEL, [tunnelled]) == ["decapsulated"]
        assert port.take(HOME) == [inner]


@pytest.mark.parametrize("encapsulation", [4, 47])
def test_a_mobile_node_hears_but_does_not_use_what_was_only_asked_for(encapsulation: int) -> None:
    method = Method(encapsulation)
    chain = [Binding(HOME_AGENT, CARE_OF, reverse=False, method=method)]
    engine = engine_for(Twin("mobile-node", (), {NODE: chain}))
    port = _dataplane.MemoryPort(engine)
    assert port.inject(HOME, [header(NODE, CORRESPONDENT, 17, 0)] * 3) == ["drop-not-granted"] * 3
    inner = header(CORRESPONDENT, NODE, 17, 0)
    assert port.inject(TUNNEL, [chain[0].wrap(inner)]) == ["drop-care-of-address"]
    back = Binding(CARE_OF, HOME_AGENT, method=method)
    assert port.inject(TUNNEL, [back.wrap(inner)]) == ["decapsulated"]
    granted = replace(chain[0], reverse=True)
    engine.publish(engine.prepare(granted.record(NODE)))
    assert port.inject(HOME, [header(NODE, CORRESPONDENT, 17, 0)]) == ["encapsulated"]


@pytest.mark.parametrize("destination", ["224.0.0.1", "255.255.255.255"])
def test_broadcast_and_multicast_reach_a_mobile_node_from_its_home_agent_only(
    destination: str,
) -> None:
    twin = Twin("mobile-node", (CARE_OF,), {NODE: [Binding(HOME_AGENT, CARE_OF)]})
    port = _dataplane.MemoryPort(engine_for(twin))
    inner = header(CORRESPONDENT, a(destination), 17, 0)
    from_home_agent = header(HOME_AGENT, CARE_OF, 4, 20) + inner
    from_elsewhere = header(CORRESPONDENT, CARE_OF, 4, 20) + inner
    verdicts = port.inject(TUNNEL, [from_home_agent, from_elsewhere])
    assert verdicts == ["decapsulated", "drop-no-binding"]
    assert port.take(HOME) == [inner]


def test_full_is_refused_and_a_full_cache_still_moves_and_frees() -> None:
    engine = make(max_bindings=10)
    homes = [NODE + number for number in range(10)]
    engine.restore(b"".join(record(home) for home in homes))
    with pytest.raises(EngineFull):
        engine.prepare(record(NODE + 10))
    with pytest.raises(EngineFull):
        engine.restore(record(NODE + 10))
    for _ in range(10_000):  # many more moves than lines: retired ones must come back
        engine.publish(engine.prepare(record(homes[3], OTHER_CARE_OF)))
    with pytest.raises(EngineFull):
        engine.prepare(record(homes[3]) + record(homes[3], OTHER_CARE_OF))
    assert engine.remove(homes[0])
    engine.publish(engine.prepare(record(NODE + 10)))
    assert reached(engine, NODE + 10) == [CARE_OF]
    assert reached(engine, homes[0]) == []


def test_memory_does_not_grow_with_moves() -> None:
    engine = make(max_bindings=1000)
    engine.restore(b"".join(record(NODE + number) for number in range(1000)))
    for _ in range(5000):
        engine.publish(engine.prepare(record(remote=OTHER_CARE_OF)))
    before = engine.memory_bytes()
    for _ in range(5000):
        engine.publish(engine.prepare(record()))
        engine.abandon(engine.prepare(record()))
    assert engine.memory_bytes() == before


def test_traffic_counts_each_tunnel_and_starts_at_zero_after_reuse() -> None:
    engine = make()
    engine.restore(record())
    for _ in range(3):
        reached(engine, NODE)
    (row,) = engine.traffic(NODE)
    assert (row["sent_packets"], row["sent_bytes"], row["remote"]) == (3, 60, CARE_OF)
    engine.remove(NODE)
    assert engine.traffic(NODE) == []
    for number in range(40):  # the old line is reused by one of these
        engine.restore(record(NODE + number))
        assert engine.traffic(NODE + number)[0]["sent_packets"] == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"remote": NODE}, "remote tunnel end is the home address"),
        ({"remote": HOME_AGENT}, "both tunnel ends are the same"),
        ({"remote": a("224.0.0.1")}, "tunnel end is no unicast host"),
        ({"home": a("127.0.0.1")}, "home address is no unicast host"),
        ({"home": 0}, "home address is no unicast host"),
        ({"mtu": 67}, "path MTU is below 68"),
    ],
)
def test_impossible_records_are_refused_by_name(fields: dict[str, int], reason: str) -> None:
    engine = make()
    with pytest.raises(ValueError, match=reason):
        engine.prepare(record(**fields))
    with pytest.raises(ValueError, match=f"record 1: {reason}"):
        engine.restore(record() + record(**fields))
    assert engine.bindings() == int("home" in fields)  # records before a bad chain stay


@pytest.mark.parametrize("size", [0, 39, 41, 40 * 9])
def test_records_of_wrong_size_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="no 1 to 8 tunnel records"):
        make().prepare(bytes(size))


def test_records_of_two_nodes_in_one_chain_are_refused() -> None:
    with pytest.raises(ValueError, match="another home address"):
        make().prepare(record() + record(NODE + 1))


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_bindings": 0},
        {"max_bindings": 1 << 28},
        {"max_bindings": 1, "role": "correspondent"},
        {"max_bindings": 1, "workers": 0},
        {"max_bindings": 1, "workers": 1000},
        {"max_bindings": 1, "local_addresses": [1] * 65},
    ],
)
def test_impossible_engines_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected|at most"):
        _dataplane.Engine(**arguments)  # type: ignore[arg-type]


# mobile networks


def test_longest_prefix_leads_to_its_router_and_a_move_moves_all() -> None:
    engine = make()
    engine.restore(record())
    engine.set_prefix(a("10.2.0.0"), 16, NODE)
    engine.set_prefix(a("10.2.8.0"), 24, NODE + 1)
    engine.set_prefix(a("10.2.8.128"), 25, NODE)
    assert reached(engine, a("10.2.1.1")) == [CARE_OF]
    assert reached(engine, a("10.2.8.1")) == []  # its router is at home
    assert reached(engine, a("10.2.8.200")) == [CARE_OF]
    engine.publish(engine.prepare(record(remote=OTHER_CARE_OF)))
    assert reached(engine, a("10.2.8.200")) == [OTHER_CARE_OF]
    assert engine.clear_prefix(a("10.2.8.0"), 24)
    assert not engine.clear_prefix(a("10.2.8.0"), 24)
    assert reached(engine, a("10.2.8.1")) == [OTHER_CARE_OF]


def test_a_source_in_the_prefix_may_use_the_routers_tunnel_rfc5177_6_5() -> None:
    engine = make()
    engine.restore(record())
    engine.set_prefix(a("10.2.8.0"), 24, NODE)
    port = _dataplane.MemoryPort(engine)
    inside = header(a("10.2.8.20"), CORRESPONDENT, 17, 0)
    outside = header(a("10.2.9.20"), CORRESPONDENT, 17, 0)
    packets = [header(CARE_OF, HOME_AGENT, 4, 20) + inner for inner in (inside, outside)]
    assert port.inject(TUNNEL, packets) == ["decapsulated", "drop-no-binding"]


@pytest.mark.parametrize(
    ("prefix", "length"), [("10.0.0.0", 0), ("10.0.0.1", 24), ("10.0.0.0", 33)]
)
def test_bad_prefixes_are_refused(prefix: str, length: int) -> None:
    with pytest.raises(ValueError, match="prefix"):
        make().set_prefix(a(prefix), length, NODE)


PREFIXES = st.tuples(st.integers(0, 0xFFFF), st.integers(16, 32)).map(
    lambda p: ((0x0A020000 | p[0]) & ~((1 << (32 - p[1])) - 1), p[1])
)


class PrefixTable(RuleBasedStateMachine):
    """Set and clear nested prefixes: always the longest match of a plain dict."""

    @initialize()
    def empty(self) -> None:
        self.engine = make()
        self.engine.restore(b"".join(record(NODE + n, CARE_OF + n) for n in range(8)))
        self.model: dict[tuple[int, int], int] = {}

    @rule(prefix=PREFIXES, router=st.integers(0, 7))
    def set_prefix(self, prefix: tuple[int, int], router: int) -> None:
        self.engine.set_prefix(*prefix, NODE + router)
        self.model[prefix] = CARE_OF + router

    @rule(prefix=PREFIXES, data=st.data())
    def clear(self, prefix: tuple[int, int], data: st.DataObject) -> None:
        if self.model:
            prefix = data.draw(st.sampled_from([prefix, *self.model]))
        assert self.engine.clear_prefix(*prefix) == (self.model.pop(prefix, None) is not None)

    @rule(low=st.integers(0, 0xFFFF))
    def look(self, low: int) -> None:
        address = 0x0A020000 | low
        matches = [p for p in self.model if p[0] == address & ~((1 << (32 - p[1])) - 1)]
        expected = [self.model[max(matches, key=lambda p: p[1])]] if matches else []
        assert reached(self.engine, address) == expected


PrefixTable.TestCase.settings = settings(max_examples=30, stateful_step_count=30)
TestPrefixTable = PrefixTable.TestCase


class CacheAgainstDict(RuleBasedStateMachine):
    """Random changes in a tiny cache, where buckets overflow, against a dict."""

    homes = st.integers(1, 40).map(lambda n: 0x0A000000 + n)
    remotes = st.integers(1, 250).map(lambda n: 0x0B000000 + n)

    @initialize()
    def empty(self) -> None:
        self.engine = make(max_bindings=20)
        self.model: dict[int, list[int]] = {}
        self.prepared: dict[int, tuple[int, list[int]]] = {}

    @rule(home=homes, chain=st.lists(remotes, min_size=1, max_size=3))
    def prepare(self, home: int, chain: list[int]) -> None:
        try:
            ticket = self.engine.prepare(b"".join(record(home, remote) for remote in chain))
        except EngineFull:
            held = sum(map(len, self.model.values()))
            waiting = sum(len(chain) for _, chain in self.prepared.values())
            assert held + waiting + len(chain) > 20 + len(self.model.get(home, []))
            return
        self.prepared[ticket] = (home, chain)

    @rule(data=st.data(), keep=st.booleans())
    def settle(self, data: st.DataObject, keep: bool) -> None:
        if not self.prepared:
            return
        ticket = data.draw(st.sampled_from(sorted(self.prepared)))
        home, chain = self.prepared.pop(ticket)
        if keep:
            self.engine.publish(ticket)
            self.model[home] = chain
        else:
            self.engine.abandon(ticket)

    @rule(home=homes)
    def remove(self, home: int) -> None:
        assert self.engine.remove(home) == (self.model.pop(home, None) is not None)

    @invariant()
    def every_address_answers_as_the_dict(self) -> None:
        if not hasattr(self, "engine"):
            return
        assert self.engine.bindings() == sum(map(len, self.model.values()))
        for number in range(1, 41):
            home = 0x0A000000 + number
            rows = self.engine.traffic(home)
            assert [row["remote"] for row in rows] == self.model.get(home, [])
        port = _dataplane.MemoryPort(self.engine)
        port.inject(HOME, [header(CORRESPONDENT, 0x0A000000 + n, 17, 0) for n in range(1, 41)])
        left = [Header(p) for p in port.take(TUNNEL)]
        expected = [remote for chain in self.model.values() for remote in chain]
        assert sorted(p.destination for p in left) == sorted(expected)


CacheAgainstDict.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestCacheAgainstDict = CacheAgainstDict.TestCase


@pytest.mark.parametrize("scalar", [False, True])
def test_a_crowded_cache_finds_every_binding(scalar: bool) -> None:
    rng = np.random.default_rng(7)
    homes = (0x0B000001 + rng.permutation(1 << 20)[:50_000]).tolist()
    engine = make(max_bindings=50_000)
    engine.use_scalar_loops(scalar)
    engine.restore(b"".join(record(home) for home in homes))
    for home in homes[:25_000]:
        assert engine.remove(home)
    port = _dataplane.MemoryPort(engine)
    packets = [header(CORRESPONDENT, home, 17, 0) for home in homes]
    verdicts = port.inject(HOME, packets)
    assert verdicts == ["returned-no-binding"] * 25_000 + ["encapsulated"] * 25_000


def test_an_expired_binding_lets_nothing_in() -> None:
    engine = make()
    engine.restore(record(expires_ns=50) + record(remote=OTHER_CARE_OF, expires_ns=60))
    port = _dataplane.MemoryPort(engine)
    inner = header(NODE, CORRESPONDENT, 17, 0)
    packets = [header(remote, HOME_AGENT, 4, 20) + inner for remote in (CARE_OF, OTHER_CARE_OF)]
    assert port.inject(TUNNEL, packets, now_ns=49) == ["decapsulated"] * 2
    assert port.inject(TUNNEL, packets, now_ns=50) == ["drop-expired", "decapsulated"]
    assert port.inject(TUNNEL, packets, now_ns=60) == ["drop-expired"] * 2


@pytest.mark.parametrize("words", range(11))
def test_headers_that_leave_no_room_for_eight_octets_are_refused(words: int) -> None:
    engine = make()
    engine.restore(record(mtu=68))
    port = _dataplane.MemoryPort(engine)
    options = b"\x94\x04\0\0" * words
    packet = header(CORRESPONDENT, NODE, 17, 100, options=options) + bytes(100)
    expected = "encapsulated-fragments" if 20 + 4 * words + 8 <= 48 else "drop-too-big"
    assert port.inject(HOME, [packet]) == [expected]
    assert all(len(left) <= 68 for left in port.take(TUNNEL))
