"""Routers on sale: what they are set to, as defaults of a table that names their profile.

| profile   | what it stands for                                                                |
|-----------|-----------------------------------------------------------------------------------|
| dmnr      | cellular routers for a carrier's dynamic mobile network routing (RFC 5177): SPI   |
|           | 256, HMAC-MD5 with a short ASCII key, timestamps, lifetime 65534, many refreshes  |
| netmodule | routers that speak RFC 3344, 5177, 3024 and 3519, keys as ASCII or hexadecimal    |

A preset fills in what the table leaves out and forbids nothing. Keys that are shorter than RFC
5944 5.1 asks for are accepted where a profile is named, and warned of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

ProfileName = Literal["dmnr", "netmodule"]


@dataclass(frozen=True, slots=True)
class Profile:
    """Defaults of one kind of router."""

    association: Mapping[str, Any] = field(default_factory=dict)
    """Of its security association with the home agent."""
    lifetime_s: int | None = None
    """What it asks for, and is granted; None leaves it to the home agent."""
    node: Mapping[str, Any] = field(default_factory=dict)
    """Of ``[mobile_node]``, for one that is to speak like such a router."""


PROFILES: Final[Mapping[str, Profile]] = {
    "dmnr": Profile(
        {"spi": 256, "algorithm": "hmac-md5", "replay": "timestamps", "replay_window": 255},
        65534,
        {"lifetime": 65534, "refresh": 30, "reverse_tunnel": True},
    ),
    "netmodule": Profile(
        {"algorithm": "hmac-md5", "replay": "timestamps", "replay_window": 60},
        node={"reverse_tunnel": True, "nat": "auto"},
    ),
}


def fill_in(table: object, key: str = "association") -> object:
    """Put a profile's defaults into the associations of a table that names one.

    What is not shaped as it should be is left to whoever checks it.
    """
    if not isinstance(table, dict):
        return table
    name = table.get("profile")
    profile = PROFILES.get(name) if isinstance(name, str) else None
    found = table.get(key)
    if profile is None or not isinstance(found, list | dict):
        return table
    several = found if isinstance(found, list) else [found]
    filled = [{**profile.association, **one} if isinstance(one, dict) else one for one in several]
    return {**table, key: filled if isinstance(found, list) else filled[0]}


def fill_in_hosts(document: dict[str, Any]) -> dict[str, Any]:
    """The same for every ``[[home_agent.host]]`` of a parsed file."""
    section = document.get("home_agent")
    hosts = section.get("host") if isinstance(section, dict) else None
    if not isinstance(section, dict) or not isinstance(hosts, list):
        return document
    return {**document, "home_agent": {**section, "host": [fill_in(host) for host in hosts]}}


def fill_in_node(document: dict[str, Any]) -> dict[str, Any]:
    """The same for ``[mobile_node]`` of a parsed file, and what its kind of router asks for."""
    section = document.get("mobile_node")
    name = section.get("profile") if isinstance(section, dict) else None
    profile = PROFILES.get(name) if isinstance(name, str) else None
    if profile is None or not isinstance(section, dict):
        return document
    filled = fill_in({**profile.node, **section})
    return {**document, "mobile_node": filled}
