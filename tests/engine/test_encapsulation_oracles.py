"""GRE and minimal encapsulation as scapy, tcpdump and Wireshark read and write them."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import GRE as ScapyGre
from scapy.packet import Raw
from tests.engine.lab import CARE_OF, HOME_AGENT, NODE, engine_for
from tests.reference.encapsulations import GRE, IPIP, MINIMAL, Method
from tests.reference.tunnels import HOME, TUNNEL, Binding, Twin

from fastmip import _dataplane

RAW_IPV4 = 228


def port(method: Method) -> _dataplane.MemoryPort:
    """A home agent with one node."""
    chain = [Binding(CARE_OF, HOME_AGENT, method=method)]
    return _dataplane.MemoryPort(engine_for(Twin("home-agent", (HOME_AGENT,), {NODE: chain})))


def to_node(size: int = 40, **fields: Any) -> IP:
    """Correspondent to mobile node."""
    return IP(src="10.9.0.7", dst="10.1.0.5", **fields) / UDP(sport=7, dport=9) / Raw(bytes(size))


def from_node(size: int = 40) -> IP:
    """Mobile node to correspondent."""
    return IP(src="10.1.0.5", dst="10.9.0.7", ttl=9) / UDP(sport=7, dport=9) / Raw(bytes(size))


def capture(path: Path, packets: list[bytes]) -> Path:
    """A file of IPv4 packets."""
    with path.open("wb") as file:
        file.write(struct.pack("!IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, RAW_IPV4))
        for packet in packets:
            file.write(struct.pack("!IIII", 0, 0, len(packet), len(packet)) + packet)
    return path


def tshark(path: Path, *fields: str) -> list[list[str]]:
    """Wireshark's values of these fields, packet by packet."""
    command = ["tshark", "-n", "-r", str(path), "-o", "ip.check_checksum:TRUE", "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in output.splitlines()]


@pytest.mark.parametrize("key", [None, 0, 7, 0xFFFFFFFF])
def test_gre_is_scapys_rfc2784_2(key: int | None) -> None:
    sender = port(Method(GRE, key))
    assert sender.inject(HOME, [bytes(to_node(ttl=9, tos=0xB8))]) == ["encapsulated"]
    outer = IP(src="10.1.0.1", dst="10.3.1.20", proto=47, ttl=64, tos=0xB8, flags="DF", id=0)
    gre = ScapyGre() if key is None else ScapyGre(key_present=1, key=key)
    assert sender.take(TUNNEL) == [bytes(outer / gre / to_node(ttl=8, tos=0xB8))]


@given(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_scapys_gre_is_taken_rfc2890_2(
    has_checksum: bool, has_key: bool, has_number: bool, key: int
) -> None:
    gre = ScapyGre(
        chksum_present=int(has_checksum),
        key_present=int(has_key),
        seqnum_present=int(has_number),
        key=key if has_key else None,
        sequence_number=1 if has_number else None,
    )
    packet = bytes(IP(src="10.3.1.20", dst="10.1.0.1") / gre / from_node())
    receiver = port(Method(GRE, key if has_key else None))
    assert receiver.inject(TUNNEL, [packet]) == ["decapsulated"]
    inner = from_node()
    inner.ttl = 8
    assert receiver.take(HOME) == [bytes(inner)]


def test_tcpdump_finds_no_fault_in_minimal_encapsulation(tmp_path: Path) -> None:
    sender = port(Method(MINIMAL))
    packets = [bytes(to_node(size, ttl=9, tos=size, id=size)) for size in range(0, 200, 7)]
    assert set(sender.inject(HOME, packets)) == {"encapsulated"}
    left = sender.take(TUNNEL)
    spoilt = left[0][:24] + bytes([left[0][24] ^ 1]) + left[0][25:]
    path = capture(tmp_path / "minimal.pcap", [*left, spoilt])
    command = ["tcpdump", "-nvvr", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    read = [line for line in text.splitlines() if "mobile:" in line]
    assert len(read) == len(left) + 1
    for line in read[:-1]:
        assert "[S] 10.9.0.7 > 10.1.0.5 (oproto=17)" in line
        assert "bad" not in line
    assert "bad checksum" in read[-1]  # it does look
    assert "bad cksum" not in text  # of any IPv4 header, either


def test_wireshark_judges_gre_checksums_as_we_do_rfc2784_2_2(tmp_path: Path) -> None:
    gre = ScapyGre(chksum_present=1, key_present=1, key=7, seqnum_present=1, sequence_number=1)
    right = bytes(IP(src="10.3.1.20", dst="10.1.0.1") / gre / from_node())
    packets = [right]
    for at in range(24, len(right), 3):
        packets.append(right[:at] + bytes([right[at] ^ 0x10]) + right[at + 1 :])
    path = capture(tmp_path / "gre.pcap", packets)
    fields = ("gre.checksum.status", "gre.key", "gre.sequence_number")
    theirs = tshark(path, *fields)
    ours = [port(Method(GRE, 7)).inject(TUNNEL, [packet])[0] for packet in packets]
    assert [row[0] == "1" for row in theirs] == [verdict == "decapsulated" for verdict in ours]
    assert (theirs[0][1:], ours[0]) == (["0x00000007", "1"], "decapsulated")
    assert set(ours[1:]) == {"drop-gre-checksum"}


@pytest.mark.parametrize(
    ("method", "protocols"),
    [
        (Method(GRE), "ip:gre:ip:udp"),
        (Method(GRE, 7), "ip:gre:ip:udp"),
        (Method(IPIP, None, 4434, 434), "ip:udp:mip:ip:udp"),
    ],
)
def test_wireshark_reads_what_we_send(method: Method, protocols: str, tmp_path: Path) -> None:
    sender = port(method)
    sender.inject(HOME, [bytes(to_node(ttl=9))])
    path = capture(tmp_path / "out.pcap", sender.take(TUNNEL))
    fields = ("frame.protocols", "ip.dst", "ip.checksum.status", "_ws.expert")
    (found,) = tshark(path, *fields)
    assert found[0].startswith(protocols)
    assert found[1:3] == ["10.3.1.20,10.1.0.5", "1,1"]
    assert found[3:] in ([""], [])
