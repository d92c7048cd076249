"""Who may register, and under which rules: hosts and the home agent's policy.

Both are immutable values the runtime builds from configuration; the agent only reads them.
Addresses are host-order integers, lifetimes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from fastmip.agents.home_choice import GroupPolicy
from fastmip.auth.associations import AssociationSet
from fastmip.auth.mn_aaa import AaaSecret
from fastmip.wire.host_configuration import HostConfiguration
from fastmip.wire.vendor import VendorRegistry

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
    nai: bytes = b""
    """Its network access identifier (RFC 2794); a request that names another is a stranger's."""
    aaa: tuple[AaaSecret, ...] = ()
    """Secrets of the Mobile-AAA authentication (RFC 4721); the SPI selects one."""
    networks: tuple[tuple[int, int], ...] = ()
    """Mobile networks it may register (RFC 5177): prefix and length."""
    dynamic_networks: int = 0
    """Most prefixes it may get out of the pools (RFC 6626)."""


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


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """Pools of mobile networks (RFC 6626)."""

    pools: tuple[tuple[int, int], ...] = ()
    """Prefix and length of each."""
    length: int = 28
    """Length of what is allocated without a hint."""
    shortest: int = 24
    """A hint below it counts as this length."""


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
    address nor an authenticated foreign agent, and asks for no UDP tunnel."""
    encapsulations: frozenset[int] = frozenset({4, 47, 55})
    """Protocol numbers of the encapsulations offered; IP-in-IP always is."""
    nat_traversal: bool = True
    """Tunnel in UDP when a translator is on the way and it is asked for (RFC 3519), else 129."""
    nat_force: bool = True
    """Also without a translator, if that is asked for (F flag), else 129."""
    nat_keepalive_s: int = 0
    """Keepalive interval told; 0 leaves it to the mobile node."""
    nat_max_lifetime_s: int = INFINITE_LIFETIME
    """Longest lifetime granted to a UDP tunnel (RFC 3519 5.2)."""
    revocation: bool = True
    """Negotiate revocation with whoever asks for it (RFC 3543)."""
    revocation_inform: bool = True
    """Also the I bit: we say whether the mobile node is told."""
    aaa_authorizes: bool = False
    """A Mobile-AAA authentication that we can check stands in for a Mobile-Home one."""
    identity: bytes = b""
    """Our network access identifier, told in replies (RFC 3846 4); empty tells none."""
    vendors: VendorRegistry = field(default_factory=VendorRegistry)
    """Vendor extensions known; unknown critical ones are denied with 140 or 141 (RFC 3115)."""
    experimental: bool = False
    """Take part in experiments (RFC 4064): their extensions do not drop a request."""
    broadcasts: bool = False
    """Grant the B bit (RFC 5944 4.3)."""
    answer_bad_authentication: bool = False
    """Answer a wrong Mobile-Home authenticator with 131 where RFC 5944 3.8.2.1 leaves the choice.
    With a valid Foreign-Home authenticator 131 is mandatory and always sent."""
    care_of_prefixes: tuple[Prefix, ...] = ()
    """Service area: other care-of addresses are denied with 129; empty allows everywhere."""
    denials_per_second: int = 1000
    """Denials answered per second over all nodes; each node gets at most one a second."""
    reports_per_second: int = 50
    """Security violations reported per second; the rest is only counted."""
    max_registrations_per_second: int = 0
    """Registrations with a lifetime answered per second, 0 for any; beyond it 130."""
    spread_lifetimes_s: int = 0
    """So long after a start lifetimes are cut by chance, so that refreshes do not come at once."""
    group: GroupPolicy | None = None
    """Other home agents that nodes may be sent to (RFC 4433)."""
    networks: NetworkPolicy = field(default_factory=NetworkPolicy)
    """Mobile networks to allocate."""
    host_configuration: HostConfiguration = field(default_factory=HostConfiguration)
    """What is told of the home network to nodes that ask (RFC 4332)."""
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
