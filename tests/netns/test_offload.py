"""Offload: the engine's scenarios through the BPF program, and what only the program can do."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.packet import Packet, Raw
from tests.engine.lab import engine_for
from tests.helpers.namespaces import Namespaces
from tests.reference.tunnels import HOME, Twin
from tests.scenarios.catalogue import (
    CARE_OF,
    CORRESPONDENT,
    HOME_AGENT,
    NODE,
    OTHER,
    OTHER_CARE_OF,
    Scenario,
    data,
    home_agent,
    number,
    outer,
    to,
)
from tests.scenarios.everything import scenarios

from fastmip import _dataplane
from fastmip.runtime.bpf import PASS, REDIRECT, Hook
from fastmip.runtime.libbpf import BpfError
from fastmip.runtime.offload import Offload

pytestmark = pytest.mark.netns
NETWORK = (number("10.1.0.0"), 16)
GATEWAY = bytes.fromhex("020000000009")
STRANGER = bytes.fromhex("020000000001")
HANDLED = {"correspondent to node away", "reverse tunnel"}
"""Scenarios of which nothing is left to the engine."""


@pytest.fixture(scope="module")
def net() -> Iterator[Namespaces]:
    with Namespaces("a", "b") as made:
        made.wire("a", "eth0", "b", "eth0")
        made.ip("a", "address", "add", "192.0.2.1/24", "dev", "eth0")
        gateway = GATEWAY.hex(":")
        made.ip("a", "neigh", "add", "192.0.2.9", "lladdr", gateway, "dev", "eth0")
        made.ip("a", "route", "add", "10.0.0.0/8", "via", "192.0.2.9")
        made.ip("a", "route", "add", "10.7.0.0/16", "via", "192.0.2.8")  # nobody knows its MAC
        made.ip("a", "route", "add", "10.8.0.0/16", "dev", "lo")
        made.ip("a", "route", "add", "10.6.0.0/16", "via", "192.0.2.9", "mtu", "lock", "1000")
        made.ip("a", "route", "add", "blackhole", "10.5.0.0/16")
        made.sysctl("a", ip_forward=1)
        yield made


class Lab:
    """An engine with the program on eth0; frames go in by BPF_PROG_TEST_RUN."""

    def __init__(self, twin: Twin, hook: Hook) -> None:
        self.engine = _dataplane.Engine(
            max_bindings=64, role="home-agent", local_addresses=twin.own
        )
        self.offload = Offload.load(
            self.engine, own=twin.own, home_networks=[NETWORK], interfaces=["eth0"], hook=hook
        )
        self.engine.restore(twin.records())
        self.offload.attach()
        self.program = self.offload.program
        self.program.set_offload(True)
        self.ifindex = socket.if_nametoindex("eth0")
        here = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        here.bind(("eth0", 0))
        self.mac = here.getsockname()[4]
        here.close()

    def send(self, packet: Packet) -> bytes | None:
        """What the program made of a packet; None when it is left as it was.

        Tried twice: once a second a packet is left to the kernel, to confirm its neighbour.
        """
        frame = self.mac + STRANGER + b"\x08\x00" + bytes(packet)
        action, made = self.run(frame)
        if action == PASS:
            action, made = self.run(frame)
        if action == REDIRECT:
            assert made[:6] == GATEWAY
            assert made[6:14] == self.mac + b"\x08\x00"
            return made[14:]
        assert (action, made) == (PASS, frame)
        return None

    def run(self, frame: bytes) -> tuple[int, bytes]:
        """What the attached program decides and makes of a frame."""
        run = self.program.run_tc if self.offload.hook == "tc" else self.program.run
        return run(frame, ifindex=self.ifindex)

    def carried(self) -> dict[str, tuple[int, int]]:
        return {name: n for name, n in self.offload.verdicts().items() if n != (0, 0)}

    def close(self) -> None:
        self.engine.leave_offload()
        self.offload.close()


@contextmanager
def lab_of(net: Namespaces, twin: Twin, hook: Hook = "xdp") -> Iterator[Lab]:
    with net.inside("a"):
        made = Lab(twin, hook)
        try:
            yield made
        finally:
            made.close()


AWAY = home_agent((NODE, [to(CARE_OF)]))


@pytest.fixture(params=["xdp", "tc"])
def hook(request: pytest.FixtureRequest) -> Hook:
    """Where the program is attached."""
    found: Hook = request.param
    return found


@pytest.fixture(scope="module", params=["xdp", "tc"])
def still_away(net: Namespaces, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The same for tests that change nothing."""
    with lab_of(net, AWAY, request.param) as made:
        yield made


