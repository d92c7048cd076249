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

import numpy as np
import numpy.typing as npt

from fastmip.agents import home_counters as names
from fastmip.agents.bindings import Binding, pack_bindings
from fastmip.agents.effects import (
    NEVER,
    Arrival,
    Commit,
    CommitOutcome,
    Effect,
    GratuitousArp,
    NodeRow,
    Now,
    StopProxyArp,
    Tunnel,
)
from fastmip.agents.expiry import BindingExpiry
from fastmip.agents.home_arp import arp_effects
from fastmip.agents.home_counters import CODE_COUNTERS, ViolationReason, new_counters
from fastmip.agents.home_replies import ReplyWriter
from fastmip.agents.hosts import INFINITE_LIFETIME, HomeAgentPolicy, Host
from fastmip.agents.nodes import Held, Node, NodeCache, Work
from fastmip.agents.reply_policy import (
    IDENTIFICATION_MISMATCH,
    INSUFFICIENT_RESOURCES,
    SILENT,
    Case,
    Refusal,
    climb,
    may_tell_stranger,
)
from fastmip.agents.throttle import Allowance
from fastmip.auth.associations import ReplayStyle, SecurityAssociation
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
from fastmip.wire.codes import FLAG_REVERSE_TUNNEL, ExtensionType, MessageType, ReplyCode
from fastmip.wire.extensions import UnknownExtension
from fastmip.wire.registration import RegistrationRequest

_SECOND = 1_000_000_000
_IP_IN_IP = 4
_EXPIRIES_PER_CALL = 4096
"""Bindings looked at in one ``handle_timer``, so that a mass expiry does not stop the loop."""
_RETRY_S = 5
"""Pause before a removal that the engine or the store refused is tried again."""


