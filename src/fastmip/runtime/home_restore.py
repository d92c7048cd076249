"""Fill the engine with the bindings of the store when a home agent starts."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastmip.agents.bindings import TUNNEL_DTYPE, tunnel_records
from fastmip.errors import EngineFull
from fastmip.runtime.logging import get_logger
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from fastmip._dataplane import Engine
    from fastmip.agents.effects import Now
    from fastmip.runtime.home_pipeline import Prepared
    from fastmip.runtime.path_mtu import PathMtu
    from fastmip.runtime.store import Store

_MTU_LOOKUPS = 20_000
"""Path MTU look-ups of a restart: 50 ms; beyond, the configured bound has to do."""

log = get_logger("home-agent")


def restore_bindings(
    store: Store[Prepared], engine: Engine, path_mtu: PathMtu, started: Now, tos_mode: int
) -> npt.NDArray[np.void]:
    """Tunnel records of all stored bindings, as far as the engine took them."""
    restored = [np.zeros(0, dtype=TUNNEL_DTYPE)]
    for chunk in store.chunks():
        tunnels = tunnel_records(
            chunk,
            boot=store.boot.id,
            now=started,
            anchor=store.boot.anchor,
            mtu_bytes=path_mtu.upper_bytes,
            tos_mode=tos_mode,
        )
        tunnels["mtu"] = _path_mtus(path_mtu, tunnels["remote"])
        restored.append(_install(engine, tunnels))
    return np.concatenate(restored)


def _install(engine: Engine, tunnels: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Fill the engine; returns what it took. A bad record costs its own node only."""
    try:
        engine.restore(tunnels.tobytes())
    except (EngineFull, ValueError) as error:
        log.error("restore-in-part", reason=str(error))  # noqa: TRY400 - the reason says it
    else:
        return tunnels
    starts = np.flatnonzero(np.diff(tunnels["home_address"], prepend=0)).tolist()
    taken = np.zeros(len(tunnels), dtype=bool)
    for start, end in itertools.pairwise([*starts, len(tunnels)]):
        with contextlib.suppress(EngineFull, ValueError):
            engine.publish(engine.prepare(tunnels[start:end].tobytes()))
            taken[start:end] = True
    lost = tunnels[~taken]["home_address"][:10]
    log.error(
        "bindings-not-restored",
        count=int((~taken).sum()),
        first=", ".join(format_address(address) for address in lost.tolist()),
        remedy="raise engine.max_bindings, or let these nodes register again",
    )
    return tunnels[taken]


def _path_mtus(path_mtu: PathMtu, remotes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    """Path MTUs of many care-of addresses; one look-up for neighbours in a /24."""
    networks, where = np.unique(remotes >> np.uint32(8), return_inverse=True)
    if len(networks) > _MTU_LOOKUPS:
        return np.full(len(remotes), path_mtu.upper_bytes, dtype=np.uint16)
    lookup = path_mtu.lookup_bytes
    found = [lookup((network << 8) | 1) for network in networks.tolist()]
    return np.array(found, dtype=np.uint16)[where]
