"""Timestamps of registration revocation (RFC 3543 3.2, 3.5): 32 bits, compared modulo 2**32.

The RFC leaves their unit open. Ours are seconds since 1900, the high half of an NTP time; of a
peer's nothing is assumed but that they grow, and they are only compared with its own.
"""

from __future__ import annotations

from typing import Final

from fastmip.auth.freshness import Freshness, ntp_time

REORDERING_WINDOW: Final = 7
"""Ours: how much older than the last accepted one a revocation may be; datagrams overtake each
other, and RFC 3543 6 asks for a window. In the peer's unit, seconds in all likelihood."""

_MASK_32: Final = 0xFFFFFFFF
_HALF_32: Final = 1 << 31


def revocation_timestamp(wall_ns: int) -> int:
    """Return the timestamp of Unix time in nanoseconds: for extension and message alike."""
    return ntp_time(wall_ns) >> 32


def timestamp_difference(left: int, right: int) -> int:
    """Return ``left - right`` of two timestamps as serial numbers; positive: left is newer."""
    return ((left - right + _HALF_32) & _MASK_32) - _HALF_32


def check_revocation(
    identifier: int,
    registered: int,
    last_accepted: int | None = None,
    window: int = REORDERING_WINDOW,
) -> Freshness:
    """Judge the identifier of an authenticated revocation by the timestamps of its sender.

    ``registered`` is that of the last accepted registration of the binding, in the sender's own
    extension: it must precede the revocation (RFC 3543 4.3). ``last_accepted`` is the identifier
    of the last revocation accepted from this sender for this home address, if any.
    """
    if timestamp_difference(identifier, registered) <= 0:
        return Freshness.NOT_NEWER
    if last_accepted is None:
        return Freshness.FRESH
    if identifier == last_accepted:
        return Freshness.REPEATED
    if timestamp_difference(identifier, last_accepted) < -window:
        return Freshness.NOT_NEWER
    return Freshness.FRESH
