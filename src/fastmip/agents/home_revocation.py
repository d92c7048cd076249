"""Registration revocation at the home agent (RFC 3543); what it shares: ``revocation.py``.

Negotiated with a foreign agent that proved itself and asked (extension 137 behind the mobile
node's part), or with a mobile node that registers its co-located address directly. Then:

| what happens to the binding                        | who is told        | I bit          |
|----------------------------------------------------|--------------------|----------------|
| withdrawn by the operator, or the host was removed | its foreign agent  | 1 if negotiated|
|                                                    | or the mobile node |                |
| replaced or given up through somebody else         | its foreign agent  | 0              |
| its lifetime ends, or given up through that agent  | nobody             |                |

A foreign agent's revocation takes the binding down like a deregistration, through a commit,
and is acknowledged after it. While another commit of the node is under way it waits for that, and
is judged by what came of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fastmip.agents.bindings import (
    SERVICE_DIRECT,
    SERVICE_INFORM,
    SERVICE_REVOCATION,
    Binding,
)
from fastmip.agents.effects import Arrival, Effect, Endpoint, Now, SendDatagram
from fastmip.agents.hosts import HomeAgentPolicy, Host
from fastmip.agents.revocation import (
    Accepted,
    BindingName,
    Notice,
    RevocationGuard,
    RevocationSender,
    acknowledgment,
    name_of,
    proof,
    timestamp,
)
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.wire.codes import FLAG_COLOCATED, MOBILE_IP_PORT, ExtensionType
from fastmip.wire.revocation import RevocationAcknowledgment, RevocationMessage
from fastmip.wire.revocation_support import RevocationSupport

if TYPE_CHECKING:
    from fastmip.agents.reply_policy import Case

_FOREIGN_HOME = ExtensionType.FOREIGN_HOME_AUTHENTICATION
_MOBILE_HOME = ExtensionType.MOBILE_HOME_AUTHENTICATION


class Terms(NamedTuple):
    """What was negotiated for a binding."""

    services: int
    timestamp: int
    """The peer's."""


NO_TERMS = Terms(0, 0)


def negotiate(case: Case) -> Terms:
    """What an accepted request negotiates (RFC 3543 3.2, 4.2.1).

    The word of a mobile node that is not co-located is ignored, and so is that of one which a
    foreign agent relays for (RFC 3543 4.3.2).
    """
    claims, policy = case.claims, case.policy
    if not policy.revocation or not case.request.lifetime:
        return NO_TERMS
    if case.request.flags & FLAG_COLOCATED:
        offer = claims.node_revocation
        if offer is None or not _is_direct(case):
            return NO_TERMS
        services = SERVICE_REVOCATION | SERVICE_DIRECT
    else:
        offer = claims.agent_revocation
        if offer is None or not case.agent_is_proven():
            return NO_TERMS
        services = SERVICE_REVOCATION
    if offer.inform and policy.revocation_inform:
        services |= SERVICE_INFORM
    return Terms(services, offer.timestamp)


def _is_direct(case: Case) -> bool:
    """Whether a co-located mobile node spoke to us itself, perhaps through a translator."""
    udp = case.claims.node_udp
    if case.arrival.source.address == case.request.care_of_address:
        return True
    return udp is not None and not udp.is_through_agent and case.foreign_agent is None


def support(terms: Terms, now: Now) -> RevocationSupport:
    """Our extension 137 in the reply."""
    return RevocationSupport(bool(terms.services & SERVICE_INFORM), timestamp(now))


class Ending(NamedTuple):
    """A binding that a foreign agent's revocation ends, once committed."""

    binding: Binding
    name: BindingName
    peer: int
    accepted: Accepted
    answer: SendDatagram


