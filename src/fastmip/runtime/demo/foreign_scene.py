"""The second scene: foreign agents and an address translator, over every encapsulation.

The mobile node asks for IP-in-IP, minimal encapsulation and GRE in turn, told by a restart of
its daemon while it is at home; the connections outlive that, too. With each it visits two
foreign agents, where it has no address of its own, then a private link behind an address
translator, where the tunnel runs over UDP, and comes home.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import ClassVar

from fastmip.runtime.demo.capture import Tap
from fastmip.runtime.demo.lab import Lab
from fastmip.runtime.demo.measure import BREAK, ENCAPSULATIONS, Move
from fastmip.runtime.demo.script import Check, Script
from fastmip.runtime.demo.stage import write_private
from fastmip.runtime.demo.topology import (
    AGENTS,
    FOREIGN_1,
    FOREIGN_2,
    HOME,
    HOME_ADDRESS,
    HOME_AGENT,
    HOME_NETWORK,
    PRIVATE,
    Topology,
)

DWELL_S = 3.0
"""Time a move owns at least."""
_AGREED_NS = 500_000_000
"""Until then both ends of a tunnel know that it was accepted."""
_FEW = 20
"""Packets of a tunnel that show it is in use."""

_DAEMON = """\
[daemon]
state_dir = "{directory}/{node}-state"
control_socket = "{directory}/{node}.sock"
log_format = "json"

[engine]
max_bindings = 1024
"""
_HOME_AGENT_TOML = (
    _DAEMON
    + """
[home_agent]
address = "{home_agent}"
home_network = "{home_network}"
interface = "eth0"

[[home_agent.host]]
home_address = "{home_address}"
[[home_agent.host.association]]
spi = 256
key_file = "{directory}/mn.key"

[[home_agent.foreign_agent]]
address = "10.3.1.1"
[[home_agent.foreign_agent.association]]
spi = 512
key_file = "{directory}/fa1.key"

[[home_agent.foreign_agent]]
address = "10.3.2.1"
[[home_agent.foreign_agent.association]]
spi = 512
key_file = "{directory}/fa2.key"
"""
)
_FOREIGN_AGENT_TOML = (
    _DAEMON
    + """
[foreign_agent]
interfaces = ["visit0"]
[[foreign_agent.home_agent]]
address = "{home_agent}"
[[foreign_agent.home_agent.association]]
spi = 512
key_file = "{directory}/{node}.key"
"""
)
_MOBILE_NODE_TOML = (
    _DAEMON
    + """
[mobile_node]
home_address = "{home_address}"
home_network = "{home_network}"
home_agent = "{home_agent}"
interfaces = ["eth0"]
care_of = "foreign-agent-first"
handover = "fast"
nat = "auto"
encapsulation = "{encapsulation}"
[mobile_node.association]
spi = 256
key_file = "{directory}/mn.key"
"""
)


class ForeignScript(Script):
    """Visits two foreign agents and a translator and comes home, with each encapsulation."""

    scene: ClassVar[str] = "foreign"
    topology: ClassVar[Topology] = AGENTS
    programs: ClassVar[Mapping[str, str]] = {"nft": "nftables"}

    @classmethod
    def taps(cls, lab: Lab) -> list[Tap]:
        """Say where the capture listens."""
        return [
            Tap("ha-home", lab.ns("ha"), "eth0", "home agent, home link"),
            Tap("ha-outside", lab.ns("ha"), "eth1", "home agent, towards the core"),
            Tap("hh", lab.ns("hh"), "eth0", "stock host on the home link"),
            Tap("mn-eth0", lab.ns("mn"), "eth0", "mobile node"),
        ]

    def configurations(self) -> dict[str, str]:
        """Home agent, both foreign agents and the mobile node."""
        for node in ("fa1", "fa2"):
            write_private(self._lab.directory / f"{node}.key", secrets.token_hex(16) + "\n")
        return {
            "ha": self._configuration("ha", _HOME_AGENT_TOML),
            "fa1": self._configuration("fa1", _FOREIGN_AGENT_TOML),
            "fa2": self._configuration("fa2", _FOREIGN_AGENT_TOML),
            "mn": self._configuration("mn", _MOBILE_NODE_TOML, encapsulation="ipip"),
        }

    def _configuration(self, node: str, template: str, **more: str) -> str:
        return template.format(
            directory=self._lab.directory,
            node=node,
            home_agent=HOME_AGENT,
            home_network=HOME_NETWORK,
            home_address=HOME_ADDRESS,
            **more,
        )

    def journey(self) -> None:
        """Home, both agents, the translator, home, with each encapsulation."""
        for encapsulation in ENCAPSULATIONS:
            if encapsulation != "ipip":
                self._ask_for(encapsulation)
            for target in (FOREIGN_1, FOREIGN_2, PRIVATE, HOME):
                start_ns = time.monotonic_ns()
                move = Move(BREAK, self._link.name, target.name, self._port, start_ns)
                move.encapsulation = encapsulation
                self._move(move, self._break_before_make, DWELL_S)
                if target is not HOME:
                    self._check_tunnel(move)

    def _ask_for(self, encapsulation: str) -> None:
        """Start the mobile node's daemon anew, at home."""
        self._view.step = f"restarting mn for {ENCAPSULATIONS[encapsulation]}"
        self._stage.mobile_node.stop()
        text = self._configuration("mn", _MOBILE_NODE_TOML, encapsulation=encapsulation)
        self._stage.start_daemons({"mn": text})
        self._stage.require(self._home_address_is_up, 10, f"{HOME_ADDRESS} on the mobile node")
        self._view.say(f"mn asks for {ENCAPSULATIONS[encapsulation]} from now on")
        self._stage.require(self._transfers_go_on(), 15, "TCP after the restart")
        self._stage.wait(0.5)

    def _check_tunnel(self, move: Move) -> None:
        """Between home agent and care-of address only what was meant, both ways."""
        link = self.topology.links[move.target]
        there = link.tunnel_end(move.port)
        meant = f"udp-{move.encapsulation}" if link is PRIVATE else move.encapsulation
        since_ns = (move.settled_ns or move.start_ns) + _AGREED_NS
        seen = self._stage.recorder.tunnels_seen("ha-outside", since_ns, move.end_ns)
        out = seen.get((HOME_AGENT, there, meant), 0)
        back = seen.get((there, HOME_AGENT, meant), 0)
        others = {kind for s, d, kind in seen if there in (s, d) and kind != meant}
        detail = f"{out} packets of {meant} to {there}, {back} back"
        if others:
            detail += f", but also {', '.join(sorted(others))}"
        holds = out > _FEW and back > _FEW and not others
        self._checks.append(Check(f"tunnel on {link.name}, {move.heading}", holds, detail))
        self._view.say(f"seen beside the home agent: {detail}")
