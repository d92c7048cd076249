"""``[[home_agent.pool]]``: home addresses for hosts that have none of their own (RFC 2794)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import msgspec

from fastmip.agents.address_pool import Pool
from fastmip.errors import ConfigError
from fastmip.runtime.config_types import Address

if TYPE_CHECKING:
    from fastmip.runtime.config import HomeAgentConfig, HostConfig

UNASSIGNED = Address(0)
"""``home_address`` of a host that gets one out of a pool."""


class PoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Either ``prefix``, or ``first`` and ``last``."""

    name: str
    first: Address | None = None
    last: Address | None = None
    prefix: IPv4Network | None = None
    realms: tuple[str, ...] = ()
    """Only for nodes whose NAI has one of them."""

    def build(self) -> Pool:
        """What the agent goes by."""
        realms = tuple(realm.lower().encode() for realm in self.realms)
        if self.prefix is not None:
            first = int(self.prefix.network_address)
            return Pool(self.name, first, first + self.prefix.num_addresses - 1, realms)
        return Pool(self.name, int(self.first or 0), int(self.last or 0), realms)


def pools_of(section: HomeAgentConfig) -> tuple[Pool, ...]:
    """The pools, in the order in which they are used."""
    return tuple(pool.build() for pool in section.address_pools)


def reserved_of(section: HomeAgentConfig) -> frozenset[int]:
    """Addresses of the home network that no node gets out of a pool."""
    network, told = section.home_network, section.host_configuration
    found = {int(section.address), int(network.network_address), int(network.broadcast_address)}
    if told is not None and told.gateway is not None:
        found.add(int(told.gateway))
    return frozenset(found)


def addressed(hosts: Iterable[HostConfig]) -> list[HostConfig]:
    """Hosts with a home address of their own."""
    return [host for host in hosts if host.home_address != UNASSIGNED]


def check_pools(file: str, section: HomeAgentConfig) -> None:
    """Check the pools, each by itself and against each other. Raises ConfigError."""
    network, seen = section.home_network, list[Pool]()
    home = Pool("", int(network.network_address), int(network.broadcast_address))
    for number, config in enumerate(section.address_pools):
        path = f"home_agent.pool[{number}]"
        if not config.name.isprintable() or not 1 <= len(config.name) <= 63:
            raise ConfigError(file, f"{path}.name", "use 1 to 63 printable characters")
        has_range = config.first is not None and config.last is not None
        has_part = config.first is not None or config.last is not None
        if has_part != has_range or has_range == (config.prefix is not None):
            raise ConfigError(file, path, "say either prefix, or first and last")
        pool = config.build()
        if pool.first > pool.last:
            raise ConfigError(file, f"{path}.last", "lies before first: exchange them")
        if pool.first not in home or pool.last not in home:
            remedy = f"not in home_network {network}: use addresses inside"
            raise ConfigError(file, f"{path}.{'prefix' if config.prefix else 'first'}", remedy)
        for other in seen:
            if other.name == pool.name:
                raise ConfigError(file, f"{path}.name", "is another pool's name: change one")
            if other.first <= pool.last and pool.first <= other.last:
                raise ConfigError(file, path, f"overlaps pool {other.name}: change one of them")
        seen.append(pool)


def check_unassigned(file: str, path: str, host: HostConfig, section: HomeAgentConfig) -> None:
    """Check a host without a home address of its own. Raises ConfigError."""
    if host.nai is None:
        remedy = "is missing: give it, or a nai and a pool to get one from"
        raise ConfigError(file, f"{path}.home_address", remedy)
    nai = host.nai.encode()
    if not any(pool.serves(nai) for pool in pools_of(section)):
        remedy = "is missing, and no pool serves the realm of its nai: give it, or add a pool"
        raise ConfigError(file, f"{path}.home_address", remedy)
    for name, value in (("networks", host.networks), ("dynamic_networks", host.dynamic_networks)):
        if value:
            remedy = "needs a home_address: mobile networks belong to one"
            raise ConfigError(file, f"{path}.{name}", remedy)
