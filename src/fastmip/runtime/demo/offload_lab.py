"""What a lab of veths needs before XDP can send packets on, as NICs do of themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fastmip.runtime.demo.capture import Tap
from fastmip.runtime.demo.lab import Lab

_PEERS = {"ha-home": ("sw", "p-ha"), "ha-outside": ("inet", "to-ha")}
"""Tap at the home agent -> the other end of that wire."""


def prepare_offload(lab: Lab, taps: Sequence[Tap]) -> list[Tap]:
    """Make wires take redirected frames and senders complete checksums; returns the taps moved.

    What XDP redirects is not seen by a packet socket of the machine itself, only at the other end.
    """
    for machine, port in _PEERS.values():
        lab.run(machine, "ethtool", "-K", port, "gro", "on")
    for machine in ("cn", "hh", "hh2"):
        for link in json.loads(lab.run(machine, "ip", "-j", "link", "show", "type", "veth").stdout):
            lab.run(machine, "ethtool", "-K", str(link["ifname"]), "tx", "off")
    moved = []
    for tap in taps:
        machine, port = _PEERS.get(tap.name, ("", ""))
        moved.append(Tap(tap.name, lab.ns(machine), port, tap.description) if machine else tap)
    return moved
