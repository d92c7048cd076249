"""A home agent's policy out of its configuration, and what a reload may change of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastmip.agents.hosts import HomeAgentPolicy, Host, Prefix, ReverseTunnel
from fastmip.runtime.directory import host_of
from fastmip.runtime.host_configuration import host_configuration_of
from fastmip.runtime.pool_config import UNASSIGNED, addressed
from fastmip.runtime.service import ReloadRefused, StartError
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from fastmip.runtime.config import Config, HomeAgentConfig

NEEDS_RESTART = (
    "address",
    "home_network",
    "interface",
    "tunnel_device",
    "tos",
    "encapsulations",
    "broadcast",
)
"""Keys of ``[home_agent]`` that a reload cannot change."""
_PEERS = ("hosts", "foreign_agents")
"""Fields whose changes are told peer by peer."""

_REVERSE = {
    "optional": ReverseTunnel.ALLOW,
    "required": ReverseTunnel.REQUIRE,
    "off": ReverseTunnel.REFUSE,
}

ENCAPSULATIONS = {"ipip": 4, "minimal": 55, "gre": 47}


def policy_of(config: Config) -> HomeAgentPolicy:
    """The agent's policy from the configuration file."""
    section = section_of(config)
    return HomeAgentPolicy(
        home_agent_address=int(section.address),
        home_network=prefix_of(section.home_network),
        home_interface=section.interface or "",
        max_lifetime_s=section.max_lifetime_s,
        simultaneous_bindings=section.max_simultaneous,
        max_bindings=min(
            section.max_bindings or config.engine.max_bindings, config.engine.max_bindings
        ),
        max_registrations_per_second=section.max_registrations_per_second,
        spread_lifetimes_s=section.spread_lifetimes,
        group=None if section.group is None else section.group.build(int(section.address)),
        max_bindings_per_second=section.max_bindings_per_second,
        reverse_tunnel=_REVERSE[section.reverse_tunnel],
        strict_reserved=section.strict_reserved,
        strict_source=section.strict_source,
        answer_bad_authentication=section.answer_bad_authentication,
        care_of_prefixes=tuple(map(prefix_of, section.care_of_networks)),
        denials_per_second=section.denials_per_second,
        foreign_agents={
            int(agent.address): agent.association_set() for agent in section.foreign_agents
        }.get,
        encapsulations=frozenset(ENCAPSULATIONS[name] for name in section.encapsulations),
        nat_traversal=section.nat_traversal,
        nat_force=section.nat_force,
        nat_keepalive_s=section.nat_keepalive,
        nat_max_lifetime_s=section.nat_max_lifetime_s,
        revocation=section.revocation,
        revocation_inform=section.revocation_inform,
        aaa_authorizes=section.aaa_authorization,
        identity=(section.identity or "").encode(),
        vendors=config.vendor_registry(),
        experimental=config.daemon.experimental,
        broadcasts=bool(section.broadcast),
        networks=section.pools.policy(),
        host_configuration=host_configuration_of(section),
    )


def prefix_of(network: IPv4Network) -> Prefix:
    """A network as agents know it."""
    return Prefix(int(network.network_address), network.prefixlen)


def section_of(config: Config) -> HomeAgentConfig:
    """``[home_agent]``. Raises StartError without."""
    if config.home_agent is None:
        raise StartError("the configuration has no [home_agent] table: add one")
    return config.home_agent


def planned_changes(old: Config, new: Config) -> list[str]:
    """Changes of ``[home_agent]`` and ``[engine]``. Raises ReloadRefused."""
    old_section, section = section_of(old), section_or_refuse(new)
    changed = [key for key in NEEDS_RESTART if getattr(section, key) != getattr(old_section, key)]
    if new.engine != old.engine:
        changed.append("[engine]")
    if changed:
        raise ReloadRefused(f"home_agent: {', '.join(changed)} cannot change: restart instead")
    policy_of(new)  # whatever is wrong with it is heard now
    fields = [name for name in type(section).__struct_fields__ if name not in _PEERS]
    changes = [
        f"home_agent.{name}: {_shown(getattr(old_section, name))}"
        f" -> {_shown(getattr(section, name))}"
        for name in fields
        if getattr(section, name) != getattr(old_section, name)
    ]
    changes += _differences("host", hosts_of(old_section), hosts_of(section))
    before, after = _unassigned(old_section), _unassigned(section)
    changes += [f"host {nai}: removed" for nai in sorted(before.keys() - after.keys())]
    changes += [f"host {nai}: added" for nai in sorted(after.keys() - before.keys())]
    both = sorted(before.keys() & after.keys())
    changes += [f"host {nai}: changed" for nai in both if before[nai] != after[nai]]
    changes += _differences("foreign agent", _agents_of(old_section), _agents_of(section))
    return changes


def section_or_refuse(config: Config) -> HomeAgentConfig:
    """``[home_agent]`` of a new file. Raises ReloadRefused without."""
    if config.home_agent is None:
        raise ReloadRefused("[home_agent] was removed: restart instead")
    return config.home_agent


def hosts_of(section: HomeAgentConfig) -> dict[int, Host]:
    """Hosts of the file by home address."""
    return {int(host.home_address): host_of(host) for host in addressed(section.hosts)}


def _unassigned(section: HomeAgentConfig) -> dict[str, Host]:
    """Hosts of the file without a home address, by NAI."""
    return {
        host.nai or "": host_of(host) for host in section.hosts if host.home_address == UNASSIGNED
    }


def _agents_of(section: HomeAgentConfig) -> dict[int, object]:
    return {int(agent.address): agent.association_set() for agent in section.foreign_agents}


def _differences(kind: str, old: Mapping[int, object], new: Mapping[int, object]) -> list[str]:
    """One line for each peer of a kind that was removed, added or changed."""
    found = dict.fromkeys(old.keys() - new.keys(), "removed")
    found |= dict.fromkeys(new.keys() - old.keys(), "added")
    found |= {a: "changed" for a in old.keys() & new.keys() if old[a] != new[a]}
    return [f"{kind} {format_address(a)}: {found[a]}" for a in sorted(found)]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
