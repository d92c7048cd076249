"""The kernel port's tunnel side: several raw sockets, and UDP tunnels on a shared port (RFC 3519).

Raw sockets are socket pairs here; UDP is real, on the loopback interface.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import GRE
from scapy.packet import Raw
from tests.engine.port_lab import TUNNEL, Port
from tests.helpers.c_probe import compile_probe

from fastmip.runtime import steering
from fastmip.runtime.devices import open_udp_socket

HERE = Path(__file__).parent
AGENT, PEER = "127.0.0.1", "127.0.0.2"
SOL_UDP, UDP_SEGMENT, IP_RECVTOS, IP_TTL, IP_RECVTTL = 17, 103, 13, 2, 12
INNER = bytes(IP(src="10.1.0.5", dst="10.9.0.7") / UDP(sport=1, dport=2) / b"inner")
DATA = b"\x04\x04\0\0"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_probe(HERE / "kernel_port_probe.c", tmp_path_factory.mktemp("port"))


class Lab:
    """A port with three raw sockets and a UDP socket behind a control socket, and a peer."""

    def __init__(self, library: ctypes.CDLL) -> None:
        kind = socket.SOCK_DGRAM
        self.control = socket.socket(socket.AF_INET, kind)
        steering.share_port(self.control, 1)
        self.control.bind(("", 0))
        self.control.setblocking(False)
        self.number = self.control.getsockname()[1]
        self.data = open_udp_socket(self.number, None)
        self.peer = socket.socket(socket.AF_INET, kind)
        self.peer.bind((PEER, 0))
        self.peer.settimeout(3)
        for option in (IP_RECVTOS, IP_RECVTTL):
            self.peer.setsockopt(socket.IPPROTO_IP, option, 1)
        self.peer_port = self.peer.getsockname()[1]
        self.port = Port(library, raw_sockets=3, udp_fd=self.data.fileno())

    def close(self) -> None:
        self.port.close()
        for made in (self.control, self.data, self.peer):
            made.close()

    def tell(self, data: bytes, segment: int = 0) -> None:
        """Send from the peer to the shared port."""
        control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment))] if segment else []
        self.peer.sendmsg([data], control, 0, (AGENT, self.number))

    def receive(self) -> list[bytes]:
        """Everything the port has on its tunnel side."""
        found: list[bytes] = []
        while batch := self.port.receive(TUNNEL):
            assert len(batch) <= 64
            found += batch
        return found

    def packet(self, payload: bytes, **fields: Any) -> bytes:
        """A packet of the pipeline to the peer, or from it with ``src``."""
        network = IP(src=fields.pop("src", AGENT), dst=fields.pop("dst", PEER), flags="DF", id=0)
        network.ttl, network.tos = fields.pop("ttl", 64), fields.pop("tos", 0)
        ports = {"sport": self.number, "dport": self.peer_port} | fields
        return bytes(network / UDP(**ports, chksum=0) / payload)


@pytest.fixture
def lab(library: ctypes.CDLL) -> Iterator[Lab]:
    made = Lab(library)
    yield made
    made.close()


def test_tunnel_data_comes_in_as_whole_packets(lab: Lab) -> None:
    lab.peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x2B)
    lab.peer.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 17)
    lab.tell(DATA + INNER)
    there, here = lab.peer_port, lab.number
    fields = {"src": PEER, "dst": AGENT, "sport": there, "dport": here, "tos": 0x2B, "ttl": 17}
    assert lab.receive() == [lab.packet(DATA + INNER, **fields)]
    assert lab.port.counters()["udp-read"] == 1


def test_everything_else_goes_to_the_control_socket(lab: Lab) -> None:
    others = [b"", b"\x01" + bytes(40), b"\x03", b"\x05" + INNER, b"\xff"]
    for data in others:
        lab.tell(data)
    lab.tell(b"\x04")  # tunnel data, however short
    assert [lab.control.recv(100) for _ in others] == others
    with pytest.raises(BlockingIOError):
        lab.control.recv(100)
    (packet,) = lab.receive()
    assert packet[28:] == b"\x04"


def test_merged_datagrams_are_cut_into_those_that_were_sent(lab: Lab) -> None:
    payload = b"".join(DATA + os.urandom(996) for _ in range(40)) + DATA + os.urandom(100)
    lab.tell(payload, segment=1000)
    found = lab.receive()
    assert b"".join(packet[28:] for packet in found) == payload
    assert [len(packet) for packet in found] == [1028] * 40 + [132]
    for packet in found:
        parsed = IP(packet)
        assert (parsed.src, parsed.dst, parsed.len) == (PEER, AGENT, len(packet))
        assert (parsed[UDP].len, parsed[UDP].chksum) == (len(packet) - 20, 0)
        assert (parsed[UDP].sport, parsed[UDP].dport) == (lab.peer_port, lab.number)
        checksum = parsed.chksum
        del parsed.chksum
        assert IP(bytes(parsed)).chksum == checksum
    counters = lab.port.counters()
    assert (counters["udp-read"], counters["udp-merged"], counters["tunnel-segments"]) == (1, 1, 41)


def test_registration_merged_with_tunnel_data_is_handed_back(lab: Lab) -> None:
    """The raw socket sends it to this machine; here it is a socket pair."""
    data = [DATA + os.urandom(996) for _ in range(5)]
    lab.tell(b"".join(data) + b"\x01" + bytes(70), segment=1000)
    assert [packet[28:] for packet in lab.receive()] == data
    packet = IP(lab.port.tunnels[0].recv(2000))
    assert (packet.src, packet.dst) == (PEER, AGENT)
    assert (packet[UDP].sport, packet[UDP].dport) == (lab.peer_port, lab.number)
    assert bytes(packet[UDP].payload) == b"\x01" + bytes(70)
    counters = lab.port.counters()
    assert (counters["udp-handed-back"], counters["tunnel-segments"]) == (1, 5)


def test_many_datagrams_of_every_size_arrive_in_one_piece(lab: Lab) -> None:
    sizes = [1, 20, 1400, 1600, 1635, 1636, 1637, 1700, 9000, 40000, 65507]
    sent = [(DATA + os.urandom(size))[:size] for size in sizes for _ in range(10)]
    for data in sent:
        lab.tell(data)
    assert [packet[28:] for packet in lab.receive()] == sent


def test_consecutive_packets_of_one_size_leave_as_one_message(lab: Lab) -> None:
    payloads = [DATA + os.urandom(1196) for _ in range(20)] + [DATA + os.urandom(50)]
    payloads += [DATA + os.urandom(1196) for _ in range(3)]
    lab.port.send(TUNNEL, [lab.packet(payload) for payload in payloads])
    assert [lab.peer.recv(2000) for _ in payloads] == payloads
    counters = lab.port.counters()
    assert counters["udp-sent"] == counters["udp-sent-merged"] == 24


def test_what_leaves_keeps_its_tos_ttl_and_source(lab: Lab) -> None:
    packets = [
        lab.packet(DATA + b"one"),
        lab.packet(DATA + b"two", tos=0x03),
        lab.packet(DATA + b"ttl", ttl=9),
        lab.packet(DATA + b"src", src="127.0.0.9"),
    ]
    lab.port.send(TUNNEL, packets)
    found = []
    for _ in packets:
        data, control, _, (source, number) = lab.peer.recvmsg(100, 100)
        told = {kind: value[0] for _, kind, value in control}
        found.append((data[4:], told[socket.IP_TOS], told[IP_TTL], source))
        assert number == lab.number
    assert found == [
        (b"one", 0, 64, AGENT),
        (b"two", 3, 64, AGENT),
        (b"ttl", 0, 9, AGENT),
        (b"src", 0, 64, "127.0.0.9"),
    ]
    assert lab.port.counters()["udp-sent-merged"] == 0


def test_refused_messages_are_sent_again_packet_by_packet(lab: Lab) -> None:
    """A source that is not ours: each packet is counted, and the next peer's still leave."""
    strangers = [lab.packet(DATA + bytes(100), src="192.0.2.1") for _ in range(5)]
    lab.port.send(TUNNEL, [*strangers, lab.packet(DATA + b"good")])
    assert lab.peer.recv(100) == DATA + b"good"
    counters = lab.port.counters()
    assert (counters["tunnel-unreachable"], counters["udp-sent"]) == (5, 1)


