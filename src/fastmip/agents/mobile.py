"""The mobile node with a co-located care-of address (RFC 5944 3.6), sans I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastmip.agents.attachment import LinkState
from fastmip.agents.effects import Arrival, Effect, Now
from fastmip.agents.hosts import Prefix
from fastmip.auth.associations import AssociationSet


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


class MobileNode:
    """One mobile node: link changes, datagrams and clocks in, effects out.

    Never raises on what a datagram contains. Every method returns effects in the order in
    which they have to be carried out.
    """

    def __init__(
        self,
        settings: MobileNodeSettings,
        associations: AssociationSet,
        *,
        random: Callable[[int], bytes],
    ) -> None:
        raise NotImplementedError

    def link_changed(self, link: LinkState, now: Now) -> list[Effect]:
        """Hear the new state of a link (netlink); an interface that vanished has no carrier."""
        raise NotImplementedError

    def prefer(self, interface: str | None, now: Now) -> list[Effect]:
        """Put a link before all others on the operator's word; None: the configured order."""
        raise NotImplementedError

    def receive_datagram(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """Handle one datagram that arrived on the registration socket."""
        raise NotImplementedError

    def handle_timer(self, now: Now) -> list[Effect]:
        """Do what is due; call it at ``next_deadline``."""
        raise NotImplementedError

    def next_deadline(self) -> int | None:
        """CLOCK_BOOTTIME nanoseconds at which ``handle_timer`` has something to do."""
        raise NotImplementedError

    def stop(self, now: Now) -> list[Effect]:
        """Deregister and come to rest; ``stopped`` tells when it is done."""
        raise NotImplementedError

    @property
    def stopped(self) -> bool:
        """After ``stop``: nothing is left to say to the home agent."""
        raise NotImplementedError

    def status(self, now: Now) -> dict[str, object]:
        """State, attachment, bindings and last handovers, JSON-ready."""
        raise NotImplementedError

    def counters(self) -> dict[str, int]:
        """RFC 2006 mobile node counters and named reasons of silent drops."""
        raise NotImplementedError
