"""``[foreign_agent]`` and ``[[advertise]]`` of the configuration file (``config.py``)."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

import msgspec

from fastmip.auth import associations as auth
from fastmip.runtime.config_types import (
    Address,
    AssociationConfig,
    Encapsulation,
    Lifetime,
    lifetime_s,
)
from fastmip.runtime.fixed_host_config import FixedHostConfig


class VisitorConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"associations": "association"},
):
    """``[[foreign_agent.mobile_node]]``: one that must prove itself (RFC 5944 3.5.3)."""

    home_address: Address | None = None
    nai: str | None = None
    """Instead of a home address, for a node that is given one (RFC 2794)."""
    associations: tuple[AssociationConfig, ...]

    def association_set(self) -> auth.AssociationSet:
        """Make the set of associations shared with this mobile node."""
        return auth.AssociationSet(association.build() for association in self.associations)


class HomeAgentPeerConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"associations": "association"},
):
    """``[[foreign_agent.home_agent]]``: one that signs for us, and we for it (3.5.4)."""

    address: Address
    associations: tuple[AssociationConfig, ...]

    def association_set(self) -> auth.AssociationSet:
        """Make the set of associations shared with this home agent."""
        return auth.AssociationSet(association.build() for association in self.associations)


class ForeignAgentRoleConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={
        "mobile_nodes": "mobile_node",
        "home_agents": "home_agent",
        "fixed_hosts": "fixed_host",
    },
):
    """``[foreign_agent]``: the foreign agent role."""

    interfaces: tuple[str, ...]
    """Links on which visitors are served."""
    care_of_addresses: tuple[Address, ...] = ()
    """Offered on every link; none: on each link its own address."""
    tunnel_device: str = "fmfa0"
    encapsulations: tuple[Encapsulation, ...] = ("ipip", "minimal", "gre")
    reverse_tunnel: Literal["optional", "required", "off"] = "optional"
    encapsulating_delivery: bool = True
    """Visitors may tunnel to us what shall be reverse-tunnelled (RFC 3024 5.2)."""
    max_lifetime: Lifetime = 1800
    max_visitors: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000
    max_pending: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    """Requests of strangers that wait for their home agents."""
    max_pending_per_node: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    max_visitors_per_node: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 16
    """Visitors of one link-layer address that share no association with us."""
    registration_required: bool = False
    """Advertise R: co-located nodes register through us too."""
    challenge: bool = False
    """Advertise challenges and demand an answer (RFC 4721)."""
    challenge_window: Annotated[int, msgspec.Meta(ge=2, le=100)] = 2
    """How many advertised challenges are good."""
    revocation: bool = False
    """Offer revocation to home agents we share an association with (RFC 3543)."""
    revocation_required: bool = False
    """Deny with 65 what cannot be revoked."""
    revocation_inform: bool = True
    """Let the home agent say whether a visitor is told."""
    revoke_on_stop: bool = True
    """Tell home agents of their visitors when the daemon stops."""
    nat: Literal["none", "translating", "transparent", "forced"] = "none"
    """What stands between us and the home agents (RFC 3519)."""
    nat_keepalive: Annotated[int, msgspec.Meta(ge=10, le=3600)] = 110
    strict_reserved: bool = False
    assigned_home_agents: tuple[Address, ...] = ()
    """For nodes that name none (RFC 4433); without any they are denied with 90."""
    home_networks: tuple[ipaddress.IPv4Network, ...] = ()
    """Home agents elsewhere are denied with 65; empty allows all."""
    denials_per_second: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    tos: Literal["normal", "compatibility"] = "normal"
    """ECN tunnel mode (RFC 6040)."""
    path_mtu: Annotated[int, msgspec.Meta(ge=576, le=65535)] = 1500
    """Upper bound for tunnels, bytes."""
    mobile_nodes: tuple[VisitorConfig, ...] = ()
    home_agents: tuple[HomeAgentPeerConfig, ...] = ()
    fixed_hosts: tuple[FixedHostConfig, ...] = ()
    """Registered by us, for good (RFC 5944 4.5)."""

    @property
    def max_lifetime_s(self) -> int:
        """Seconds; 0xffff when infinite, as on the wire."""
        return lifetime_s(self.max_lifetime)


class AdvertiseConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[[advertise]]``: how we advertise on one link; links without a table get the defaults."""

    interface: str
    enabled: bool = True
    max_interval: Annotated[float, msgspec.Meta(ge=0.2, le=1800)] = 1.0
    """Seconds between advertisements at most (RFC 5944 2.3 lets agents be faster than RFC 1256)."""
    min_interval: Annotated[float, msgspec.Meta(ge=0.0, le=1800)] | None = None
    """None: three quarters of ``max_interval``."""
    lifetime: Annotated[int, msgspec.Meta(ge=1, le=9000)] | None = None
    """Seconds an advertisement holds; None: three times ``max_interval``."""
    broadcast: bool = False
    """Send to 255.255.255.255 instead of 224.0.0.1."""
    solicited_only: bool = False
    """Advertise only to those who ask."""
    prefix_lengths: bool = True
    """Tell the prefix of the link; on a link all agents do or none (RFC 5944 2.3)."""
    preference: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)] = 0
    """Of our addresses among the default routers of the link (RFC 1256 4.1)."""
    routes_common_traffic: bool = True
    """False: ICMP code 16, a router for visitors only."""
    registration_required: bool | None = None
    """R on this link; None: as in ``[foreign_agent]``."""
    challenge: bool | None = None
    """Challenges on this link; None: as in ``[foreign_agent]``."""
    nai: str | None = None
    """Identity of the foreign agent (RFC 4857 8.2)."""

    @property
    def shortest_s(self) -> float:
        """Seconds."""
        return self.max_interval * 0.75 if self.min_interval is None else self.min_interval

    @property
    def lifetime_s(self) -> int:
        """Seconds; three advertisements fit in (RFC 5944 2.1)."""
        return max(1, round(3 * self.max_interval)) if self.lifetime is None else self.lifetime