@pytest.fixture
def away(net: Namespaces, hook: Hook) -> Iterator[Lab]:
    with lab_of(net, AWAY, hook) as made:
        yield made


HOME_AGENTS = [scenario for scenario in scenarios() if scenario.node.role == "home-agent"]


@pytest.mark.parametrize("scenario", HOME_AGENTS, ids=lambda s: s.name)
def test_scenario(net: Namespaces, scenario: Scenario, hook: Hook) -> None:
    """The same packets, the same bytes, the same verdicts, or left to the engine untouched."""
    left = [bytes(packet) for packet in (scenario.home if scenario.side == HOME else [])]
    left += [bytes(packet) for packet in [*scenario.tunnel, *scenario.home]]
    twin = scenario.node
    with lab_of(net, twin, hook) as lab:
        counted: dict[str, int] = {}
        for packet, verdict in zip(scenario.packets, scenario.verdicts, strict=True):
            made = lab.send(packet)
            if made is None:
                continue
            assert made in left
            counted[verdict] = counted.get(verdict, 0) + 1
        assert {name: packets for name, (packets, _) in lab.carried().items()} == counted
        if scenario.name in HANDLED:
            assert sum(counted.values()) == len(scenario.packets)


def test_both_ways_as_the_engine_does(away: Lab) -> None:
    """TOS, sizes and protocols, compared with an engine without offload."""
    engine = engine_for(AWAY)
    port = _dataplane.MemoryPort(engine)
    cases = []
    for size in (0, 1, 20, 400, 1452):
        for tos in (0, 1, 2, 3, 0xB8, 0xFF):
            there = data(CORRESPONDENT, NODE, size, tos=tos, ttl=2 + size % 200)
            back = data(NODE, CORRESPONDENT, size, tos=tos, ttl=2 + size % 200)
            cases += [(_dataplane.HOME, there)]
            for outer_tos in (0, 1, 2, 3):
                wrapped = outer(CARE_OF, HOME_AGENT, back)
                wrapped.tos = outer_tos
                cases += [(_dataplane.TUNNEL, IP(bytes(wrapped)))]
    handled = 0
    for side, packet in cases:
        engine.clear_counters()
        (verdict,) = port.inject(side, [bytes(packet)])
        left = port.take(_dataplane.TUNNEL) + port.take(_dataplane.HOME)
        made = away.send(packet)
        unusual = engine.events()["ecn-unusual"] or verdict == "drop-ecn"
        assert (made is None) == bool(unusual or verdict not in {"encapsulated", "decapsulated"})
        if made is not None:
            assert [made] == left
            handled += 1
    carried = away.carried()
    assert sum(packets for packets, _ in carried.values()) == handled > 100
    (row,) = away.engine.traffic(number(NODE))
    assert (row["sent_packets"], row["sent_bytes"]) == carried["encapsulated"]
    assert (row["received_packets"], row["received_bytes"]) == carried["decapsulated"]


