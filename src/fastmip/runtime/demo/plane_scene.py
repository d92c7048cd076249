"""The third scene: a WUSTL.EDU laptop in an AA.COM aircraft that flies from station to station.

Two bindings: the laptop's at its home agent, with the aircraft's on-board agent as care-of
address, and the aircraft's at the airline's, with the ground station below it. A flight changes
the second one alone. A probe of 1400 bytes each way, in each place, shows the headers at every hop.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastmip.runtime.demo import plane_topology as places
from fastmip.runtime.demo.capture import Tap
from fastmip.runtime.demo.measure import Recorder
from fastmip.runtime.demo.plane_topology import AIRCRAFT, GROUND_1, GROUND_2, PLAIN
from fastmip.runtime.demo.plane_wire import CN, MN, PROBE_BYTES, Hop, Seen, hops, read_probes
from fastmip.runtime.demo.script import Check
from fastmip.runtime.demo.stage import Stage, write_private
from fastmip.runtime.demo.topology import Link
from fastmip.runtime.demo.traffic import Flow

DAEMONS = ("haw", "haa", "fa1", "fa2", "mr", "mn")
ANSWER = """\
Two bindings, two Mobile IP tunnels. The laptop's runs from its home agent at WUSTL.EDU
(10.1.0.1) to the router on board (10.2.8.1, an address of AA.COM); the aircraft's from
AA.COM's home agent (10.2.0.1) to the ground station below it, or to the aircraft's own
address there. Between AA.COM and the aircraft the first travels inside the second. A flight
changes the second binding alone: the laptop registers nothing. Behind a foreign agent on
the ground the aircraft's tunnel has one header more, for its home address (RFC 5177 7):
it is no third binding."""
_RATE = 200_000
_LIMIT_S = 15.0
_PROBE_PORT = 4340
_SEND = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 0)
s.bind((sys.argv[1], 4340))
s.sendto(bytes(int(sys.argv[3])), (sys.argv[2], 4340))
"""
"""Without DF: IP_MTU_DISCOVER (10) is IP_PMTUDISC_DONT (0)."""


@dataclass(slots=True)
class Leg:
    """A stay at one place."""

    place: str
    bindings: list[dict[str, str]]
    """``home_address``, ``care_of_address``, ``home_agent`` of both bindings."""
    ways: dict[str, list[Hop]]
    began_ns: dict[str, int] = field(default_factory=dict)
    """Way -> wall clock before its probe was sent."""
    seen: dict[str, list[Seen]] = field(default_factory=dict)


