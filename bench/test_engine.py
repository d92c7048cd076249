"""The engine's figures under pytest-benchmark: ``pytest bench`` (a round = a million packets)."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.engine_world import replay, world
from fastmip import _dataplane

PACKETS = 1 << 20
ROUNDS = 5


@pytest.mark.parametrize("size", [64, 576, 1400])
@pytest.mark.parametrize("side", [_dataplane.HOME, _dataplane.TUNNEL], ids=["encap", "decap"])
def test_tunnel(benchmark: BenchmarkFixture, side: int, size: int) -> None:
    pool = replay(world(100_000), side, size, 512)
    many = {"packets": PACKETS}
    _, sent, left = benchmark.pedantic(pool.run, kwargs=many, rounds=ROUNDS)  # type: ignore[no-untyped-call]
    assert sent == left == PACKETS


@pytest.mark.parametrize("bindings", [1_000, 100_000, 1_000_000])
def test_lookup(benchmark: BenchmarkFixture, bindings: int) -> None:
    pool = replay(world(bindings), _dataplane.HOME, 64, 512)
    many = {"lookups": PACKETS}
    _, lookups, found = benchmark.pedantic(pool.lookup, kwargs=many, rounds=ROUNDS)  # type: ignore[no-untyped-call]
    assert lookups == found == PACKETS
