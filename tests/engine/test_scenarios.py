"""The catalogue of scenarios through the memory port: bytes, verdicts, counters, balance."""

from __future__ import annotations

import pytest
from tests.engine.lab import assert_balanced, engine_for
from tests.reference.tunnels import HOME, TUNNEL
from tests.scenarios.catalogue import Scenario, number
from tests.scenarios.everything import scenarios

from fastmip import _dataplane


@pytest.mark.parametrize("scalar", [False, True], ids=["simd", "scalar"])
@pytest.mark.parametrize("scenario", scenarios(), ids=lambda s: s.name)
def test_scenario(scenario: Scenario, scalar: bool) -> None:
    engine = engine_for(scenario.node, scalar=scalar)
    for prefix, length, router in scenario.prefixes:
        engine.set_prefix(number(prefix), length, number(router))
    port = _dataplane.MemoryPort(engine, done=scenario.node.done)
    packets = [bytes(packet) for packet in scenario.packets]
    assert port.inject(scenario.side, packets, now_ns=1) == scenario.verdicts
    assert port.take(HOME) == [bytes(packet) for packet in scenario.home]
    assert port.take(TUNNEL) == [bytes(packet) for packet in scenario.tunnel]
    expected = dict(scenario.extra)
    for verdict in scenario.verdicts:
        expected[verdict] = expected.get(verdict, 0) + 1
    assert {name: n for name, (n, _) in engine.counters().items() if n} == expected
    assert {name: n for name, n in engine.events().items() if n} == scenario.events
    assert_balanced(engine)


def test_names_are_unique() -> None:
    names = [scenario.name for scenario in scenarios()]
    assert len(names) == len(set(names))
