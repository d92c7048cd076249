"""``[mobile_node.router]`` of the configuration file, and what types cannot say about it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from fastmip.agents.router_networks import RouterSettings
from fastmip.errors import ConfigError

if TYPE_CHECKING:
    from fastmip.runtime.config import Config, MobileNodeConfig

MAX_NETWORKS = 32
"""Requests that fit into a registration beside everything else."""


class RouterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[mobile_node.router]``: networks move along (RFC 5177, RFC 6626)."""

    networks: tuple[ipaddress.IPv4Network, ...] = ()
    dynamic: tuple[Annotated[int, msgspec.Meta(ge=0, le=30)], ...] = ()
    """A network of this length for each, chosen by the home agent; 0: any length."""
    mode: Literal["explicit", "implicit"] = "explicit"
    """Implicit: the home agent knows ``networks``, requests do not name them."""
    ingress: tuple[str, ...]
    """Interfaces the networks are on."""

    def settings(self) -> RouterSettings:
        """The agent's part of it."""
        return RouterSettings(
            tuple((int(n.network_address), n.prefixlen) for n in self.networks),
            self.dynamic,
            self.mode == "implicit",
        )


def serves_from_networks(config: Config) -> bool:
    """Whether the foreign agent here serves visitors of our own mobile networks: then what it
    sends goes through the router's tunnel like everything from there."""
    node, foreign = config.mobile_node, config.foreign_agent
    if node is None or node.router is None or foreign is None:
        return False
    return bool(set(node.router.ingress) & set(foreign.interfaces))


def check_router(file: str, config: Config) -> None:
    """Check the table and how it goes with the others. Raises ConfigError."""
    node = config.mobile_node
    if node is None or node.router is None:
        return
    router, path = node.router, "mobile_node.router"
    if not router.ingress:
        raise ConfigError(file, f"{path}.ingress", "empty: name the interface of the networks")
    for number, name in enumerate(router.ingress):
        if name in (*node.interfaces, node.tunnel_device, *router.ingress[:number]):
            remedy = f"{name} is named already: name an interface of the mobile networks alone"
            raise ConfigError(file, f"{path}.ingress[{number}]", remedy)
    if len(router.networks) + len(router.dynamic) > MAX_NETWORKS:
        raise ConfigError(file, path, f"more than {MAX_NETWORKS} networks: join some of them")
    _check_networks(file, path, node, router)
    if node.delivery == "encapsulating":
        remedy = 'a router tunnels its networks itself: use "direct"'
        raise ConfigError(file, "mobile_node.delivery", remedy)
    if not node.reverse_tunnel:
        remedy = "a router needs reverse tunnels (RFC 5177 5): leave it out or set it to true"
        raise ConfigError(file, "mobile_node.reverse_tunnel", remedy)


def _check_networks(file: str, path: str, node: MobileNodeConfig, router: RouterConfig) -> None:
    for number, network in enumerate(router.networks):
        where = f"{path}.networks[{number}]"
        if network.is_multicast or network.is_loopback or network.network_address.is_reserved:
            raise ConfigError(file, where, "not a network of unicast addresses: use another")
        if network.prefixlen == 0:
            raise ConfigError(file, where, "holds every address: use one of 1 to 32 bits")
        for other in router.networks[:number]:
            if network.overlaps(other):
                raise ConfigError(file, where, f"overlaps {other}: name the larger one alone")
        for key in ("home_address", "home_agent"):
            address = ipaddress.IPv4Address(int(getattr(node, key)))
            if address in network:
                remedy = f"holds {key} {address}, which would lie behind itself: use another"
                raise ConfigError(file, where, remedy)
