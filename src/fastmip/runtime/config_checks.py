"""What types and ranges cannot say about a configuration: does it make sense as a whole?

Every check raises ConfigError with the path of the key to change and what to change it to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from fastmip.auth.associations import ADVISED_WINDOW_S
from fastmip.auth.mn_aaa import CHAP_SPI
from fastmip.errors import ConfigError
from fastmip.runtime.host_configuration import check_hook, check_host_configuration
from fastmip.runtime.listen import check_metrics, is_loopback
from fastmip.runtime.network_config import check_networks
from fastmip.runtime.pool_config import UNASSIGNED, check_pools, check_unassigned
from fastmip.wire.nai import check_nai

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from fastmip.runtime.config import (
        AaaConfig,
        Config,
        DaemonConfig,
        HomeAgentConfig,
        HostConfig,
        MobileNodeConfig,
    )
    from fastmip.runtime.config_types import Address, AssociationConfig

MIN_SPI = 256
"""Values 0 to 255 are reserved (RFC 5944 1.6)."""
MAX_INTERFACE_NAME_LEN = 15
"""IFNAMSIZ without its end mark."""
MAX_SOCKET_PATH_LEN = 107
"""Bytes in sockaddr_un.sun_path without its end mark."""
KERNEL_TABLES = {0: "unspec", 253: "default", 254: "main", 255: "local"}

MAX_VENDOR_HEX_LEN = 2 * 247
"""Digits of the value of a normal vendor extension: 255 bytes less eight (RFC 3115 2.2)."""
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")
_INTERFACE_NAME = re.compile(r"[!-.0-9;-~]+")
"""Printable ASCII without space, slash and colon, as the kernel and iproute2 agree on."""


def check_config(file: str, config: Config, *, file_is_private: bool, mode: int) -> None:
    """Check a whole file. ``file_is_private`` allows keys inside it; ``mode`` is its mode."""
    _check_daemon(file, config.daemon)
    if config.metrics is not None:
        check_metrics(file, config.metrics.listen)
    home_agent, mobile_node = config.home_agent, config.mobile_node
    if home_agent is None and mobile_node is None and config.foreign_agent is None:
        remedy = "no role: add a [home_agent], a [foreign_agent] or a [mobile_node] table"
        raise ConfigError(file, "(file)", remedy)
    if home_agent is not None:
        _check_home_agent(file, home_agent)
        check_pools(file, home_agent)
        _check_hosts(file, home_agent, file_is_private=file_is_private, mode=mode)
        check_networks(file, home_agent)
        check_host_configuration(file, home_agent)
        _check_foreign_agents(file, home_agent, file_is_private=file_is_private, mode=mode)
        if len(home_agent.hosts) > config.engine.max_bindings:
            remedy = f"set it to at least {len(home_agent.hosts)}, the number of hosts"
            raise ConfigError(file, "engine.max_bindings", remedy)
    if mobile_node is not None:
        _check_mobile_node(file, mobile_node, file_is_private=file_is_private, mode=mode)
    if home_agent is not None and mobile_node is not None:
        _check_roles_together(file, home_agent, mobile_node)
    seen: dict[tuple[int, int], int] = {}
    for number, item in enumerate(config.vendor_extensions):
        if seen.setdefault((item.vendor, item.vendor_type), number) != number:
            raise ConfigError(file, f"vendor_extension[{number}]", "is listed twice: remove one")


def warnings(config: Config) -> list[str]:
    """Say what is allowed but unwise, one line ``key.path: advice`` each."""
    found = []
    associations: list[tuple[str, AssociationConfig]] = []
    if config.home_agent is not None:
        for h, host in enumerate(config.home_agent.hosts):
            for a, association in enumerate(host.associations):
                associations.append((f"home_agent.host[{h}].association[{a}]", association))
        for f, agent in enumerate(config.home_agent.foreign_agents):
            for a, association in enumerate(agent.associations):
                path = f"home_agent.foreign_agent[{f}].association[{a}]"
                associations.append((path, association))
    associations += _foreign_associations(config)
    if config.mobile_node is not None:
        associations.append(("mobile_node.association", config.mobile_node.association))
    for path, association in associations:
        if association.is_short:
            remedy = "shorter than 128 bits (RFC 5944 5.1): only for routers without another"
            found.append(f"{path}.key_ascii: {remedy}")
        if association.algorithm == "keyed-md5":
            found.append(f"{path}.algorithm: keyed-md5 is weak: only for peers without another")
        if association.replay == "timestamps" and association.replay_window <= ADVISED_WINDOW_S:
            remedy = f"should be greater than {ADVISED_WINDOW_S} (RFC 5944 5.7.1)"
            found.append(f"{path}.replay_window: {remedy}")
    foreign = config.foreign_agent
    if foreign is not None and foreign.nat != "none" and not foreign.home_agents:
        remedy = "home agents like ours grant UDP tunnels to those who prove themselves alone"
        found.append(f"foreign_agent.nat: {remedy}: add a [[foreign_agent.home_agent]]")
    if config.metrics is not None and not is_loopback(config.metrics.listen):
        remedy = "not a loopback address: let a firewall decide who may read it"
        found.append(f"metrics.listen: {remedy}")
    return found


def _foreign_associations(config: Config) -> list[tuple[str, AssociationConfig]]:
    section = config.foreign_agent
    if section is None:
        return []
    peers = [
        (f"mobile_node[{n}]", node.associations) for n, node in enumerate(section.mobile_nodes)
    ]
    peers += [(f"home_agent[{n}]", peer.associations) for n, peer in enumerate(section.home_agents)]
    return [
        (f"foreign_agent.{peer}.association[{number}]", association)
        for peer, associations in peers
        for number, association in enumerate(associations)
    ]


def _check_daemon(file: str, daemon: DaemonConfig) -> None:
    if not daemon.state_dir.is_absolute():
        raise ConfigError(file, "daemon.state_dir", "use an absolute path")
    if not daemon.control_socket.is_absolute():
        raise ConfigError(file, "daemon.control_socket", "use an absolute path")
    if len(bytes(daemon.control_socket)) > MAX_SOCKET_PATH_LEN:
        remedy = f"use a path of at most {MAX_SOCKET_PATH_LEN} bytes"
        raise ConfigError(file, "daemon.control_socket", remedy)


def _check_home_agent(file: str, home_agent: HomeAgentConfig) -> None:
    _check_network(file, "home_agent.home_network", home_agent.home_network)
    _check_unicast(file, "home_agent.address", home_agent.address, home_agent.home_network)
    check_interface(file, "home_agent.tunnel_device", home_agent.tunnel_device)
    if home_agent.interface is not None:
        check_interface(file, "home_agent.interface", home_agent.interface)
        if home_agent.interface == home_agent.tunnel_device:
            remedy = "must differ from home_agent.interface: fastmip makes this device itself"
            raise ConfigError(file, "home_agent.tunnel_device", remedy)
    if "ipip" not in home_agent.encapsulations:
        remedy = 'must list "ipip", which every home agent has (RFC 5944 4.2.3)'
        raise ConfigError(file, "home_agent.encapsulations", remedy)
    if home_agent.broadcast and home_agent.interface is None:
        remedy = "needs home_agent.interface: a virtual home network has no broadcasts"
        raise ConfigError(file, "home_agent.broadcast", remedy)
    if home_agent.identity is not None:
        _check_nai(file, "home_agent.identity", home_agent.identity)


def _check_nai(file: str, path: str, nai: str) -> None:
    if not check_nai(nai.encode()):
        remedy = 'not a network access identifier (RFC 4282): use one such as "user@example.org"'
        raise ConfigError(file, path, remedy)


def _check_hosts(
    file: str, home_agent: HomeAgentConfig, *, file_is_private: bool, mode: int
) -> None:
    first: dict[int, int] = {}
    first_nai: dict[str, int] = {}
    for number, host in enumerate(home_agent.hosts):
        path = f"home_agent.host[{number}]"
        if host.nai is not None and first_nai.setdefault(host.nai, number) != number:
            remedy = f"is also that of host[{first_nai[host.nai]}]: change one of them"
            raise ConfigError(file, f"{path}.nai", remedy)
        other = first.setdefault(host.home_address, number)
        if other != number and host.home_address != UNASSIGNED:
            remedy = f"{host.home_address} is also host[{other}]: remove one of them"
            raise ConfigError(file, f"{path}.home_address", remedy)
        check_host(file, path, host, home_agent, file_is_private=file_is_private, mode=mode)


def check_host(
    file: str,
    path: str,
    host: HostConfig,
    home_agent: HomeAgentConfig,
    *,
    file_is_private: bool,
    mode: int,
) -> None:
    """Check one host against its home agent."""
    where = f"{path}.home_address"
    if host.home_address == UNASSIGNED:
        check_unassigned(file, path, host, home_agent)
    else:
        _check_home_address(file, where, host.home_address, home_agent.home_network)
    if host.home_address == home_agent.address:
        raise ConfigError(file, where, "is the home agent's own address: use another")
    check_associations(
        file,
        path,
        host.associations,
        file_is_private=file_is_private,
        mode=mode,
        may_be_short=host.profile is not None,
    )
    if host.nai is not None:
        _check_nai(file, f"{path}.nai", host.nai)
    if host.aaa is not None:
        aaa_path = f"{path}.aaa"
        if host.aaa.spi != CHAP_SPI:
            _check_spi(file, aaa_path, host.aaa)
        _check_key(file, aaa_path, host.aaa, file_is_private=file_is_private, mode=mode)


def _check_foreign_agents(
    file: str, home_agent: HomeAgentConfig, *, file_is_private: bool, mode: int
) -> None:
    first: dict[int, int] = {}
    for number, agent in enumerate(home_agent.foreign_agents):
        path = f"home_agent.foreign_agent[{number}]"
        other = first.setdefault(agent.address, number)
        if other != number:
            remedy = f"{agent.address} is also foreign_agent[{other}]: remove one of them"
            raise ConfigError(file, f"{path}.address", remedy)
        _check_unicast(file, f"{path}.address", agent.address, home_agent.home_network)
        if agent.address == home_agent.address:
            raise ConfigError(file, f"{path}.address", "is the home agent's own address")
        check_associations(
            file, path, agent.associations, file_is_private=file_is_private, mode=mode
        )


def check_associations(
    file: str,
    path: str,
    associations: tuple[AssociationConfig, ...],
    *,
    file_is_private: bool,
    mode: int,
    may_be_short: bool = False,
) -> None:
    """Check the associations shared with one peer."""
    if not associations:
        raise ConfigError(file, f"{path}.association", "missing: add an association with a key")
    for number, association in enumerate(associations):
        _check_association(
            file,
            f"{path}.association[{number}]",
            association,
            file_is_private=file_is_private,
            mode=mode,
            may_be_short=may_be_short,
        )
    _check_directions(file, path, associations)


def _check_directions(file: str, path: str, associations: tuple[AssociationConfig, ...]) -> None:
    for direction in ("inbound", "outbound"):
        usable = [a for a in associations if a.direction in ("both", direction)]
        if not usable:
            remedy = f'none is for {direction} messages: set direction = "both" in one'
            raise ConfigError(file, f"{path}.association", remedy)
        spi, count = Counter(a.spi for a in usable).most_common(1)[0]
        if count > 1:
            remedy = f"SPI {spi} is used {count} times for {direction} messages: change one"
            raise ConfigError(file, f"{path}.association", remedy)


def _check_association(
    file: str,
    path: str,
    association: AssociationConfig,
    *,
    file_is_private: bool,
    mode: int,
    may_be_short: bool = False,
) -> None:
    _check_spi(file, path, association)
    if association.is_short and not may_be_short:
        remedy = "has less than 16 characters (RFC 5944 5.1): use more, or name a profile"
        raise ConfigError(file, f"{path}.key_ascii", remedy)
    _check_key(file, path, association, file_is_private=file_is_private, mode=mode)


def _check_spi(file: str, path: str, keyed: AssociationConfig | AaaConfig) -> None:
    if keyed.spi < MIN_SPI:
        remedy = f"SPIs below {MIN_SPI} are reserved (RFC 5944 1.6): use {MIN_SPI} or more"
        raise ConfigError(file, f"{path}.spi", remedy)


def _check_key(
    file: str,
    path: str,
    association: AssociationConfig | AaaConfig,
    *,
    file_is_private: bool,
    mode: int,
) -> None:
    ascii_key = getattr(association, "key_ascii", None)
    if ascii_key is not None and (association.key or association.key_file) is not None:
        raise ConfigError(file, f"{path}.key_ascii", "another key is set too: remove one of them")
    if ascii_key is not None and not file_is_private:
        remedy = f"the file has mode {mode:04o}: run chmod 600 {file}"
        raise ConfigError(file, f"{path}.key_ascii", remedy)
    if ascii_key is None and association.key is None and association.key_file is None:
        raise ConfigError(file, f"{path}.key_file", "missing: name a file with the key, mode 0600")
    if association.key is not None and association.key_file is not None:
        raise ConfigError(file, f"{path}.key", "key_file is set too: remove one of them")
    if association.key is not None and not file_is_private:
        remedy = f"the file has mode {mode:04o}: run chmod 600 {file}, or use key_file"
        raise ConfigError(file, f"{path}.key", remedy)


def _check_mobile_node(
    file: str, node: MobileNodeConfig, *, file_is_private: bool, mode: int
) -> None:
    _check_network(file, "mobile_node.home_network", node.home_network)
    where = "mobile_node.home_address"
    _check_home_address(file, where, node.home_address, node.home_network)
    _check_unicast(file, "mobile_node.home_agent", node.home_agent, node.home_network)
    if node.home_agent == node.home_address:
        raise ConfigError(file, where, "is the home agent's address: use another")
    gateway_path = "mobile_node.home_" + ("agent" if node.home_gateway is None else "gateway")
    if IPv4Address(int(node.gateway)) not in node.home_network:
        remedy = f"not in home_network {node.home_network}: set home_gateway to the router at home"
        raise ConfigError(file, gateway_path, remedy)
    _check_unicast(file, gateway_path, node.gateway, node.home_network)
    if node.gateway == node.home_address:
        raise ConfigError(file, gateway_path, "is the home address: use the router's address")
    _check_node_interfaces(file, node)
    if node.table in KERNEL_TABLES:
        remedy = f"{node.table} is the kernel's table {KERNEL_TABLES[node.table]}: use another"
        raise ConfigError(file, "mobile_node.table", remedy)
    path = "mobile_node.association"
    _check_association(
        file,
        path,
        node.association,
        file_is_private=file_is_private,
        mode=mode,
        may_be_short=node.profile is not None,
    )
    if node.association.direction != "both":
        raise ConfigError(file, f"{path}.direction", 'a mobile node needs "both"')
    _check_node_extras(file, node, file_is_private=file_is_private, mode=mode)


def _check_node_extras(
    file: str, node: MobileNodeConfig, *, file_is_private: bool, mode: int
) -> None:
    """Check what only some mobile nodes have."""
    if node.nai is not None:
        _check_nai(file, "mobile_node.nai", node.nai)
    check_hook(file, node)
    if node.delivery == "encapsulating" and not node.reverse_tunnel:
        remedy = 'needs reverse_tunnel = true: or use "direct"'
        raise ConfigError(file, "mobile_node.delivery", remedy)
    if node.aaa is not None:
        if node.aaa.spi != CHAP_SPI:
            _check_spi(file, "mobile_node.aaa", node.aaa)
        _check_key(file, "mobile_node.aaa", node.aaa, file_is_private=file_is_private, mode=mode)
    for number, extension in enumerate(node.vendor_extensions):
        path = f"mobile_node.vendor_extension[{number}].value"
        if not _HEX.fullmatch(extension.value) or len(extension.value) > MAX_VENDOR_HEX_LEN:
            remedy = f"use hexadecimal, at most {MAX_VENDOR_HEX_LEN // 2} bytes"
            raise ConfigError(file, path, remedy)
    first: dict[int, int] = {}
    for number, agent in enumerate(node.foreign_agents):
        path = f"mobile_node.foreign_agent[{number}]"
        other = first.setdefault(agent.address, number)
        if other != number:
            remedy = f"{agent.address} is also foreign_agent[{other}]: remove one of them"
            raise ConfigError(file, f"{path}.address", remedy)
        _check_unicast(file, f"{path}.address", agent.address, node.home_network)
        check_associations(
            file, path, agent.associations, file_is_private=file_is_private, mode=mode
        )


def _check_node_interfaces(file: str, node: MobileNodeConfig) -> None:
    if not node.interfaces:
        raise ConfigError(file, "mobile_node.interfaces", "empty: name at least one interface")
    for number, name in enumerate(node.interfaces):
        path = f"mobile_node.interfaces[{number}]"
        check_interface(file, path, name)
        if name in node.interfaces[:number]:
            raise ConfigError(file, path, f"{name} is named twice: remove one")
    check_interface(file, "mobile_node.tunnel_device", node.tunnel_device)
    if node.tunnel_device in node.interfaces:
        remedy = "is also in mobile_node.interfaces: fastmip makes this device itself"
        raise ConfigError(file, "mobile_node.tunnel_device", remedy)


def _check_roles_together(file: str, home_agent: HomeAgentConfig, node: MobileNodeConfig) -> None:
    if node.home_network.overlaps(home_agent.home_network):
        remedy = (
            f"overlaps home_agent.home_network {home_agent.home_network}: "
            "a mobile node cannot be served by a home agent in the same daemon"
        )
        raise ConfigError(file, "mobile_node.home_network", remedy)
    taken = {home_agent.tunnel_device, home_agent.interface, *node.interfaces}
    if node.tunnel_device in taken:
        remedy = "is used by another role: use another name"
        raise ConfigError(file, "mobile_node.tunnel_device", remedy)
    if home_agent.tunnel_device in node.interfaces:
        remedy = "is also in mobile_node.interfaces: fastmip makes this device itself"
        raise ConfigError(file, "home_agent.tunnel_device", remedy)


def check_no_duplicates(file: str, path: str, key: str, names: Sequence[str]) -> None:
    """Refuse a list in which something stands twice; ``key`` is set for a list of tables."""
    for number, name in enumerate(names):
        if name in names[:number]:
            where = f"{path}[{number}]" + (f".{key}" if key else "")
            raise ConfigError(file, where, f"{name} is named twice: remove one")


def check_interface(file: str, path: str, name: str) -> None:
    """Refuse what cannot be the name of an interface."""
    if len(name) > MAX_INTERFACE_NAME_LEN:
        remedy = f"interface name too long: use at most {MAX_INTERFACE_NAME_LEN} characters"
        raise ConfigError(file, path, remedy)
    if not _INTERFACE_NAME.fullmatch(name) or name in (".", ".."):
        raise ConfigError(file, path, 'not an interface name: use one such as "eth0"')


def _check_network(file: str, path: str, network: IPv4Network) -> None:
    if not 1 <= network.prefixlen <= 30:
        raise ConfigError(file, path, "use a prefix length from 1 to 30")
    if network.is_multicast or network.is_loopback or network.network_address.is_reserved:
        raise ConfigError(file, path, "not a network of unicast addresses: use another")


def _check_home_address(file: str, path: str, address: Address, network: IPv4Network) -> None:
    if IPv4Address(int(address)) not in network:
        raise ConfigError(file, path, f"not in home_network {network}: use an address inside")
    _check_unicast(file, path, address, network)


def check_plain_unicast(file: str, path: str, address: Address) -> None:
    """Refuse an address that cannot name one host."""
    plain = IPv4Address(int(address))
    if (
        plain.is_multicast
        or plain.is_loopback
        or plain.is_reserved
        or plain.is_unspecified
        or int(address) >> 24 == 0
    ):
        raise ConfigError(file, path, "not a unicast address: use the address of one host")


def _check_unicast(file: str, path: str, address: Address, network: IPv4Network) -> None:
    check_plain_unicast(file, path, address)
    plain = IPv4Address(int(address))
    if plain in (network.network_address, network.broadcast_address):
        remedy = f"is the network or broadcast address of {network}: use the address of one host"
        raise ConfigError(file, path, remedy)
