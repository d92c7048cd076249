"""ICMP about outer packets: validated, kept as soft state, relayed (RFC 2003 4 and 5)."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.packet import Raw
from tests.engine.lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_AGENT,
    NODE,
    a,
    assert_balanced,
    engine_for,
)
from tests.reference.encapsulations import GRE, IPIP, MINIMAL, Method
from tests.reference.ipv4 import change, header
from tests.reference.tunnels import HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane

SECOND = 1_000_000_000
ROUTER = "10.3.1.1"


class Tunnel:
    """A home agent with one node, and a router of the tunnel's path that complains."""

    def __init__(self, role: str = "home-agent", method: Method | None = None) -> None:
        here = (CARE_OF, HOME_AGENT) if role == "home-agent" else (HOME_AGENT, CARE_OF)
        ends = Binding(*here, method=method or Method())
        self.role = role
        self.engine = engine_for(Twin(role, (ends.local,), {NODE: [ends]}))
        self.port = _dataplane.MemoryPort(self.engine)
        self.now_ns = 1000 * SECOND

    def sent(self, size: int = 1400, *, df: bool = True) -> bytes:
        """An outer packet as the tunnel sends it."""
        ends = (CORRESPONDENT, NODE) if self.role == "home-agent" else (NODE, CORRESPONDENT)
        inner = header(*ends, 17, size - 20, fragment=0x4000 if df else 0) + bytes(size - 20)
        self.port.inject(HOME, [inner], now_ns=self.now_ns)
        left = self.port.take(TUNNEL)
        return left[0] if left else b""

    def hear(self, kind: int, code: int, quote: bytes, *, mtu: int = 0, pointer: int = 0) -> str:
        """The verdict on an ICMP error with this quote; what it made leave is in the port."""
        icmp = ICMP(type=kind, code=code)
        if kind == 3:
            icmp.nexthopmtu = mtu
        if kind == 12:
            icmp.ptr = pointer
        error = IP(src=ROUTER, dst="10.1.0.1") / icmp / Raw(quote)
        (verdict,) = self.port.inject(TUNNEL, [bytes(error)], now_ns=self.now_ns)
        assert_balanced(self.engine)
        return verdict

    def errors(self) -> list[bytes]:
        """ICMP errors that left to the home side, from their ICMP header on."""
        return [packet[20:] for packet in self.port.take(HOME)]

    def relayed(self) -> list[tuple[int, int, str]]:
        """Type, code and receiver of errors that left to the home side."""
        packets = [IP(p) for p in self.port.take(HOME)]
        assert all(p.payload.chksum == ICMP(bytes(p.payload)).chksum for p in packets)
        return [(p[ICMP].type, p[ICMP].code, p.dst) for p in packets]

    @property
    def mtu(self) -> int:
        """The tunnel's path MTU as the engine believes it."""
        (row,) = self.engine.traffic(NODE)
        return row["mtu"]


def test_too_big_lowers_the_tunnel_mtu_and_is_relayed_less_the_header_rfc2003_5_1() -> None:
    tunnel = Tunnel()
    tunnel.now_ns = 10**18  # soft state ages by the clock that traffic() reads
    quote = tunnel.sent()
    assert tunnel.hear(3, 4, quote, mtu=1300) == "icmp-soft-state"
    (error,) = [IP(p) for p in tunnel.port.take(HOME)]
    assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1280)
    assert (error.src, error.dst) == ("10.1.0.1", "10.9.0.7")
    assert bytes(error[ICMP].payload)[:28] == quote[20:48]
    assert tunnel.sent(1281) == b""
    assert tunnel.relayed() == [(3, 4, "10.9.0.7")]
    assert len(tunnel.sent(1280)) == 1300


def test_a_larger_mtu_is_tried_again_after_ten_minutes_rfc1191_6_3() -> None:
    tunnel = Tunnel()
    tunnel.hear(3, 4, tunnel.sent(), mtu=1300)
    tunnel.now_ns += 599 * SECOND
    assert tunnel.sent(1400) == b""
    tunnel.now_ns += 2 * SECOND
    assert len(tunnel.sent(1400)) == 1420


def test_what_may_be_fragmented_is_cut_and_not_reported() -> None:
    tunnel = Tunnel()
    quote = tunnel.sent(df=False)
    assert tunnel.hear(3, 4, quote, mtu=1300) == "icmp-soft-state"
    assert tunnel.relayed() == []
    inner = header(CORRESPONDENT, NODE, 17, 1380) + bytes(1380)
    assert tunnel.port.inject(HOME, [inner], now_ns=tunnel.now_ns) == ["encapsulated-fragments"]
    assert max(len(p) for p in tunnel.port.take(TUNNEL)) <= 1300


