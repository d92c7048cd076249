"""The home agent daemon with ``io = "xdp"``, one interface for everything, among stock kernels."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw
from tests.helpers.home_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_HOST,
    RUN,
    HomeAgentLab,
)
from tests.helpers.namespaces import wait_for
from tests.helpers.node_daemon import node_daemon

from fastmip.runtime.bpf import XdpProgram

pytestmark = pytest.mark.netns


def engine(*interfaces: str) -> str:
    """Lines of ``[engine]``."""
    return f'io = "xdp"\ninterfaces = {json.dumps(interfaces or ["eth0"])}'


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as built:
        built.engine_settings = engine()
        yield built


def echo_server(lab: HomeAgentLab, where: str, address: str, port: int) -> None:
    """Echo TCP connections, one thread each, until the lab ends."""
    with lab.net.inside(where):
        listener = socket.socket()
    listener.bind((address, port))
    listener.listen(8)
    lab.at_end(listener.close)

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def echo(lab: HomeAgentLab, where: str, source: str, to: tuple[str, int], size: int) -> None:
    """Send ``size`` bytes through an echo server and get them back."""
    sent = (b"fastmip " * (size // 8 + 1))[:size]
    with lab.net.inside(where):
        client = socket.socket()
    with client:
        client.settimeout(20)
        client.bind((source, 0))
        client.connect(to)
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        got = bytearray()
        while len(got) < size:
            data = client.recv(1 << 16)
            assert data, "the connection ended early"
            got += data
        sender.join(20)
    assert bytes(got) == sent


def summary(lab: HomeAgentLab) -> dict[str, Any]:
    return dict(lab.ask("show runtime")["summary"])


def assert_no_frame_is_lost(lab: HomeAgentLab) -> None:
    """Once nothing moves, every frame of the workers is in exactly one place."""

    def is_complete() -> bool:
        told = summary(lab)
        places = ("free", "engine", "receiving", "sending")
        return sum(int(told[f"xdp_frames_{place}"]) for place in places) == int(told["xdp_frames"])

    wait_for("the books to agree", is_complete, 10)
    assert lab.counter("io-xdp-strange-frames") == 0


def programs(lab: HomeAgentLab, name: str = "eth0") -> list[str]:
    """XDP programs on an interface of the home agent."""
    (link,) = json.loads(lab.net.run("ha", "ip", "-j", "-d", "link", "show", name))
    return [str(one) for one in link.get("xdp", {}).get("attached", [])] or (
        [str(link["xdp"])] if "xdp" in link else []
    )


def refusal(lab: HomeAgentLab, code: int) -> str:
    """What a daemon says that does not start: one line."""
    lab.write_config()
    command = ["ip", "netns", "exec", lab.net.full("ha"), sys.executable, "-c", RUN]
    done = subprocess.run(
        [*command, str(lab.config)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stderr.splitlines()[-1]


def test_tcp_both_ways_and_to_the_agent_itself_on_one_interface(lab: HomeAgentLab) -> None:
    lab.start()
    echo_server(lab, "cn", CORRESPONDENT, 7000)
    echo_server(lab, "ha", HOME_AGENT, 2222)
    with node_daemon(lab):
        wait_for("the registration", lambda: lab.ask("show binding")["rows"], 20)
        wait_for("the tunnel", lambda: lab.ping("cn", HOME_ADDRESS), 10)
        echo_server(lab, "away", HOME_ADDRESS, 7000)
        echo(lab, "away", HOME_ADDRESS, (CORRESPONDENT, 7000), 3_000_000)
        echo(lab, "cn", CORRESPONDENT, (HOME_ADDRESS, 7000), 3_000_000)
        echo(lab, "cn", CORRESPONDENT, (HOME_AGENT, 2222), 1_000_000)
        echo(lab, "hh", HOME_HOST, (HOME_AGENT, 2222), 1_000_000)
        echo(lab, "away", HOME_ADDRESS, (HOME_AGENT, 2222), 500_000)
        assert lab.counter("io-xdp-read-home") > 1000
        assert lab.counter("io-xdp-read-tunnel") > 1000
        assert lab.counter("io-xdp-sent") > 2000
        assert lab.counter("io-bpf-steered-tunnel") >= lab.counter("io-xdp-read-tunnel")
        assert_no_frame_is_lost(lab)
        balance = lab.ask("show errors")["summary"]
        entered = balance["inputs"] + balance["generated"] + balance["copies"]
        assert entered == balance["verdicts"]


def test_kill_9_leaves_no_program_and_the_next_start_serves(lab: HomeAgentLab) -> None:
    lab.start()
    assert programs(lab)
    lab.register(lab.udp("away", CARE_OF))
    lab.kill()
    wait_for("the kernel to detach", lambda: not programs(lab))
    lab.start()
    tunnel = lab.raw("away", 4)
    lab.net.start("cn", "ping", "-c", "3", "-i", "0.2", "-W", "1", HOME_ADDRESS)
    assert IP(tunnel.recv(4096)).payload.src == CORRESPONDENT
    assert lab.stop() == 0
    assert not programs(lab)


def test_a_program_of_others_is_refused_and_stays(lab: HomeAgentLab) -> None:
    with lab.net.inside("ha"):
        others = XdpProgram.load()
        others.attach(socket.if_nametoindex("eth0"))
    with others:
        before = programs(lab)
        said = refusal(lab, 1)
        assert said.startswith("fastmip: engine.interfaces: eth0: the XDP program ")
        assert said.endswith("is attached already: detach it first")
        assert programs(lab) == before


def test_an_interface_that_does_not_exist_is_refused(lab: HomeAgentLab) -> None:
    lab.engine_settings = engine("eth0", "eth7")
    said = refusal(lab, 1)
    assert said.startswith("fastmip: engine.interfaces: eth7 is not an interface of this machine: ")
    assert not programs(lab)


def send_frames(lab: HomeAgentLab, frames: list[bytes]) -> None:
    """From the router's port, straight to the home agent's interface."""
    out = lab.packet("rt", "to-ha", 0x0003)
    for frame in frames:
        out.send(frame)


def test_frames_of_every_kind_leave_the_daemon_serving(lab: HomeAgentLab) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    head = Ether(src="02:00:00:00:00:01", dst=lab.mac("ha"))
    inner = IP(src=HOME_ADDRESS, dst=CORRESPONDENT) / UDP() / Raw(bytes(100))
    good = bytes(head / IP(src=CARE_OF, dst=HOME_AGENT, proto=4) / inner)
    frames = [good[:size] for size in range(14, len(good), 3)]
    frames += [bytes(head / Dot1Q(vlan=5) / inner), bytes(head / Raw(bytes(60)))]
    frames += [bytes(head / IP(src=CARE_OF, dst=HOME_AGENT, proto=4, flags="MF") / inner)]
    frames += [bytes(head / IP(src=CORRESPONDENT, dst=HOME_ADDRESS, len=2000) / Raw(bytes(50)))]
    send_frames(lab, [frame.ljust(14, b"\0") for frame in frames] * 5)
    assert lab.ping("hh", HOME_AGENT)
    lab.register(lab.udp("away", CARE_OF))
    assert_no_frame_is_lost(lab)


def test_a_flapping_carrier_costs_no_frame(lab: HomeAgentLab) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    pings = lab.net.start("cn", "ping", "-q", "-i", "0.002", "-c", "2000", HOME_ADDRESS)
    for _ in range(100):
        lab.net.ip("rt", "link", "set", "to-ha", "down")
        lab.net.ip("rt", "link", "set", "to-ha", "up")
    pings.terminate()
    pings.wait(10)
    wait_for("the link", lambda: lab.ping("hh", HOME_AGENT), 20)
    lab.register(lab.udp("away", CARE_OF))
    tunnel = lab.raw("away", 4)

    def arrives() -> bool:
        lab.net.run("cn", "ping", "-c", "1", "-W", "1", HOME_ADDRESS, check=False)
        try:
            return bool(tunnel.recv(4096))
        except TimeoutError:
            return False

    wait_for("the tunnel", arrives, 30)
    assert_no_frame_is_lost(lab)


def test_interfaces_go_and_come_back(lab: HomeAgentLab) -> None:
    lab.net.wire("ha", "eth1", "rt", "second")
    lab.engine_settings = engine("eth0", "eth1")
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    for _ in range(2):
        lab.net.ip("ha", "link", "del", "eth1")
        wait_for("its sockets to be closed", lambda: summary(lab)["xdp_sockets"] == 1, 20)
        lab.net.wire("ha", "eth1", "rt", "second")
        wait_for("its sockets", lambda: summary(lab)["xdp_sockets"] == 2, 20)
    assert lab.log().count("xdp-interface-gone") == 2
    lab.net.ip("ha", "link", "set", "eth1", "mtu", "9000")
    lab.net.ip("ha", "link", "set", "eth1", "down")
    lab.net.ip("ha", "link", "set", "eth1", "name", "lan1")
    wait_for("a word of it", lambda: "xdp-interface-renamed" in lab.log(), 20)
    tunnel = lab.raw("away", 4)
    lab.net.start("cn", "ping", "-c", "3", "-i", "0.2", "-W", "1", HOME_ADDRESS)
    assert IP(tunnel.recv(4096)).payload.src == CORRESPONDENT
    assert_no_frame_is_lost(lab)
    assert lab.stop() == 0


def test_two_workers_take_a_queue_each(lab: HomeAgentLab) -> None:
    lab.net.run("rt", "ethtool", "-L", "to-ha", "rx", "2", "tx", "2")
    lab.net.run("ha", "ethtool", "-L", "eth0", "rx", "2", "tx", "2")
    lab.workers = 2
    lab.start()
    assert summary(lab)["xdp_sockets"] == 2
    lab.register(lab.udp("away", CARE_OF))
    tunnel = lab.raw("away", 4)
    client = lab.udp("cn", CORRESPONDENT)
    deadline = time.monotonic() + 20
    for port in range(1000, 1064):  # flows spread over queues
        client.sendto(bytes([port & 255]), (HOME_ADDRESS, port))
        assert IP(tunnel.recv(4096)).payload.src == CORRESPONDENT
        assert time.monotonic() < deadline
    assert lab.counter("io-xdp-read-home") >= 60
    assert_no_frame_is_lost(lab)


def test_without_a_neighbour_the_kernel_asks_and_nothing_is_lost(lab: HomeAgentLab) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    tunnel = lab.raw("away", 4)
    client = lab.udp("cn", CORRESPONDENT)
    for number in range(20):
        if number % 5 == 0:
            lab.net.ip("ha", "neigh", "flush", "all")
        client.sendto(bytes([number]), (HOME_ADDRESS, 5000))
        assert bytes(IP(tunnel.recv(4096)).payload.payload.payload)[-1] == number
    assert lab.counter("io-xdp-read-home") >= 20
