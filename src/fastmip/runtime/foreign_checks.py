"""What types cannot say about ``[foreign_agent]`` and ``[[advertise]]`` (``config_checks.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmip.errors import ConfigError
from fastmip.runtime.config_checks import (
    check_associations,
    check_interface,
    check_no_duplicates,
    check_plain_unicast,
)
from fastmip.runtime.fixed_host_config import check_fixed_hosts
from fastmip.wire.nai import check_nai

if TYPE_CHECKING:
    from fastmip.runtime.config import Config
    from fastmip.runtime.foreign_config import AdvertiseConfig, ForeignAgentRoleConfig


def check_foreign(file: str, config: Config, *, file_is_private: bool, mode: int) -> None:
    """Check both tables and how they go with the others. Raises ConfigError."""
    section = config.foreign_agent
    if section is not None:
        _check_role(file, section)
        _check_peers(file, section, file_is_private=file_is_private, mode=mode)
        check_fixed_hosts(file, section, file_is_private=file_is_private, mode=mode)
        _check_beside(file, config, section)
        if section.max_visitors > config.engine.max_bindings:
            remedy = f"set it to at least {section.max_visitors}, foreign_agent.max_visitors"
            raise ConfigError(file, "engine.max_bindings", remedy)
    served = set() if section is None else set(section.interfaces)
    if config.home_agent is not None and config.home_agent.interface is not None:
        served.add(config.home_agent.interface)
    names = [item.interface for item in config.advertisements]
    check_no_duplicates(file, "advertise", "interface", names)
    for number, item in enumerate(config.advertisements):
        _check_advertise(file, f"advertise[{number}]", item, served)


def _check_role(file: str, section: ForeignAgentRoleConfig) -> None:
    path = "foreign_agent"
    if not section.interfaces:
        raise ConfigError(file, f"{path}.interfaces", "empty: name at least one link")
    check_no_duplicates(file, f"{path}.interfaces", "", section.interfaces)
    for number, name in enumerate(section.interfaces):
        check_interface(file, f"{path}.interfaces[{number}]", name)
    check_interface(file, f"{path}.tunnel_device", section.tunnel_device)
    if section.tunnel_device in section.interfaces:
        remedy = "is also in foreign_agent.interfaces: fastmip makes this device itself"
        raise ConfigError(file, f"{path}.tunnel_device", remedy)
    for number, address in enumerate(section.care_of_addresses):
        check_plain_unicast(file, f"{path}.care_of_addresses[{number}]", address)
    check_no_duplicates(
        file, f"{path}.care_of_addresses", "", [str(a) for a in section.care_of_addresses]
    )
    if "ipip" not in section.encapsulations:
        remedy = 'every agent must offer IP-in-IP (RFC 5944 4.1): add "ipip"'
        raise ConfigError(file, f"{path}.encapsulations", remedy)
    if section.revocation_required and not section.revocation:
        raise ConfigError(file, f"{path}.revocation_required", "set revocation = true too")
    if section.nat == "translating" and section.reverse_tunnel == "off":
        remedy = "behind a translator reverse tunnels are needed (RFC 3519 4.5): not off"
        raise ConfigError(file, f"{path}.reverse_tunnel", remedy)


def _check_peers(
    file: str, section: ForeignAgentRoleConfig, *, file_is_private: bool, mode: int
) -> None:
    known: list[str] = []
    for number, node in enumerate(section.mobile_nodes):
        path = f"foreign_agent.mobile_node[{number}]"
        if (node.home_address is None) == (node.nai is None):
            raise ConfigError(file, path, "name a home_address or a nai, one of them")
        if node.home_address is not None:
            check_plain_unicast(file, f"{path}.home_address", node.home_address)
        elif not check_nai((node.nai or "").encode()):
            raise ConfigError(file, f"{path}.nai", 'not an NAI: use one such as "mn@example.com"')
        known.append(str(node.home_address or node.nai))
        check_associations(
            file, path, node.associations, file_is_private=file_is_private, mode=mode
        )
    check_no_duplicates(file, "foreign_agent.mobile_node", "", known)
    for number, agent in enumerate(section.home_agents):
        path = f"foreign_agent.home_agent[{number}]"
        check_plain_unicast(file, f"{path}.address", agent.address)
        check_associations(
            file, path, agent.associations, file_is_private=file_is_private, mode=mode
        )
    check_no_duplicates(
        file, "foreign_agent.home_agent", "address", [str(a.address) for a in section.home_agents]
    )


def _check_beside(file: str, config: Config, section: ForeignAgentRoleConfig) -> None:
    home_agent, node = config.home_agent, config.mobile_node
    if home_agent is not None:
        if section.tunnel_device in (home_agent.tunnel_device, home_agent.interface):
            raise ConfigError(
                file, "foreign_agent.tunnel_device", "is used by another role: use another name"
            )
        if section.nat != "none":
            remedy = "needs port 434 for itself: run the home agent in a daemon of its own"
            raise ConfigError(file, "foreign_agent.nat", remedy)
    if node is not None and set(node.interfaces) & set(section.interfaces):
        remedy = "a link is either for visitors or for our own mobile node: take one away"
        raise ConfigError(file, "foreign_agent.interfaces", remedy)


def _check_advertise(file: str, path: str, item: AdvertiseConfig, served: set[str]) -> None:
    check_interface(file, f"{path}.interface", item.interface)
    if item.interface not in served:
        remedy = "no agent here serves this link: name a link of [foreign_agent] or [home_agent]"
        raise ConfigError(file, f"{path}.interface", remedy)
    if item.shortest_s > item.max_interval:
        raise ConfigError(file, f"{path}.min_interval", "must not exceed max_interval")
    if item.lifetime_s < item.max_interval:
        remedy = "shorter than max_interval: nodes would lose us between two advertisements"
        raise ConfigError(file, f"{path}.lifetime", remedy)
    if item.nai is not None and not check_nai(item.nai.encode()):
        raise ConfigError(file, f"{path}.nai", 'not an NAI: use one such as "fa1@example.com"')
