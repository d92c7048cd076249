"""``fastmip bench load``: real frames between namespaces, judged by capture and counters."""

from __future__ import annotations

import json
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap
from tests.helpers.deployed import ENVIRONMENT, FASTMIP
from tests.helpers.namespaces import Namespaces, wait_for

from fastmip.runtime.bench.traffic import IMIX, MARK

pytestmark = pytest.mark.netns


@pytest.fixture
def lab() -> Iterator[Namespaces]:
    """Two machines with a wire between them; the far end takes frames of XDP programs."""
    with Namespaces("near", "far") as namespaces:
        namespaces.wire("near", "n0", "far", "f0")
        yield namespaces


def load(lab: Namespaces, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", lab.full("near"), *FASTMIP, "bench", "load", *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


TO = ("--mac", "02:00:00:00:00:77", "--to", "192.0.2.16-192.0.2.31")


def test_what_was_sent_is_received_counted_and_timed(lab: Namespaces) -> None:
    """The wire leads back to the same machine: both ends in one namespace."""
    lab.wire("near", "a0", "near", "b0")
    words = ("a0", *TO, "--rate", "20000", "--seconds", "0.2", "--receive", "b0", "--json")
    summary = json.loads(load(lab, *words))["summary"]
    assert 0 < summary["packets"] <= 20000 * summary["seconds"] + 1
    assert summary["received"] == summary["packets"]
    assert summary["lost"] == 0
    assert summary["octets"] == 64 * summary["packets"]
    assert summary["received_octets"] == summary["octets"] + 14 * summary["received"]
    assert 0 < summary["p50_us"] <= summary["p99_us"] <= summary["p99_9_us"]
    # The program went with the command: another one finds the interface free.
    load(lab, *words)


def test_the_packets_are_what_was_asked_for(lab: Namespaces, tmp_path: Path) -> None:
    lab.run("far", "ethtool", "-K", "f0", "gro", "on")
    file = tmp_path / "sent.pcap"
    words = ("tcpdump", "-i", "f0", "-Z", "root", "-U", "-c", "400", "-w", str(file))
    capture = lab.start("far", *words, "udp and dst net 192.0.2.0/24")
    wait_for("tcpdump", lambda: file.exists() and file.stat().st_size >= 24)
    load(lab, "n0", *TO, "--size", "imix", "--rate", "5000", "--source", "198.51.100.9")
    capture.wait(30)
    packets = rdpcap(str(file))
    assert len(packets) == 400
    sizes = Counter(packet[IP].len for packet in packets)
    assert [size for size, _ in sizes.most_common()] == [size for size, _ in IMIX]
    assert {packet[Ether].dst for packet in packets} == {"02:00:00:00:00:77"}
    assert {packet[IP].src for packet in packets} == {"198.51.100.9"}
    assert {packet[IP].dst for packet in packets} == {f"192.0.2.{n}" for n in range(16, 32)}
    numbers, times = [], []
    for packet in packets:
        sum_sent = packet[IP].chksum
        del packet[IP].chksum
        assert IP(bytes(packet[IP])).chksum == sum_sent
        assert packet[UDP].len == packet[IP].len - 20
        payload = bytes(packet[UDP].payload)
        assert len(bytes(packet[IP])) == packet[IP].len
        mark, number, at_ns = struct.unpack("=QQQ", payload[:24])
        assert mark == MARK
        numbers.append(number)
        times.append(at_ns)
    assert numbers == list(range(numbers[0], numbers[0] + 400))
    assert times == sorted(times)


def test_an_interface_that_does_not_send_for_programs_is_named(lab: Namespaces) -> None:
    lab.run("far", "ethtool", "-K", "f0", "gro", "off")
    said = load(lab, "n0", *TO, "--seconds", "0.1", code=1)
    assert "fastmip: n0: nothing left" in said


def test_an_interface_with_a_program_is_left_alone(lab: Namespaces) -> None:
    lab.wire("near", "a0", "near", "b0")
    words = ("a0", *TO, "--receive", "b0", "--seconds", "3", "--rate", "1000")
    first = subprocess.Popen(
        ["ip", "netns", "exec", lab.full("near"), *FASTMIP, "bench", "load", *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
    )
    try:
        wait_for("the program", lambda: "prog/xdp" in lab.run("near", "ip", "link", "show", "b0"))
        said = load(lab, *words, code=1)
        assert "fastmip: b0: has an XDP program already" in said
    finally:
        first.communicate(timeout=30)
    assert first.returncode == 0
    assert "prog/xdp" not in lab.run("near", "ip", "link", "show", "b0")


@pytest.mark.parametrize("word", ["n9", "--receive"])
def test_an_interface_that_is_not_there_is_named(lab: Namespaces, word: str) -> None:
    words = ("n0", *TO, "--receive", "n9") if word == "--receive" else ("n9", *TO)
    assert "fastmip: n9: no such interface" in load(lab, *words, code=1)
