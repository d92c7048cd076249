"""``[home_agent.host_configuration]``: what nodes are told of the home network (RFC 4332)."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import msgspec

from fastmip.errors import ConfigError
from fastmip.runtime.config_types import Address
from fastmip.wire.addresses import is_unicast
from fastmip.wire.host_configuration import MAX_TEXT_LEN, HostConfiguration

if TYPE_CHECKING:
    from fastmip.runtime.config import HomeAgentConfig, MobileNodeConfig


class HostConfigurationConfig(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """The prefix length is that of the home network; the rest is told if it is given."""

    gateway: Address | None = None
    """Default router of the home link."""
    dns: tuple[Address, ...] = ()
    """At most two."""
    dns_suffix: str | None = None
    url: str | None = None


def host_configuration_of(section: HomeAgentConfig) -> HostConfiguration:
    """What the agent tells."""
    told = section.host_configuration or HostConfigurationConfig()
    return HostConfiguration(
        prefix_length=section.home_network.prefixlen,
        dns_servers=tuple(map(int, told.dns)),
        gateway=0 if told.gateway is None else int(told.gateway),
        dns_suffix=(told.dns_suffix or "").encode(),
        url=(told.url or "").encode(),
    )


def check_host_configuration(file: str, section: HomeAgentConfig) -> None:
    """Raises ConfigError."""
    told, path = section.host_configuration, "home_agent.host_configuration"
    if told is None:
        return
    if told.gateway is not None and IPv4Address(int(told.gateway)) not in section.home_network:
        remedy = f"{told.gateway} is not in home_network {section.home_network}: use one that is"
        raise ConfigError(file, f"{path}.gateway", remedy)
    if len(told.dns) > 2:
        raise ConfigError(file, f"{path}.dns", "name two servers at most: more are not told")
    for number, server in enumerate(told.dns):
        if not is_unicast(int(server)):
            raise ConfigError(file, f"{path}.dns[{number}]", "use a unicast address")
    for name, text in (("dns_suffix", told.dns_suffix), ("url", told.url)):
        if text is not None and re.fullmatch(rf"[!-~]{{1,{MAX_TEXT_LEN}}}", text) is None:
            remedy = f"use 1 to {MAX_TEXT_LEN} ASCII characters without spaces"
            raise ConfigError(file, f"{path}.{name}", remedy)


def check_hook(file: str, node: MobileNodeConfig) -> None:
    """Raises ConfigError."""
    command, path = node.host_configuration_command, "mobile_node.host_configuration_command"
    if command and not node.host_configuration:
        raise ConfigError(file, path, "needs host_configuration = true: nothing is told otherwise")
    if command and not command[0].startswith("/"):
        raise ConfigError(file, f"{path}[0]", "use an absolute path")
