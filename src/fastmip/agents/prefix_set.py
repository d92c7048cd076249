"""Prefixes with an owner each: overlaps and longest match, for a home agent's prefix table."""

from __future__ import annotations

from bisect import bisect_left, insort

from fastmip.wire.addresses import LIMITED_BROADCAST

Network = tuple[int, int]
"""Prefix without host bits, and its length."""

_MASKS = [LIMITED_BROADCAST ^ (LIMITED_BROADCAST >> length) for length in range(33)]


def last_of(network: Network) -> int:
    """The last address of a prefix."""
    return network[0] | (LIMITED_BROADCAST >> network[1])


def holds(outer: Network, inner: Network) -> bool:
    """Whether a prefix lies in another, or is the same."""
    return outer[1] <= inner[1] and inner[0] & _MASKS[outer[1]] == outer[0]


def within(network: Network, length: int) -> Network:
    """The first prefix of a length in a shorter one; of a longer one, the one that holds it."""
    return network[0] & _MASKS[length], length


class PrefixSet:
    """Prefixes and their owners; those of two owners never overlap if ``is_foreign`` is asked."""

    __slots__ = ("_in_order", "_lengths", "_owners")

    def __init__(self) -> None:
        self._owners: dict[Network, int] = {}
        self._in_order: list[Network] = []
        self._lengths = [0] * 33

    def __len__(self) -> int:
        """Prefixes held."""
        return len(self._owners)

    def owner(self, network: Network) -> int:
        """The owner of exactly this prefix, or 0."""
        return self._owners.get(network, 0)

    def add(self, network: Network, owner: int) -> None:
        """Take a prefix in."""
        if network not in self._owners:
            insort(self._in_order, network)
            self._lengths[network[1]] += 1
        self._owners[network] = owner

    def remove(self, network: Network, owner: int) -> None:
        """Let a prefix go, if it is the owner's."""
        if self._owners.get(network) != owner:
            return
        del self._owners[network]
        del self._in_order[bisect_left(self._in_order, network)]
        self._lengths[network[1]] -= 1

    def around(self, network: Network) -> list[Network]:
        """Prefixes that hold this one, itself included, the longest first."""
        prefix, length = network
        found = []
        for shorter in range(length, 0, -1):
            if self._lengths[shorter]:
                candidate = (prefix & _MASKS[shorter], shorter)
                if candidate in self._owners:
                    found.append(candidate)
        return found

    def first_within(self, network: Network, owner: int = 0) -> Network | None:
        """The first prefix that lies in this one and is not the owner's."""
        place, end = bisect_left(self._in_order, (network[0], network[1])), last_of(network)
        while place < len(self._in_order) and self._in_order[place][0] <= end:
            found = self._in_order[place]
            if self._owners[found] != owner:
                return found
            place += 1
        return None

    def is_foreign(self, network: Network, owner: int) -> bool:
        """Whether a prefix overlaps one of another owner."""
        if any(self._owners[found] != owner for found in self.around(network)):
            return True
        return self.first_within(network, owner) is not None

    def blocked_until(self, network: Network) -> int:
        """The last address of a prefix that overlaps this one, or -1."""
        around = self.around(network)
        if around:
            return last_of(around[-1])
        within = self.first_within(network)
        return -1 if within is None else last_of(within)

    def find(self, address: int) -> int:
        """The owner of the longest prefix an address lies in, or 0."""
        around = self.around((address, 32))
        return self._owners[around[0]] if around else 0
