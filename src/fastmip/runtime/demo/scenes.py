"""The script of the demo: where the mobile node goes, how, and what must hold afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fastmip.runtime.demo import lab as places
from fastmip.runtime.demo.capture import Tap
from fastmip.runtime.demo.lab import HOME, VISITED_A, VISITED_B, Lab, LabError, Link
from fastmip.runtime.demo.measure import (
    BREAK,
    MAKE,
    Move,
    MoveResult,
    Recorder,
    judge_move,
    judge_stream,
)
from fastmip.runtime.demo.stage import Stage
from fastmip.runtime.demo.view import View

DWELL_S = 3.5
"""Time a move owns at least: long enough to see a refresh and a steady state after it."""
SETTLE_LIMIT_S = 12.0
OVERLAP_S = 0.4
"""Make-before-break: how long both links stay after the new one is registered."""
HOME_AGENT_TAPS = ("ha-home", "ha-outside")
_BINDING_POLL_S = 0.1


@dataclass(slots=True)
class Check:
    """Something that must hold, and whether it did."""

    name: str
    holds: bool
    detail: str


@dataclass(slots=True)
class Outcome:
    """Everything the report is made of."""

    results: list[MoveResult]
    checks: list[Check]
    recorder: Recorder
    start_ns: int
    end_ns: int
    events: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Whether TCP survived every move and every check holds."""
        return all(r.tcp_survived for r in self.results) and all(c.holds for c in self.checks)


def capture_taps(lab: Lab) -> list[Tap]:
    """Where the capture listens."""
    return [
        Tap("ha-home", lab.ns("ha"), "eth0", "home agent, home link"),
        Tap("ha-outside", lab.ns("ha"), "eth1", "home agent, towards the core"),
        Tap("hh", lab.ns("hh"), "eth0", "stock host on the home link"),
        Tap("mn-eth0", lab.ns("mn"), "eth0", "mobile node, first interface"),
        Tap("mn-wlan0", lab.ns("mn"), "wlan0", "mobile node, second interface"),
    ]


