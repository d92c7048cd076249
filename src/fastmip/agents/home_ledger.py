"""The home agent's ledger: what nodes have, how that changes, and when it ends (RFC 5944 3.8).

``home.py`` decides what a request asks for; here it becomes a ``Commit``, and once that is done
the state changes, ARP moves, those left behind are told, and the reply leaves. Expiry, the
operator's word, a foreign agent's revocation and the first keepalive of a half-bound tunnel
change a node the same way. One commit per node is outstanding at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

import numpy as np
import numpy.typing as npt

from fastmip.agents import home_counters as names
from fastmip.agents.address_pool import AddressPools
from fastmip.agents.bindings import (
    HALF_BOUND,
    SERVICE_REVOCATION,
    Binding,
    pack_bindings,
    tunnel_of,
)
from fastmip.agents.effects import (
    Arrival,
    Commit,
    CommitOutcome,
    Effect,
    Endpoint,
    GratuitousArp,
    NodeRow,
    Now,
    SendDatagram,
    StopProxyArp,
)
from fastmip.agents.expiry import BindingExpiry
from fastmip.agents.home_arp import arp_effects
from fastmip.agents.home_choice import HomeChoice, Load
from fastmip.agents.home_counters import CODE_COUNTERS, ViolationReason, new_counters
from fastmip.agents.home_replies import ReplyWriter
from fastmip.agents.home_revocation import HomeRevocations
from fastmip.agents.hosts import HomeAgentPolicy, Host
from fastmip.agents.mobile_networks import MobileNetworks, is_router, room_for_any
from fastmip.agents.nesting import NO_ROUTER, NOBODY
from fastmip.agents.nodes import Held, HeldRevocation, Node, NodeCache, Work
from fastmip.agents.throttle import Allowance
from fastmip.auth.freshness import nonce_reply
from fastmip.errors import StoreError, WireError
from fastmip.wire.codes import ReplyCode, is_accepted
from fastmip.wire.extensions import UnknownExtension
from fastmip.wire.revocation import RevocationAcknowledgment, RevocationMessage

_EXPIRIES_PER_CALL = 4096
"""Bindings looked at in one ``handle_timer``, so that a mass expiry does not stop the loop."""
_RETRY_S = 5
"""Pause before a removal that the engine or the store refused is tried again."""


class HomeLedger:
    """Nodes, their bindings and the commits under way; ``HomeAgent`` adds the deciding."""

    def __init__(
        self,
        policy: HomeAgentPolicy,
        *,
        hosts: Callable[[int], Host | None],
        load: Callable[[int], NodeRow | None],
        boot: int,
        reserve_prefix: Callable[[int, int], bool] = room_for_any,
        addresses: AddressPools | None = None,
        cache_nodes: int = 65536,
        started: Now | None = None,
        anchor: Now | None = None,
    ) -> None:
        self._policy = policy
        self._hosts = hosts
        self._boot = boot
        self.addresses = AddressPools() if addresses is None else addresses
        """Home addresses given out of pools."""
        self._nodes = NodeCache(
            load, boot=boot, capacity=cache_nodes, started=started, anchor=anchor
        )
        self._works: dict[int, Work] = {}
        self._token = 0
        self._expiry = BindingExpiry()
        self._bindings = 0
        self._new_bindings = Allowance()
        self._registrations = Allowance()
        self.choice = HomeChoice(policy.spread_lifetimes_s, started)
        """Which home agent of the group nodes get."""
        self._count = new_counters()
        self._writer = ReplyWriter(policy, self._count)
        self._revocations = HomeRevocations(policy, self._find_host, self._count)
        self._networks = MobileNetworks(policy.networks, self._count, reserve_prefix)

    def _find_host(self, home_address: int) -> Host | None:
        """The host, or None: a directory that cannot be read knows nobody."""
        try:
            return self._hosts(home_address)
        except StoreError:
            self._count[names.UNREADABLE] += 1
            return None

    def has_room(self, more: int, now: Now) -> bool:
        """Whether so many more bindings fit, by number and by rate."""
        policy = self._policy
        if self._bindings + more > policy.max_bindings:
            return False
        limit = policy.max_bindings_per_second
        return not limit or self._new_bindings.spend(now.boot_ns, limit)

    def may_register(self, now: Now) -> bool:
        """Whether another registration fits into this second."""
        limit = self._policy.max_registrations_per_second
        return not limit or self._registrations.spend(now.boot_ns, limit)

    def load(self, now: Now) -> Load:
        """How busy this home agent is."""
        capacity = self._policy.max_bindings
        return Load(self._bindings, capacity, now.boot_ns, self.choice.is_draining)

    def carrier(self, address: int, now: Now) -> int:
        """See ``nesting``: a bound home address counts before the network it lies in."""
        if address in self._policy.home_network:
            host = self._hosts(address)
            if host is not None and self._nodes.get(address, now).live(now.boot_ns):
                return address if is_router(host) else NO_ROUTER
        return self._networks.router_of(address) or NOBODY

    def ends_of(self, home_address: int, now: Now) -> tuple[int, ...]:
        """Where the tunnels of a node lead."""
        live = self._nodes.get(home_address, now).live(now.boot_ns)
        return tuple([binding.remote for binding in live])

    def networks_of(self, home_address: int) -> tuple[tuple[int, int], ...]:
        """Mobile networks a node has out of pools, or had."""
        return tuple([held.network for held in self._networks.held_by(home_address)])

    def _commit(self, work: Work, tunnels: tuple[Binding, ...]) -> Commit:
        """Put a node in work; ``commit_done`` hears of it by the token."""
        self._token = token = self._token + 1
        self._works[token] = work
        work.node.work = work
        if not tunnels and work.networks is None:  # a prefix leaves with its binding
            work.networks = self._networks.leave(work.row.home_address)
        return Commit(
            token,
            work.row.home_address,
            tuple([tunnel_of(binding) for binding in tunnels]),
            work.row,
            None if work.networks is None else work.networks.step(),
            self.addresses.unsaved(work.row.home_address),
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
        if work.networks is not None:
            self._networks.settle(work.networks, committed=outcome is CommitOutcome.COMMITTED)
        if outcome is CommitOutcome.COMMITTED:
            self._committed(node, work, now, effects)
        else:
            self._failed(node, work, now, effects)
        if node.withdraw and (work.case is not None or outcome is CommitOutcome.COMMITTED):
            effects += self._withdraw(node, work.row.home_address)
        while node.work is None and (told := node.take_revocation()) is not None:
            self._judge_revocation(node, told, now, effects)
        if node.held is not None and node.work is None:
            held, node.held = node.held, None
            effects += self._resume(node, held, now)
        if node.work is None and work.row.home_address in self._networks.unrevised:
            effects += self._revise(work.row.home_address, now)
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
        self.addresses.saved(home_address, now.boot_ns)
        case = work.case
        if case is None:
            self._expiry.schedule(node, home_address, (), new)
            expired = [b for b in old if b.expires_boot_ns <= now.boot_ns]
            self._count[names.EXPIRED] += len(expired)
            if old and not new and self._policy.home_interface:
                effects.append(StopProxyArp(home_address))
            if work.ending is not None:
                effects.append(self._revocations.ended(work.ending))
            elif work.withdraws:
                leaver, node.leaver = node.leaver, None
                for binding in old:
                    effects += self._revocations.told(binding, now, inform=True, host=leaver)
            return
        self._expiry.schedule(node, home_address, old, new)
        identification = case.request.identification
        if case.uses_nonces:
            identification = nonce_reply(identification, node.nonce)
        if is_accepted(work.code):
            self._count[CODE_COUNTERS[work.code]] += 1
            node.repeatable = work.row.identification
            for moved in arp_effects(case, old, new):
                self._count[names.GRATUITOUS_ARPS] += isinstance(moved, GratuitousArp)
                effects.append(moved)
            self._writer.answer(case, work.code, work.lifetime_s, identification, effects)
            self._tell_left(old, new, work, now, effects)
        else:
            lifetime = self._writer.grant(case.request, case.host)
            self._writer.answer(case, work.code, lifetime, identification, effects)

    def _tell_left(
        self,
        old: tuple[Binding, ...],
        new: tuple[Binding, ...],
        work: Work,
        now: Now,
        effects: list[Effect],
    ) -> None:
        """Tell agents left behind, and stop telling one that is back (RFC 3543)."""
        if work.lifetime_s and len(self._revocations.sender):
            self._revocations.renewed(new[0])
        if work.case is None:
            return
        for binding in old:
            if binding.services & SERVICE_REVOCATION:
                effects += self._revocations.left(old, new, work.case, now)
                return

    def _failed(self, node: Node, work: Work, now: Now, effects: list[Effect]) -> None:
        """The stored state stays in force; a request is answered 130 (or its own denial)."""
        self._count[names.COMMITS_FAILED] += 1
        case = work.case
        if case is None:
            node.withdraw |= work.withdraws
            self._expiry.put_off(node, work.row.home_address, now.boot_ns, _RETRY_S)
            return
        code = work.code
        if is_accepted(code):
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
        """Answer a held request."""
        raise NotImplementedError

    # revocation and keepalives --------------------------------------------------------------

    def _receive_revocation(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """A foreign agent says that a binding ended (RFC 3543 4.2.3.2)."""
        try:
            message = RevocationMessage.decode(data)
        except WireError as error:
            self._count_bad(error)
            return []
        effects: list[Effect] = []
        if not self._revocations.concerns_us(message):
            return effects
        association = self._revocations.proof(data, message, arrival)
        home_address = message.home_address
        if association is None:
            reason = ViolationReason.BAD_AUTHENTICATOR
            self._writer.report(home_address, message.identifier, arrival, 0, reason, now, effects)
            return effects
        if self._find_host(home_address) is None:
            self._count[names.UNKNOWN_HOME_ADDRESS] += 1
            return effects
        try:
            node = self._nodes.get(home_address, now)
        except StoreError:
            self._count[names.UNREADABLE] += 1
            return effects
        held = HeldRevocation(message, arrival, association)
        if node.work is not None:
            self._count[names.REVOCATIONS_HELD] += 1
            node.hold_revocation(held)
            return effects
        self._judge_revocation(node, held, now, effects)
        return effects

    def _judge_revocation(
        self, node: Node, held: HeldRevocation, now: Now, effects: list[Effect]
    ) -> None:
        """Look for what a proven revocation of an idle node ends, and end it."""
        home_address = held.message.home_address
        live = node.live(now.boot_ns)
        found = self._revocations.match(held.message, held.arrival, held.association, live)
        if isinstance(found, SendDatagram):
            effects.append(found)
        elif found is not None:
            rest = tuple([binding for binding in live if binding is not found.binding])
            row = NodeRow(home_address, node.identification, node.nonce, pack_bindings(rest))
            effects.append(self._commit(Work(node, row, rest, ending=found), rest))

    def _receive_acknowledgment(self, data: bytes, arrival: Arrival) -> list[Effect]:
        try:
            answer = RevocationAcknowledgment.decode(data)
        except WireError as error:
            self._count_bad(error)
        else:
            self._revocations.acknowledged(data, answer, arrival)
        return []

    def _count_bad(self, error: WireError) -> None:
        is_unknown = isinstance(error, UnknownExtension)
        self._count[names.UNKNOWN_EXTENSION if is_unknown else names.MALFORMED] += 1

    def receive_keepalive(self, home_address: int, source: Endpoint, now: Now) -> list[Effect]:
        """The first packet through a half-bound UDP tunnel tells its port (RFC 3519 4.6).

        ``home_address`` is the inner source; the engine has seen that the inner destination is
        ours. The outer source address must be that of the registration, the port is new.
        """
        if self._find_host(home_address) is None or source.port in (0, HALF_BOUND):
            return []
        try:
            node = self._nodes.get(home_address, now)
        except StoreError:
            self._count[names.UNREADABLE] += 1
            return []
        if node.work is not None:
            return []
        live = node.live(now.boot_ns)
        bound = tuple(
            [
                binding._replace(tunnel_port=source.port)
                if binding.tunnel_port == HALF_BOUND and binding.source_address == source.address
                else binding
                for binding in live
            ]
        )
        if bound == live:
            self._count[names.KEEPALIVES_REFUSED] += 1
            return []
        self._count[names.KEEPALIVES] += 1
        row = NodeRow(home_address, node.identification, node.nonce, pack_bindings(bound))
        return [self._commit(Work(node, row, bound), bound)]

    # lifetimes ------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> list[Effect]:
        """Remove bindings whose lifetime has ended, repeat revocations; at ``next_deadline``.

        Does a bounded part; when more is due, ``next_deadline`` is already past.
        """
        effects: list[Effect] = []
        for home_address in self._expiry.due(now.boot_ns, _EXPIRIES_PER_CALL):
            try:
                effects += self._look_at(home_address, now)
            except StoreError:
                self._count[names.UNREADABLE] += 1
                self._expiry.look_again(home_address, now.boot_ns, _RETRY_S)
        effects += self._revocations.sender.handle_timer(now)
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
        expiry = self._expiry.next_deadline()
        revocation = self._revocations.sender.next_deadline()
        if expiry is None or revocation is None:
            return expiry if revocation is None else revocation
        return min(expiry, revocation)

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

    def host_removed(self, home_address: int, now: Now, host: Host | None = None) -> list[Effect]:
        """Withdraw what a host had when it leaves the configuration; its mark stays stored.

        ``host`` is what it was: with its associations it can still be told (RFC 3543).
        """
        node = self._nodes.get(home_address, now)
        node.held = None
        node.leaver = host
        return self.clear_binding(home_address, now)

    def _withdraw(self, node: Node, home_address: int) -> list[Effect]:
        node.withdraw = False
        if not node.bindings:
            node.leaver = None
            return []
        row = NodeRow(home_address, node.identification, node.nonce, b"")
        return [self._commit(Work(node, row, (), withdraws=True), ())]

    def set_policy(self, policy: HomeAgentPolicy) -> None:
        """Replace the policy; bindings already granted stay as they are."""
        self._policy = self._writer.policy = self._revocations.policy = policy
        self._networks.set_policy(policy.networks)
        self.choice.spread_s = policy.spread_lifetimes_s

    # mobile networks ------------------------------------------------------------------------

    @property
    def networks(self) -> MobileNetworks:
        """The prefix table."""
        return self._networks

    def restore_networks(
        self, rows: Iterable[tuple[int, bytes]], bound: Container[int]
    ) -> list[tuple[int, int, int]]:
        """Take over what routers had: prefix, length and home address of what is to be routed.

        ``bound``: home addresses whose bindings were restored. Raises StoreError.
        """
        found = []
        for home_address, records in rows:
            host = self._hosts(home_address) if home_address in bound else None
            for prefix, length in self._networks.restore(home_address, records, host):
                found.append((prefix, length, home_address))
        return found

    def revise_networks(self, now: Now) -> list[Effect]:
        """Take back mobile networks that routers may not have any more, after a reload."""
        effects: list[Effect] = []
        for home_address in self._networks.routers():
            effects += self._revise(home_address, now)
        return effects

    def _revise(self, home_address: int, now: Now) -> list[Effect]:
        self._networks.unrevised.discard(home_address)
        try:
            host = self._hosts(home_address)
            node = self._nodes.get(home_address, now)
        except StoreError:
            self._count[names.UNREADABLE] += 1
            return []
        if node.work is not None:
            self._networks.unrevised.add(home_address)
            return []
        change = self._networks.revise(host, home_address)
        if change is None:
            return []
        live = node.live(now.boot_ns)
        row = NodeRow(home_address, node.identification, node.nonce, pack_bindings(live))
        return [self._commit(Work(node, row, live, networks=change), live)]

    def revoking(self, home_addresses: Iterable[int]) -> list[int]:
        """Those whose revocation waits for its acknowledgment."""
        waiting = self._revocations.sender.home_addresses()
        return [home_address for home_address in home_addresses if home_address in waiting]

    def counters(self) -> dict[str, int]:
        """Counters and gauges of ``home_counters.HOME_COUNTERS``."""
        found = dict(self._count)
        found[names.BINDINGS] = self._bindings
        found[names.ADDRESSES_TAKEN_BACK] = self.addresses.reclaimed
        found[names.CACHED_NODES] = len(self._nodes)
        found |= self._networks.gauges()
        return found
