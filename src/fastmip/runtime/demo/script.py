"""What the scripts of all scenes share: beginning, one move after the other, checks, end."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fastmip.runtime.demo.capture import Tap
from fastmip.runtime.demo.lab import Lab, LabError
from fastmip.runtime.demo.measure import (
    Move,
    MoveResult,
    Recorder,
    judge_move,
    judge_stream,
)
from fastmip.runtime.demo.offload_lab import prepare_offload
from fastmip.runtime.demo.stage import Stage, write_private
from fastmip.runtime.demo.topology import HOME, HOME_ADDRESS, Link, Topology
from fastmip.runtime.demo.view import View

SETTLE_LIMIT_S = 12.0
STEADY_S = 1.2
"""How long TCP is watched at least after it went on; the last second decides its survival."""
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

    scene: str
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


class Script(ABC):
    """Moves the mobile node about on a stage and notes what it sees."""

    scene: ClassVar[str]
    topology: ClassVar[Topology]
    programs: ClassVar[Mapping[str, str]] = {}
    """Further programs it needs, and the Debian packages they are in."""

    def __init__(self, stage: Stage, view: View, engine: str = "") -> None:
        """``engine``: more lines of the home agent's ``[engine]``, whose interface is eth0."""
        self._engine = engine
        self._stage = stage
        self._lab = stage.lab
        self._view = view
        self._port = "eth0"
        self._link = HOME
        self._moves: list[Move] = []
        self._checks: list[Check] = []
        self._polled = 0.0
        self._flows = True

    @classmethod
    @abstractmethod
    def taps(cls, lab: Lab) -> list[Tap]:
        """Say where the capture listens; two of them are HOME_AGENT_TAPS."""

    @abstractmethod
    def configurations(self) -> dict[str, str]:
        """Machines that run fastmip, and their configuration files."""

    @abstractmethod
    def journey(self) -> None:
        """Go where this scene goes."""

    def _engine_table(self) -> str:
        return f"[engine]\n{self._engine}"

    def play(self) -> Outcome:
        """Play the scene. Raises ``LabError`` when the lab itself fails."""
        stage, view = self._stage, self._view
        stage.tick = self._tick
        view.say(f"lab built: {', '.join(self.topology.nodes)}")
        taps = self.taps(self._lab)
        if "offload" in self._engine:
            taps = prepare_offload(self._lab, taps)
        stage.start_capture(taps)
        self._lab.plug("eth0", HOME)
        self._lab.lease("eth0", HOME)
        view.attachments["eth0"] = HOME.name
        write_private(self._lab.directory / "mn.key", secrets.token_hex(16) + "\n")
        configurations = self.configurations()
        configurations["ha"] = configurations["ha"].replace("[engine]\n", self._engine_table(), 1)
        stage.start_daemons(configurations)
        view.say(f"fastmip serves on {', '.join(configurations)}")
        stage.require(self._home_address_is_up, 10, f"{HOME_ADDRESS} on the mobile node")
        stage.start_traffic()
        view.recorder = stage.recorder
        view.say("TCP each way and a paced UDP stream run, bound to the home address")
        start_ns = time.monotonic_ns()
        stage.wait(1.0)
        self.journey()
        end_ns = time.monotonic_ns()
        if "offload" in self._engine:
            self._checks.append(self._check_offload())
        view.step = "stopping"
        stage.stop_traffic()
        view.say("traffic stopped")
        self._check_traffic(start_ns, end_ns)
        results = [judge_move(stage.recorder, move, HOME_AGENT_TAPS) for move in self._moves]
        return Outcome(self.scene, results, self._checks, stage.recorder, start_ns, end_ns)

    def _check_offload(self) -> Check:
        told = self._stage.home_agent.ask("show runtime")["summary"]
        carried = [int(told[f"offload_{way}capsulated"]) for way in ("en", "de")]
        detail = f"{carried[0]} packets to the mobile node, {carried[1]} back"
        return Check("packets that only the kernel saw", all(carried), detail)

    # ----------------------------------------------------------------- moves
    def _move(self, move: Move, how: Callable[[Move], None], dwell_s: float) -> None:
        """Carry out one move, wait for the home agent to agree, look around."""
        view, target = self._view, self.topology.links[move.target]
        view.step = f"{move.heading} {move.title}"
        view.say(f"{move.heading}: {move.title}")
        self._moves.append(move)
        how(move)
        self._port, self._link = move.port, target
        if self._stage.wait_until(self._agrees, SETTLE_LIMIT_S):
            move.settled_ns = move.settled_ns or time.monotonic_ns()
            at = "at home" if target is HOME else f"away at {', '.join(self._bindings())}"
            view.say(f"home agent: {at}")
        else:
            self._fail(f"binding after {move.title}", "the home agent does not agree")
        self._check_neighbour(move)
        if self._flows:  # who waited in vain once need not do so after every move
            self._flows = self._stage.wait_until(self._transfers_go_on(), SETTLE_LIMIT_S)
        self._stage.wait(STEADY_S)
        self._stage.wait(dwell_s - (time.monotonic_ns() - move.start_ns) / 1e9)
        move.end_ns = time.monotonic_ns()

    def _transfers_go_on(self) -> Callable[[], bool]:
        """Whether both transfers have delivered something since now."""
        recorder = self._stage.recorder
        before = {name: recorder.progress()[name][0] for name in recorder.tcp}
        return lambda: all(recorder.progress()[n][0] > count for n, count in before.items())

    def _break_before_make(self, move: Move) -> None:
        """The only link goes down before the new one exists."""
        target = self.topology.links[move.target]
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

    # -------------------------------------------------------------- looking
    def _tick(self) -> None:
        now = time.monotonic()
        if self._view.recorder and now - self._polled > _BINDING_POLL_S:
            self._polled = now
            self._view.bindings = self._bindings()
        self._view.tick()

    def _home_address_is_up(self) -> bool:
        shown = self._lab.run("mn", "ip", "-o", "-4", "address", "show").stdout
        return f"inet {HOME_ADDRESS}/" in shown

    def _bindings(self) -> list[str]:
        rows = self._stage.home_agent.ask("show binding")["rows"]
        return [str(row["care_of_address"]) for row in rows]

    @staticmethod
    def _care_of(port: str, link: Link) -> set[str]:
        """Care-of addresses the home agent should know with this port on this link."""
        return set() if link is HOME else {link.care_of_address(port)}

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
            return self._lab.neighbour("hh", HOME_ADDRESS)

        holds = self._stage.wait_until(lambda: seen() == wanted, 2)
        detail = f"{seen()} is the {who} MAC" if holds else f"{seen()} instead of {wanted}"
        name = f"ARP table of hh after {move.title} ({move.heading})"
        self._checks.append(Check(name, holds, detail))
        self._view.say(f"ARP table of hh: {HOME_ADDRESS} at {detail}")

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
