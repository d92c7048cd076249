"""Registration revocation (RFC 3543), the half that home and foreign agents share; sans I/O.

Shape, for whoever revokes or is told:

- ``timestamp(now)``: the 32-bit clock of extension 137 and of every revocation: NTP seconds.
  ``is_later`` compares two of them as serial numbers, so 2036 is a second like any other.
- ``Notice``: one binding that ends: its three addresses, where the peer is, what signs.
- ``RevocationSender(count, prefix)``: notices on their way. ``start`` sends, ``next_deadline``
  and ``handle_timer`` repeat (1, 2, 4 ... 32 s; each time a new identifier and authenticator),
  ``acknowledged`` ends one. It never sends twice a second for a binding, nor within a second of
  its registration, nor beyond its life. Call ``cancel`` when the same binding is registered
  again: a later repetition would end the new registration.
- ``proof``: the association that authenticates a received message, or None.
- ``RevocationGuard``: which received revocations are news, which are replays, and what was
  answered, so that a repetition whose acknowledgment was lost is answered again.
- ``acknowledgment``: the signed answer, addresses and ports swapped.

What a binding is and how it is taken down is the agent's own business: ``home_revocation.py``
and the foreign agent's. Counters are ``prefix`` ("ha", "fa") and a name of ``COUNTERS``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Final, NamedTuple, Protocol

from fastmip.agents.effects import Arrival, Effect, Endpoint, Now, SendDatagram
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.auth.authenticators import append_authentication, verify_authentication
from fastmip.auth.freshness import ntp_time
from fastmip.wire.authext import AuthenticationExtension
from fastmip.wire.codes import ExtensionType
from fastmip.wire.extensions import Extension
from fastmip.wire.revocation import RevocationAcknowledgment, RevocationMessage

_SECOND: Final = 1_000_000_000
MIN_SPACING_NS: Final = _SECOND
"""RFC 3543 3.3: not more than one revocation or registration a second for a binding."""
FIRST_TIMEOUT_NS: Final = _SECOND
MAX_TIMEOUT_NS: Final = 32 * _SECOND
TRIES: Final = 10
"""Ours: how often a revocation is sent at most, over about three minutes."""
MAX_UNDER_WAY: Final = 65536
"""Ours: revocations repeated at a time; more are sent once."""
MAX_REMEMBERED: Final = 16384
"""Ours: received revocations remembered, so that they are told from replays."""

COUNTERS: Final[dict[str, str]] = {
    "RevocationsSent": "Revocations sent, repetitions included (RFC 3543).",
    "RevocationsRepeated": "Revocations sent again for want of an acknowledgment.",
    "RevocationsAcknowledged": "Revocations of ours that were acknowledged.",
    "RevocationsAbandoned": "Revocations given up: the binding ended, or too many tries.",
    "RevocationsReceived": "Revocations received, whatever became of them.",
    "RevocationsAccepted": "Revocations received that ended a binding.",
    "RevocationsRepeatedByPeer": "Revocations acknowledged once more; the binding was gone.",
    "RevocationsUnproven": "Such messages without a right authenticator; dropped.",
    "RevocationsReflected": "Revocations with our own role's A bit; dropped.",
    "RevocationsStale": "Revocations older than the registration or than one before; dropped.",
    "RevocationsUnmatched": "Revocations of no binding here that negotiated them; dropped.",
    "RevocationAcknowledgmentsSent": "Acknowledgments of revocations sent.",
    "RevocationAcknowledgmentsUnmatched": "Acknowledgments of nothing we sent; dropped.",
}
"""Counter without its prefix -> what it counts."""


def counters(prefix: str) -> dict[str, str]:
    """``COUNTERS`` with the names an agent lists them by."""
    return {prefix + name: sentence for name, sentence in COUNTERS.items()}


def timestamp(now: Now) -> int:
    """The clock of extension 137 and of revocation identifiers: NTP seconds, 32 bits."""
    return ntp_time(now.wall_ns) >> 32


def is_later(left: int, right: int) -> bool:
    """Whether a timestamp is later than another, across the end of an era."""
    return 0 < ((left - right) & 0xFFFFFFFF) < 1 << 31


class BindingName(NamedTuple):
    """What names a binding in a revocation (RFC 3543 3.3)."""

    home_address: int
    home_domain: int
    """Address of the home agent."""
    foreign_domain: int
    """The foreign agent's care-of address, or the co-located one."""


