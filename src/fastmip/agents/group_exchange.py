"""Home agents of a group tell each other their load (sans I/O).

A datagram of 80 octets, network byte order, HMAC-SHA256 over all before it with the group's key:

| octets | field                                                              |
|--------|--------------------------------------------------------------------|
| 0-3    | `FMG1`                                                             |
| 4-7    | address of the home agent that speaks                              |
| 8-15   | its wall clock, nanoseconds; greater in each message than before   |
| 16-19  | bindings                                                           |
| 20-23  | bindings it has room for                                           |
| 24     | bit 0: it is being drained                                         |
| 25-47  | 0                                                                  |
| 48-79  | authenticator                                                      |

A message counts if its sender is a member, its authenticator is right, and its time is greater than
that of the last one heard of the sender and within ``WINDOW_S`` seconds of our own. Whatever fills
``HomeChoice.loads`` instead, a shared store for one, takes the place of this module.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Collection
from typing import Final

from fastmip.agents.effects import Now
from fastmip.agents.home_choice import Load

WINDOW_S: Final = 30
LOAD_LEN: Final = 80
GROUP_COUNTERS: Final[dict[str, str]] = {
    "group-sent": "Messages to other home agents of the group.",
    "group-received": "Messages of the group that counted.",
    "group-stranger": "Messages of nobody in the group, or of no known form; dropped.",
    "group-bad-authenticator": "Messages with a wrong authenticator; dropped.",
    "group-replayed": "Messages older than what was heard, or from another time; dropped.",
}
"""Counter -> what it counts; ``docs/counters.md`` is checked against it."""

_MAGIC = b"FMG1"
_BODY = struct.Struct("!4sIQIIB23x")
_SECOND_NS = 1_000_000_000
_DRAINING = 1


class GroupExchange:
    """What one home agent says and hears."""

    def __init__(self, own: int, members: Collection[int], key: bytes) -> None:
        self.counters = dict.fromkeys(GROUP_COUNTERS, 0)
        self._own = own
        self._members = frozenset(members) - {own}
        self._key = key
        self._said_ns = 0
        self._heard_ns: dict[int, int] = {}

    def message(self, load: Load, now: Now) -> bytes:
        """Our load, for every other member."""
        self._said_ns = max(now.wall_ns, self._said_ns + 1)
        flags = _DRAINING if load.draining else 0
        body = _BODY.pack(_MAGIC, self._own, self._said_ns, load.bindings, load.capacity, flags)
        return body + hmac.digest(self._key, body, "sha256")

    def receive(self, data: bytes, now: Now) -> tuple[int, Load] | None:
        """A member's load, if the message counts."""
        count = self.counters
        if len(data) != LOAD_LEN or data[:4] != _MAGIC:
            count["group-stranger"] += 1
            return None
        _, sender, said_ns, bindings, capacity, flags = _BODY.unpack_from(data)
        if sender not in self._members:
            count["group-stranger"] += 1
            return None
        body, authenticator = data[: _BODY.size], data[_BODY.size :]
        if not hmac.compare_digest(hmac.digest(self._key, body, "sha256"), authenticator):
            count["group-bad-authenticator"] += 1
            return None
        last_ns = self._heard_ns.get(sender)
        is_old = said_ns <= last_ns if last_ns is not None else False
        if is_old or abs(said_ns - now.wall_ns) > WINDOW_S * _SECOND_NS:
            count["group-replayed"] += 1
            return None
        self._heard_ns[sender] = said_ns
        count["group-received"] += 1
        return sender, Load(bindings, capacity, now.boot_ns, bool(flags & _DRAINING))
