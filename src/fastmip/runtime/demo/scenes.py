"""The first scene: a mobile node with addresses of its own, broken and unbroken handovers."""

from __future__ import annotations

import time
from typing import ClassVar

from fastmip.runtime.demo.capture import Tap
from fastmip.runtime.demo.lab import Lab
from fastmip.runtime.demo.measure import BREAK, MAKE, Move
from fastmip.runtime.demo.script import SETTLE_LIMIT_S, Script
from fastmip.runtime.demo.topology import (
    HOME,
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_NETWORK,
    PORTS,
    ROUTERS_ONLY,
    VISITED_A,
    VISITED_B,
    Topology,
)

DWELL_S = 3.5
"""Time a move owns at least: long enough to see a refresh and a steady state after it."""
OVERLAP_S = 0.4
"""Make-before-break: how long both links stay after the new one is registered."""

_HOME_AGENT_TOML = """\
[daemon]
state_dir = "{directory}/ha-state"
control_socket = "{directory}/ha.sock"
log_format = "json"

[engine]
max_bindings = 1024

[home_agent]
address = "{home_agent}"
home_network = "{home_network}"
interface = "eth0"

[[home_agent.host]]
home_address = "{home_address}"
[[home_agent.host.association]]
spi = 256
key_file = "{directory}/mn.key"
"""

_MOBILE_NODE_TOML = """\
[daemon]
state_dir = "{directory}/mn-state"
control_socket = "{directory}/mn.sock"
log_format = "json"

[engine]
max_bindings = 64

[mobile_node]
home_address = "{home_address}"
home_network = "{home_network}"
home_agent = "{home_agent}"
interfaces = ["eth0", "wlan0"]
[mobile_node.association]
spi = 256
key_file = "{directory}/mn.key"
"""


class HomeAgentScript(Script):
    """Visits two links with plain routers, first breaking before making, then the other way."""

    scene: ClassVar[str] = "home-agent"
    topology: ClassVar[Topology] = ROUTERS_ONLY

    @classmethod
    def taps(cls, lab: Lab) -> list[Tap]:
        """Say where the capture listens."""
        return [
            Tap("ha-home", lab.ns("ha"), "eth0", "home agent, home link"),
            Tap("ha-outside", lab.ns("ha"), "eth1", "home agent, towards the core"),
            Tap("hh", lab.ns("hh"), "eth0", "stock host on the home link"),
            Tap("mn-eth0", lab.ns("mn"), "eth0", "mobile node, first interface"),
            Tap("mn-wlan0", lab.ns("mn"), "wlan0", "mobile node, second interface"),
        ]

    def configurations(self) -> dict[str, str]:
        """Home agent and mobile node."""
        values = {
            "directory": self._lab.directory,
            "home_agent": HOME_AGENT,
            "home_network": HOME_NETWORK,
            "home_address": HOME_ADDRESS,
        }
        return {
            "ha": _HOME_AGENT_TOML.format_map(values),
            "mn": _MOBILE_NODE_TOML.format_map(values),
        }

    def journey(self) -> None:
        """Home, A, B, home, twice."""
        for style, how in ((BREAK, self._break_before_make), (MAKE, self._make_before_break)):
            for target in (VISITED_A, VISITED_B, HOME):
                port = self._port if style == BREAK else self._spare_port()
                move = Move(style, self._link.name, target.name, port, time.monotonic_ns())
                self._move(move, how, DWELL_S)

    def _make_before_break(self, move: Move) -> None:
        """The second interface is registered before the first loses its link."""
        target, old_port = self.topology.links[move.target], self._port
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
        return next(port for port in PORTS if port != self._port)

    def _knows(self, wanted: set[str]) -> bool:
        """Whether the home agent forwards there, maybe elsewhere too; no binding means home."""
        known = set(self._bindings())
        return wanted <= known if wanted else not known
