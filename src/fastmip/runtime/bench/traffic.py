"""What a load consists of, and the programs that make, count and time its packets.

Every packet is UDP and carries a mark, a number and the time it was made, so that a receiver
on the same machine tells how long it was under way, in a tunnel or not. Sizes are IPv4 total
lengths.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fastmip.runtime.bench.assembler import Code, R
from fastmip.runtime.bench.bpf_calls import XDP_DROP, XDP_PASS, XDP_TX

IMIX = ((64, 7), (576, 4), (1400, 1))
"""Sizes and their weights: the usual mix, its largest small enough to be tunnelled."""
MIN_SIZE, MAX_SIZE = 64, 1500
MARK = int.from_bytes(b"fastmip!", "little")

_ETHERNET = 14
_HEADERS = _ETHERNET + 20 + 8
_MARK_AT, _NUMBER_AT, _TIME_AT, _STAMP_END = _HEADERS, _HEADERS + 8, _HEADERS + 16, _HEADERS + 24
_TUNNEL_OVERHEADS = (20, 0, 24, 28, 12, 8, 32)
"""IP in IP, none, GRE with and without key, minimal with and without source, in UDP."""
CATCH_UP_NS = 50_000
"""Time lost to others is made up for if it was no longer: a longer burst is no steady rate."""

_KTIME, _RANDOM, _ADJUST_TAIL, _LOOKUP = 5, 7, 65, 1

PACE = struct.Struct("=QQQ")
"""When the next packet is due; packets and octets so far."""

_SUB_BITS = 5
SUB_BUCKETS = 1 << _SUB_BITS
_SHIFTS = (16, 8, 4, 2, 1)
BUCKETS = (sum(_SHIFTS) + 2) * SUB_BUCKETS
_LATEST = (SUB_BUCKETS << sum(_SHIFTS) + 1) - 1
TALLY_SIZE = 16 + 8 * BUCKETS
"""A receiver's value: packets, octets, and a histogram of nanoseconds."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: where to, how large, how fast, how long."""

    first: int
    """The first destination address."""
    addresses: int
    """Destinations are drawn at random from so many, counted from the first."""
    sizes: tuple[tuple[int, int], ...]
    """Sizes and their weights."""
    source: int = 0x0A010002
    destination_mac: bytes = b"\xff" * 6
    source_mac: bytes = b"\x02\x00\x00\x00\x00\x01"
    rate: float = 0.0
    """Packets per second; 0: as fast as it goes."""
    seconds: float = 1.0
    batch: int = 64
    """Packets handed over at once, at most."""

    @property
    def largest(self) -> int:
        """Size of the largest packets."""
        return max(size for size, _ in self.sizes)

    @property
    def mean_size(self) -> float:
        """Octets of a packet on average."""
        return sum(s * w for s, w in self.sizes) / sum(w for _, w in self.sizes)

    def frame(self) -> bytes:
        """A frame of the largest size; its headers are written again for every packet."""
        return (self.destination_mac + self.source_mac + b"\x08\x00").ljust(
            _ETHERNET + self.largest, b"\0"
        )


def generator_code(load: Load, pace: int, *, out: bool) -> bytes:
    """The XDP program that makes every packet of a load from a frame used before.

    It keeps the rate by dropping what comes too early. ``out``: the packet leaves by the
    interface; otherwise the interface's own kernel receives it.
    """
    c = Code()
    c.op(R.R6, "=", R.R1)
    c.map_value(R.R9, pace)
    c.call(_KTIME)
    c.op(R.R8, "=", R.R0)
    if load.rate > 0:
        c.load(R.R1, 8, R.R9, 0)
        c.go_if("early", R.R8, "<", R.R1)
        c.op(R.R0, "-", CATCH_UP_NS)
        c.go_if("on time", R.R1, ">=", R.R0)
        c.op(R.R1, "=", R.R0)
        c.label("on time")
        c.op(R.R1, "+", max(1, round(1e9 / load.rate)))
        c.store(8, R.R9, 0, R.R1)
    _choose_size(c, load)
    c.load(R.R1, 4, R.R6, 0)
    c.load(R.R3, 4, R.R6, 4)
    c.op(R.R2, "=", R.R1)
    c.op(R.R2, "+", _STAMP_END)
    c.go_if("early", R.R2, ">", R.R3)
    c.op(R.R6, "=", R.R1)
    for field, by in ((8, 1), (16, R.R7)):
        c.load(R.R1, 8, R.R9, field)
        if field == 8:
            c.store(8, R.R6, _NUMBER_AT, R.R1)
        c.op(R.R1, "+", by)
        c.store(8, R.R9, field, R.R1)
    _write_headers(c, load)
    c.store(8, R.R6, _TIME_AT, R.R8)
    c.constant(R.R1, MARK)
    c.store(8, R.R6, _MARK_AT, R.R1)
    c.leave(XDP_TX if out else XDP_PASS)
    c.label("early")
    c.leave(XDP_DROP)
    return c.assemble()


def _choose_size(c: Code, load: Load) -> None:
    """R7: this packet's size; the frame is cut to it. The frame is whole again next time."""
    if len(load.sizes) == 1:
        c.op(R.R7, "=", load.largest)
        return
    c.call(_RANDOM)
    c.op(R.R0, "%", sum(weight for _, weight in load.sizes), wide=False)
    below = 0
    for size, weight in load.sizes:
        below += weight
        c.op(R.R7, "=", size)
        c.go_if("size", R.R0, "<", below)
    c.label("size")
    c.op(R.R1, "=", R.R6)
    c.op(R.R2, "=", R.R7)
    c.op(R.R2, "-", load.largest)
    c.call(_ADJUST_TAIL)