def test_mtu_zero_takes_the_next_plateau_rfc1191_7_1() -> None:
    tunnel = Tunnel()
    assert tunnel.hear(3, 4, tunnel.sent(), mtu=0) == "icmp-soft-state"
    assert len(tunnel.sent(986)) == 1006
    assert tunnel.sent(987) == b""


@pytest.mark.parametrize(("told", "believed"), [(67, 68), (1, 68), (68, 68), (69, 69)])
def test_mtu_is_never_below_68_rfc1191_3(told: int, believed: int) -> None:
    tunnel = Tunnel()
    tunnel.hear(3, 4, tunnel.sent(), mtu=told)
    assert len(tunnel.sent(believed - 20)) == believed
    assert tunnel.sent(believed - 19) == b""


@pytest.mark.parametrize("told", [1420, 1500, 9000, 65535])
def test_an_mtu_the_packet_would_have_fitted_is_not_believed(told: int) -> None:
    tunnel = Tunnel()
    assert tunnel.hear(3, 4, tunnel.sent(), mtu=told) == "icmp-unrelated"
    assert tunnel.relayed() == []
    assert len(tunnel.sent(1480)) == 1500


def test_mtu_is_never_raised_by_icmp() -> None:
    tunnel = Tunnel()
    quote = tunnel.sent()
    tunnel.hear(3, 4, quote, mtu=1000)
    assert tunnel.hear(3, 4, quote, mtu=1300) == "icmp-soft-state"
    assert tunnel.sent(981) == b""


def test_a_quote_that_matches_no_tunnel_is_refused() -> None:
    tunnel = Tunnel()
    quote = tunnel.sent()
    for at, value in ((15, 9), (19, 9), (39, 9)):  # outer source, outer destination, inner one
        forged = quote[:at] + bytes([value]) + quote[at + 1 :]
        assert tunnel.hear(3, 4, forged, mtu=576) == "icmp-unrelated"
        assert tunnel.hear(3, 1, forged) == "icmp-unrelated"
    assert (tunnel.relayed(), tunnel.mtu) == ([], 1500)


@pytest.mark.parametrize(
    ("role", "kind", "code", "relayed"),
    [
        ("home-agent", 3, 0, 1),  # the node's network is the home agent's own: 4.1
        ("mobile-node", 3, 0, 0),
        ("home-agent", 3, 1, 1),
        ("home-agent", 3, 2, 1),
        ("home-agent", 3, 13, 1),
        ("home-agent", 11, 0, 1),
        ("home-agent", 11, 1, 1),
        ("mobile-node", 11, 0, 1),
    ],
)
def test_unreachable_and_time_exceeded_become_unreachable_rfc2003_4(
    role: str, kind: int, code: int, relayed: int
) -> None:
    tunnel = Tunnel(role)
    assert tunnel.hear(kind, code, tunnel.sent()) == "icmp-soft-state"
    source = "10.9.0.7" if role == "home-agent" else "10.1.0.5"
    assert tunnel.relayed() == [(3, relayed, source)]
    assert tunnel.engine.events()["unreachable-learnt"] == 1


@pytest.mark.parametrize(("kind", "code"), [(3, 3), (3, 5), (4, 0), (5, 0), (5, 1)])
def test_port_source_route_quench_and_redirect_are_not_relayed_rfc2003_4(
    kind: int, code: int
) -> None:
    tunnel = Tunnel()
    assert tunnel.hear(kind, code, tunnel.sent()) == "icmp-not-relayed"
    assert tunnel.relayed() == []


@pytest.mark.parametrize(
    ("pointer", "relayed_pointer"), [(1, 1), (20, 0), (29, 9), (8, None), (16, None)]
)
def test_parameter_problem_is_relayed_about_copied_fields_rfc2003_4_5(
    pointer: int, relayed_pointer: int | None
) -> None:
    tunnel = Tunnel()
    verdict = tunnel.hear(12, 0, tunnel.sent(), pointer=pointer)
    left = [IP(p) for p in tunnel.port.take(HOME)]
    if relayed_pointer is None:
        assert (verdict, left) == ("icmp-not-relayed", [])
    else:
        assert [(p[ICMP].type, p[ICMP].ptr) for p in left] == [(12, relayed_pointer)]