class HomeAgent:
    """Registration at the home agent: one instance per process, one caller thread.

    Never raises on what a datagram contains. ``hosts`` finds a served mobile node, ``load``
    its durable row (while it raises StoreError its node is denied with 130); ``boot`` is this
    boot's row in the boot table; ``random(n)`` gives n unpredictable bytes; ``started`` are
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
        cache_nodes: int = 65536,
        started: Now | None = None,
        anchor: Now | None = None,
    ) -> None:
        self._policy = policy
        self._hosts = hosts
        self._boot = boot
        self._random = random
        self._nodes = NodeCache(
            load, boot=boot, capacity=cache_nodes, started=started, anchor=anchor
        )
        self._works: dict[int, Work] = {}
        self._token = 0
        self._expiry = BindingExpiry()
        self._time = IdentificationClock()
        self._bindings = 0
        self._new_bindings = Allowance()
        self._count = new_counters()
        self._writer = ReplyWriter(policy, self._count)

    # receiving: what a stranger can reach ---------------------------------------------------

    def receive_datagram(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """Handle one datagram from UDP port 434."""
        count = self._count
        if not data or data[0] != MessageType.REGISTRATION_REQUEST:
            count[names.UNEXPECTED_TYPE] += 1
            return []
        count[names.REQUESTS] += 1
        if not arrival.source.port or not is_unicast(arrival.source.address):
            count[names.BAD_SOURCE] += 1
            return []
        try:
            request = RegistrationRequest.decode(data)
        except UnknownExtension:
            count[names.UNKNOWN_EXTENSION] += 1
            return []
        except WireError:
            count[names.MALFORMED] += 1
            return []
        if not request.lifetime:
            count[names.DEREGISTRATIONS] += 1
        effects: list[Effect] = []
        proof = self._authenticate(request, data, arrival, now, effects)
        if proof is None:
            return effects
        host, association = proof
        try:
            node = self._nodes.get(request.home_address, now)
        except StoreError:
            self._count[names.UNREADABLE] += 1
            self._writer.tell_no_store(request, arrival, host, association, now, effects)
            return effects
        if node.work is not None:
            self._hold(node, Held(request, data, arrival, host, association))
            return effects
        return self._answer(node, request, data, arrival, host, association, now)

    def _authenticate(
        self,
        request: RegistrationRequest,
        data: bytes,
        arrival: Arrival,
        now: Now,
        effects: list[Effect],
    ) -> tuple[Host, SecurityAssociation] | None:
        """Find who sent it (RFC 5944 3.8.2.1 a); adds a violation and perhaps a 131."""
        found = request.authentications(ExtensionType.MOBILE_HOME_AUTHENTICATION)
        if len(found) != 1:
            if found:
                self._count[names.REPEATED_AUTHENTICATION] += 1
            elif request.malformed:
                self._count[names.MALFORMED] += 1
            else:
                self._count[names.MISSING_AUTHENTICATION] += 1
            return None
        extension = found[0]
        host = self._find_host(request.home_address)
        if host is None:
            self._count[names.UNKNOWN_HOME_ADDRESS] += 1
            return None
        association = host.associations.inbound(extension.spi)
        if association is not None and verify_authentication(data, extension, association):
            return host, association
        if association is None:
            reason, counter = ViolationReason.BAD_SPI, names.UNKNOWN_SPI
        else:
            reason, counter = ViolationReason.BAD_AUTHENTICATOR, names.BAD_AUTHENTICATOR
        self._count[counter] += 1
        self._writer.report(request, arrival, extension.spi, reason, now, effects)
        if may_tell_stranger(data, request, arrival, self._policy):
            self._writer.tell_stranger(request, arrival, host, now, effects)
        return None

    def _find_host(self, home_address: int) -> Host | None:
        """The host, or None: a directory that cannot be read knows nobody."""
        try:
            return self._hosts(home_address)
        except StoreError:
            self._count[names.UNREADABLE] += 1
            return None

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

    def _answer(
        self,
        node: Node,
        request: RegistrationRequest,
        data: bytes,
        arrival: Arrival,
        host: Host,
        association: SecurityAssociation,
        now: Now,
    ) -> list[Effect]:
        """Climb the ladder with an authentic request of an idle node."""
        identification = request.identification
        freshness = node.judge(identification, association, self._time, now)
        case = Case(
            request,
            data,
            arrival,
            host,
            association,
            self._policy,
            self._policy.foreign_agents(arrival.source.address),
            self,
            now,
            freshness,
            node.live(now.boot_ns),
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

    def has_room(self, more: int, now: Now) -> bool:
        """Whether so many more bindings fit, by number and by rate."""
        policy = self._policy
        if self._bindings + more > policy.max_bindings:
            return False
        limit = policy.max_bindings_per_second
        return not limit or self._new_bindings.spend(now.boot_ns, limit)

    def is_bound(self, home_address: int, now: Now) -> bool:
        """Whether an address is a home address with a binding here."""
        if self._hosts(home_address) is None:
            return False
        return bool(self._nodes.get(home_address, now).live(now.boot_ns))

    def _repeat(self, node: Node, case: Case) -> list[Effect] | None:
        """Answer an exact duplicate of the request in force (RFC 5944 3.8.2.2).

        The lifetime told is what remains, so nothing is prolonged. None if the duplicate does
        not belong to a current binding; then it is a replay like any other.
        """
        request = case.request
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
            self._writer.report(request, case.arrival, spi, refusal.violation, case.now, effects)
        if refusal.code == SILENT:
            self._count[refusal.counter] += 1
            return effects
        self._count[CODE_COUNTERS[refusal.code]] += 1
        if not self._writer.may_deny(request.home_address, case.now):
            return effects
        identification = request.identification
        if case.uses_nonces:
            nonce = self._new_nonce(node)
            if refusal is not IDENTIFICATION_MISMATCH:
                # The request's own nonce is spent and must stay so after a restart.
                row = NodeRow(
                    request.home_address,
                    node.identification,
                    nonce,
                    pack_bindings(node.bindings),
                )
                work = Work(node, row, node.bindings, case, refusal.code)
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
        request = case.request
        home_address = request.home_address
        lifetime = self._writer.grant(request, case.host)
        if lifetime:
            bindings = (self._new_binding(case, lifetime), *case.kept)
        elif request.care_of_address == home_address:
            bindings = ()
        else:
            care_of = request.care_of_address
            bindings = tuple([b for b in case.live if b.care_of_address != care_of])
        nonce = self._new_nonce(node) if case.uses_nonces else NO_NONCE
        row = NodeRow(home_address, request.identification, nonce, pack_bindings(bindings))
        work = Work(node, row, bindings, case, _success_code(case), lifetime)
        return [self._commit(work, bindings)]

    def _new_binding(self, case: Case, lifetime: int) -> Binding:
        request = case.request
        now = case.now
        if lifetime == INFINITE_LIFETIME:
            expires_boot_ns = expires_wall_ns = NEVER
        else:
            expires_boot_ns = now.boot_ns + lifetime * _SECOND
            expires_wall_ns = now.wall_ns + lifetime * _SECOND
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
            _IP_IN_IP,
        )

    def _new_nonce(self, node: Node) -> int:
        return new_nonce(node.nonce, lambda bits: int.from_bytes(self._random(bits // 8)))

    def _commit(self, work: Work, tunnels: tuple[Binding, ...]) -> Commit:
        """Put a node in work; ``commit_done`` hears of it by the token."""
        self._token = token = self._token + 1
        self._works[token] = work
        work.node.work = work
        return Commit(
            token,
            work.row.home_address,
            tuple(
                [
                    Tunnel(
                        b.care_of_address,
                        b.home_agent,
                        b.expires_boot_ns,
                        b.encapsulation,
                        b.flags & FLAG_REVERSE_TUNNEL != 0,
                    )
                    for b in tunnels
                ]
            ),
            work.row,
        )

    # after the commit -----------------------------------------------------------------------

    def commit_done(self, token: int, outcome: CommitOutcome, now: Now) -> list[Effect]:
        """Hear how a Commit ended; returns ARP effects and the reply, and the next Commit.

        A token that is not outstanding is ignored.
        """
        work = self._works.pop(token, None)
        if work is None:
            return []
        node = work.node
        node.work = None
        effects: list[Effect] = []
        if outcome is CommitOutcome.COMMITTED:
            self._committed(node, work, now, effects)
        else:
            self._failed(node, work, now, effects)
        if node.withdraw and (work.case is not None or outcome is CommitOutcome.COMMITTED):
            effects += self._withdraw(node, work.row.home_address)
        if node.held is not None and node.work is None:
            held, node.held = node.held, None
            effects += self._resume(node, held, now)
        return effects

    def _committed(self, node: Node, work: Work, now: Now, effects: list[Effect]) -> None:
        """Adopt the stored state, then move ARP, then answer (RFC 5944 4.6)."""
        old = node.bindings
        node.bindings = new = work.bindings
        node.identification = work.row.identification
        node.nonce = work.row.nonce
        node.unsaved_nonce = False
        self._bindings += len(new) - len(old)
        home_address = work.row.home_address
        case = work.case
        if case is None:
            self._expiry.schedule(node, home_address, (), new)
            expired = [b for b in old if b.expires_boot_ns <= now.boot_ns]
            self._count[names.EXPIRED] += len(expired)
            if old and not new and self._policy.home_interface:
                effects.append(StopProxyArp(home_address))
            return
        self._expiry.schedule(node, home_address, old, new)
        identification = case.request.identification
        if case.uses_nonces:
            identification = nonce_reply(identification, node.nonce)
        if work.code in _ACCEPTED:
            self._count[CODE_COUNTERS[work.code]] += 1
            node.repeatable = work.row.identification
            for moved in arp_effects(case, old, new):
                self._count[names.GRATUITOUS_ARPS] += isinstance(moved, GratuitousArp)
                effects.append(moved)
            self._writer.answer(case, work.code, work.lifetime_s, identification, effects)
        else:
            lifetime = self._writer.grant(case.request, case.host)
            self._writer.answer(case, work.code, lifetime, identification, effects)

    def _failed(self, node: Node, work: Work, now: Now, effects: list[Effect]) -> None:
        """The stored state stays in force; a request is answered 130 (or its own denial)."""
        self._count[names.COMMITS_FAILED] += 1
        case = work.case
        if case is None:
            node.withdraw |= work.withdraws
            self._expiry.put_off(node, work.row.home_address, now.boot_ns, _RETRY_S)
            return
        code = work.code
        if code in _ACCEPTED:
            code = int(ReplyCode.HA_INSUFFICIENT_RESOURCES)
            self._count[CODE_COUNTERS[code]] += 1
            if not self._writer.may_deny(case.request.home_address, now):
                return
        identification = case.request.identification
        if case.uses_nonces:
            node.nonce = work.row.nonce
            node.unsaved_nonce = True
            identification = nonce_reply(identification, node.nonce)
        lifetime = self._writer.grant(case.request, case.host)
        self._writer.answer(case, code, lifetime, identification, effects)

    def _resume(self, node: Node, held: Held, now: Now) -> list[Effect]:
        """Answer a held request, if its sender is still one of our hosts."""
        host = self._find_host(held.request.home_address)
        association = held.association
        if host is None or host.associations.inbound(association.spi) != association:
            self._count[names.UNKNOWN_HOME_ADDRESS] += 1
            return []
        return self._answer(node, held.request, held.data, held.arrival, host, association, now)

    # lifetimes ------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> list[Effect]:
        """Remove bindings whose lifetime has ended; call it at ``next_deadline``.

        Does a bounded part; when more is due, ``next_deadline`` is already past.
        """
        effects: list[Effect] = []
        for home_address in self._expiry.due(now.boot_ns, _EXPIRIES_PER_CALL):
            try:
                effects += self._look_at(home_address, now)
            except StoreError:
                self._count[names.UNREADABLE] += 1
                self._expiry.look_again(home_address, now.boot_ns, _RETRY_S)
        return effects

    def _look_at(self, home_address: int, now: Now) -> list[Effect]:
        """A hint came due: drop what has expired, put the rest further on."""
        node = self._nodes.get(home_address, now)
        if self._expiry.is_superseded(node, now.boot_ns):
            return []
        if node.work is not None:
            self._expiry.put_off(node, home_address, now.boot_ns, 1)
            return []
        if node.withdraw:
            return self._withdraw(node, home_address)
        live = node.live(now.boot_ns)
        if len(live) == len(node.bindings):
            self._expiry.schedule(node, home_address, (), live)
            return []
        effects: list[Effect] = []
        if not live and self._policy.home_interface:
            effects.append(StopProxyArp(home_address))
        row = NodeRow(home_address, node.identification, node.nonce, pack_bindings(live))
        effects.append(self._commit(Work(node, row, live), live))
        return effects

    def next_deadline(self) -> int | None:
        """CLOCK_BOOTTIME nanoseconds at which ``handle_timer`` has something to do."""
        return self._expiry.next_deadline()

    # administration -------------------------------------------------------------------------

    def schedule_expiries(self, tunnels: npt.NDArray[np.void]) -> None:
        """Take over restored bindings: records of TUNNEL_DTYPE as the engine got them."""
        self._bindings += len(tunnels)
        self._expiry.restore(tunnels["home_address"], tunnels["expires_ns"])

    def bindings_of(self, home_address: int) -> list[Binding]:
        """Bindings of a node as stored, newest first; expired ones not yet removed included."""
        return list(self._nodes.peek(home_address))

    def clear_binding(self, home_address: int, now: Now) -> list[Effect]:
        """Withdraw all bindings of a node on the operator's word.

        A request that is in work is finished first. Raises StoreError if ``load`` does.
        """
        node = self._nodes.get(home_address, now)
        if node.work is not None:
            node.withdraw = True
            return []
        return self._withdraw(node, home_address)

    def host_removed(self, home_address: int, now: Now) -> list[Effect]:
        """Withdraw what a host had when it leaves the configuration; its mark stays stored."""
        self._nodes.get(home_address, now).held = None
        return self.clear_binding(home_address, now)

    def _withdraw(self, node: Node, home_address: int) -> list[Effect]:
        node.withdraw = False
        if not node.bindings:
            return []
        row = NodeRow(home_address, node.identification, node.nonce, b"")
        return [self._commit(Work(node, row, (), withdraws=True), ())]

    def set_policy(self, policy: HomeAgentPolicy) -> None:
        """Replace the policy; bindings already granted stay as they are."""
        self._policy = self._writer.policy = policy

    def counters(self) -> dict[str, int]:
        """Counters and gauges of ``home_counters.HOME_COUNTERS``."""
        found = dict(self._count)
        found[names.BINDINGS] = self._bindings
        found[names.CACHED_NODES] = len(self._nodes)
        return found


_ACCEPTED = (int(ReplyCode.ACCEPTED), int(ReplyCode.ACCEPTED_NO_SIMULTANEOUS))


def _success_code(case: Case) -> int:
    """0, or 1 where simultaneous bindings are turned off (RFC 5944 3.8.2.2, C-05)."""
    return _ACCEPTED[0] if case.binding_limit > 1 else _ACCEPTED[1]
