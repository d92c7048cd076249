"""``[home_agent.mobile_networks]``, and what makes sense of mobile networks (RFC 5177, 6626)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import TYPE_CHECKING, Annotated

import msgspec

from fastmip.agents.hosts import NetworkPolicy
from fastmip.agents.prefix_set import Network, PrefixSet
from fastmip.errors import ConfigError

if TYPE_CHECKING:
    from fastmip.runtime.config import HomeAgentConfig, HostConfig

SHORTEST = 8
"""Shortest mobile network: a table entry for each /24 of it is written with every change."""
_POOLS = 1
"""Owner of the pools among home addresses: 0.0.0.1 is nobody's."""


class MobileNetworksConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prefixes that routers get on demand (RFC 6626)."""

    pools: tuple[IPv4Network, ...] = ()
    length: Annotated[int, msgspec.Meta(ge=SHORTEST, le=32)] = 28
    """Length of a prefix for a router that names none."""
    shortest: Annotated[int, msgspec.Meta(ge=SHORTEST, le=32)] = 24
    """Shortest length a router gets by naming it."""

    def policy(self) -> NetworkPolicy:
        """What the agent goes by."""
        return NetworkPolicy(networks_of(self.pools), self.length, self.shortest)


def networks_of(networks: Iterable[IPv4Network]) -> tuple[Network, ...]:
    """Prefixes and lengths, as the agent has them."""
    return tuple((int(network.network_address), network.prefixlen) for network in networks)


def outside(networks: Iterable[Network], home_network: IPv4Network) -> list[str]:
    """What has to be led to the engine beside the home network, as few routes as possible."""
    found = [IPv4Network(network) for network in networks]
    apart = [network for network in found if not network.subnet_of(home_network)]
    return [str(network) for network in collapse_addresses(apart)]


def check_networks(file: str, home_agent: HomeAgentConfig) -> None:
    """Check all mobile networks of a file against each other. Raises ConfigError."""
    section, path = home_agent.pools, "home_agent.mobile_networks"
    taken = PrefixSet()
    for number, pool in enumerate(section.pools):
        where = f"{path}.pools[{number}]"
        _check_network(file, where, pool, home_agent)
        if pool.prefixlen > section.length:
            remedy = f"holds no /{section.length}: use a shorter prefix, or a longer length"
            raise ConfigError(file, where, remedy)
        (network,) = networks_of([pool])
        if taken.is_foreign(network, 0):
            raise ConfigError(file, where, "overlaps another pool: remove one of them")
        taken.add(network, _POOLS)
    if section.shortest > section.length:
        remedy = f"is longer than length: use {section.length} or less"
        raise ConfigError(file, f"{path}.shortest", remedy)
    for number, host in enumerate(home_agent.hosts):
        check_host_networks(file, f"home_agent.host[{number}]", host, home_agent, taken)
        for network in networks_of(host.networks):
            if not taken.owner(network):
                taken.add(network, int(host.home_address))


def check_host_networks(
    file: str, path: str, host: HostConfig, home_agent: HomeAgentConfig, taken: PrefixSet
) -> None:
    """Check the mobile networks of one host; ``taken`` are those of others and the pools.

    Two routers may be configured for the same prefix, one in place of the other, but for none that
    lies in another's. Raises ConfigError.
    """
    if host.dynamic_networks and not home_agent.pools.pools:
        remedy = "needs home_agent.mobile_networks.pools: add a pool"
        raise ConfigError(file, f"{path}.dynamic_networks", remedy)
    for number, one in enumerate(host.networks):
        where = f"{path}.networks[{number}]"
        _check_network(file, where, one, home_agent)
        (network,) = networks_of([one])
        if one in host.networks[:number]:
            raise ConfigError(file, where, f"{one} is named twice: remove one")
        holder = taken.owner(network)
        if holder != _POOLS and holder:
            continue
        if taken.is_foreign(network, int(host.home_address)):
            remedy = f"{one} overlaps a pool or another router's network: use another"
            raise ConfigError(file, where, remedy)


def pools_of(home_agent: HomeAgentConfig) -> PrefixSet:
    """The pools, for ``check_host_networks`` of a host that comes on the run."""
    taken = PrefixSet()
    for network in networks_of(home_agent.pools.pools):
        taken.add(network, _POOLS)
    for host in home_agent.hosts:
        for network in networks_of(host.networks):
            taken.add(network, int(host.home_address))
    return taken


def _check_network(file: str, path: str, network: IPv4Network, section: HomeAgentConfig) -> None:
    if network.prefixlen < SHORTEST:
        raise ConfigError(file, path, f"use a prefix length from {SHORTEST} to 32")
    first = network.network_address
    if network.is_multicast or network.is_loopback or first.is_reserved or not int(first) >> 24:
        raise ConfigError(file, path, "not a network of unicast addresses: use another")
    if IPv4Address(int(section.address)) in network:
        remedy = f"holds the home agent's address {section.address}: use another"
        raise ConfigError(file, path, remedy)
    home = section.home_network
    if network.supernet_of(home):
        raise ConfigError(file, path, f"holds the home network {home}: use a network beside it")
