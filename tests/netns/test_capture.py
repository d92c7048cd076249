"""The capture of the lab: every packet at every tap, whole when it is control traffic."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from fastmip.runtime.demo.capture import ArpAnnouncement, Registration, Sighting, Tap, Totals
from fastmip.runtime.demo.lab import HOME, Lab

pytestmark = pytest.mark.netns

# RFC 5944 3.3 and 3.4 with nonsense authenticators; the capture must not care
_REQUEST = bytes.fromhex(
    "01280708 0a010005 0a010001 0a030105 0000000100000002 2014 00000100"
) + bytes(16)
_REPLY = bytes.fromhex("03000708 0a010005 0a010001 0000000100000002 2014 00000100") + bytes(16)

_SEND = """
import socket, sys
for text, peer in zip(sys.argv[1::2], sys.argv[2::2]):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", 434))
    host, port = peer.split(":")
    s.sendto(bytes.fromhex(text), (host, int(port)))
    s.close()
"""


def _fields(path: Path, *fields: str, only: str = "") -> list[list[str]]:
    command = ["tshark", "-n", "-r", str(path), "-o", "udp.check_checksum:TRUE", "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    command += ["-Y", only] if only else []
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_capture_keeps_what_the_kernel_counted(lab: Lab, tmp_path: Path) -> None:
    lab.plug("eth0", HOME)
    lab.lease("eth0", HOME)
    taps = [
        Tap("ha-home", lab.ns("ha"), "eth0"),
        Tap("mn", lab.ns("mn"), "eth0"),
    ]
    path = tmp_path / "x.pcapng"
    argv = [sys.executable, "-m", "fastmip.runtime.demo.capture", str(path)]
    capture = lab.popen(
        None,
        [*argv, msgspec.json.encode(taps).decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert capture.stdout is not None
    assert capture.stdin is not None
    assert capture.stdout.readline() == b"\n"
    before = _packets(lab)
    lab.run("mn", "ping", "-c", "20", "-i", "0.01", "-s", "1000", "10.9.0.7")
    lab.run("mn", sys.executable, "-c", _SEND, _REQUEST.hex(), "10.1.0.1:434")
    lab.run("ha", sys.executable, "-c", _SEND, _REPLY.hex(), "10.1.0.205:5555")
    lab.run("mn", "ping", "-c", "1", "10.9.0.7")  # what was sent before has passed the taps
    after = _packets(lab)
    output, _ = capture.communicate(timeout=10)
    sightings = [msgspec.json.decode(line, type=Sighting) for line in output.splitlines()]

    totals = sightings.pop()
    assert isinstance(totals, Totals)
    assert totals.missed == 0
    rows = _fields(path, "frame.interface_name", "frame.protocols")
    assert len(rows) == totals.kept
    seen = Counter(name for name, _ in rows)
    assert seen["mn"] == after - before

    registrations = [seen for seen in sightings if isinstance(seen, Registration)]
    assert {(r.tap, r.is_request, r.code, r.lifetime_s) for r in registrations} == {
        (tap, *what) for tap in ("ha-home", "mn") for what in ((True, 0x28, 1800), (False, 0, 1800))
    }
    assert {r.identification for r in registrations} == {(1 << 32) | 2}
    request = next(r for r in registrations if r.is_request)
    assert (request.home_address, request.care_of_address) == ("10.1.0.5", "10.3.1.5")
    assert not [seen for seen in sightings if isinstance(seen, ArpAnnouncement)]

    control = _fields(
        path, "mip.type", "udp.checksum.status", "_ws.expert", only="mip and not icmp"
    )
    assert sorted(control) == sorted([["1", "1", ""], ["3", "1", ""]] * 2)


def _packets(lab: Lab) -> int:
    """Packets the kernel counted on the mobile node's first interface, both ways."""
    shown = json.loads(lab.run("mn", "ip", "-s", "-j", "link", "show", "eth0").stdout)
    return sum(int(shown[0]["stats64"][way]["packets"]) for way in ("rx", "tx"))