@dataclass(slots=True)
class Flight:
    """What the scene found."""

    legs: list[Leg]
    checks: list[Check]
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Every check holds."""
        return all(check.holds for check in self.checks)


def play(capture: Path, say: Callable[[str], None]) -> Flight:
    """Build the lab and fly. Raises ``LabError`` when the lab itself fails."""
    began = time.monotonic()
    with Stage(capture, lambda: None, AIRCRAFT) as stage:
        scene = _Scene(stage, say)
        scene.prepare()
        legs = scene.fly()
        stage.stop_traffic()
        checks = scene.checks()
    probes = list(read_probes(capture))
    for leg in legs:
        for way, wanted in leg.ways.items():
            leg.seen[way] = seen = _of_leg(probes, leg, way, legs)
            checks.append(_judge(leg, way, wanted, seen))
    return Flight(legs, checks, time.monotonic() - began)


def _flows() -> dict[str, list[Flow]]:
    down, up = 5001, 5002
    return {
        "cn": [
            Flow("tcp-down", "tcp-send", CN, down, rate=_RATE),
            Flow("tcp-up", "tcp-receive", CN, up),
        ],
        "mn": [
            Flow("tcp-down", "tcp-receive", MN, 0, CN, down),
            Flow("tcp-up", "tcp-send", MN, 0, CN, up, rate=_RATE),
        ],
    }


class _Scene:
    def __init__(self, stage: Stage, say: Callable[[str], None]) -> None:
        self._stage, self._lab, self._say = stage, stage.lab, say
        stage.flows = _flows()
        stage.recorder = Recorder([flow for flows in stage.flows.values() for flow in flows])
        self._checks: list[Check] = []
        self._laptop = ""

    def prepare(self) -> None:
        """Daemons, the laptop on board, TCP both ways."""
        stage, lab = self._stage, self._lab
        self._say(f"lab built: {', '.join(AIRCRAFT.nodes)}")
        ends = (
            *(("haw", "haw", "up0"), ("haa", "haa", "up0"), ("cabin", "mr", "cabin0")),
            *((name, name, "visit0") for name in ("fa1", "fa2", "ar3")),
        )
        stage.start_capture([Tap(name, lab.ns(node), port) for name, node, port in ends])
        for name in places.KEYS:
            write_private(lab.directory / f"{name}.key", secrets.token_hex(16) + "\n")
        told = places.configurations(lab.directory)
        stage.start_daemons({node: told[node] for node in DAEMONS})
        lab.plug("mr", GROUND_1)
        self._require("mr", GROUND_1.agent)
        lab.plug("mn", places.BOARD)
        self._require("mn", places.CABIN_AGENT)
        stage.start_traffic()
        self._laptop = self._registered()
        self._say("a laptop of WUSTL.EDU is on board of an aircraft of AA.COM; TCP runs both ways")

    def fly(self) -> list[Leg]:
        """Two ground stations with agents, and a place without one."""
        legs = []
        for number, place in enumerate((GROUND_1, GROUND_2, PLAIN)):
            if number:
                self._move(place)
            care_of = place.care_of_address("mr")
            self._require("mr", care_of)
            self._goes_on(place)
            ways = hops(place.name, care_of, is_colocated=not place.agent)
            leg = Leg(place.name, self._bindings(), ways)
            for binding in leg.bindings:
                self._say(
                    f"{place.name}: {binding['home_address']} is at {binding['care_of_address']},"
                    f" says {binding['home_agent']}"
                )
            self._probe(leg)
            legs.append(leg)
        return legs

    def checks(self) -> list[Check]:
        """What held beside the headers."""
        for name, label in (("tcp-down", "TCP CN -> MN"), ("tcp-up", "TCP MN -> CN")):
            transfer = self._stage.recorder.tcp[name]
            verdict = transfer.verdict()
            count = transfer.receiver.bytes if transfer.receiver else 0
            detail = verdict or f"one connection, {count} bytes, every byte as sent"
            self._checks.append(Check(label, not verdict, detail))
        same = self._registered() == self._laptop
        detail = "no registration while the aircraft flew" if same else "it registered again"
        self._checks.append(Check("the laptop's binding", same, detail))
        return self._checks

    def _move(self, place: Link) -> None:
        lab = self._lab
        self._say(f"the aircraft flies to {place.name}")
        lab.unplug("mr")
        lab.plug("mr", place)
        if place.leases:
            to = f"address add {place.leases['mr']} dev up0"
            lab.ip("mr", to, f"route replace default via {place.gateway} dev up0")

    def _rows(self, home_agent: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._stage.daemon(home_agent).ask("show binding")["rows"]
        return rows

    def _bindings(self) -> list[dict[str, str]]:
        keys = ("home_address", "care_of_address", "home_agent")
        rows = [*self._rows("haw"), *self._rows("haa")]
        return [{key: str(row[key]) for key in keys} for row in rows]

    def _registered(self) -> str:
        return str([row["identification"] for row in self._rows("haw")])

    def _require(self, node: str, care_of_address: str) -> None:
        home_agent = "haw" if node == "mn" else "haa"

        def agrees() -> bool:
            return [row["care_of_address"] for row in self._rows(home_agent)] == [care_of_address]

        self._stage.require(agrees, _LIMIT_S, f"{node} registered at {care_of_address}")

    def _goes_on(self, place: Link) -> None:
        recorder = self._stage.recorder
        before = {name: recorder.progress()[name][0] for name in recorder.tcp}
        went_on = self._stage.wait_until(
            lambda: all(recorder.progress()[n][0] > count for n, count in before.items()), _LIMIT_S
        )
        detail = "both transfers go on" if went_on else "no new bytes"
        self._checks.append(Check(f"TCP at {place.name}", went_on, detail))

    def _probe(self, leg: Leg) -> None:
        payload = PROBE_BYTES - 28
        for way, (node, source, to) in {
            "CN -> MN": ("cn", CN, MN),
            "MN -> CN": ("mn", MN, CN),
        }.items():
            leg.began_ns[way] = time.time_ns()
            self._lab.run(node, "python3", "-c", _SEND, source, to, str(payload))
            self._stage.wait(0.3)


def _of_leg(probes: list[Seen], leg: Leg, way: str, legs: list[Leg]) -> list[Seen]:
    """The packets between the sending of one probe and the next, in the order of their hops."""
    starts = sorted(ns for one in legs for ns in one.began_ns.values())
    began = leg.began_ns[way]
    ends = next((ns for ns in starts if ns > began), 1 << 64)
    return [one for one in probes if began <= one.wall_ns < ends]


def _judge(leg: Leg, way: str, wanted: list[Hop], seen: list[Seen]) -> Check:
    found = {(one.tap, one.stack, one.length) for one in seen}
    missing = [hop for hop in wanted if (hop.tap, hop.stack, hop.length) not in found]
    others = len(found) - len({(hop.tap, hop.stack, hop.length) for hop in wanted})
    holds = not missing and not others
    detail = f"{len(wanted)} hops as they must be"
    if missing:
        hop = missing[0]
        detail = f"{hop.name}: {hop.stack} of {hop.length} bytes was not seen"
    elif others:
        detail = f"{others} packets that must not be: {sorted(found)}"
    return Check(f"headers {way} at {leg.place}", holds, detail)


def as_lines(flight: Flight) -> list[str]:
    """The tables of the scene, for a terminal."""
    lines: list[str] = []
    for leg in flight.legs:
        lines += ["", f"Aircraft at {leg.place}"]
        lines += [
            f"  binding: {one['home_address']} -> {one['care_of_address']} at {one['home_agent']}"
            for one in leg.bindings
        ]
        for way, wanted in leg.ways.items():
            lines.append(f"  {way}")
            for hop in wanted:
                headers = "".join(f"[{header.replace('>', ' > ')}]" for header in hop.stack.split())
                is_seen = any(
                    (one.tap, one.stack, one.length) == (hop.tap, hop.stack, hop.length)
                    for one in leg.seen[way]
                )
                mark = "" if is_seen else "  NOT SEEN"
                lines += [f"    {hop.length:5} {hop.name}{mark}", f"          {headers}"]
    return [*lines, "", ANSWER, ""]


def as_rows(flight: Flight) -> list[dict[str, object]]:
    """The outcome in the shape of benchmark figures (``report.as_json``)."""
    rows: list[dict[str, object]] = []

    def add(name: str, value: object, unit: str, **more: object) -> None:
        told = {"ratio": None, "reference": "", "command": "sh ./run demo --scene plane"}
        rows.append({"name": f"demo.{name}", "value": value, "unit": unit, **told, **more})

    for leg in flight.legs:
        for one in leg.bindings:
            name = f"plane.{leg.place}.binding"
            add(name, one["care_of_address"], "address", home_address=one["home_address"])
        for way, wanted in leg.ways.items():
            for hop in wanted:
                short = "down" if way.startswith("CN") else "up"
                name = f"plane.{leg.place}.{short}.hop"
                add(name, hop.length, "bytes", hop=hop.name, headers=hop.stack.split())
    for check in flight.checks:
        add("check", check.holds, "bool", check=check.name, detail=check.detail)
    add("succeeded", flight.succeeded, "bool")
    add("duration", round(flight.seconds, 1), "s")
    return rows
