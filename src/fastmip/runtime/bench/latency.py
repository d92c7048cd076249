"""Latencies counted in buckets: 32 to a factor of two, so that any is known to 3 %."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastmip.runtime.bench.traffic import SUB_BUCKETS


def bucket_bounds_ns(number: int) -> tuple[int, int]:
    """The least latency in a bucket and the least above it."""
    if number < 2 * SUB_BUCKETS:
        return number, number + 1
    shift = number // SUB_BUCKETS - 1
    first = number - shift * SUB_BUCKETS
    return first << shift, first + 1 << shift


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long packets were under way."""

    counts: Sequence[int]

    @property
    def packets(self) -> int:
        """How many were timed."""
        return sum(self.counts)

    def percentile_us(self, share: float) -> float | None:
        """So large a share took no longer, in microseconds; None without packets."""
        wanted = share * self.packets
        below = 0
        for number, count in enumerate(self.counts):
            below += count
            if count and below >= wanted:
                low, high = bucket_bounds_ns(number)
                return (low + high) / 2000
        return None

    def curve(self) -> Iterator[tuple[float, float]]:
        """Microseconds, and the share of packets that took longer."""
        left = total = self.packets
        for number, count in enumerate(self.counts):
            if count:
                left -= count
                yield bucket_bounds_ns(number)[1] / 1000, left / total

    def figures(self) -> dict[str, float | None]:
        """The percentiles that reports name."""
        return {
            "p50_us": self.percentile_us(0.5),
            "p99_us": self.percentile_us(0.99),
            "p99_9_us": self.percentile_us(0.999),
        }
