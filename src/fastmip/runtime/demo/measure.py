"""From reports of the traffic programs to the table: what each move cost.

``Recorder`` collects reports while the demo runs (any thread); ``judge_move`` looks at one
move afterwards. All times are CLOCK_MONOTONIC nanoseconds. A move owns the time from its
first action to the first action of the next one; a datagram belongs to the move in whose
time it was due to be sent.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from fastmip.runtime.demo.capture import (
    ArpAnnouncement,
    Registration,
    Sighting,
    Totals,
    TunnelPackets,
)
from fastmip.runtime.demo.traffic import Flow, Report, TcpProgress, UdpArrivals, UdpSent

_NS = 1_000_000_000
_ALIVE_WINDOW_NS = _NS

BREAK = "break-before-make"
MAKE = "make-before-break"
_SHORT = {BREAK: "break", MAKE: "make"}
ENCAPSULATIONS = {"ipip": "IP-in-IP", "minimal": "minimal encapsulation", "gre": "GRE"}


@dataclass(slots=True)
class UdpRecord:
    """Everything known of one paced stream."""

    interval_ns: int
    first_ns: int = 0
    sent: int = 0
    refused: int = 0
    arrivals: list[tuple[int, int, int]] = field(default_factory=list)

    def due_ns(self, number: int) -> int:
        """When a datagram was to be sent."""
        return self.first_ns + number * self.interval_ns

    def numbers_due(self, start_ns: int, end_ns: int) -> range:
        """Numbers of the datagrams that belonged into this time."""
        first = max(0, -(-(start_ns - self.first_ns) // self.interval_ns))
        last = max(0, -(-(end_ns - self.first_ns) // self.interval_ns))
        return range(first, min(last, self.sent))


@dataclass(slots=True)
class TcpRecord:
    """Progress of one transfer, both ends."""

    received: list[tuple[int, int]] = field(default_factory=list)
    """(time, bytes verified by the receiver)."""
    sender: TcpProgress | None = None
    receiver: TcpProgress | None = None

    def bytes_at(self, at_ns: int) -> int:
        """Bytes the receiver had verified at a time."""
        index = bisect_left(self.received, (at_ns + 1,))
        return self.received[index - 1][1] if index else 0

    def longest_stall_ns(self, start_ns: int, end_ns: int) -> int:
        """Return the longest time in which no new byte was verified."""
        first = max(bisect_left(self.received, (start_ns,)) - 1, 0)
        times = [start_ns]
        highest = -1
        for at_ns, count in self.received[first : bisect_left(self.received, (end_ns,))]:
            if count > highest:
                highest = count
                times.append(max(at_ns, start_ns))
        return max(later - sooner for sooner, later in pairwise([*times, end_ns]))

    def failure(self, until_ns: int | None = None) -> str:
        """Why the transfer is broken, or was at a time; an empty string when it is not."""
        for end in (self.sender, self.receiver):
            if end is None or (until_ns is not None and end.at_ns >= until_ns):
                continue
            if end.state.startswith("failed"):
                return end.state.removeprefix("failed: ")
        return ""

    def verdict(self) -> str:
        """After the run: empty when every byte sent arrived, unchanged, over one connection."""
        sender, receiver = self.sender, self.receiver
        if self.failure():
            return self.failure()
        if sender is None or receiver is None or not receiver.bytes:
            return "it never ran"
        if sender.state != "done" or receiver.state != "done":
            return "it did not end in order"
        if (sender.bytes, sender.digest) != (receiver.bytes, receiver.digest):
            return "what arrived is not what was sent"
        return ""


@dataclass(slots=True)
class Move:
    """One change of attachment, with the times of its steps; 0 for a step that was not."""

    style: str
    """``break-before-make`` or ``make-before-break``."""
    source: str
    target: str
    port: str
    """Port that is attached afterwards."""
    start_ns: int
    link_down_ns: int = 0
    link_up_ns: int = 0
    address_ns: int = 0
    settled_ns: int = 0
    """When the script saw the home agent agree with the new attachment."""
    end_ns: int = 0
    encapsulation: str = ""
    """What the mobile node was told to ask for, where that is what a scene goes through."""

    @property
    def heading(self) -> str:
        """The part of the table it belongs to."""
        return ENCAPSULATIONS.get(self.encapsulation, self.style)

    @property
    def short(self) -> str:
        """The heading in one word, as in the names of figures."""
        return self.encapsulation or _SHORT[self.style]

    @property
    def title(self) -> str:
        """``home -> A``."""
        return f"{self.source} -> {self.target}"


@dataclass(slots=True)
class StreamLoss:
    """How one direction of the paced stream fared during a move."""

    gap_ms: float
    """Longest silence at the receiver beyond the pacing interval."""
    lost: int
    duplicated: int
    reordered: int


@dataclass(slots=True)
class MoveResult:
    """The row of the final table."""

    move: Move
    down: StreamLoss
    up: StreamLoss
    goodput_down: float
    """Verified TCP bytes per second, correspondent to mobile node, over the move's time."""
    goodput_up: float
    stall_down_ms: float
    """Longest time without a new TCP byte, correspondent to mobile node."""
    stall_up_ms: float
    registrations: int
    requests: int
    registration_ms: float
    """First request to its acceptance, as seen beside the home agent; 0 without one."""
    own_ms: float
    """Break-before-make: from the address on the new link to the first datagram that came to
    the mobile node there; 0 with make-before-break, where nothing waits for it."""
    tcp_survived: bool


