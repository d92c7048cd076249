"""Registration Replies of the home agent, and the limits on what strangers can elicit.

RFC 5944 3.8.3: addresses and ports swapped from the request, our unicast address where it was
sent to a broadcast, Mobile-Home authentication on every reply, Foreign-Home authentication
where the sender is a foreign agent we share a security association with. What is for the
mobile node stands before the first, what is for the foreign agent between the two (3.8.3.3):

| extension                | answers              | stands                          | RFC  |
|--------------------------|----------------------|---------------------------------|------|
| 131 mobile node NAI      | the same, always     | first                           | 2794 |
| 136/1 our identity       | if accepted          | before Mobile-Home              | 3846 |
| 44 UDP tunnel reply      | 144, if accepted     | behind the one of who asked     | 3519 |
| 137 revocation support   | 137, if accepted     | as 44                           | 3543 |
| 134 host configuration   | 134, if accepted     | before Mobile-Home              | 4332 |
| 139/2 redirected agent   | with code 143        | before Mobile-Home              | 4433 |
| 148 mobile networks      | 148, or implicit     | before Mobile-Home              | 5177 |
| 132 challenge            | the same, always     | behind Mobile-Home              | 4721 |

A denial is no larger than its request without need: foreign agents send no more on to a node that
proved nothing to them.
"""

from __future__ import annotations

from fastmip.agents import home_counters as names
from fastmip.agents.bindings import SERVICE_DIRECT
from fastmip.agents.claims import PLAIN, Claims
from fastmip.agents.effects import Arrival, Effect, Endpoint, Now, SendDatagram, Violation
from fastmip.agents.home_arp import is_from_home
from fastmip.agents.home_counters import CODE_COUNTERS, ViolationReason
from fastmip.agents.home_revocation import negotiate, support
from fastmip.agents.hosts import HomeAgentPolicy, Host
from fastmip.agents.reply_policy import Case, is_broadcast
from fastmip.agents.throttle import Allowance, DenialThrottle
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.auth.authenticators import append_authentication
from fastmip.wire.codes import ExtensionType, ReplyCode, is_accepted
from fastmip.wire.dynamic_home_agent import redirected
from fastmip.wire.nai import HOME_AGENT_NAI, NaiCarrying
from fastmip.wire.registration import RegistrationReply, RegistrationRequest


