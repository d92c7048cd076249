"""``fastmip bench wire``, small: every figure is there, and the references are what they say."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.utils import rdpcap
from tests.helpers.deployed import ENVIRONMENT, FASTMIP
from tests.helpers.namespaces import wait_for

from fastmip.runtime.bench.device import AGENT, CARE_OF, FIRST_PLAIN, FIRST_PROGRAM, IOS, WireLab
from fastmip.runtime.bench.generator import Generator
from fastmip.runtime.bench.traffic import Load
from fastmip.wire.addresses import format_address

pytestmark = pytest.mark.netns


def test_a_home_agent_is_measured_beside_the_kernel(tmp_path: Path) -> None:
    words = ["--rounds", "1", "--seconds", "0.2", "--trials", "1", "--trial-seconds", "0.05"]
    words += ["--size", "imix", "--bindings", "1k", "--output", str(tmp_path), "--json"]
    for io in IOS:
        words += ["--io", io]
    done = subprocess.run(
        [*FASTMIP, "bench", "wire", *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    names = ["ref.ip_forward", "ref.lwt_bpf", *(f"{io} 1k" for io in IOS)]
    assert [row["device"] for row in document["rows"]] == names
    for row in document["rows"]:
        assert 0 < row["delivered_mpps"] <= row["offered_mpps"] * 1.01
        assert row["mpps_per_busy_core"] > 0
        assert row["load_and_softirq_cpu"] not in row["worker_cpus"] or len(row["cpu_shares"]) == 1
    for row in document["rows"][2:]:
        assert row["of_lwt_bpf"] > 0
        assert row["worker_cpus"]
        assert row["trials"]
    assert (tmp_path / "wire.html").read_text().count("<svg") >= 1
    written = json.loads((tmp_path / "wire.json").read_text())
    assert written["rows"] == document["rows"]


def test_the_references_forward_and_encapsulate(tmp_path: Path) -> None:
    with WireLab() as lab, Generator(lab.command_in("load", 0)) as generator:
        file = tmp_path / "sink.pcap"
        words = ["tcpdump", "-i", "s1", "-Z", "root", "-U", "-w", str(file), "ip"]
        capture = lab.popen("sink", words, stderr=subprocess.DEVNULL)
        wait_for("tcpdump", lambda: file.exists() and file.stat().st_size >= 24)
        mac = bytes.fromhex(lab.mac("ref", "h0").replace(":", ""))
        base = Load(FIRST_PLAIN, 4, ((200, 1),), destination_mac=mac, rate=200, seconds=0.1)
        sent = 0
        for first in (FIRST_PLAIN, FIRST_PROGRAM):
            load = dataclasses.replace(base, first=first)
            sent += generator.send(load, "r0", out=True).packets

        def taken() -> list[IP]:
            return [packet[IP] for packet in rdpcap(str(file)) if IP in packet]

        wait_for("all packets", lambda: len(taken()) >= sent)
        capture.terminate()
        packets = taken()
        plain = [packet for packet in packets if packet.proto == 17]
        tunnelled = [packet for packet in packets if packet.proto == 4]
        assert plain
        assert tunnelled
        for packet in plain:
            assert (packet.ttl, packet[UDP].dport) == (63, 9)
        for packet in tunnelled:
            assert packet.src == format_address(AGENT)
            assert packet.dst == format_address(CARE_OF)
            assert packet.len == 220
            given = packet.chksum
            del packet.chksum
            assert IP(bytes(packet)).chksum == given
            assert packet.payload.len == 200
