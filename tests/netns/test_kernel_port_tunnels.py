"""Every kind of tunnel over the kernel port: GRE, minimal encapsulation and all of them in UDP.

What holds for IP in IP in test_kernel_port.py holds for each of them, with other headers.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw
from tests.helpers.namespaces import wait_for
from tests.helpers.tunnel_lab import (
    AGENT,
    CARE_OF_ADDRESS,
    CORRESPONDENT,
    HOME_ADDRESS,
    KINDS,
    Kind,
    TunnelLab,
    record,
    tunnel_lab,
)
from tests.netns.test_kernel_port import (
    IP_MTU_DISCOVER,
    IP_PMTUDISC_DO,
    IP_PMTUDISC_DONT,
    IP_RECVERR,
    UDP_SEGMENT,
    receive,
    receiver,
    sender,
    transfer,
    ttl_after,
    wait_for_error,
)

pytestmark = pytest.mark.netns

HERE, THERE = ("cn", CORRESPONDENT), ("mn", HOME_ADDRESS)
OTHERS = [name for name in KINDS if name != "ipip"]
UDP_KINDS = [name for name in KINDS if KINDS[name].is_udp]


@pytest.fixture(params=OTHERS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def lab(kind: Kind) -> Iterator[TunnelLab]:
    with tunnel_lab(kind=kind) as built:
        yield built
        for side in (built.agent, built.node):
            side.engine.stop()
            side.check_balance()


def sent(lab: TunnelLab, kind: Kind) -> int:
    return lab.agent.count("udp-sent" if kind.is_udp else "tunnel-sent")


def test_packets_of_all_sorts_pass_both_ways(lab: TunnelLab, kind: Kind) -> None:
    lab.run("cn", "ping", "-c3", "-i0.05", "-W2", HOME_ADDRESS)
    lab.run("mn", "ping", "-c3", "-i0.05", "-W2", "-I", HOME_ADDRESS, CORRESPONDENT)
    assert lab.agent.count("encapsulated") == lab.agent.count("decapsulated") == 6
    wait_for("the count", lambda: sent(lab, kind) == 6)
    assert ttl_after(lab, HERE, THERE, 40) == 39
    assert ttl_after(lab, THERE, HERE, 40) == 39
    with (
        receiver(lab, "mn", HOME_ADDRESS, 5000) as here,
        sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there,
    ):
        there.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        for size in (1472 - kind.overhead, 1473 - kind.overhead, 1472, 9000, 60000):
            payload = os.urandom(size)
            there.send(payload)
            assert receive(here)[0] == payload
    assert lab.agent.count("tunnel-too-big") == 0


def test_tcp_bulk_arrives_whole_both_ways(lab: TunnelLab, kind: Kind) -> None:
    transfer(lab, HERE, THERE, 8 << 20)
    assert lab.agent.count("home-super-frames") > 50
    transfer(lab, THERE, HERE, 8 << 20)
    assert lab.agent.count("home-merged") > 100
    if kind.is_udp:  # many packets of one size leave as one message, and arrive so
        assert lab.agent.count("udp-sent-merged") > lab.agent.count("udp-sent") // 2
        assert lab.node.count("udp-merged") > 50
    drops = {name: n for name, (n, _) in lab.agent.engine.counters().items() if "drop" in name}
    assert {name for name, count in drops.items() if count} <= {"drop-too-big"}


def test_udp_super_frames_arrive_as_the_datagrams_that_were_sent(lab: TunnelLab) -> None:
    segment, count = 1200, 25
    payload = os.urandom(segment * count - 3)
    with (
        receiver(lab, "mn", HOME_ADDRESS, 5000) as here,
        sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there,
    ):
        there.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        there.sendmsg([payload], [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment))])
        got = [receive(here)[0] for _ in range(count)]
    assert b"".join(got) == payload
    assert [len(data) for data in got[:-1]] == [segment] * (count - 1)


def test_too_big_packet_is_answered_with_what_the_headers_leave(lab: TunnelLab, kind: Kind) -> None:
    fits = 1500 - kind.overhead
    with (
        receiver(lab, "mn", HOME_ADDRESS, 5000) as here,
        sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there,
    ):
        there.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        there.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        there.send(bytes(fits - 27))
        assert wait_for_error(there) == (errno.EMSGSIZE, 3, 4, fits)
        there.send(bytes(fits - 28))
        assert len(receive(here)[0]) == fits - 28
    assert lab.agent.count("drop-too-big") == 1
    assert lab.agent.count("tunnel-too-big") == 0


def test_a_link_mtu_lowered_on_the_run_is_learnt(lab: TunnelLab, kind: Kind) -> None:
    """No router reports it: the home agent's own kernel refuses with EMSGSIZE."""
    lab.ip("ha", "link", "set", "t0", "mtu", "1300")
    with sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there:
        there.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        there.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        there.send(bytes(1400))
        wait_for("the refusal", lambda: lab.agent.count("tunnel-too-big") == 1)
        there.send(bytes(1400))
        code, _, icmp_code, told = wait_for_error(there)
    assert (code, icmp_code) == (errno.EMSGSIZE, 4)
    assert told == 1300 - kind.overhead


