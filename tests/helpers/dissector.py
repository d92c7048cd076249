"""Wireshark as a judge we did not write: what does it read in our control messages?

Limits of its dissector (4.0): it verifies no authenticator, and takes a one-byte pad for an
extension of two bytes. Messages with pads are therefore not shown to it. Types 45, 129, 136,
148 and those of experiments it leaves undissected; message type 255 it does not know.
"""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

MOBILE_IP_PORT = 434
_LINK_RAW_IPV4 = 228


def _frame(payload: bytes, icmp: bool) -> bytes:
    """Return an IPv4 packet: UDP to port 434 (without checksum, which is legal), or ICMP."""
    if not icmp:
        payload = struct.pack("!HHHH", 5000, MOBILE_IP_PORT, 8 + len(payload), 0) + payload
    header = struct.pack(
        "!BBHHHBBHII",
        *(0x45, 0, 20 + len(payload), 1, 0, 1 if icmp else 64),
        *(1 if icmp else 17, 0, 0x0A030001, 0xE0000001 if icmp else 0x0A010001),
    )
    return header + payload


def write_capture(path: Path, payloads: Sequence[bytes], *, icmp: bool = False) -> None:
    """Write a pcap file with one packet for each payload."""
    with path.open("wb") as file:
        file.write(struct.pack("!IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, _LINK_RAW_IPV4))
        for payload in payloads:
            frame = _frame(payload, icmp)
            file.write(struct.pack("!IIII", 0, 0, len(frame), len(frame)) + frame)


def dissect(
    payloads: Sequence[bytes], *fields: str, icmp: bool = False
) -> list[dict[str, list[str]]]:
    """Return for each payload the values Wireshark found, by field, in order of appearance.

    A payload is a control message, or with ``icmp`` a whole ICMP message.

    Always asked besides: ``_ws.expert`` and ``_ws.malformed``, empty when it has no complaint.
    """
    asked = (*fields, "_ws.expert", "_ws.malformed")
    with tempfile.TemporaryDirectory() as directory:
        capture = Path(directory) / "control.pcap"
        write_capture(capture, payloads, icmp=icmp)
        command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-E", "separator=/t"]
        command += ["-E", "occurrence=a", "-E", "aggregator=|"]
        for field in asked:
            command += ["-e", field]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = output.split("\n")[: len(payloads)]
    found = []
    for line in lines:
        columns = line.split("\t")
        assert len(columns) == len(asked), line
        found.append({f: c.split("|") if c else [] for f, c in zip(asked, columns, strict=True)})
    assert len(found) == len(payloads)
    return found
