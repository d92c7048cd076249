"""What the home agent remembers of its mobile nodes: a bounded cache over the store.

The store is the truth; a node is loaded on first touch and dropped again when many others
were touched since. Only clean nodes are dropped: a node with a commit outstanding, a request
held, or a nonce that exists nowhere else stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from fastmip.agents.bindings import Binding, unpack_bindings
from fastmip.agents.claims import Claims
from fastmip.agents.effects import Arrival, NodeRow, Now
from fastmip.agents.home_revocation import Ending
from fastmip.agents.hosts import Host
from fastmip.agents.mobile_networks import NetworkChange
from fastmip.agents.reply_policy import Case
from fastmip.auth.associations import ReplayStyle, SecurityAssociation
from fastmip.auth.freshness import (
    NEVER_ACCEPTED,
    Freshness,
    IdentificationClock,
    check_nonce,
    check_timestamp,
)
from fastmip.wire.registration import RegistrationRequest
from fastmip.wire.revocation import RevocationMessage

MAX_HELD_REVOCATIONS = 8
"""As many care-of addresses as a node can have at a time."""
_EVICTION_TRIES = 8
_LEAST_CAPACITY = 16
"""So that the node in hand is never the least recently used one."""


class Held:
    """An authenticated request that waits for its predecessor's commit."""

    __slots__ = ("arrival", "association", "claims", "data", "host", "request")

    def __init__(
        self,
        request: RegistrationRequest,
        data: bytes,
        arrival: Arrival,
        host: Host,
        association: SecurityAssociation,
        claims: Claims,
    ) -> None:
        self.request = request
        self.data = data
        self.arrival = arrival
        self.host = host
        self.association = association
        self.claims = claims


class HeldRevocation(NamedTuple):
    """A proven revocation that waits for a commit of its node."""

    message: RevocationMessage
    arrival: Arrival
    association: SecurityAssociation


class Work:
    """A commit under way: what the node becomes when it succeeds, and whom to answer."""

    __slots__ = (
        "bindings",
        "case",
        "code",
        "ending",
        "lifetime_s",
        "networks",
        "node",
        "row",
        "withdraws",
    )

    def __init__(
        self,
        node: Node,
        row: NodeRow,
        bindings: tuple[Binding, ...],
        case: Case | None = None,
        code: int = 0,
        lifetime_s: int = 0,
        *,
        withdraws: bool = False,
        ending: Ending | None = None,
        networks: NetworkChange | None = None,
    ) -> None:
        self.node = node
        self.row = row
        self.bindings = bindings
        self.case = case
        """The request to answer; None for expiry and withdrawal."""
        self.code = code
        """The reply code on success: 0, 1, or the denial that spent a nonce."""
        self.lifetime_s = lifetime_s
        self.withdraws = withdraws
        """It takes bindings away before their time."""
        self.ending = ending
        """A foreign agent's revocation asked for it."""
        self.networks = networks
        """What it makes of the node's mobile networks."""


