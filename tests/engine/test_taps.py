"""Captures and traces: what they show is what went through, and nothing changes by looking."""

from __future__ import annotations

import io
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import GRE
from tests.engine.lab import (
    CARE_OF,
    HOME_AGENT,
    NODE,
    OTHER_CARE_OF,
    OTHER_NODE,
    a,
    assert_balanced,
    engine_for,
)
from tests.reference.tunnels import HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane
from fastmip.errors import EngineFull
from fastmip.runtime.pcapng import LINKTYPE_RAW, PcapngWriter

ANY = 0xFFFFFFFF
TWIN = Twin(
    "home-agent",
    (HOME_AGENT,),
    {
        NODE: [Binding(CARE_OF, HOME_AGENT)],
        OTHER_NODE: [Binding(OTHER_CARE_OF, HOME_AGENT), Binding(CARE_OF, HOME_AGENT)],
    },
)
TO_NODE = bytes(IP(src="10.9.0.7", dst="10.1.0.5", id=7, ttl=9) / UDP(sport=5, dport=77) / bytes(9))
TO_NOBODY = bytes(IP(src="10.9.0.7", dst="10.1.0.99") / UDP())
TO_OTHER = bytes(IP(src="10.9.0.7", dst="10.1.0.6") / ICMP())
INNER = IP(src="10.1.0.5", dst="10.9.0.7", ttl=9) / TCP(sport=77, dport=80)
FROM_NODE = bytes(IP(src="10.3.1.20", dst="10.1.0.1", proto=4) / INNER)
FORGED = bytes(IP(src="10.3.9.9", dst="10.1.0.1", proto=4) / INNER)


def seen(capture: _dataplane.Capture, points: list[str]) -> list[list[str]]:
    """What Wireshark reads: interface, captured and real length, comment, last source."""
    file = io.BytesIO()
    writer = PcapngWriter(file, "test")
    for point in points:
        writer.add_interface(point, "", link_type=LINKTYPE_RAW)
    data = file.getvalue() + capture.read()
    fields = ["frame.interface_name", "frame.cap_len", "frame.len", "frame.comment", "ip.src"]
    command = ["tshark", "-n", "-r", "-", "-T", "fields", "-E", "separator=/t"]
    for field in fields:
        command += ["-e", field]
    told = subprocess.run(command, input=data, check=True, capture_output=True).stdout.decode()
    return [line.split("\t") for line in told.splitlines()]


def test_points_show_the_packet_as_it_is_there() -> None:
    engine = engine_for(TWIN)
    points = ["rx", "decap", "encap", "tx"]
    capture = _dataplane.Capture(engine, points=points)
    port = _dataplane.MemoryPort(engine)
    port.inject(HOME, [TO_NODE])
    port.inject(TUNNEL, [FROM_NODE])
    assert seen(capture, points) == [
        ["rx", "37", "37", "", "10.9.0.7"],
        ["encap", "57", "57", "", "10.1.0.1,10.9.0.7"],
        ["tx", "57", "57", "", "10.1.0.1,10.9.0.7"],
        ["rx", "60", "60", "", "10.3.1.20,10.1.0.5"],
        ["decap", "40", "40", "", "10.1.0.5"],
        ["tx", "40", "40", "", "10.1.0.5"],
    ]
    assert (capture.packets, capture.lost()) == (6, 0)


def test_rx_is_what_came_even_though_the_engine_changes_it_in_place() -> None:
    engine = engine_for(TWIN)
    capture = _dataplane.Capture(engine, points=["rx"])
    _dataplane.MemoryPort(engine).inject(HOME, [TO_NODE])
    assert TO_NODE in capture.read()


def test_a_drop_carries_its_reason() -> None:
    engine = engine_for(TWIN)
    capture = _dataplane.Capture(engine, points=["rx"], verdicts=_dataplane.drop_verdicts())
    port = _dataplane.MemoryPort(engine)
    assert port.inject(TUNNEL, [FROM_NODE, FORGED]) == ["decapsulated", "drop-care-of-address"]
    sentence = "Tunnel packet not from a registered outer address of this binding."
    assert seen(capture, ["rx"]) == [
        ["rx", "60", "60", f"drop-care-of-address: {sentence}", "10.3.9.9,10.1.0.5"]
    ]


def test_every_verdict_but_good_ones_is_a_drop() -> None:
    drops = set(_dataplane.drop_verdicts())
    names = {name for name, _, _ in _dataplane.verdicts()}
    assert {name for name in names if name.startswith("drop-")} <= drops
    assert not drops & {"encapsulated", "decapsulated", "returned-no-binding", "icmp-sent"}


