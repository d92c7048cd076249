"""Which home agent of a group serves a node (RFC 4433), sans I/O.

Candidates are those members that were heard lately, are not being drained and are not full; a
node that is bound here stays, unless this home agent is drained. Among the rest:

| policy           | takes                                                                     |
|------------------|---------------------------------------------------------------------------|
| `least-loaded`   | the smallest share of bindings in use; this one, if within a twentieth    |
| `weighted`       | by a hash of the node, in proportion to the weights                       |
| `sticky`         | this one for nodes that registered here before, else as `weighted`        |
| `by-nai`         | the longest entry that ends the NAI, else this one                        |
| `nearest-to-coa` | the longest prefix with the care-of address, else this one                |

`weighted` is rendezvous hashing: members that see the same candidates come to the same result, so
they never send a node in a circle, and a member that leaves moves its own nodes only. Where the
member an entry names is no candidate, the least loaded one is taken.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from fastmip.agents.effects import Now

SECOND_NS = 1_000_000_000
MARGIN = 0.05
"""Ours: so much emptier must another home agent be before a node is sent there."""
SHORTEST_SPREAD = 0.5
"""Ours: share of the lifetime that spreading leaves at least."""
_LEAST_SPREAD_S = 20


class Policy(Enum):
    """See the table at the head of this module."""

    LEAST_LOADED = "least-loaded"
    WEIGHTED = "weighted"
    STICKY = "sticky"
    BY_NAI = "by-nai"
    NEAREST = "nearest-to-coa"


class Member(NamedTuple):
    """A home agent of the group, ourselves too."""

    address: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """Configuration of a group."""

    members: tuple[Member, ...]
    policy: Policy = Policy.LEAST_LOADED
    by_nai: tuple[tuple[bytes, int], ...] = ()
    """End of the NAI -> home agent."""
    nearest: tuple[tuple[int, int, int], ...] = ()
    """Prefix, its length -> home agent."""
    redirect_above: float = 1.0
    """Share of the bindings in use from which on new nodes are sent elsewhere."""
    hears_loads: bool = False
    """Members tell their loads; who was not heard for ``silence_s`` is no candidate."""
    silence_s: int = 5
    accepts_unnamed: bool = False
    """Take requests that name no home agent at all (RFC 4433 9: they can be said to another)."""


class Load(NamedTuple):
    """How busy a home agent is."""

    bindings: int
    capacity: int
    heard_ns: int
    """CLOCK_BOOTTIME when it was told."""
    draining: bool = False

    @property
    def share(self) -> float:
        """Of its bindings in use."""
        return self.bindings / self.capacity if self.capacity else 1.0


class Asking(NamedTuple):
    """What of a request decides."""

    home_address: int
    care_of_address: int
    nai: bytes
    is_bound: bool
    is_known: bool


class HomeChoice:
    """Loads of the group and the decision; ``loads`` may be filled by whatever exchanges them."""

    def __init__(self, spread_s: int = 0, started: Now | None = None) -> None:
        self.loads: dict[int, Load] = {}
        """Latest word of other members, by address."""
        self.is_draining = False
        """New nodes and renewals are sent elsewhere."""
        self.spread_s = spread_s
        self._spread_from_ns = 0 if started is None else started.boot_ns

    def elsewhere(
        self, group: GroupPolicy, asking: Asking, own: int, load: Load, now: Now, *, is_full: bool
    ) -> int | None:
        """The home agent a node is sent to; None if it is right here, or nobody has room."""
        is_full |= load.share >= group.redirect_above
        if asking.is_bound and not self.is_draining:
            return None
        others = {
            member.address: member
            for member in group.members
            if member.address != own and self._is_candidate(group, member.address, now)
        }
        if not others:
            return None
        mine = next((m for m in group.members if m.address == own), Member(own))
        stays = not is_full and not self.is_draining
        candidates = [*others.values(), *([mine] if stays else [])]
        loads = {**self.loads, own: load}
        found = self._preferred(group, asking, own, candidates, loads)
        return None if found == own else found

    def _is_candidate(self, group: GroupPolicy, address: int, now: Now) -> bool:
        load = self.loads.get(address)
        if load is None:
            return not group.hears_loads
        is_fresh = now.boot_ns - load.heard_ns <= group.silence_s * SECOND_NS
        if group.hears_loads and not is_fresh:
            return False
        return not load.draining and load.share < group.redirect_above

    def _preferred(
        self,
        group: GroupPolicy,
        asking: Asking,
        own: int,
        candidates: list[Member],
        loads: Mapping[int, Load],
    ) -> int:
        addresses = {member.address for member in candidates}
        if group.policy is Policy.STICKY and asking.is_known and own in addresses:
            return own
        if group.policy in (Policy.WEIGHTED, Policy.STICKY):
            return by_weight(candidates, asking.nai or asking.home_address.to_bytes(4, "big"))
        if group.policy is Policy.LEAST_LOADED:
            return least_loaded(candidates, own, loads)
        named = (
            by_nai(group.by_nai, asking.nai)
            if group.policy is Policy.BY_NAI
            else nearest(group.nearest, asking.care_of_address)
        )
        if named is None and own in addresses:
            return own
        if named is not None and named in addresses:
            return named
        return least_loaded(candidates, own, loads)

    def spread(self, lifetime_s: int, home_address: int, now: Now) -> int:
        """A lifetime to grant: shorter by chance for some time after a start."""
        if not self.spread_s or lifetime_s < _LEAST_SPREAD_S or lifetime_s == 0xFFFF:
            return lifetime_s
        if now.boot_ns - self._spread_from_ns > self.spread_s * SECOND_NS:
            return lifetime_s
        chance = (home_address * 2654435761 & 0xFFFFFFFF) / 2**32
        return max(1, int(lifetime_s * (SHORTEST_SPREAD + (1 - SHORTEST_SPREAD) * chance)))


def by_weight(members: Iterable[Member], node: bytes) -> int:
    """Rendezvous hashing with weights: -weight / ln(hash) is greatest for the one that serves."""

    def score(member: Member) -> float:
        told = hashlib.blake2b(node + member.address.to_bytes(4, "big"), digest_size=8).digest()
        return -member.weight / math.log((int.from_bytes(told, "big") + 1) / (2**64 + 1))

    return max(members, key=lambda member: (score(member), member.address)).address


def least_loaded(candidates: Iterable[Member], own: int, loads: Mapping[int, Load]) -> int:
    """The emptiest one; this one unless another is emptier by a margin."""
    shares = {
        member.address: loads[member.address].share if member.address in loads else 0.0
        for member in candidates
    }
    best = min(shares, key=lambda address: (shares[address], address))
    if own in shares and shares[own] <= shares[best] + MARGIN:
        return own
    return best


def by_nai(entries: Iterable[tuple[bytes, int]], nai: bytes) -> int | None:
    """The longest entry that ends the NAI."""
    found = [(len(end), address) for end, address in entries if nai.endswith(end)]
    return max(found)[1] if found else None


def nearest(entries: Iterable[tuple[int, int, int]], care_of_address: int) -> int | None:
    """The longest prefix with the care-of address."""
    found = [
        (length, address)
        for prefix, length, address in entries
        if (prefix ^ care_of_address) >> (32 - length) == 0
    ]
    return max(found)[1] if found else None
