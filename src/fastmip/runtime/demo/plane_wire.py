"""The headers a probe had at every hop, read from the capture; and what they must be.

A hop's expected stack is written ``SOURCE>DESTINATION`` for each header, the outermost first; the
bytes are those of the outermost IP packet.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastmip.runtime.demo import plane_topology as places

PROBE_BYTES = 1400
"""The innermost packet of the homework (IPv4 header, UDP header, payload)."""
_ENHANCED_PACKET, _INTERFACE_DESCRIPTION, _IF_NAME = 6, 1, 2
_ETHERNET_LEN, _IPIP, _UDP = 14, 4, 17
CN, MN = "10.9.0.7", places.LAPTOP


@dataclass(frozen=True, slots=True)
class Hop:
    """One link of the way, and the headers on it."""

    name: str
    tap: str
    stack: str
    length: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet on a tap."""

    wall_ns: int
    tap: str
    stack: str
    length: int


def hops(station: str, care_of_address: str, *, is_colocated: bool) -> dict[str, list[Hop]]:
    """Both ways of a probe, with the visitor's care-of address in the mobile network.

    ``station`` is the machine on the ground.
    """
    inner, size = f"{CN}>{MN}", PROBE_BYTES
    first = f"{places.WUSTL}>{places.CABIN_AGENT}"
    tunnel = f"{places.AIRLINE}>{care_of_address}"
    second = "" if is_colocated else f"{places.AIRLINE}>{places.PLANE} "
    outer, routed = size + (40 if is_colocated else 60), is_colocated
    last = f"{tunnel} {first} {inner}" if routed else f"{second}{first} {inner}"
    down = [
        Hop("CN -> WUSTL home network", "haw", inner, size),
        Hop("HA_W -> AA.COM", "haw", f"{first} {inner}", size + 20),
        Hop("AA.COM home network", "haa", f"{first} {inner}", size + 20),
        Hop("HA_A -> ground", "haa", f"{tunnel} {second}{first} {inner}", outer),
        Hop("ground -> MR", station, last, size + 40),
        Hop("MR -> MN", "cabin", inner, size),
    ]
    return {"CN -> MN": down, "MN -> CN": _reversed(down)}


def _reversed(down: list[Hop]) -> list[Hop]:
    """The same headers turned round, from the last hop to the first."""
    names = (
        *("MN -> MR", "MR -> ground", "ground -> HA_A"),
        *("HA_A -> HA_W", "WUSTL home network", "HA_W -> CN"),
    )
    turned = []
    for name, hop in zip(names, down[::-1], strict=True):
        stack = " ".join(_turn(header) for header in hop.stack.split())
        turned.append(Hop(name, hop.tap, stack, hop.length))
    return turned


def _turn(header: str) -> str:
    source, _, destination = header.partition(">")
    return f"{destination}>{source}"


def read_probes(path: Path) -> Iterator[Seen]:
    """The packets of a capture that carry a probe, however deep."""
    data, at, taps = path.read_bytes(), 0, []
    while at + 12 <= len(data):
        kind, total = struct.unpack_from("<II", data, at)
        if kind == _INTERFACE_DESCRIPTION:
            taps.append(_name(data[at + 16 : at + total - 4]))
        elif kind == _ENHANCED_PACKET:
            number, high, low, kept = struct.unpack_from("<IIII", data, at + 8)
            frame = data[at + 28 : at + 28 + kept]
            found = read_stack(frame)
            if found is not None:
                yield Seen(high << 32 | low, taps[number], *found)
        at += total


def _name(options: bytes) -> str:
    code, length = struct.unpack_from("<HH", options)
    return options[4 : 4 + length].decode() if code == _IF_NAME else ""


def read_stack(frame: bytes) -> tuple[str, int] | None:
    """Addresses of every header of a probe and its length; None for any other frame."""
    if frame[12:14] != b"\x08\x00":
        return None
    at, stack = _ETHERNET_LEN, []
    outermost = length = struct.unpack_from("!H", frame, at + 2)[0]
    while True:
        if len(frame) < at + 20 or frame[at] != 0x45:
            return None
        length = struct.unpack_from("!H", frame, at + 2)[0]
        if length != outermost - (at - _ETHERNET_LEN):
            return None
        source, destination = frame[at + 12 : at + 16], frame[at + 16 : at + 20]
        stack.append(f"{socket.inet_ntoa(source)}>{socket.inet_ntoa(destination)}")
        protocol = frame[at + 9]
        if protocol != _IPIP:
            break
        at += 20
    ends = {socket.inet_ntoa(source), socket.inet_ntoa(destination)}
    if protocol != _UDP or length != PROBE_BYTES or ends != {CN, MN}:
        return None
    return " ".join(stack), outermost
