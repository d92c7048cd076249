"""Engines full of random bindings, and draws from them, for the engine's benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from fastmip import _dataplane
from fastmip.agents.bindings import TUNNEL_DTYPE

LOCAL = 0x0B010101
CORRESPONDENT = 0x09090909
DRAWS = 1 << 20
"""Addresses are redrawn for every batch from this many precomputed draws."""


METHODS: dict[str, dict[str, int]] = {
    "ipip": {"encapsulation": 4},
    "gre": {"encapsulation": 47},
    "minimal": {"encapsulation": 55},
    "udp": {"encapsulation": 4, "remote_port": 4434, "local_port": 434},
}
"""What a binding's tunnel record says, by the name used in benchmarks."""


@dataclass(frozen=True)
class World:
    """An engine with bindings and random (home address, care-of address) pairs out of them."""

    engine: _dataplane.Engine
    draws: npt.NDArray[np.uint32]
    bindings: int
    tunnel: bytes
    """One of the bindings."""


def records(bindings: int, seed: int = 1, method: str = "ipip") -> npt.NDArray[np.void]:
    """Random home addresses from 10.0.0.0 on, random care-of addresses, never expiring."""
    rng = np.random.default_rng(seed)
    spread = max(4 * bindings, 1 << 16)
    rows = np.zeros(bindings, dtype=TUNNEL_DTYPE)
    rows["home_address"] = 0x0A000001 + rng.permutation(spread)[:bindings]
    rows["remote"] = rng.integers(0xC0000000, 0xC7000000, bindings)
    rows["local"] = LOCAL
    for field, value in METHODS[method].items():
        rows[field] = value
    rows["flags"] = _dataplane.FLAG_REVERSE
    rows["expires_ns"] = 2**64 - 1
    return rows


@cache
def world(bindings: int, method: str = "ipip") -> World:
    """An engine with so many bindings of one encapsulation; made once per process."""
    rows = records(bindings, method=method)
    engine = _dataplane.Engine(max_bindings=bindings, local_addresses=[LOCAL])
    engine.restore(rows.tobytes())
    picked = rows[np.random.default_rng(2).integers(0, bindings, DRAWS)]
    draws = np.stack([picked["home_address"], picked["remote"]], axis=1).astype(np.uint32)
    return World(engine, draws, bindings, rows[:1].tobytes())


def replay(of: World, side: int, size: int, frames: int) -> _dataplane.Replay:
    """A pool of packets of ``size`` inner bytes over the world's draws."""
    return _dataplane.Replay(
        of.engine,
        side=side,
        size=size,
        frames=frames,
        draws=of.draws.tobytes(),
        tunnel=of.tunnel,
        correspondent=CORRESPONDENT,
    )
