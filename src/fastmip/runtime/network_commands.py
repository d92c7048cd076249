"""Rows of ``show mobile-networks``: whose prefix is whose, and where it leads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmip.runtime import clock
from fastmip.wire.addresses import format_address, format_network

if TYPE_CHECKING:
    from fastmip.runtime.home_service import HomeService


def network_rows(service: HomeService, limit: int) -> list[dict[str, object]]:
    """Mobile networks in the order of their prefixes; those of absent routers, too.

    ``state``: ``routed`` to a router that is away; ``remembered`` for a router that had it out of
    a pool; ``idle``, when the router it is configured for has not registered it.
    """
    agent, found = service.agent, dict[tuple[int, int], dict[str, object]]()
    now = clock.now()
    for home_address in agent.networks.routers():
        for held in agent.networks.held_by(home_address):
            if not held.routed and held.network in found:
                continue
            bindings = agent.bindings_of(home_address) if held.routed else []
            care_of = [b.care_of_address for b in bindings if b.expires_boot_ns > now.boot_ns]
            found[held.network] = {
                "network": format_network(*held.network),
                "home_address": format_address(home_address),
                "care_of_address": ", ".join(map(format_address, care_of)),
                "state": "routed" if held.routed else "remembered",
                "origin": "pool" if held.dynamic else "configured",
            }
    for network, home_address in service.hosts.networks().items():
        if network not in found:
            found[network] = {
                "network": format_network(*network),
                "home_address": format_address(home_address),
                "care_of_address": "",
                "state": "idle",
                "origin": "configured",
            }
    return [found[network] for network in sorted(found)[:limit]]
