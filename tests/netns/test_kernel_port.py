"""The kernel port between stock kernels: every path, every gotcha, with real packets."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
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
    HOME_HOST,
    TUN,
    TunnelLab,
    number,
    record,
    tunnel_lab,
)

from fastmip._dataplane import Engine

pytestmark = pytest.mark.netns

UDP_SEGMENT = 103
IP_RECVTTL, IP_TTL, IP_RECVERR, IP_MTU_DISCOVER, IP_MTU = 12, 2, 11, 10, 14
IP_PMTUDISC_DONT, IP_PMTUDISC_DO = 0, 2


@pytest.fixture
def lab() -> Iterator[TunnelLab]:
    with tunnel_lab() as built:
        yield built
        for side in (built.agent, built.node):
            side.engine.stop()
            side.check_balance()


@pytest.fixture(params=[True, False], ids=["io_uring", "read"])
def either_lab(request: pytest.FixtureRequest) -> Iterator[TunnelLab]:
    """The lab with each way to read the TUN device under load."""
    with tunnel_lab(ring=request.param) as built:
        wanted = "io_uring" if request.param else "read"
        if built.agent.engine.worker_status()[0]["home_reads"] != wanted:
            pytest.skip("io_uring is missing or forbidden here")
        yield built
        for side in (built.agent, built.node):
            side.engine.stop()
            side.check_balance()


def receiver(lab: TunnelLab, name: str, address: str, port: int) -> socket.socket:
    """A bound UDP socket that also tells the TTL of what it receives."""
    made = lab.socket(name, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    made.bind((address, port))
    return made


def sender(lab: TunnelLab, name: str, source: str, to: str, port: int, ttl: int) -> socket.socket:
    """A connected UDP socket."""
    made = lab.socket(name, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IP, IP_TTL, ttl)
    made.bind((source, 0))
    made.connect((to, port))
    return made


def receive(made: socket.socket) -> tuple[bytes, int]:
    """The next datagram and its TTL."""
    data, control, _, _ = made.recvmsg(65535, 64)
    (ttl,) = (struct.unpack("=i", value)[0] for _, kind, value in control if kind == IP_TTL)
    return data, ttl


def ttl_after(lab: TunnelLab, one: tuple[str, str], two: tuple[str, str], ttl: int = 40) -> int:
    with receiver(lab, *two, 5000) as here, sender(lab, *one, two[1], 5000, ttl) as there:
        there.send(b"hop")
        data, left = receive(here)
    assert data == b"hop"
    return left


def test_ping_crosses_the_tunnel_both_ways(lab: TunnelLab) -> None:
    lab.run("cn", "ping", "-c3", "-i0.05", "-W2", HOME_ADDRESS)
    lab.run("mn", "ping", "-c3", "-i0.05", "-W2", "-I", HOME_ADDRESS, CORRESPONDENT)
    assert lab.agent.count("encapsulated") == 6
    assert lab.agent.count("decapsulated") == 6
    wait_for("the count", lambda: lab.agent.count("home-written") == 6)  # after the batch


@pytest.mark.parametrize(
    ("one", "two", "hops"),
    [
        (("cn", CORRESPONDENT), ("mn", HOME_ADDRESS), 1),
        (("mn", HOME_ADDRESS), ("cn", CORRESPONDENT), 1),
        (("ha", AGENT), ("mn", HOME_ADDRESS), 0),
        (("mn", HOME_ADDRESS), ("ha", AGENT), 0),
        # Without a binding: written back and routed normally, as if there were no TUN device.
        (("cn", CORRESPONDENT), ("hh", HOME_HOST), 1),
        (("ha", AGENT), ("hh", HOME_HOST), 0),
        (("hh", HOME_HOST), ("cn", CORRESPONDENT), 1),
    ],
)
def test_ttl_drops_exactly_once_per_forwarding(
    lab: TunnelLab, one: tuple[str, str], two: tuple[str, str], hops: int
) -> None:
    assert ttl_after(lab, one, two) == 40 - hops


def test_ttl_of_255_stays_in_range_when_written_back(lab: TunnelLab) -> None:
    assert ttl_after(lab, ("cn", CORRESPONDENT), ("hh", HOME_HOST), 255) == 254
    # The hop of a packet of the home agent itself cannot be put back at 255.
    assert ttl_after(lab, ("ha", AGENT), ("hh", HOME_HOST), 255) == 254


def test_last_hop_is_not_written_back_but_answered_by_the_kernel(lab: TunnelLab) -> None:
    with sender(lab, "cn", CORRESPONDENT, HOME_HOST, 5000, 1) as there:
        there.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        there.send(b"x")
        assert wait_for_error(there) == (errno.EHOSTUNREACH, 11, 0, 0)
    assert lab.agent.count("home-read") == 0


def wait_for_error(made: socket.socket) -> tuple[int, int, int, int]:
    """errno, ICMP type, code and info of the next ICMP error."""

    def read() -> tuple[int, int, int, int] | None:
        try:
            _, control, _, _ = made.recvmsg(2000, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        code, _, kind, icmp_code, _, info, _ = struct.unpack_from("=IBBBBII", control[0][2])
        return code, kind, icmp_code, info

    result: tuple[int, int, int, int] = wait_for("an ICMP error", read)
    return result


def transfer(lab: TunnelLab, one: tuple[str, str], two: tuple[str, str], size: int) -> None:
    """Send `size` bytes over TCP from one to two; both ends must agree on their digest."""
    block = os.urandom(1 << 16)
    digests: list[str] = []
    listener = lab.socket(two[0], socket.SOCK_STREAM)
    listener.bind((two[1], 6000))
    listener.listen(1)

    def sink() -> None:
        connection, _ = listener.accept()
        digest = hashlib.sha256()
        with connection:
            connection.settimeout(20)
            while data := connection.recv(1 << 18):
                digest.update(data)
        digests.append(digest.hexdigest())

    thread = threading.Thread(target=sink)
    thread.start()
    expected = hashlib.sha256()
    with listener, lab.socket(one[0], socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.bind((one[1], 0))
        client.connect((two[1], 6000))
        for _ in range(size // len(block)):
            client.sendall(block)
            expected.update(block)
        client.shutdown(socket.SHUT_WR)
        thread.join(30)
    assert digests == [expected.hexdigest()]


def test_tcp_bulk_towards_the_node_arrives_as_super_frames(lab: TunnelLab) -> None:
    transfer(lab, ("cn", CORRESPONDENT), ("mn", HOME_ADDRESS), 20 << 20)
    assert lab.agent.count("home-super-frames") > 100
    assert lab.agent.count("home-segments") > 10 * lab.agent.count("home-super-frames")
    assert lab.agent.count("drop-too-big") <= 20 * 50  # only until the sender learnt the MTU


def test_tcp_bulk_from_the_node_arrives_whole(lab: TunnelLab) -> None:
    transfer(lab, ("mn", HOME_ADDRESS), ("cn", CORRESPONDENT), 20 << 20)
    assert lab.node.count("home-super-frames") > 100
    assert lab.agent.count("home-merged") > 1000  # written to the TUN device as super-frames
    assert lab.agent.count("decapsulated") > (20 << 20) // 1500


def test_tcp_to_a_host_at_home_passes_written_back(lab: TunnelLab) -> None:
    transfer(lab, ("cn", CORRESPONDENT), ("hh", HOME_HOST), 4 << 20)
    assert lab.agent.count("returned-no-binding") > (4 << 20) // 1500
    assert lab.agent.count("home-circling") == 0


@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "cut"])
def test_merged_tunnel_packets_arrive(lab: TunnelLab, *, is_cut: bool) -> None:
    """GRO of a NIC merges IP-in-IP/TCP before raw sockets see it, checksum unfinished.

    What may go on to another node is cut: here the correspondent lies between home addresses.
    """
    if is_cut:
        lab.agent.install(record("10.250.0.1", CARE_OF_ADDRESS, AGENT))
    lab.run("ha", "ethtool", "-K", "t0", "gro", "on")
    lab.run("mn", "ethtool", "-K", "eth0", "tso", "off")  # veth merges only what came in pieces
    timeout = "echo 200000 > /sys/class/net/t0/gro_flush_timeout"  # nanoseconds; as NICs do
    lab.run("ha", "sh", "-c", timeout)
    transfer(lab, ("mn", HOME_ADDRESS), ("cn", CORRESPONDENT), 20 << 20)
    assert (lab.agent.count("tunnel-merged") > 0) == is_cut
    assert (lab.agent.count("tunnel-whole") > 0) != is_cut
    if is_cut:
        assert lab.agent.count("tunnel-segments") > lab.agent.count("tunnel-merged")


@pytest.mark.parametrize(("segment", "count"), [(1200, 25), (100, 60), (1452, 7)])
def test_udp_super_frames_arrive_as_the_datagrams_that_were_sent(
    lab: TunnelLab, segment: int, count: int
) -> None:
    payload = os.urandom(segment * count - 3)
    with (
        receiver(lab, "mn", HOME_ADDRESS, 5000) as here,
        sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there,
    ):
        there.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        control = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment))]
        there.sendmsg([payload], control)
        got = [receive(here)[0] for _ in range(count)]
    assert b"".join(got) == payload
    assert [len(data) for data in got[:-1]] == [segment] * (count - 1)
    if lab.agent.count("home-super-frames"):  # kernels before 6.2 cut it themselves
        assert lab.agent.count("home-segments") == count


def test_too_big_packet_with_df_is_answered_with_the_tunnel_budget_rfc1191(lab: TunnelLab) -> None:
    with sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there:
        there.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        there.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        there.send(bytes(1472))
        assert wait_for_error(there) == (errno.EMSGSIZE, 3, 4, 1480)
        assert there.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1480
    assert lab.agent.count("drop-too-big") == 1
    assert lab.agent.count("icmp-sent") == 1


def test_too_big_packet_without_df_arrives_whole(lab: TunnelLab) -> None:
    with (
        receiver(lab, "mn", HOME_ADDRESS, 5000) as here,
        sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there,
    ):
        there.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        for size in (1472, 1473, 9000, 60000):
            payload = os.urandom(size)
            there.send(payload)
            assert receive(here)[0] == payload
    assert lab.agent.count("tunnel-too-big") == 0


def test_fragmented_outer_packet_is_reassembled(lab: TunnelLab) -> None:
    payload = os.urandom(40000)
    inner = IP(src=HOME_ADDRESS, dst=CORRESPONDENT) / UDP(sport=1, dport=5000) / payload
    outer: Any = IP(src=CARE_OF_ADDRESS, dst=AGENT, proto=4, id=7) / Raw(bytes(inner))
    pieces = outer.fragment(1400)
    assert len(pieces) > 20
    with (
        receiver(lab, "cn", CORRESPONDENT, 5000) as here,
        lab.socket("mn", socket.SOCK_RAW, socket.IPPROTO_RAW) as there,
    ):
        for piece in pieces:
            there.sendto(bytes(piece), (AGENT, 0))
        assert receive(here)[0] == payload
    assert lab.agent.count("decapsulated") == 1
    assert lab.agent.count("tunnel-large") == 1


def test_kernel_answers_protocol_unreachable_only_while_the_engine_is_away(
    lab: TunnelLab,
) -> None:
    stranger = IP(src=CARE_OF_ADDRESS, dst=AGENT) / IP(src="9.9.9.9", dst=CORRESPONDENT) / UDP()
    with (
        lab.socket("mn", socket.SOCK_RAW, socket.IPPROTO_ICMP) as answers,
        lab.socket("mn", socket.SOCK_RAW, socket.IPPROTO_RAW) as there,
    ):

        def unreachable(timeout_s: float) -> int | None:
            answers.settimeout(timeout_s)
            deadline = time.monotonic() + timeout_s
            while time.monotonic() < deadline:
                try:
                    packet = IP(answers.recv(2000))
                except TimeoutError:
                    return None
                if packet[ICMP].type == 3:
                    return int(packet[ICMP].code)
            return None

        there.sendto(bytes(stranger), (AGENT, 0))
        wait_for("the packet", lambda: lab.agent.count("drop-no-binding") == 1)
        assert unreachable(0.3) is None
        lab.agent.check_balance()
        lab.agent.close()
        there.sendto(bytes(stranger), (AGENT, 0))
        assert unreachable(2) == 2


def test_unreachable_care_of_address_is_told_to_the_sender_rfc2003_4(lab: TunnelLab) -> None:
    """A router beyond the home agent reports an outer packet; the correspondent hears of it."""
    with (
        lab.socket("mn", socket.SOCK_RAW, socket.IPPROTO_RAW) as router,
        sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there,
    ):
        there.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        with receiver(lab, "mn", HOME_ADDRESS, 5000) as here:
            there.send(b"original")
            receive(here)
        inner = IP(src=CORRESPONDENT, dst=HOME_ADDRESS, ttl=63) / UDP(
            sport=there.getsockname()[1], dport=5000
        )
        quoted = IP(src=AGENT, dst=CARE_OF_ADDRESS, proto=4) / Raw(bytes(inner / b"original"))
        report = IP(src=CARE_OF_ADDRESS, dst=AGENT) / ICMP(type=3, code=1) / Raw(bytes(quoted))
        router.sendto(bytes(report), (AGENT, 0))
        code, kind, _, _ = wait_for_error(there)
    assert (code, kind) == (errno.EHOSTUNREACH, 3)
    assert lab.agent.count("icmp-read") == 1


def test_packet_that_cannot_be_sent_is_counted_and_stalls_nobody(lab: TunnelLab) -> None:
    """One refused care-of address among good ones: counted by reason, the others arrive."""
    reasons = {
        "10.1.0.21": ("198.51.100.1", 1500, "tunnel-unreachable"),
        "10.1.0.22": ("10.3.0.99", 9000, "tunnel-too-big"),
        "10.1.0.23": ("10.3.0.98", 1500, "tunnel-forbidden"),
    }
    lab.ip("ha", "route", "add", "unreachable", "198.51.100.0/24")
    table = "add table ip t; add chain ip t o { type filter hook output priority 0; }"
    lab.run("ha", "nft", f"{table}; add rule ip t o ip daddr 10.3.0.98 drop")
    for home, (remote, mtu, _) in reasons.items():
        lab.agent.install(record(home, remote, AGENT, mtu=mtu))
    with (
        receiver(lab, "mn", HOME_ADDRESS, 5000) as here,
        lab.socket("cn", socket.SOCK_DGRAM) as there,
    ):
        there.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        lab.ip("cn", "link", "set", "eth0", "mtu", "3000")
        lab.ip("ha", "link", "set", "c0", "mtu", "3000")
        for _ in range(10):
            for home in reasons:
                there.sendto(bytes(2000 if home == "10.1.0.22" else 100), (home, 5000))
                there.sendto(b"good", (HOME_ADDRESS, 5000))
        assert [receive(here)[0] for _ in range(30)] == [b"good"] * 30
    wait_for("the count", lambda: lab.agent.count("tunnel-unreachable") == 10)
    wait_for("the count", lambda: lab.agent.count("tunnel-forbidden") == 10)
    # What was too big taught a smaller MTU: later ones came in pieces. None is uncounted.
    assert lab.agent.count("tunnel-too-big") >= 1
    pieces = lab.agent.engine.events()["fragments-sent"] - lab.agent.count("encapsulated-fragments")
    outcomes = ("tunnel-sent", "tunnel-too-big", "tunnel-unreachable", "tunnel-forbidden")
    wait_for("the batch", lambda: sum(map(lab.agent.count, outcomes)) == 60 + pieces)
    assert lab.agent.count("tunnel-sent") >= 30


def test_circle_of_written_back_packets_ends_with_their_ttl(lab: TunnelLab) -> None:
    """Routing that sends what is written back into the TUN device again must not spin."""
    lab.ip("ha", "route", "add", "10.1.0.77/32", "dev", TUN)
    with sender(lab, "cn", CORRESPONDENT, "10.1.0.77", 5000, 64) as there:
        there.send(b"round and round")
        wait_for("the circle", lambda: lab.agent.count("home-circling") >= 60)
    assert lab.agent.count("home-hops-returned") == 1
    settled = wait_for("its end", lambda: still(lambda: lab.agent.count("home-read")))
    assert settled <= 65


def still(read: Any) -> int:
    """The value if it does not change for a while, else 0."""
    before = read()
    time.sleep(0.2)
    return int(before) if read() == before else 0


class Flood:
    """UDP from cn to the home address, as fast as Python sends, until told to stop."""

    def __init__(self, lab: TunnelLab) -> None:
        self.socket = sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64)
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.send)

    def send(self) -> None:
        while not self.ending.is_set():
            try:
                self.socket.send(b"flood")
            except (ConnectionRefusedError, TimeoutError):
                continue  # nobody listens at the far end, and it says so

    def __enter__(self) -> Flood:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join()
        self.socket.close()


def has_grown(lab: TunnelLab, before: int) -> bool:
    return lab.agent.count("encapsulated") > before


def threads() -> set[str]:
    return {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}


def test_stop_under_load_is_clean_and_start_goes_on(either_lab: TunnelLab) -> None:
    lab = either_lab
    with Flood(lab):
        wait_for("load", lambda: lab.agent.count("encapsulated") > 1000)
        assert "fastmip-0" in threads()
        for _ in range(5):
            began = time.monotonic()
            lab.agent.engine.stop()
            assert time.monotonic() - began < 1  # never a hang; 100 ms is typical by far
            assert [w["state"] for w in lab.agent.engine.worker_status()] == ["stopped"]
            before = lab.agent.count("encapsulated")
            lab.agent.engine.start()
            wait_for("more", partial(has_grown, lab, before))
        lab.agent.engine.stop()
    lab.node.engine.stop()
    assert "fastmip-0" not in threads()


def test_what_queued_up_is_read_in_order_a_batch_at_a_time(either_lab: TunnelLab) -> None:
    lab = either_lab
    has_ring = lab.agent.engine.worker_status()[0]["home_reads"] == "io_uring"
    with (
        receiver(lab, "mn", HOME_ADDRESS, 5000) as here,
        sender(lab, "cn", CORRESPONDENT, HOME_ADDRESS, 5000, 64) as there,
    ):
        lab.agent.engine.stop()
        for index in range(300):
            there.send(struct.pack("=I", index) + bytes(index))
        lab.agent.engine.start()
        for index in range(300):
            assert receive(here)[0] == struct.pack("=I", index) + bytes(index)
    assert lab.agent.port.facts()["home_reads"] == ("io_uring" if has_ring else "read")
    # A full batch by read(), then the ring until a batch is not full.
    assert lab.agent.count("home-ring-read") == (236 if has_ring else 0)


def test_the_device_goes_with_its_descriptors_whoever_keeps_the_engine(
    either_lab: TunnelLab,
) -> None:
    either_lab.agent.engine.stop()
    either_lab.agent.port.close()
    assert TUN not in either_lab.run("ha", "ip", "-br", "link")


def test_load_on_one_side_does_not_starve_the_other(lab: TunnelLab) -> None:
    with (
        Flood(lab),
        receiver(lab, "cn", CORRESPONDENT, 5001) as here,
        sender(lab, "mn", HOME_ADDRESS, CORRESPONDENT, 5001, 64) as there,
    ):
        wait_for("load", lambda: lab.agent.count("encapsulated") > 1000)
        for index in range(100):
            there.send(bytes([index]))
            assert receive(here)[0] == bytes([index])


@pytest.mark.usefixtures("lab")
def test_workers_take_no_signals() -> None:
    masks = {
        line.split()[1]
        for task in Path("/proc/self/task").iterdir()
        if (task / "comm").read_text().strip() == "fastmip-0"
        for line in (task / "status").read_text().splitlines()
        if line.startswith("SigBlk")
    }
    kill_and_stop = 1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1
    reserved = 1 << 31 | 1 << 32  # the C library's own
    assert {int(mask, 16) | kill_and_stop | reserved for mask in masks} == {(1 << 64) - 1}


def test_full_socket_buffer_shows_as_receive_drops(lab: TunnelLab) -> None:
    lab.agent.engine.stop()
    stray = bytes(IP(src=CARE_OF_ADDRESS, dst=AGENT, proto=4) / Raw(bytes(1400)))
    (raw, *_) = lab.agent.port.sockets("tunnel")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
    assert lab.agent.port.receive_drops() == {"tunnel": 0, "udp": 0, "icmp": 0}
    with lab.socket("mn", socket.SOCK_RAW, socket.IPPROTO_RAW) as there:
        for _ in range(500):
            there.sendto(stray, (AGENT, 0))
    wait_for("drops", lambda: lab.agent.port.receive_drops()["tunnel"] > 0)
    lab.agent.engine.start()
    wait_for("the rest", lambda: lab.agent.count("tunnel-read") > 0)


def test_idle_worker_sleeps_and_its_heart_beats(lab: TunnelLab) -> None:
    before = lab.agent.engine.heartbeats()
    wait_for("heartbeat", lambda: lab.agent.engine.heartbeats()[0] > before[0], 1.5)
    before = lab.agent.engine.heartbeats()
    used, began = time.process_time(), time.monotonic()
    time.sleep(0.5)
    assert lab.agent.engine.heartbeats()[0] - before[0] <= 10  # 400 ms each, if nobody talks
    assert (time.process_time() - used) / (time.monotonic() - began) < 0.05


def test_descriptors_and_threads_do_not_leak() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def cycle() -> None:
        with tunnel_lab() as lab:
            lab.run("cn", "ping", "-c1", "-W2", HOME_ADDRESS)

    cycle()
    before, running = open_files(), len(list(Path("/proc/self/task").iterdir()))
    for _ in range(3):
        cycle()
    assert open_files() == before
    assert len(list(Path("/proc/self/task").iterdir())) == running


def test_engine_frees_its_workers_when_dropped_without_stop() -> None:
    with tunnel_lab() as lab:
        lab.agent.engine.stop()
        lab.agent.engine.start()
        lab.agent.engine = lab.node.engine
        wait_for("the thread to end", lambda: "fastmip-0" in threads())


def test_tun_device_removed_under_load_stops_the_worker_loudly(either_lab: TunnelLab) -> None:
    lab = either_lab
    with Flood(lab):
        wait_for("load", lambda: lab.agent.count("encapsulated") > 1000)
        lab.ip("ha", "link", "delete", TUN)
        status = wait_for("failure", lambda: failed(lab))
        assert status["descriptor"] == "tun"
        assert status["error"]
        before = lab.agent.engine.heartbeats()
        used = time.process_time()
        time.sleep(0.3)
        assert lab.agent.engine.heartbeats() == before
    assert time.process_time() - used < 2  # the flood's own thread, not a spinning worker
    lab.agent.engine.stop()
    assert lab.agent.engine.worker_status()[0]["state"] == "failed"


def failed(lab: TunnelLab) -> dict[str, Any] | None:
    status: dict[str, Any] = lab.agent.engine.worker_status()[0]
    return status if status["state"] == "failed" else None


def test_tun_device_taken_down_loses_packets_but_not_the_worker(lab: TunnelLab) -> None:
    lab.ip("ha", "link", "set", TUN, "down")
    with sender(lab, "mn", HOME_ADDRESS, CORRESPONDENT, 5000, 64) as there:
        there.send(b"x")
        wait_for("the loss", lambda: lab.agent.count("home-device-down") == 1)
    assert lab.agent.engine.worker_status()[0]["state"] == "running"
    lab.ip("ha", "link", "set", TUN, "up")
    lab.ip("ha", "route", "add", "default", "dev", TUN, "table", "100")
    lab.run("cn", "ping", "-c1", "-W2", HOME_ADDRESS)


def test_two_workers_share_the_traffic_without_duplicates() -> None:
    with tunnel_lab(workers=2) as lab:
        transfer(lab, ("cn", CORRESPONDENT), ("mn", HOME_ADDRESS), 4 << 20)
        transfer(lab, ("mn", HOME_ADDRESS), ("cn", CORRESPONDENT), 4 << 20)
        with (
            receiver(lab, "cn", CORRESPONDENT, 5000) as here,
            sender(lab, "mn", HOME_ADDRESS, CORRESPONDENT, 5000, 64) as there,
        ):
            for index in range(50):
                there.send(bytes([index]))
            assert [receive(here)[0][0] for _ in range(50)] == list(range(50))
            here.settimeout(0.1)
            with pytest.raises(TimeoutError):
                receive(here)
        assert len(lab.agent.engine.heartbeats()) == 2
        assert lab.agent.count("drop-no-binding") == 0
        lab.agent.check_balance()


def test_descriptors_of_another_kind_are_refused() -> None:
    engine = Engine(max_bindings=10)
    with pytest.raises(OSError, match="Bad file descriptor"):
        engine.attach_kernel(tun_fd=-1, raw_fds=[-1])
    assert engine.worker_status() == []
    assert number(AGENT) == 0x0A030001