class Notice(NamedTuple):
    """A binding whose end is to be told."""

    binding: BindingName
    by_home_agent: bool
    """A bit: our role."""
    inform: bool
    """I bit."""
    source: Endpoint
    destination: Endpoint
    kind: ExtensionType
    """Foreign-Home authentication between agents, Mobile-Home to a mobile node."""
    association: SecurityAssociation
    registered_ns: int
    """CLOCK_BOOTTIME of the latest registration of the binding."""
    expires_ns: int
    """CLOCK_BOOTTIME at which the binding would have ended, or NEVER."""
    registered_at: int = 0
    """Our timestamp in that registration's extension 137; the identifier must be later."""


class _Sending:
    """A notice on its way."""

    __slots__ = ("due_ns", "identifiers", "notice", "timeout_ns")

    def __init__(self, notice: Notice, due_ns: int) -> None:
        self.notice = notice
        self.due_ns = due_ns
        self.timeout_ns = FIRST_TIMEOUT_NS
        self.identifiers: list[int] = []
        """Of all that was sent: an acknowledgment may be one of an earlier try."""


class RevocationSender:
    """Revocations not yet acknowledged, by binding."""

    __slots__ = ("_by_peer", "_count", "_order", "_prefix", "_under_way")

    def __init__(self, count: dict[str, int], prefix: str) -> None:
        self._count = count
        self._prefix = prefix
        self._under_way: dict[BindingName, _Sending] = {}
        self._by_peer: dict[tuple[int, int], list[_Sending]] = {}
        """By home address and the peer's address, which is all an acknowledgment tells."""
        self._order: list[tuple[int, BindingName]] = []

    def __len__(self) -> int:
        """Revocations waiting for their acknowledgment."""
        return len(self._under_way)

    def __contains__(self, binding: object) -> bool:
        """Whether a binding's revocation waits for its acknowledgment."""
        return binding in self._under_way

    def home_addresses(self) -> set[int]:
        """Mobile nodes whose revocations wait for acknowledgments."""
        return {home_address for home_address, _ in self._by_peer}

    def awaits(self, home_address: int, peer: int) -> bool:
        """Whether an acknowledgment from this address for a mobile node is to come."""
        return (home_address, peer) in self._by_peer

    def start(self, notice: Notice, now: Now) -> list[Effect]:
        """Send a revocation, at once or as soon as the spacing allows."""
        if notice.expires_ns <= now.boot_ns:
            return []
        if notice.binding in self._under_way:
            return []
        due_ns = max(now.boot_ns, notice.registered_ns + MIN_SPACING_NS)
        sending = _Sending(notice, due_ns)
        if len(self._under_way) >= MAX_UNDER_WAY:
            return [self._send(sending, now)]
        self._under_way[notice.binding] = sending
        self._by_peer.setdefault(_peer(notice), []).append(sending)
        if due_ns <= now.boot_ns:
            return self._try(sending, now)
        heappush(self._order, (due_ns, notice.binding))
        return []

    def cancel(self, binding: BindingName) -> None:
        """Stop repeating: the binding was registered again."""
        self._end(binding)

    def _end(self, binding: BindingName) -> bool:
        sending = self._under_way.pop(binding, None)
        if sending is None:
            return False
        peer = _peer(sending.notice)
        self._by_peer[peer].remove(sending)
        if not self._by_peer[peer]:
            del self._by_peer[peer]
        return True

    def next_deadline(self) -> int | None:
        """CLOCK_BOOTTIME nanoseconds at which ``handle_timer`` has something to do."""
        return self._order[0][0] if self._order else None

    def handle_timer(self, now: Now) -> list[Effect]:
        """Send again what is due."""
        effects: list[Effect] = []
        while self._order and self._order[0][0] <= now.boot_ns:
            due_ns, binding = heappop(self._order)
            sending = self._under_way.get(binding)
            if sending is not None and sending.due_ns == due_ns:
                effects += self._try(sending, now)
        return effects

    def _try(self, sending: _Sending, now: Now) -> list[Effect]:
        notice = sending.notice
        if notice.expires_ns <= now.boot_ns or len(sending.identifiers) >= TRIES:
            self._end(notice.binding)
            self._add("RevocationsAbandoned")
            return []
        if sending.identifiers:
            self._add("RevocationsRepeated")
        effect = self._send(sending, now)
        sending.due_ns = now.boot_ns + sending.timeout_ns
        sending.timeout_ns = min(2 * sending.timeout_ns, MAX_TIMEOUT_NS)
        heappush(self._order, (sending.due_ns, notice.binding))
        return [effect]

    def _send(self, sending: _Sending, now: Now) -> SendDatagram:
        notice = sending.notice
        identifier = timestamp(now)
        floor = sending.identifiers[-1] if sending.identifiers else notice.registered_at
        if floor and not is_later(identifier, floor):
            identifier = (floor + 1) & 0xFFFFFFFF  # the clock was set back, or a second is long
        sending.identifiers.append(identifier)
        message = RevocationMessage(
            notice.by_home_agent, notice.inform, *notice.binding, identifier
        ).encode()
        data = append_authentication(message, notice.kind, notice.association)
        self._add("RevocationsSent")
        return SendDatagram(data, notice.source, notice.destination)

    def awaited(self, acknowledgment: RevocationAcknowledgment, peer: int) -> Notice | None:
        """The notice an acknowledgment from this address claims to answer; None: drop it."""
        for sending in self._by_peer.get((acknowledgment.home_address, peer), ()):
            if acknowledgment.identifier in sending.identifiers:
                return sending.notice
        self._add("RevocationAcknowledgmentsUnmatched")
        return None

    def acknowledged(self, notice: Notice) -> None:
        """End a notice whose acknowledgment ``proof`` found authentic."""
        if self._end(notice.binding):
            self._add("RevocationsAcknowledged")

    def _add(self, name: str) -> None:
        self._count[self._prefix + name] += 1