def test_eight_quoted_octets_are_remembered_for_the_next_packet_rfc2003_5() -> None:
    tunnel = Tunnel()
    quote = tunnel.sent()[:28]
    assert tunnel.hear(3, 1, quote) == "icmp-soft-state"
    assert tunnel.relayed() == []
    assert tunnel.sent() != b""  # still forwarded: the error is unauthenticated
    assert tunnel.relayed() == [(3, 1, "10.9.0.7")]
    assert tunnel.sent() != b""
    assert tunnel.relayed() == []
    assert tunnel.hear(3, 4, quote, mtu=1200) == "icmp-soft-state"
    assert tunnel.sent(1181) == b""
    assert tunnel.relayed() == [(3, 4, "10.9.0.7")]


def test_a_remembered_report_does_not_outlive_what_it_was_about() -> None:
    tunnel = Tunnel()
    quote = tunnel.sent()[:28]
    tunnel.hear(3, 1, quote)
    tunnel.now_ns += 6 * SECOND
    assert tunnel.sent() != b""
    assert tunnel.relayed() == []


def test_only_the_inner_packet_is_quoted_not_what_follows_it_rfc4884() -> None:
    """Routers that append extensions pad a short quote to 128 octets first."""
    tunnel = Tunnel()
    quote = tunnel.sent(60)
    assert tunnel.hear(11, 0, quote + bytes(128 - len(quote)) + b"\x20\0\0\0") == "icmp-soft-state"
    (error,) = [IP(p) for p in tunnel.port.take(HOME)]
    assert bytes(error[ICMP].payload) == quote[20:]


def test_our_errors_have_identifications_of_their_own_rfc6864_4_1() -> None:
    """They may be fragmented on their way, so they are not atomic."""
    tunnel = Tunnel()
    dying = header(CORRESPONDENT, NODE, 17, 0, ttl=1)
    tunnel.port.inject(HOME, [dying] * 50)
    errors = [IP(p) for p in tunnel.port.take(HOME)]
    assert len(errors) == 50
    assert all(error.flags.DF for error in errors) or len({e.id for e in errors}) == 50


def test_what_was_learnt_survives_a_refresh_and_ends_with_a_move() -> None:
    tunnel = Tunnel()
    tunnel.hear(3, 4, tunnel.sent(), mtu=1300)
    tunnel.engine.publish(tunnel.engine.prepare(Binding(CARE_OF, HOME_AGENT).record(NODE)))
    assert tunnel.sent(1400) == b""
    moved = Binding(CARE_OF + 1, HOME_AGENT).record(NODE)
    tunnel.engine.publish(tunnel.engine.prepare(moved))
    assert len(tunnel.sent(1400)) == 1420


@pytest.mark.parametrize("length", range(0, 64, 3))
def test_errors_cut_short_are_malformed_or_usable_never_more(length: int) -> None:
    tunnel = Tunnel()
    quote = tunnel.sent()[:length]
    expected = {"icmp-malformed"} if length < 28 else {"icmp-soft-state", "icmp-unrelated"}
    assert tunnel.hear(3, 1, quote) in expected


def test_icmp_that_is_no_error_or_not_about_tunnels_is_left_to_the_kernel() -> None:
    tunnel = Tunnel()
    assert tunnel.hear(8, 0, b"ping" * 10) == "icmp-ignored"
    about_udp = header(HOME_AGENT, CARE_OF, 17, 8) + bytes(8)
    assert tunnel.hear(3, 3, about_udp) == "icmp-ignored"


def test_a_wrong_icmp_checksum_is_malformed() -> None:
    tunnel = Tunnel()
    packet = bytearray(bytes(IP(src=ROUTER, dst="10.1.0.1") / ICMP(type=3) / Raw(tunnel.sent())))
    packet[40] ^= 1
    assert tunnel.port.inject(TUNNEL, [bytes(packet)]) == ["icmp-malformed"]


