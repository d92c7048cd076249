"""Ten million bindings: all found, within 300 bytes each, still movable."""

from __future__ import annotations

import numpy as np
import pytest
from bench.engine_world import CORRESPONDENT, LOCAL, records

from fastmip import _dataplane
from fastmip.agents.bindings import TUNNEL_DTYPE
from fastmip.errors import EngineFull

TEN_MILLION = 10_000_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_million_bindings() -> None:
    rows = records(TEN_MILLION)
    engine = _dataplane.Engine(max_bindings=TEN_MILLION, local_addresses=[LOCAL])
    engine.restore(rows.data)
    assert engine.bindings() == TEN_MILLION
    picked = rows[np.random.default_rng(3).integers(0, TEN_MILLION, 1 << 20)]
    draws = np.stack([picked["home_address"], picked["remote"]], axis=1).astype(np.uint32)
    source = _dataplane.Replay(
        engine,
        side=_dataplane.HOME,
        size=64,
        frames=512,
        draws=draws.data,
        tunnel=rows[:1].tobytes(),
        correspondent=CORRESPONDENT,
    )
    _, lookups, found = source.lookup(lookups=1 << 20)
    assert found == lookups
    _, sent, left = source.run(packets=1 << 20)
    assert left == sent
    assert engine.memory_bytes() / TEN_MILLION <= 300
    one = np.zeros(1, dtype=TUNNEL_DTYPE)
    one[:] = rows[0]
    one["remote"] += 1
    engine.publish(engine.prepare(one.data))
    assert engine.traffic(int(one["home_address"][0]))[0]["remote"] == one["remote"][0]
    one["home_address"] = 0x01020304
    with pytest.raises(EngineFull):
        engine.prepare(one.data)