class ReplyWriter:
    """Builds replies and violations, counts them, and keeps to the rate limits."""

    __slots__ = ("_count", "_denials", "_reports", "policy")

    def __init__(self, policy: HomeAgentPolicy, count: dict[str, int]) -> None:
        self.policy = policy
        self._count = count
        self._reports = Allowance()
        self._denials = DenialThrottle()

    def grant(self, request: RegistrationRequest, host: Host) -> int:
        """The lifetime to grant: never more than requested or allowed (RFC 5944 3.8.2.2)."""
        limit = host.max_lifetime_s
        if limit is None:
            limit = self.policy.max_lifetime_s
        return min(request.lifetime, limit)

    def answer(
        self, case: Case, code: int, lifetime: int, identification: int, effects: list[Effect]
    ) -> None:
        """Add the reply to an authentic request, signed as the request was."""
        for_node = for_agent = b""
        if case.claims is not PLAIN or self.policy.identity or case.networks is not None:
            for_node, for_agent = self._extensions(case, code)
        if code == ReplyCode.HA_REDIRECT:
            for_node += redirected(case.redirected_to).build()
        self.reply(
            case.request,
            case.arrival,
            case.host.associations.outbound(case.association.spi),
            case.foreign_agent,
            code,
            lifetime,
            identification,
            effects,
            for_node,
            for_agent,
        )

    def _extensions(self, case: Case, code: int) -> tuple[bytes, bytes]:
        """What stands before and behind the Mobile-Home authentication."""
        for_node, for_agent = echoes(case.claims)
        is_told = is_accepted(code) or code == ReplyCode.HA_MOBILE_NETWORK_ERROR
        if case.networks is not None and is_told:
            for_node += case.networks.acknowledgements()
        if not is_accepted(code):
            return for_node, for_agent
        if self.policy.identity:
            for_node += NaiCarrying(HOME_AGENT_NAI, self.policy.identity).build()
        if not case.request.lifetime:
            return for_node, for_agent
        if case.claims.wants_configuration:
            for_node += self.policy.host_configuration.build()
        choice = case.choice
        if choice.answer is not None:
            answer = choice.answer.build()
            if choice.for_agent:
                for_agent += answer
            else:
                for_node += answer
        terms = negotiate(case)
        if terms.services & SERVICE_DIRECT:
            for_node += support(terms, case.now).build()
        elif terms.services:
            for_agent += support(terms, case.now).build()
        return for_node, for_agent

    def tell_stranger(
        self,
        request: RegistrationRequest,
        arrival: Arrival,
        host: Host,
        claims: Claims,
        code: ReplyCode,
        now: Now,
        effects: list[Effect],
        *,
        size: int,
    ) -> None:
        """Answer 131 or 144, signed with the first association (RFC 5944 3.8.2.1 a).

        ``size``: bytes of the request; without a foreign agent's proof it elicits no more.
        """
        is_proven = self.policy.foreign_agents(arrival.source.address) is not None
        self.tell(
            request,
            arrival,
            host,
            host.associations.outbound(),
            claims,
            code,
            now,
            effects,
            most=None if is_proven else size,
        )

    def tell(
        self,
        request: RegistrationRequest,
        arrival: Arrival,
        host: Host,
        association: SecurityAssociation | None,
        claims: Claims,
        code: int,
        now: Now,
        effects: list[Effect],
        *,
        most: int | None = None,
    ) -> None:
        """Deny without knowing the node's state; the Identification goes back as it came."""
        self._count[CODE_COUNTERS[code]] += 1
        if self.may_deny(request.home_address, now):
            for_node, for_agent = echoes(claims)
            self.reply(
                request,
                arrival,
                association,
                self.policy.foreign_agents(arrival.source.address),
                code,
                self.grant(request, host),
                request.identification,
                effects,
                for_node,
                for_agent,
                most=most,
            )

    def reply(
        self,
        request: RegistrationRequest,
        arrival: Arrival,
        association: SecurityAssociation | None,
        foreign_agent: AssociationSet | None,
        code: int,
        lifetime: int,
        identification: int,
        effects: list[Effect],
        for_node: bytes = b"",
        for_agent: bytes = b"",
        *,
        most: int | None = None,
    ) -> None:
        """Add the signed Registration Reply to the effects; not above ``most`` bytes."""
        policy = self.policy
        count = self._count
        if association is None:
            count[names.NO_REPLY_ASSOCIATION] += 1
            return
        home_agent = request.home_agent
        message = RegistrationReply(
            code,
            lifetime,
            request.home_address,
            home_agent if home_agent in policy.own else policy.home_agent_address,
            identification,
        ).encode()
        message = append_authentication(
            message + for_node, ExtensionType.MOBILE_HOME_AUTHENTICATION, association
        )
        message += for_agent
        if foreign_agent is not None and request.lifetime:
            # None on a deregistration, whose request carries none either (C-06).
            shared = foreign_agent.outbound()
            if shared is not None:
                message = append_authentication(
                    message, ExtensionType.FOREIGN_HOME_AUTHENTICATION, shared
                )
        if most is not None and len(message) > most:
            count[names.REPLIES_SUPPRESSED] += 1
            return
        source = arrival.destination
        if is_broadcast(source.address, policy):
            source = Endpoint(policy.home_agent_address, source.port)
        count[names.REPLIES] += 1
        if not request.lifetime:
            count[names.DEREGISTRATION_REPLIES] += 1
        interface = policy.home_interface
        if interface and is_from_home(request, arrival):
            # Straight onto the home link, whatever is bound (RFC 5944 3.8.3.1).
            mac = arrival.mac if arrival.interface == interface else None
            effects.append(SendDatagram(message, source, arrival.source, interface, mac))
        else:
            effects.append(SendDatagram(message, source, arrival.source))

    def may_deny(self, home_address: int, now: Now) -> bool:
        """Whether another denial may go out now (SEC-20); counts a suppressed one."""
        if self._denials.allow(home_address, now.boot_ns, self.policy.denials_per_second):
            return True
        self._count[names.REPLIES_SUPPRESSED] += 1
        return False

    def report(
        self,
        home_address: int,
        identification: int,
        arrival: Arrival,
        spi: int,
        reason: ViolationReason,
        now: Now,
        effects: list[Effect],
    ) -> None:
        """Add a security violation to the effects, within the limit."""
        if self._reports.spend(now.boot_ns, self.policy.reports_per_second):
            peer = arrival.source.address
            effects.append(Violation(home_address, peer, spi, identification, reason.text))
        else:
            self._count[names.VIOLATIONS_SUPPRESSED] += 1


def echoes(claims: Claims) -> tuple[bytes, bytes]:
    """What every reply repeats: the NAI (RFC 2794 3), and the challenge (RFC 4721 3.4)."""
    if claims is PLAIN:
        return b"", b""
    nai, challenge = claims.node_nai, claims.challenge
    return (
        b"" if nai is None else nai.encode(),
        b"" if challenge is None else challenge.encode(),
    )
