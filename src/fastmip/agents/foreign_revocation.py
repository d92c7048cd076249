"""Registration revocation at a foreign agent (RFC 3543 4.2.2.2, 4.2.3.1), sans I/O.

What both kinds of agents share is in ``revocation.py``. Here: which visitor a home agent's
revocation names, and who tells the node. Once both sides offered the I bit the home agent says
whether the node is told: in its revocation, or in its acknowledgment of ours. Else it is told.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from fastmip.agents.effects import Arrival, Effect, Endpoint, Now
from fastmip.agents.foreign_policy import ForeignAgentPolicy
from fastmip.agents.revocation import (
    Accepted,
    BindingName,
    Notice,
    RevocationGuard,
    RevocationSender,
    acknowledgment,
    is_later,
    name_of,
    proof,
)
from fastmip.agents.visitors import Visitor, VisitorTable
from fastmip.wire.codes import MOBILE_IP_PORT, ExtensionType
from fastmip.wire.revocation import RevocationAcknowledgment, RevocationMessage

_KIND = ExtensionType.FOREIGN_HOME_AUTHENTICATION


class Notifier(Protocol):
    """Who tells a node by an advertisement that its registration is gone."""

    def notify(
        self, interface: str, home_address: int, mac: bytes, *, busy: bool = False
    ) -> list[Effect]: ...


class SilentNotifier:
    """Tells nobody."""

    def notify(
        self,
        interface: str,  # noqa: ARG002 - the protocol's
        home_address: int,  # noqa: ARG002
        mac: bytes,  # noqa: ARG002
        *,
        busy: bool = False,  # noqa: ARG002
    ) -> list[Effect]:
        return []


class Told(NamedTuple):
    """A node that is to hear of the end of its registration."""

    interface: str
    home_address: int
    mac: bytes


def binding_of(visitor: Visitor) -> BindingName:
    """The name of a visitor's binding."""
    return BindingName(visitor.home_address, visitor.home_agent, visitor.care_of_address)


def told(visitor: Visitor) -> Told:
    """Where a visitor can be told."""
    return Told(visitor.interface, visitor.home_address, visitor.mac)


class ForeignRevocation:
    """Revocations of one foreign agent, both ways."""

    __slots__ = ("_count", "_guard", "_undecided", "sender")

    def __init__(self, count: dict[str, int]) -> None:
        self._count = count
        self.sender = RevocationSender(count, "fa")
        self._guard = RevocationGuard()
        self._undecided: dict[BindingName, Told] = {}
        """Revoked by us; the home agent's acknowledgment says whether the node is told."""

    def registered(self, visitor: Visitor) -> None:
        """A binding was registered (again): nothing of an earlier end is to be said."""
        binding = binding_of(visitor)
        self.sender.cancel(binding)
        self._undecided.pop(binding, None)

    def revoke(
        self, visitor: Visitor, policy: ForeignAgentPolicy, now: Now, effects: list[Effect]
    ) -> Told | None:
        """Tell the home agent that a binding ends here; returns who is to be told at once."""
        shared = policy.home_agent_associations(visitor.home_agent)
        association = None if shared is None else shared.outbound()
        if not visitor.revocable or association is None:
            return told(visitor)
        binding = binding_of(visitor)
        effects += self.sender.start(
            Notice(
                binding,
                by_home_agent=False,
                inform=visitor.inform,
                source=Endpoint(visitor.care_of_address, MOBILE_IP_PORT),
                destination=Endpoint(visitor.home_agent, MOBILE_IP_PORT),
                kind=_KIND,
                association=association,
                registered_ns=visitor.accepted_ns,
                expires_ns=visitor.expires_ns,
                registered_at=visitor.own_clock,
            ),
            now,
        )
        if not visitor.inform:
            return told(visitor)
        self._undecided[binding] = told(visitor)
        return None

    def receive(
        self,
        data: bytes,
        message: RevocationMessage,
        arrival: Arrival,
        policy: ForeignAgentPolicy,
        visitors: VisitorTable,
        effects: list[Effect],
    ) -> tuple[Visitor, bool] | None:
        """Judge a home agent's revocation; the visitor to remove, and whether it is told."""
        self._add("RevocationsReceived")
        if not message.by_home_agent:
            self._add("RevocationsReflected")
            return None
        binding = name_of(message)
        shared = policy.home_agent_associations(binding.home_domain)
        association = proof(data, message, _KIND, shared)
        if association is None:
            self._add("RevocationsUnproven")
            return None
        signing = association if shared is None else shared.outbound(association.spi)
        if signing is None:
            self._add("RevocationsUnproven")
            return None
        visitor = visitors.get(binding.home_address)
        last = self._guard.last(binding.home_domain, binding)
        if visitor is not None and visitor.revocable and binding_of(visitor) == binding:
            if not self._guard.is_news(
                binding.home_domain, binding, message.identifier, [visitor.home_agent_clock]
            ):
                self._add("RevocationsStale")
                return None
            inform = message.inform if visitor.inform else True
            self._add("RevocationsAccepted")
        elif last is not None and is_later(message.identifier, last.identifier):
            visitor, inform = None, last.inform
            self._add("RevocationsRepeatedByPeer")
        else:
            self._add("RevocationsUnmatched" if last is None else "RevocationsStale")
            return None
        accepted = Accepted(message.identifier, inform)
        self._guard.accept(binding.home_domain, binding, accepted)
        self._add("RevocationAcknowledgmentsSent")
        effects.append(acknowledgment(message, arrival, _KIND, signing, inform=inform))
        return None if visitor is None else (visitor, inform)

    def receive_acknowledgment(
        self,
        data: bytes,
        message: RevocationAcknowledgment,
        arrival: Arrival,
        policy: ForeignAgentPolicy,
    ) -> Told | None:
        """Hear that a revocation of ours arrived; returns who is to be told now."""
        peer = arrival.source.address
        notice = self.sender.awaited(message, peer)
        if notice is None:
            return None
        if proof(data, message, _KIND, policy.home_agent_associations(peer)) is None:
            self._add("RevocationsUnproven")
            return None
        self.sender.acknowledged(notice)
        undecided = self._undecided.pop(notice.binding, None)
        return undecided if message.inform else None

    def handle_timer(self, now: Now) -> list[Effect]:
        """Repeat what was not acknowledged; what was given up is decided by nobody."""
        effects = self.sender.handle_timer(now)
        for binding in [b for b in self._undecided if b not in self.sender]:
            del self._undecided[binding]
        return effects

    def _add(self, name: str) -> None:
        self._count["fa" + name] += 1
