"""What ``[engine]`` may say about AF_XDP and offload, together with the roles of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmip.errors import ConfigError
from fastmip.runtime.config_checks import check_interface, check_no_duplicates

if TYPE_CHECKING:
    from fastmip.runtime.config import Config

INTERFACES_MAX = 16
"""The XDP program has room for as many."""
HOMES_MAX = 1 << 22
"""Addresses of home networks that offload keeps: 512 MB."""


def check_engine(file: str, config: Config) -> None:
    """Refuse combinations that would carry no packet. Raises ConfigError."""
    engine = config.engine
    names = engine.interfaces
    for number, name in enumerate(names):
        check_interface(file, f"engine.interfaces[{number}]", name)
    check_no_duplicates(file, "engine.interfaces", "", names)
    if len(names) > INTERFACES_MAX:
        remedy = f"{len(names)} interfaces: XDP has room for {INTERFACES_MAX}"
        raise ConfigError(file, "engine.interfaces", remedy)
    if engine.offload_hook == "tc" and (engine.io == "xdp" or not engine.offload):
        remedy = 'at TC only offload with another io than "xdp" has a program: leave the key out'
        raise ConfigError(file, "engine.offload_hook", remedy)
    if engine.io != "xdp" and not engine.offload:
        if names:
            remedy = 'is for io = "xdp" and offload only: set one of them, or leave the key out'
            raise ConfigError(file, "engine.interfaces", remedy)
        return
    wanted, key, without = ("xdp", "engine.io", '"kernel"')
    if engine.io != "xdp":
        wanted, key, without = ("offload", "engine.offload", "false")
    if not names:
        what = 'io = "xdp"' if wanted == "xdp" else "offload"
        remedy = f"{what} needs the interfaces that carry tunnels and the home network: name them"
        raise ConfigError(file, "engine.interfaces", remedy)
    if config.home_agent is None or config.foreign_agent is not None:
        remedy = f"{wanted} is for a home agent without a foreign agent: set {without}"
        raise ConfigError(file, key, remedy)
    homes = config.home_agent.home_network.num_addresses
    if engine.offload and homes > HOMES_MAX:
        remedy = f"the home network has {homes} addresses, offload has room for {HOMES_MAX}"
        raise ConfigError(file, "engine.offload", remedy)
    if config.home_agent.tunnel_device in names:
        remedy = (
            f"{config.home_agent.tunnel_device} is the tunnel device: name its carriers instead"
        )
        raise ConfigError(file, "engine.interfaces", remedy)
    if config.mobile_node is not None:
        remedy = f"{wanted} is for a home agent without a mobile node: set {without}"
        raise ConfigError(file, key, remedy)
