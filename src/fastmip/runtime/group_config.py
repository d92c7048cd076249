"""``[home_agent.group]``: home agents that share their nodes (RFC 4433)."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from fastmip.agents.home_choice import GroupPolicy, Member, Policy
from fastmip.errors import ConfigError
from fastmip.runtime.config_types import Address
from fastmip.runtime.keys import Key
from fastmip.wire.addresses import is_unicast

if TYPE_CHECKING:
    from fastmip.runtime.config import Config

LEAST_KEY_LEN = 16


class GroupMemberConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[[home_agent.group.member]]``: another home agent, or what is special of this one."""

    address: Address
    weight: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1
    """Share of the nodes with ``weighted`` and ``sticky``."""
    nais: tuple[str, ...] = ()
    """Ends of NAIs that belong here with ``by-nai``, as "@aa.example"."""
    care_of_networks: tuple[IPv4Network, ...] = ()
    """Care-of addresses that are near with ``nearest-to-coa``."""


class GroupConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"members": "member"},
):
    """``[home_agent.group]``."""

    policy: Literal["least-loaded", "weighted", "sticky", "by-nai", "nearest-to-coa"] = (
        "least-loaded"
    )
    redirect_above: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100
    """Percent of max_bindings from which on new nodes are sent elsewhere."""
    accept_unnamed: bool = False
    """Take requests that name no home agent at all."""
    key: Key | None = None
    key_file: Path | None = None
    """Key of the load exchange; without one members do not talk to each other."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 4344
    interval: Annotated[int, msgspec.Meta(ge=1, le=60)] = 1
    """Seconds between messages; after five a member that is silent is passed over."""
    members: tuple[GroupMemberConfig, ...]

    @property
    def hears_loads(self) -> bool:
        """Whether members tell their loads."""
        return self.key is not None or self.key_file is not None

    def build(self, own: int) -> GroupPolicy:
        """What the agent goes by."""
        listed = {
            int(member.address): Member(int(member.address), member.weight)
            for member in self.members
        }
        listed.setdefault(own, Member(own))
        return GroupPolicy(
            tuple(listed.values()),
            Policy(self.policy),
            by_nai=tuple(
                (end.encode(), int(member.address))
                for member in self.members
                for end in member.nais
            ),
            nearest=tuple(
                (int(network.network_address), network.prefixlen, int(member.address))
                for member in self.members
                for network in member.care_of_networks
            ),
            redirect_above=self.redirect_above / 100,
            hears_loads=self.hears_loads,
            silence_s=5 * self.interval,
            accepts_unnamed=self.accept_unnamed,
        )


def check_group(file: str, config: Config, *, file_is_private: bool) -> None:
    """Check ``[home_agent.group]``, and what foreign agents assign. Raises ConfigError."""
    if config.foreign_agent is not None:
        for number, assigned in enumerate(config.foreign_agent.assigned_home_agents):
            if not is_unicast(int(assigned)):
                where = f"foreign_agent.assigned_home_agents[{number}]"
                raise ConfigError(file, where, "not a unicast address: name a home agent")
    home_agent, path = config.home_agent, "home_agent.group"
    if home_agent is None or home_agent.group is None:
        return
    group = home_agent.group
    addresses = [int(member.address) for member in group.members]
    for number, address in enumerate(addresses):
        where = f"{path}.member[{number}].address"
        if not is_unicast(address):
            raise ConfigError(file, where, "not a unicast address: name a home agent")
        if address in addresses[:number]:
            raise ConfigError(file, where, "is listed twice: remove one of them")
    if not set(addresses) - {int(home_agent.address)}:
        raise ConfigError(file, f"{path}.member", "name at least one other home agent")
    if group.policy == "by-nai" and not any(member.nais for member in group.members):
        raise ConfigError(file, f"{path}.policy", 'needs nais of a member: add nais = ["@..."]')
    if group.policy == "nearest-to-coa" and not any(m.care_of_networks for m in group.members):
        raise ConfigError(file, f"{path}.policy", "needs care_of_networks of a member")
    if group.key is not None and group.key_file is not None:
        raise ConfigError(file, f"{path}.key", "key_file is set too: remove one of them")
    if group.key is not None and not file_is_private:
        raise ConfigError(file, f"{path}.key", f"others can read it: run chmod 600 {file}")
