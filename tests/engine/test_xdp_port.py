"""The XDP port with a kernel made of memory: what leaves where, TTL, checksums, and the books.

tests/netns has the same port on real AF_XDP sockets.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.packet import Packet, Raw
from tests.helpers.c_probe import compile_probe

HERE = Path(__file__).parent
HOME, TUNNEL = 0, 1
VNET_LEN = 10
AGENT, NODE, HOST = "10.1.0.1", "10.1.0.5", "10.1.0.9"
CARE_OF, CORRESPONDENT = "10.3.1.20", "10.9.0.7"
ETHERNET = bytes.fromhex("020000000000 060000000000 0800")
"""Of what leaves: the gateway's address, ours."""


def word(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "little")


class Port:
    """An XDP port with two sockets; ``tun`` and ``raw`` are the far ends of its kernel port."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self.ends = [end for pair in pairs for end in pair]
        for end in self.ends:
            end.setblocking(False)
        (near, self.tun), (raw, self.raw) = pairs
        opened = library.probe_open(
            near.fileno(), raw.fileno(), word(NODE), word(CARE_OF), word(AGENT)
        )
        assert opened == 0
        for side, number in ((HOME, 0), (TUNNEL, 1)):
            self.route(side, number)

    def close(self) -> None:
        self.library.probe_close()
        for end in self.ends:
            end.close()

    def route(self, side: int, number: int, mtu: int = 1500) -> None:
        assert self.library.probe_route(side, number, mtu) == 0

    def arrive(self, packet: Packet | bytes, number: int = 0) -> bool:
        """A frame for socket ``number``; a bare packet gets an Ethernet header."""
        frame = bytes(packet)
        if isinstance(packet, IP):
            frame = bytes(12) + b"\x08\x00" + frame
        return bool(self.library.probe_arrive(number, frame, len(frame)))

    def turn(self) -> int:
        return int(self.library.probe_turn())

    def sent(self, number: int) -> list[bytes]:
        """Packets that left by a socket, without their Ethernet header."""
        room = (ctypes.c_ubyte * 4096)()
        found = []
        while size := self.library.probe_sent(number, room):
            frame = bytes(room[:size])
            assert frame[:14] == ETHERNET
            found.append(frame[14:])
        return found

    def written(self) -> list[bytes]:
        """Packets written to the TUN device."""
        found: list[bytes] = []
        while True:
            try:
                found.append(self.tun.recv(70000)[VNET_LEN:])
            except BlockingIOError:
                return found

    def count(self, name: str) -> int:
        number = int(self.library.probe_counter(name.encode()))
        assert number < 1 << 63, name
        return number

    def verdict(self, name: str) -> int:
        number = int(self.library.probe_verdict(name.encode()))
        assert number < 1 << 63, name
        return number

    def books(self) -> dict[str, int]:
        """Where frames are; the owners agree and nothing is missing."""
        room = (ctypes.c_uint32 * 5)()
        assert self.library.probe_books(room), list(room)
        frames, *places = room
        assert sum(places) == frames
        return dict(zip(("free", "engine", "receiving", "sending"), places, strict=True))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    loaded = compile_probe(HERE / "xdp_probe.c", tmp_path_factory.mktemp("xdp"))
    loaded.probe_counter.restype = ctypes.c_uint64
    loaded.probe_verdict.restype = ctypes.c_uint64
    loaded.probe_turn.restype = ctypes.c_uint32
    loaded.probe_sent.restype = ctypes.c_uint32
    return loaded


@pytest.fixture
def port(library: ctypes.CDLL) -> Iterator[Port]:
    made = Port(library)
    yield made
    made.books()
    made.close()


def data(source: str, destination: str, size: int = 20, **fields: Any) -> Packet:
    return IP(src=source, dst=destination, **fields) / UDP(sport=7, dport=9) / Raw(bytes(size))


def tunnelled(inner: Packet, **fields: Any) -> Packet:
    return IP(src=CARE_OF, dst=AGENT, **fields) / inner


def test_a_packet_for_a_node_away_leaves_in_its_tunnel(port: Port) -> None:
    port.arrive(data(CORRESPONDENT, NODE, ttl=40))
    assert port.turn() == 1
    (left,) = port.sent(1)
    outer = IP(left)
    assert (outer.src, outer.dst, outer.proto) == (AGENT, CARE_OF, 4)
    assert bytes(outer[IP].payload) == bytes(data(CORRESPONDENT, NODE, ttl=39))
    assert (
        port.verdict("encapsulated") == port.count("xdp-sent") == port.count("xdp-read-home") == 1
    )
    assert port.count("xdp-sent-copied") == 0


def test_a_packet_out_of_a_tunnel_leaves_by_the_way_home(port: Port) -> None:
    port.arrive(tunnelled(data(NODE, CORRESPONDENT, ttl=40)))
    port.turn()
    assert port.sent(0) == [bytes(data(NODE, CORRESPONDENT, ttl=39))]
    assert port.verdict("decapsulated") == port.count("xdp-read-tunnel") == 1


def test_without_a_next_hop_the_kernel_forwards_and_takes_the_hop(port: Port) -> None:
    port.library.probe_unroute(HOME)
    port.arrive(tunnelled(data(NODE, CORRESPONDENT, ttl=40)))
    port.turn()
    assert port.written() == [bytes(data(NODE, CORRESPONDENT, ttl=40))]
    assert port.count("xdp-to-kernel") == 1


def test_a_last_hop_to_this_machine_is_delivered(port: Port) -> None:
    port.library.probe_unroute(HOME)
    port.arrive(tunnelled(data(NODE, AGENT, ttl=1)))
    port.turn()
    assert port.written() == [bytes(data(NODE, AGENT, ttl=1))]


def test_a_last_hop_beyond_us_is_answered_by_the_engine(port: Port) -> None:
    port.arrive(tunnelled(data(NODE, CORRESPONDENT, ttl=1)))
    port.turn()
    assert port.verdict("drop-ttl") == 1
    assert not port.sent(0)


def test_a_next_hop_too_narrow_is_left_to_the_kernel(port: Port) -> None:
    port.route(HOME, 0, mtu=100)
    port.arrive(tunnelled(data(NODE, CORRESPONDENT, 200, ttl=40)))
    port.turn()
    assert port.written() == [bytes(data(NODE, CORRESPONDENT, 200, ttl=40))]


def test_a_tunnel_without_a_next_hop_leaves_by_the_raw_socket(port: Port) -> None:
    port.library.probe_unroute(TUNNEL)
    port.arrive(data(CORRESPONDENT, NODE))
    port.turn()
    assert not port.sent(1)
    assert port.count("xdp-to-kernel") == 1


@pytest.mark.parametrize("is_known", [True, False])
def test_a_packet_for_a_host_at_home_goes_on_with_one_hop_less(port: Port, is_known: bool) -> None:
    if not is_known:
        port.library.probe_unroute(HOME)
    port.arrive(data(CORRESPONDENT, HOST, ttl=40))
    port.turn()
    assert port.verdict("returned-no-binding") == 1
    # The kernel takes the hop of what is written to the TUN device.
    expected = port.sent(0) if is_known else port.written()
    assert expected == [bytes(data(CORRESPONDENT, HOST, ttl=39 if is_known else 40))]


def test_a_last_hop_for_a_host_at_home_is_the_kernels_to_answer(port: Port) -> None:
    port.arrive(data(CORRESPONDENT, HOST, ttl=1))
    port.turn()
    assert port.written() == [bytes(data(CORRESPONDENT, HOST, ttl=1))]


def partial(packet: Packet) -> bytes:
    """The packet as a local sender leaves it: the checksum is the bare pseudo-header sum."""
    whole = bytearray(bytes(packet))
    size = len(whole) - 20
    pseudo = whole[12:20] + bytes([0, whole[9]]) + size.to_bytes(2)
    total = sum(int.from_bytes(pseudo[i : i + 2]) for i in range(0, 12, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    at = 20 + (16 if whole[9] == 6 else 6)
    whole[at : at + 2] = total.to_bytes(2)
    return bytes(whole)


@pytest.mark.parametrize("layer", [UDP(sport=7, dport=9), TCP(sport=7, dport=9)])
def test_partial_checksums_are_completed_both_ways(port: Port, layer: Packet) -> None:
    coming = IP(src=CORRESPONDENT, dst=NODE, ttl=40) / layer / Raw(b"some data")
    going = IP(src=NODE, dst=CORRESPONDENT, ttl=40) / layer / Raw(b"some data")
    port.arrive(IP(partial(coming)))
    port.arrive(bytes(12) + b"\x08\x00" + bytes(tunnelled(IP(partial(going)))))
    port.turn()
    coming.ttl = going.ttl = 39
    assert [left[20:] for left in port.sent(1)] == [bytes(coming)]
    assert port.sent(0) == [bytes(going)]
    assert port.count("xdp-checksums-completed") == 2


@pytest.mark.parametrize(
    ("frame", "counter"),
    [
        (b"", "xdp-truncated"),
        (bytes(13), "xdp-truncated"),
        (Ether() / ARP(), "xdp-not-ipv4"),
        (Ether() / Dot1Q(vlan=7) / data(CORRESPONDENT, NODE), "xdp-not-ipv4"),
        (Ether(type=0x86DD) / Raw(bytes(60)), "xdp-not-ipv4"),
        (Ether() / tunnelled(data(NODE, CORRESPONDENT), flags="MF", proto=4), "xdp-handed-back"),
        (Ether() / IP(src=CARE_OF, dst=AGENT) / ICMP(), "xdp-handed-back"),
        (Ether() / data(CARE_OF, AGENT), "xdp-handed-back"),
    ],
)
def test_what_should_not_have_been_steered_is_counted(
    port: Port, frame: Packet | bytes, counter: str
) -> None:
    before = port.books()
    assert port.arrive(bytes(frame))
    assert port.turn() == 0
    assert port.count(counter) == 1
    assert len(port.written()) == (counter == "xdp-handed-back")
    assert port.books() == before


def test_jumbo_frames_pass(port: Port) -> None:
    port.route(HOME, 0, mtu=3498)
    port.arrive(tunnelled(data(NODE, CORRESPONDENT, 3400, ttl=40)))
    port.turn()
    assert port.sent(0) == [bytes(data(NODE, CORRESPONDENT, 3400, ttl=39))]


def test_every_length_of_ipv4_is_judged(port: Port) -> None:
    whole = bytes(Ether() / tunnelled(data(NODE, CORRESPONDENT)))
    for size in range(14, len(whole)):
        assert port.arrive(whole[:size])
        port.turn()
    assert port.count("xdp-read-home") + port.count("xdp-read-tunnel") == len(whole) - 14
    assert port.verdict("decapsulated") == 0
    assert not port.sent(0)


def test_gre_is_opened_too(port: Port) -> None:
    port.arrive(IP(src=CARE_OF, dst=AGENT) / GRE() / data(NODE, CORRESPONDENT))
    port.turn()
    assert port.count("xdp-read-tunnel") == 1  # the binding has no GRE: its verdict says so
    assert port.verdict("decapsulated") == 0


def test_a_packet_of_the_kernel_port_is_copied_into_a_frame(port: Port) -> None:
    packet = IP(src=AGENT, dst=CARE_OF) / data(CORRESPONDENT, NODE)
    room = ctypes.create_string_buffer(bytes(64) + bytes(packet))
    at = ctypes.addressof(room) + 64
    port.library.probe_send(TUNNEL, ctypes.c_void_p(at), len(packet))
    assert port.sent(1) == [bytes(packet)]
    assert port.count("xdp-sent-copied") == 1


def test_a_full_ring_loses_packets_and_no_frame(port: Port) -> None:
    before = port.books()
    for _ in range(20):
        for _ in range(64):
            assert port.arrive(data(CORRESPONDENT, NODE))
        assert port.turn() == 64
    assert port.books()["sending"] == 1024
    assert port.count("xdp-ring-full") == 20 * 64 - 1024
    assert len(port.sent(1)) == 1024
    port.library.probe_flush()
    assert port.books() == before


def test_a_socket_that_is_gone_leaves_everything_to_the_kernel(port: Port) -> None:
    port.library.probe_gone(0)
    port.arrive(tunnelled(data(NODE, CORRESPONDENT, ttl=40)), 1)
    port.turn()
    assert port.written() == [bytes(data(NODE, CORRESPONDENT, ttl=40))]


def test_frames_the_kernel_never_had_change_nothing(port: Port) -> None:
    before = port.books()
    frames = sum(before.values())
    for address in (0, 4096 * frames, 2**63, 4096 * (frames - 1)):
        port.library.probe_lie(0, ctypes.c_uint64(address))
        port.turn()
        port.books()
    assert port.count("xdp-strange-frames") >= 3


def test_closing_a_socket_frees_what_the_kernel_had_of_it(port: Port) -> None:
    before = port.books()
    for number in range(100):
        port.arrive(data(CORRESPONDENT, NODE), number % 2)
        port.turn()
    assert port.books()["sending"] == 100
    for number in (0, 1):
        port.library.probe_reopen(number)
    assert port.books() == before


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(0, 1), st.integers(0, 5), st.integers(1, 200)),
        st.tuples(st.just("turn"), st.integers(1, 5)),
        st.tuples(st.just("sent"), st.integers(0, 1)),
        st.tuples(st.just("reopen"), st.integers(0, 1)),
        st.tuples(st.just("unroute"), st.integers(0, 1)),
        st.tuples(st.just("route"), st.integers(0, 1), st.integers(0, 1)),
        st.tuples(st.just("lie"), st.integers(0, 1), st.integers(0, 2**64 - 1)),
    ),
    max_size=40,
)
FRAMES = [
    bytes(Ether() / data(CORRESPONDENT, NODE)),
    bytes(Ether() / tunnelled(data(NODE, CORRESPONDENT))),
    bytes(Ether() / data(CORRESPONDENT, HOST)),
    bytes(Ether() / ARP()),
    bytes(Ether() / tunnelled(data(NODE, CORRESPONDENT)))[:40],
    b"",
]


@settings(max_examples=60)
@given(actions=ACTIONS)
def test_no_order_of_events_leaks_a_frame(
    library: ctypes.CDLL, actions: list[tuple[Any, ...]]
) -> None:
    port = Port(library)
    try:
        for what, *more in actions:
            if what == "arrive":
                number, kind, count = more
                for _ in range(count):
                    port.arrive(FRAMES[kind], number)
            elif what == "turn":
                for _ in range(more[0]):
                    port.turn()
            elif what == "sent":
                port.sent(more[0])
            elif what == "reopen":
                library.probe_reopen(more[0])
            elif what == "unroute":
                library.probe_unroute(more[0])
            elif what == "route":
                port.route(*more)
            else:
                library.probe_lie(more[0], ctypes.c_uint64(more[1]))
            port.books()
            port.written()
    finally:
        port.close()
