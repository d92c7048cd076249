"""Outer packets that pass the IP stack by: the same packets, and the stack where it is needed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from scapy.layers.inet import IP
from tests.engine.lab import assert_balanced, engine_for
from tests.helpers.home_agent_lab import (
    CARE_OF,
    HOME_ADDRESS,
    HOME_AGENT,
    HomeAgentLab,
)
from tests.helpers.namespaces import Namespaces, wait_for
from tests.reference.tunnels import HOME, TUNNEL
from tests.scenarios.catalogue import Scenario
from tests.scenarios.everything import scenarios

from fastmip.runtime import devices, output_stack

pytestmark = pytest.mark.netns

VNET_LEN = 10
GATEWAY = 0x0A0A0A0A


# scenarios


class Wire(NamedTuple):
    """A veth pair: the engine's end, and ours."""

    ifindex: int
    mac: bytes
    far: socket.socket
    far_mac: bytes


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with Namespaces("ha", "far") as net, ExitStack() as stack:
        net.wire("ha", "eth0", "far", "eth0", "mtu", "1500")
        for name in ("ha", "far"):
            net.run(name, "sysctl", "-q", "net.ipv6.conf.eth0.disable_ipv6=1")
        with net.inside("far"):
            far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
            far.bind(("eth0", 0x0800))
        far.setblocking(False)
        stack.callback(far.close)
        mac, far_mac = (
            bytes.fromhex(net.run(name, "cat", "/sys/class/net/eth0/address").replace(":", ""))
            for name in ("ha", "far")
        )
        stack.enter_context(net.inside("ha"))
        yield Wire(socket.if_nametoindex("eth0"), mac, far, far_mac)


def same(packet: bytes) -> bytes:
    """Without Identification and checksum of the IPv4 header: each run has its own."""
    return packet[:4] + packet[6:10] + packet[12:]


def drain(end: socket.socket, skip: int = 0) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(end.recv(70000)[skip:])
        except BlockingIOError:
            return found


class Outcome(NamedTuple):
    """What a run of a scenario made of its packets."""

    home: list[bytes]
    stack: list[bytes]
    frames: list[bytes]
    counters: dict[str, int]
    sent: int


def run(scenario: Scenario, wire: Wire, *, past: bool) -> Outcome:
    """A scenario's packets through a kernel port on socket pairs, with the way past the stack."""
    engine = engine_for(scenario.node)
    for prefix, length, router in scenario.prefixes:
        home, of = (int.from_bytes(socket.inet_aton(each)) for each in (prefix, router))
        engine.set_prefix(home, length, of)
    table = engine.egress(TUNNEL)
    table.set_link(1, wire.ifindex, wire.mac, 1500)
    table.set_neighbour(GATEWAY, 1, wire.far_mac)
    table.set_route(0, 0, table.add_set([(GATEWAY, 1, 0, 1)]))
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    (tun, kernel_tun), (raw, kernel_raw) = pairs
    for end in (kernel_tun, kernel_raw):
        end.setblocking(False)
    packets = [bytes(packet) for packet in scenario.packets]
    with devices.open_packet_socket(None) as opened:
        engine.attach_kernel(
            tun_fd=tun.fileno(), raw_fds=[raw.fileno()], packet_fd=opened.fileno(), ring=False
        )
        engine.allow_packet_sockets(past)
        for packet in packets:
            if scenario.side == HOME:
                kernel_tun.send(bytes(VNET_LEN) + packet)
            else:
                kernel_raw.send(packet)
        engine.start()
        wait_for("the packets", lambda: engine.balance()["inputs"] >= len(packets))
        engine.stop()  # the batch in hand is done
        ports = engine.port_counters()
        found = Outcome(
            sorted(map(same, drain(kernel_tun, VNET_LEN))),
            sorted(map(same, drain(kernel_raw))),
            drain(wire.far),
            {name: n for name, (n, _) in engine.counters().items() if n},
            ports["packet-sent"],
        )
    for end in (tun, kernel_tun, raw, kernel_raw):
        end.close()
    assert_balanced(engine)
    return found


def all_scenarios() -> list[Scenario]:
    return [
        scenario
        for scenario in scenarios()
        if scenario.node.role == "home-agent" and all(map(len, scenario.packets))
    ]


def test_every_scenario_makes_the_same_packets_and_verdicts(wire: Wire) -> None:
    sent = 0
    for scenario in all_scenarios():
        drain(wire.far)
        plain, past = (run(scenario, wire, past=way) for way in (False, True))
        assert plain.frames == [], scenario.name
        assert past.counters == plain.counters, scenario.name
        assert past.home == plain.home, scenario.name
        assert sorted([*map(same, (f[14:] for f in past.frames)), *past.stack]) == plain.stack
        assert len(past.frames) == past.sent, scenario.name
        assert all(f[:14] == wire.far_mac + wire.mac + b"\x08\x00" for f in past.frames)
        sent += past.sent
    assert sent >= 15  # most of what goes into tunnels


# the daemon


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as built:
        yield built


