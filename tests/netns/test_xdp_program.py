"""The XDP program: what it takes from the kernel, what it leaves, where it can be attached."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.packet import Raw
from tests.helpers.namespaces import Namespaces, wait_for

from fastmip.runtime import bpf, libbpf
from fastmip.runtime.bpf import PASS, REDIRECT, XdpProgram
from fastmip.runtime.libbpf import BpfError
from fastmip.wire.addresses import parse_address

pytestmark = pytest.mark.netns
SOURCES = Path(__file__).parents[2] / "src" / "fastmip" / "bpf"
OWN, HOME, PEER = "192.0.2.1", "10.1.0.9", "198.51.100.7"
AF_XDP, SOL_XDP = 44, 283
XDP_RX_RING, XDP_UMEM_REG, XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING = 2, 4, 5, 6
XDP_COPY = 2


@pytest.fixture
def program() -> Iterator[XdpProgram]:
    yield from a_program()


def a_program() -> Iterator[XdpProgram]:
    with XdpProgram.load() as loaded:
        loaded.set_own_addresses([parse_address(OWN), parse_address("192.0.2.2")])
        loaded.set_home_networks([(parse_address("10.1.0.0"), 16), (parse_address("10.9.0.0"), 30)])
        loaded.set_udp_port(434)
        yield loaded


def counted(program: XdpProgram) -> dict[str, int]:
    return {name: count for name, count in program.counters().items() if count}


def inner(payload: int = 8) -> IP:
    return IP(src=HOME, dst=PEER) / UDP(sport=1, dport=2) / Raw(bytes(payload))


MAC = "02:00:00:00:00:02"
ETHERNET = Ether(src="02:00:00:00:00:01", dst=MAC)
TUNNELLED = IP(src=PEER, dst=OWN)


def cut(frame: Ether, octets: int) -> bytes:
    return bytes(frame)[:octets]


def longer(frame: Ether, total: int) -> bytes:
    """The frame with another total length and an IPv4 checksum that is right for it."""
    frame = frame.copy()
    frame[IP].len = total
    return bytes(frame)


# Without a socket the decision "ours" shows as passed-no-socket.
DECISIONS: list[tuple[str, str, bytes]] = [
    ("to a home address", "no-socket", bytes(ETHERNET / IP(dst=HOME) / TCP())),
    ("first of a network", "no-socket", bytes(ETHERNET / IP(dst="10.1.0.0") / ICMP())),
    ("last of a network", "no-socket", bytes(ETHERNET / IP(dst="10.1.255.255") / ICMP())),
    ("before a network", "other", bytes(ETHERNET / IP(dst="10.0.255.255") / ICMP())),
    ("behind a network", "other", bytes(ETHERNET / IP(dst="10.9.0.4") / ICMP())),
    ("in the second network", "no-socket", bytes(ETHERNET / IP(dst="10.9.0.3") / ICMP())),
    ("IP in IP", "no-socket", bytes(ETHERNET / TUNNELLED / inner())),
    ("to another own address", "no-socket", bytes(ETHERNET / IP(dst="192.0.2.2") / inner())),
    ("IP in IP for others", "other", bytes(ETHERNET / IP(src=PEER, dst="192.0.2.3") / inner())),
    ("GRE", "no-socket", bytes(ETHERNET / TUNNELLED / GRE() / inner())),
    ("minimal", "no-socket", bytes(ETHERNET / IP(dst=OWN, proto=55) / Raw(bytes(20)))),
    ("ESP", "other", bytes(ETHERNET / IP(dst=OWN, proto=50) / Raw(bytes(20)))),
    ("ping to us", "other", bytes(ETHERNET / TUNNELLED / ICMP())),
    ("SSH to us", "other", bytes(ETHERNET / TUNNELLED / TCP(dport=22))),
    (
        "UDP tunnel data",
        "no-socket",
        bytes(ETHERNET / TUNNELLED / UDP(dport=434) / Raw(b"\4\4\0\0")),
    ),
    ("registration", "other", bytes(ETHERNET / TUNNELLED / UDP(dport=434) / Raw(b"\1" * 24))),
    ("empty datagram", "other", bytes(ETHERNET / TUNNELLED / UDP(dport=434))),
    ("another port", "other", bytes(ETHERNET / TUNNELLED / UDP(dport=435) / Raw(b"\4\4\0\0"))),
    ("ARP", "not-ipv4", bytes(ETHERNET / ARP(pdst=HOME))),
    ("IPv6", "not-ipv4", bytes(ETHERNET / IPv6() / UDP())),
    ("VLAN", "not-ipv4", bytes(ETHERNET / Dot1Q(vlan=5) / IP(dst=HOME) / UDP())),
    ("two VLAN tags", "not-ipv4", bytes(ETHERNET / Dot1Q() / Dot1Q() / IP(dst=HOME))),
    ("Ethernet only", "not-ipv4", cut(ETHERNET / IPv6(), 14)),
    ("IPv4 without a header", "truncated", cut(ETHERNET / IP(dst=HOME) / UDP(), 14)),
    ("IPv4 cut in the header", "truncated", cut(ETHERNET / IP(dst=HOME) / UDP(), 33)),
    ("cut in the payload", "truncated", cut(ETHERNET / IP(dst=HOME) / UDP() / Raw(bytes(99)), 90)),
    ("total below a header", "truncated", longer(ETHERNET / IP(dst=HOME) / UDP(), 19)),
    ("total beyond the frame", "truncated", longer(ETHERNET / IP(dst=HOME) / UDP(), 9000)),
    ("padded", "no-socket", bytes(ETHERNET / IP(dst=HOME) / UDP()) + bytes(18)),
    ("options", "options", bytes(ETHERNET / IP(dst=HOME, options=[IPOption(b"\x83\x03\x10")]))),
    (
        "tunnel with options",
        "options",
        bytes(ETHERNET / IP(dst=OWN, options=[IPOption(b"\x83\x03\x10")]) / inner()),
    ),
    ("header length of 4 words", "options", bytes(ETHERNET / IP(dst=HOME, ihl=4) / UDP())),
    ("version 6 in an IPv4 frame", "options", bytes(ETHERNET / IP(dst=HOME, version=6) / UDP())),
    ("first fragment", "fragment", bytes(ETHERNET / IP(dst=HOME, flags="MF", id=7) / UDP())),
    ("last fragment", "fragment", bytes(ETHERNET / IP(dst=HOME, frag=3, id=7) / Raw(bytes(8)))),
    (
        "fragment of a tunnel packet",
        "fragment",
        bytes(ETHERNET / IP(dst=OWN, flags="MF", id=7) / inner()),
    ),
    ("fragment of anything else", "other", bytes(ETHERNET / IP(dst=OWN, flags="MF", id=7) / UDP())),
    ("do not fragment", "no-socket", bytes(ETHERNET / IP(dst=HOME, flags="DF") / UDP())),
    ("jumbo", "no-socket", bytes(ETHERNET / IP(dst=HOME) / Raw(bytes(3400)))),
    ("jumbo in two buffers", "truncated", bytes(ETHERNET / IP(dst=HOME) / Raw(bytes(8900)))),
]


@pytest.fixture(scope="module")
def station() -> Iterator[tuple[XdpProgram, int]]:
    """The program on an interface with that MAC; decisions are asked of it in turn."""
    with Namespaces("a", "b") as made:
        made.wire("a", "eth0", "b", "eth0")
        made.ip("a", "link", "set", "eth0", "address", MAC)
        made.ip("b", "link", "set", "eth0", "down")  # no packets but the tests' own
        with made.inside("a"):
            for loaded in a_program():
                ifindex = socket.if_nametoindex("eth0")
                loaded.attach(ifindex)
                yield loaded, ifindex


@pytest.mark.parametrize(("name", "reason", "frame"), DECISIONS, ids=[d[0] for d in DECISIONS])
def test_a_frame_goes_where_it_belongs(
    station: tuple[XdpProgram, int], name: str, reason: str, frame: bytes
) -> None:
    program, ifindex = station
    before = program.traffic()
    assert program.run(frame, ifindex=ifindex) == (PASS, frame)
    after = program.traffic()
    changed = {
        outcome: (packets - before[outcome][0], octets - before[outcome][1])
        for outcome, (packets, octets) in after.items()
        if (packets, octets) != before[outcome]
    }
    assert list(changed) == [f"passed-{reason}"], name
    packets, octets = changed[f"passed-{reason}"]
    assert packets == 1
    assert octets == len(frame) or name == "jumbo in two buffers"


def test_a_frame_for_another_station_is_none_of_ours(station: tuple[XdpProgram, int]) -> None:
    program, ifindex = station
    before = program.counters()["passed-not-to-us"]
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:03") / IP(dst=HOME) / UDP()
    assert program.run(bytes(frame), ifindex=ifindex) == (PASS, bytes(frame))
    assert program.counters()["passed-not-to-us"] == before + 1


def test_a_new_mac_is_learnt(two: Namespaces, program: XdpProgram) -> None:
    frame = bytes(ETHERNET / IP(dst=HOME) / UDP())
    with two.inside("a"):
        ifindex = socket.if_nametoindex("eth0")
        program.attach(ifindex)
        program.run(frame, ifindex=ifindex)
        two.ip("a", "link", "set", "eth0", "address", MAC)
        program.refresh()
        program.run(frame, ifindex=ifindex)
    assert counted(program) == {"passed-not-to-us": 1, "passed-no-socket": 1}


def test_settings_take_effect_on_the_run(program: XdpProgram) -> None:
    frame = bytes(ETHERNET / TUNNELLED / UDP(dport=4434) / Raw(b"\4\4\0\0"))
    program.run(frame)
    program.set_udp_port(4434)
    program.run(frame)
    assert counted(program) == {"passed-other": 1, "passed-not-to-us": 1}
    program.set_own_addresses([])
    program.run(frame)
    program.set_home_networks([(0, 0)])
    program.run(frame)
    assert counted(program) == {"passed-other": 2, "passed-not-to-us": 2}


def test_there_is_a_limit_to_every_list(program: XdpProgram) -> None:
    with pytest.raises(BpfError, match="33 own addresses: XDP has room for 32"):
        program.set_own_addresses(range(1, 34))
    with pytest.raises(BpfError, match="17 home networks: XDP has room for 16"):
        program.set_home_networks([(number << 24, 8) for number in range(1, 18)])


def test_names_are_those_of_the_program() -> None:
    text = (SOURCES / "outcomes.h").read_text()
    assert [name for name, _ in bpf.OUTCOMES] == re.findall(r'X\(\w+, "([a-z0-9-]+)"\)', text)
    limits = dict(re.findall(r"#define FM_(\w+_MAX) (\d+)", (SOURCES / "tables.h").read_text()))
    assert {name: int(value) for name, value in limits.items()} == {
        name: getattr(bpf, name) for name in limits
    }


def test_a_build_without_clang_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(libbpf, "DIRECTORY", tmp_path)
    with pytest.raises(BpfError, match="built without BPF programs: install clang"):
        XdpProgram.load()


# on real interfaces


class Xsk:
    """The least AF_XDP socket that receives: one frame, two rings."""

    def __init__(self, ifindex: int, queue: int = 0) -> None:
        self.socket = socket.socket(AF_XDP, socket.SOCK_RAW)
        self.frames = mmap.mmap(-1, 16 * 4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.frames))
        region = struct.pack("=QQIII4x", address, 16 * 4096, 4096, 0, 0)
        self.socket.setsockopt(SOL_XDP, XDP_UMEM_REG, region)
        for ring in (XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING):
            self.socket.setsockopt(SOL_XDP, ring, 16)
        sockaddr = struct.pack("=HHIII", AF_XDP, XDP_COPY, ifindex, queue, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.bind(self.socket.fileno(), sockaddr, len(sockaddr)) == 0, ctypes.get_errno()


@pytest.fixture
def two() -> Iterator[Namespaces]:
    with Namespaces("a", "b") as made:
        made.wire("a", "eth0", "b", "eth0")
        made.ip("a", "address", "add", f"{OWN}/24", "dev", "eth0")
        made.ip("b", "address", "add", "192.0.2.9/24", "dev", "eth0")
        yield made


def xdp_of(two: Namespaces) -> str:
    return two.run("a", "ip", "link", "show", "eth0")


def test_a_socket_gets_what_is_ours_and_the_kernel_the_rest(
    two: Namespaces, program: XdpProgram
) -> None:
    with two.inside("a"):
        ifindex = socket.if_nametoindex("eth0")
        assert program.attach(ifindex) == "native"
        assert program.attached() == [ifindex]
        xsk = Xsk(ifindex)
        program.register_socket(ifindex, 0, xsk.socket.fileno())
        two.ip("a", "link", "set", "eth0", "address", MAC)
        program.refresh()
        ours = bytes(ETHERNET / IP(dst=HOME) / UDP())
        assert program.run(ours, ifindex=ifindex) == (REDIRECT, ours)
        tunnelled = bytes(ETHERNET / TUNNELLED / inner())
        assert program.run(tunnelled, ifindex=ifindex) == (REDIRECT, tunnelled)
        program.run(ours, ifindex=1)  # of an interface it is not attached to
    assert counted(program)["steered-home"] == 1
    assert counted(program)["steered-tunnel"] == 1
    assert counted(program)["passed-not-to-us"] == 1
    # Frames from the wire: a stranger's ping is answered by the kernel, tunnel packets are not.
    two.run("b", "ping", "-c1", "-W5", OWN)
    two.run("b", "ip", "route", "add", "10.1.0.0/16", "via", OWN)
    two.run("b", "ping", "-c1", "-W1", HOME, check=False)
    wait_for("the ping to a home address", lambda: counted(program)["steered-home"] == 2)
    xsk.socket.close()
    two.run("b", "ping", "-c1", "-W1", HOME, check=False)
    wait_for("the kernel's turn", lambda: "passed-no-socket" in counted(program))


def test_closing_detaches(two: Namespaces, program: XdpProgram) -> None:
    with two.inside("a"):
        ifindex = socket.if_nametoindex("eth0")
        program.attach(ifindex)
        assert "xdp" in xdp_of(two)
        program.detach(ifindex)
        assert "xdp" not in xdp_of(two)
        assert program.attach(ifindex, mode="generic") == "generic"
        assert "xdpgeneric" in xdp_of(two)
    program.close()
    assert "xdp" not in xdp_of(two)


HOLDER = """
import socket, sys, time
from fastmip.runtime.bpf import XdpProgram
program = XdpProgram.load()
program.attach(socket.if_nametoindex("eth0"))
print("attached", flush=True)
time.sleep(600)
"""


def test_a_killed_process_leaves_nothing(two: Namespaces, source_path: dict[str, str]) -> None:
    command = ["ip", "netns", "exec", two.full("a"), sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=source_path) as holder:
        assert holder.stdout is not None
        try:
            assert "attached\n" in iter(holder.stdout.readline, "")
            assert "prog/xdp" in xdp_of(two)
            with two.inside("a"), XdpProgram.load() as second:
                refused = r"eth0: the XDP program fastmip \(id \d+\) is attached already"
                with pytest.raises(BpfError, match=refused):
                    second.attach(socket.if_nametoindex("eth0"))
                assert second.attached() == []
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    wait_for("the kernel to detach", lambda: "xdp" not in xdp_of(two))


def test_an_interface_that_is_gone_is_named(program: XdpProgram, two: Namespaces) -> None:
    with two.inside("a"), pytest.raises(BpfError, match="interface 4242: no such interface"):
        program.attach(4242)
    assert program.attached() == []


def test_a_socket_needs_an_attached_interface(program: XdpProgram, two: Namespaces) -> None:
    with two.inside("a"):
        ifindex = socket.if_nametoindex("eth0")
        with pytest.raises(BpfError, match="eth0: the XDP program is not attached"):
            program.register_socket(ifindex, 0, 0)
        with pytest.raises(BpfError, match="eth0: queue 64: at most 64 are served"):
            program.register_socket(ifindex, 64, 0)


def test_a_jumbo_interface_is_served(program: XdpProgram) -> None:
    with Namespaces("a", "b") as made:
        made.wire("a", "eth0", "b", "eth0", "mtu", "9000")
        with made.inside("a"):
            assert program.attach(socket.if_nametoindex("eth0")) == "native"