def test_packets_of_other_protocols_and_ports_leave_through_the_raw_socket(lab: Lab) -> None:
    packets = [
        bytes(IP(src=AGENT, dst=PEER) / IP(dst="10.1.0.5")),
        lab.packet(DATA, sport=9),
        bytes(IP(src=AGENT, dst=PEER) / GRE() / IP(dst="10.1.0.5")),
    ]
    lab.port.send(TUNNEL, [packets[0], packets[1], lab.packet(DATA + b"udp"), packets[2]])
    first, *others = lab.port.tunnels
    assert [first.recv(2000) for _ in packets] == packets
    assert lab.peer.recv(100) == DATA + b"udp"
    for other in others:
        with pytest.raises(BlockingIOError):
            other.recv(2000)


def test_every_tunnel_socket_has_its_turn(lab: Lab) -> None:
    """One flooded socket does not keep the others waiting."""
    for _ in range(64):
        lab.port.tunnels[0].send(INNER + b"0")
    for index, tunnel in enumerate(lab.port.tunnels):
        for _ in range(64):
            tunnel.send(INNER + bytes([index]))
    lab.tell(DATA + INNER)
    batches = [lab.port.receive(TUNNEL) for _ in range(4)]
    assert sorted(len(batch) for batch in batches) == [1, 64, 64, 64]
    assert len(lab.receive()) == 64
    assert lab.port.counters()["tunnel-read"] == 4 * 64


@pytest.mark.parametrize(
    "fields", [{}, {"key": 7}, {"checksum": True}, {"checksum": True, "key": 7}]
)
def test_merged_gre_is_cut_again_with_checksums_of_its_own(
    lab: Lab, fields: dict[str, Any]
) -> None:
    """GRO merges TCP inside GRE, too; it leaves the bare pseudo-header sum as its mark."""
    payload = os.urandom(20000)
    inner = IP(src="10.1.0.5", dst="10.9.0.7") / TCP(sport=7, dport=80, flags="A") / payload
    partial = bytearray(bytes(inner))
    pseudo = inner[IP].src, inner[IP].dst
    total = (
        sum(struct.unpack("!4H", socket.inet_aton(pseudo[0]) + socket.inet_aton(pseudo[1])))
        + 6
        + len(partial)
        - 20
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", partial, 36, total)
    gre = GRE(key_present=1, key=fields["key"]) if "key" in fields else GRE()
    gre.chksum_present = int("checksum" in fields)
    outer = IP(src=PEER, dst=AGENT) / gre / Raw(bytes(partial))
    outer[GRE].proto = 0x0800
    lab.port.tunnels[1].send(bytes(outer))
    found = [IP(packet) for packet in lab.receive()]
    assert b"".join(bytes(packet[TCP].payload) for packet in found) == payload
    assert len(found) == 15
    for packet in found:
        assert packet[GRE].key == fields.get("key")
        again = IP(bytes(packet))
        for layer in (again, again[GRE], again[GRE].payload, again[TCP]):
            layer.chksum = None
        assert bytes(again) == bytes(packet)
    assert lab.port.counters()["tunnel-merged"] == 1
