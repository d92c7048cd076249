"""GRE, minimal encapsulation and UDP tunnels, rule by rule of RFC 2784, 2890, 2004 and 3519."""

from __future__ import annotations

import struct

import pytest
from tests.engine.lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_AGENT,
    NODE,
    OTHER_CARE_OF,
    assert_balanced,
    engine_for,
)
from tests.reference.encapsulations import GRE, IPIP, MINIMAL, UNKNOWN_PORT, Method, opened, wrapped
from tests.reference.ipv4 import Header, change, checksum, header
from tests.reference.tunnels import DONE_TTL, HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane
from fastmip.wire.tunneling import TunnelData

UDP_PORTS = (4434, 434)
TO_NODE = header(CORRESPONDENT, NODE, 17, 30, ttl=9, fragment=0x4000) + bytes(30)
FROM_NODE = header(NODE, CORRESPONDENT, 17, 30, ttl=9, fragment=0x4000) + bytes(30)
KEY = 0xFEEDF00D
METHODS = {
    "ipip": Method(),
    "gre": Method(GRE),
    "gre with key": Method(GRE, KEY),
    "minimal": Method(MINIMAL),
    "udp": Method(IPIP, None, *UDP_PORTS),
    "gre in udp": Method(GRE, None, *UDP_PORTS),
    "keyed gre in udp": Method(GRE, KEY, *UDP_PORTS),
    "minimal in udp": Method(MINIMAL, None, *UDP_PORTS),
}
OVERHEADS = (20, 24, 28, 12, 32, 36, 40, 24)
"""Of METHODS in their order, added up from the header lengths in the RFCs."""
WITH_OVERHEAD = list(zip(METHODS, OVERHEADS, strict=True))


def far(method: Method) -> Method:
    """The other end's view."""
    return Method(method.encapsulation, method.gre_key, method.local_port, method.remote_port)


class Lab:
    """A home agent with one node."""

    def __init__(self, *methods: Method, scalar: bool = False, **fields: int) -> None:
        remotes = (CARE_OF, OTHER_CARE_OF)
        chain = [
            Binding(remote, HOME_AGENT, method=method, **fields)  # type: ignore[arg-type]
            for remote, method in zip(remotes, methods, strict=False)
        ]
        twin = Twin("home-agent", (HOME_AGENT,), {NODE: chain})
        self.engine = engine_for(twin, scalar=scalar)
        self.port = _dataplane.MemoryPort(self.engine)

    def to_node(self, packet: bytes) -> list[bytes]:
        """What leaves for the node."""
        self.port.inject(HOME, [packet])
        assert_balanced(self.engine)
        return self.port.take(TUNNEL)

    def from_node(self, packet: bytes) -> str:
        """The verdict on a tunnel packet."""
        (verdict,) = self.port.inject(TUNNEL, [packet])
        assert_balanced(self.engine)
        return verdict


def gre_packet(flags: int, *, kind: int = 0x0800, words: tuple[int, ...] = ()) -> bytes:
    """A GRE packet of the node's with these optional words; the checksum is right."""
    optional = b"".join(word.to_bytes(4, "big") for word in words)
    head = flags.to_bytes(2, "big") + kind.to_bytes(2, "big")
    if flags & 0x8000:
        found = checksum(head + bytes(4) + optional + FROM_NODE)
        head += found.to_bytes(2, "big") + bytes(2)
    carried = head + optional + FROM_NODE
    return header(CARE_OF, HOME_AGENT, 47, len(carried)) + carried


@pytest.mark.parametrize(("name", "overhead"), WITH_OVERHEAD)
@pytest.mark.parametrize("scalar", [False, True], ids=["simd", "scalar"])
def test_each_encapsulation_there_and_back(name: str, overhead: int, scalar: bool) -> None:
    method = METHODS[name]
    lab = Lab(method, scalar=scalar)
    (left,) = lab.to_node(TO_NODE)
    assert len(left) == len(TO_NODE) + overhead
    found = opened(left)
    assert not isinstance(found, str)
    assert found.inner == change(TO_NODE, ttl=8)
    assert lab.engine.traffic(NODE)[0]["overhead"] == overhead
    back = wrapped(FROM_NODE, far(method), CARE_OF, HOME_AGENT, 64, 0)
    assert lab.from_node(back) == "decapsulated"
    assert lab.port.take(HOME) == [change(FROM_NODE, ttl=8)]


