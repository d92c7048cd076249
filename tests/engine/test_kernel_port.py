"""The kernel port on socket pairs: merging on the way home, cutting across batches.

A SOCK_SEQPACKET socket keeps the boundaries of writes as a TUN device does. What the port
writes as a super-frame is cut again by the splitter, which test_vnet.py holds against scapy.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from tests.engine.port_lab import HOME, TUNNEL, VNET_LEN, Port
from tests.helpers.c_probe import compile_probe, unpack

HERE = Path(__file__).parent
GSO_TCPV4 = 1


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_probe(HERE / "kernel_port_probe.c", tmp_path_factory.mktemp("port"))


@pytest.fixture(scope="module")
def splitter(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    loaded = compile_probe(HERE / "vnet_probe.c", tmp_path_factory.mktemp("vnet"))
    loaded.probe_cut.restype = ctypes.c_long
    return loaded


@pytest.fixture(params=["read", "ring"])
def port(library: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[Port]:
    made = Port(library, ring=request.param == "ring")
    if request.param == "ring" and not made.has_ring():
        pytest.skip("io_uring is missing or forbidden here")
    yield made
    made.close()


def segments_of(splitter: ctypes.CDLL, header: bytes, packet: bytes) -> list[bytes]:
    """What a kernel would put on the wire for one write."""
    if header[1] == 0:
        assert header == bytes(VNET_LEN)
        return [packet]
    out = (ctypes.c_ubyte * (1 << 18))()
    used = splitter.probe_cut(header, packet, len(packet), out, ctypes.c_long(len(out)))
    assert used > 0
    return unpack(bytes(out[:used]))


def segment(
    index: int, *, size: int = 100, port: int = 7, ident: int = 0, payload: int = 100, **fields: Any
) -> bytes:
    """Part ``index`` of a flow whose parts all have ``payload`` bytes."""
    tcp: dict[str, Any] = {"seq": 1000 + index * payload, "ack": 5, "flags": "A", "window": 99}
    tcp |= {"dport": 80} | fields
    network = IP(
        src="10.1.0.5",
        dst="10.9.0.7",
        ttl=tcp.pop("ttl", 60),
        tos=tcp.pop("tos", 0),
        flags=tcp.pop("df", "DF"),
        frag=tcp.pop("frag", 0),
        id=(ident + index) & 0xFFFF,
        options=tcp.pop("ip_options", []),
    )
    body = bytes([index % 256]) * size
    return bytes(network / TCP(sport=port, **tcp) / body)


def test_consecutive_segments_leave_as_one_super_frame(port: Port, splitter: ctypes.CDLL) -> None:
    packets = [segment(index) for index in range(20)] + [segment(20, size=30, flags="PA")]
    writes = port.send_home(packets)
    assert len(writes) == 1
    header, packet = writes[0]
    flags, gso_type, hdr_len, gso_size, start, offset = struct.unpack("=BBHHHH", header)
    assert (flags, gso_type, hdr_len, gso_size, start, offset) == (1, GSO_TCPV4, 40, 100, 20, 16)
    assert IP(packet).len == len(packet) == 40 + 20 * 100 + 30
    assert segments_of(splitter, header, packet) == packets
    assert port.counters()["home-merged"] == port.counters()["home-written"] == 21


@pytest.mark.parametrize(
    "second",
    [
        {"tos": 3},
        {"ttl": 59},
        {"ack": 6},
        {"window": 98},
        {"flags": "FA"},
        {"flags": "AE"},
        {"flags": "AU"},
        {"flags": "AC"},
        {"seq": 1101},
        {"df": 0},
        {"size": 101},
        {"options": [("NOP", None)] * 4},
        {"options": [("Timestamp", (1, 3)), ("NOP", None), ("NOP", None)]},
        {"ip_options": [IPOption_NOP()] * 4},
        {"chksum": 1},
        {"urgptr": 4},
        {"frag": 3},
        {"dport": 81},
    ],
)
def test_what_is_not_the_very_same_flow_is_not_merged(port: Port, second: dict[str, Any]) -> None:
    first: dict[str, Any] = {}
    if "Timestamp" in str(second):
        first = {"options": [("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)]}
    packets = [segment(0, **first), segment(1, **second)]
    writes = port.send_home(packets)
    if "dport" in second:  # another flow may overtake
        writes.sort(key=lambda write: write[1][22:24])
    assert writes == [(bytes(VNET_LEN), packet) for packet in packets]
    assert port.counters()["home-merged"] == 0


def test_ip_ids_must_be_consecutive_without_df(port: Port) -> None:
    assert len(port.send_home([segment(0, df=0), segment(1, df=0)])) == 1
    assert len(port.send_home([segment(0, df=0), segment(1, df=0, ident=1)])) == 2
    assert len(port.send_home([segment(0, df=0, ident=65535), segment(1, df=0, ident=65535)])) == 1
    assert len(port.send_home([segment(0), segment(1, ident=77)])) == 1  # RFC 6864: no meaning


def test_pushed_or_short_segment_ends_a_super_frame(port: Port) -> None:
    assert len(port.send_home([segment(0, flags="PA"), segment(1)])) == 2
    short = [segment(0), segment(1, size=50), segment(2, seq=1150)]
    assert [len(packet) for _, packet in port.send_home(short)] == [190, 140]


def test_super_frame_never_exceeds_an_ipv4_packet(port: Port, splitter: ctypes.CDLL) -> None:
    packets = [segment(index, size=1400, payload=1400) for index in range(60)]
    writes = port.send_home(packets)
    assert [len(packet) for _, packet in writes] == [40 + 46 * 1400, 40 + 14 * 1400]
    assert [s for write in writes for s in segments_of(splitter, *write)] == packets


def test_segment_without_payload_and_other_protocols_pass_as_they_are(port: Port) -> None:
    network = IP(src="10.1.0.5", dst="10.9.0.7")
    packets = [
        segment(0, size=0),
        bytes(network / UDP(sport=1, dport=2) / b"x"),
        bytes(network / ICMP() / b"x"),
        bytes(network / TCP(sport=7, dport=80))[:38],
        bytes(network),
    ]
    assert port.send_home(packets) == [(bytes(VNET_LEN), packet) for packet in packets]


@settings(max_examples=60)
@given(
    plan=st.lists(
        st.tuples(
            st.integers(0, 11),  # flow: more than can be open at once
            st.sampled_from([100, 100, 100, 100, 60, 0]),  # payload
            st.sampled_from(["A", "A", "A", "A", "PA", "FA"]),
            st.sampled_from([0, 0, 0, 0, 1]),  # a hole in the sequence
        ),
        max_size=64,
    )
)
def test_whatever_is_merged_comes_out_as_it_went_in(
    library: ctypes.CDLL, splitter: ctypes.CDLL, plan: list[Any]
) -> None:
    port = Port(library)
    try:
        at: dict[int, int] = {}
        packets: list[bytes] = []
        for number, (flow, size, flags, hole) in enumerate(plan):
            seq = at.get(flow, 4294967000) + hole
            at[flow] = seq + size
            fields = {"seq": seq & 0xFFFFFFFF, "flags": flags, "port": 1000 + flow}
            packets.append(segment(number, size=size, **fields))
        got = [s for write in port.send_home(packets) for s in segments_of(splitter, *write)]
        for flow in range(12):
            mine = struct.pack("!H", 1000 + flow)
            expected = [without_id(packet) for packet in packets if packet[20:22] == mine]
            assert [without_id(packet) for packet in got if packet[20:22] == mine] == expected
        assert len(got) == len(packets)
        assert port.counters()["home-written"] == len(packets)
    finally:
        port.close()


def without_id(packet: bytes) -> bytes:
    """With DF the kernel numbers the segments of a super-frame itself."""
    parsed = IP(packet)
    parsed.id = 0
    del parsed.chksum
    return bytes(parsed)


def super_frame(size: int, gso_size: int, port: int = 9) -> bytes:
    """A TCP super-frame as a TUN device gives it; its checksum field does not matter."""
    header = struct.pack("=BBHHHH", 1, GSO_TCPV4, 40, gso_size, 20, 16)
    packet = IP(src="10.9.0.7", dst="10.1.0.5") / TCP(sport=port, dport=80) / os.urandom(size)
    return header + bytes(packet)


def test_super_frames_and_packets_are_cut_across_batches_in_order(port: Port) -> None:
    """More parts than a batch holds, then plain packets, then another super-frame."""
    port.make_busy()
    plain = [bytes(IP(dst="10.1.0.5") / UDP(sport=index, dport=9)) for index in range(1, 41)]
    frames = [super_frame(60000, 500), super_frame(64000, 1400, 10)]
    port.device.send(bytes(VNET_LEN) + plain[0])
    port.device.send(frames[0])
    for packet in plain[1:]:
        port.device.send(bytes(VNET_LEN) + packet)
    port.device.send(frames[1])
    got: list[bytes] = []
    while batch := port.receive(HOME):
        assert len(batch) <= 64
        got += batch
    assert got[0] == plain[0]
    assert b"".join(packet[40:] for packet in got[1:121]) == frames[0][VNET_LEN + 40 :]
    assert got[121:160] == plain[1:]
    assert b"".join(packet[40:] for packet in got[160:]) == frames[1][VNET_LEN + 40 :]
    counters = port.counters()
    assert counters["home-read"] == 64 + 42
    assert counters["home-ring-read"] == (42 if port.has_ring() else 0)
    assert counters["home-super-frames"] == 2
    assert counters["home-segments"] == 120 + 46


def test_many_plain_packets_keep_their_bytes_within_a_batch(port: Port) -> None:
    port.make_busy()
    packets = [bytes(IP() / UDP() / os.urandom(1 + 400 * index)) for index in range(150)]
    for packet in packets:
        port.device.send(bytes(VNET_LEN) + packet)
    got = [port.receive(HOME) for _ in range(4)]
    assert [len(batch) for batch in got] == [64, 64, 22, 0]
    assert [packet for batch in got for packet in batch] == packets
    assert port.counters()["home-ring-read"] == (150 if port.has_ring() else 0)


def test_jumbo_parts_fill_the_arena_and_the_rest_follows(port: Port) -> None:
    port.make_busy()
    port.device.send(super_frame(64000, 16000))
    port.device.send(super_frame(64000, 30000, 11))
    got: list[bytes] = []
    while batch := port.receive(HOME):
        got += batch
    assert [len(packet) - 40 for packet in got] == [16000] * 4 + [30000, 30000, 4000]


def test_bad_offload_headers_are_counted_and_dropped(port: Port) -> None:
    port.make_busy()
    packet = bytes(IP() / UDP() / b"payload")
    port.device.send(struct.pack("=BBHHHH", 1, 0, 0, 0, 9000, 6) + packet)
    port.device.send(struct.pack("=BBHHHH", 1, GSO_TCPV4, 0, 100, 20, 16) + packet)
    port.device.send(struct.pack("=BBHHHH", 1, 3, 0, 100, 20, 6) + packet)
    port.device.send(bytes(VNET_LEN) + packet)
    assert port.receive(HOME) == [packet]
    assert port.counters()["home-bad-offload"] == 3


def test_an_empty_queue_is_empty_and_light_load_is_read_one_by_one(port: Port) -> None:
    packet = bytes(IP() / UDP() / b"payload")
    port.make_busy()
    assert port.receive(HOME) == []
    for _ in range(3):
        port.device.send(bytes(VNET_LEN) + packet)
        assert port.receive(HOME) == [packet]
    assert port.counters()["home-ring-read"] == 0


def test_a_full_batch_of_parts_with_more_behind_keeps_order_and_bytes(port: Port) -> None:
    """A super-frame in the middle of what one call read: the packets behind it wait their turn."""
    port.make_busy()
    plain = [bytes(IP() / UDP(sport=index) / os.urandom(900)) for index in range(1, 64)]
    frame = super_frame(60000, 500)
    for write in [*(bytes(VNET_LEN) + packet for packet in plain), frame]:
        port.device.send(write)
    assert port.receive(HOME)[:63] == plain
    late = bytes(IP() / UDP() / b"late")
    port.device.send(bytes(VNET_LEN) + late)
    got: list[bytes] = []
    while batch := port.receive(HOME):
        got += batch
    assert b"".join(packet[40:] for packet in got[:119]) == frame[VNET_LEN + 40 + 500 :]
    assert got[119:] == [late]


def test_a_read_too_short_for_its_header_is_counted(port: Port) -> None:
    port.make_busy()
    packet = bytes(IP() / UDP() / b"payload")
    for write in (bytes(VNET_LEN) + packet, b"short", bytes(VNET_LEN) + packet):
        port.device.send(write)
    assert [*port.receive(HOME), *port.receive(HOME)] == [packet, packet]
    assert port.counters()["home-read-errors"] == 1


def test_a_device_that_is_gone_ends_the_ring_and_read_tells(port: Port) -> None:
    port.make_busy()
    port.device.close()
    assert port.receive(HOME) == []
    assert not port.has_ring()
    for _ in range(2000):
        assert port.receive(HOME) == []
    assert port.library.probe_failed() == errno.EIO


def test_without_io_uring_read_does_it(library: ctypes.CDLL) -> None:
    """It is refused a descriptor here, as it may be refused memory or the call itself."""
    port = Port(library, ring=False)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, limits[1]))
        port.reopen(ring=True)
        assert not port.has_ring()
        port.make_busy()
        port.make_busy()
    finally:
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        port.close()


def test_tunnel_packets_of_every_size_arrive_in_one_piece(port: Port) -> None:
    sizes = [20, 40, 1500, 1663, 1664, 1665, 1700, 9000, 40000, 65535]
    packets = [bytes(IP(proto=4, len=size)) + os.urandom(size - 20) for size in sizes]
    for packet in packets:
        port.tunnel.send(packet)
    assert port.receive(TUNNEL) == packets
    assert port.counters()["tunnel-large"] == 5
