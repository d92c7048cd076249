"""Which broadcasts of the home link are tunnelled, and how many."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP

from fastmip.agents.effects import Now
from fastmip.runtime import clock
from fastmip.runtime.broadcast import PER_SECOND, BroadcastTap

BROADCAST = struct.unpack("!I", socket.inet_aton("10.1.0.255"))[0]


class Taken:
    """A tap without a socket, and what it passed on."""

    def __init__(self, *kinds: str) -> None:
        self.packets: list[bytes] = []
        self.tap = BroadcastTap("eth0", kinds, BROADCAST, self.copy)

    def copy(self, packet: bytes) -> int:
        self.packets.append(packet)
        return 3


def packet(destination: str, port: int = 0, **fields: Any) -> bytes:
    head = IP(src="10.1.0.50", dst=destination, **fields)
    return bytes(head / (UDP(sport=9, dport=port) / b"x" if port else ICMP()))


@pytest.mark.parametrize(
    ("kind", "destination", "port", "passes"),
    [
        ("dhcp", "255.255.255.255", 67, True),
        ("dhcp", "10.1.0.255", 68, True),
        ("dhcp", "10.1.0.255", 137, False),
        ("dhcp", "10.1.0.255", 0, False),
        ("netbios", "10.1.0.255", 137, True),
        ("netbios", "10.1.0.255", 138, True),
        ("netbios", "10.1.0.254", 138, False),
        ("netbios", "239.1.2.3", 138, False),
        ("multicast", "239.1.2.3", 5000, True),
        ("multicast", "224.0.1.1", 123, True),
        ("multicast", "224.0.0.11", 5000, False),
        ("multicast", "224.0.0.251", 5353, False),
        ("multicast", "10.1.0.255", 5000, False),
        ("all", "10.1.0.255", 9, True),
        ("all", "255.255.255.255", 0, True),
        ("all", "239.1.2.3", 9, False),
        ("all", "10.2.0.255", 9, False),
    ],
)
def test_kinds_that_are_configured_pass_and_no_others(
    kind: str, destination: str, port: int, passes: bool
) -> None:
    taken = Taken(kind)
    data = packet(destination, port)
    taken.tap.offer(data)
    assert taken.packets == ([data] if passes else [])
    assert taken.tap.counters["broadcasts-copied"] == (3 if passes else 0)


def test_the_links_padding_is_left_behind() -> None:
    taken = Taken("all")
    data = packet("10.1.0.255", 9)
    taken.tap.offer(data + bytes(18))
    assert taken.packets == [data]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(19),
        bytes(40),
        packet("10.1.0.255", 9)[:25],
        packet("10.1.0.255", 9, frag=8),
        packet("10.1.0.255", 9, flags="MF"),
        packet("10.1.0.255", 9, proto=4),
        packet("10.1.0.255", 9, proto=47),
        packet("10.1.0.255", 9, proto=55),
        b"\x41" + packet("10.1.0.255", 9)[1:],
        b"\x4f" + packet("10.1.0.255", 9)[1:],
    ],
)
def test_stumps_fragments_and_tunnels_do_not_pass(data: bytes) -> None:
    taken = Taken("all", "dhcp", "netbios", "multicast")
    taken.tap.offer(data)
    assert taken.packets == []


def test_a_storm_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: Now(1_000_000_000, 0))
    taken = Taken("all")
    for _ in range(PER_SECOND + 50):
        taken.tap.offer(packet("10.1.0.255", 9))
    assert len(taken.packets) == PER_SECOND
    assert taken.tap.counters["broadcasts-over-limit"] == 50