@pytest.mark.parametrize(("name", "overhead"), WITH_OVERHEAD)
def test_budgets_are_the_path_mtu_less_the_headers(name: str, overhead: int) -> None:
    lab = Lab(METHODS[name], mtu=1400)
    fits = header(CORRESPONDENT, NODE, 17, 1380 - overhead, fragment=0x4000)
    assert [len(p) for p in lab.to_node(fits + bytes(1380 - overhead))] == [1400]
    above = header(CORRESPONDENT, NODE, 17, 1381 - overhead, fragment=0x4000)
    assert lab.port.inject(HOME, [above + bytes(1381 - overhead)]) == ["drop-too-big"]
    (error,) = lab.port.take(HOME)
    assert int.from_bytes(error[26:28], "big") == 1400 - overhead


@pytest.mark.parametrize("name", METHODS)
def test_what_may_be_fragmented_is_cut_before_encapsulation_rfc3519_4_8(name: str) -> None:
    lab = Lab(METHODS[name], mtu=576)
    packet = header(CORRESPONDENT, NODE, 17, 2000, identification=7, ttl=9) + bytes(range(250)) * 8
    pieces = lab.to_node(packet)
    assert max(len(piece) for piece in pieces) <= 576
    assert not any(Header(piece).fragment & 0x3FFF for piece in pieces)
    found = [opened(piece) for piece in pieces]
    inner = [Header(piece.inner) for piece in found if not isinstance(piece, str)]
    assert b"".join(fields.payload for fields in inner) == packet[20:]
    kind = METHODS[name].encapsulation  # RFC 2004 3: never around a fragment
    expected = IPIP if kind == MINIMAL else kind
    assert {piece.encapsulation for piece in found if not isinstance(piece, str)} == {expected}


# GRE


@pytest.mark.parametrize("reserved", [0x0008, 0x0200, 0x03F8])
def test_bits_6_to_12_are_ignored_rfc2784_2_3(reserved: int) -> None:
    assert Lab(Method(GRE)).from_node(gre_packet(reserved)) == "decapsulated"


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        (0x4000, "drop-gre-reserved"),
        (0x0800, "drop-gre-reserved"),
        (0x0400, "drop-gre-reserved"),
        (0x0001, "drop-gre-version"),
        (0x0007, "drop-gre-version"),
    ],
)
def test_routing_source_route_recursion_and_versions_are_refused_rfc2784_2_3(
    flags: int, verdict: str
) -> None:
    assert Lab(Method(GRE)).from_node(gre_packet(flags)) == verdict


@pytest.mark.parametrize("kind", [0x86DD, 0x6558, 0x0806, 0x0000])
def test_other_payloads_than_ipv4_are_refused_rfc2784_2_4(kind: int) -> None:
    assert Lab(Method(GRE)).from_node(gre_packet(0, kind=kind)) == "drop-gre-protocol"


def test_a_checksum_is_verified_rfc2784_2_2() -> None:
    lab = Lab(Method(GRE))
    right = gre_packet(0x8000)
    assert lab.from_node(right) == "decapsulated"
    for at in range(24, len(right)):
        wrong = right[:at] + bytes([right[at] ^ 4]) + right[at + 1 :]
        assert lab.from_node(wrong) == "drop-gre-checksum", at


@pytest.mark.parametrize("flags", [0, 0x8000, 0x2000, 0x1000, 0xB000])
def test_a_header_cut_short_is_named(flags: int) -> None:
    whole = 4 + 4 * bin(flags & 0xB000).count("1")
    for length in range(whole):
        carried = (flags.to_bytes(2, "big") + b"\x08\0" + bytes(12))[:length]
        packet = header(CARE_OF, HOME_AGENT, 47, length) + carried
        assert Lab(Method(GRE)).from_node(packet) == "drop-gre-truncated", length


@pytest.mark.parametrize("udp", [(), UDP_PORTS])
def test_the_key_must_be_the_negotiated_one_rfc2890_2_1(udp: tuple[int, ...]) -> None:
    def verdict(at_home: int | None, sent: int | None) -> str:
        lab = Lab(Method(GRE, at_home, *udp))
        sender = far(Method(GRE, sent, *udp))
        return lab.from_node(wrapped(FROM_NODE, sender, CARE_OF, HOME_AGENT, 64, 0))

    assert verdict(KEY, KEY) == verdict(None, None) == verdict(0, 0) == "decapsulated"
    assert verdict(KEY, KEY ^ 1) == verdict(KEY, None) == verdict(None, KEY) == "drop-gre-key"
    assert verdict(0, None) == verdict(None, 0) == "drop-gre-key"