class Script:
    """Moves the mobile node about on a stage and notes what it sees."""

    def __init__(self, stage: Stage, view: View) -> None:
        self._stage = stage
        self._lab = stage.lab
        self._view = view
        self._port = "eth0"
        self._link = HOME
        self._moves: list[Move] = []
        self._checks: list[Check] = []
        self._polled = 0.0

    def play(self) -> Outcome:
        """Play every scene. Raises ``LabError`` when the lab itself fails."""
        stage, view = self._stage, self._view
        stage.tick = self._tick
        view.say(f"lab built: {', '.join(places.NODES)}")
        stage.start_capture(capture_taps(self._lab))
        self._lab.plug("eth0", HOME)
        self._lab.lease("eth0", HOME)
        view.attachments["eth0"] = HOME.name
        stage.start_daemons()
        view.say("home agent and mobile node serve")
        stage.require(self._home_address_is_up, 10, f"{places.HOME_ADDRESS} on the mobile node")
        stage.start_traffic()
        view.recorder = stage.recorder
        view.say("TCP each way and a paced UDP stream run, bound to the home address")
        start_ns = time.monotonic_ns()
        stage.wait(1.0)
        for target in (VISITED_A, VISITED_B, HOME):
            self._move(BREAK, target, self._break_before_make)
        for target in (VISITED_A, VISITED_B, HOME):
            self._move(MAKE, target, self._make_before_break)
        end_ns = time.monotonic_ns()
        view.step = "stopping"
        stage.stop_traffic()
        view.say("traffic stopped")
        self._check_traffic(start_ns, end_ns)
        results = [judge_move(stage.recorder, move, HOME_AGENT_TAPS) for move in self._moves]
        return Outcome(results, self._checks, stage.recorder, start_ns, end_ns)

    # ----------------------------------------------------------------- moves
    def _move(self, style: str, target: Link, how: Callable[[Move], None]) -> None:
        """Carry out one move, wait for the home agent to agree, look around."""
        view = self._view
        view.step = f"{style} {self._link.name} -> {target.name}"
        port = self._port if style == BREAK else self._spare_port()
        view.say(f"{style}: {self._link.name} -> {target.name}")
        move = Move(style, self._link.name, target.name, port, time.monotonic_ns())
        self._moves.append(move)
        how(move)
        self._port, self._link = port, target
        if self._stage.wait_until(self._agrees, SETTLE_LIMIT_S):
            move.settled_ns = move.settled_ns or time.monotonic_ns()
            at = "at home" if target is HOME else f"away at {', '.join(self._bindings())}"
            view.say(f"home agent: {at}")
        else:
            self._fail(f"binding after {move.title}", "the home agent does not agree")
        self._check_neighbour(move)
        self._stage.wait(DWELL_S - (time.monotonic_ns() - move.start_ns) / 1e9)
        move.end_ns = time.monotonic_ns()

    def _break_before_make(self, move: Move) -> None:
        """The only link goes down before the new one exists."""
        target = places.LINKS[move.target]
        self._lab.unplug(move.port)
        move.link_down_ns = time.monotonic_ns()
        self._lab.release(move.port)
        self._lab.plug(move.port, target)
        move.link_up_ns = time.monotonic_ns()
        self._lab.lease(move.port, target)
        move.address_ns = time.monotonic_ns()
        self._view.attachments[move.port] = target.name
        self._view.say(f"{move.port} lost its link", move.link_down_ns)
        self._view.say(f"{move.port} plugged into {target.name}", move.link_up_ns)

    def _make_before_break(self, move: Move) -> None:
        """The second interface is registered before the first loses its link."""
        target, old_port = places.LINKS[move.target], self._port
        self._lab.plug(move.port, target)
        move.link_up_ns = time.monotonic_ns()
        self._lab.lease(move.port, target)
        move.address_ns = time.monotonic_ns()
        self._stage.mobile_node.ask("prefer", interface=move.port)
        self._view.attachments[move.port] = target.name
        self._view.say(f"{move.port} plugged into {target.name}", move.link_up_ns)
        wanted = self._care_of(move.port, target)
        if self._stage.wait_until(lambda: self._knows(wanted), SETTLE_LIMIT_S):
            move.settled_ns = time.monotonic_ns()
            self._view.say(f"home agent: {', '.join(self._bindings()) or 'at home'}")
        self._stage.wait(OVERLAP_S)
        self._lab.unplug(old_port)
        move.link_down_ns = time.monotonic_ns()
        self._lab.release(old_port)
        self._view.attachments.pop(old_port)
        self._view.say(f"{old_port} lost its link", move.link_down_ns)

    def _spare_port(self) -> str:
        return next(port for port in places.PORTS if port != self._port)

    # -------------------------------------------------------------- looking
    def _tick(self) -> None:
        now = time.monotonic()
        if self._view.recorder and now - self._polled > _BINDING_POLL_S:
            self._polled = now
            self._view.bindings = self._bindings()
        self._view.tick()

    def _home_address_is_up(self) -> bool:
        shown = self._lab.run("mn", "ip", "-o", "-4", "address", "show").stdout
        return f"inet {places.HOME_ADDRESS}/" in shown

    def _bindings(self) -> list[str]:
        rows = self._stage.home_agent.ask("show binding")["rows"]
        return [str(row["care_of_address"]) for row in rows]

    @staticmethod
    def _care_of(port: str, link: Link) -> set[str]:
        """Care-of addresses the home agent should know with this port on this link."""
        return set() if link is HOME else {link.leases[port].partition("/")[0]}

    def _knows(self, wanted: set[str]) -> bool:
        """Whether the home agent forwards there, maybe elsewhere too; no binding means home."""
        known = set(self._bindings())
        return wanted <= known if wanted else not known

    def _agrees(self) -> bool:
        return set(self._bindings()) == self._care_of(self._port, self._link)

    # --------------------------------------------------------------- checks
    def _fail(self, name: str, detail: str) -> None:
        self._checks.append(Check(name, False, detail))
        self._view.say(f"FAILED: {name}: {detail}")

    def _check_neighbour(self, move: Move) -> None:
        """The stock home host must address whoever takes the packets now (RFC 5944 4.6)."""
        at_home = self._link is HOME
        owner = ("mn", self._port) if at_home else ("ha", "eth0")
        wanted = self._lab.mac(*owner)
        who = "mobile node's own" if at_home else "home agent's"

        def seen() -> str:
            return self._lab.neighbour("hh", places.HOME_ADDRESS)

        holds = self._stage.wait_until(lambda: seen() == wanted, 2)
        detail = f"{seen()} is the {who} MAC" if holds else f"{seen()} instead of {wanted}"
        name = f"ARP table of hh after {move.title} ({move.style})"
        self._checks.append(Check(name, holds, detail))
        self._view.say(f"ARP table of hh: {places.HOME_ADDRESS} at {detail}")

    def _check_traffic(self, start_ns: int, end_ns: int) -> None:
        recorder = self._stage.recorder
        for name, label in (("tcp-down", "TCP cn to mn"), ("tcp-up", "TCP mn to cn")):
            transfer = recorder.tcp[name]
            verdict = transfer.verdict()
            count = transfer.receiver.bytes if transfer.receiver else 0
            repeated = transfer.sender.retransmits if transfer.sender else 0
            detail = verdict or (
                f"one connection, {count} bytes, every byte as sent, {repeated} segments repeated"
            )
            self._checks.append(Check(label, not verdict, detail))
        for name, label in (
            ("stay-home", "hh to another host that never left home"),
            ("stay-cn", "cn to hh, which never left home"),
        ):
            loss = judge_stream(recorder.udp[name], start_ns, end_ns)
            count = len(recorder.udp[name].numbers_due(start_ns, end_ns))
            holds = count > 0 and not loss.lost and not loss.duplicated
            detail = f"{count} datagrams, {loss.lost} lost, {loss.duplicated} duplicated"
            self._checks.append(Check(label, holds, detail))


def require_programs(lab: Lab) -> None:
    """Say in one line what this machine lacks. Raises ``LabError``."""
    result = lab.run("mn", "ip", "tuntap", "add", "name", "probe0", "mode", "tun", check=False)
    if result.returncode:
        raise LabError(
            f"no TUN device ({result.stderr.strip()}): load the module tun and make"
            " /dev/net/tun readable and writable, or run as root"
        )
    lab.ip("mn", "link delete probe0")
