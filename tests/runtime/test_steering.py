"""Each packet goes to exactly one socket: the filters, run by the kernel itself."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.l2 import GRE
from scapy.packet import Raw

from fastmip.runtime import steering
from fastmip.runtime.devices import GRE as PROTOCOL_GRE
from fastmip.runtime.devices import IPIP, MINIMAL, open_udp_socket

SOURCES = ["10.1.0.5", "10.1.0.6", "10.1.0.7", "192.0.2.255"]


class Workers:
    """Sockets with the filters of all workers; every packet is sent to each of them."""

    def __init__(self, protocol: int, count: int) -> None:
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        for index, (near, _) in enumerate(self.pairs):
            near.setblocking(False)
            steering.keep_inner_sources(near, protocol, index, count)

    def keepers(self, packet: bytes) -> list[int]:
        """Workers whose socket let the packet through."""
        found = []
        for index, (near, far) in enumerate(self.pairs):
            far.send(packet)
            try:
                near.recv(2000)
            except BlockingIOError:
                continue
            found.append(index)
        return found

    def close(self) -> None:
        for end in itertools.chain(*self.pairs):
            end.close()


def packets(protocol: int, source: str) -> Iterator[bytes]:
    """Encapsulated packets of an inner source, in all forms of the encapsulation."""
    inner = IP(src=source, dst="10.9.0.7") / UDP(sport=1, dport=2) / b"inner"
    for options in ([], [IPOption_NOP()] * 8):
        outer = IP(src="10.3.0.5", dst="10.3.0.1", options=options, proto=protocol)
        if protocol == IPIP:
            yield bytes(outer / inner)
        elif protocol == PROTOCOL_GRE:
            for checksum, key, sequence in itertools.product((0, 1), repeat=3):
                gre = GRE(chksum_present=checksum, key_present=key, seqnum_present=sequence)
                yield bytes(outer / gre / inner)
        else:
            original = socket.inet_aton("10.9.0.7") + socket.inet_aton(source)
            header = b"\x11\x80\0\0" + original
            yield bytes(outer / Raw(header + bytes(inner.payload)))


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("protocol", [IPIP, PROTOCOL_GRE, MINIMAL])
def test_each_packet_goes_to_the_worker_of_its_inner_source(protocol: int, count: int) -> None:
    workers = Workers(protocol, count)
    for source in SOURCES:
        number = int.from_bytes(socket.inet_aton(source), "big")
        for packet in packets(protocol, source):
            assert workers.keepers(packet) == [number % count]
    workers.close()


def test_minimal_packet_without_a_source_of_its_own_goes_by_the_outer_one() -> None:
    workers = Workers(MINIMAL, 4)
    header = b"\x11\0\0\0" + socket.inet_aton("10.9.0.7")
    for last in range(8):
        outer = IP(src=f"10.3.0.{last}", dst="10.3.0.1", proto=MINIMAL)
        assert workers.keepers(bytes(outer / Raw(header + b"payload"))) == [last % 4]
    workers.close()


@pytest.mark.parametrize("protocol", [IPIP, PROTOCOL_GRE, MINIMAL])
def test_truncated_packet_goes_to_exactly_one_worker(protocol: int) -> None:
    """Whatever it is, the engine must count it, once."""
    workers = Workers(protocol, 3)
    for packet in packets(protocol, SOURCES[0]):
        header = (packet[0] & 15) * 4
        for length in range(header, len(packet)):
            assert len(workers.keepers(packet[:length])) == 1
    workers.close()


def test_udp_port_gives_tunnel_data_to_one_worker_per_peer() -> None:
    with ExitStack() as opened:
        control = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        steering.share_port(control, 3)
        control.bind(("", 0))
        control.setblocking(False)
        port = control.getsockname()[1]
        workers = [opened.enter_context(open_udp_socket(port, None)) for _ in range(3)]
        for last in range(1, 30):
            peer = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            peer.bind((f"127.0.0.{last}", 0))
            source, number = peer.getsockname()
            expected = (int.from_bytes(socket.inet_aton(source), "big") + number) % 3
            for data in (b"\x04\x04\0\0data", b"\x01request", b"\x04"):
                peer.sendto(data, ("127.0.0.1", port))
            assert [workers[expected].recv(100) for _ in range(2)] == [b"\x04\x04\0\0data", b"\x04"]
            assert control.recv(100) == b"\x01request"
        for quiet in (control, *workers):
            with pytest.raises(BlockingIOError):
                quiet.recv(100)


def test_broadcasts_reach_the_control_socket_and_no_worker() -> None:
    """The kernel copies them to every socket of a port."""
    with ExitStack() as opened:
        control = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        steering.share_port(control, 1)
        control.bind(("", 0))
        control.settimeout(3)
        port = control.getsockname()[1]
        worker = opened.enter_context(open_udp_socket(port, None))
        peer = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        peer.sendto(b"\x01request", ("127.255.255.255", port))
        assert control.recv(100) == b"\x01request"
        with pytest.raises(BlockingIOError):
            worker.recv(100)
