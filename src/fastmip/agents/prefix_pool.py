"""Pools that mobile routers get prefixes out of (RFC 6626 3.2).

Free is what is neither routed nor remembered for a router. A cursor walks each pool once for
each length; afterwards what was given back is used again, a longer prefix cut out of a shorter
one if need be, and the pools are walked once more, because shorter ones may have become free
beside each other. When nothing is free, the prefix remembered for the longest time makes room,
with its neighbours if the room has to be larger, but only where nothing routed is in the way.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Final

from fastmip.agents.hosts import NetworkPolicy
from fastmip.agents.prefix_set import Network, PrefixSet, holds, last_of, within

_CANDIDATES: Final = 1024
"""Remembered prefixes whose place is looked at for one request."""


class PrefixPool:
    """Allocates prefixes; ``routed`` is what nobody else can have."""

    __slots__ = (
        "_cursors",
        "_free",
        "_idle",
        "_policy",
        "_remembered",
        "_returns",
        "_routed",
        "_walked",
    )

    def __init__(self, policy: NetworkPolicy, routed: PrefixSet) -> None:
        self._policy = policy
        self._routed = routed
        self._remembered: OrderedDict[Network, int] = OrderedDict()
        """Prefix -> the router it was, the longest unused first."""
        self._idle = PrefixSet()
        """The same prefixes, for overlaps."""
        self._cursors: dict[tuple[Network, int], int] = {}
        self._free: dict[int, list[Network]] = {}
        """Given back, by length."""
        self._returns = 0
        """How many were given back, ever."""
        self._walked: dict[int, int] = {}
        """Length -> how many had been given back when the pools were last walked from the start."""

    def __len__(self) -> int:
        """Prefixes remembered."""
        return len(self._remembered)

    def set_policy(self, policy: NetworkPolicy) -> None:
        """Use other pools."""
        is_same, self._policy = policy.pools == self._policy.pools, policy
        if is_same:
            return
        self._cursors.clear()
        self._free.clear()
        self._walked.clear()
        for network in [known for known in self._remembered if not self.covers(known)]:
            self._forget(network)

    def covers(self, network: Network) -> bool:
        """Whether a prefix could come out of a pool."""
        return any(holds(pool, network) for pool in self._policy.pools)

    def allocate(self, hint: int) -> Network | None:
        """A free prefix; the length is ours within limits, the hint if it is in them.

        None: the pools are exhausted.
        """
        policy = self._policy
        length = max(hint, policy.shortest) if hint else policy.length
        network = self._walk(length) or self._again(length)
        if network is None and self._walked.get(length, 0) != self._returns:
            self._walked[length] = self._returns
            for pool in policy.pools:
                self._cursors.pop((pool, length), None)
            network = self._walk(length)
        return network or self._make_room(length)

    def _walk(self, length: int) -> Network | None:
        """The next free one beyond the cursors."""
        for pool in self._policy.pools:
            if pool[1] > length:
                continue
            size = 1 << (32 - length)
            start = self._cursors.get((pool, length), pool[0])
            while start + size - 1 <= last_of(pool):
                until = self._blocked_until((start, length))
                if until < 0:
                    self._cursors[pool, length] = start + size
                    return start, length
                start = (until // size + 1) * size
            self._cursors[pool, length] = start
        return None

    def _make_room(self, length: int) -> Network | None:
        """Where only remembered prefixes are in the way: they are forgotten."""
        for known in islice(self._remembered, _CANDIDATES):
            network = within(known, length)
            if self.covers(network) and not self._routed.is_foreign(network, 0):
                self.forget_overlapping(network, 0)
                return network
        return None

    def _again(self, length: int) -> Network | None:
        """One that was given back."""
        for shorter in range(length, 0, -1):
            free = self._free.get(shorter)
            while free:
                prefix, _ = free.pop()
                if self._blocked_until((prefix, shorter)) >= 0:
                    continue
                for cut in range(shorter + 1, length + 1):  # the other halves stay free
                    self._free.setdefault(cut, []).append((prefix | 1 << (32 - cut), cut))
                return prefix, length
        return None

    def _blocked_until(self, network: Network) -> int:
        return max(self._routed.blocked_until(network), self._idle.blocked_until(network))

    def remember(self, network: Network, home_address: int) -> bool:
        """Keep a prefix for a router that does not use it now; False if it cannot be kept."""
        if not self.covers(network) or self._routed.is_foreign(network, 0):
            return False
        if self._idle.is_foreign(network, home_address):
            return False
        self._remembered[network] = home_address
        self._remembered.move_to_end(network)
        self._idle.add(network, home_address)
        return True

    def use(self, network: Network, home_address: int) -> None:
        """A prefix is routed and remembered by that."""
        if self._remembered.get(network) == home_address:
            del self._remembered[network]
            self._idle.remove(network, home_address)

    def owns(self, network: Network, home_address: int) -> bool:
        """Whether a prefix is still remembered for a router."""
        return self._remembered.get(network) == home_address

    def give_back(self, network: Network, home_address: int) -> None:
        """A prefix is free again, unless it is remembered for its router still."""
        if self._remembered.get(network) != home_address and self.covers(network):
            self._free.setdefault(network[1], []).append(network)
            self._returns += 1

    def forget_overlapping(self, network: Network, home_address: int) -> None:
        """A prefix becomes routed: what is remembered in its place for others is not any more."""
        while True:
            around = self._idle.around(network)
            found = {known for known in around if self._remembered[known] != home_address}
            inside = self._idle.first_within(network, home_address)
            if inside is not None:
                found.add(inside)
            if not found:
                return
            for known in found:
                self._forget(known)

    def _forget(self, network: Network) -> None:
        home_address = self._remembered.pop(network)
        self._idle.remove(network, home_address)
        self.give_back(network, home_address)