def _write_headers(c: Code, load: Load) -> None:
    """Ethernet, IPv4 and UDP headers at R6, for a packet of R7 octets."""
    frame = load.frame()
    for at in range(0, 12, 4):
        c.store(4, R.R6, at, int.from_bytes(frame[at : at + 4], "little"))
    c.store(2, R.R6, 12, int.from_bytes(frame[12:14], "little"))
    ip = struct.pack("!BBHHHBBHI", 0x45, 0, 0, 0, 0, 64, 17, 0, load.source)
    c.store(2, R.R6, 14, int.from_bytes(ip[0:2], "little"))
    c.store(4, R.R6, 18, 0)
    c.store(2, R.R6, 22, int.from_bytes(ip[8:10], "little"))
    c.store(4, R.R6, 26, int.from_bytes(ip[12:16], "little"))
    c.store(4, R.R6, 34, int.from_bytes(b"\0\x09\0\x09", "little"))
    c.call(_RANDOM)
    c.op(R.R0, "%", load.addresses, wide=False)
    c.op(R.R0, "+", load.first, wide=False)
    c.op(R.R1, "=", R.R0, wide=False)
    c.op(R.R1, ">>", 16, wide=False)
    c.op(R.R2, "=", R.R0, wide=False)
    c.op(R.R2, "&", 0xFFFF, wide=False)
    c.op(R.R1, "+", R.R2, wide=False)
    c.op(R.R1, "+", R.R7, wide=False)
    c.op(R.R1, "+", sum(struct.unpack("!8H", ip)), wide=False)
    fold(c, R.R1, R.R2)
    c.to_big_endian(R.R1, 16)
    c.store(2, R.R6, 24, R.R1)
    c.to_big_endian(R.R0, 32)
    c.store(4, R.R6, 30, R.R0)
    c.op(R.R1, "=", R.R7)
    c.to_big_endian(R.R1, 16)
    c.store(2, R.R6, 16, R.R1)
    c.op(R.R1, "=", R.R7)
    c.op(R.R1, "-", 20)
    c.to_big_endian(R.R1, 16)
    c.store(2, R.R6, 38, R.R1)
    c.store(2, R.R6, 40, 0)  # no UDP checksum


def fold(c: Code, total: R, spare: R) -> None:
    """A sum of 16-bit words to the checksum that belongs to it."""
    for _ in range(2):
        c.op(spare, "=", total, wide=False)
        c.op(spare, ">>", 16, wide=False)
        c.op(total, "&", 0xFFFF, wide=False)
        c.op(total, "+", spare, wide=False)
    c.op(total, "^", 0xFFFF, wide=False)


def receiver_code(tally: int) -> bytes:
    """The XDP program that counts and times the packets of a load, in tunnels or not, and drops
    them. Anything else passes.
    """
    c = Code()
    c.op(R.R6, "=", R.R1)
    c.load(R.R7, 4, R.R6, 0)
    c.load(R.R8, 4, R.R6, 4)
    c.constant(R.R3, MARK)
    for overhead in _TUNNEL_OVERHEADS:
        c.op(R.R1, "=", R.R7)
        c.op(R.R1, "+", _STAMP_END + overhead)
        c.go_if(f"not {overhead}", R.R1, ">", R.R8)
        c.load(R.R2, 8, R.R7, _MARK_AT + overhead)
        c.go_if(f"not {overhead}", R.R2, "!=", R.R3)
        c.load(R.R9, 8, R.R7, _TIME_AT + overhead)
        c.go("ours")
        c.label(f"not {overhead}")
    c.leave(XDP_PASS)
    c.label("ours")
    c.op(R.R8, "-", R.R7)
    c.store(4, R.STACK, -4, 0)
    c.op(R.R2, "=", R.STACK)
    c.op(R.R2, "+", -4)
    c.map_fd(R.R1, tally)
    c.call(_LOOKUP)
    c.go_if("mine", R.R0, "!=", 0)
    c.leave(XDP_DROP)
    c.label("mine")
    c.op(R.R7, "=", R.R0)
    for field, by in ((0, 1), (8, R.R8)):
        c.load(R.R1, 8, R.R7, field)
        c.op(R.R1, "+", by)
        c.store(8, R.R7, field, R.R1)
    _note_latency(c)
    c.leave(XDP_DROP)
    return c.assemble()


def _note_latency(c: Code) -> None:
    """Count now - R9 in the histogram at R7."""
    c.call(_KTIME)
    c.op(R.R0, "-", R.R9)
    c.constant(R.R1, _LATEST)
    c.go_if("capped", R.R0, "<=", R.R1)
    c.op(R.R0, "=", R.R1)
    c.label("capped")
    c.op(R.R2, "=", 0)
    for shift in _SHIFTS:
        c.constant(R.R1, SUB_BUCKETS << shift)
        c.go_if(f"below {shift}", R.R0, "<", R.R1)
        c.op(R.R0, ">>", shift)
        c.op(R.R2, "+", shift << _SUB_BITS)
        c.label(f"below {shift}")
    c.op(R.R0, "+", R.R2)
    c.go_if("absurd", R.R0, ">=", BUCKETS)
    c.op(R.R0, "<<", 3)
    c.op(R.R7, "+", R.R0)
    c.load(R.R1, 8, R.R7, 16)
    c.op(R.R1, "+", 1)
    c.store(8, R.R7, 16, R.R1)
    c.label("absurd")
