"""``[[foreign_agent.fixed_host]]``: hosts that are registered for good (RFC 5944 4.5)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from fastmip.agents.fixed_hosts import FixedHost
from fastmip.auth import associations as auth
from fastmip.errors import ConfigError
from fastmip.runtime.config_checks import (
    check_associations,
    check_no_duplicates,
    check_plain_unicast,
)
from fastmip.runtime.config_types import Address, AssociationConfig, Lifetime, lifetime_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastmip.agents.foreign_policy import ForeignLink
    from fastmip.runtime.foreign_config import ForeignAgentRoleConfig

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


class FixedHostConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"associations": "association"},
):
    """A host on one of our links, at home elsewhere, that knows nothing of mobility."""

    home_address: Address
    home_agent: Address
    interface: str
    mac: str
    lifetime: Lifetime = "infinite"
    associations: tuple[AssociationConfig, ...]

    def host(self, links: Sequence[ForeignLink]) -> FixedHost:
        """For the agent; its care-of address is the first one offered on its link."""
        link = next(link for link in links if link.interface == self.interface)
        return FixedHost(
            int(self.home_address),
            int(self.home_agent),
            link.care_of_addresses[0],
            self.interface,
            bytes.fromhex(self.mac.replace(":", "")),
            auth.AssociationSet(association.build() for association in self.associations),
            lifetime_s(self.lifetime),
        )


def check_fixed_hosts(
    file: str, section: ForeignAgentRoleConfig, *, file_is_private: bool, mode: int
) -> None:
    """Check all of them. Raises ConfigError."""
    hosts = section.fixed_hosts
    for number, host in enumerate(hosts):
        path = f"foreign_agent.fixed_host[{number}]"
        check_plain_unicast(file, f"{path}.home_address", host.home_address)
        check_plain_unicast(file, f"{path}.home_agent", host.home_agent)
        if host.interface not in section.interfaces:
            remedy = f"{host.interface} is none of foreign_agent.interfaces: name one of them"
            raise ConfigError(file, f"{path}.interface", remedy)
        if not _MAC.fullmatch(host.mac):
            remedy = 'not a link-layer address: use one such as "02:00:00:00:00:01"'
            raise ConfigError(file, f"{path}.mac", remedy)
        check_associations(
            file, path, host.associations, file_is_private=file_is_private, mode=mode
        )
    check_no_duplicates(
        file, "foreign_agent.fixed_host", "home_address", [str(h.home_address) for h in hosts]
    )
    if section.reverse_tunnel == "off" and hosts:
        remedy = "fixed hosts need reverse tunnels: leave it out, or take them away"
        raise ConfigError(file, "foreign_agent.reverse_tunnel", remedy)
    if len(hosts) > section.max_visitors:
        remedy = f"set it to at least {len(hosts)}, the number of fixed hosts"
        raise ConfigError(file, "foreign_agent.max_visitors", remedy)
