"""The values a mobile node shows and is configured with: state, settings, handovers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fastmip.agents.care_of import CareOfBinding
from fastmip.agents.conversation import Wishes
from fastmip.agents.effects import NEVER, Now
from fastmip.agents.hosts import Prefix
from fastmip.wire.addresses import format_address

SECOND_NS = 1_000_000_000


class State(Enum):
    """See the table at the head of ``mobile.py``; the words are those of RFC 2006 mnState."""

    ISOLATED = "isolated"
    PENDING = "pending"
    REGISTERED = "registered"
    RETURNING = "returning"
    HOME = "home"
    STOPPING = "stopping"
    STOPPED = "stopped"


STATES = {
    ("nowhere", False): State.ISOLATED,
    ("nowhere", True): State.ISOLATED,
    ("away", False): State.PENDING,
    ("away", True): State.REGISTERED,
    ("home", False): State.RETURNING,
    ("home", True): State.HOME,
}
"""(where attached, home agent agrees) -> state."""


@dataclass(frozen=True, slots=True)
class MobileNodeSettings:
    """Configuration of a mobile node; addresses host-order, lifetimes in seconds."""

    home_address: int
    home_network: Prefix
    home_agent: int
    """Unicast address, or the subnet-directed broadcast of the home network (discovery)."""
    interfaces: tuple[str, ...]
    """In order of preference."""
    lifetime_s: int = 300
    """Requested; 0xffff asks for an infinite one."""
    reverse_tunnel: bool = True
    simultaneous: bool = True
    """Make-before-break with the S bit when two links are up."""
    encapsulation: int = 4
    """IP protocol number."""

    @property
    def wishes(self) -> Wishes:
        """What every registration asks for."""
        return Wishes(self.lifetime_s, self.reverse_tunnel, self.encapsulation)


@dataclass(slots=True)
class Handover:
    """A change of attachment; times are CLOCK_BOOTTIME nanoseconds, 0 while unknown."""

    kind: str
    """``start``, ``break-before-make``, ``make-before-break`` or ``return-home``."""
    from_interface: str
    from_address: int
    to_interface: str
    to_address: int
    link_lost_ns: int
    """When the link before stopped being usable; 0 if it still was."""
    link_up_ns: int
    """When the new attachment appeared."""
    request_ns: int = 0
    """First transmission of the request."""
    reply_ns: int = 0
    """Arrival of the accepting reply."""

    def fields(self) -> dict[str, str | int]:
        """Flat and JSON-ready; addresses as text, empty where there was none."""
        return {
            "kind": self.kind,
            "from_interface": self.from_interface,
            "from_address": format_address(self.from_address) if self.from_address else "",
            "to_interface": self.to_interface,
            "to_address": format_address(self.to_address),
            "link_lost_ns": self.link_lost_ns,
            "link_up_ns": self.link_up_ns,
            "request_ns": self.request_ns,
            "reply_ns": self.reply_ns,
        }


def binding_row(binding: CareOfBinding, now: Now) -> dict[str, object]:
    """One line of RFC 2006 mnRegistrationTable, JSON-ready; lifetimes in seconds."""
    infinite = binding.held_until_ns == NEVER
    left_s = None if infinite else max(0, binding.held_until_ns - now.boot_ns) // SECOND_NS
    return {
        "care_of_address": format_address(binding.care_of_address),
        "home_agent": format_address(binding.home_agent),
        "interface": binding.interface,
        "accepted": binding.accepted,
        "granted_s": binding.lifetime_s,
        "remaining_s": left_s,
        "reverse_tunnel": binding.reverse,
    }
