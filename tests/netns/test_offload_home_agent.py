"""The home agent daemon with ``offload = true``, among stock kernels."""

from __future__ import annotations

import ctypes
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from tests.helpers.home_agent_lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_ADDRESS,
    HOME_AGENT,
    HomeAgentLab,
)
from tests.helpers.namespaces import wait_for
from tests.helpers.node_daemon import node_daemon

from fastmip.runtime.bpf import XdpProgram
from fastmip.runtime.libbpf import TCX_INGRESS

pytestmark = pytest.mark.netns
ENGINE = 'offload = true\ninterfaces = ["eth0"]'


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HomeAgentLab]:
    with HomeAgentLab(tmp_path) as built:
        built.engine_settings = ENGINE
        # A veth takes redirected frames with GRO on; checksums must be whole before XDP.
        built.net.run("rt", "ethtool", "-K", "to-ha", "gro", "on")
        for name in ("cn", "away", "hh"):
            built.net.run(name, "ethtool", "-K", "eth0", "tx", "off")
        yield built


def offloaded(lab: HomeAgentLab, verdict: str) -> int:
    return int(lab.ask("show runtime")["summary"][f"offload_{verdict}"])


def octets_of(lab: HomeAgentLab, verdict: str) -> int:
    rows = lab.ask("show errors")["rows"]
    return sum(int(row["bytes"]) for row in rows if row["verdict"] == verdict)


def programs_at_tc(lab: HomeAgentLab) -> int:
    count, query = ctypes.c_uint32(0), ctypes.CDLL("libbpf.so.1").bpf_prog_query
    with lab.net.inside("ha"):
        ifindex = socket.if_nametoindex("eth0")
        assert query(ifindex, TCX_INGRESS, 0, None, None, ctypes.byref(count)) == 0
    return count.value


def test_packets_go_through_the_kernel_and_are_counted(lab: HomeAgentLab) -> None:
    lab.start()
    assert lab.ask("show runtime")["summary"]["offload"] == "on"
    lab.register(lab.udp("away", CARE_OF))
    tunnel = lab.raw("away", 4)
    ping = lab.net.start("cn", "ping", "-q", "-c", "50", "-i", "0.02", "-W", "1", HOME_ADDRESS)
    seen = [IP(tunnel.recv(4096)) for _ in range(50)]
    ping.wait(20)
    assert {packet.dst for packet in seen} == {CARE_OF}
    assert {packet.payload.src for packet in seen} == {CORRESPONDENT}
    assert {packet.payload.ttl for packet in seen} == {62}  # the router's and ours
    carried = offloaded(lab, "encapsulated")
    assert carried > 25  # some are the kernel's, which keeps its neighbours
    assert lab.verdict("encapsulated") == 50
    assert lab.ask("observe")["roles"][0]["verdicts"]["encapsulated"][0] == 50
    (row,) = lab.ask("show tunnel")["rows"]
    assert row["sent_packets"] == 50
    lab.ask("clear traffic")
    assert lab.verdict("encapsulated") == 0


@pytest.mark.parametrize("hook", ["xdp", "tc"])
def test_tcp_both_ways(lab: HomeAgentLab, hook: str) -> None:
    """At TC with unfinished checksums and super-frames, as veths have them by default."""
    if hook == "tc":
        lab.engine_settings = f'{ENGINE}\noffload_hook = "tc"'
        lab.net.run("rt", "ethtool", "-K", "to-ha", "gro", "off")
        for name in ("cn", "away", "hh"):
            lab.net.run(name, "ethtool", "-K", "eth0", "tx", "on", "tso", "on")
    lab.start()
    assert lab.ask("show runtime")["summary"]["offload_hook"] == hook
    with node_daemon(lab):
        wait_for("the registration", lambda: lab.ask("show binding")["rows"], 20)
        wait_for("the tunnel", lambda: lab.ping("cn", HOME_ADDRESS), 10)
        with lab.net.inside("away"):
            listener = socket.create_server((HOME_ADDRESS, 7000))
        lab.at_end(listener.close)

        def echo() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        threading.Thread(target=echo, daemon=True).start()
        sent = bytes(range(256)) * 4000
        with lab.net.inside("cn"):
            client = socket.create_connection((HOME_ADDRESS, 7000), 20)
        with client:
            sender = threading.Thread(target=client.sendall, args=(sent,))
            sender.start()
            got = bytearray()
            while len(got) < len(sent):
                got += client.recv(1 << 16)
            sender.join(20)
        assert bytes(got) == sent
        for way in ("encapsulated", "decapsulated"):
            carried, octets = offloaded(lab, way), octets_of(lab, way)
            if hook == "xdp":
                assert carried > 500
            assert octets > len(sent) / 2
            if hook == "tc" and way == "encapsulated":  # the node's engine sends no super-frames
                assert octets / carried > 1500, "super-frames"
        assert lab.verdict("drop-redirect") == 0
    if hook == "tc":
        lab.kill()
        wait_for("the kernel to detach", lambda: programs_at_tc(lab) == 0)
        lab.start()
        assert programs_at_tc(lab) == 1
        assert lab.stop() == 0
        assert programs_at_tc(lab) == 0


