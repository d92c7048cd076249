"""Judging streams, transfers and moves from made-up reports with known answers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fastmip.runtime.demo.capture import Registration
from fastmip.runtime.demo.measure import (
    Move,
    Recorder,
    StreamLoss,
    TcpRecord,
    UdpRecord,
    judge_move,
    judge_stream,
)
from fastmip.runtime.demo.traffic import Flow, TcpProgress, UdpArrivals, UdpSent

MS = 1_000_000
DELAY = MS // 10


def _stream(numbers: list[int], sent: int, interval_ms: int = 2) -> UdpRecord:
    """Datagram n leaves at n intervals and takes a tenth of a millisecond."""
    step = interval_ms * MS
    arrivals = [(n, n * step, n * step + DELAY) for n in numbers]
    return UdpRecord(step, first_ns=0, sent=sent, arrivals=arrivals)


def test_undisturbed_stream_has_no_loss_and_no_gap() -> None:
    record = _stream(list(range(1000)), 1000)
    assert judge_stream(record, 100 * MS, 1900 * MS) == StreamLoss(0.0, 0, 0, 0)


def test_outage_is_a_gap_beyond_the_pacing_interval_and_its_losses() -> None:
    record = _stream([n for n in range(1000) if not 200 <= n < 250], 1000)
    # the last before arrives at 398.1 ms, the next at 500.1 ms: 102 ms, 100 beyond the pace
    assert judge_stream(record, 390 * MS, 1900 * MS) == StreamLoss(100.0, 50, 0, 0)
    assert judge_stream(record, 600 * MS, 1900 * MS) == StreamLoss(0.0, 0, 0, 0)


def test_outage_counts_from_the_last_arrival_however_long_before_the_move() -> None:
    record = _stream([n for n in range(1000) if not 200 <= n < 250], 1000)
    # 398.1 ms to the end of the move at 490 ms, less the pace
    assert judge_stream(record, 410 * MS, 490 * MS) == StreamLoss(89.9, 40, 0, 0)
    assert judge_stream(record, 410 * MS, 900 * MS) == StreamLoss(100.0, 45, 0, 0)


def test_stream_that_never_came_is_silent_all_the_time() -> None:
    assert judge_stream(_stream([], 1000), 100 * MS, 200 * MS) == StreamLoss(98.0, 50, 0, 0)


def test_duplicates_and_reordering_are_told_apart() -> None:
    record = _stream([0, 1, 1, 3, 2, 4, 4, 4], 5)
    assert judge_stream(record, 0, 10 * MS) == StreamLoss(0.0, 0, 3, 1)


@given(
    st.sets(st.integers(0, 299)),
    st.integers(0, 600),
    st.integers(0, 600),
)
def test_loss_of_adjacent_moves_adds_up(kept: set[int], first: int, second: int) -> None:
    record = _stream(sorted(kept), 300)
    sooner, later = sorted((first, second))
    bounds = [0, sooner * MS, later * MS, 600 * MS]
    parts = [
        judge_stream(record, start, end).lost for start, end in pairwise(bounds) if start < end
    ]
    assert sum(parts) == 300 - len(kept)


def _ends(digest: str, state: str) -> TcpRecord:
    sender = TcpProgress("t", 0, 5000, False, state, digest)
    receiver = TcpProgress("t", 0, 5000, True, "done", "abc")
    return TcpRecord([(0, 5000)], sender, receiver)


def test_transfer_needs_both_ends_to_agree() -> None:
    assert TcpRecord().verdict() == "it never ran"
    assert _ends("abc", "done").verdict() == ""
    assert _ends("abd", "done").verdict() == "what arrived is not what was sent"
    assert _ends("", "open").verdict() == "it did not end in order"
    assert _ends("", "failed: Connection reset by peer").verdict().startswith("Connection")


def _recorder(stalled_at_ms: int) -> Recorder:
    """Two transfers of 1 kB a millisecond; the one downwards stalls for good."""
    flows = [Flow(name, "udp-send", "", 0, interval_s=0.002) for name in ("udp-down", "udp-up")]
    flows += [Flow(name, "tcp-receive", "", 0) for name in ("tcp-down", "tcp-up")]
    recorder = Recorder(flows)
    for name in ("udp-down", "udp-up"):
        recorder.take(UdpSent(name, 0, 2000, 0))
        recorder.take(UdpArrivals(name, [(n, n * 2 * MS, n * 2 * MS) for n in range(2000)]))
    for at in range(0, 4000, 10):
        down = min(at, stalled_at_ms) * 1000
        recorder.take(TcpProgress("tcp-down", at * MS, down, True, "open"))
        recorder.take(TcpProgress("tcp-up", at * MS, at * 1000, True, "open"))
    return recorder


def _move() -> Move:
    return Move("break-before-make", "home", "A", "eth0", 1000 * MS, end_ns=3500 * MS)


def test_tcp_survives_a_move_only_when_both_ways_still_deliver_at_its_end() -> None:
    assert judge_move(_recorder(9999), _move(), ("ha",)).tcp_survived
    assert not judge_move(_recorder(2000), _move(), ("ha",)).tcp_survived


def test_a_failure_counts_from_the_move_it_happened_in() -> None:
    recorder = _recorder(9999)
    recorder.take(TcpProgress("tcp-up", 3800 * MS, 9, False, "failed: Connection reset by peer"))
    assert judge_move(recorder, _move(), ("ha",)).tcp_survived  # ended at 3.5 s
    later = _move()
    later.end_ns = 3900 * MS
    assert not judge_move(recorder, later, ("ha",)).tcp_survived
    assert recorder.tcp["tcp-up"].verdict() == "Connection reset by peer"


def test_goodput_is_verified_bytes_over_the_time_of_the_move() -> None:
    result = judge_move(_recorder(9999), _move(), ("ha",))
    assert (result.goodput_down, result.goodput_up) == (1_000_000, 1_000_000)


def test_stall_is_the_longest_time_without_a_new_byte() -> None:
    result = judge_move(_recorder(2000), _move(), ("ha",))
    assert (result.stall_down_ms, result.stall_up_ms) == (1500.0, 10.0)
    samples = [(n * 20 * MS, min(n, 10) * 1000 + max(n - 40, 0) * 1000) for n in range(100)]
    record = TcpRecord(samples)
    assert record.longest_stall_ns(0, 2000 * MS) == 620 * MS  # from 200 ms to 820 ms
    assert record.longest_stall_ns(400 * MS, 600 * MS) == 200 * MS


def test_own_part_of_the_gap_counts_from_the_address_on_the_new_link() -> None:
    recorder = _recorder(9999)
    record = recorder.udp["udp-down"]
    record.arrivals = [a for a in record.arrivals if not 1000 * MS <= a[2] < 1050 * MS]
    move = _move()
    move.address_ns = 1030 * MS
    assert judge_move(recorder, move, ("ha",)).own_ms == 20.0
    move.style = "make-before-break"
    assert judge_move(recorder, move, ("ha",)).own_ms == 0.0


def test_registrations_are_counted_once_though_seen_at_several_points() -> None:
    recorder = _recorder(9999)
    for tap in ("ha", "mn", "ha2"):
        recorder.take(Registration(tap, 1100 * MS, True, 0x28, 300, "10.1.0.5", "10.3.1.5", 77))
        recorder.take(Registration(tap, 1103 * MS, False, 0, 300, "10.1.0.5", "", 77))
    recorder.take(Registration("ha", 1200 * MS, False, 133, 0, "10.1.0.5", "", 78))
    recorder.take(Registration("ha", 900 * MS, False, 0, 300, "10.1.0.5", "", 70))
    result = judge_move(recorder, _move(), ("ha", "ha2"))
    assert (result.registrations, result.requests, result.registration_ms) == (1, 1, 3.0)