def test_sequence_numbers_only_go_forward_rfc2890_2_2() -> None:
    lab = Lab(Method(GRE))

    def verdicts(*numbers: int) -> list[str]:
        return [lab.from_node(gre_packet(0x1000, words=(number,))) for number in numbers]

    ahead, late = "decapsulated", "drop-gre-sequence"
    assert verdicts(0, 0, 1, 5, 4, 1, 6) == [ahead, late, ahead, ahead, late, late, ahead]
    assert lab.from_node(gre_packet(0)) == ahead  # without a number: in sequence
    assert verdicts(6, 7) == [late, ahead]
    assert verdicts(7 + 2**31 - 1, 7 + 2**31 - 1) == [ahead, late]
    assert verdicts(2**32 - 2, 2**32 - 1, 0, 2**32 - 1) == [ahead, ahead, ahead, late]


def test_a_first_sequence_number_of_zero_is_ahead_and_the_last_survives_a_refresh() -> None:
    lab = Lab(Method(GRE))
    assert lab.from_node(gre_packet(0x1000, words=(0,))) == "decapsulated"
    record = Binding(CARE_OF, HOME_AGENT, method=Method(GRE)).record(NODE)
    lab.engine.publish(lab.engine.prepare(record))
    assert lab.from_node(gre_packet(0x1000, words=(0,))) == "drop-gre-sequence"
    assert lab.from_node(gre_packet(0x1000, words=(1,))) == "decapsulated"


def test_a_refused_packet_does_not_move_the_sequence() -> None:
    lab = Lab(Method(GRE))
    forged = bytearray(gre_packet(0x1000, words=(1000,)))
    forged[12:20] = header(OTHER_CARE_OF, HOME_AGENT, 47, 0)[12:20]
    forged[10:12] = header(OTHER_CARE_OF, HOME_AGENT, 47, len(forged) - 20)[10:12]
    assert lab.from_node(bytes(forged)) == "drop-care-of-address"
    assert lab.from_node(gre_packet(0x1000, words=(0,))) == "decapsulated"


def test_a_payload_for_its_encapsulator_is_a_loop_rfc2784_3_1() -> None:
    lab = Lab(Method(GRE))
    inner = header(NODE, CARE_OF, 17, 0)
    packet = wrapped(inner, Method(GRE), CARE_OF, HOME_AGENT, 64, 0)
    assert lab.from_node(packet) == "drop-loop-encapsulator"


# minimal encapsulation


def test_ttl_tos_identification_and_options_stay_in_the_one_header_rfc2004_3() -> None:
    options = b"\x94\x04\0\0"
    packet = header(
        CORRESPONDENT, NODE, 17, 8, ttl=9, tos=0xB9, identification=77, fragment=0, options=options
    ) + bytes(8)
    (left,) = Lab(Method(MINIMAL), is_compatible=1).to_node(packet)
    fields = Header(left)
    assert (fields.ttl, fields.tos, fields.identification) == (8, 0xB9, 77)
    assert (fields.raw[20:], fields.fragment) == (options, 0)
    assert (fields.source, fields.destination, fields.protocol) == (HOME_AGENT, CARE_OF, 55)


def test_the_ttl_goes_on_counting_behind_the_tunnel_rfc2004_3() -> None:
    lab = Lab(Method(MINIMAL))
    tunnelled = change(wrapped(FROM_NODE, Method(MINIMAL), CARE_OF, HOME_AGENT, 64, 0), ttl=5)
    assert lab.from_node(tunnelled) == "decapsulated"
    assert lab.port.take(HOME) == [change(FROM_NODE, ttl=4)]


def test_congestion_marked_on_the_way_stays_marked_rfc6040() -> None:
    lab = Lab(Method(MINIMAL))
    tunnelled = wrapped(FROM_NODE, Method(MINIMAL), CARE_OF, HOME_AGENT, 64, 0)
    assert lab.from_node(change(tunnelled, tos=3)) == "decapsulated"
    assert Header(lab.port.take(HOME)[0]).tos == 3


