"""What ARP must do on the home link when a node leaves or returns (RFC 5944 4.6).

The order is the RFC's. Leaving: gratuitous ARP with the home agent's address, then proxy ARP.
Returning: proxy ARP stops first, then gratuitous ARP with the mobile node's own address. Only
an accepted and committed request comes here; a denial moves nothing.
"""

from __future__ import annotations

from fastmip.agents.bindings import Binding
from fastmip.agents.effects import Arrival, Effect, GratuitousArp, StartProxyArp, StopProxyArp
from fastmip.agents.reply_policy import Case
from fastmip.wire.registration import RegistrationRequest


def is_from_home(request: RegistrationRequest, arrival: Arrival) -> bool:
    """Whether a mobile node deregisters from its home network (RFC 5944 3.8.3.1)."""
    return (
        not request.lifetime
        and request.care_of_address == request.home_address
        and arrival.source.address == request.home_address
    )


def arp_effects(case: Case, old: tuple[Binding, ...], new: tuple[Binding, ...]) -> list[Effect]:
    """ARP effects of an accepted request that turned ``old`` bindings into ``new`` ones.

    None on a virtual home network. The mobile node's own address is only taken from a
    deregistration that came over the home link from the home address itself: the link-layer
    source of anything else is a router's.
    """
    interface = case.policy.home_interface
    if not interface:
        return []
    home_address = case.request.home_address
    if new:
        if case.live:
            return []
        return [GratuitousArp(home_address, None, interface), StartProxyArp(home_address)]
    arrival = case.arrival
    came_home = is_from_home(case.request, arrival) and arrival.interface == interface
    effects: list[Effect] = []
    if old or came_home:
        effects.append(StopProxyArp(home_address))
    if came_home and arrival.mac is not None:
        effects.append(GratuitousArp(home_address, arrival.mac, interface))
    return effects
