"""What an operator sees: verdicts, events, cost per stage; and own addresses by the dozen."""

from __future__ import annotations

import pytest
from tests.engine.lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_AGENT,
    NODE,
    assert_balanced,
    engine_for,
)
from tests.reference.ipv4 import header
from tests.reference.tunnels import HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane

TWIN = Twin("home-agent", (HOME_AGENT,), {NODE: [Binding(CARE_OF, HOME_AGENT)]})
TO_NODE = header(CORRESPONDENT, NODE, 17, 10) + bytes(10)
FROM_NODE = header(CARE_OF, HOME_AGENT, 4, 20) + header(NODE, CORRESPONDENT, 17, 0)


def test_packets_and_bytes_per_verdict() -> None:
    engine = engine_for(TWIN)
    port = _dataplane.MemoryPort(engine)
    port.inject(HOME, [TO_NODE] * 70 + [TO_NODE[:19]])
    port.inject(TUNNEL, [FROM_NODE] * 3)
    counters = {name: pair for name, pair in engine.counters().items() if pair[0]}
    assert counters == {
        "encapsulated": (70, 70 * 30),
        "drop-truncated": (1, 19),
        "decapsulated": (3, 60),
    }
    assert engine.balance() == {"inputs": 74, "generated": 0, "copies": 0, "verdicts": 74}
    engine.clear_counters()
    assert not any(packets for packets, _ in engine.counters().values())
    assert set(engine.balance().values()) == {0}
    assert engine.traffic(NODE)[0]["sent_packets"] == 70  # traffic is not cleared


def test_every_verdict_is_a_counter() -> None:
    engine = engine_for(TWIN)
    assert list(engine.counters()) == [name for name, _, _ in _dataplane.verdicts()]
    assert list(engine.events()) == [name for name, _, _ in _dataplane.event_names()]


def test_stages_count_every_batch_and_cost_is_sampled() -> None:
    engine = engine_for(TWIN)
    port = _dataplane.MemoryPort(engine)
    for _ in range(200):
        port.inject(HOME, [TO_NODE] * 10)
        port.inject(TUNNEL, [FROM_NODE] * 5)
    stages = engine.stages()
    assert list(stages) == ["rx", "check", "lookup", "encapsulate", "decapsulate", "tx"]
    counted = {name: (cost["calls"], cost["packets"]) for name, cost in stages.items()}
    assert counted == {
        "rx": (0, 0),
        "check": (400, 3000),
        "lookup": (400, 3000),
        "encapsulate": (200, 2000),
        "decapsulate": (200, 1000),
        "tx": (0, 0),
    }
    assert stages["check"]["ns_per_packet"] > 0
    assert stages["lookup"]["ns_per_packet"] > 0
    assert stages["encapsulate"]["ns_per_packet"] > 0, "a batch of each direction was sampled"
    assert stages["decapsulate"]["ns_per_packet"] > 0


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64])
def test_every_own_address_is_known(count: int, scalar: bool) -> None:
    own = tuple(HOME_AGENT + 256 * number for number in range(count))
    twin = Twin("home-agent", own, {NODE: [Binding(CARE_OF, HOME_AGENT)]})
    engine = engine_for(twin, scalar=scalar)
    port = _dataplane.MemoryPort(engine)
    packets = [header(address, NODE, 17, 0) for address in own]
    assert port.inject(HOME, packets) == ["drop-loop-own-source"] * count
    assert port.inject(HOME, [header(HOME_AGENT - 1, NODE, 17, 0)]) == ["encapsulated"]
    assert_balanced(engine)


def test_the_loops_in_use_are_named() -> None:
    engine = engine_for(TWIN, scalar=True)
    assert engine.loops() == "scalar"
    engine.use_scalar_loops(False)
    assert engine.loops() in {"avx2", "scalar"}