def test_our_own_errors_need_no_original_source_rfc2004_3() -> None:
    """S is 0 only when the encapsulator made the packet."""
    lab = Lab(Method(MINIMAL))
    dying = header(NODE, CORRESPONDENT, 17, 8, ttl=1) + bytes(8)
    assert lab.from_node(wrapped(dying, Method(), CARE_OF, HOME_AGENT, 64, 0)) == "drop-ttl"
    (error,) = lab.port.take(TUNNEL)
    assert (error[20], error[21], len(error)) == (1, 0, 20 + 8 + 8 + len(dying))
    found = opened(error)
    assert not isinstance(found, str)
    assert Header(found.inner).source == HOME_AGENT


@pytest.mark.parametrize("fragment", [0x2000, 0x2003, 0x0003])
def test_fragments_go_by_ip_in_ip_and_are_taken_so_rfc2004_3(fragment: int) -> None:
    lab = Lab(Method(MINIMAL))
    (left,) = lab.to_node(header(CORRESPONDENT, NODE, 17, 8, fragment=fragment) + bytes(8))
    assert Header(left).protocol == 4
    back = header(NODE, CORRESPONDENT, 17, 8, fragment=fragment) + bytes(8)
    assert lab.from_node(wrapped(back, Method(), CARE_OF, HOME_AGENT, 64, 0)) == "decapsulated"


@pytest.mark.parametrize("is_df", [False, True])
@pytest.mark.parametrize("scalar", [False, True], ids=["simd", "scalar"])
def test_in_udp_only_what_has_df_goes_by_minimal_encapsulation(is_df: bool, scalar: bool) -> None:
    method = METHODS["minimal in udp"]
    lab = Lab(method, scalar=scalar)
    packet = change(TO_NODE, fragment=0x4000 if is_df else 0)
    (left,) = lab.to_node(packet)
    found = opened(left)
    assert not isinstance(found, str)
    assert found.encapsulation == (MINIMAL if is_df else IPIP)
    assert found.inner == change(packet, ttl=8)
    back = change(FROM_NODE, fragment=0x4000 if is_df else 0)
    assert lab.from_node(wrapped(back, far(method), CARE_OF, HOME_AGENT, 64, 0)) == "decapsulated"
    assert lab.port.take(HOME) == [change(back, ttl=8)]


def test_minimal_is_not_taken_where_ip_in_ip_was_negotiated_rfc3024_4_3_2() -> None:
    packet = wrapped(FROM_NODE, Method(MINIMAL), CARE_OF, HOME_AGENT, 64, 0)
    assert Lab(Method()).from_node(packet) == "drop-encapsulation"


def test_the_forwarding_header_is_checked_rfc2004_3() -> None:
    lab = Lab(Method(MINIMAL))
    right = wrapped(FROM_NODE, Method(MINIMAL), CARE_OF, HOME_AGENT, 64, 0)
    for at in range(20, 32):
        wrong = right[:at] + bytes([right[at] ^ 4]) + right[at + 1 :]
        assert lab.from_node(wrong) == "drop-minimal-checksum", at
    for length in range(12):
        cut = header(CARE_OF, HOME_AGENT, 55, length) + right[20 : 20 + length]
        assert lab.from_node(cut) == "drop-minimal-truncated", length


def test_reserved_bits_are_ignored_rfc2004_3() -> None:
    lab = Lab(Method(MINIMAL))
    packet = bytearray(wrapped(FROM_NODE, Method(MINIMAL), CARE_OF, HOME_AGENT, 64, 0))
    packet[21] |= 0x7F
    packet[22:24] = bytes(2)
    packet[22:24] = checksum(bytes(packet[20:32])).to_bytes(2, "big")
    assert lab.from_node(bytes(packet)) == "decapsulated"
    assert lab.port.take(HOME) == [change(FROM_NODE, ttl=8)]


# UDP tunnels


def test_addresses_and_ports_must_be_those_of_the_tunnel_rfc3519_4_3() -> None:
    lab = Lab(Method(IPIP, None, *UDP_PORTS))

    def verdict(source: int, destination: int, *ports: int) -> str:
        sender = Method(IPIP, None, ports[1], ports[0])
        return lab.from_node(wrapped(FROM_NODE, sender, source, destination, 64, 0))

    assert verdict(CARE_OF, HOME_AGENT, 4434, 434) == "decapsulated"
    assert verdict(CARE_OF, HOME_AGENT, 4435, 434) == "drop-udp-port"
    assert verdict(CARE_OF, HOME_AGENT, 4434, 435) == "drop-udp-port"
    assert verdict(OTHER_CARE_OF, HOME_AGENT, 4434, 434) == "drop-care-of-address"
    assert verdict(CARE_OF, HOME_AGENT + 1, 4434, 434) == "drop-tunnel-end"


