"""Limits on what strangers can make an agent do (RFC 5944 3.7.2 idea, SEC-20).

All by the clock that is passed in; memory is bounded by the limits, not by the traffic.
"""

from __future__ import annotations

_SECOND = 1_000_000_000


class DenialThrottle:
    """At most one denial per second and home address, and a cap over all of them.

    A sliding window: an address stays listed for one second after its denial, so the number
    of listed addresses is the number of denials in the last second.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def allow(self, home_address: int, now_ns: int, cap: int) -> bool:
        """Whether a denial may be sent now; counts it if so."""
        last = self._last
        horizon = now_ns - _SECOND
        while last:
            oldest = next(iter(last))
            if last[oldest] > horizon:
                break
            del last[oldest]
        if home_address in last or len(last) >= cap:
            return False
        last[home_address] = now_ns
        return True

    def __len__(self) -> int:
        """Denials within the last second, as of the latest call."""
        return len(self._last)


class Allowance:
    """A token bucket that holds one second's worth."""

    __slots__ = ("_at_ns", "_tokens")

    def __init__(self) -> None:
        self._tokens = -1.0
        self._at_ns = 0

    def has(self, now_ns: int, per_second: int) -> bool:
        """Whether a token is there; takes none."""
        if self._tokens < 0:
            self._tokens = float(per_second)
        else:
            gained = max(0, now_ns - self._at_ns) * per_second / _SECOND
            self._tokens = min(float(per_second), self._tokens + gained)
        self._at_ns = now_ns
        return self._tokens >= 1.0

    def take(self) -> None:
        """Use a token; ask ``has`` first."""
        self._tokens -= 1.0

    def spend(self, now_ns: int, per_second: int) -> bool:
        """Take a token if there is one."""
        if not self.has(now_ns, per_second):
            return False
        self.take()
        return True


class NodeRates:
    """So much of each node in a second, counted afresh every second.

    Of more than ``MOST_NODES`` a second no more are told apart: something else must limit these.
    """

    __slots__ = ("_counts", "_second")

    MOST_NODES = 4096

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}
        self._second = -1

    def allow(self, node: bytes, now_ns: int, per_second: int) -> bool:
        """Whether this is not too much of a node; counts it."""
        second = now_ns // _SECOND
        if second != self._second:
            self._second = second
            self._counts.clear()
        count = self._counts.get(node, 0)
        if not count and len(self._counts) >= self.MOST_NODES:
            return True
        self._counts[node] = count + 1
        return count < per_second

    def __len__(self) -> int:
        """Nodes told apart in this second."""
        return len(self._counts)
