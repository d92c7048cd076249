"""``show pool``: the pools of home addresses, and who has what out of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmip.runtime import clock
from fastmip.runtime.pool_config import pools_of, reserved_of
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from fastmip.runtime.config import HomeAgentConfig
    from fastmip.runtime.home_service import HomeService


def pool_answer(service: HomeService, limit: int) -> dict[str, object]:
    """A row for each pool, and one for each address that is kept for a node."""
    pools, now_ns = service.agent.addresses, clock.now().boot_ns
    given = pools.addresses()
    configured = service.hosts.configured()
    rows: list[dict[str, object]] = []
    for pool in pools.pools:
        used = sum(address in pool for address, _ in given)
        free = pools.size(pool) - used - sum(address in pool for address in configured)
        rows.append(
            {
                "pool": pool.name,
                "first": format_address(pool.first),
                "last": format_address(pool.last),
                "realms": ", ".join(realm.decode() for realm in pool.realms),
                "used": used,
                "free": max(free, 0),
            }
        )
    for address, nai in given[: max(limit - len(rows), 0)]:
        bindings = service.agent.bindings_of(address)
        is_away = any(binding.expires_boot_ns > now_ns for binding in bindings)
        rows.append(
            {
                "pool": next(pool.name for pool in pools.pools if address in pool),
                "home_address": format_address(address),
                "nai": nai.decode("ascii", errors="replace"),
                "state": "bound" if is_away else "kept",
            }
        )
    return {"rows": rows, "summary": {"used": len(given), "shown": len(rows)}}


def revise_pools(service: HomeService, section: HomeAgentConfig) -> list[int]:
    """Put the pools of a new file into force; returns the addresses that nobody has any more."""
    pools = service.agent.addresses
    lost = pools.set_pools(pools_of(section), reserved=reserved_of(section))
    for address, nai in pools.addresses():
        if service.hosts.is_static(address) or not service.hosts.gets_address(nai):
            pools.forget(address)
            lost.append(address)
    return lost
