"""Pools of home addresses for nodes known by their NAI alone (RFC 2794, RFC 5944 3.8.3.2).

An address stays with the node that got it: after its deregistration, its expiry, a restart. One
that was never given comes first; when there is none left, the address that was used longest ago
by a node without a binding goes to another. Sans I/O; addresses are host-order integers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

HOLD_S: Final = 60
"""So long after its last use an address is nobody else's: a repeated request of the node that had
it is stale by then, and so are the caches of its correspondents."""
_LOOKS: Final = 64
"""Addresses looked at in order to take one back, for one request."""
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses of the home network from ``first`` to ``last``."""

    name: str
    first: int
    last: int
    realms: tuple[bytes, ...] = ()
    """Lower case; without any it is for every node."""

    def __contains__(self, address: int) -> bool:
        """Whether the address lies in the pool."""
        return self.first <= address <= self.last

    def serves(self, nai: bytes) -> bool:
        """Whether a node of this name may have an address of it."""
        return not self.realms or nai.rpartition(b"@")[2].lower() in self.realms


class _Lease:
    """Who has an address."""

    __slots__ = ("is_saved", "nai", "used_ns")

    def __init__(self, nai: bytes, used_ns: int, *, is_saved: bool) -> None:
        self.nai = nai
        self.used_ns = used_ns
        self.is_saved = is_saved
        """The store knows it."""


def _anything_goes(_address: int) -> bool:
    return False


class AddressPools:
    """Who has which address; ``reserved`` are never given, ``is_configured`` are another host's."""

    def __init__(
        self,
        pools: Iterable[Pool] = (),
        *,
        reserved: Iterable[int] = (),
        is_configured: Callable[[int], bool] = _anything_goes,
    ) -> None:
        self.is_configured = is_configured
        self.reclaimed = 0
        """Addresses taken from one node for another."""
        self._leases: OrderedDict[int, _Lease] = OrderedDict()
        """By address, the longest unused first."""
        self._addresses: dict[bytes, int] = {}
        self.set_pools(pools, reserved=reserved)

    def set_pools(self, pools: Iterable[Pool], *, reserved: Iterable[int] = ()) -> list[int]:
        """Use other pools; returns the addresses that are nobody's by that."""
        self.pools = tuple(pools)
        self._reserved = frozenset(reserved)
        self._cursors = [pool.first for pool in self.pools]
        """Below it every address was given, or cannot be."""
        lost = [at for at, lease in self._leases.items() if not self._may_have(lease.nai, at)]
        for address in lost:
            self.forget(address)
        return lost

    def restore(self, rows: Iterable[tuple[int, bytes]], now_ns: int) -> None:
        """Take over what the store has, the oldest first; what is not to be given is passed over.

        Raises StoreError if ``is_configured`` does.
        """
        for address, nai in rows:
            if self._may_have(nai, address) and not self.is_configured(address):
                self._give(address, nai, now_ns, is_saved=True)

    def owner(self, address: int) -> bytes | None:
        """The name of the node that has an address."""
        lease = self._leases.get(address)
        return None if lease is None else lease.nai

    def addresses(self) -> list[tuple[int, bytes]]:
        """All that are given, in their order."""
        return sorted((address, lease.nai) for address, lease in self._leases.items())

    def size(self, pool: Pool) -> int:
        """Addresses of a pool that can be given, those of configured hosts included."""
        inside = sum(address in pool for address in self._reserved)
        return pool.last - pool.first + 1 - inside

    def assign(self, nai: bytes, now_ns: int, is_idle: Callable[[int], bool]) -> int | None:
        """The address a node has, or a free one; None: the pools that serve it are exhausted.

        ``is_idle`` says of an address whether its node has neither a binding nor a request in
        work. What is assigned holds in memory; it is durable after ``saved``. Raises StoreError
        if one of the callables does.
        """
        known = self._addresses.get(nai)
        if known is not None:
            return known
        address = self._never_given(nai, is_idle)
        if address is None:
            address = self._take_back(nai, now_ns, is_idle)
        if address is not None:
            self._give(address, nai, now_ns, is_saved=False)
        return address

    def unsaved(self, address: int) -> bytes:
        """The name that is to be stored with an address; empty if there is nothing to store."""
        lease = self._leases.get(address)
        return b"" if lease is None or lease.is_saved else lease.nai

    def saved(self, address: int, now_ns: int) -> None:
        """A commit of the address's node is durable: the address was used now."""
        lease = self._leases.get(address)
        if lease is not None:
            lease.is_saved = True
            lease.used_ns = now_ns
            self._leases.move_to_end(address)

    def forget(self, address: int) -> None:
        """Nobody has the address any more."""
        lease = self._leases.pop(address, None)
        if lease is not None:
            del self._addresses[lease.nai]

    def _give(self, address: int, nai: bytes, now_ns: int, *, is_saved: bool) -> None:
        self._leases[address] = _Lease(nai, now_ns, is_saved=is_saved)
        self._addresses[nai] = address

    def _may_have(self, nai: bytes, address: int) -> bool:
        return address not in self._reserved and any(
            address in pool and pool.serves(nai) for pool in self.pools
        )

    def _never_given(self, nai: bytes, is_idle: Callable[[int], bool]) -> int | None:
        for number, pool in enumerate(self.pools):
            if not pool.serves(nai):
                continue
            address = self._cursors[number]
            while address <= pool.last and not self._is_free(address, is_idle):
                address += 1
                self._cursors[number] = address
            if address <= pool.last:
                return address
        return None

    def _is_free(self, address: int, is_idle: Callable[[int], bool]) -> bool:
        if address in self._reserved or address in self._leases:
            return False
        return not self.is_configured(address) and is_idle(address)

    def _take_back(self, nai: bytes, now_ns: int, is_idle: Callable[[int], bool]) -> int | None:
        oldest = list(islice(self._leases.items(), _LOOKS))
        for address, lease in oldest:
            if now_ns - lease.used_ns < HOLD_S * _SECOND:
                return None  # those behind it were used later
            if not self._may_have(nai, address) or self.is_configured(address):
                continue
            if is_idle(address):
                self.forget(address)
                self.reclaimed += 1
                return address
            # Its binding lasts, or did until now: that is a use, too.
            lease.used_ns = now_ns
            self._leases.move_to_end(address)
        return None