class HomeRevocations:
    """Tells peers of ended bindings, and judges what they tell."""

    def __init__(
        self,
        policy: HomeAgentPolicy,
        find_host: Callable[[int], Host | None],
        count: dict[str, int],
    ) -> None:
        self.policy = policy
        self.sender = RevocationSender(count, "ha")
        self._guard = RevocationGuard()
        self._find_host = find_host
        self._count = count

    # told by us

    def told(
        self, binding: Binding, now: Now, *, inform: bool, host: Host | None = None
    ) -> list[Effect]:
        """Tell the foreign agent, or the mobile node itself, that a binding ended.

        ``host``: the mobile node as it was, if it is served no more.
        """
        if not binding.services & SERVICE_REVOCATION:
            return []
        is_direct = bool(binding.services & SERVICE_DIRECT)
        kind = _MOBILE_HOME if is_direct else _FOREIGN_HOME
        if is_direct and host is not None:
            shared: AssociationSet | None = host.associations
        else:
            shared = self._shared(binding, kind)
        association = None if shared is None else shared.outbound()
        if association is None:
            return []
        port = MOBILE_IP_PORT
        if is_direct and binding.tunnel_port:
            port = binding.source_port  # a translator lets nothing else through
        lived_ns = now.boot_ns - binding.registered_boot_ns
        registered_at = timestamp(Now(0, now.wall_ns - lived_ns))
        notice = Notice(
            _name(binding),
            by_home_agent=True,
            inform=inform and (is_direct or bool(binding.services & SERVICE_INFORM)),
            source=Endpoint(binding.home_agent, MOBILE_IP_PORT),
            destination=Endpoint(binding.source_address, port),
            kind=kind,
            association=association,
            registered_ns=binding.registered_boot_ns,
            expires_ns=binding.expires_boot_ns,
            registered_at=registered_at,
        )
        return self.sender.start(notice, now)

    def left(
        self, old: tuple[Binding, ...], new: tuple[Binding, ...], case: Case, now: Now
    ) -> list[Effect]:
        """An accepted request replaced bindings or gave them up: tell the agents left behind."""
        stays = {binding.care_of_address for binding in new}
        effects: list[Effect] = []
        for binding in old:
            if binding.care_of_address in stays or binding.services & SERVICE_DIRECT:
                continue
            if binding.source_address != case.arrival.source.address:
                effects += self.told(binding, now, inform=False)
        return effects

    def renewed(self, binding: Binding) -> None:
        """A binding was registered (again): what was to be told of it is void."""
        self.sender.cancel(_name(binding))

    # told to us

    def concerns_us(self, message: RevocationMessage) -> bool:
        """Whether a foreign agent wrote it to us; what is not is counted."""
        self._add("RevocationsReceived")
        if message.by_home_agent:
            self._add("RevocationsReflected")
        elif message.home_domain_address not in self.policy.own:
            self._add("RevocationsUnmatched")
        else:
            return True
        return False

    def proof(
        self, data: bytes, message: RevocationMessage, arrival: Arrival
    ) -> SecurityAssociation | None:
        """The association that proves a revocation; None, counted, if none does."""
        shared = self._agents(arrival.source.address, message.foreign_domain_address)
        association = proof(data, message, _FOREIGN_HOME, shared)
        if association is None:
            self._add("RevocationsUnproven")
        return association

    def match(
        self,
        message: RevocationMessage,
        arrival: Arrival,
        association: SecurityAssociation,
        live: tuple[Binding, ...],
    ) -> Ending | SendDatagram | None:
        """What an authentic revocation ends; or the repeated answer; or nothing, counted."""
        name, peer = name_of(message), arrival.source.address
        guard, identifier = self._guard, message.identifier
        for binding in live:
            if (
                _name(binding) == name
                and binding.source_address == peer
                and binding.services & (SERVICE_REVOCATION | SERVICE_DIRECT) == SERVICE_REVOCATION
            ):
                break
        else:
            return self._repeated(message, arrival, association)
        if not guard.is_news(peer, name, identifier, [binding.revocation_timestamp]):
            self._add("RevocationsStale")
            return None
        inform = bool(binding.services & SERVICE_INFORM) and len(live) == 1 and message.inform
        answer = acknowledgment(
            message, arrival, _FOREIGN_HOME, self._signing(association, arrival), inform=inform
        )
        return Ending(binding, name, peer, Accepted(identifier, inform), answer)

    def _repeated(
        self, message: RevocationMessage, arrival: Arrival, association: SecurityAssociation
    ) -> SendDatagram | None:
        name, peer = name_of(message), arrival.source.address
        last = self._guard.last(peer, name)
        if last is None:
            self._add("RevocationsUnmatched")
            return None
        if not self._guard.is_news(peer, name, message.identifier, []):
            self._add("RevocationsStale")
            return None
        self._guard.accept(peer, name, Accepted(message.identifier, last.inform))
        self._add("RevocationsRepeatedByPeer")
        self._add("RevocationAcknowledgmentsSent")
        signing = self._signing(association, arrival)
        return acknowledgment(message, arrival, _FOREIGN_HOME, signing, inform=last.inform)

    def ended(self, ending: Ending) -> SendDatagram:
        """The commit is done: the answer, and a place in memory."""
        self._guard.accept(ending.peer, ending.name, ending.accepted)
        self.sender.cancel(ending.name)
        self._add("RevocationsAccepted")
        self._add("RevocationAcknowledgmentsSent")
        return ending.answer

    def acknowledged(self, data: bytes, answer: RevocationAcknowledgment, arrival: Arrival) -> None:
        """An acknowledgment came; it counts if it is authentic and answers what we sent."""
        peer = arrival.source.address
        notice = self.sender.awaited(answer, peer)
        if notice is None:
            return
        if notice.kind == _MOBILE_HOME:
            host = self._find_host(notice.binding.home_address)
            # One that is served no more answers by what signed the revocation.
            left = AssociationSet([notice.association])
            shared: AssociationSet | None = left if host is None else host.associations
        else:
            shared = self._agents(peer, notice.binding.foreign_domain)
        if proof(data, answer, notice.kind, shared) is None:
            self._add("RevocationsUnproven")
        else:
            self.sender.acknowledged(notice)

    def _shared(self, binding: Binding, kind: ExtensionType) -> AssociationSet | None:
        if kind == _FOREIGN_HOME:
            return self._agents(binding.source_address, binding.care_of_address)
        host = self._find_host(binding.home_address)
        return None if host is None else host.associations

    def _agents(self, source: int, care_of_address: int) -> AssociationSet | None:
        """Associations with a foreign agent, which may sit behind a translator."""
        found = self.policy.foreign_agents(source)
        return self.policy.foreign_agents(care_of_address) if found is None else found

    def _signing(self, association: SecurityAssociation, arrival: Arrival) -> SecurityAssociation:
        """The association that answers: the same if it may sign."""
        shared = self.policy.foreign_agents(arrival.source.address)
        found = None if shared is None else shared.outbound(association.spi)
        return association if found is None else found

    def _add(self, name: str) -> None:
        self._count["ha" + name] += 1


def _name(binding: Binding) -> BindingName:
    return BindingName(binding.home_address, binding.home_agent, binding.care_of_address)
