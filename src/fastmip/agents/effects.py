"""What an agent wants done to the world; runtime carries the effects out, in order.

Addresses are host-order 32-bit integers (``fastmip.wire.addresses`` formats them), times
are nanoseconds. ``CLOCK_BOOTTIME`` drives every lifetime, wall time only Identification.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from fastmip.wire.host_configuration import HostConfiguration

NEVER = 2**64 - 1
"""Expiry of a binding with infinite lifetime (0xffff on the wire)."""


class Now(NamedTuple):
    """The two clocks an agent is allowed to know; the harness supplies both."""

    boot_ns: int
    """CLOCK_BOOTTIME in nanoseconds: lifetimes and timers."""
    wall_ns: int
    """Unix time in nanoseconds: only the timestamps of the Identification field."""


class Endpoint(NamedTuple):
    """A UDP end point."""

    address: int
    port: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a datagram came from; everything but its bytes."""

    source: Endpoint
    destination: Endpoint
    """Destination address of the IP header, also when it was a broadcast."""
    interface: str = ""
    mac: bytes | None = None
    """Link-layer source when the sender is on one of our links and it is known."""
    ttl: int = 0
    """Time to live of the IP header as it arrived, 0 when unknown."""


class Tunnel(NamedTuple):
    """One tunnel of a node: outer addresses, encapsulation, expiry.

    A tuple, because a home agent makes one with every registration: a quarter of the cost.
    """

    remote: int
    """Outer address of the peer: the care-of address at a home agent."""
    local: int
    """Our outer address: the home agent address at a home agent."""
    expires_ns: int
    """CLOCK_BOOTTIME nanoseconds, or NEVER."""
    encapsulation: int = 4
    """IP protocol number: 4 IP-in-IP, 47 GRE, 55 minimal encapsulation."""
    reverse: bool = False
    """The T bit was granted: reverse-tunnelled packets are accepted."""
    remote_port: int = 0
    """Not 0: a UDP tunnel (RFC 3519) to this port; 0xffff: not known yet (half bound)."""
    local_port: int = 0
    """Our port of a UDP tunnel."""
    broadcasts: bool = False
    """The B bit was granted: broadcasts of the home network go through this tunnel."""
    nested: bool = False
    """D is 0: broadcasts, and what is for mobile networks, get a header to the home address first.
    At a foreign agent: encapsulating delivery (RFC 3024)."""
    gre_key: int | None = None
    """Key of a GRE tunnel (RFC 2890), None without."""


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send a UDP datagram from exactly this source."""

    data: bytes
    source: Endpoint
    destination: Endpoint
    interface: str = ""
    """Not empty: put it on this link, whatever the routing table or a binding says."""
    mac: bytes | None = None
    """Link-layer destination for an on-link answer when it is known."""
    ttl: int | None = None
    """Time to live, None for the system's own."""


@dataclass(frozen=True, slots=True)
class SendIcmp:
    """Send an ICMP message with TTL 1 on a link: an agent advertisement or solicitation."""

    message: bytes
    """From its type byte on, checksum included."""
    source: int
    destination: int
    interface: str
    mac: bytes | None = None
    """Link-layer destination; None follows from the destination (a group, a broadcast)."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Make a node's new state durable and effective: prepare -> store -> publish.

    The agent hears the outcome through ``commit_done(token, outcome, now)`` and only then
    returns the reply and the ARP effects. ``tunnels`` is the complete new chain of the node;
    empty removes the node from the engine. ``row`` is what the store keeps for the node.
    """

    token: int
    home_address: int
    tunnels: tuple[Tunnel, ...]
    row: NodeRow
    networks: PrefixChange | None = None
    """What becomes of its mobile networks; None: nothing."""
    assigned: bytes = b""
    """Keep the home address for the node of this name; empty: nothing to keep."""


class PrefixChange(NamedTuple):
    """New mobile networks of a router, in the store and in the engine (RFC 5177)."""

    records: bytes
    """What is durable of them from now on, see ``fastmip.agents.mobile_networks``."""
    leaving: tuple[tuple[int, int], ...] = ()
    """Prefixes and lengths that lead to it no more."""
    entering: tuple[tuple[int, int], ...] = ()
    """Those that do from now on."""


class NodeRow(NamedTuple):
    """The durable state of a node: its replay high-water mark and its bindings.

    The row stays after deregistration, with empty ``bindings``, because the mark must
    outlive the binding.
    """

    home_address: int
    identification: int
    """Highest accepted Identification as an unsigned 64-bit integer."""
    nonce: int
    """Last issued 32-bit nonce, 0 with timestamps."""
    bindings: bytes
    """Concatenated binding records of ``fastmip.agents.bindings`` (64 bytes each)."""


