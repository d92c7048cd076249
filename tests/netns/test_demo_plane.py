"""T31: the scene of the aircraft; its capture against the table of the homework, hop by hop.

The expected headers are written out here, and read from the capture with scapy: neither comes from
the scene itself.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.utils import PcapNgReader
from tests.helpers.demo_run import Run, leftovers, run_demo

pytestmark = pytest.mark.netns

CN, MN, HA_W, HA_A, MR, CABIN = (
    *("10.9.0.7", "10.1.0.5", "10.1.0.1"),
    *("10.2.0.1", "10.2.0.9", "10.2.8.1"),
)
STATIONS = {"fa1": "10.3.1.1", "fa2": "10.3.2.1", "ar3": "10.3.3.9"}
L = 1400
DOWN, UP = (CN, MN), (MN, CN)
VISITOR, BACK = (HA_W, CABIN), (CABIN, HA_W)
NETWORK, REVERSE = (HA_A, MR), (MR, HA_A)


def foreign_agent(care_of: str) -> list[tuple[str, list[tuple[str, str]], int]]:
    """(tap, headers, bytes) with the router behind a foreign agent (RFC 5177 7), both ways."""
    return [
        ("haw", [DOWN], L),
        ("haw", [VISITOR, DOWN], L + 20),
        ("haa", [VISITOR, DOWN], L + 20),
        ("haa", [(HA_A, care_of), NETWORK, VISITOR, DOWN], L + 60),
        ("ground", [NETWORK, VISITOR, DOWN], L + 40),
        ("cabin", [DOWN], L),
        ("cabin", [UP], L),
        ("ground", [REVERSE, BACK, UP], L + 40),
        ("haa", [(care_of, HA_A), REVERSE, BACK, UP], L + 60),
        ("haa", [BACK, UP], L + 20),
        ("haw", [BACK, UP], L + 20),
        ("haw", [UP], L),
    ]


def colocated(care_of: str) -> list[tuple[str, list[tuple[str, str]], int]]:
    """The same with an address of the router's own."""
    return [
        ("haw", [DOWN], L),
        ("haw", [VISITOR, DOWN], L + 20),
        ("haa", [VISITOR, DOWN], L + 20),
        ("haa", [(HA_A, care_of), VISITOR, DOWN], L + 40),
        ("ground", [(HA_A, care_of), VISITOR, DOWN], L + 40),
        ("cabin", [DOWN], L),
        ("cabin", [UP], L),
        ("ground", [(care_of, HA_A), BACK, UP], L + 40),
        ("haa", [(care_of, HA_A), BACK, UP], L + 40),
        ("haa", [BACK, UP], L + 20),
        ("haw", [BACK, UP], L + 20),
        ("haw", [UP], L),
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, source_path: dict[str, str]) -> Run:
    """Run the scene once for all judges below."""
    return run_demo(tmp_path_factory.mktemp("plane"), source_path, scene="plane")


def probes(capture: Path) -> list[tuple[str, list[tuple[str, str]], int]]:
    """The probes of a capture: (tap, headers, bytes), in the order they were seen."""
    found = []
    with PcapNgReader(str(capture)) as reader:
        for frame in reader:
            if IP not in frame or frame[IP].proto not in (4, 17):
                continue
            raw, layer = bytes(frame)[14:], frame[IP]
            headers: list[tuple[str, str]] = []
            length = layer.len
            while True:
                assert layer.ihl == 5
                header, raw = raw[:20], raw[20:]
                assert sum(struct.unpack("!10H", header)) % 0xFFFF == 0, headers  # RFC 791 3.1
                headers.append((layer.src, layer.dst))
                if not isinstance(layer.payload, IP):
                    break
                assert layer.len == layer.payload.len + 20
                layer = layer.payload
            if layer.proto == 17 and layer.len == L and headers[-1] in (DOWN, UP):
                found.append((str(frame.sniffed_on), headers, length))
    return found


def test_t31_headers_at_every_hop_are_those_of_the_homework(finished: Run) -> None:
    assert finished.status == 0, finished.output
    wanted = [
        (station if tap == "ground" else tap, headers, bytes_)
        for station, care_of in STATIONS.items()
        for tap, headers, bytes_ in (colocated if station == "ar3" else foreign_agent)(care_of)
    ]
    assert sorted(probes(finished.directory / "demo.pcapng")) == sorted(wanted)


def test_t31_both_bindings_and_the_answer_are_told(finished: Run) -> None:
    for station, care_of in STATIONS.items():
        assert f"Aircraft at {station}" in finished.output
        assert f"binding: 10.2.0.9 -> {care_of} at 10.2.0.1" in finished.output
    assert finished.output.count("binding: 10.1.0.5 -> 10.2.8.1 at 10.1.0.1") == 3
    assert "Two bindings, two Mobile IP tunnels." in finished.output
    assert max(map(len, finished.output.splitlines())) < 110


def test_t31_tcp_survives_and_the_laptop_registers_nothing(finished: Run) -> None:
    assert {check["check"]: check["value"] for check in finished.checks} == {
        **{f"TCP at {station}": True for station in STATIONS},
        **{f"TCP {way}": True for way in ("CN -> MN", "MN -> CN")},
        "the laptop's binding": True,
        **{
            f"headers {way} at {station}": True
            for station in STATIONS
            for way in ("CN -> MN", "MN -> CN")
        },
    }
    assert finished.rows["demo.succeeded"] is True
    assert leftovers(finished.pid) == []