def test_a_snap_length_cuts_and_tells_the_length() -> None:
    engine = engine_for(TWIN)
    capture = _dataplane.Capture(engine, points=["rx"], snap=28)
    _dataplane.MemoryPort(engine).inject(HOME, [TO_NODE])
    assert seen(capture, ["rx"]) == [["rx", "28", "37", "", "10.9.0.7"]]


def test_a_full_ring_loses_counts_and_goes_on() -> None:
    engine = engine_for(TWIN)
    capture = _dataplane.Capture(engine, points=["rx"], slots=4)
    port = _dataplane.MemoryPort(engine)
    port.inject(HOME, [TO_NODE] * 10)
    assert capture.lost() == 6
    assert capture.read().count(TO_NODE) == 4
    port.inject(HOME, [TO_NODE])
    assert (6).to_bytes(8, "little") in capture.read(), "the next packet tells how many"
    assert capture.packets == 5


def test_a_count_is_kept_to() -> None:
    engine = engine_for(TWIN)
    capture = _dataplane.Capture(engine, points=["rx", "tx"], count=5)
    port = _dataplane.MemoryPort(engine)
    assert not capture.is_done()
    port.inject(HOME, [TO_NODE] * 10)
    assert capture.is_done()
    port.inject(HOME, [TO_NODE] * 10)
    capture.read()
    assert capture.packets == 5


TERMS = {
    "home address": ("address", NODE, ANY, {"to-node", "from-node", "gre"}),
    "care-of address": ("address", CARE_OF, ANY, {"from-node", "gre", "cut"}),
    "network": ("address", a("10.9.0.0"), 0xFFFF0000, {"to-node", "from-node", "gre", "esp"}),
    "inner protocol": ("protocol", 6, ANY, {"from-node", "gre"}),
    "outer protocol": ("protocol", 47, ANY, {"gre"}),
    "port": ("port", 77, ANY, {"to-node", "from-node", "gre"}),
    "spi": ("spi", 0x1234, ANY, {"esp"}),
}
PACKETS = {
    "to-node": TO_NODE,
    "from-node": FROM_NODE,
    "gre": bytes(IP(src="10.3.1.20", dst="10.1.0.1") / GRE(key_present=1, key=3) / INNER),
    "esp": bytes(IP(src="10.9.0.8", dst="10.1.0.9", proto=50) / ESP(spi=0x1234, seq=1)),
    "not ip": b"\x60" + bytes(60),
    "cut": FROM_NODE[:30],
}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_found_in_any_header(name: str) -> None:
    kind, value, mask, expected = TERMS[name]
    engine = engine_for(TWIN)
    capture = _dataplane.Capture(engine, points=["rx"], terms=[(kind, value, mask)])
    port = _dataplane.MemoryPort(engine)
    found = set()
    for label, packet in PACKETS.items():
        port.inject(TUNNEL, [packet])
        if capture.read():
            found.add(label)
    assert found == expected


def test_all_terms_must_be_found() -> None:
    engine = engine_for(TWIN)
    terms = [("address", NODE, ANY), ("protocol", 17, ANY)]
    capture = _dataplane.Capture(engine, points=["rx"], terms=terms)
    port = _dataplane.MemoryPort(engine)
    port.inject(TUNNEL, [FROM_NODE])
    assert capture.read() == b""
    port.inject(HOME, [TO_NODE])
    assert TO_NODE in capture.read()


def test_a_trace_tells_the_walk() -> None:
    engine = engine_for(TWIN)
    trace = _dataplane.Trace(engine, count=10)
    port = _dataplane.MemoryPort(engine)
    port.inject(HOME, [TO_NODE, TO_NOBODY])
    port.inject(TUNNEL, [FORGED])
    sent, returned, forged = trace.read()
    assert (sent["side"], sent["data"], sent["length"]) == (HOME, TO_NODE, 37)
    assert (sent["key"], sent["verdict"]) == (NODE, "encapsulated")
    line = sent["line"]
    assert (line["home"], line["remote"], line["local"]) == (NODE, CARE_OF, HOME_AGENT)
    assert (line["encapsulation"], line["udp"], line["chain"]) == ("ipip", False, 1)
    assert line["budget"] == 1480
    ((side, length, data),) = sent["left"]
    assert (side, length, data[:2], data[20:]) == (TUNNEL, 57, b"\x45\x00", data[20:57])
    assert sent["ns"] > 0
    assert (returned["line"], returned["verdict"]) == (None, "returned-no-binding")
    assert returned["left"] == [(HOME, len(TO_NOBODY), TO_NOBODY)]
    assert (forged["key"], forged["verdict"]) == (NODE, "drop-care-of-address")
    assert (forged["line"]["remote"], forged["left"]) == (CARE_OF, [])


