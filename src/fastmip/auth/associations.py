"""Mobility security associations: which key, algorithm and replay style an SPI stands for.

RFC 5944 1.6 and 3.5.1: two nodes share a set of security contexts, the SPI in an
authentication extension selects one. Keys never appear in ``repr``, ``str`` or a pickle.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NoReturn

from fastmip.errors import FastmipError

if TYPE_CHECKING:
    from _hashlib import HASH

FIRST_USABLE_SPI: Final = 256
"""0-255 are reserved (RFC 5944 1.6)."""
LAST_SPI: Final = 0xFFFFFFFF
MIN_KEY_LEN: Final = 16
"""128 bits, the key size every implementation supports (RFC 5944 5.1)."""
DEFAULT_WINDOW_S: Final = 7
"""Largest difference of clocks with timestamps (RFC 5944 5.7.1)."""
ADVISED_WINDOW_S: Final = 3
"""The window SHOULD be greater than this (RFC 5944 5.7.1); configuration warns."""


class AssociationError(FastmipError, ValueError):
    """An association, or a set of them, that must not be used; the text holds no key."""


class Algorithm(Enum):
    """How an authenticator is computed; never truncated, so its length is the digest's."""

    HMAC_MD5 = "hmac-md5"
    """16 bytes; the default every implementation has (RFC 5944 3.5.1, RFC 2104)."""
    HMAC_SHA1 = "hmac-sha1"
    """20 bytes (RFC 2104)."""
    HMAC_SHA256 = "hmac-sha256"
    """32 bytes (RFC 2104, RFC 4868 without its truncation)."""
    KEYED_MD5 = "keyed-md5"
    """16 bytes, MD5(key | data | key): "prefix+suffix" of RFC 2002 3.5.1. For old peers only:
    RFC 5944 5.1 calls it vulnerable. The data covered are those of RFC 5944, SPI included."""

    @property
    def digest_len(self) -> int:
        """Bytes of the authenticator."""
        return _DIGEST_LEN[self]


_DIGEST_LEN: Final = {
    Algorithm.HMAC_MD5: 16,
    Algorithm.HMAC_SHA1: 20,
    Algorithm.HMAC_SHA256: 32,
    Algorithm.KEYED_MD5: 16,
}
_HMAC_HASH: Final = {
    Algorithm.HMAC_MD5: "md5",
    Algorithm.HMAC_SHA1: "sha1",
    Algorithm.HMAC_SHA256: "sha256",
}


class ReplayStyle(Enum):
    """How the Identification field proves freshness (RFC 5944 5.7)."""

    TIMESTAMPS = "timestamps"
    NONCES = "nonces"


class Direction(Enum):
    """Which messages an association is for, as seen from the node that holds it."""

    BOTH = "both"
    INBOUND = "inbound"
    OUTBOUND = "outbound"


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """One security context between two nodes (RFC 5944 1.6); immutable.

    Raises AssociationError for a reserved SPI, a key below 128 bits or an empty window.
    """

    spi: int
    key: bytes = field(repr=False)
    """At least 16 bytes of any value, unless ``may_be_short``."""
    algorithm: Algorithm = Algorithm.HMAC_MD5
    replay: ReplayStyle = ReplayStyle.TIMESTAMPS
    window_s: int = DEFAULT_WINDOW_S
    """Largest accepted difference of a timestamp from our clock, either way."""
    direction: Direction = Direction.BOTH
    may_be_short: bool = field(default=False, compare=False)
    """Accept a key below 128 bits, against RFC 5944 5.1: for routers that have no other."""
    _keyed: hmac.HMAC | HASH = field(init=False, repr=False, compare=False)
    """Hash state that has absorbed the key: each message costs a copy, not a key schedule."""

    def __post_init__(self) -> None:
        """Check the values and prepare the hash state."""
        if not FIRST_USABLE_SPI <= self.spi <= LAST_SPI:
            raise AssociationError(
                f"SPI {self.spi} is not usable: choose {FIRST_USABLE_SPI}..{LAST_SPI}"
            )
        if len(self.key) < MIN_KEY_LEN and not (self.may_be_short and self.key):
            raise AssociationError(
                f"SPI {self.spi}: key of {len(self.key)} bytes, at least {MIN_KEY_LEN} needed"
            )
        if self.window_s <= 0:
            raise AssociationError(f"SPI {self.spi}: window of {self.window_s} s, not positive")
        object.__setattr__(self, "_keyed", _absorb_key(self.algorithm, self.key))

    def authenticator(self, covered: bytes) -> bytes:
        """Return the authenticator of the covered bytes, ``algorithm.digest_len`` long."""
        state = self._keyed.copy()
        state.update(covered)
        if self.algorithm is Algorithm.KEYED_MD5:
            state.update(self.key)
        return state.digest()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: a pickle is a file or a pipe with the key in clear."""
        raise TypeError("a security association cannot be pickled or copied: it holds a key")


def _absorb_key(algorithm: Algorithm, key: bytes) -> hmac.HMAC | HASH:
    if algorithm is Algorithm.KEYED_MD5:
        return hashlib.md5(key)  # noqa: S324 - the legacy mode RFC 5944 5.1 describes
    return hmac.new(key, digestmod=_HMAC_HASH[algorithm])


class AssociationSet:
    """The associations a node shares with one peer; immutable, compares by value.

    The SPI is looked up per direction: an inbound message names one of ours, an outbound one
    is signed with the first association allowed to sign.
    """

    __slots__ = ("_inbound", "_members", "_outbound")

    def __init__(self, associations: Iterable[SecurityAssociation]) -> None:
        """Index the associations; AssociationError if an SPI is twice in one direction."""
        self._members = tuple(associations)
        self._inbound: dict[int, SecurityAssociation] = {}
        self._outbound: dict[int, SecurityAssociation] = {}
        for association in self._members:
            if association.direction is not Direction.OUTBOUND:
                _add(self._inbound, association)
            if association.direction is not Direction.INBOUND:
                _add(self._outbound, association)

    def inbound(self, spi: int) -> SecurityAssociation | None:
        """Return the association that verifies a message with this SPI, or None."""
        return self._inbound.get(spi)

    def outbound(self, spi: int | None = None) -> SecurityAssociation | None:
        """Return the association to sign with, or None if none may sign.

        ``spi`` is the SPI of the message answered: the same association signs if it may, so
        that during a change of keys the peer is answered with one it has (RFC 5944 3.8.2.1).
        Else the first listed signs.
        """
        if spi is not None and (same := self._outbound.get(spi)) is not None:
            return same
        return next(iter(self._outbound.values()), None)

    def __iter__(self) -> Iterator[SecurityAssociation]:
        """Iterate over the associations as listed."""
        return iter(self._members)

    def __len__(self) -> int:
        """Return the number of associations."""
        return len(self._members)

    def __eq__(self, other: object) -> bool:
        """Compare by value: a reload asks whether the configuration changed."""
        if not isinstance(other, AssociationSet):
            return NotImplemented
        return self._members == other._members

    def __hash__(self) -> int:
        """Hash by value."""
        return hash(self._members)

    def __repr__(self) -> str:
        """Name the members; their keys stay hidden."""
        return f"AssociationSet({list(self._members)!r})"


def _add(index: dict[int, SecurityAssociation], association: SecurityAssociation) -> None:
    if association.spi in index:
        raise AssociationError(f"SPI {association.spi} is listed twice for one direction")
    index[association.spi] = association
