"""What a home agent needs of its machine: looked at when it starts, watched while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmip.errors import ConfigError
from fastmip.runtime.netlink import read_sysctl
from fastmip.runtime.service import StartError
from fastmip.runtime.upkeep import Watch
from fastmip.wire.addresses import format_address

if TYPE_CHECKING:
    from fastmip.runtime.config import HomeAgentConfig
    from fastmip.runtime.netlink import Kernel


async def check_machine(kernel: Kernel, section: HomeAgentConfig, file: str) -> None:
    """Refuse a machine that lacks something. Raises ConfigError or StartError."""
    if read_sysctl("net/ipv4/ip_forward") != "1":
        raise StartError(
            "net.ipv4.ip_forward is 0, but a home agent forwards: run"
            " sysctl -w net.ipv4.ip_forward=1 and keep it in /etc/sysctl.d"
        )
    address = int(section.address)
    if not await kernel.is_own_address(address):
        raise ConfigError(
            file,
            "home_agent.address",
            f"{format_address(address)} is not configured on this machine: add it to an"
            " interface first",
        )
    name = section.interface
    if name is None:
        return
    found = await kernel.interface(name)
    if found is None or not found.mac:
        raise ConfigError(
            file,
            "home_agent.interface",
            f"{name} is not an Ethernet interface of this machine: name the home link, or"
            " leave the key out for a virtual home network",
        )


def watches_of(kernel: Kernel, section: HomeAgentConfig) -> list[Watch]:
    """What must stay as it was at the start."""
    address, home_link = int(section.address), section.interface

    async def has_address() -> bool:
        tunnel = await kernel.interface(section.tunnel_device)
        borrower = 0 if tunnel is None else tunnel.index  # see HomeTunnel
        return await kernel.is_own_address(address, besides=borrower)

    async def has_home_link() -> bool:
        found = await kernel.interface(home_link or "")
        return found is not None and found.is_up

    async def forwards() -> bool:
        return read_sysctl("net/ipv4/ip_forward") == "1"

    where = home_link or "an interface"
    watches = [
        Watch("address-missing", f"put {format_address(address)} on {where}", has_address),
        Watch("ip-forward-off", "run sysctl -w net.ipv4.ip_forward=1", forwards),
    ]
    if home_link is not None:
        watches.append(Watch("home-link-down", f"run ip link set {home_link} up", has_home_link))
    return watches
