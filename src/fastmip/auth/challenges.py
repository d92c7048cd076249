"""Challenges of a foreign agent: which it gave out, and which are spent (RFC 4721 3.2, 12).

Everybody may use what was advertised by multicast lately, once, and never one older than the
last it used. Who has used one gets further ones for itself alone, in replies and unicast
advertisements.

What strangers send changes nothing here: only ``use``, called for a request that passed all
checks, makes a record, and records are bounded. Randomness comes from the caller.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from fastmip.wire.challenge import ADVISED_CHALLENGE_LEN, MobileForeignChallenge
from fastmip.wire.extensions import Extension
from fastmip.wire.nai import MobileNodeNai
from fastmip.wire.registration import RegistrationRequest

CHALLENGE_WINDOW: Final = 2
"""How many advertised challenges are good (RFC 4721 9: 2 by default, SHOULD be no less)."""
CHALLENGE_LEN: Final = 8
"""Ours: 64 random bits, so none repeats; the RFC asks for at least 32 (RFC 4721 2)."""
MAX_NODES: Final = 65536
"""Ours: records kept at most, of nodes that have registered."""

RandomBytes = Callable[[int], bytes]
"""Like ``secrets.token_bytes``."""


class ChallengeVerdict(Enum):
    """What a foreign agent finds of the challenge in a request."""

    FRESH = "fresh"
    STALE = "stale"
    """Spent by this node, or older than one it has spent: code 106."""
    UNKNOWN = "unknown"
    """Not given out, or too long ago: code 104."""


@dataclass(slots=True)
class _Record:
    """What is known of a node that has used a challenge."""

    spent: bytes
    """The last one."""
    number: int
    """Of the newest advertised one it has spent; 0: none."""
    offered: bytes | None = None
    """For this node alone, and not spent."""


class ChallengeWindow:
    """All challenges of one foreign agent's interface.

    A node is any hashable: its home address, or its NAI where it has none.
    """

    __slots__ = ("_advertised", "_count", "_length", "_max_nodes", "_random", "_records")

    def __init__(
        self,
        random: RandomBytes,
        window: int = CHALLENGE_WINDOW,
        *,
        length: int = CHALLENGE_LEN,
        max_nodes: int = MAX_NODES,
    ) -> None:
        """Start with nothing advertised; ValueError for challenges shorter than 4 bytes.

        With shorter ones Identifications would have to be remembered too (RFC 4721 12).
        """
        if window < 1 or max_nodes < 1 or not ADVISED_CHALLENGE_LEN <= length <= 255:
            raise ValueError(f"window {window}, length {length}, {max_nodes} nodes")
        self._random = random
        self._length = length
        self._max_nodes = max_nodes
        self._count = 0
        self._advertised: deque[tuple[int, bytes]] = deque(maxlen=window)
        self._records: OrderedDict[Hashable, _Record] = OrderedDict()

    def advertise(self) -> bytes:
        """Return a new challenge for a periodic multicast advertisement; the oldest one ends."""
        self._count += 1
        challenge = self._random(self._length)
        self._advertised.append((self._count, challenge))
        return challenge

    def newest(self) -> bytes:
        """Return the challenge of a multicast advertisement that was solicited.

        The last advertised one: no stranger turns the window (RFC 4721 2.1).
        """
        return self._advertised[-1][1] if self._advertised else self.advertise()

    def offer(self, node: Hashable) -> bytes:
        """Return a challenge this node can use: for a unicast advertisement or any reply.

        Ends no unspent one and makes no record (RFC 4721 12): the node's own one is repeated
        until spent, then the newest advertised will do. Only for a node that has a record and
        has spent that too a new one is made, and kept in its record (RFC 4721 3.2.1).
        """
        record = self._records.get(node)
        if record is None:
            return self.newest()
        if record.offered is not None:
            return record.offered
        newest = self.newest()
        if self._advertised[-1][0] > record.number:
            return newest
        record.offered = self._random(self._length)
        return record.offered

    def judge(self, node: Hashable, challenge: bytes) -> ChallengeVerdict:
        """Judge the challenge in a request of a node; changes nothing."""
        record = self._records.get(node)
        if record is not None:
            if challenge == record.offered:
                return ChallengeVerdict.FRESH
            if challenge == record.spent:
                return ChallengeVerdict.STALE
        number = self._number(challenge)
        if number is None:
            return ChallengeVerdict.UNKNOWN
        if record is not None and number <= record.number:
            return ChallengeVerdict.STALE
        return ChallengeVerdict.FRESH

    def use(self, node: Hashable, challenge: bytes) -> bool:
        """Spend a challenge judged FRESH whose request passed all checks, authentication first.

        False: there is no room for another node's record, and the request is to be denied (66).
        """
        record = self._records.get(node)
        if record is None:
            if not self._make_room():
                return False
            self._records[node] = _Record(challenge, self._number(challenge) or 0)
            return True
        if challenge == record.offered:
            record.offered = None
        record.spent = challenge
        record.number = max(record.number, self._number(challenge) or 0)
        self._records.move_to_end(node)
        return True

    def forget(self, node: Hashable) -> None:
        """Drop the record of a node that has gone, unless it guards against a replay."""
        record = self._records.get(node)
        if record is not None and self._is_over(record):
            del self._records[node]

    def __len__(self) -> int:
        """Return how many nodes there are records of."""
        return len(self._records)

    def _number(self, challenge: bytes) -> int | None:
        for number, advertised in self._advertised:
            if advertised == challenge:
                return number
        return None

    def _is_over(self, record: _Record) -> bool:
        """Say whether all a node has spent is unknown by now, so that its record guards nothing."""
        return not self._advertised or record.number < self._advertised[0][0]

    def _make_room(self) -> bool:
        if len(self._records) < self._max_nodes:
            return True
        oldest = next(iter(self._records))
        self.forget(oldest)
        return len(self._records) < self._max_nodes


def is_retransmission(pending: RegistrationRequest, request: RegistrationRequest) -> bool:
    """Say whether a request repeats one that is still pending (RFC 4721 3.2).

    Then its spent challenge is no offence and it is forwarded again. The Identification and
    the lifetime that is left do not count, they are new each time; whether it registers or
    deregisters does.
    """
    return _identity(pending) == _identity(request)


def _identity(request: RegistrationRequest) -> tuple[object, ...]:
    return (
        request.flags,
        request.is_deregistration,
        request.home_address,
        request.home_agent,
        request.care_of_address,
        _first(request.extensions, MobileNodeNai),
        _first(request.extensions, MobileForeignChallenge),
    )


def _first(extensions: tuple[Extension, ...], kind: type[Extension]) -> Extension | None:
    return next((found for found in extensions if isinstance(found, kind)), None)
