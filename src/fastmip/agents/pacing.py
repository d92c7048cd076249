"""How often a mobile node may speak, and how long it waits for an answer.

RFC 5944 3.6.3: at least one second between requests, each retransmission time-out at least
twice the one before, none longer than the requested lifetime. RFC 5944 2.4.2 and 3.6: not
more than one request a second on average; only a link-layer indication of movement lets a
request go earlier than a second after the last one.
"""

from __future__ import annotations

SECOND_NS = 1_000_000_000

MIN_SPACING_NS = SECOND_NS
"""RFC 5944 3.6.3: minimum time between registration requests."""
FIRST_TIMEOUT_NS = SECOND_NS
"""RFC 5944 3.6.3: first wait for a reply; the protocol's minimum."""
MAX_TIMEOUT_NS = 32 * SECOND_NS
"""Ours: longest wait for a reply, so that a home agent that returns is found soon."""
MAX_BACK_OFF_NS = 64 * SECOND_NS
"""Ours: longest pause after denials."""
BURST = 3
"""Ours: requests that may be sent early after a quiet time; the average stays one a second."""


def next_timeout_ns(previous_ns: int, lifetime_s: int) -> int:
    """The retransmission time-out that follows ``previous_ns`` (0: the first one)."""
    limit = MAX_TIMEOUT_NS
    if lifetime_s:
        limit = min(limit, max(lifetime_s * SECOND_NS, FIRST_TIMEOUT_NS))
    return min(max(2 * previous_ns, FIRST_TIMEOUT_NS), limit)


def back_off_ns(denials: int) -> int:
    """Pause after the n-th denial in a row (n from 1): 1, 2, 4 ... 64 seconds."""
    return min(SECOND_NS << min(denials - 1, 10), MAX_BACK_OFF_NS)


class RequestPacer:
    """A token bucket of one request a second, plus the minimum spacing."""

    def __init__(self) -> None:
        self._full_at_ns = -BURST * SECOND_NS
        self._last_ns: int | None = None

    def earliest_ns(self, *, moved: bool) -> int:
        """The earliest CLOCK_BOOTTIME a request may be sent.

        ``moved``: it is the first request after the link layer told of a move.
        """
        token = self._full_at_ns - (BURST - 1) * SECOND_NS
        if moved or self._last_ns is None:
            return max(token, 0)
        return max(token, self._last_ns + MIN_SPACING_NS)

    def sent(self, now_ns: int) -> None:
        """A request was sent now."""
        self._full_at_ns = max(self._full_at_ns, now_ns) + SECOND_NS
        self._last_ns = now_ns