def test_whatever_leaves_belongs_to_the_packet_before() -> None:
    engine = engine_for(TWIN)
    trace = _dataplane.Trace(engine, count=10)
    port = _dataplane.MemoryPort(engine)
    port.inject(HOME, [TO_NODE, TO_OTHER, TO_NODE])
    assert [walk["left_count"] for walk in trace.read()] == [1, 2, 1]
    assert_balanced(engine)


def test_looking_changes_nothing() -> None:
    packets = [TO_NODE, TO_OTHER, TO_NOBODY, TO_NODE[:19], TO_NODE] * 20
    ends = []
    for is_watched in (False, True):
        engine = engine_for(TWIN)
        port = _dataplane.MemoryPort(engine)
        taps: list[_dataplane.Capture | _dataplane.Trace] = []
        if is_watched:
            taps += [_dataplane.Trace(engine, count=30)]
            taps += [_dataplane.Capture(engine, points=_dataplane.TAP_POINT_NAMES)]
        verdicts = port.inject(HOME, packets)
        ends.append((verdicts, port.take(TUNNEL), port.take(HOME), engine.balance()))
        for tap in taps:
            tap.close()
    for before, after in zip(*ends, strict=True):
        if isinstance(before, list) and before and isinstance(before[0], bytes):
            assert list(map(_without_id, before)) == list(map(_without_id, after))
        else:
            assert before == after


def _without_id(packet: bytes) -> bytes:
    return packet[:4] + packet[6:10] + packet[12:]


def test_a_closed_tap_sees_nothing_more_and_can_still_be_read() -> None:
    engine = engine_for(TWIN)
    port = _dataplane.MemoryPort(engine)
    capture = _dataplane.Capture(engine, points=["rx"])
    port.inject(HOME, [TO_NODE])
    capture.close()
    capture.close()
    port.inject(HOME, [TO_NODE])
    assert capture.read().count(TO_NODE) == 1


def test_only_so_many_look_at_once_and_places_come_back() -> None:
    engine = engine_for(TWIN)
    taps = [_dataplane.Capture(engine, points=["rx"]) for _ in range(8)]
    with pytest.raises(EngineFull, match="8 captures and traces are open"):
        _dataplane.Trace(engine, count=1)
    taps[3].close()
    trace = _dataplane.Trace(engine, count=1)
    _dataplane.MemoryPort(engine).inject(HOME, [TO_NODE])
    assert len(trace.read()) == 1
    assert all(tap.read() for number, tap in enumerate(taps) if number != 3)


def test_the_scalar_twin_is_tapped_too() -> None:
    engine = engine_for(TWIN)
    capture = _dataplane.Capture(engine, points=["rx"])
    engine.use_scalar_loops(True)
    _dataplane.MemoryPort(engine).inject(HOME, [TO_NODE])
    assert capture.read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": []}, "no point"),
        ({"points": ["rx"], "snap": 19}, "snap 19"),
        ({"points": ["rx"], "slots": 3}, "power of two"),
        ({"points": ["rx"], "count": -1}, "count -1"),
        ({"points": ["rx"], "terms": [("port", 1, ANY)] * 9}, "at most 8"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _dataplane.Capture(engine_for(TWIN), **arguments)  # type: ignore[arg-type]  # on purpose


def test_costs_are_told_by_worker() -> None:
    engine = engine_for(TWIN)
    _dataplane.MemoryPort(engine).inject(HOME, [TO_NODE] * 3)
    workers = engine.worker_stages()
    assert [stages["check"]["packets"] for stages in workers] == [0, 3]
    engine.clear_counters()
    assert [stages["check"]["packets"] for stages in engine.worker_stages()] == [0, 0]


@settings(max_examples=200)
@given(
    st.lists(st.binary(max_size=120) | st.sampled_from(sorted(PACKETS.values())), max_size=70),
    st.sampled_from([HOME, TUNNEL]),
    st.data(),
)
def test_any_packets_may_be_looked_at(packets: list[bytes], side: int, data: st.DataObject) -> None:
    engine = engine_for(TWIN)
    kind = data.draw(st.sampled_from(_dataplane.TAP_TERM_KINDS))
    terms = [(kind, data.draw(st.sampled_from([0, 5, 47, NODE])), data.draw(st.integers(0, ANY)))]
    capture = _dataplane.Capture(engine, points=_dataplane.TAP_POINT_NAMES, snap=33, slots=256)
    matching = _dataplane.Capture(engine, points=["rx"], terms=terms)
    trace = _dataplane.Trace(engine, count=1000)
    port = _dataplane.MemoryPort(engine)
    verdicts = port.inject(side, packets)
    assert [walk["verdict"] for walk in trace.read()] == verdicts
    capture.read()
    matching.read()
    left = len(port.take(HOME)) + len(port.take(TUNNEL))
    assert capture.packets + capture.lost() >= len(packets) + left
    assert matching.packets <= len(packets)
    assert_balanced(engine)
