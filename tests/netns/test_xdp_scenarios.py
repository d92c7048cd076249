"""The catalogue of scenarios through real AF_XDP sockets: the same packets, the same verdicts.

Every packet that the XDP program would steer goes over a veth pair into an engine whose kernel port
ends in socket pairs. What leaves by AF_XDP and what the kernel port writes are together what the
scenario says.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from tests.engine.lab import assert_balanced, engine_for
from tests.helpers.namespaces import Namespaces, wait_for
from tests.reference.tunnels import HOME, TUNNEL
from tests.scenarios.catalogue import HOME_AGENT, Scenario, number
from tests.scenarios.everything import scenarios

from fastmip import _dataplane
from fastmip.runtime.bpf import XdpProgram

pytestmark = pytest.mark.netns

TUNNELS = {4, 47, 55}
VNET_LEN = 10
GATEWAY = 0x0A0A0A0A
IPV4 = b"\x08\x00"


def is_steered(side: int, packet: bytes) -> bool:
    """What runtime/bpf.py says goes to a socket: to us in a tunnel, or to a home address."""
    if len(packet) < 20 or packet[0] != 0x45 or int.from_bytes(packet[6:8]) & 0x3FFF:
        return False
    if not 20 <= int.from_bytes(packet[2:4]) <= min(len(packet), 1500):
        return False
    is_ours = packet[16:20] == socket.inet_aton(HOME_AGENT)
    return (is_ours and packet[9] in TUNNELS) if side == TUNNEL else not is_ours


def steered() -> list[Scenario]:
    """Scenarios of a home agent for which the kernel does nothing before the engine."""
    return [
        scenario
        for scenario in scenarios()
        if scenario.node.role == "home-agent"
        and scenario.node.done == 0
        and scenario.node.own == (number(HOME_AGENT),)
        and all(is_steered(scenario.side, bytes(packet)) for packet in scenario.packets)
    ]


class Wire(NamedTuple):
    """One veth pair: the engine's end with the program, and ours."""

    ifindex: int
    mac: bytes
    program: XdpProgram
    far: socket.socket


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with Namespaces("ha", "far") as net, ExitStack() as stack:
        net.wire("ha", "eth0", "far", "eth0", "mtu", "1500")
        for name in ("ha", "far"):
            net.run(name, "sysctl", "-q", "net.ipv6.conf.eth0.disable_ipv6=1")
        with net.inside("ha"):
            ifindex = socket.if_nametoindex("eth0")
            program = stack.enter_context(XdpProgram.load())
            program.set_own_addresses([number(HOME_AGENT)])
            program.set_home_networks([(0, 0)])
            program.attach(ifindex)
        with net.inside("far"):
            far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
            far.bind(("eth0", 0x0800))
        far.settimeout(0.05)
        stack.callback(far.close)
        mac = bytes.fromhex(net.run("ha", "cat", "/sys/class/net/eth0/address").replace(":", ""))
        stack.enter_context(net.inside("ha"))  # the tests' sockets are opened there
        yield Wire(ifindex, mac, program, far)


def route(engine: _dataplane.Engine, wire: Wire) -> None:
    """Everything leaves by the wire."""
    for side in (HOME, TUNNEL):
        table = engine.egress(side)
        table.set_link(1, wire.ifindex, wire.mac, 1500, 0)
        table.set_neighbour(GATEWAY, 1, bytes(6))
        table.set_route(0, 0, table.add_set([(GATEWAY, 1, 0, 1)]))


def open_xdp(engine: _dataplane.Engine, ifindex: int) -> int:
    """A queue is busy for a moment after its socket was closed."""

    def opened() -> int:
        try:
            return engine.open_xdp(0, outlet=0, ifindex=ifindex, queue=0)
        except OSError:
            return 0

    return int(wait_for("the queue", opened, 10))


def same(packet: bytes, *, hop: bool = False) -> bytes:
    """Without what differs between ports: Identification and checksum of the IPv4 header."""
    return packet[:4] + packet[6:8] + bytes([packet[8] - hop]) + packet[9:10] + packet[12:]


def forwarded(packet: bytes) -> bytes:
    """What the kernel makes of a packet out of the TUN device; our own ICMP errors are not that."""
    return same(packet, hop=packet[12:16] != socket.inet_aton(HOME_AGENT))


def drain(end: socket.socket, skip: int) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(end.recv(70000)[skip:])
        except (BlockingIOError, TimeoutError):
            return found


@pytest.mark.parametrize("scenario", steered(), ids=lambda s: s.name)
def test_scenario(wire: Wire, scenario: Scenario) -> None:
    engine = engine_for(scenario.node)
    for prefix, length, router in scenario.prefixes:
        engine.set_prefix(number(prefix), length, number(router))
    route(engine, wire)
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    (tun, kernel_tun), (raw, kernel_raw) = pairs
    for end in (kernel_tun, kernel_raw):
        end.setblocking(False)
    engine.attach_kernel(tun_fd=tun.fileno(), raw_fds=[raw.fileno()], ring=False)
    engine.attach_xdp(0, 1)
    fd = open_xdp(engine, wire.ifindex)
    wire.program.register_socket(wire.ifindex, 0, fd)
    engine.start()
    packets = [bytes(packet) for packet in scenario.packets]
    expected = dict(scenario.extra)
    for verdict in scenario.verdicts:
        expected[verdict] = expected.get(verdict, 0) + 1
    out = [(HOME, bytes(p)) for p in scenario.home] + [(TUNNEL, bytes(p)) for p in scenario.tunnel]
    try:
        for packet in packets:
            wire.far.send(wire.mac + bytes(6) + IPV4 + packet)
        wait_for("the packets", lambda: engine.balance()["inputs"] == len(packets))
        wait_for("the verdicts", lambda: engine.balance()["verdicts"] == sum(expected.values()))
        left: list[bytes] = []
        deadline = time.monotonic() + 5
        while len(left) < len(out) and time.monotonic() < deadline:
            left += map(same, drain(wire.far, 14) + drain(kernel_raw, 0))
            left += map(forwarded, drain(kernel_tun, VNET_LEN))
    finally:
        engine.stop()
        engine.close_xdp(wire.ifindex)
        for end in (tun, kernel_tun, raw, kernel_raw):
            end.close()
    assert {name: n for name, (n, _) in engine.counters().items() if n} == expected
    # A packet for a host at home loses a hop on its way through us, by AF_XDP or in the kernel.
    is_returned = any(name.startswith("returned-") for name in expected)
    wanted = sorted(same(p, hop=is_returned and side == HOME) for side, p in out)
    assert sorted(left) == wanted
    assert_balanced(engine)
    (books,) = engine.xdp_frames()
    assert books["free"] == books["frames"]


def test_most_scenarios_of_a_home_agent_are_among_them() -> None:
    assert len(steered()) >= 18