BACK = data(NODE, CORRESPONDENT, ttl=64)
LEFT_TO_THE_ENGINE: list[tuple[str, Packet]] = [
    ("TTL of one", data(CORRESPONDENT, NODE, ttl=1)),
    ("too big for the tunnel", data(CORRESPONDENT, NODE, 1453)),
    ("from ourselves", data(HOME_AGENT, NODE)),
    ("from the care-of address", data(CARE_OF, NODE)),
    ("from nowhere", data("127.0.0.1", NODE)),
    ("from a multicast address", data("224.0.0.5", NODE)),
    ("a tunnel packet", IP(src=CORRESPONDENT, dst=NODE) / data(CORRESPONDENT, OTHER)),
    ("GRE", IP(src=CORRESPONDENT, dst=NODE, proto=47) / Raw(bytes(24))),
    ("wrong checksum", IP(src=CORRESPONDENT, dst=NODE, chksum=1) / Raw(bytes(24))),
    ("another care-of address", outer(OTHER_CARE_OF, HOME_AGENT, BACK)),
    ("another node's", outer(CARE_OF, HOME_AGENT, data(OTHER, CORRESPONDENT))),
    ("from outside the home network", outer(CARE_OF, HOME_AGENT, data("10.9.9.9", CORRESPONDENT))),
    ("TTL of one inside", outer(CARE_OF, HOME_AGENT, data(NODE, CORRESPONDENT, ttl=1))),
    ("to a host at home", outer(CARE_OF, HOME_AGENT, data(NODE, "10.1.0.77"))),
    ("IP in IP inside", outer(CARE_OF, HOME_AGENT, IP(src=NODE, dst=CORRESPONDENT) / BACK)),
    (
        "options inside",
        outer(CARE_OF, HOME_AGENT, IP(src=NODE, dst=CORRESPONDENT, options=[b"\1"])),
    ),
    (
        "wrong checksum inside",
        outer(CARE_OF, HOME_AGENT, IP(src=NODE, dst=CORRESPONDENT, chksum=1) / Raw(bytes(8))),
    ),
    (
        "total length beyond the outer one",
        outer(CARE_OF, HOME_AGENT, IP(src=NODE, dst=CORRESPONDENT, len=99) / Raw(bytes(8))),
    ),
    ("no inner header", IP(src=CARE_OF, dst=HOME_AGENT, proto=4) / Raw(bytes(10))),
    ("no route", outer(CARE_OF, HOME_AGENT, data(NODE, "203.0.113.1"))),
    ("a blackhole", outer(CARE_OF, HOME_AGENT, data(NODE, "10.5.0.1"))),
    ("an interface without the program", outer(CARE_OF, HOME_AGENT, data(NODE, "10.8.0.1"))),
    ("no neighbour", outer(CARE_OF, HOME_AGENT, data(NODE, "10.7.0.1"))),
    ("beyond the route's MTU", outer(CARE_OF, HOME_AGENT, data(NODE, "10.6.0.1", 1100))),
    ("to ourselves", outer(CARE_OF, HOME_AGENT, data(NODE, "192.0.2.1"))),
]


@pytest.mark.parametrize(
    ("name", "packet"), LEFT_TO_THE_ENGINE, ids=[name for name, _ in LEFT_TO_THE_ENGINE]
)
def test_left_to_the_engine(still_away: Lab, name: str, packet: Packet) -> None:
    assert still_away.send(BACK_THERE) is not None
    for _ in range(2):  # asked for, then remembered
        assert still_away.send(packet) is None, name


BACK_THERE = data(CORRESPONDENT, NODE)


def test_a_frame_for_another_station_is_left_alone(away: Lab) -> None:
    frame = STRANGER + STRANGER + b"\x08\x00" + bytes(BACK_THERE)
    assert away.run(frame) == (PASS, frame)
    assert away.program.counters()["passed-not-to-us"] == 1


def test_a_binding_comes_changes_and_goes(away: Lab) -> None:
    engine, node = away.engine, number(NODE)
    assert away.send(data(CORRESPONDENT, OTHER)) is None
    assert away.program.counters()["passed-unbound"] == 2
    engine.publish(engine.prepare(to(OTHER_CARE_OF).record(number(OTHER))))
    assert away.send(data(CORRESPONDENT, OTHER)) is not None
    (row,) = engine.traffic(number(OTHER))
    assert row["sent_packets"] == 1
    # Another care-of address: counted from zero, by the new tunnel.
    away.send(BACK_THERE)
    engine.publish(engine.prepare(to(OTHER_CARE_OF).record(node)))
    made = away.send(BACK_THERE)
    assert made is not None
    assert IP(made).dst == OTHER_CARE_OF
    assert engine.traffic(node)[0]["sent_packets"] == 1
    # A second binding beside it: copies are the engine's.
    two = to(CARE_OF).record(node) + to(OTHER_CARE_OF).record(node)
    engine.publish(engine.prepare(two))
    assert away.send(BACK_THERE) is None
    assert engine.remove(node)
    assert away.send(BACK_THERE) is None
    assert away.program.counters()["passed-unbound"] == 4


def test_an_abandoned_change_changes_nothing(away: Lab) -> None:
    engine = away.engine
    engine.abandon(engine.prepare(to(OTHER_CARE_OF).record(number(NODE))))
    made = away.send(BACK_THERE)
    assert made is not None
    assert IP(made).dst == CARE_OF