def test_what_an_interface_does_not_take_is_a_drop_and_ends_offload(lab: HomeAgentLab) -> None:
    lab.net.run("rt", "ethtool", "-K", "to-ha", "gro", "off")
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    flood = lab.net.start("cn", "ping", "-q", "-c", "100000", "-i", "0.002", HOME_ADDRESS)
    wait_for(
        "offload to give up", lambda: lab.ask("show runtime")["summary"]["offload"] == "off", 30
    )
    summary = lab.ask("show runtime")["summary"]
    assert summary["offload_trouble"] == "interfaces do not take what XDP redirects"
    assert summary["offload_drop_redirect"] >= 64
    assert summary["offload_encapsulated"] == 0
    assert lab.verdict("drop-redirect") == summary["offload_drop_redirect"]
    assert "offload-given-up" in lab.log()
    tunnel = lab.raw("away", 4)
    assert IP(tunnel.recv(4096)).payload.src == CORRESPONDENT  # the engine carries on
    flood.terminate()


def test_refused_the_engine_carries_on(lab: HomeAgentLab) -> None:
    with lab.net.inside("ha"):
        others = XdpProgram.load()
        others.attach(socket.if_nametoindex("eth0"))
    with others:
        lab.start()
        assert lab.ask("show runtime")["summary"]["offload"] == "off"
        refusals = [line for line in lab.log().splitlines() if "offload-refused" in line]
        assert len(refusals) == 1
        assert "eth0: the XDP program fastmip" in refusals[0]
        lab.register(lab.udp("away", CARE_OF))
        tunnel = lab.raw("away", 4)
        lab.net.start("cn", "ping", "-c", "3", "-i", "0.2", "-W", "1", HOME_ADDRESS)
        assert IP(tunnel.recv(4096)).payload.src == CORRESPONDENT


def test_kill_9_detaches(lab: HomeAgentLab) -> None:
    lab.start()
    show = ("ip", "link", "show", "eth0")
    assert "prog/xdp" in lab.net.run("ha", *show)
    lab.kill()
    wait_for("the kernel to detach", lambda: "xdp" not in lab.net.run("ha", *show))
    lab.start()
    assert "prog/xdp" in lab.net.run("ha", *show)
    assert lab.stop() == 0
    assert "xdp" not in lab.net.run("ha", *show)


def test_a_new_route_counts_at_once(lab: HomeAgentLab) -> None:
    lab.start()
    lab.register(lab.udp("away", CARE_OF))
    tunnel = lab.raw("away", 4)
    lab.net.start("cn", "ping", "-q", "-c", "100000", "-i", "0.01", HOME_ADDRESS)
    wait_for("offload", lambda: offloaded(lab, "encapsulated") > 5)
    tunnel.recv(4096)
    lab.net.ip("ha", "route", "add", "blackhole", f"{CARE_OF}/32")

    def stands_still() -> bool:
        before = offloaded(lab, "encapsulated")
        time.sleep(0.3)  # thirty more pings
        return offloaded(lab, "encapsulated") == before

    wait_for("the blackhole to count", stands_still)
    before = offloaded(lab, "encapsulated")
    lab.net.ip("ha", "route", "del", "blackhole", f"{CARE_OF}/32")
    wait_for("offload again", lambda: offloaded(lab, "encapsulated") > before)


def test_with_sockets_of_af_xdp(lab: HomeAgentLab) -> None:
    lab.engine_settings = 'io = "xdp"\n' + ENGINE
    lab.start()
    summary = lab.ask("show runtime")["summary"]
    assert summary["offload"] == "on"
    assert summary["xdp_interfaces"] == "eth0"
    lab.register(lab.udp("away", CARE_OF))
    tunnel = lab.raw("away", 4)
    lab.net.start("cn", "ping", "-q", "-c", "100000", "-i", "0.01", HOME_ADDRESS)
    wait_for("offload", lambda: offloaded(lab, "encapsulated") > 5)
    assert IP(tunnel.recv(4096)).dst == CARE_OF
    assert lab.ping("hh", HOME_AGENT)
    assert lab.stop() == 0


def test_a_kernel_that_refuses_the_program_is_told_of(lab: HomeAgentLab) -> None:
    lab.start("setpriv", "--bounding-set", "-bpf,-sys_admin,-perfmon")
    summary = lab.ask("show runtime")["summary"]
    assert summary["offload"] == "off"
    assert "CAP_BPF" in summary["offload_trouble"]
