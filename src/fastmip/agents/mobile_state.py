"""The values a mobile node shows and is configured with: state, settings, bindings."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from fastmip.agents.agent_cache import Agent
from fastmip.agents.assignment import Assignment
from fastmip.agents.attachment import Attachment
from fastmip.agents.care_of import CareOfBinding
from fastmip.agents.conversation import Nat, Wishes
from fastmip.agents.effects import NEVER, Arrival, Effect, Event, Now, Violation
from fastmip.agents.exchange import Identity, ReplyRefused
from fastmip.agents.hosts import Prefix
from fastmip.agents.keepalive import DEFAULT_S
from fastmip.agents.offers import CareOf
from fastmip.agents.router_networks import RouterSettings
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


class HandoverPolicy(Enum):
    """What a move must not cost (RFC 3753 4.4); ``docs/handover.md`` says what each does."""

    SMOOTH = "smooth"
    """Few packets lost: the old registration is kept until the new one works."""
    FAST = "fast"
    """Little delay: every sign of a new link is followed at once."""
    SEAMLESS = "seamless"
    """Both."""


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
    care_of: CareOf = CareOf.COLOCATED
    eager: bool = False
    """Move as soon as an agent of another subnet is heard (RFC 5944 2.4.2.2)."""
    handover: HandoverPolicy = HandoverPolicy.SMOOTH
    encapsulating_delivery: bool = False
    """Through foreign agents (RFC 3024 5.2)."""
    broadcasts: bool = False
    """Ask for broadcasts of the home network (bit B)."""
    nat: Nat = Nat.OFF
    keepalive_s: int = DEFAULT_S
    revocation: bool = False
    """Let the home agent revoke registrations of our own addresses (RFC 3543)."""
    identity: Identity = field(default_factory=Identity)
    any_home_agent: int | None = None
    """Home Agent field of a node that is given its home agent (RFC 4433)."""
    refresh_s: int = 0
    """Register again after so long at the latest, 0: by the lifetime alone."""
    router: RouterSettings | None = None
    """Networks that move along (RFC 5177); None for a mobile host."""

    @property
    def wishes(self) -> Wishes:
        """What every registration asks for."""
        return Wishes(
            self.lifetime_s,
            self.reverse_tunnel or self.router is not None,
            self.encapsulation,
            broadcasts=self.broadcasts,
            encapsulating_delivery=self.encapsulating_delivery,
            nat=self.nat,
            revocation=self.revocation,
            is_router=self.router is not None,
        )

    def assignment(self) -> Assignment | None:
        """The search for a home agent, if it is not a given one."""
        if self.any_home_agent is None:
            return None
        return Assignment(self.home_agent, self.any_home_agent)

    @property
    def hurries(self) -> bool:
        """A sign of a new link is followed at once, whatever the link did before."""
        return self.handover is not HandoverPolicy.SMOOTH

    @property
    def keeps_the_old(self) -> bool:
        """The registration before is kept until the new one works (bit S)."""
        return self.simultaneous and self.handover is not HandoverPolicy.FAST


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
        "agent": format_address(binding.agent) if binding.agent else "",
        "udp_port": binding.udp_port,
    }


def agent_row(agent: Agent, now: Now, *, in_use: bool) -> dict[str, object]:
    """One line of ``show agent`` (RFC 2006 mnFATable), JSON-ready; lifetimes in seconds."""
    return {
        "agent": format_address(agent.address),
        "interface": agent.interface,
        "mac": agent.mac.hex(":"),
        "care_of_addresses": " ".join(format_address(a) for a in agent.care_of_addresses),
        "flags": flag_letters(agent.flags),
        "sequence": agent.sequence,
        "max_lifetime_s": agent.registration_lifetime_s,
        "remaining_s": max(0, agent.expires_ns - now.boot_ns) // SECOND_NS,
        "networks": " ".join(f"{format_address(p.network)}/{p.length}" for p in agent.prefixes),
        "challenge": bool(agent.challenge),
        "nai": repr(agent.nai)[2:-1],
        "in_use": in_use,
    }


def flag_letters(flags: int) -> str:
    """The flags of an advertisement by their letters (RFC 5944 2.1.1, RFC 3519, RFC 3543)."""
    letters = "RBHFMGrTUXI"
    return "".join(letter for bit, letter in enumerate(letters) if flags & (0x8000 >> bit))


def violation_of(
    refusal: ReplyRefused, home_address: int, data: bytes, arrival: Arrival
) -> list[Effect]:
    """A refused reply is dropped; report what looks like an attack (RFC 5944 3.6.2.1)."""
    if refusal.violation is None:
        return []
    identification, peer = int.from_bytes(data[12:20]), arrival.source.address
    reason = refusal.violation.text
    return [Violation(home_address, peer, refusal.spi, identification, reason)]


def address_text(address: int) -> str:
    return format_address(address) if address else ""


def binding_event(name: str, binding: CareOfBinding) -> Event:
    address = format_address(binding.care_of_address)
    return Event(name, (("care_of_address", address), ("interface", binding.interface)))


def attachment_event(name: str, attachment: Attachment) -> Event:
    address = format_address(attachment.care_of_address)
    fields = (
        ("interface", attachment.interface),
        ("care_of_address", address),
        ("at_home", int(attachment.at_home)),
        ("agent", address_text(attachment.agent)),
    )
    return Event(name, fields)
