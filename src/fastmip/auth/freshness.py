"""Was it said now: the Identification field of RFC 5944 5.7, for both sides and styles.

An Identification is 64 bits, high and low half. The low half of a reply is always that of the
request. With timestamps the whole is an NTP time (seconds since 1900, then fraction); with
nonces the high half of a request is what the home agent last sent in that place.

Identifications are compared as serial numbers, modulo 2**64 with a signed difference, so the
wrap of the seconds on 7 February 2036 is a step of one like any other.

Nothing here reads a clock or draws a random number: the caller passes wall time in
nanoseconds since 1970 and, where needed, a function that returns random bits.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

from fastmip.auth.associations import DEFAULT_WINDOW_S, ReplayStyle

RandomBits = Callable[[int], int]
"""Like ``secrets.randbits``: n -> an integer in 0..2**n-1."""

NEVER_ACCEPTED: Final = 0
"""Last accepted Identification of a node nothing was accepted from; itself never fresh."""
NO_NONCE: Final = 0
"""No nonce was issued, or none is known; never issued."""

_UNIX_TO_NTP_S: Final = 2_208_988_800
_NS_PER_S: Final = 1_000_000_000
_MASK_32: Final = 0xFFFFFFFF
_MASK_64: Final = 0xFFFFFFFFFFFFFFFF
_HALF_64: Final = 1 << 63
_HALF_32: Final = 1 << 31

TOLERATED_STEP_S: Final = 3
"""Ours: how far the home agent's clock may be set back without being held."""
RANDOM_BITS: Final = 16
"""Low bits of a timestamp drawn at random: 2**-16 s, 15 microseconds, is finer than any window
needs, and a stranger must guess the rest (RFC 5944 5.7.1: bits unknown SHOULD be random)."""


class Freshness(Enum):
    """What a check of an Identification found; all but FRESH answer 133."""

    FRESH = "fresh"
    REPEATED = "repeated"
    """Exactly the last accepted one: a duplicate of the request in force, or its replay."""
    NOT_NEWER = "not newer"
    """Older than the last accepted one: delayed or replayed."""
    OUTSIDE_WINDOW = "outside window"
    """Further from our clock than the window: clocks differ, or a replay."""
    WRONG_NONCE = "wrong nonce"
    """The high half is not the nonce we issued last."""


def ntp_time(wall_ns: int) -> int:
    """Return Unix time as a 64-bit NTP timestamp, modulo its era of 136 years."""
    seconds, nanoseconds = divmod(wall_ns, _NS_PER_S)
    fraction = (nanoseconds << 32) // _NS_PER_S
    return ((seconds + _UNIX_TO_NTP_S) & _MASK_32) << 32 | fraction


def signed_difference(left: int, right: int) -> int:
    """Return ``left - right`` of two Identifications as serial numbers, in 2**-32 s.

    Positive: left is newer. Right for any two less than 68 years apart.
    """
    return ((left - right + _HALF_64) & _MASK_64) - _HALF_64


def is_newer(left: int, right: int) -> bool:
    """Say whether an Identification is newer than another, across the end of an era."""
    return signed_difference(left, right) > 0


class IdentificationClock:
    """The home agent's time of day as far as timestamps go: it never steps back.

    A wall clock set back by hours would leave every mobile node with an accepted timestamp
    from the future. Nothing it could send would be newer, and all bindings would run out. So
    this clock goes on at the rate of CLOCK_BOOTTIME instead; mobile nodes learn of it from a
    133 and follow. A step forward is followed at once, and one back of up to
    ``TOLERATED_STEP_S`` too: retransmissions outlast it.
    """

    __slots__ = ("_offset_ns",)

    def __init__(self) -> None:
        """Start by the wall clock."""
        self._offset_ns: int | None = None

    def read(
        self,
        boot_ns: int,
        wall_ns: int,
        last_accepted: int = NEVER_ACCEPTED,
        window_s: int = DEFAULT_WINDOW_S,
    ) -> int:
        """Return Unix time in nanoseconds.

        A timestamp we once accepted within ``window_s`` proves how late it is at least, also
        after a restart with a wall clock that went back meanwhile.
        """
        offset = wall_ns - boot_ns
        before = self._offset_ns
        if before is not None and before - offset > TOLERATED_STEP_S * _NS_PER_S:
            offset = before
        seconds = (boot_ns + offset) // _NS_PER_S + _UNIX_TO_NTP_S
        if last_accepted != NEVER_ACCEPTED and (seconds - (last_accepted >> 32)) & _HALF_32:
            # Whole seconds ahead; the usual case, an earlier second, is told apart cheaply.
            ahead = signed_difference(last_accepted, ntp_time(boot_ns + offset))
            if ahead > (window_s + TOLERATED_STEP_S) << 32:
                offset += ahead * _NS_PER_S >> 32
        self._offset_ns = offset
        return boot_ns + offset


def check_timestamp(
    identification: int, last_accepted: int, wall_ns: int, window_s: int = DEFAULT_WINDOW_S
) -> Freshness:
    """Judge a request's timestamp (RFC 5944 5.7.1).

    FRESH means: no further than ``window_s`` from our clock (both ends included) and newer
    than ``last_accepted`` (NEVER_ACCEPTED: anything is).
    """
    if abs(signed_difference(identification, ntp_time(wall_ns))) > window_s << 32:
        return Freshness.OUTSIDE_WINDOW
    return _order(identification, last_accepted)


