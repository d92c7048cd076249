"""The home agent (RFC 5944 3.8), sans I/O: datagrams and clocks in, effects out.

A request's walk, in the order of this file:
1. ``receive_datagram``: what can be refused without knowing anybody is counted and dropped.
2. ``_authenticate``: the Mobile-Home authenticator decides whether the sender is one of our
   hosts. Until then nothing is stored and nothing loaded, whatever the number of strangers.
3. ``_hold``: one request per node is in work; the latest further one waits.
4. ``_answer``: Identification, then the ladder of ``reply_policy``; the first refusal answers.
5. ``_accept``: the node's complete new state becomes one ``Commit``.
6. ``commit_done``: only now the state changes, ARP moves, and the reply leaves.

States of a node, and what moves it (``bindings`` are the stored, unexpired ones):

| state   | event                                    | done                          | state  |
|---------|------------------------------------------|-------------------------------|--------|
| at home | accepted, lifetime > 0, committed        | gratuitous + proxy ARP, reply | away   |
| at home | accepted, lifetime 0, committed          | ARP for its own MAC, reply    | at home|
| away    | accepted, lifetime > 0, committed        | reply                         | away   |
| away    | lifetime 0 for one of several bindings   | reply                         | away   |
| away    | lifetime 0, last binding gone, committed | stop proxy ARP, then          | at home|
|         |                                          | gratuitous ARP, reply         |        |
| away    | last binding expired                     | stop proxy ARP                | at home|
| away    | withdrawn by operator, committed         | stop proxy ARP                | at home|
| any     | refused, or the commit failed            | reply at most; state in force | same   |
| in work | another authentic request                | hold it                       | in work|

Everything that a denial can leave behind is a new nonce. Addresses are host-order integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastmip.agents import home_counters as names
from fastmip.agents.address_pool import AddressPools
from fastmip.agents.bindings import SERVICE_BROADCASTS, Binding, pack_bindings
from fastmip.agents.claims import PLAIN, Claims, mn_aaa_of, read_claims
from fastmip.agents.effects import NEVER, Arrival, Effect, NodeRow, Now
from fastmip.agents.home_choice import Asking
from fastmip.agents.home_counters import CODE_COUNTERS, ViolationReason
from fastmip.agents.home_ledger import HomeLedger
from fastmip.agents.home_revocation import negotiate
from fastmip.agents.home_tunnels import choose_encapsulation
from fastmip.agents.hosts import INFINITE_LIFETIME, HomeAgentPolicy, Host
from fastmip.agents.mobile_networks import is_router, room_for_any
from fastmip.agents.nodes import Held, Node, Work
from fastmip.agents.reply_policy import (
    IDENTIFICATION_MISMATCH,
    INSUFFICIENT_RESOURCES,
    SILENT,
    Case,
    Refusal,
    climb,
    may_tell_stranger,
    mn_aaa_is_authentic,
)
from fastmip.auth.associations import ReplayStyle
from fastmip.auth.authenticators import verify_authentication
from fastmip.auth.freshness import (
    NO_NONCE,
    Freshness,
    IdentificationClock,
    is_newer,
    new_nonce,
    nonce_reply,
    rejected_timestamp_reply,
)
from fastmip.errors import StoreError, WireError
from fastmip.wire.addresses import is_unicast
from fastmip.wire.authext import AuthenticationExtension, GeneralizedAuthentication
from fastmip.wire.codes import FLAG_BROADCAST, ExtensionType, MessageType, ReplyCode
from fastmip.wire.dynamic_home_agent import ANY_HOME_AGENT
from fastmip.wire.mobile_network import NetworkCode
from fastmip.wire.registration import RegistrationRequest
from fastmip.wire.registry import CONTROL_EXTENSIONS, EXPERIMENTAL_EXTENSIONS

_SECOND = 1_000_000_000
_REVOCATIONS = (MessageType.REVOCATION, MessageType.REVOCATION_ACKNOWLEDGMENT)


def _nobody(_nai: bytes) -> Host | None:
    return None


class HomeAgent(HomeLedger):
    """Registration at the home agent: one instance per process, one caller thread.

    Never raises on what a datagram contains. ``hosts`` finds a served mobile node, ``by_nai``
    one by its network access identifier, ``load`` its durable row (while it raises StoreError
    its node is denied with 130); ``reserve_prefix`` asks the engine for room for one; ``boot`` is
    this boot's row in the boot table; ``random(n)`` gives n unpredictable bytes; ``started`` are
    the clocks of this start, ``anchor`` those by which it converted bindings of earlier boots
    (``bindings.tunnel_records``).
    """

    def __init__(
        self,
        policy: HomeAgentPolicy,
        *,
        hosts: Callable[[int], Host | None],
        load: Callable[[int], NodeRow | None],
        boot: int,
        random: Callable[[int], bytes],
        by_nai: Callable[[bytes], Host | None] = _nobody,
        reserve_prefix: Callable[[int, int], bool] = room_for_any,
        addresses: AddressPools | None = None,
        cache_nodes: int = 65536,
        started: Now | None = None,
        anchor: Now | None = None,
    ) -> None:
        super().__init__(
            policy,
            hosts=hosts,
            load=load,
            boot=boot,
            reserve_prefix=reserve_prefix,
            addresses=addresses,
            cache_nodes=cache_nodes,
            started=started,
            anchor=anchor,
        )
        self._random = random
        self._by_nai = by_nai
        self._time = IdentificationClock()

    # receiving: what a stranger can reach ---------------------------------------------------

    def receive_datagram(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """Handle one datagram from UDP port 434."""
        count = self._count
        if not data or data[0] != MessageType.REGISTRATION_REQUEST:
            return self._receive_other(data, arrival, now)
        count[names.REQUESTS] += 1
        if not arrival.source.port or not is_unicast(arrival.source.address):
            count[names.BAD_SOURCE] += 1
            return []
        registry = EXPERIMENTAL_EXTENSIONS if self._policy.experimental else CONTROL_EXTENSIONS
        try:
            request = RegistrationRequest.decode(data, registry)
        except WireError as error:
            self._count_bad(error)
            return []
        if not request.lifetime:
            count[names.DEREGISTRATIONS] += 1
        if request.home_agent in ANY_HOME_AGENT and self._policy.group is not None:
            request = self._take_for_us(request, arrival)
        effects: list[Effect] = []
        held = self._authenticate(request, data, arrival, now, effects)
        if held is None:
            return effects
        if not request.home_address:
            # Known by its identifier alone: it gets the address we have for it (RFC 2794 4).
            if not held.host.home_address and not self._assign(held, now):
                self._tell(held, ReplyCode.HA_INSUFFICIENT_RESOURCES, now, effects)
                return effects
            count[names.ADDRESSES_ASSIGNED] += 1
            request = held.request = replace(request, home_address=held.host.home_address)
        try:
            node = self._nodes.get(request.home_address, now)
        except StoreError:
            self._count[names.UNREADABLE] += 1
            self._tell(held, ReplyCode.HA_INSUFFICIENT_RESOURCES, now, effects)
            return effects
        if node.work is not None:
            self._hold(node, held)
            return effects
        return self._answer(node, held, now)

    def _assign(self, held: Held, now: Now) -> bool:
        """Give an authentic host without an address of its own one out of the pools."""

        def is_idle(home_address: int) -> bool:
            node = self._nodes.get(home_address, now)
            return not node.bindings and node.work is None and node.held is None

        try:
            address = self.addresses.assign(held.host.nai, now.boot_ns, is_idle)
        except StoreError:
            self._count[names.UNREADABLE] += 1
            return False
        if address is None:
            self._count[names.ADDRESSES_EXHAUSTED] += 1
            return False
        held.host = replace(held.host, home_address=address)
        return True

    def _take_for_us(self, request: RegistrationRequest, arrival: Arrival) -> RegistrationRequest:
        """A request for any home agent that was sent to this one (RFC 4433 5.3.1)."""
        destination = arrival.destination.address
        self._count[names.UNNAMED_HOME_AGENT] += 1
        if destination not in self._policy.own:
            return request
        return replace(request, home_agent=destination)

    def better_home_agent(self, case: Case, *, is_full: bool) -> int | None:
        """See ``home_choice.py``."""
        group, request, name = self._policy.group, case.request, case.claims.node_nai
        if group is None:
            return None
        node = self._nodes.get(request.home_address, case.now)
        asking = Asking(
            request.home_address,
            request.care_of_address,
            case.host.nai if name is None else name.nai,
            is_bound=bool(case.live),
            is_known=node.identification > 0,
        )
        own, load = self._policy.home_agent_address, self.load(case.now)
        return self.choice.elsewhere(group, asking, own, load, case.now, is_full=is_full)

    def _receive_other(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """A datagram that is no request: revocation, its acknowledgment, or nothing of ours."""
        kind = data[0] if data else None
        if kind in _REVOCATIONS and self._policy.revocation:
            if not arrival.source.port or not is_unicast(arrival.source.address):
                self._count[names.BAD_SOURCE] += 1
                return []
            if kind == MessageType.REVOCATION:
                return self._receive_revocation(data, arrival, now)
            return self._receive_acknowledgment(data, arrival)
        if kind == MessageType.EXPERIMENTAL and self._policy.experimental:
            self._count[names.EXPERIMENTAL] += 1
        else:
            self._count[names.UNEXPECTED_TYPE] += 1
        return []

    def _authenticate(
        self,
        request: RegistrationRequest,
        data: bytes,
        arrival: Arrival,
        now: Now,
        effects: list[Effect],
    ) -> Held | None:
        """Find who sent it (RFC 5944 3.8.2.1 a); adds a violation and perhaps a 131."""
        found = request.authentications(ExtensionType.MOBILE_HOME_AUTHENTICATION)
        extension: AuthenticationExtension | GeneralizedAuthentication
        if len(found) == 1:
            extension = found[0]
        elif found:
            self._count[names.REPEATED_AUTHENTICATION] += 1
            return None
        else:
            mn_aaa = mn_aaa_of(request) if self._policy.aaa_authorizes else None
            if mn_aaa is None:
                is_damaged = request.malformed
                self._count[names.MALFORMED if is_damaged else names.MISSING_AUTHENTICATION] += 1
                return None
            extension = mn_aaa
        claims = read_claims(request, extension)
        host = self._host_of(request, claims)
        if host is None:
            self._count[names.UNKNOWN_HOME_ADDRESS] += 1
            return None
        code = ReplyCode.HA_MOBILE_NODE_AUTHENTICATION
        if isinstance(extension, AuthenticationExtension):
            association = host.associations.inbound(extension.spi)
            if association is not None and verify_authentication(data, extension, association):
                return Held(request, data, arrival, host, association, claims)
            is_known = association is not None
        else:
            code = ReplyCode.HA_BAD_AAA_AUTHENTICATION
            association = host.associations.outbound()
            if association is not None and mn_aaa_is_authentic(data, request, extension, host):
                return Held(request, data, arrival, host, association, claims)
            is_known = True
        if is_known:
            reason, counter = ViolationReason.BAD_AUTHENTICATOR, names.BAD_AUTHENTICATOR
        else:
            reason, counter = ViolationReason.BAD_SPI, names.UNKNOWN_SPI
        self._count[counter] += 1
        self._report(request, arrival, extension.spi, reason, now, effects)
        if may_tell_stranger(data, request, arrival, self._policy):
            self._writer.tell_stranger(
                request, arrival, host, claims, code, now, effects, size=len(data)
            )
        return None

    def _host_of(self, request: RegistrationRequest, claims: Claims) -> Host | None:
        """The host a request claims to come from: by home address, by NAI if it has none."""
        nai = claims.node_nai
        if not request.home_address:
            if nai is None:
                return None
            try:
                return self._by_nai(nai.nai)
            except StoreError:
                self._count[names.UNREADABLE] += 1
                return None
        host = self._find_host(request.home_address)
        if nai is not None and host is not None and host.nai and host.nai != nai.nai:
            return None
        return host

    def _tell(self, held: Held, code: ReplyCode, now: Now, effects: list[Effect]) -> None:
        """Deny an authentic request without touching its node."""
        signing = held.host.associations.outbound(held.association.spi)
        self._writer.tell(
            held.request, held.arrival, held.host, signing, held.claims, code, now, effects
        )

    def _report(
        self,
        request: RegistrationRequest,
        arrival: Arrival,
        spi: int,
        reason: ViolationReason,
        now: Now,
        effects: list[Effect],
    ) -> None:
        home_address, identification = request.home_address, request.identification
        self._writer.report(home_address, identification, arrival, spi, reason, now, effects)

    def _hold(self, node: Node, held: Held) -> None:
        """Keep the latest request that came while the node's commit is outstanding."""
        work = node.work
        before = node.held
        if (work is not None and work.case is not None and held.data == work.case.data) or (
            before is not None and held.data == before.data
        ):
            self._count[names.HELD_DUPLICATE] += 1
            return
        if before is not None:
            self._count[names.HELD_REPLACED] += 1
            if held.association.replay is ReplayStyle.TIMESTAMPS and not is_newer(
                held.request.identification, before.request.identification
            ):
                return
        node.held = held

    # deciding -------------------------------------------------------------------------------

    def _answer(self, node: Node, held: Held, now: Now) -> list[Effect]:
        """Climb the ladder with an authentic request of an idle node."""
        request, arrival, policy = held.request, held.arrival, self._policy
        identification = request.identification
        freshness = node.judge(identification, held.association, self._time, now)
        foreign_agent = policy.foreign_agents(arrival.source.address)
        if foreign_agent is None and held.claims.agent_udp is not None:
            # A foreign agent behind a translator is known by its care-of address.
            foreign_agent = policy.foreign_agents(request.care_of_address)
        case = Case(
            request,
            held.data,
            arrival,
            held.host,
            held.association,
            policy,
            foreign_agent,
            self,
            now,
            freshness,
            node.live(now.boot_ns),
            held.claims,
        )
        if freshness is Freshness.REPEATED and node.repeatable == identification:
            repeated = self._repeat(node, case)
            if repeated is not None:
                return repeated
        try:
            refusal = climb(case)
        except StoreError:  # of another node's row that a rung asked for
            self._count[names.UNREADABLE] += 1
            refusal = INSUFFICIENT_RESOURCES
        if refusal is not None:
            return self._refuse(node, case, refusal)
        return self._accept(node, case)

    def _repeat(self, node: Node, case: Case) -> list[Effect] | None:
        """Answer an exact duplicate of the request in force (RFC 5944 3.8.2.2).

        The lifetime told is what remains, so nothing is prolonged. None if the duplicate does
        not belong to a current binding; then it is a replay like any other.
        """
        request = case.request
        if is_router(case.host):
            case.networks = self._networks.judge(case.host, case.claims.node_networks, dry=True)
        for binding in case.live:
            if (
                binding.care_of_address == request.care_of_address
                and binding.identification == request.identification
                and request.lifetime
            ):
                break
        else:
            return None
        if binding.expires_boot_ns == NEVER:
            remaining = INFINITE_LIFETIME
        else:
            remaining = (binding.expires_boot_ns - case.now.boot_ns) // _SECOND
        if not remaining:
            return None
        self._count[names.DUPLICATES] += 1
        effects: list[Effect] = []
        if self._writer.may_deny(request.home_address, case.now):
            identification = request.identification
            if case.uses_nonces:
                identification = nonce_reply(identification, node.nonce)
            self._writer.answer(case, _success_code(case), remaining, identification, effects)
        return effects

    def _refuse(self, node: Node, case: Case, refusal: Refusal) -> list[Effect]:
        """Deny a request: report, count, and answer as far as the rate limits allow."""
        effects: list[Effect] = []
        request = case.request
        if refusal.violation is not None:
            spi = case.association.spi
            self._report(request, case.arrival, spi, refusal.violation, case.now, effects)
        if refusal.code == SILENT:
            self._count[refusal.counter] += 1
            return effects
        self._count[CODE_COUNTERS[refusal.code]] += 1
        if not self._writer.may_deny(request.home_address, case.now):
            return effects
        identification = request.identification
        change = None if case.networks is None else case.networks.change
        if case.uses_nonces or change is not None:
            nonce = self._new_nonce(node) if case.uses_nonces else node.nonce
            if refusal is not IDENTIFICATION_MISMATCH:
                # The request's own nonce is spent and must stay so after a restart.
                row = NodeRow(
                    request.home_address,
                    node.identification,
                    nonce,
                    pack_bindings(node.bindings),
                )
                work = Work(node, row, node.bindings, case, refusal.code, networks=change)
                effects.append(self._commit(work, case.live))
                return effects
            node.nonce = nonce
            node.unsaved_nonce = True
            identification = nonce_reply(identification, nonce)
        elif refusal is IDENTIFICATION_MISMATCH:
            wall_ns = self._time.read(case.now.boot_ns, case.now.wall_ns)
            identification = rejected_timestamp_reply(identification, wall_ns)
        lifetime = self._writer.grant(request, case.host)
        self._writer.answer(case, refusal.code, lifetime, identification, effects)
        return effects

    def _accept(self, node: Node, case: Case) -> list[Effect]:
        """Turn an accepted request into the node's next state (RFC 5944 3.8.2.2)."""
        effects: list[Effect] = []
        request = case.request
        home_address = request.home_address
        lifetime = self._writer.grant(request, case.host)
        change = None
        if request.lifetime and (case.claims.node_networks or is_router(case.host)):
            case.networks = self._networks.judge(case.host, case.claims.node_networks)
            change = case.networks.change
            self._report_networks(case, effects)
            if case.networks.code:
                return effects + self._refuse(node, case, Refusal(case.networks.code))
        if lifetime:
            lifetime = self.choice.spread(lifetime, home_address, case.now)
            if case.claims is not PLAIN and case.choice.tunnel_port:
                lifetime = min(lifetime, self._policy.nat_max_lifetime_s)
                self._count[names.UDP_TUNNELS] += 1
            bindings = (self._new_binding(case, lifetime), *case.kept)
        elif request.care_of_address == home_address:
            bindings = ()
        else:
            care_of = request.care_of_address
            bindings = tuple([b for b in case.live if b.care_of_address != care_of])
        nonce = self._new_nonce(node) if case.uses_nonces else NO_NONCE
        row = NodeRow(home_address, request.identification, nonce, pack_bindings(bindings))
        work = Work(node, row, bindings, case, _success_code(case), lifetime, networks=change)
        return [*effects, self._commit(work, bindings)]

    def _report_networks(self, case: Case, effects: list[Effect]) -> None:
        """A router that asks for somebody else's prefix is a security violation."""
        answers = () if case.networks is None else case.networks.answers
        if any(answer.code == NetworkCode.UNAUTHORIZED for answer in answers):
            spi, reason = case.association.spi, ViolationReason.OTHER
            self._report(case.request, case.arrival, spi, reason, case.now, effects)

    def _new_binding(self, case: Case, lifetime: int) -> Binding:
        request = case.request
        now = case.now
        if lifetime == INFINITE_LIFETIME:
            expires_boot_ns = expires_wall_ns = NEVER
        else:
            expires_boot_ns = now.boot_ns + lifetime * _SECOND
            expires_wall_ns = now.wall_ns + lifetime * _SECOND
        tunnel_port = services = timestamp = 0
        if case.claims is PLAIN:
            encapsulation = choose_encapsulation(request.flags, case.policy.encapsulations)
        else:
            encapsulation, tunnel_port = case.choice.encapsulation, case.choice.tunnel_port
            services, timestamp = negotiate(case)
        if request.flags & FLAG_BROADCAST and self._policy.broadcasts:
            services |= SERVICE_BROADCASTS
        return Binding(
            request.home_address,
            request.care_of_address,
            request.home_agent,
            case.arrival.source.address,
            expires_boot_ns,
            expires_wall_ns,
            request.identification,
            self._boot,
            case.association.spi,
            lifetime,
            case.arrival.source.port,
            request.flags,
            encapsulation,
            tunnel_port,
            timestamp,
            services,
        )

    def _new_nonce(self, node: Node) -> int:
        return new_nonce(node.nonce, lambda bits: int.from_bytes(self._random(bits // 8)))

    def _resume(self, node: Node, held: Held, now: Now) -> list[Effect]:
        """Answer a held request, if its sender is still one of our hosts."""
        host = self._host_of(held.request, held.claims)
        association = held.association
        if host is None or association not in host.associations:
            self._count[names.UNKNOWN_HOME_ADDRESS] += 1
            return []
        held.host = host
        return self._answer(node, held, now)


_ACCEPTED = (int(ReplyCode.ACCEPTED), int(ReplyCode.ACCEPTED_NO_SIMULTANEOUS))


def _success_code(case: Case) -> int:
    """0, or 1 where simultaneous bindings are turned off (RFC 5944 3.8.2.2, C-05)."""
    return _ACCEPTED[0] if case.binding_limit > 1 else _ACCEPTED[1]