def test_our_errors_are_rate_limited_and_still_counted() -> None:
    engine = _dataplane.Engine(max_bindings=8, icmp_per_second=10, icmp_burst=5)
    engine.restore(Binding(CARE_OF, HOME_AGENT).record(NODE))
    port = _dataplane.MemoryPort(engine)
    dying = [header(CORRESPONDENT, NODE, 17, 0, ttl=1)] * 100
    assert port.inject(HOME, dying, now_ns=1000 * SECOND) == ["drop-ttl"] * 100
    assert len(port.take(HOME)) == 5
    port.inject(HOME, dying, now_ns=1000 * SECOND + SECOND // 5)
    assert len(port.take(HOME)) == 2
    assert engine.events()["icmp-suppressed"] == 193
    assert_balanced(engine)


@pytest.mark.parametrize(
    "packet",
    [
        header(CORRESPONDENT, NODE, 17, 0, ttl=1, fragment=0x0010),
        header(CORRESPONDENT, NODE, 1, 8, ttl=1) + b"\x03\x01" + bytes(6),
        header(CORRESPONDENT, NODE, 1, 0, ttl=1),
    ],
    ids=["later fragment", "ICMP error", "ICMP without type"],
)
def test_no_error_about_these_rfc1122_3_2_2(packet: bytes) -> None:
    tunnel = Tunnel()
    assert tunnel.port.inject(HOME, [packet]) == ["drop-ttl"]
    assert tunnel.relayed() == []
    assert tunnel.engine.events()["icmp-forbidden"] == 1


def test_an_error_to_a_node_away_goes_through_its_tunnel() -> None:
    other, other_care_of = NODE + 1, a("10.3.2.20")
    twin = Twin(
        "home-agent",
        (HOME_AGENT,),
        {NODE: [Binding(CARE_OF, HOME_AGENT)], other: [Binding(other_care_of, HOME_AGENT)]},
    )
    engine = engine_for(twin)
    port = _dataplane.MemoryPort(engine)
    dying = header(NODE, other, 17, 0, ttl=1)
    tunnelled = header(CARE_OF, HOME_AGENT, 4, 20) + dying
    assert port.inject(TUNNEL, [tunnelled]) == ["drop-ttl"]
    (left,) = [IP(p) for p in port.take(TUNNEL)]
    assert (left.dst, left.payload.dst, left[ICMP].type) == ("10.3.1.20", "10.1.0.5", 11)
    assert engine.counters()["icmp-tunnelled"][0] == 1
    assert_balanced(engine)


METHODS = {
    "gre": Method(GRE),
    "gre with key": Method(GRE, 7),
    "minimal": Method(MINIMAL),
    "udp": Method(IPIP, None, 4434, 434),
    "gre in udp": Method(GRE, None, 4434, 434),
    "minimal in udp": Method(MINIMAL, None, 4434, 434),
}


@pytest.mark.parametrize("role", ["home-agent", "mobile-node", "foreign-agent"])
@pytest.mark.parametrize("name", METHODS)
def test_errors_about_every_encapsulation_are_relayed_rfc2004_5(name: str, role: str) -> None:
    tunnel = Tunnel(role, METHODS[name])
    quote = tunnel.sent()
    assert tunnel.hear(3, 4, quote, mtu=1300) == "icmp-soft-state"
    (error,) = tunnel.errors()
    budget = 1300 - METHODS[name].overhead
    assert (error[:2], int.from_bytes(error[6:8], "big")) == (b"\x03\x04", budget)
    ends = (CORRESPONDENT, NODE) if role == "home-agent" else (NODE, CORRESPONDENT)
    inner = header(*ends, 17, 1380, fragment=0x4000, ttl=63) + bytes(1380)
    assert error[8:] == inner[: len(error) - 8]  # put together again, checksum and all
    assert tunnel.sent(budget + 1) == b""
    assert len(tunnel.sent(budget)) == 1300


@pytest.mark.parametrize("name", METHODS)
def test_eight_octets_are_enough_to_know_the_tunnel(name: str) -> None:
    tunnel = Tunnel(method=METHODS[name])
    quote = tunnel.sent(600)
    assert tunnel.hear(3, 1, quote[:28]) == "icmp-soft-state"
    assert tunnel.relayed() == []
    assert tunnel.sent(600) != b""
    assert tunnel.relayed() == [(3, 1, "10.9.0.7")]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("length", range(28, 76))
def test_quotes_of_every_length_are_taken_or_refused(name: str, length: int) -> None:
    tunnel = Tunnel(method=METHODS[name])
    quote = tunnel.sent(600)
    verdict = tunnel.hear(11, 0, quote[:length])
    known = {"icmp-soft-state", "icmp-relayed", "icmp-not-relayed"}
    # Between eight octets and a whole inner header an address may be cut in two.
    assert verdict in known, length


@pytest.mark.parametrize("name", METHODS)
def test_a_quote_of_another_encapsulation_is_not_believed(name: str) -> None:
    quote = Tunnel(method=METHODS[name]).sent()
    for other, method in METHODS.items():
        is_fallback = (name, other) == ("udp", "minimal in udp")  # of fragments
        is_same = (other[:3], "udp" in other) == (name[:3], "udp" in name)
        if not is_same and not is_fallback:
            verdict = Tunnel(method=method).hear(3, 4, quote, mtu=576)
            assert verdict in {"icmp-unrelated", "icmp-ignored"}, other


def test_hops_inside_a_minimal_tunnel_are_seen_by_the_sender_rfc2004_3() -> None:
    """The TTL there is the sender's own: a traceroute, not a broken tunnel."""
    tunnel = Tunnel(method=METHODS["minimal"])
    quote = tunnel.sent(600)
    dying = change(quote, ttl=1)
    assert tunnel.hear(11, 0, dying) == "icmp-relayed"
    (error,) = tunnel.errors()
    assert error[:2] == b"\x0b\0"
    assert error[8:28] == header(CORRESPONDENT, NODE, 17, 580, fragment=0x4000, ttl=1)
    assert tunnel.engine.events()["unreachable-learnt"] == 0
    assert tunnel.hear(11, 0, dying[:28]) == "icmp-not-relayed"


@pytest.mark.parametrize("name", ["udp", "gre in udp", "minimal in udp"])
def test_a_closed_udp_port_is_the_tunnels_trouble(name: str) -> None:
    tunnel = Tunnel(method=METHODS[name])
    assert tunnel.hear(3, 3, tunnel.sent()) == "icmp-soft-state"
    assert tunnel.relayed() == []
    assert tunnel.engine.events()["unreachable-learnt"] == 1


def test_errors_about_registrations_are_left_to_the_control_plane() -> None:
    tunnel = Tunnel(method=METHODS["udp"])
    reply = header(HOME_AGENT, CARE_OF, 17, 8 + 20) + b"\x01\xb2\x30\x39\0\x1c\0\0\x03" + bytes(19)
    assert tunnel.hear(3, 3, reply) == "icmp-ignored"


@pytest.mark.parametrize(
    ("name", "pointer", "relayed"),
    [
        ("gre", 1, 1),
        ("gre", 9, None),
        ("gre", 21, None),
        ("gre", 24 + 9, 9),
        ("udp", 32 + 9, 9),
        ("udp", 21, None),
        ("minimal", 1, 1),
        ("minimal", 6, 6),
        ("minimal", 9, None),
        ("minimal", 13, None),
        ("minimal", 20, None),
        ("minimal", 32, 20),
        ("minimal in udp", 44, 20),
    ],
)
def test_parameter_problems_point_into_the_inner_packet_rfc2003_4_5(
    name: str, pointer: int, relayed: int | None
) -> None:
    tunnel = Tunnel(method=METHODS[name])
    verdict = tunnel.hear(12, 0, tunnel.sent(), pointer=pointer)
    errors = tunnel.errors()
    if relayed is None:
        assert (verdict, errors) == ("icmp-not-relayed", [])
    else:
        assert [error[4] for error in errors] == [relayed]


def test_an_error_about_two_headers_reaches_the_sender_rfc5177_7() -> None:
    ends = Binding(CARE_OF, HOME_AGENT, nested=True)
    twin = Twin("home-agent", (HOME_AGENT,), {NODE: [ends]}, networks={(a("10.2.8.0"), 24): NODE})
    engine = engine_for(twin)
    port = _dataplane.MemoryPort(engine)
    inner = header(CORRESPONDENT, a("10.2.8.20"), 17, 1380, fragment=0x4000) + bytes(1380)
    assert port.inject(HOME, [inner]) == ["encapsulated"]
    (sent,) = port.take(TUNNEL)
    assert len(sent) == len(inner) + 40
    error = IP(src=ROUTER, dst="10.1.0.1") / ICMP(type=3, code=4, nexthopmtu=1400) / Raw(sent[:548])
    assert port.inject(TUNNEL, [bytes(error)]) == ["icmp-soft-state"]
    (told,) = port.take(HOME)
    heard = IP(told)
    assert (heard.dst, heard[ICMP].nexthopmtu) == ("10.9.0.7", 1360)
    assert bytes(heard[ICMP].payload)[12:20] == inner[12:20]
    assert port.inject(HOME, [inner]) == ["drop-too-big"]
    (told,) = port.take(HOME)
    assert IP(told)[ICMP].nexthopmtu == 1360
    assert_balanced(engine)
