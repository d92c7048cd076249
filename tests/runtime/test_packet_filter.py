"""An operator's words for packets."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.ipsec import ESP
from scapy.layers.l2 import GRE
from scapy.packet import Packet, Raw

from fastmip.runtime.packet_filter import PacketFilter, Term, parse_filter
from fastmip.runtime.packet_text import describe_packet
from fastmip.runtime.service import CommandError

EXACT = 0xFFFFFFFF


def parse(*words: str, only_drops: bool = False) -> PacketFilter:
    return parse_filter(
        words,
        verdicts=["encapsulated", "drop-ttl", "drop-martian"],
        drops=["drop-ttl", "drop-martian"],
        only_drops=only_drops,
    )


@pytest.mark.parametrize(
    ("word", "term"),
    [
        ("10.1.0.5", Term("address", 0x0A010005, EXACT)),
        ("10.1.0.5/24", Term("address", 0x0A010000, 0xFFFFFF00)),
        ("0.0.0.0/0", Term("address", 0, 0)),
        ("udp", Term("protocol", 17, EXACT)),
        ("proto=gre", Term("protocol", 47, EXACT)),
        ("proto=255", Term("protocol", 255, EXACT)),
        ("port=434", Term("port", 434, EXACT)),
        ("spi=0xffffffff", Term("spi", EXACT, EXACT)),
    ],
)
def test_a_word_is_a_term(word: str, term: Term) -> None:
    assert parse(word) == PacketFilter((term,), None)


def test_words_may_come_together_or_apart() -> None:
    expected = parse("10.1.0.5", "udp", "port=434")
    assert parse("10.1.0.5,udp port=434") == expected
    assert len(expected.terms) == 3


def test_verdicts_narrow_each_other() -> None:
    assert parse("verdict=drop-ttl").verdicts == frozenset(["drop-ttl"])
    assert parse("verdict=drop").verdicts == frozenset(["drop-ttl", "drop-martian"])
    assert parse(only_drops=True).verdicts == frozenset(["drop-ttl", "drop-martian"])
    assert parse("verdict=drop-ttl", only_drops=True).verdicts == frozenset(["drop-ttl"])
    assert parse("verdict=encapsulated", only_drops=True).verdicts == frozenset()
    assert parse().verdicts is None


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("10.1.0.256", "no such term: write an address"),
        ("mumble", "no such term"),
        ("port=65536", "from 0 to 65535"),
        ("port=", "expected a number"),
        ("spi=-1", "expected a number"),
        ("proto=256", "from 0 to 255"),
        ("verdict=drop-nothing", "no such verdict"),
    ],
)
def test_nonsense_is_refused_in_one_line(word: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        parse(word)


INNER = IP(src="10.1.0.5", dst="10.9.0.7", ttl=9)
OUTER = IP(src="10.3.1.20", dst="10.1.0.1")
MINIMAL = bytes([6, 0x80, 0, 0, 10, 9, 0, 7, 10, 1, 0, 5, 0, 7, 0, 80])


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (INNER / UDP(sport=5, dport=7), "10.1.0.5 > 10.9.0.7 ttl 9 | udp 5 > 7, 28 bytes"),
        (
            OUTER / IP(bytes(INNER / TCP(sport=77, dport=80))),
            "10.3.1.20 > 10.1.0.1 ttl 64 | ipip | 10.1.0.5 > 10.9.0.7 ttl 9"
            " | tcp 77 > 80, 60 bytes",
        ),
        (
            OUTER / GRE(key_present=1, key=3) / INNER / ICMP(),
            "10.3.1.20 > 10.1.0.1 ttl 64 | gre key 3 | 10.1.0.5 > 10.9.0.7 ttl 9"
            " | icmp echo request, 56 bytes",
        ),
        (
            IP(src="10.3.1.20", dst="10.1.0.1", proto=55) / Raw(MINIMAL),
            "10.3.1.20 > 10.1.0.1 ttl 64 | minimal 10.1.0.5 > 10.9.0.7 | tcp 7 > 80, 36 bytes",
        ),
        (
            OUTER
            / UDP(sport=434, dport=434)
            / Raw(bytes([4, 4, 0, 0]))
            / INNER
            / ICMP(type=3, code=4),
            "10.3.1.20 > 10.1.0.1 ttl 64 | udp 434 > 434 | ipip | 10.1.0.5 > 10.9.0.7 ttl 9"
            " | icmp unreachable code 4, 60 bytes",
        ),
        (
            IP(src="1.2.3.4", dst="5.6.7.8", proto=50) / ESP(spi=0x99, seq=1),
            "1.2.3.4 > 5.6.7.8 ttl 64 | esp spi 0x99, 28 bytes",
        ),
        (
            IP(src="1.2.3.4", dst="5.6.7.8", flags="MF", frag=2, proto=17) / Raw(bytes(8)),
            "1.2.3.4 > 5.6.7.8 ttl 64 | fragment at 16 of udp, 28 bytes",
        ),
        (Raw(b"\x60" + bytes(39)), "no IPv4 packet, 40 bytes"),
    ],
)
def test_a_packet_is_one_line(packet: Packet, text: str) -> None:
    data = bytes(packet)
    assert describe_packet(data, len(data)) == text


def test_any_beginning_of_a_packet_is_one_line() -> None:
    whole = bytes(OUTER / GRE() / INNER / ICMP())
    for length in range(len(whole)):
        assert describe_packet(whole[:length], len(whole)).endswith(f"{len(whole)} bytes")