def transmit(lab: HomeAgentLab) -> str:
    """What ``show runtime`` says of the way outer packets take."""
    return str(lab.ask("show runtime")["summary"]["transmit"])


class Stream:
    """Datagrams from the correspondent to the node's home address until it is closed."""

    def __init__(self, lab: HomeAgentLab) -> None:
        self.lab = lab
        self._source = lab.udp("cn", "10.9.0.7")
        self.tunnel = lab.raw("away", 4)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.01):
            self._source.sendto(b"stream", (HOME_ADDRESS, 5000))

    def grows(self, counter: str) -> None:
        """A counter is counted on from now."""
        before = self.lab.counter(counter)
        wait_for(counter, lambda: self.lab.counter(counter) > before + 2, 15)

    def arrives(self) -> bytes:
        """A packet that came just now."""
        self.tunnel.setblocking(False)
        drain(self.tunnel)
        self.tunnel.settimeout(5)
        return self.tunnel.recv(4096)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


def test_a_home_agent_passes_the_stack_by_and_uses_it_where_it_is_needed(lab: HomeAgentLab) -> None:
    lab.start()
    client = lab.udp("away", CARE_OF)
    lab.register(client)
    stream = Stream(lab)
    lab.at_end(stream.close)
    wait_for("the way", lambda: transmit(lab) == "packet", 10)
    stream.grows("io-packet-sent")
    outer = IP(stream.arrives())
    assert (outer.src, outer.dst, outer.proto, outer.ttl > 1) == (HOME_AGENT, CARE_OF, 4, True)
    rebuilt = IP(bytes(outer))
    del rebuilt.chksum
    assert IP(bytes(rebuilt)).chksum == outer.chksum

    # A firewall that appears is obeyed, and not passed by while it is there.
    rule = "add table inet f; add chain inet f o { type filter hook output priority 0; }"
    lab.net.run("ha", "nft", f"{rule}; add rule inet f o ip protocol 4 drop")
    stream.grows("io-tunnel-forbidden")
    assert transmit(lab) == "socket: nftables f o"
    lab.net.run("ha", "nft", "delete table inet f")
    wait_for("the way", lambda: transmit(lab) == "packet", 10)
    stream.arrives()

    # A neighbour that is not known any more is asked for by the kernel.
    lab.net.ip("ha", "neighbour", "flush", "dev", "eth0")
    stream.grows("io-packet-sent")
    # What is larger than the link's MTU by now is the stack's to refuse.
    lab.net.ip("ha", "link", "set", "eth0", "mtu", "600")
    large = lab.udp("cn", "10.9.0.7")
    large.setsockopt(socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER: DF, whatever was learnt
    datagram = bytes(590 - 28)  # it comes in, but does not go out in a tunnel
    wait_for(
        "the refusal",
        lambda: large.sendto(datagram, (HOME_ADDRESS, 5000)) and lab.counter("io-tunnel-too-big"),
        10,
    )
    lab.net.ip("ha", "link", "set", "eth0", "mtu", "1500")
    # Down and up again, the route put back by hand: used again.
    lab.net.ip("ha", "link", "set", "eth0", "down")
    lab.net.ip("ha", "link", "set", "eth0", "up")
    lab.net.ip("ha", "route", "replace", "default", "via", "10.1.0.254")
    stream.grows("io-packet-sent")
    stream.arrives()
    # The interface is removed under load: the daemon lives.
    lab.net.ip("ha", "link", "delete", "eth0")
    before = lab.verdict("encapsulated")
    assert lab.ask("status") is not None
    assert lab.verdict("encapsulated") >= before
    assert "Traceback" not in lab.log()


def test_whatever_acts_on_what_we_send_is_found() -> None:
    with Namespaces("here") as net, net.inside("here"), ExitStack() as stack:
        assert output_stack.users() == ""
        tables, policies = map(stack.enter_context, output_stack.watch())
        net.run("here", "nft", "add table ip t; add chain ip t plain")
        assert output_stack.users() == ""  # called by nobody
        hook = "{ type nat hook postrouting priority 100; }"
        net.run("here", "nft", f"add chain ip t out {hook}")
        assert output_stack.users() == "nftables t out"
        assert tables.recv(65536)
        net.run("here", "nft", "flush ruleset")
        selectors = ("src", "10.0.0.1", "dst", "10.0.0.2")
        net.ip("here", "xfrm", "policy", "add", "dir", "in", *selectors, "action", "allow")
        assert output_stack.users() == ""
        net.ip("here", "xfrm", "policy", "add", "dir", "out", *selectors, "action", "block")
        assert output_stack.users() == "IPsec policies"
        assert drain(policies)
        net.ip("here", "xfrm", "policy", "flush")
        assert output_stack.users() == ""
        drain(policies)
        net.ip("here", "xfrm", "policy", "setdefault", "out", "block")
        assert output_stack.users() == "IPsec blocks what has no policy"
        assert drain(policies)
        net.ip("here", "xfrm", "policy", "setdefault", "out", "accept", "in", "block")
        assert output_stack.users() == ""
