"""A UDP tunnel is kept open, and its silence noticed (RFC 3519 4.9, 4.10)."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from tests.reference.encapsulations import Method, wrapped

from fastmip.agents.care_of import CareOfBinding
from fastmip.agents.keepalive import ANSWER_NS, DEFAULT_S, LEAST_S, TRIES, Keepalive
from fastmip.wire.addresses import parse_address

SECOND = 10**9
HOME, AGENT = parse_address("10.1.0.5"), parse_address("10.1.0.1")
CARE_OF = parse_address("192.168.7.5")


def looks(keepalive: Keepalive, until_s: float, *, answer: bool = True) -> list[float]:
    """Seconds at which a keepalive went out, or ``-s`` at which the way counted as closed."""
    found = []
    sent = received = 0
    while (due := keepalive.next_deadline()) is not None and due <= until_s * SECOND:
        keepalive.saw(sent, received, due)
        ask, closed = keepalive.look(due)
        if ask:
            found.append(due / SECOND)
            received += answer
        if closed:
            found.append(-due / SECOND)
    return found


def test_an_idle_tunnel_is_asked_every_110_seconds_rfc3519_4_9() -> None:
    keepalive = Keepalive()
    keepalive.begin(0, 0, at_once=False)
    sent = looks(keepalive, 500)
    assert sent[0] == 110
    assert len(sent) == 4
    assert keepalive.interval_s == DEFAULT_S == 110


def test_the_home_agents_word_counts_but_not_below_ten_seconds_rfc3519_4_9() -> None:
    keepalive = Keepalive()
    keepalive.begin(40, 0, at_once=False)
    assert looks(keepalive, 41) == [40]
    keepalive.begin(3, 0, at_once=False)
    assert looks(keepalive, 11) == [LEAST_S] == [10]


def test_a_half_bound_tunnel_is_asked_at_once_rfc3519_4_11() -> None:
    keepalive = Keepalive()
    keepalive.begin(0, 5 * SECOND, at_once=True)
    assert looks(keepalive, 6) == [5]


def test_a_tunnel_in_use_needs_no_keepalive() -> None:
    keepalive = Keepalive()
    keepalive.begin(0, 0, at_once=False)
    sent = 0
    while (due := keepalive.next_deadline()) is not None and due < 1000 * SECOND:
        sent += 1
        keepalive.saw(sent, 0, due)
        assert keepalive.look(due) == (False, False)


def test_silence_means_to_register_again_and_to_ask_sooner_rfc3519_4_10() -> None:
    keepalive = Keepalive()
    keepalive.begin(0, 0, at_once=False)
    found = looks(keepalive, 120, answer=False)
    assert len([s for s in found if s > 0]) == TRIES
    assert found[-1] == -(110 + TRIES * ANSWER_NS / SECOND)
    assert keepalive.interval_s == 55
    keepalive.begin(0, 120 * SECOND, at_once=False)
    assert keepalive.interval_s == 55, "a new registration on the same link"
    for _ in range(5):
        looks(keepalive, 10_000, answer=False)
    assert keepalive.interval_s == LEAST_S
    keepalive.moved()
    keepalive.begin(0, 0, at_once=False)
    assert keepalive.interval_s == DEFAULT_S


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_a_late_answer_is_an_answer(tries: int) -> None:
    keepalive = Keepalive()
    keepalive.begin(0, 0, at_once=False)
    asked = due = 0
    while asked < tries:
        due = keepalive.next_deadline() or 0
        asked += keepalive.look(due)[0]
    keepalive.saw(0, 1, due + 1)
    assert looks(keepalive, due / SECOND + 100) == []


def bound(encapsulation: int = 4) -> CareOfBinding:
    return CareOfBinding(CARE_OF, "eth0", AGENT, 0, encapsulation=encapsulation)


@pytest.mark.parametrize("encapsulation", [4, 47, 55])
def test_the_keepalive_goes_as_the_tunnel_carries_packets_rfc3519_4_9(encapsulation: int) -> None:
    plain, sent = (Keepalive().datagram(HOME, bound(e)).data for e in (4, encapsulation))
    method = Method(encapsulation, None, 434, 5555)
    assert sent[:4] == bytes((4, encapsulation, 0, 0))
    assert sent == wrapped(plain[4:], method, CARE_OF, AGENT, 64, 0)[28:]


def test_the_keepalive_is_an_echo_request_in_a_tunnel_header_rfc3519_4_9() -> None:
    datagram = Keepalive().datagram(HOME, bound())
    assert datagram.data[:4] == bytes((4, 4, 0, 0))
    packet = IP(datagram.data[4:])
    assert (packet.src, packet.dst, packet[ICMP].type) == ("10.1.0.5", "10.1.0.1", 8)
    told = packet.chksum, packet[ICMP].chksum
    del packet.chksum
    del packet[ICMP].chksum
    again = IP(bytes(packet))
    assert (again.chksum, again[ICMP].chksum) == told
    assert (datagram.source.address, datagram.destination.address) == (CARE_OF, AGENT)
    assert datagram.destination.port == 434


def test_without_a_tunnel_there_is_nothing_to_do() -> None:
    keepalive = Keepalive()
    assert keepalive.next_deadline() is None
    assert keepalive.look(10**18) == (False, False)
    keepalive.begin(0, 0, at_once=True)
    keepalive.end()
    assert keepalive.next_deadline() is None
    assert keepalive.interval_s == 0
