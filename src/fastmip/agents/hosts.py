"""Who may register, and under which rules: hosts and the home agent's policy.

Both are immutable values the runtime builds from configuration; the agent only reads them.
Addresses are host-order integers, lifetimes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from fastmip.auth.associations import AssociationSet

INFINITE_LIFETIME = 0xFFFF
"""Lifetime field of a registration that never expires (RFC 5944 3.3)."""


class ReverseTunnel(Enum):
    """What the home agent thinks of the T bit (RFC 3024 4.3.1)."""

    REFUSE = "refuse"
    """Requests with T=1 are denied with 137."""
    ALLOW = "allow"
    REQUIRE = "require"
    """Requests with T=0 are denied with 138."""


@dataclass(frozen=True, slots=True)
class Host:
    """A mobile node this home agent serves."""

    home_address: int
    associations: AssociationSet
    max_lifetime_s: int | None = None
    """Longest lifetime granted; ``None`` takes the home agent's."""
    simultaneous_bindings: int | None = None
    """Most care-of addresses at a time; ``None`` takes the home agent's."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """An IPv4 prefix."""

    network: int
    length: int

    def __contains__(self, address: int) -> bool:
        """Whether the address lies in the prefix."""
        return (address ^ self.network) >> (32 - self.length) == 0

    @property
    def broadcast(self) -> int:
        """The subnet-directed broadcast address."""
        return self.network | (0xFFFFFFFF >> self.length)


def _no_foreign_agent(_address: int) -> AssociationSet | None:
    return None


@dataclass(frozen=True, slots=True)
class HomeAgentPolicy:
    """Configuration of a home agent (RFC 5944 3.8.1); replaced as a whole on reload."""

    home_agent_address: int
    """Our unicast address on the home network; answers requests sent to a broadcast."""
    home_network: Prefix
    home_interface: str = ""
    """Link of the home network; empty: a virtual home network without ARP."""
    addresses: frozenset[int] = frozenset()
    """Further unicast addresses accepted in the Home Agent field (multihomed)."""
    max_lifetime_s: int = 1800
    """Longest lifetime granted; 0xffff also grants infinite ones."""
    simultaneous_bindings: int = 4
    """Most care-of addresses of a node; 1 turns the S bit off and success into code 1 (C-05)."""
    max_bindings: int = 100_000
    """Bindings of all nodes together; beyond it new ones are denied with 130."""
    max_bindings_per_second: int = 0
    """New bindings accepted per second, 0 for any; beyond it 130."""
    reverse_tunnel: ReverseTunnel = ReverseTunnel.ALLOW
    strict_reserved: bool = False
    """Deny the formerly used bits r and x with 134 instead of ignoring them (C-01)."""
    strict_source: bool = True
    """Deny with 129 when a request with lifetime comes from neither its care-of nor its home
    address nor an authenticated foreign agent."""
    answer_bad_authentication: bool = False
    """Answer a wrong Mobile-Home authenticator with 131 where RFC 5944 3.8.2.1 leaves the choice.
    With a valid Foreign-Home authenticator 131 is mandatory and always sent."""
    care_of_prefixes: tuple[Prefix, ...] = ()
    """Service area: other care-of addresses are denied with 129; empty allows everywhere."""
    denials_per_second: int = 1000
    """Denials answered per second over all nodes; each node gets at most one a second."""
    reports_per_second: int = 50
    """Security violations reported per second; the rest is only counted."""
    foreign_agents: Callable[[int], AssociationSet | None] = field(
        default=_no_foreign_agent, repr=False
    )
    """Mobility security associations shared with the foreign agent at an address."""
    own: frozenset[int] = field(init=False, repr=False, compare=False)
    """All our unicast addresses."""
    broadcast: int = field(init=False, repr=False, compare=False)
    """The home network's broadcast address."""

    def __post_init__(self) -> None:
        """Derive what every request asks for."""
        object.__setattr__(self, "own", self.addresses | {self.home_agent_address})
        object.__setattr__(self, "broadcast", self.home_network.broadcast)
