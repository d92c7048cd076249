"""Routers within routers: does a care-of address lead back to its own node? (RFC 5177 8)

A care-of address may lie in another router's mobile network, or be its home address when it is
its foreign agent; packets then take that router's tunnel as well, whose care-of address may lie
in a third one's. The protocol "neither detects nor solves" circles; here a registration that would
close one is refused, and one below more routers than ``MAX_DEPTH``. Every circle among bindings of
this home agent has a last registration, so this finds them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastmip.agents.prefix_set import holds

if TYPE_CHECKING:
    from fastmip.agents.reply_policy import Case

MAX_DEPTH: Final = 4
"""Routers one within the other."""
NOBODY: Final = 0
"""No router of ours is on the way to an address."""
NO_ROUTER: Final = -1
"""The address is a home address away from here whose node carries for nobody."""


def leads_back(case: Case, address: int) -> bool:
    """Whether packets to this care-of address would come back to the node, or go too deep."""
    surroundings, now = case.surroundings, case.now
    home_address = case.request.home_address
    own = (*case.host.networks, *surroundings.networks_of(home_address))
    frontier = {address}
    for _ in range(MAX_DEPTH + 1):
        carriers = set()
        for one in frontier:
            if one == home_address or any(holds(network, (one, 32)) for network in own):
                return True
            carrier = surroundings.carrier(one, now)
            if carrier in (NO_ROUTER, home_address):
                return True
            if carrier != NOBODY:
                carriers.add(carrier)
        if not carriers:
            return False
        frontier = {one for carrier in carriers for one in surroundings.ends_of(carrier, now)}
    return True