def test_an_expired_binding_is_left_to_the_engine(net: Namespaces) -> None:
    soon = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**9
    with lab_of(net, home_agent((NODE, [to(CARE_OF, expires_ns=soon)]))) as lab:
        wrapped = outer(CARE_OF, HOME_AGENT, BACK)
        while time.clock_gettime_ns(time.CLOCK_BOOTTIME) < soon:
            time.sleep(0.05)
        assert lab.send(BACK_THERE) is None
        assert lab.send(wrapped) is None
        assert lab.engine.extend(number(NODE), number(CARE_OF), soon + 10**12)
        assert lab.send(BACK_THERE) is not None
        assert lab.send(wrapped) is not None


def test_without_reverse_tunnel_nothing_is_taken(net: Namespaces) -> None:
    with lab_of(net, home_agent((NODE, [to(CARE_OF, reverse=False)]))) as lab:
        assert lab.send(BACK_THERE) is not None
        assert lab.send(outer(CARE_OF, HOME_AGENT, BACK)) is None


def test_a_learnt_mtu_counts_here_too(away: Lab) -> None:
    """ICMP teaches the engine; the program hears of it."""
    about = outer(HOME_AGENT, CARE_OF, data(CORRESPONDENT, NODE, 1400, ttl=63))
    quote = bytes(about)[:548]
    error = IP(src="10.3.1.1", dst=HOME_AGENT) / ICMP(type=3, code=4, nexthopmtu=1300) / Raw(quote)
    assert away.send(data(CORRESPONDENT, NODE, 1400)) is not None
    port = _dataplane.MemoryPort(away.engine)
    assert port.inject(_dataplane.TUNNEL, [bytes(error)]) == ["icmp-soft-state"]
    assert away.send(data(CORRESPONDENT, NODE, 1252)) is not None
    assert away.send(data(CORRESPONDENT, NODE, 1253)) is None


def test_routes_are_asked_for_anew(away: Lab, net: Namespaces) -> None:
    wrapped = outer(CARE_OF, HOME_AGENT, data(NODE, "10.4.0.1"))
    assert away.send(wrapped) is not None
    net.ip("a", "route", "add", "blackhole", "10.4.0.0/16")
    try:
        assert away.send(wrapped) is not None, "remembered"
        away.program.refresh()
        assert away.send(wrapped) is None
    finally:
        net.ip("a", "route", "del", "blackhole", "10.4.0.0/16")


def test_switched_off_nothing_is_carried(away: Lab) -> None:
    away.program.set_offload(False)
    assert away.send(BACK_THERE) is None


async def test_an_interface_that_is_back_has_the_program_again(net: Namespaces) -> None:
    net.wire("a", "eth5", "b", "eth5")
    engine = _dataplane.Engine(max_bindings=1)
    with net.inside("a"):
        offload = Offload.load(
            engine, own=[number(HOME_AGENT)], home_networks=[NETWORK], interfaces=["eth5"]
        )
        try:
            offload.attach()
            offload.start(asyncio.get_running_loop())
            net.ip("a", "link", "del", "eth5")
            offload.keep()
            assert offload.program.attached() == []
            net.wire("a", "eth5", "b", "eth5")
            offload.keep()
            assert offload.program.attached() == [socket.if_nametoindex("eth5")]
        finally:
            engine.leave_offload()
            offload.close()
    net.ip("a", "link", "del", "eth5")


def test_networks_too_large_are_refused() -> None:
    engine = _dataplane.Engine(max_bindings=1)
    with pytest.raises(BpfError, match="16777216 home addresses: offload has room for 4194304"):
        Offload.load(engine, own=[1], home_networks=[(10 << 24, 8)], interfaces=[])


def test_offload_comes_first_and_once() -> None:
    engine = engine_for(AWAY)
    with pytest.raises(ValueError, match="offload comes before bindings"):
        engine.use_offload([(1, 4)], bytearray(4096))
    engine = _dataplane.Engine(max_bindings=1)
    with pytest.raises(ValueError, match="no room for 33 home addresses"):
        engine.use_offload([(1, 33)], bytearray(4096))
    with pytest.raises(ValueError, match="0 home networks"):
        engine.use_offload([], bytearray(4096))
    engine.use_offload([(1, 4)], bytearray(4096))
    with pytest.raises(ValueError, match="once"):
        engine.use_offload([(1, 4)], bytearray(4096))
