"""Super-frames and partial checksums, judged by scapy and by arithmetic of our own."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.packet import Raw
from tests.helpers.c_probe import compile_probe, unpack

HERE = Path(__file__).parent

NEEDS_CSUM = 1
NOW_NS = 1 << 40
GSO_TCPV4, GSO_UDP_L4, GSO_ECN = 1, 5, 0x80
FIN, PSH, CWR, ACK, ECE = 0x01, 0x08, 0x80, 0x10, 0x40


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    loaded = compile_probe(HERE / "vnet_probe.c", tmp_path_factory.mktemp("vnet"))
    loaded.probe_cut.restype = loaded.probe_cut_merged.restype = ctypes.c_long
    loaded.probe_memory.restype = ctypes.c_void_p
    return loaded


def vnet_header(
    gso_type: int = 0, gso_size: int = 0, flags: int = NEEDS_CSUM, start: int = 0, offset: int = 0
) -> bytes:
    return struct.pack("=BBHHHH", flags, gso_type, 0, gso_size, start, offset)


def cut(probe: ctypes.CDLL, header: bytes, data: bytes) -> list[bytes] | None:
    """The packets a super-frame is cut into; None if it was refused."""
    out = (ctypes.c_ubyte * (1 << 20))()
    used = probe.probe_cut(header, data, len(data), out, ctypes.c_long(len(out)))
    assert used >= -1
    return None if used < 0 else unpack(bytes(out[:used]))


def ones_sum(data: bytes) -> int:
    """RFC 1071 by the book, 16 bits at a time."""
    data += b"\0" * (len(data) % 2)
    total = int(sum(struct.unpack(f"!{len(data) // 2}H", data)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def with_pseudo_sum(packet: bytes) -> bytes:
    """The packet as a kernel with checksum offload hands it over: pseudo-header sum only."""
    header_len = (packet[0] & 15) * 4
    protocol, transport = packet[9], packet[header_len:]
    pseudo = packet[12:20] + struct.pack("!BBH", 0, protocol, len(transport))
    at = header_len + (16 if protocol == 6 else 6)
    return packet[:at] + struct.pack("!H", ones_sum(pseudo)) + packet[at + 2 :]


addresses = st.tuples(*[st.integers(1, 254)] * 4).map(lambda a: ".".join(map(str, a)))
ip_options = st.integers(0, 2).map(lambda n: [IPOption_NOP()] * (4 * n))


@settings(max_examples=40)  # scapy builds every segment
@given(
    source=addresses,
    destination=addresses,
    options=ip_options,
    tcp_options=st.integers(0, 10),
    ident=st.integers(0, 0xFFFF),
    seq=st.integers(0, 0xFFFFFFFF),
    flags=st.integers(0, 0xFF),
    tos=st.integers(0, 255),
    payload=st.binary(min_size=1, max_size=4000),
    repeat=st.integers(1, 12),
    gso_size=st.integers(40, 9000),
)
def test_tcp_super_frame_is_cut_as_scapy_builds_the_segments(
    probe: ctypes.CDLL,
    source: str,
    destination: str,
    options: list[Any],
    tcp_options: int,
    ident: int,
    seq: int,
    flags: int,
    tos: int,
    payload: bytes,
    repeat: int,
    gso_size: int,
) -> None:
    payload = payload * repeat
    nops = [("NOP", None)] * (4 * tcp_options)
    network = IP(src=source, dst=destination, id=ident, flags="DF", tos=tos, options=options, ttl=9)
    whole = bytes(network / TCP(sport=7, dport=9, seq=seq, flags=flags, options=nops) / payload)
    assume(len(whole) <= 65535)
    got = cut(probe, vnet_header(GSO_TCPV4 | GSO_ECN, gso_size), with_pseudo_sum(whole))
    pieces = [payload[at : at + gso_size] for at in range(0, len(payload), gso_size)]
    expected = []
    for index, piece in enumerate(pieces):
        mine = flags
        if index:
            mine &= ~CWR
        if index < len(pieces) - 1:
            mine &= ~(FIN | PSH)
        network.id = (ident + index) & 0xFFFF
        transport = TCP(
            sport=7,
            dport=9,
            seq=(seq + index * gso_size) & 0xFFFFFFFF,
            flags=mine,
            options=nops,
        )
        expected.append(bytes(network / transport / piece))
    assert got == expected


@settings(max_examples=30)
@given(
    source=addresses,
    destination=addresses,
    ident=st.integers(0, 0xFFFF),
    payload=st.binary(min_size=1, max_size=3000),
    repeat=st.integers(1, 20),
    gso_size=st.integers(1, 2000),
)
def test_udp_super_frame_is_cut_as_scapy_builds_the_datagrams(
    probe: ctypes.CDLL,
    source: str,
    destination: str,
    ident: int,
    payload: bytes,
    repeat: int,
    gso_size: int,
) -> None:
    payload = payload * repeat
    assume(len(payload) < 65500 and len(payload) / gso_size < 500)
    network = IP(src=source, dst=destination, id=ident)
    whole = bytes(network / UDP(sport=1, dport=2) / payload)
    got = cut(probe, vnet_header(GSO_UDP_L4, gso_size), with_pseudo_sum(whole))
    expected = []
    for index, at in enumerate(range(0, len(payload), gso_size)):
        network.id = (ident + index) & 0xFFFF
        expected.append(bytes(network / UDP(sport=1, dport=2) / payload[at : at + gso_size]))
    assert got == expected


def test_udp_super_frame_without_checksum_stays_without(probe: ctypes.CDLL) -> None:
    whole = bytes(IP(src="1.2.3.4", dst="5.6.7.8") / UDP(sport=1, dport=2, chksum=0) / bytes(100))
    got = cut(probe, vnet_header(GSO_UDP_L4, 30, flags=0), whole)
    assert got is not None
    assert [IP(part)[UDP].chksum for part in got] == [0] * 4


@given(
    data=st.binary(max_size=80),
    gso_type=st.sampled_from([GSO_TCPV4, GSO_UDP_L4, 3, 4, 77]),
    gso_size=st.integers(0, 0xFFFF),
    start=st.sampled_from([b"", b"\x45", b"\x4f", b"\x45" + bytes(8) + b"\x06"]),
)
def test_no_bytes_make_the_splitter_fail(
    probe: ctypes.CDLL, data: bytes, gso_type: int, gso_size: int, start: bytes
) -> None:
    data = start + data
    got = cut(probe, vnet_header(gso_type, gso_size), data)
    if got is not None:
        headers = len(got[0]) - min(gso_size, len(data))
        assert headers < len(data)
        assert sum(len(part) for part in got) >= len(data)


def test_truncated_super_frames_are_refused_at_every_length(probe: ctypes.CDLL) -> None:
    options = [("NOP", None)] * 12
    whole = bytes(IP(src="1.2.3.4", dst="5.6.7.8") / TCP(options=options) / b"x")
    for length in range(len(whole)):
        assert cut(probe, vnet_header(GSO_TCPV4, 100), whole[:length]) is None
    assert cut(probe, vnet_header(GSO_TCPV4, 100), whole) is not None
    assert cut(probe, vnet_header(GSO_TCPV4, 0), whole) is None
    assert cut(probe, vnet_header(GSO_UDP_L4, 100), whole) is None


@given(payload=st.binary(max_size=1500), protocol=st.sampled_from([TCP, UDP]))
def test_partial_checksum_is_completed(probe: ctypes.CDLL, payload: bytes, protocol: Any) -> None:
    whole = bytes(IP(src="1.2.3.4", dst="250.6.7.8") / protocol(sport=3, dport=4) / payload)
    offset = 16 if protocol is TCP else 6
    data = ctypes.create_string_buffer(with_pseudo_sum(whole), len(whole))
    header = vnet_header(start=20, offset=offset)
    assert probe.probe_complete(header, data, len(whole)) == 0
    assert data.raw == whole


def test_udp_checksum_that_comes_out_zero_is_sent_as_ones_rfc768(probe: ctypes.CDLL) -> None:
    base = IP(src="1.2.3.4", dst="5.6.7.8") / UDP(sport=3, dport=4, chksum=0)
    body = struct.pack("!H", 0)
    sums = ones_sum(bytes(base / body)[12:20] + struct.pack("!BBH", 0, 17, 10))
    sums = ones_sum(struct.pack("!H", sums) + bytes(base / body)[20:])
    whole = bytes(base / struct.pack("!H", 0xFFFF - sums))
    data = ctypes.create_string_buffer(with_pseudo_sum(whole), len(whole))
    assert probe.probe_complete(vnet_header(start=20, offset=6), data, len(whole)) == 0
    assert data.raw[26:28] == b"\xff\xff"
    assert IP(data.raw)[UDP].sport == 3


@given(start=st.integers(0, 0xFFFF), offset=st.integers(0, 0xFFFF), size=st.integers(0, 100))
def test_checksum_offsets_outside_the_packet_are_refused(
    probe: ctypes.CDLL, start: int, offset: int, size: int
) -> None:
    data = ctypes.create_string_buffer(size)
    inside = start < size and start + offset + 2 <= size
    header = vnet_header(start=start, offset=offset)
    assert probe.probe_complete(header, data, size) == (0 if inside else -1)
    assert probe.probe_complete(vnet_header(flags=0), data, size) == 0


@given(
    payload=st.binary(max_size=300),
    protocol=st.sampled_from([TCP, UDP]),
    options=ip_options,
    fragment=st.sampled_from([0, 0, 0, 5]),
)
def test_only_a_bare_pseudo_header_sum_counts_as_partial(
    probe: ctypes.CDLL, payload: bytes, protocol: Any, options: list[Any], fragment: int
) -> None:
    network = IP(src="1.2.3.4", dst="5.6.7.8", options=options, frag=fragment)
    whole = bytes(network / protocol(sport=3, dport=4) / payload)
    assert probe.probe_partial(whole, len(whole)) == 0
    partial = with_pseudo_sum(whole)
    assume(partial != whole)
    field = (20 + len(options)) + (16 if protocol is TCP else 6)
    # Trailing bytes beyond the total length do not disturb it.
    assert probe.probe_partial(partial + b"pad", len(partial) + 3) == (0 if fragment else field)
    for length in range(len(partial)):
        assert probe.probe_partial(partial[:length], length) == 0


@settings(max_examples=30)
@given(data=st.binary(max_size=64), size=st.integers(1, 2000), gso_size=st.integers(1, 1400))
def test_merged_tunnel_packet_is_cut_with_its_outer_header(
    probe: ctypes.CDLL, data: bytes, size: int, gso_size: int
) -> None:
    payload = (data + b"!") * size
    assume(len(payload) < 60000 and len(payload) / gso_size < 500)
    outer = IP(src="9.9.9.9", dst="8.8.8.8", proto=4, id=77)
    inner = IP(src="1.2.3.4", dst="5.6.7.8", id=65534)
    tcp = TCP(sport=1, dport=2, seq=4294967290, flags="PA")
    whole = bytes(outer / with_pseudo_sum(bytes(inner / tcp / payload)))
    out = (ctypes.c_ubyte * (1 << 20))()
    room = ctypes.c_long(len(out))
    used = probe.probe_cut_merged(whole, len(whole), 20, gso_size, out, room)
    got = unpack(bytes(out[:used]))
    pieces = [payload[at : at + gso_size] for at in range(0, len(payload), gso_size)]
    expected = []
    for index, piece in enumerate(pieces):
        inner.id = (65534 + index) & 0xFFFF
        tcp.seq = (4294967290 + index * gso_size) & 0xFFFFFFFF
        tcp.flags = "PA" if index == len(pieces) - 1 else "A"
        expected.append(bytes(outer / Raw(bytes(inner / tcp / piece))))
    assert got == expected


@given(ttl=st.integers(0, 255), ident=st.integers(0, 0xFFFF), protocol=st.integers(0, 255))
def test_hop_put_back_keeps_the_header_checksum_right_rfc1624(
    probe: ctypes.CDLL, ttl: int, ident: int, protocol: int
) -> None:
    network = IP(src="1.2.3.4", dst="5.6.7.8", ttl=ttl, id=ident, proto=protocol)
    data = ctypes.create_string_buffer(bytes(network), 20)
    probe.probe_add_hop(data)
    after = IP(data.raw)
    assert after.ttl == min(ttl + 1, 255)
    assert ones_sum(data.raw) == 0xFFFF


@pytest.fixture
def memory(probe: ctypes.CDLL) -> Iterator[ctypes.c_void_p]:
    made = ctypes.c_void_p(probe.probe_memory())
    yield made
    probe.probe_forget(made)


def test_a_packet_is_known_when_it_comes_round_with_another_ttl(
    probe: ctypes.CDLL, memory: ctypes.c_void_p
) -> None:
    def seen(ident: int, ttl: int) -> int:
        packet = bytes(IP(src="1.2.3.4", dst="5.6.7.8", id=ident, ttl=ttl) / UDP() / b"abc")
        return int(probe.probe_returned(memory, packet, len(packet), ctypes.c_uint64(NOW_NS)))

    # As many packets circle as a TUN queue holds; all are known in the second round.
    assert [seen(ident, 64) for ident in range(1000)] == [0] * 1000
    assert [seen(ident, 63) for ident in range(1000)] == [1] * 1000


def test_a_packet_sent_again_later_is_new(probe: ctypes.CDLL, memory: ctypes.c_void_p) -> None:
    packet = bytes(IP(src="1.2.3.4", dst="5.6.7.8", flags="DF", id=0) / UDP() / b"alive")
    for turn in range(3):
        later_ns = NOW_NS + turn * (1 << 28)
        assert probe.probe_returned(memory, packet, len(packet), ctypes.c_uint64(later_ns)) == 0


@pytest.mark.parametrize("length", range(20, 50))
def test_short_packets_are_remembered_without_reading_past_their_end(
    probe: ctypes.CDLL, memory: ctypes.c_void_p, length: int
) -> None:
    packet = bytes(IP(src="1.2.3.4", dst="5.6.7.8", len=length)) + bytes(length - 20)
    assert probe.probe_returned(memory, packet, length, ctypes.c_uint64(NOW_NS)) == 0
    assert probe.probe_returned(memory, packet, length, ctypes.c_uint64(NOW_NS)) == 1