class Node:
    """State of one mobile node: its durable row unpacked, and what is going on."""

    __slots__ = (
        "bindings",
        "held",
        "identification",
        "leaver",
        "nonce",
        "repeatable",
        "revocations",
        "unsaved_nonce",
        "wheel_second",
        "withdraw",
        "work",
    )

    def __init__(self, identification: int, nonce: int, bindings: tuple[Binding, ...], /) -> None:
        self.identification = identification
        """High-water mark: the Identification accepted last."""
        self.nonce = nonce
        """Nonce issued last, 0 with timestamps."""
        self.bindings = bindings
        """Bindings as stored, newest first; expired ones stay until they are removed."""
        self.repeatable = NEVER_ACCEPTED
        """Identification this process accepted last: only that may be answered again."""
        self.unsaved_nonce = False
        """The nonce is newer than the stored one."""
        self.withdraw = False
        """All bindings must go as soon as no commit is outstanding."""
        self.wheel_second = 0
        """A second at which the expiry wheel holds this node; 0 if that is not known."""
        self.work: Work | None = None
        self.held: Held | None = None
        self.revocations: dict[int, HeldRevocation] | None = None
        """By the agent that sent it; the latest of each."""
        self.leaver: Host | None = None
        """The host it was, while its bindings are withdrawn because it is served no more."""

    @property
    def is_clean(self) -> bool:
        """Whether the node can be loaded again as it is."""
        waits = self.work or self.held or self.revocations
        return not (waits or self.unsaved_nonce or self.withdraw or self.leaver)

    def hold_revocation(self, held: HeldRevocation) -> None:
        """Keep a revocation until the commit in work is done; so many as a node has bindings."""
        found = self.revocations = self.revocations or {}
        source = held.arrival.source.address
        if source in found or len(found) < MAX_HELD_REVOCATIONS:
            found[source] = held

    def take_revocation(self) -> HeldRevocation | None:
        """One that was kept, the oldest first."""
        if not self.revocations:
            return None
        held = self.revocations.pop(next(iter(self.revocations)))
        self.revocations = self.revocations or None
        return held

    def judge(
        self,
        identification: int,
        association: SecurityAssociation,
        clock: IdentificationClock,
        now: Now,
    ) -> Freshness:
        """What the Identification of a request is worth (RFC 5944 5.7)."""
        if association.replay is ReplayStyle.NONCES:
            return check_nonce(identification, self.identification, self.nonce)
        # A mark left by nonces says nothing about time.
        mark = NEVER_ACCEPTED if self.nonce else self.identification
        window_s = association.window_s
        wall_ns = clock.read(now.boot_ns, now.wall_ns, mark, window_s)
        return check_timestamp(identification, mark, wall_ns, window_s)

    def live(self, boot_ns: int) -> tuple[Binding, ...]:
        """Bindings that have not expired."""
        bindings = self.bindings
        for binding in bindings:
            if binding.expires_boot_ns <= boot_ns:
                return tuple([b for b in bindings if b.expires_boot_ns > boot_ns])
        return bindings


class NodeCache:
    """Nodes by home address, least recently used first."""

    __slots__ = ("_anchor", "_boot", "_capacity", "_load", "_nodes", "started")

    def __init__(
        self,
        load: Callable[[int], NodeRow | None],
        *,
        boot: int,
        capacity: int,
        started: Now | None = None,
        anchor: Now | None = None,
    ) -> None:
        self._nodes: OrderedDict[int, Node] = OrderedDict()
        self._load = load
        self._boot = boot
        self._capacity = max(capacity, _LEAST_CAPACITY)
        self.started = started
        """Clocks of the restart: what had expired by them is gone. The first seen if not given."""
        self._anchor = started if anchor is None else anchor

    def __len__(self) -> int:
        """Nodes held."""
        return len(self._nodes)

    def get(self, home_address: int, now: Now) -> Node:
        """The node, loaded if need be; one that was never stored comes empty."""
        nodes = self._nodes
        node = nodes.get(home_address)
        if node is not None:
            nodes.move_to_end(home_address)
            return node
        row = self._load(home_address)
        if row is None:
            node = Node(NEVER_ACCEPTED, 0, ())
        else:
            if self.started is None:
                self.started = self._anchor = now
            found = unpack_bindings(row.bindings, boot=self._boot, anchor=self._anchor)
            # What had expired by then never reached the engine nor the count of bindings.
            alive = [b for b in found if b.expires_boot_ns > self.started.boot_ns]
            node = Node(row.identification, row.nonce, tuple(alive))
        nodes[home_address] = node
        if len(nodes) > self._capacity:
            self._evict(home_address)
        return node

    def peek(self, home_address: int) -> tuple[Binding, ...]:
        """Bindings of a node without counting as a touch and without caching anything."""
        node = self._nodes.get(home_address)
        if node is not None:
            return node.bindings
        row = self._load(home_address)
        if row is None:
            return ()
        return tuple(unpack_bindings(row.bindings, boot=self._boot, anchor=self._anchor))

    def _evict(self, spared: int) -> None:
        """Drop the oldest clean node; a few busy ones are passed over and counted as used."""
        nodes = self._nodes
        for _ in range(_EVICTION_TRIES):
            oldest = next(iter(nodes))
            if oldest != spared and nodes[oldest].is_clean:
                del nodes[oldest]
                if len(nodes) <= self._capacity:
                    return
            else:
                nodes.move_to_end(oldest)