def _peer(notice: Notice) -> tuple[int, int]:
    return notice.binding.home_address, notice.destination.address


class Signed(Protocol):
    """A message with extensions."""

    @property
    def extensions(self) -> tuple[Extension, ...]: ...
    @property
    def malformed(self) -> bool: ...
    def authentications(self, type_: ExtensionType) -> list[AuthenticationExtension]: ...


def proof(
    data: bytes, message: Signed, kind: ExtensionType, shared: AssociationSet | None
) -> SecurityAssociation | None:
    """The association that authenticates a message whole, or None (RFC 3543 3.3, 3.4).

    Exactly one authentication of the kind, the last extension of all.
    """
    found = message.authentications(kind)
    if shared is None or len(found) != 1 or message.malformed:
        return None
    if message.extensions[-1] is not found[0]:
        return None
    association = shared.inbound(found[0].spi)
    if association is None or not verify_authentication(data, found[0], association):
        return None
    return association


def acknowledgment(
    message: RevocationMessage,
    arrival: Arrival,
    kind: ExtensionType,
    association: SecurityAssociation,
    *,
    inform: bool,
) -> SendDatagram:
    """Answer a revocation (RFC 3543 3.4); the I bit only if the revocation has it."""
    answer = RevocationAcknowledgment(
        inform and message.inform, message.home_address, message.identifier
    ).encode()
    return SendDatagram(
        append_authentication(answer, kind, association), arrival.destination, arrival.source
    )


class Accepted(NamedTuple):
    """A revocation that ended a binding."""

    identifier: int
    inform: bool
    """What was answered."""


class RevocationGuard:
    """Revocations accepted lately, by the peer that sent them and the binding they ended.

    Replays of older ones fail on the timestamp of the registration; these are remembered for
    repetitions of the same one, and bounded: the oldest is forgotten.
    """

    __slots__ = ("_accepted", "_capacity")

    def __init__(self, capacity: int = MAX_REMEMBERED) -> None:
        self._accepted: OrderedDict[tuple[int, BindingName], Accepted] = OrderedDict()
        self._capacity = capacity

    def last(self, peer: int, binding: BindingName) -> Accepted | None:
        """What was accepted last from a peer for a binding."""
        return self._accepted.get((peer, binding))

    def is_news(
        self, peer: int, binding: BindingName, identifier: int, after: Sequence[int]
    ) -> bool:
        """Whether it is later than what was accepted before and than each of ``after``."""
        last = self.last(peer, binding)
        if last is not None and not is_later(identifier, last.identifier):
            return False
        return all(is_later(identifier, other) for other in after)

    def accept(self, peer: int, binding: BindingName, accepted: Accepted) -> None:
        """Remember an accepted revocation, or a later repetition of it."""
        key = peer, binding
        self._accepted[key] = accepted
        self._accepted.move_to_end(key)
        if len(self._accepted) > self._capacity:
            self._accepted.popitem(last=False)


def name_of(message: RevocationMessage) -> BindingName:
    """The binding a revocation is about."""
    return BindingName(
        message.home_address, message.home_domain_address, message.foreign_domain_address
    )