def test_an_error_about_an_outer_packet_is_relayed_rfc2003_4(lab: TunnelLab) -> None:
    """A router beyond the home agent quotes what it was sent; the correspondent hears of it."""
    with (
        lab.socket("mn", socket.SOCK_RAW, socket.IPPROTO_RAW) as router,
        sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there,
    ):
        there.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        quoted = sniff_one(lab, there)
        report = IP(src=CARE_OF_ADDRESS, dst=AGENT) / ICMP(type=3, code=1) / Raw(quoted)
        router.sendto(bytes(report), (AGENT, 0))
        code, kind_of_error, _, _ = wait_for_error(there)
    assert (code, kind_of_error) == (errno.EHOSTUNREACH, 3)
    assert lab.agent.count("icmp-read") == 1


def sniff_one(lab: TunnelLab, there: socket.socket) -> bytes:
    """Send one datagram; the outer packet that carried it, as seen on the mobile node's link."""
    with lab.inside("mn"):
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with sniffer, receiver(lab, "mn", HOME_ADDRESS, 5000) as here:
        sniffer.bind(("eth0", 0x0800))
        sniffer.settimeout(5)
        there.send(b"original")
        receive(here)
        while True:
            packet = sniffer.recv(2000)
            if b"original" in packet:
                return packet


def stranger(source_port: int = 0, **fields: Any) -> bytes:
    """Tunnel data for a home address, claimed to come from its care-of address."""
    inner = IP(src=HOME_ADDRESS, dst=CORRESPONDENT) / UDP(sport=1, dport=5000) / b"forged"
    shim = Raw(b"\x04\x04\0\0" + bytes(inner))
    network = IP(src=fields.get("src", CARE_OF_ADDRESS), dst=AGENT)
    return bytes(network / UDP(sport=source_port, dport=434) / shim)


@pytest.fixture
def udp_lab() -> Iterator[TunnelLab]:
    with tunnel_lab(kind=KINDS["ipip-udp"]) as built:
        yield built
        for side in (built.agent, built.node):
            side.engine.stop()
            side.check_balance()


def test_tunnel_data_of_strangers_is_dropped_counted_and_never_answered(
    udp_lab: TunnelLab,
) -> None:
    """Nor is a peer believed on another port than its own (RFC 3519 4.9)."""
    lab = udp_lab
    lab.ip("mn", "addr", "add", "10.3.0.6/24", "dev", "eth0")
    with (
        lab.socket("mn", socket.SOCK_RAW, socket.IPPROTO_ICMP) as answers,
        lab.socket("mn", socket.SOCK_RAW, socket.IPPROTO_RAW) as there,
    ):
        for _ in range(20):
            there.sendto(stranger(lab.node.udp_port ^ 1), (AGENT, 0))
            there.sendto(stranger(lab.node.udp_port, src="10.3.0.6"), (AGENT, 0))
        wait_for("the drops", lambda: lab.agent.count("udp-read") == 40)
        wait_for("the verdicts", lambda: lab.agent.count("drop-udp-port") == 20)
        assert lab.agent.count("drop-care-of-address") == 20
        answers.settimeout(0.2)
        with pytest.raises(TimeoutError):
            answers.recv(2000)
    assert lab.agent.count("decapsulated") == 0


def test_registration_and_tunnel_share_the_port(udp_lab: TunnelLab) -> None:
    lab = udp_lab
    with (
        lab.socket("mn", socket.SOCK_DGRAM) as peer,
        receiver(lab, "mn", HOME_ADDRESS, 5000) as here,
        sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there,
    ):
        for index in range(50):
            peer.sendto(b"\x01" + bytes([index]), (AGENT, 434))
            there.send(bytes([index]))
            assert receive(here)[0] == bytes([index])
            assert lab.agent.control.recv(100) == b"\x01" + bytes([index])
    assert lab.agent.count("udp-not-data") == 0


