"""Registration revocation at a mobile node with a care-of address of its own (RFC 3543 4.2.2.3).

The home agent ends the binding: what proves itself, is news and names a binding that negotiated
it is acknowledged first, then the binding is gone. Through a foreign agent the agent is told
instead, and tells the node by its advertisements (``agent_cache.py``).
"""

from __future__ import annotations

from fastmip.agents.care_of import CareOfBinding, CareOfBindings
from fastmip.agents.effects import Arrival, Effect
from fastmip.agents.mobile_counters import MobileCounters
from fastmip.agents.revocation import (
    Accepted,
    RevocationGuard,
    acknowledgment,
    name_of,
    proof,
)
from fastmip.auth.associations import AssociationSet
from fastmip.errors import WireError
from fastmip.wire.codes import ExtensionType
from fastmip.wire.revocation import RevocationMessage

_KIND = ExtensionType.MOBILE_HOME_AUTHENTICATION
_REMEMBERED = 64


class MobileRevocation:
    """Judges revocations of a mobile node's own care-of addresses."""

    def __init__(
        self, home_address: int, associations: AssociationSet, counters: MobileCounters
    ) -> None:
        self._home_address = home_address
        self._associations = associations
        self._counters = counters
        self._guard = RevocationGuard(_REMEMBERED)

    def receive(
        self, data: bytes, arrival: Arrival, bindings: CareOfBindings
    ) -> tuple[list[Effect], CareOfBinding | None]:
        """What to answer, and the binding that ended, if any."""
        try:
            message = RevocationMessage.decode(data)
        except WireError:
            self._counters.add("mnRevocationsDropped")
            return [], None
        association = proof(data, message, _KIND, self._associations)
        signing = None if association is None else self._associations.outbound(association.spi)
        if signing is None or not message.by_home_agent:
            self._counters.add("mnRevocationsDropped")
            return [], None
        name, peer = name_of(message), message.home_domain_address
        binding = bindings.get(name.foreign_domain)
        if not (
            binding is not None
            and binding.revocable
            and (name.home_address, peer) == (self._home_address, binding.home_agent)
        ):
            binding = None
        after = [] if binding is None else [binding.home_clock]
        last = self._guard.last(peer, name)
        if (binding is None and last is None) or not self._guard.is_news(
            peer, name, message.identifier, after
        ):
            self._counters.add("mnRevocationsDropped")
            return [], None
        inform = message.inform if last is None or binding is not None else last.inform
        self._guard.accept(peer, name, Accepted(message.identifier, inform))
        if binding is not None:
            self._counters.add("mnRevocationsAccepted")
        return [acknowledgment(message, arrival, _KIND, signing, inform=inform)], binding
