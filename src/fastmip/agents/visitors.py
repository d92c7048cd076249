"""The visitor list of a foreign agent and the requests that wait for their home agents.

RFC 5944 3.7.1. Two tables, because a request must not touch the entry in force until its home
agent has accepted it (3.7.2). Both are bounded: invented addresses fill the pending table at
most, where a visitor in force and a node that proved itself have room besides.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from fastmip.agents.effects import NEVER, Endpoint, Event, Tunnel
from fastmip.agents.foreign_challenges import Holder
from fastmip.auth.associations import AssociationSet
from fastmip.wire.addresses import format_address
from fastmip.wire.registration import RegistrationRequest

PENDING_TIMEOUT_NS = 7_000_000_000
"""A request without a reply is given up after this long (RFC 5944 3.7.1)."""
_COMPACT_ABOVE = 64


class NodeKey(NamedTuple):
    """Who asked: two nodes may have one home address, and one may have none (RFC 2794)."""

    interface: str
    mac: bytes
    home_address: int
    nai: bytes | None


class Asker:
    """Where a request came from, and what an answer copies of it."""

    __slots__ = (
        "associations",
        "destination",
        "holder",
        "home_agent",
        "identification",
        "key",
        "lifetime",
        "proven_spi",
        "size",
        "source",
    )

    def __init__(
        self,
        key: NodeKey,
        *,
        source: Endpoint,
        destination: int,
        home_agent: int,
        identification: int,
        lifetime: int,
        size: int,
        holder: Holder,
        associations: AssociationSet | None = None,
        proven_spi: int | None = None,
    ) -> None:
        self.key = key
        self.source = source
        self.destination = destination
        """Our address to answer from."""
        self.home_agent = home_agent
        self.identification = identification
        self.lifetime = lifetime
        self.size = size
        """Bytes of the request."""
        self.holder = holder
        """Whose challenges it may use."""
        self.associations = associations
        """Shared with the mobile node."""
        self.proven_spi = proven_spi
        """Of the authentication the request proved itself with; None: anybody may have sent it."""


class Pending:
    """A relayed request that waits for its reply."""

    __slots__ = (
        "asker",
        "care_of_address",
        "colocated",
        "encapsulating",
        "encapsulation",
        "expires_ns",
        "home_associations",
        "key",
        "number",
        "offers_revocation",
        "request",
        "wants_udp",
    )

    def __init__(
        self,
        asker: Asker,
        request: RegistrationRequest,
        *,
        care_of_address: int,
        expires_ns: int,
        encapsulation: int = 4,
        encapsulating: bool = False,
        colocated: bool = False,
        home_associations: AssociationSet | None = None,
        offers_revocation: bool = False,
        wants_udp: bool = False,
    ) -> None:
        self.asker = asker
        self.key = asker.key
        self.number = request.identification & 0xFFFFFFFF
        self.request = request
        self.care_of_address = care_of_address
        """Ours: where the request was relayed from, and what the home agent tunnels to."""
        self.expires_ns = expires_ns
        self.encapsulation = encapsulation
        self.encapsulating = encapsulating
        self.colocated = colocated
        self.home_associations = home_associations
        """Shared with the home agent: the reply must carry Foreign-Home authentication."""
        self.offers_revocation = offers_revocation
        self.wants_udp = wants_udp


class PendingTable:
    """Pending requests by node, oldest first; one for each node."""

    __slots__ = ("_by_mac", "_by_number", "_pending")

    def __init__(self) -> None:
        self._pending: OrderedDict[NodeKey, Pending] = OrderedDict()
        self._by_number: dict[int, list[Pending]] = {}
        self._by_mac: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._pending.values())

    def get(self, key: NodeKey) -> Pending | None:
        """The pending request of a node."""
        return self._pending.get(key)

    def of_mac(self, mac: bytes) -> int:
        """How many requests one link-layer address has pending."""
        return self._by_mac.get(mac, 0)

    def add(self, pending: Pending) -> None:
        """Add a request; it replaces the node's earlier one."""
        self.remove(pending.key)
        key = pending.key
        self._pending[key] = pending
        self._by_number.setdefault(pending.number, []).append(pending)
        self._by_mac[key.mac] = self._by_mac.get(key.mac, 0) + 1

    def remove(self, key: NodeKey) -> Pending | None:
        """Remove the request of a node."""
        pending = self._pending.pop(key, None)
        if pending is None:
            return None
        found = self._by_number[pending.number]
        found.remove(pending)
        if not found:
            del self._by_number[pending.number]
        left = self._by_mac[key.mac] - 1
        if left:
            self._by_mac[key.mac] = left
        else:
            del self._by_mac[key.mac]
        return pending

    def numbered(self, low_identification: int) -> list[Pending]:
        """Requests with these low 32 bits of the Identification."""
        return self._by_number.get(low_identification, [])

    def oldest(self) -> Pending | None:
        """The request that waits longest."""
        return next(iter(self._pending.values()), None)