def check_nonce(identification: int, last_accepted: int, issued_nonce: int) -> Freshness:
    """Judge a request's nonce (RFC 5944 5.7.2): its high half must be what we issued last.

    A byte-identical retransmission of the request last accepted is told as REPEATED although
    its nonce is spent. Before any nonce was issued (NO_NONCE) nothing is fresh; the reply
    with code 133 starts the exchange.
    """
    if identification == last_accepted and last_accepted != NEVER_ACCEPTED:
        return Freshness.REPEATED
    if issued_nonce == NO_NONCE or identification >> 32 != issued_nonce:
        return Freshness.WRONG_NONCE
    return Freshness.FRESH


def _order(identification: int, last_accepted: int) -> Freshness:
    if identification == NEVER_ACCEPTED:
        return Freshness.NOT_NEWER
    if last_accepted == NEVER_ACCEPTED:
        return Freshness.FRESH
    if identification == last_accepted:
        return Freshness.REPEATED
    if is_newer(identification, last_accepted):
        return Freshness.FRESH
    return Freshness.NOT_NEWER


def accepted_timestamp_reply(identification: int) -> int:
    """Return the Identification of a reply to a fresh timestamp: the same (RFC 5944 5.7.1)."""
    return identification


def rejected_timestamp_reply(identification: int, wall_ns: int) -> int:
    """Return the Identification of a 133: our seconds, the low half of the request."""
    return (ntp_time(wall_ns) & ~_MASK_32) | (identification & _MASK_32)


def nonce_reply(identification: int, nonce: int) -> int:
    """Return the Identification of any reply with nonces: the new nonce, the request's low half."""
    return (nonce & _MASK_32) << 32 | (identification & _MASK_32)


def new_nonce(previous: int, random_bits: RandomBits) -> int:
    """Draw a nonce that is neither NO_NONCE nor the previous one (RFC 5944 5.7.2)."""
    nonce = random_bits(32)
    while nonce in (NO_NONCE, previous):
        # At most two values are forbidden, so stepping ends even if random_bits is constant.
        nonce = (nonce + 1) & _MASK_32
    return nonce


class IdentificationSource(Protocol):
    """The mobile node's side of replay protection, either style."""

    def next(self, wall_ns: int) -> int:
        """Return the Identification of a new request."""

    def accept(self, reply: int) -> None:
        """Take note of the Identification of an authenticated reply that was not 133."""

    def resynchronise(self, reply: int) -> None:
        """Take note of the Identification of an authenticated 133 (or 136) to the last request."""


class TimestampSource:
    """Timestamps of a mobile node: strictly increasing, offset to the home agent's clock.

    RFC 5944 5.7.1 wants each Identification greater than all before. A home agent that says
    133 asks to go back when our clock is ahead of its own; then the floor falls to the last
    Identification it is known to have accepted, as nothing above was.
    """

    __slots__ = ("_accepted", "_clock_sent", "_floor", "_random_bits", "_sent", "offset_s")

    def __init__(self, random_bits: RandomBits, last_accepted: int = NEVER_ACCEPTED) -> None:
        """Start; ``last_accepted`` is the highest one a home agent ever accepted, if known."""
        self._random_bits = random_bits
        self._accepted = last_accepted
        self._floor = last_accepted
        self._sent: int | None = None
        self._clock_sent = 0
        self.offset_s = 0
        """Seconds the home agent's clock is ahead of ours, as it told us."""

    def next(self, wall_ns: int) -> int:
        """Return the Identification of a new request; a retransmission is a new one too."""
        clock = ntp_time(wall_ns)
        self._clock_sent = clock
        shifted = (clock + (self.offset_s << 32)) & _MASK_64
        identification = (shifted >> RANDOM_BITS << RANDOM_BITS) | self._random_bits(RANDOM_BITS)
        if self._floor != NEVER_ACCEPTED and not is_newer(identification, self._floor):
            identification = (self._floor + 1 + self._random_bits(RANDOM_BITS)) & _MASK_64
        if self._sent is not None and not (identification ^ self._sent) & _MASK_32:
            # Replies are matched by the low half: that of the request before is another's.
            identification = (identification + 1) & _MASK_64
        self._floor = self._sent = identification
        return identification

    def accept(self, reply: int) -> None:
        """Remember what the home agent accepted: with timestamps the reply repeats it whole."""
        if self._accepted == NEVER_ACCEPTED or is_newer(reply, self._accepted):
            self._accepted = reply

    def resynchronise(self, reply: int) -> None:
        """Adopt the home agent's seconds, the high half of an authenticated 133.

        The caller has verified that the reply's low half is that of the last request.
        """
        difference = (reply >> 32) - (self._clock_sent >> 32)
        self.offset_s = ((difference + _HALF_32) & _MASK_32) - _HALF_32
        self._floor = self._accepted


class NonceSource:
    """Nonces of a mobile node: the high half is the home agent's, the low half is ours."""

    __slots__ = ("_low", "_nonce", "_random_bits")

    def __init__(self, random_bits: RandomBits, nonce: int = NO_NONCE) -> None:
        """Start; ``nonce`` is the high half of the last authenticated reply, if known."""
        self._random_bits = random_bits
        self._nonce = nonce
        self._low = 0

    def next(self, wall_ns: int) -> int:  # noqa: ARG002 - the two styles share one signature
        """Return the Identification of a new request; a retransmission repeats the old one."""
        self._low = new_nonce(self._low, self._random_bits)
        return self._nonce << 32 | self._low

    def accept(self, reply: int) -> None:
        """Keep the nonce for the next request."""
        self._nonce = reply >> 32

    def resynchronise(self, reply: int) -> None:
        """Keep the nonce for the next request: a 133 brings a new one."""
        self._nonce = reply >> 32


def identification_source(style: ReplayStyle, random_bits: RandomBits) -> IdentificationSource:
    """Return a mobile node's source for the style of its security association."""
    if style is ReplayStyle.NONCES:
        return NonceSource(random_bits)
    return TimestampSource(random_bits)