class Recorder:
    """Collect what the programs of the lab report."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        self._lock = threading.Lock()
        self.udp = {
            flow.name: UdpRecord(round(flow.interval_s * 1e9))
            for flow in flows
            if flow.kind == "udp-send"
        }
        self.tcp = {flow.name: TcpRecord() for flow in flows if flow.kind == "tcp-receive"}
        self.registrations: list[Registration] = []
        self.announcements: list[ArpAnnouncement] = []
        self.tunnels: list[TunnelPackets] = []
        self.capture: Totals | None = None

    def take(self, report: Report | Sighting) -> None:
        """File one report; called from the reader threads."""
        with self._lock:
            match report:
                case UdpSent():
                    record = self.udp[report.flow]
                    record.first_ns, record.sent = report.first_ns, report.sent
                    record.refused = report.refused
                case UdpArrivals():
                    self.udp[report.flow].arrivals.extend(report.arrivals)
                case Registration():
                    self.registrations.append(report)
                case ArpAnnouncement():
                    self.announcements.append(report)
                case TunnelPackets():
                    self.tunnels.append(report)
                case Totals():
                    self.capture = report
                case TcpProgress():
                    self._take_tcp(report)

    def _take_tcp(self, report: TcpProgress) -> None:
        record = self.tcp[report.flow]
        if report.receiving:
            record.receiver = report
            record.received.append((report.at_ns, report.bytes))
        else:
            record.sender = report

    def tunnels_seen(self, tap: str, start_ns: int, end_ns: int) -> dict[tuple[str, str, str], int]:
        """Packets of a stretch of time by source, destination and encapsulation."""
        seen: dict[tuple[str, str, str], int] = {}
        with self._lock:
            for one in self.tunnels:
                if one.tap == tap and start_ns <= one.at_ns < end_ns:
                    key = (one.source, one.destination, one.encapsulation)
                    seen[key] = seen.get(key, 0) + one.count
        return seen

    def progress(self) -> dict[str, tuple[int, int]]:
        """Per flow (datagrams or bytes received so far, last arrival ns): for the live view."""
        with self._lock:
            seen = {
                name: (len(record.arrivals), record.arrivals[-1][2] if record.arrivals else 0)
                for name, record in self.udp.items()
            }
            for name, tcp in self.tcp.items():
                seen[name] = (tcp.receiver.bytes, tcp.receiver.at_ns) if tcp.receiver else (0, 0)
            return seen


def judge_stream(record: UdpRecord, start_ns: int, end_ns: int) -> StreamLoss:
    """Gap, loss, duplicates and reordering of a stream in a stretch of time."""
    due = record.numbers_due(start_ns, end_ns)
    seen: set[int] = set()
    duplicated = reordered = 0
    highest = -1
    for number, _, _ in record.arrivals:
        if number not in due:
            continue
        if number in seen:
            duplicated += 1
        elif number < highest:
            reordered += 1
        seen.add(number)
        highest = max(highest, number)
    gap_ns = max(0, longest_silence_ns(record, start_ns, end_ns) - record.interval_ns)
    return StreamLoss(gap_ns / 1e6, len(due) - len(seen), duplicated, reordered)


def longest_silence_ns(record: UdpRecord, start_ns: int, end_ns: int) -> int:
    """Return the longest time without an arrival, from the last one before ``start_ns`` on."""
    times = sorted(received for _, _, received in record.arrivals)
    first = bisect_left(times, start_ns)
    before = times[first - 1] if first else start_ns
    inside = times[first : bisect_left(times, end_ns)]
    return max(later - sooner for sooner, later in pairwise([before, *inside, end_ns]))


def judge_move(recorder: Recorder, move: Move, taps: tuple[str, ...]) -> MoveResult:
    """Work out a move's row; ``taps`` are the capture points beside the home agent."""
    requests = [
        seen
        for seen in recorder.registrations
        if seen.is_request and seen.tap in taps and move.start_ns <= seen.at_ns < move.end_ns
    ]
    asked = {seen.identification: seen.at_ns for seen in requests}
    accepted = {
        seen.identification & 0xFFFFFFFF: seen.at_ns
        for seen in recorder.registrations
        if not seen.is_request
        and seen.code in (0, 1)
        and seen.tap in taps
        and move.start_ns <= seen.at_ns < move.end_ns
    }
    first = min(accepted.values(), default=0)
    first_asked = min(asked.values(), default=0)
    seconds = (move.end_ns - move.start_ns) / 1e9
    transfers = [recorder.tcp["tcp-down"], recorder.tcp["tcp-up"]]
    down, up = ((t.bytes_at(move.end_ns) - t.bytes_at(move.start_ns)) / seconds for t in transfers)
    survived = all(
        not transfer.failure(move.end_ns)
        and transfer.bytes_at(move.end_ns) > transfer.bytes_at(move.end_ns - _ALIVE_WINDOW_NS)
        for transfer in transfers
    )
    return MoveResult(
        move,
        judge_stream(recorder.udp["udp-down"], move.start_ns, move.end_ns),
        judge_stream(recorder.udp["udp-up"], move.start_ns, move.end_ns),
        down,
        up,
        transfers[0].longest_stall_ns(move.start_ns, move.end_ns) / 1e6,
        transfers[1].longest_stall_ns(move.start_ns, move.end_ns) / 1e6,
        len(accepted),
        len(asked),
        (first - first_asked) / 1e6 if first and first_asked else 0.0,
        _own_ms(recorder.udp["udp-down"], move),
        survived,
    )


def _own_ms(record: UdpRecord, move: Move) -> float:
    if move.style != BREAK:
        return 0.0
    after = [arrival[2] for arrival in record.arrivals if arrival[2] >= move.address_ns]
    return (min(after) - move.address_ns) / 1e6 if after else 0.0
