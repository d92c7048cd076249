"""Malformed packets: one named counter each, nothing leaves, nothing is read past the end.

The sanitized run of these tests is what proves the last part.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_AGENT,
    NODE,
    assert_balanced,
    engine_for,
)
from tests.reference.encapsulations import GRE, IPIP, MINIMAL, Method, wrapped
from tests.reference.ipv4 import header, with_checksum
from tests.reference.tunnels import HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane

SIDES = [HOME, TUNNEL]
INNER = header(NODE, CORRESPONDENT, 17, 30) + bytes(30)
TO_NODE = header(CORRESPONDENT, NODE, 17, 30) + bytes(30)
TUNNELLED = header(CARE_OF, HOME_AGENT, 4, len(INNER)) + INNER


@pytest.fixture(params=["simd", "scalar"])
def port(request: pytest.FixtureRequest) -> _dataplane.MemoryPort:
    twin = Twin("home-agent", (HOME_AGENT,), {NODE: [Binding(CARE_OF, HOME_AGENT)]})
    return _dataplane.MemoryPort(engine_for(twin, scalar=request.param == "scalar"))


def outer(inner: bytes, **fields: Any) -> bytes:
    """A tunnel packet around these bytes, whatever they are."""
    return header(CARE_OF, HOME_AGENT, fields.pop("protocol", 4), len(inner), **fields) + inner


def corrected(packet: bytes, at: int, value: int) -> bytes:
    """One octet of the header changed, checksum made right again."""
    changed = packet[:at] + bytes([value]) + packet[at + 1 :]
    return with_checksum(changed[:20]) + changed[20:]


@pytest.mark.parametrize("side", SIDES)
def test_truncation_at_every_length_is_one_drop(port: _dataplane.MemoryPort, side: int) -> None:
    whole = TO_NODE if side == HOME else TUNNELLED
    for length in range(len(whole)):
        assert port.inject(side, [whole[:length]]) == ["drop-truncated"], length
    assert port.take(HOME) == []
    assert port.take(TUNNEL) == []


def test_inner_packet_cut_at_every_length_is_one_drop(port: _dataplane.MemoryPort) -> None:
    for length in range(len(INNER)):
        assert port.inject(TUNNEL, [outer(INNER[:length])]) == ["drop-inner-truncated"], length
    assert port.take(HOME) == []


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("at", "value", "verdict"),
    [
        (0, 0x65, "drop-not-ipv4"),
        (0, 0x05, "drop-not-ipv4"),
        (0, 0x44, "drop-header"),
        (0, 0x40, "drop-header"),
        (2, 0xFF, "drop-truncated"),
        (0, 0x4F, "drop-header"),
    ],
)
def test_wrong_header_fields(
    port: _dataplane.MemoryPort, side: int, at: int, value: int, verdict: str
) -> None:
    packet = header(CORRESPONDENT, NODE, 17, 8) + bytes(8)
    assert port.inject(side, [corrected(packet, at, value)]) == [verdict]


@pytest.mark.parametrize(
    ("at", "value", "verdict"),
    [
        (0, 0x65, "drop-inner-not-ipv4"),
        (0, 0x44, "drop-inner-header"),
        (2, 0xFF, "drop-inner-truncated"),
        (3, 19, "drop-inner-header"),
        (8, 0, "drop-inner-ttl"),
    ],
)
def test_wrong_inner_header_fields(
    port: _dataplane.MemoryPort, at: int, value: int, verdict: str
) -> None:
    assert port.inject(TUNNEL, [outer(corrected(INNER, at, value))]) == [verdict]


@pytest.mark.parametrize("total", range(20))
def test_total_length_below_the_header_is_refused(port: _dataplane.MemoryPort, total: int) -> None:
    packet = corrected(corrected(TO_NODE, 2, 0), 3, total)
    assert port.inject(HOME, [packet]) == ["drop-header"]
    inner = corrected(corrected(INNER, 2, 0), 3, total)
    assert port.inject(TUNNEL, [outer(inner)]) == ["drop-inner-header"]


@pytest.mark.parametrize("bit", range(160))
def test_any_single_bit_error_in_a_header_is_noticed(port: _dataplane.MemoryPort, bit: int) -> None:
    flipped = bytearray(TO_NODE)
    flipped[bit // 8] ^= 1 << bit % 8
    (verdict,) = port.inject(HOME, [bytes(flipped)])
    assert verdict in {"drop-checksum", "drop-not-ipv4", "drop-header", "drop-truncated"}
    inner = bytearray(INNER)
    inner[bit // 8] ^= 1 << bit % 8
    (verdict,) = port.inject(TUNNEL, [outer(bytes(inner))])
    assert verdict.startswith("drop-inner-")


def test_outer_fragments_are_refused(port: _dataplane.MemoryPort) -> None:
    for field in (0x2000, 0x0001, 0x1FFF, 0x6000):
        assert port.inject(TUNNEL, [outer(INNER, fragment=field)]) == ["drop-outer-fragment"]


def test_reserved_and_df_flags_are_no_fragment(port: _dataplane.MemoryPort) -> None:
    for field in (0x8000, 0x4000, 0xC000):
        assert port.inject(TUNNEL, [outer(INNER, fragment=field)]) == ["decapsulated"]


@pytest.mark.parametrize(
    "method",
    [Method(GRE), Method(GRE, gre_key=0), Method(MINIMAL), Method(IPIP, None, 434, 4434)],
    ids=["gre", "gre with key", "minimal", "udp"],
)
def test_encapsulation_not_negotiated_is_refused_rfc3024_4_3_2(
    port: _dataplane.MemoryPort, method: Method
) -> None:
    packet = wrapped(INNER, method, CARE_OF, HOME_AGENT, 64, 0)
    assert port.inject(TUNNEL, [packet]) == ["drop-encapsulation"]


@pytest.mark.parametrize("protocol", [6, 50, 99])
def test_other_protocols_are_no_tunnels(port: _dataplane.MemoryPort, protocol: int) -> None:
    assert port.inject(TUNNEL, [outer(INNER, protocol=protocol)]) == ["drop-not-tunnel"]


def test_outer_options_are_stepped_over(port: _dataplane.MemoryPort) -> None:
    assert port.inject(TUNNEL, [outer(INNER, options=b"\x01" * 40)]) == ["decapsulated"]
    assert len(port.take(HOME)) == 1


def test_octets_after_the_total_length_are_cut_off(port: _dataplane.MemoryPort) -> None:
    assert port.inject(HOME, [TO_NODE + b"padding"]) == ["encapsulated"]
    assert len(port.take(TUNNEL)[0]) == len(TO_NODE) + 20
    assert port.inject(TUNNEL, [outer(INNER + b"padding")]) == ["decapsulated"]
    assert len(port.take(HOME)[0]) == len(INNER)


def nested(levels: int) -> bytes:
    """A packet to the node of so many IPv4 headers."""
    packet = header(CORRESPONDENT, NODE, 17, 0)
    for _ in range(levels - 1):
        packet = header(CORRESPONDENT, NODE, 4, len(packet)) + packet
    return packet


@pytest.mark.parametrize(
    ("offset", "payload", "expected"),
    [
        (0x1F00, 2047, "encapsulated-fragments"),
        (0x1F00, 2048, "drop-header"),
        (0x1FFF, 1400, "drop-header"),
    ],
)
def test_a_fragment_that_ends_past_any_packet_is_not_cut_again(
    offset: int, payload: int, expected: str
) -> None:
    """Offsets of its pieces would wrap into the flags and to the front of the packet."""
    chain = [Binding(CARE_OF, HOME_AGENT, mtu=576)]
    engine = engine_for(Twin("home-agent", (HOME_AGENT,), {NODE: chain}))
    port = _dataplane.MemoryPort(engine)
    packet = header(CORRESPONDENT, NODE, 17, payload, fragment=offset) + bytes(payload)
    assert port.inject(HOME, [packet]) == [expected]
    assert_balanced(engine)


def test_more_pieces_and_copies_than_a_batch_can_hold_are_counted_drops() -> None:
    """64 of the largest packets to eight care-of addresses each, cut to the smallest MTU."""
    chain = [Binding(CARE_OF + number, HOME_AGENT, mtu=68) for number in range(8)]
    for scalar in (False, True):
        engine = engine_for(Twin("home-agent", (HOME_AGENT,), {NODE: chain}), scalar=scalar)
        port = _dataplane.MemoryPort(engine)
        largest = header(CORRESPONDENT, NODE, 17, 65515) + bytes(65515)
        small = header(CORRESPONDENT, NODE, 17, 8) + bytes(8)
        verdicts = port.inject(HOME, [largest, small] * 32)
        assert set(verdicts) == {"encapsulated-fragments", "encapsulated", "drop-buffer"}
        assert verdicts[1::2] == ["encapsulated"] * 32  # each always has its own place
        assert len(port.take(TUNNEL)) <= 4096
        assert_balanced(engine)
        assert port.inject(HOME, [small]) == ["encapsulated"]
        assert len(port.take(TUNNEL)) == 8


@pytest.mark.parametrize("levels", [2, 7, 9, 10, 20, 60])
def test_nesting_is_capped_at_ten_headers(port: _dataplane.MemoryPort, levels: int) -> None:
    expected = "encapsulated" if levels < 10 else "drop-nesting"
    assert port.inject(HOME, [nested(levels)]) == [expected]
    inner = header(NODE, CORRESPONDENT, 4, levels * 20) + nested(levels)
    expected = "decapsulated" if levels + 1 < 10 else "drop-nesting"
    assert port.inject(TUNNEL, [outer(inner)]) == [expected]


def test_every_octet_value_as_a_packet(port: _dataplane.MemoryPort) -> None:
    noise = [bytes([value]) * length for value in range(256) for length in (1, 20, 40, 64)]
    for side in SIDES:
        verdicts = port.inject(side, noise)
        assert all(verdict.startswith("drop-") for verdict in verdicts)


def test_everything_is_counted_once() -> None:
    twin = Twin("home-agent", (HOME_AGENT,), {NODE: [Binding(CARE_OF, HOME_AGENT)]})
    engine = engine_for(twin)
    port = _dataplane.MemoryPort(engine)
    packets = [TO_NODE[:length] for length in range(len(TO_NODE) + 1)] * 5
    for side in SIDES:
        port.inject(side, packets)
    assert engine.balance()["inputs"] == 2 * len(packets)
    assert_balanced(engine)
