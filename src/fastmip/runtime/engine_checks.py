"""What ``[engine]`` may say about AF_XDP, together with the roles of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmip.errors import ConfigError
from fastmip.runtime.config_checks import check_interface, check_no_duplicates

if TYPE_CHECKING:
    from fastmip.runtime.config import Config

INTERFACES_MAX = 16
"""The XDP program has room for as many."""


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
    if engine.io != "xdp":
        if names:
            remedy = 'is for io = "xdp" only: set engine.io to it, or leave the key out'
            raise ConfigError(file, "engine.interfaces", remedy)
        return
    if not names:
        remedy = (
            'io = "xdp" needs the interfaces that carry tunnels and the home network: name them'
        )
        raise ConfigError(file, "engine.interfaces", remedy)
    if config.home_agent is None or config.foreign_agent is not None:
        remedy = 'xdp is for a home agent without a foreign agent: set "kernel"'
        raise ConfigError(file, "engine.io", remedy)
    if config.home_agent.tunnel_device in names:
        remedy = (
            f"{config.home_agent.tunnel_device} is the tunnel device: name its carriers instead"
        )
        raise ConfigError(file, "engine.interfaces", remedy)
    if config.mobile_node is not None:
        remedy = 'xdp is for a home agent without a mobile node: set "kernel"'
        raise ConfigError(file, "engine.io", remedy)
