"""The home agent's daemon and the tunnels it offers, met by hand-made messages and packets.

What is configured is what the daemon opens: GRE, minimal encapsulation, tunnels in UDP.
"""

from __future__ import annotations

import hmac
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import GRE
from scapy.packet import Raw
from tests.helpers import handmade
from tests.helpers.home_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    HomeAgentLab,
)

pytestmark = pytest.mark.netns

MINIMAL, GENERIC = 0x10, 0x08
"""The M and G bits; D and T are 0x22."""
UDP_TUNNEL_REQUEST = bytes([144, 6, 0, 0, 0x80, 4, 0, 0])
"""RFC 3519 3.1: forced (F), IP in IP."""
SHIM = b"\x04\x04\0\0"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as made:
        yield made


def from_correspondent(lab: HomeAgentLab, client: socket.socket) -> bytes:
    """Let the correspondent send to the home address; what the visited link gets for it."""
    with lab.udp("cn", CORRESPONDENT, 7000) as sender:
        sender.sendto(b"to the node", (HOME_ADDRESS, 5000))
        return client.recv(2000)


def to_correspondent() -> Any:
    """A packet of the mobile node."""
    return IP(src=HOME_ADDRESS, dst=CORRESPONDENT) / UDP(sport=5000, dport=7777) / b"from the node"


def minimal(inner: Any) -> bytes:
    """Header and payload of minimal encapsulation with the source address (RFC 2004 3.1)."""
    built = IP(bytes(inner))
    addresses = socket.inet_aton(built.src) + socket.inet_aton(built.dst)
    header = struct.pack("!BBH", built.proto, 0x80, 0) + addresses[4:] + addresses[:4]
    words = sum(struct.unpack("!6H", header))
    words = (words & 0xFFFF) + (words >> 16)
    words = (words & 0xFFFF) + (words >> 16)
    return header[:2] + struct.pack("!H", ~words & 0xFFFF) + header[4:] + bytes(built.payload)


@pytest.mark.parametrize(("flags", "protocol"), [(0, 4), (GENERIC, 47), (MINIMAL, 55)])
def test_the_tunnel_that_was_asked_for_carries_packets_both_ways(
    lab: HomeAgentLab, flags: int, protocol: int
) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF), flags=0x22 | flags)
    tunnel = lab.raw("away", protocol)
    packet = IP(from_correspondent(lab, tunnel))
    assert (packet.src, packet.dst, packet.proto) == (HOME_AGENT, CARE_OF, protocol)
    assert bytes(packet).endswith(b"to the node")
    if protocol != 55:
        assert packet.payload[IP].dst == HOME_ADDRESS
    carried = {
        4: bytes(to_correspondent()),
        47: bytes(GRE(proto=0x0800) / Raw(bytes(to_correspondent()))),
        55: minimal(to_correspondent()),
    }
    with lab.udp("cn", CORRESPONDENT, 7777) as receiver:
        tunnel.sendto(carried[protocol], (HOME_AGENT, 0))
        assert receiver.recv(100) == b"from the node"
    name = {4: "ipip", 47: "gre", 55: "minimal"}[protocol]
    [row] = lab.ask("show tunnel")["rows"]
    assert row["encapsulation"] == name
    assert lab.counter("io-tunnel-read") == 1
    assert lab.counter("io-tunnel-sent") + lab.counter("io-packet-sent") == 1


def test_a_tunnel_in_udp_shares_the_registration_port_rfc3519(lab: HomeAgentLab) -> None:
    lab.start()
    client = lab.udp("away", CARE_OF)
    fixed = handmade.request(HOME_ADDRESS, CARE_OF)[:24]
    covered = fixed + UDP_TUNNEL_REQUEST + struct.pack("!BBI", 32, 20, handmade.SPI)
    request = covered + hmac.digest(handmade.KEY, covered, "md5")
    client.sendto(request, (HOME_AGENT, 434))
    reply = client.recv(2000)
    assert reply[:2] == b"\x03\0"  # accepted
    assert bytes([44, 6, 0, 0]) in reply  # a UDP tunnel reply (3.2) that assents
    data = from_correspondent(lab, client)
    assert data[:4] == SHIM
    assert IP(data[4:]).dst == HOME_ADDRESS
    with lab.udp("cn", CORRESPONDENT, 7777) as receiver:
        client.sendto(SHIM + bytes(to_correspondent()), (HOME_AGENT, 434))
        assert receiver.recv(100) == b"from the node"
        # From another port it is not this node (4.3), and nobody answers.
        stranger = lab.udp("away", CARE_OF)
        stranger.sendto(SHIM + bytes(to_correspondent()), (HOME_AGENT, 434))
        receiver.settimeout(0.3)
        with pytest.raises(TimeoutError):
            receiver.recv(100)
    assert lab.verdict("drop-udp-port") == 1
    assert lab.counter("io-udp-read") == 2
    assert lab.counter("io-udp-sent") == 1
    runtime = lab.ask("show runtime")["summary"]
    assert runtime["udp_tunnel_port"] == 434
    assert runtime["encapsulations"] == "ipip, minimal, gre"


def test_what_is_not_offered_is_not_opened(lab: HomeAgentLab) -> None:
    """The kernel says so itself: protocol unreachable for GRE."""
    lab.settings = 'encapsulations = ["ipip"]\nnat_traversal = false'
    lab.start()
    runtime = lab.ask("show runtime")["summary"]
    assert (runtime["encapsulations"], runtime["udp_tunnel_port"]) == ("ipip", "off")
    errors, tunnel = lab.raw("away", socket.IPPROTO_ICMP), lab.raw("away", 47)
    tunnel.sendto(bytes(GRE(proto=0x0800) / Raw(bytes(to_correspondent()))), (HOME_AGENT, 0))
    unreachable = IP(errors.recv(2000))
    assert (unreachable.payload.type, unreachable.payload.code) == (3, 2)
