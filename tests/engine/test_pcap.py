"""The pcap port: files made by scapy in, files read by scapy out."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, CookedLinux, Dot1Q, Ether
from scapy.packet import Packet
from scapy.utils import rdpcap, wrpcap
from tests.engine.lab import CARE_OF, HOME_AGENT, NODE, assert_balanced, engine_for
from tests.reference.tunnels import HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane

TWIN = Twin("home-agent", (HOME_AGENT,), {NODE: [Binding(CARE_OF, HOME_AGENT)]})
DATA = [IP(src="10.9.0.7", dst="10.1.0.5", id=n) / UDP() / bytes([n]) for n in range(150)]


@pytest.mark.parametrize(
    "link",
    [IP(), Ether(), Ether() / Dot1Q(vlan=7), Ether() / Dot1Q() / Dot1Q(vlan=7), CookedLinux()],
    ids=["raw", "ethernet", "vlan", "double vlan", "cooked"],
)
@pytest.mark.parametrize("nano", [False, True])
def test_packets_of_a_file_are_tunnelled_into_another(
    link: Packet, nano: bool, tmp_path: Path
) -> None:
    packets = DATA if link == IP() else [link / packet for packet in DATA]
    for number, packet in enumerate(packets):
        packet.time = 1_700_000_000 + number // 64
    wrpcap(str(tmp_path / "in.pcap"), packets, nano=nano)
    engine = engine_for(TWIN)
    result = _dataplane.run_pcap(
        engine, tmp_path / "in.pcap", tmp_path / "out.pcap", side=HOME, repeat=3
    )
    assert result.pop("ns") > 0
    assert result == {"packets": 150, "skipped": 0, "home": 0, "tunnel": 150}
    assert_balanced(engine)
    assert engine.counters()["encapsulated"][0] == 450
    left = rdpcap(str(tmp_path / "out.pcap"))
    assert [packet.payload.id for packet in left] == list(range(150))
    assert {(packet.src, packet.dst, packet.proto) for packet in left} == {
        ("10.1.0.1", "10.3.1.20", 4)
    }
    assert [int(packet.time) for packet in left] == [1_700_000_000 + n // 64 for n in range(150)]


def test_what_the_engine_wrote_it_reads_back_and_decapsulates(tmp_path: Path) -> None:
    away = Twin("mobile-node", (), {NODE: [Binding(HOME_AGENT, CARE_OF)]})
    wrpcap(str(tmp_path / "in.pcap"), DATA)
    _dataplane.run_pcap(engine_for(TWIN), tmp_path / "in.pcap", tmp_path / "mid.pcap", side=HOME)
    result = _dataplane.run_pcap(
        engine_for(away), tmp_path / "mid.pcap", tmp_path / "out.pcap", side=TUNNEL
    )
    assert (result["packets"], result["home"]) == (150, 150)
    back = rdpcap(str(tmp_path / "out.pcap"))
    assert [bytes(packet.payload) for packet in back] == [bytes(packet.payload) for packet in DATA]


def test_other_protocols_are_skipped_and_counted(tmp_path: Path) -> None:
    wrpcap(str(tmp_path / "in.pcap"), [Ether() / ARP(), Ether() / DATA[0], Ether(type=0x86DD)])
    result = _dataplane.run_pcap(engine_for(TWIN), tmp_path / "in.pcap", side=HOME)
    assert (result["packets"], result["skipped"], result["tunnel"]) == (1, 2, 1)


def test_a_file_cut_anywhere_is_read_up_to_the_cut(tmp_path: Path) -> None:
    wrpcap(str(tmp_path / "in.pcap"), [Ether() / packet for packet in DATA[:3]])
    whole = (tmp_path / "in.pcap").read_bytes()
    record = (len(whole) - 24) // 3
    engine = engine_for(TWIN)
    for length in range(24, len(whole)):
        (tmp_path / "cut.pcap").write_bytes(whole[:length])
        result = _dataplane.run_pcap(engine, tmp_path / "cut.pcap", side=HOME)
        assert result["packets"] == (length - 24) // record


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", "no classic pcap"),
        (bytes(24), "no classic pcap"),
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "no classic pcap"),
        (bytes.fromhex("d4c3b2a1020004000000000000000000ffff000069000000"), "link type"),
    ],
    ids=["empty", "zeros", "pcapng", "802.11"],
)
def test_other_files_are_refused_by_name(contents: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "in.pcap").write_bytes(contents)
    with pytest.raises(ValueError, match=f"in.pcap: .*{reason}"):
        _dataplane.run_pcap(engine_for(TWIN), tmp_path / "in.pcap", side=HOME)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _dataplane.run_pcap(engine_for(TWIN), tmp_path / "none.pcap", side=HOME)