def test_datagrams_merged_by_a_nic_are_cut_again(udp_lab: TunnelLab) -> None:
    """Whether a NIC's GRO merges a flow is the kernel's choice; of many flows it merges some.

    The registration message at the end of each may be merged, too, and must not be lost.
    """
    lab = udp_lab
    lab.run("ha", "ethtool", "-K", "t0", "gro", "on")
    lab.run("mn", "ethtool", "-K", "eth0", "tx-udp-segmentation", "off", "tso", "off")
    lab.run("ha", "sh", "-c", "echo 200000 > /sys/class/net/t0/gro_flush_timeout")
    data = b"".join(b"\x04\x04\0\0" + os.urandom(996) for _ in range(30))
    request = b"\x01" + bytes(70)
    ports = set()
    for _ in range(16):
        with lab.socket("mn", socket.SOCK_DGRAM) as peer:
            peer.bind((CARE_OF_ADDRESS, 0))
            ports.add(peer.getsockname()[1])
            control = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", 1000))]
            peer.sendmsg([data + request], control, 0, (AGENT, 434))
    heard = [lab.agent.control.recvfrom(2000) for _ in ports]
    assert {data for data, _ in heard} == {request}
    assert {peer for _, peer in heard} == {(CARE_OF_ADDRESS, port) for port in ports}
    wait_for("the data", lambda: merged_parts(lab) == 16 * 30)
    assert lab.agent.count("udp-merged") > 0
    assert lab.agent.count("udp-handed-back") > 0


def merged_parts(lab: TunnelLab) -> int:
    single = lab.agent.count("udp-read") - lab.agent.count("udp-merged")
    return single + lab.agent.count("tunnel-segments")


def test_gre_packets_merged_by_a_nic_are_cut_again() -> None:
    with tunnel_lab(kind=KINDS["gre"]) as lab:
        lab.run("ha", "ethtool", "-K", "t0", "gro", "on")
        lab.run("mn", "ethtool", "-K", "eth0", "tso", "off")
        lab.run("ha", "sh", "-c", "echo 200000 > /sys/class/net/t0/gro_flush_timeout")
        transfer(lab, THERE, HERE, 8 << 20)
        assert lab.agent.count("tunnel-merged") > 0
        assert lab.agent.count("tunnel-segments") > lab.agent.count("tunnel-merged")
        lab.agent.engine.stop()
        lab.agent.check_balance()


def test_three_workers_share_every_kind_of_tunnel_without_duplicates() -> None:
    """Nodes of all kinds behind one home agent: each packet is decapsulated once."""
    with tunnel_lab(workers=3) as lab:
        homes: dict[str, Kind] = {f"10.1.0.{60 + i}": kind for i, kind in enumerate(KINDS.values())}
        for home, kind in homes.items():
            lab.ip("mn", "addr", "add", f"{home}/32", "dev", "fm0")
            lab.ip("mn", "rule", "add", "from", home, "lookup", "100", "priority", "100")
            here, there = lab.agent.udp_port, lab.node.udp_port
            agent: dict[str, int] = {"encapsulation": kind.encapsulation}
            node = dict(agent)
            if kind.is_udp:
                agent |= {"local_port": here, "remote_port": there}
                node |= {"local_port": there, "remote_port": here}
            lab.agent.install(record(home, CARE_OF_ADDRESS, AGENT, **agent))
            lab.node.install(record(home, AGENT, CARE_OF_ADDRESS, **node))
        with receiver(lab, "cn", CORRESPONDENT, 5000) as here_socket:
            for home in homes:
                with sender(lab, "mn", home, CORRESPONDENT, 5000, 64) as there_socket:
                    for index in range(20):
                        there_socket.send(bytes([index]))
                    assert [receive(here_socket)[0][0] for _ in range(20)] == list(range(20))
            here_socket.settimeout(0.1)
            with pytest.raises(TimeoutError):
                receive(here_socket)
        for home in homes:
            lab.run("cn", "ping", "-c2", "-i0.05", "-W2", home)
        time.sleep(0.05)
        assert lab.agent.count("decapsulated") == len(homes) * 22
        lab.agent.check_balance()