class CommitOutcome(Enum):
    """How a Commit ended."""

    COMMITTED = "committed"
    ENGINE_FULL = "engine full"
    STORE_FAILED = "store failed"


@dataclass(frozen=True, slots=True)
class StartProxyArp:
    """Answer ARP for this home address on the home link (RFC 5944 4.6)."""

    home_address: int


@dataclass(frozen=True, slots=True)
class StopProxyArp:
    """Stop answering ARP for this home address."""

    home_address: int


@dataclass(frozen=True, slots=True)
class GratuitousArp:
    """Broadcast gratuitous ARP for an address on the home link (RFC 5944 4.6)."""

    home_address: int
    mac: bytes | None
    """MAC to install; None means the MAC of our own interface."""
    interface: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """A security violation for the log and the violation table (RFC 2006 mipSecViolationTable)."""

    home_address: int
    peer: int
    spi: int
    identification: int
    reason: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something an operator wants to read: a name and flat fields, never a secret."""

    name: str
    fields: tuple[tuple[str, str | int | float], ...] = ()


@dataclass(frozen=True, slots=True)
class InstallTunnels:
    """Mobile node: make these the tunnels of the home address, the first for sending.

    An empty tuple removes them. ``source`` of outer packets is ``Tunnel.local``.
    """

    home_address: int
    tunnels: tuple[Tunnel, ...]


@dataclass(frozen=True, slots=True)
class RouteThroughTunnel:
    """Mobile node: send traffic of the home address into the tunnel device, or stop doing so.

    ``reverse`` False: inbound tunnel only, packets leave natively (triangular routing).
    """

    enabled: bool
    reverse: bool
    interface: str = ""
    """Interface whose address is the care-of address in use."""
    gateway: int = 0
    """Foreign agent that is the default router instead of the link's own (RFC 5944 4.2.1)."""
    direct: tuple[tuple[int, int], ...] = ()
    """Networks (address, prefix length) reached by that router without the tunnel."""


@dataclass(frozen=True, slots=True)
class ConfigureHome:
    """Mobile node: take up (True) or give up (False) home routing on a home link (2.4.3)."""

    interface: str
    at_home: bool


@dataclass(frozen=True, slots=True)
class SetArp:
    """Mobile node: answer ARP for the home address on this interface, or refuse (4.6)."""

    interface: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class PinNeighbour:
    """Make a permanent neighbour entry, so that no ARP is needed (RFC 5944 4.2.2)."""

    address: int
    interface: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class UnpinNeighbour:
    """Take a permanent neighbour entry away again."""

    address: int
    interface: str


@dataclass(frozen=True, slots=True)
class UseNetworks:
    """Mobile router: carry exactly these networks (RFC 5177)."""

    networks: tuple[tuple[int, int, bool], ...]
    """Prefix, length, and whether it was given dynamically: then its first address is ours."""


@dataclass(frozen=True, slots=True)
class UseHostConfiguration:
    """Mobile node: the home agent told this of the home network (RFC 4332)."""

    told: HostConfiguration


@dataclass(frozen=True, slots=True)
class InstallVisitor:
    """Foreign agent: carry a visitor's packets from now on, or carry them differently.

    ``tunnel`` runs from us (``local``, the care-of address) to its home agent (``remote``).
    """

    home_address: int
    interface: str
    mac: bytes
    tunnel: Tunnel
    reverse: bool = False
    """Its packets go to the home agent through the tunnel (RFC 3024)."""
    encapsulating: bool = False
    """It encapsulates to us what shall be reverse-tunnelled (RFC 3024 5.2); the rest is routed."""
    token: int = 0
    """The agent hears by it, in ``visitor_installed``, whether the visitor is carried."""


@dataclass(frozen=True, slots=True)
class RemoveVisitor:
    """Foreign agent: carry nothing for this visitor any more."""

    home_address: int
    interface: str


Effect = (
    SendDatagram
    | SendIcmp
    | Commit
    | StartProxyArp
    | StopProxyArp
    | GratuitousArp
    | Violation
    | Event
    | InstallTunnels
    | RouteThroughTunnel
    | ConfigureHome
    | SetArp
    | PinNeighbour
    | UnpinNeighbour
    | UseHostConfiguration
    | UseNetworks
    | InstallVisitor
    | RemoveVisitor
)