class Visitor:
    """A mobile node whose registration through us is in force."""

    __slots__ = (
        "accepted_ns",
        "bound",
        "care_of_address",
        "colocated",
        "encapsulating",
        "expires_ns",
        "flags",
        "home_address",
        "home_agent",
        "home_agent_clock",
        "identification",
        "inform",
        "interface",
        "lifetime",
        "mac",
        "nai",
        "own_clock",
        "requested",
        "revocable",
        "source",
        "tunnel",
    )

    def __init__(
        self, pending: Pending, home_address: int, home_agent: int, tunnel: Tunnel, lifetime: int
    ) -> None:
        self.home_address = home_address
        self.interface = pending.key.interface
        self.mac = pending.key.mac
        self.nai = pending.key.nai
        self.source = pending.asker.source
        self.home_agent = home_agent
        self.care_of_address = pending.care_of_address
        self.bound = pending.request.care_of_address
        """The care-of address the home agent has bound: ours, or a co-located one."""
        self.colocated = pending.colocated
        self.flags = pending.request.flags
        self.identification = pending.request.identification
        self.requested = pending.request.lifetime
        self.lifetime = lifetime
        self.expires_ns = tunnel.expires_ns
        self.encapsulating = pending.encapsulating
        self.accepted_ns = 0
        """CLOCK_BOOTTIME at which the reply was passed on."""
        self.tunnel = tunnel
        """From us to the home agent; a co-located node has its own."""
        self.revocable = False
        """Both sides offered revocation (RFC 3543 4.2.1)."""
        self.inform = False
        """The home agent says whether the node is told."""
        self.home_agent_clock = 0
        """The home agent's timestamp in the accepted registration."""
        self.own_clock = 0
        """Ours in the same registration."""


class VisitorTable:
    """Visitors by home address, and when the next one expires."""

    __slots__ = ("_by_mac", "_by_number", "_deadlines", "_visitors")

    def __init__(self) -> None:
        self._visitors: dict[int, Visitor] = {}
        self._by_mac: Counter[bytes] = Counter()
        self._by_number: dict[int, dict[int, Visitor]] = {}
        self._deadlines: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._visitors)

    def __iter__(self) -> Iterator[Visitor]:
        return iter(self._visitors.values())

    def get(self, home_address: int) -> Visitor | None:
        """The visitor with this home address."""
        return self._visitors.get(home_address)

    def of_mac(self, mac: bytes) -> int:
        """How many visitors one link-layer address is."""
        return self._by_mac[mac]

    def identified(self, identification: int) -> list[Visitor]:
        """Visitors whose accepted request had this Identification."""
        return list(self._by_number.get(identification, {}).values())

    def put(self, visitor: Visitor) -> None:
        """Add or replace a visitor."""
        self.remove(visitor.home_address)
        self._visitors[visitor.home_address] = visitor
        self._by_mac[visitor.mac] += 1
        self._by_number.setdefault(visitor.identification, {})[visitor.home_address] = visitor
        if visitor.expires_ns == NEVER:
            return
        deadlines = self._deadlines
        heapq.heappush(deadlines, (visitor.expires_ns, visitor.home_address))
        if len(deadlines) > max(_COMPACT_ABOVE, 2 * len(self._visitors)):
            self._deadlines = [(v.expires_ns, a) for a, v in self._visitors.items()]
            heapq.heapify(self._deadlines)

    def remove(self, home_address: int) -> Visitor | None:
        """Remove a visitor."""
        visitor = self._visitors.pop(home_address, None)
        if visitor is not None:
            self._by_mac[visitor.mac] -= 1
            if not self._by_mac[visitor.mac]:
                del self._by_mac[visitor.mac]
            alike = self._by_number[visitor.identification]
            del alike[home_address]
            if not alike:
                del self._by_number[visitor.identification]
        return visitor

    def expired(self, now_ns: int) -> list[Visitor]:
        """Visitors whose lifetime has ended; they stay until removed."""
        found: dict[int, Visitor] = {}
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now_ns:
            _, home_address = heapq.heappop(deadlines)
            visitor = self._visitors.get(home_address)
            if visitor is not None and visitor.expires_ns <= now_ns:
                found[home_address] = visitor
        return list(found.values())

    def next_deadline(self) -> int | None:
        """When a visitor expires next; perhaps one that was prolonged meanwhile."""
        return self._deadlines[0][0] if self._deadlines else None


