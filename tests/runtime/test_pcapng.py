"""The pcapng writer, judged by Wireshark's reader."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fastmip.runtime.demo.capture import complete_udp_checksum
from fastmip.runtime.pcapng import PcapngWriter


def _read(path: Path, *fields: str, options: tuple[str, ...] = ()) -> list[list[str]]:
    command = ["tshark", "-n", "-r", str(path), *options, "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_wireshark_reads_interfaces_times_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    with path.open("wb") as file:
        writer = PcapngWriter(file, "test")
        assert writer.add_interface("first", "the first point") == 0
        assert writer.add_interface("second, with a longer name", "") == 1
        for length in range(14, 19):  # every padding
            frame = bytes(12) + b"\x88\xb5" + bytes(length - 14)  # IEEE 802 local experimental
            writer.packet(length % 2, 1_700_000_000_123_456_789 + length, frame, length + 100)
    fields = ("frame.interface_name", "frame.time_epoch", "frame.cap_len", "frame.len")
    rows = _read(path, *fields)
    assert rows == [
        [
            ("first", "second, with a longer name")[length % 2],
            f"1700000000.{123_456_789 + length}",
            str(length),
            str(length + 100),
        ]
        for length in range(14, 19)
    ]
    described = _read(path, "frame.interface_description")
    assert described[0] == ["the first point"]


def test_wireshark_agrees_with_a_completed_checksum(tmp_path: Path) -> None:
    addresses = bytes((10, 3, 1, 5)) + bytes((10, 1, 0, 1))
    for payload in (b"odd", b"even", b""):
        udp = (434).to_bytes(2) + (434).to_bytes(2) + (8 + len(payload)).to_bytes(2) + b"\x12\x34"
        total = 20 + len(udp) + len(payload)
        ip = b"\x45\0" + total.to_bytes(2) + b"\0\x01\0\0\x40\x11\0\0" + addresses
        frame = bytes(12) + b"\x08\0" + ip + udp + payload
        path = tmp_path / "x.pcapng"
        for made, verdict in ((frame, "0"), (complete_udp_checksum(frame), "1")):
            with path.open("wb") as file:
                writer = PcapngWriter(file, "test")
                writer.add_interface("i", "")
                writer.packet(0, 0, made, len(made))
            check = ("-o", "udp.check_checksum:TRUE")
            assert _read(path, "udp.checksum.status", options=check) == [[verdict]]