@pytest.mark.parametrize("sent", [Method(), Method(GRE), Method(MINIMAL)])
def test_a_udp_tunnel_takes_nothing_else_rfc3519_4_7(sent: Method) -> None:
    method = Method(sent.encapsulation, None, *UDP_PORTS)
    packet = wrapped(FROM_NODE, sent, CARE_OF, HOME_AGENT, 64, 0)
    assert Lab(method).from_node(packet) == "drop-encapsulation"
    assert Lab(sent).from_node(packet) == "decapsulated"


@pytest.mark.parametrize("kind", [0, 6, 17, 47, 55, 255])
def test_the_next_header_must_be_the_negotiated_one_rfc3519_3_3(kind: int) -> None:
    packet = bytearray(
        wrapped(FROM_NODE, Method(IPIP, None, 434, 4434), CARE_OF, HOME_AGENT, 64, 0)
    )
    packet[29] = kind
    verdict = Lab(Method(IPIP, None, *UDP_PORTS)).from_node(bytes(packet))
    assert verdict.startswith("drop-")
    assert verdict == "drop-encapsulation" or kind in {47, 55}  # those have headers to judge first


def test_udp_checksums_are_verified_when_present_and_not_sent_rfc768() -> None:
    lab = Lab(Method(IPIP, None, *UDP_PORTS))
    (left,) = lab.to_node(TO_NODE)
    assert left[26:28] == b"\0\0"
    packet = bytearray(
        wrapped(FROM_NODE, Method(IPIP, None, 434, 4434), CARE_OF, HOME_AGENT, 64, 0)
    )
    pseudo = packet[12:20] + b"\0\x11" + packet[24:26]
    packet[26:28] = checksum(bytes(pseudo + packet[20:])).to_bytes(2, "big")
    assert lab.from_node(bytes(packet)) == "decapsulated"
    packet[27] ^= 1
    assert lab.from_node(bytes(packet)) == "drop-udp-checksum"


def test_udp_lengths_are_checked_and_registrations_are_no_tunnel_packets() -> None:
    lab = Lab(Method(IPIP, None, *UDP_PORTS))
    right = wrapped(FROM_NODE, Method(IPIP, None, 434, 4434), CARE_OF, HOME_AGENT, 64, 0)
    for length in (0, 11, len(right) - 19):
        wrong = right[:24] + length.to_bytes(2, "big") + right[26:]
        assert lab.from_node(wrong) == "drop-udp-truncated"
    for size in range(12):
        short = header(CARE_OF, HOME_AGENT, 17, size) + right[20 : 20 + size]
        assert lab.from_node(short) == "drop-udp-truncated"
    assert lab.from_node(right[:28] + b"\x01" + right[29:]) == "drop-not-tunnel"


# half bound tunnels


HALF_BOUND = Method(IPIP, None, UNKNOWN_PORT, 434)
KEEPALIVE = header(NODE, HOME_AGENT, 1, 8) + b"\x08\0\xf7\xff\0\0\0\0"


def keepalive(inner: bytes = KEEPALIVE, source: int = CARE_OF, port: int = 5555) -> bytes:
    """A node's packet through its NAT."""
    return wrapped(inner, Method(IPIP, None, 434, port), source, HOME_AGENT, 64, 0)


def test_a_keepalive_tells_the_port_of_a_half_bound_tunnel_rfc3519_4_6() -> None:
    lab = Lab(HALF_BOUND)
    assert lab.to_node(TO_NODE) == []
    assert lab.engine.counters()["drop-half-bound"][0] == 1
    assert lab.from_node(keepalive()) == "half-bound-keepalive"
    assert lab.port.take(HOME) == []
    assert lab.engine.take_half_bound() == [(NODE, CARE_OF, 5555)]
    assert lab.engine.take_half_bound() == []
    bound = Binding(CARE_OF, HOME_AGENT, method=Method(IPIP, None, 5555, 434))
    lab.engine.publish(lab.engine.prepare(bound.record(NODE)))
    assert lab.to_node(TO_NODE) == [bound.wrap(change(TO_NODE, ttl=8))]
    assert lab.from_node(keepalive()) == "decapsulated"
    assert lab.from_node(keepalive(port=5556)) == "drop-udp-port"