class Limits(NamedTuple):
    """What may wait and be served at a time."""

    visitors: int
    pending: int
    """Of strangers."""
    pending_of_mac: int
    visitors_of_mac: int
    """Of one that did not prove itself: a stranger whose own home agent accepts everything."""


def may_wait(
    key: NodeKey,
    request: RegistrationRequest,
    visitors: VisitorTable,
    pending: PendingTable,
    limits: Limits,
    *,
    is_proven: bool,
    is_outranked: bool,
    is_full: bool,
) -> bool:
    """Whether a request may wait here (RFC 5944 3.7.1).

    Visitors in force and nodes that proved themselves have room beyond what strangers can
    fill. Two nodes with one home address cannot be told apart by their packets, and whom another
    home agent vouches for is another node, whatever its link-layer address. ``is_outranked``: that
    home agent proves itself to us, and the visitor's does not.
    """
    visitor = visitors.get(key.home_address) if key.home_address else None
    is_visitor = visitor is not None and visitor.mac == key.mac
    is_crowd = not is_proven and visitors.of_mac(key.mac) >= limits.visitors_of_mac
    if visitor is not None:
        if visitor.home_agent != request.home_agent and not (is_proven or is_outranked):
            return False
    elif request.lifetime and (is_full or is_crowd):
        return False
    if pending.get(key) is not None:
        return True
    if is_visitor or is_proven:  # also where a stranger writes its link-layer address
        return len(pending) < limits.pending + limits.visitors
    return len(pending) < limits.pending and pending.of_mac(key.mac) < limits.pending_of_mac


def visitor_event(name: str, visitor: Visitor, why: str = "") -> Event:
    """What an operator reads of a visitor that comes or goes."""
    fields: list[tuple[str, str | int | float]] = [
        ("home_address", format_address(visitor.home_address)),
        ("home_agent", format_address(visitor.home_agent)),
        ("care_of_address", format_address(visitor.care_of_address)),
        ("interface", visitor.interface),
        ("lifetime_s", visitor.lifetime),
    ]
    if why:
        fields.append(("why", why))
    return Event(name, tuple(fields))


def is_said_by_another(
    key: NodeKey, request: RegistrationRequest, visitors: list[Visitor], pending: list[Pending]
) -> bool:
    """Whether a request repeats one of a visitor, or one that waits, from another place.

    Its home agent would accept a repetition once more, for all it can see: whoever overheard a
    request could have the visitor's packets sent to itself. ``visitors`` and ``pending`` have
    the Identification, or half of it.
    """
    place = key.mac, key.interface
    for visitor in visitors:
        if (
            (visitor.mac, visitor.interface) != place
            and visitor.home_agent == request.home_agent
            and visitor.nai == key.nai
            and request.home_address in (0, visitor.home_address)
        ):
            return True
    return any(
        (other.key.mac, other.key.interface) != place
        and other.request.identification == request.identification
        and other.request.home_agent == request.home_agent
        and other.key[2:] == key[2:]
        for other in pending
    )
