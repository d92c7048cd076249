"""The foreign agent (RFC 5944 3.7), sans I/O: datagrams and clocks in, effects out.

A registration's walk, in the order of this file:
1. ``_receive_request``: what cannot be answered is dropped; the ladder of ``foreign_policy``
   denies; else the request is pending and relayed, its end rewritten (3.7.2.2).
2. ``_receive_reply``: matched with its pending request, proven, and either honoured or passed
   on with an error of ours (RFC 4636).
3. ``_honour``: the visitor's data path becomes one ``InstallVisitor``.
4. ``visitor_installed``: only now the entry changes, and the reply leaves.

| event                                  | pending        | visitor in force                     |
|----------------------------------------|----------------|--------------------------------------|
| request relayed                        | added          | untouched                            |
| denied by us, by ICMP, after 7 seconds | removed        | untouched; a denial at most          |
| denied by the home agent               | removed        | untouched; reply passed on           |
| accepted, lifetime > 0                 | removed        | replaced when installed; passed on   |
| accepted, lifetime 0                   | removed        | removed; passed on                   |
| accepted but not honoured              | removed        | removed if it was the same binding   |
| lifetime over                          | -              | removed; nobody is told              |
| revoked by the home agent              | -              | removed; acknowledged, node told     |
| cleared by the operator                | -              | removed; home agent and node told    |

No request and no accepting reply ever starts here (3.7). Addresses are host-order integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastmip.agents import foreign_counters as names
from fastmip.agents.effects import (
    Arrival,
    Effect,
    Endpoint,
    Now,
    RemoveVisitor,
)
from fastmip.agents.foreign_challenges import Challenges
from fastmip.agents.foreign_counters import new_counters
from fastmip.agents.foreign_policy import (
    SILENT,
    ForeignAgentPolicy,
    ForeignCase,
    climb,
    end_of_authorization,
)
from fastmip.agents.foreign_relay import MAX_REQUEST_LEN, asker_of, relay
from fastmip.agents.foreign_replies import ForeignReplies
from fastmip.agents.foreign_revocation import (
    ForeignRevocation,
    Notifier,
    SilentNotifier,
    Told,
)
from fastmip.agents.foreign_verdicts import (
    Unproven,
    fault,
    first,
    is_believable,
    match,
    proven,
    quoted_in,
    report_code,
    visitor_of,
)
from fastmip.agents.foreign_visits import Visits
from fastmip.agents.peaks import MinutePeaks
from fastmip.agents.throttle import NodeRates
from fastmip.agents.visitors import (
    Asker,
    Pending,
    PendingTable,
    Visitor,
    is_said_by_another,
    may_wait,
    visitor_event,
)
from fastmip.auth.challenges import ChallengeVerdict, ChallengeWindow
from fastmip.errors import WireError
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import (
    MessageType,
    ReplyCode,
    is_accepted,
)
from fastmip.wire.extensions import Extension, UnknownExtension
from fastmip.wire.registration import RegistrationReply, RegistrationRequest
from fastmip.wire.revocation import (
    RevocationAcknowledgment,
    RevocationMessage,
    RevocationSupport,
)
from fastmip.wire.tunneling import UdpTunnelReply

RELAYS = 20
"""Requests of one link-layer address relayed a second that did not prove themselves: some nodes
are several, and links repeat frames."""


class ForeignAgent:
    """Registration through a foreign agent: one instance per process, one caller thread.

    Never raises on what a datagram contains. ``random(n)`` gives n unpredictable bytes;
    ``notifier`` is the advertiser.
    """

    def __init__(
        self,
        policy: ForeignAgentPolicy,
        *,
        random: Callable[[int], bytes],
        notifier: Notifier | None = None,
    ) -> None:
        self._policy = policy
        self._notifier: Notifier = SilentNotifier() if notifier is None else notifier
        self._pending = PendingTable()
        self._count = new_counters()
        self._challenges = Challenges(random, policy.challenge_window)
        self._visits = Visits(self._count, self._challenges)
        self.peaks = MinutePeaks()
        self._replies = ForeignReplies(policy, self._count, self.peaks)
        self._revocation = ForeignRevocation(self._count)
        self._relayed = NodeRates()

    # receiving ------------------------------------------------------------------------------

    def receive_datagram(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """Handle one datagram from UDP port 434."""
        handler = _HANDLERS.get(data[0] if data else -1)
        if handler is None:
            self._count[names.UNEXPECTED_TYPE] += 1
            return []
        effects: list[Effect] = []
        try:
            handler(self, data, arrival, now, effects)
        except UnknownExtension:
            self._count[names.UNKNOWN_EXTENSION] += 1
            return []
        except WireError:
            self._count[names.MALFORMED] += 1
            return []
        return effects

    # requests -------------------------------------------------------------------------------

    def _receive_request(
        self, data: bytes, arrival: Arrival, now: Now, effects: list[Effect]
    ) -> None:
        count = self._count
        count[names.REQUESTS] += 1
        link = self._policy.by_interface.get(arrival.interface)
        mac = arrival.mac
        if link is None or not mac or mac[0] & 1 or not any(mac) or not arrival.source.port:
            count[names.BAD_SOURCE] += 1
            return
        if len(data) > MAX_REQUEST_LEN:
            count[names.MALFORMED] += 1
            return
        request = RegistrationRequest.decode(data, self._policy.registry)
        if not request.is_colocated and any(
            isinstance(e, RevocationSupport) for e in request.extensions
        ):
            count[names.REVOCATION_IN_REQUEST] += 1
            return
        request = self._policy.to_home_agent(request)
        case = ForeignCase(request, data, arrival, mac, link, self._policy, self)
        refusal = climb(case)
        asker = asker_of(case)
        if refusal is None:
            self._relay(case, asker, now, effects)
            return
        if refusal.code == SILENT:
            count[refusal.counter] += 1
            return
        if refusal.violation is not None:
            self._replies.report(
                asker, arrival.source.address, case.spi, refusal.violation, now, effects
            )
        self._deny(asker, refusal.code, now, effects)

    def judge_challenge(self, case: ForeignCase, challenge: bytes) -> ChallengeVerdict:
        """What the link's window says; a repetition of a pending request is no reuse."""
        pending = self._pending.get(case.key)
        return self._challenges.judge(
            case.key.interface, case.holder, case.request, challenge, pending
        )

    def is_replay(self, case: ForeignCase) -> bool:
        """Whether another node has said this before; see ``is_said_by_another``."""
        number = case.request.identification
        pending = self._pending.numbered(number & 0xFFFFFFFF)
        return is_said_by_another(case.key, case.request, self._visits.identified(number), pending)

    def has_room(self, case: ForeignCase) -> bool:
        """Whether a request may wait here; see ``may_wait``."""
        request = case.request
        visitor = self._visits.table.get(request.home_address)
        return may_wait(
            case.key,
            request,
            self._visits.table,
            self._pending,
            self._policy.limits,
            is_proven=case.proof is not None,
            is_outranked=visitor is not None
            and self._policy.trusts_more(request.home_agent, visitor.home_agent),
            is_full=self._is_full,
        )

    @property
    def _is_full(self) -> bool:
        return len(self._visits) >= self._policy.max_visitors

    def _relay(self, case: ForeignCase, asker: Asker, now: Now, effects: list[Effect]) -> None:
        """Make the request pending and send it on (RFC 5944 3.7.2.2)."""
        if case.proof is not None and not all(
            self._challenges.spend(case.key.interface, case.holder, found.challenge)
            for found in case.challenges
        ):
            self._deny(asker, ReplyCode.FA_INSUFFICIENT_RESOURCES, now, effects)
            return
        # A node asks once a second at most (RFC 5944 3.6.3); whoever goes on must not do it
        # through us, in our name.
        if case.proof is None and not self._relayed.allow(case.key.mac, now.boot_ns, RELAYS):
            self._deny(asker, ReplyCode.FA_INSUFFICIENT_RESOURCES, now, effects)
            return
        pending, message = relay(case, asker, self._policy, now)
        self._pending.add(pending)
        self._count[names.RELAYED] += 1
        effects.append(message)

    def _deny(self, asker: Asker, code: int, now: Now, effects: list[Effect]) -> None:
        self._replies.deny(asker, code, now, effects, self._offer(asker))

    def _offer(self, asker: Asker, given: int = 0) -> bytes | None:
        """A challenge this node can use next (RFC 4721 3.3)."""
        if not self._policy.demands_challenge(asker.key.interface):
            return None
        return self._challenges.offer(asker.key.interface, asker.holder, given)

    # replies --------------------------------------------------------------------------------

    def _receive_reply(
        self, data: bytes, arrival: Arrival, now: Now, effects: list[Effect]
    ) -> None:
        self._count[names.REPLIES] += 1
        reply = RegistrationReply.decode(data, self._policy.registry)
        pending = match(self._pending, reply, arrival, now)
        if isinstance(pending, str):
            self._count[pending] += 1
            return
        end = end_of_authorization(reply.extensions)
        trailing = proven(data, reply, pending, end)
        if isinstance(trailing, Unproven):
            self._refuse_unproven(data[:end], reply, pending, trailing, arrival, now, effects)
            return
        if not end:
            if reply.malformed:
                self._pending.remove(pending.key)
                self._deny(pending.asker, ReplyCode.FA_POORLY_FORMED_REPLY, now, effects)
            else:
                self._count[names.UNSIGNED_REPLY] += 1
            return
        self._pending.remove(pending.key)
        standing = self._visits.standing(reply.home_address)
        code, status = fault(
            reply, trailing, pending, self._policy, standing, is_full=self._is_full
        )
        if code is not None:
            self._deny(pending.asker, code, now, effects)
            self._disown(reply, trailing, pending, arrival, now, effects)
            return
        if status is not None:
            self._pass_on(data[:end], pending, reply, effects, now, status=status)
            self._disown(reply, trailing, pending, arrival, now, effects)
            return
        if not is_accepted(reply.code):
            self._pass_on(data[:end], pending, reply, effects, now)
            return
        if not self._spend(pending, reply) and reply.lifetime and pending.request.lifetime:
            status = ReplyCode.FA_INSUFFICIENT_RESOURCES
            self._pass_on(data[:end], pending, reply, effects, now, status=status)
            self._disown(reply, trailing, pending, arrival, now, effects)
            return
        if reply.lifetime and pending.request.lifetime:
            self._honour(data[:end], reply, trailing, pending, arrival, now, effects)
        else:
            gone = pending.request.care_of_address
            # Another of its simultaneous bindings may end through us (RFC 5944 3.6.1.2), and a
            # home agent that is not the visitor's has no say.
            if (
                standing is not None
                and standing.home_agent == reply.home_agent
                and gone in (reply.home_address, standing.bound)
            ):
                self._visits.end(reply.home_address, effects, names.DEPARTED, "deregistered")
            self._pass_on(data[:end], pending, reply, effects, now)

    def _spend(self, pending: Pending, reply: RegistrationReply) -> bool:
        """Spend the challenge of a node whose home agent believed its Mobile-AAA authentication.

        The proof of one that shares an association with us spent it when it asked.
        """
        asker = pending.asker
        found = first(pending.request.extensions, MobileForeignChallenge)
        if found is None or asker.proven_spi is not None:
            return True
        return self._challenges.spend(
            asker.key.interface, asker.holder, found.challenge, reply.home_address
        )

    def _refuse_unproven(
        self,
        authorized: bytes,
        reply: RegistrationReply,
        pending: Pending,
        unproven: Unproven,
        arrival: Arrival,
        now: Now,
        effects: list[Effect],
    ) -> None:
        """The Foreign-Home authentication is missing or wrong (RFC 5944 3.7.3.1): 68."""
        asker, peer = pending.asker, arrival.source.address
        self._replies.report(asker, peer, unproven.spi, unproven.reason, now, effects)
        self._pending.remove(pending.key)
        status = ReplyCode.FA_HOME_AGENT_AUTHENTICATION
        if authorized:
            self._pass_on(authorized, pending, reply, effects, now, status=status)
        else:
            self._deny(asker, status, now, effects)

    def _pass_on(
        self,
        authorized: bytes,
        pending: Pending,
        reply: RegistrationReply,
        effects: list[Effect],
        now: Now,
        *,
        status: int | None = None,
    ) -> None:
        asker = pending.asker
        challenge = self._offer(asker, reply.home_address)
        self._replies.pass_on(
            authorized,
            asker,
            reply,
            now,
            effects,
            status=status,
            challenge=challenge,
            is_proven=pending.home_associations is not None,
        )

    def _disown(
        self,
        reply: RegistrationReply,
        trailing: tuple[Extension, ...],
        pending: Pending,
        arrival: Arrival,
        now: Now,
        effects: list[Effect],
    ) -> None:
        """The home agent accepted what we do not honour: take it back (RFC 4636 6)."""
        if not is_accepted(reply.code) or not reply.lifetime or not reply.home_address:
            return
        if not is_believable(reply, pending, self._policy):
            return
        visitor = visitor_of(reply, trailing, pending, self._policy, arrival, now)
        standing = self._visits.standing(reply.home_address)
        if standing is not None and (
            standing.mac != visitor.mac or standing.home_agent != visitor.home_agent
        ):
            return
        self._visits.end(reply.home_address, effects, names.DEPARTED, "not honoured")
        if visitor.revocable:
            self._revocation.revoke(visitor, self._policy, now, effects)

    # visitors -------------------------------------------------------------------------------

    def _honour(
        self,
        authorized: bytes,
        reply: RegistrationReply,
        trailing: tuple[Extension, ...],
        pending: Pending,
        arrival: Arrival,
        now: Now,
        effects: list[Effect],
    ) -> None:
        """Turn an accepted reply into a visitor (RFC 5944 3.7.3.2)."""
        visitor = visitor_of(reply, trailing, pending, self._policy, arrival, now)
        udp = first(trailing, UdpTunnelReply)
        keepalive_s = (udp.keepalive_s if udp is not None else 0) or self._policy.keepalive_s
        standing = self._visits.standing(visitor.home_address)
        install = self._visits.begin(visitor, pending, reply, authorized, keepalive_s)
        if not visitor.colocated:
            effects.append(install)
            return
        # It has a tunnel of its own now.
        if standing is not None and not standing.colocated:
            effects.append(RemoveVisitor(standing.home_address, standing.interface))
        effects += self.visitor_installed(install.token, visitor.home_address, True, now)

    def visitor_installed(
        self, token: int, home_address: int, is_carried: bool, now: Now
    ) -> list[Effect]:
        """Hear whether engine and kernel carry a visitor; returns the reply.

        A token that was overtaken by a later registration is ignored.
        """
        installing = self._visits.installed(token, home_address)
        if installing is None:
            return []
        visitor, pending, reply = installing.visitor, installing.pending, installing.reply
        effects: list[Effect] = []
        if not is_carried:
            status = ReplyCode.FA_INSUFFICIENT_RESOURCES
            self._pass_on(installing.authorized, pending, reply, effects, now, status=status)
            effects.append(self._visits.give_up(visitor))
            if visitor.revocable:
                self._revocation.revoke(visitor, self._policy, now, effects)
            return effects
        # The lifetime begins when the reply is passed on (RFC 5944 3.7.3.2).
        is_new = self._visits.enter(installing, now)
        self._revocation.registered(visitor)
        self._pass_on(installing.authorized, pending, reply, effects, now)
        if is_new:
            effects.append(visitor_event("visitor-arrived", visitor))
        return effects

    # errors about what was relayed ----------------------------------------------------------

    def receive_report(
        self, quoted: bytes, destination: Endpoint, icmp_type: int, code: int, now: Now
    ) -> list[Effect]:
        """An ICMP error about a request we relayed (RFC 5944 3.7.3): 80, 81, 82 or 88.

        ``quoted`` is what the error quotes of the UDP payload.
        """
        self._count[names.REPORTS] += 1
        verdict = report_code(icmp_type, code)
        if verdict is None:
            return []
        pending = quoted_in(self._pending, quoted, destination)
        if pending is None:
            self._count[names.REPORTS_UNMATCHED] += 1
            return []
        self._pending.remove(pending.key)
        effects: list[Effect] = []
        self._deny(pending.asker, verdict, now, effects)
        return effects

    # revocation -----------------------------------------------------------------------------

    def _receive_revocation(
        self, data: bytes, arrival: Arrival, _now: Now, effects: list[Effect]
    ) -> None:
        message = RevocationMessage.decode(data)
        found = self._revocation.receive(
            data, message, arrival, self._policy, self._visits.table, effects
        )
        if found is None:
            return
        visitor, inform = found
        self._visits.end(visitor.home_address, effects, names.DEPARTED, "revoked by home agent")
        if inform:
            self._tell(Told(visitor.interface, visitor.home_address, visitor.mac), effects)

    def _receive_acknowledgment(
        self, data: bytes, arrival: Arrival, _now: Now, effects: list[Effect]
    ) -> None:
        message = RevocationAcknowledgment.decode(data)
        told = self._revocation.receive_acknowledgment(data, message, arrival, self._policy)
        self._tell(told, effects)

    def _tell(self, told: Told | None, effects: list[Effect]) -> None:
        if told is not None:
            effects += self._notifier.notify(told.interface, told.home_address, told.mac)

    def clear_visitor(self, home_address: int, now: Now, why: str = "cleared") -> list[Effect]:
        """Take a visitor away on the operator's word; home agent and node are told."""
        visitor = self._visits.table.get(home_address)
        effects: list[Effect] = []
        self._visits.end(home_address, effects, names.DEPARTED, why)
        if visitor is not None:
            self._tell(self._revocation.revoke(visitor, self._policy, now, effects), effects)
        return effects

    def revoke_all(self, now: Now, why: str = "shutdown") -> list[Effect]:
        """Take all visitors away and tell their home agents, before the service ends."""
        effects: list[Effect] = []
        for visitor in list(self._visits.table):
            effects += self.clear_visitor(visitor.home_address, now, why)
        return effects

    @property
    def unacknowledged(self) -> int:
        """Revocations whose acknowledgment is still to come."""
        return len(self._revocation.sender)

    def awaits_acknowledgment(self, home_address: int, peer: int) -> bool:
        """Whether this peer owes us the acknowledgment of a revocation."""
        return self._revocation.sender.awaits(home_address, peer)

    # time -----------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> list[Effect]:
        """Give up, expire, repeat; call it at ``next_deadline``."""
        effects: list[Effect] = []
        pending = self._pending.oldest()
        while pending is not None and pending.expires_ns <= now.boot_ns:
            self._pending.remove(pending.key)
            self._count[names.TIMEOUTS] += 1
            self._deny(pending.asker, ReplyCode.FA_REGISTRATION_TIMEOUT, now, effects)
            pending = self._pending.oldest()
        self._visits.expire(now, effects)
        effects += self._revocation.handle_timer(now)
        for message in self._visits.keepalives.due(now.boot_ns):
            self._count[names.KEEPALIVES] += 1
            effects.append(message)
        return effects

    def next_deadline(self) -> int | None:
        """CLOCK_BOOTTIME nanoseconds at which ``handle_timer`` has something to do."""
        pending = self._pending.oldest()
        times = (
            None if pending is None else pending.expires_ns,
            self._visits.table.next_deadline(),
            self._revocation.sender.next_deadline(),
            self._visits.keepalives.next_deadline(),
        )
        return min([at for at in times if at is not None], default=None)

    # administration -------------------------------------------------------------------------

    def window(self, interface: str) -> ChallengeWindow:
        """The challenges of one link; the advertiser draws from it."""
        return self._challenges.window(interface)

    def is_busy(self) -> bool:
        """Whether no further node is served now (the B bit of advertisements)."""
        return self._is_full or len(self._pending) >= self._policy.max_pending

    def visitors(self) -> Iterable[Visitor]:
        """Visitors in force."""
        return iter(self._visits.table)

    def visitor(self, home_address: int) -> Visitor | None:
        """The visitor with a home address."""
        return self._visits.table.get(home_address)

    def pending(self) -> Iterable[Pending]:
        """Requests waiting for their home agents, oldest first."""
        return iter(self._pending)

    def set_policy(self, policy: ForeignAgentPolicy, now: Now) -> list[Effect]:
        """Replace the policy; visitors stay as granted, but not on a link that is left."""
        self._policy = self._replies.policy = policy
        effects: list[Effect] = []
        for visitor in list(self._visits.table):
            link = policy.by_interface.get(visitor.interface)
            if link is None or not (
                visitor.colocated or visitor.care_of_address in link.care_of_addresses
            ):
                effects += self.clear_visitor(visitor.home_address, now, "no longer served")
        return effects

    def counters(self) -> dict[str, int]:
        """Counters and gauges of ``foreign_counters.FOREIGN_COUNTERS``."""
        found = dict(self._count)
        found[names.VISITORS] = len(self._visits.table)
        found[names.PENDING] = len(self._pending)
        return found


_HANDLERS: dict[int, Callable[[ForeignAgent, bytes, Arrival, Now, list[Effect]], None]] = {
    MessageType.REGISTRATION_REQUEST: ForeignAgent._receive_request,
    MessageType.REGISTRATION_REPLY: ForeignAgent._receive_reply,
    MessageType.REVOCATION: ForeignAgent._receive_revocation,
    MessageType.REVOCATION_ACKNOWLEDGMENT: ForeignAgent._receive_acknowledgment,
}