@pytest.mark.parametrize("encapsulation", [IPIP, GRE, MINIMAL])
def test_a_keepalive_goes_as_its_tunnel_does_rfc3519_4_9(encapsulation: int) -> None:
    lab = Lab(Method(encapsulation, None, UNKNOWN_PORT, 434))
    payload = TunnelData.wrap(encapsulation, KEEPALIVE)
    outer = header(CARE_OF, HOME_AGENT, 17, 8 + len(payload))
    datagram = outer + struct.pack("!HHHH", 5555, 434, 8 + len(payload), 0) + payload
    assert lab.from_node(datagram) == "half-bound-keepalive"
    bound = Binding(CARE_OF, HOME_AGENT, method=Method(encapsulation, None, 5555, 434))
    lab.engine.publish(lab.engine.prepare(bound.record(NODE)))
    assert lab.from_node(datagram) == "decapsulated"


def test_only_a_keepalive_from_the_registered_address_binds_rfc3519_4_6() -> None:
    lab = Lab(HALF_BOUND)
    reply = header(NODE, HOME_AGENT, 1, 8) + bytes(8)
    elsewhere = header(NODE, CORRESPONDENT, 1, 8) + KEEPALIVE[20:]
    for inner in (FROM_NODE, reply, elsewhere):
        assert lab.from_node(keepalive(inner)) == "drop-half-bound"
    assert lab.from_node(keepalive(source=OTHER_CARE_OF)) == "drop-care-of-address"
    assert lab.from_node(keepalive(port=UNKNOWN_PORT)) == "half-bound-keepalive"
    assert lab.engine.take_half_bound() == [(NODE, CARE_OF, UNKNOWN_PORT)]


def test_the_control_thread_is_woken_and_the_memory_is_bounded() -> None:
    lab = Lab(HALF_BOUND)
    fd = lab.engine.half_bound_fd()
    assert fd == lab.engine.half_bound_fd() >= 0
    for port in range(1, 101):
        assert lab.from_node(keepalive(port=port)) == "half-bound-keepalive"
    told = lab.engine.take_half_bound()
    assert [port for _, _, port in told] == list(range(1, 65))


# chains


def test_simultaneous_bindings_may_differ_in_encapsulation_rfc3519_4_7() -> None:
    for first in METHODS.values():
        for second in METHODS.values():
            lab = Lab(first, second)
            left = lab.to_node(TO_NODE)
            inner = change(TO_NODE, ttl=8)
            assert left == [
                wrapped(inner, first, HOME_AGENT, CARE_OF, 64, 0),
                wrapped(inner, second, HOME_AGENT, OTHER_CARE_OF, 64, 0),
            ]


def test_two_nodes_behind_one_nat_are_told_apart_by_their_ports() -> None:
    chains = {
        NODE + n: [Binding(CARE_OF, HOME_AGENT, method=Method(IPIP, None, 5000 + n, 434))]
        for n in range(2)
    }
    engine = engine_for(Twin("home-agent", (HOME_AGENT,), chains))
    port = _dataplane.MemoryPort(engine)
    second = header(NODE + 1, CORRESPONDENT, 17, 0)
    for source, verdict in ((5001, "decapsulated"), (5000, "drop-udp-port")):
        packet = wrapped(second, Method(IPIP, None, 434, source), CARE_OF, HOME_AGENT, 64, 0)
        assert port.inject(TUNNEL, [packet]) == [verdict]


def test_a_node_to_node_packet_changes_its_encapsulation_on_the_way() -> None:
    chains = {
        NODE: [Binding(CARE_OF, HOME_AGENT, method=Method(MINIMAL))],
        NODE + 1: [Binding(OTHER_CARE_OF, HOME_AGENT, method=Method(GRE, KEY))],
    }
    engine = engine_for(Twin("home-agent", (HOME_AGENT,), chains))
    port = _dataplane.MemoryPort(engine, done=DONE_TTL)
    inner = header(NODE, NODE + 1, 17, 8, ttl=9) + bytes(8)
    packet = wrapped(inner, Method(MINIMAL), CARE_OF, HOME_AGENT, 64, 0)
    assert port.inject(TUNNEL, [packet]) == ["reencapsulated"]
    expected = wrapped(change(inner, ttl=8), Method(GRE, KEY), HOME_AGENT, OTHER_CARE_OF, 64, 0)
    assert port.take(TUNNEL) == [expected]
