"""The configuration file: TOML in, one immutable ``Config`` out, or one line of ConfigError.

``load_config(path)`` does all of it, in this order: read, parse (tomllib), convert and check
types and ranges (msgspec; unknown keys are refused), check meaning (``config_checks``), read
key files. Nothing is resolved or looked up on the machine, so ``fastmip check`` works
anywhere. ``docs/configuration.md`` explains every key; a test holds it to these classes.
"""

from __future__ import annotations

import ipaddress
import os
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from fastmip.auth import associations as auth
from fastmip.auth.mn_aaa import CHAP_SPI, AaaSecret, ChapKey
from fastmip.errors import ConfigError
from fastmip.runtime import config_checks, config_messages, engine_checks, foreign_checks, profiles
from fastmip.runtime.config_types import (
    Address,
    Algorithm,
    AssociationConfig,
    Encapsulation,
    Lifetime,
    lifetime_s,
)
from fastmip.runtime.fixed_host_config import FixedHostConfig
from fastmip.runtime.foreign_config import (
    AdvertiseConfig,
    ForeignAgentRoleConfig,
    HomeAgentPeerConfig,
    VisitorConfig,
)
from fastmip.runtime.group_config import GroupConfig, check_group
from fastmip.runtime.host_configuration import HostConfigurationConfig
from fastmip.runtime.keys import OTHERS, AsciiKey, Key, KeyFileError, read_key_file
from fastmip.runtime.network_config import MobileNetworksConfig, check_host_networks, pools_of
from fastmip.runtime.pool_config import UNASSIGNED, PoolConfig
from fastmip.runtime.profiles import ProfileName
from fastmip.runtime.router_config import RouterConfig, check_router
from fastmip.wire.vendor import VendorRegistry

MAX_FILE_LEN = 16 << 20
"""Bytes; subscribers beyond some ten thousands belong into the directory (``host add``)."""

BroadcastKind = Literal["dhcp", "netbios", "multicast", "all"]
"""What of a home link's broadcasts is tunnelled to those who ask for it."""


class DaemonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[daemon]``: what is the same for every role."""

    state_dir: Path = Path("/var/lib/fastmip")
    """Directory of the SQLite store, made with mode 0700."""
    control_socket: Path = Path("/run/fastmip/control.sock")
    """Unix socket of the command line, mode 0600."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    experimental: bool = False
    """Take part in experiments (RFC 4064)."""


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[engine]``: the packet engine. A change needs a restart."""

    io: Literal["kernel", "xdp"] = "kernel"
    """Where packets come from: TUN device and raw sockets, or AF_XDP beside them."""
    interfaces: tuple[str, ...] = ()
    """Those that carry XDP."""
    offload: bool = False
    """Let a BPF program carry plain IP in IP itself."""
    offload_hook: Literal["xdp", "tc"] = "xdp"
    """Where offload takes packets: before anything, or at TC with super-frames whole."""
    transmit: Literal["auto", "socket", "packet"] = "auto"
    """Whether outer packets may pass the IP stack by, with ``io = "kernel"``."""
    max_bindings: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)] = 131072
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Threads that carry packets."""
    wedged_after: Annotated[int, msgspec.Meta(ge=2, le=3600)] = 10
    """Seconds without a worker's heartbeat until the daemon aborts to be restarted."""


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[metrics]``: counters for Prometheus. Without the table nothing listens."""

    listen: str = "127.0.0.1:9434"
    """Address and port of ``GET /metrics``."""


class AaaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A secret of the Mobile-AAA authentication (RFC 4721)."""

    spi: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
    """2 is CHAP_SPI: the formula of RADIUS servers instead of ``algorithm``."""
    key: Key | None = None
    key_file: Path | None = None
    algorithm: Algorithm = "hmac-md5"

    def build(self) -> AaaSecret:
        """Make what verifies."""
        if self.key is None:
            raise LookupError("the key of this secret was not loaded")
        if self.spi == CHAP_SPI:
            return ChapKey(self.key.reveal())
        return auth.SecurityAssociation(
            spi=self.spi, key=self.key.reveal(), algorithm=auth.Algorithm(self.algorithm)
        )


class HostConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"associations": "association"},
):
    """``[[home_agent.host]]``: a mobile node this home agent serves."""

    home_address: Address = UNASSIGNED
    """Without one it gets one out of a pool, by its NAI."""
    associations: tuple[AssociationConfig, ...]
    nai: str | None = None
    """Network access identifier (RFC 2794)."""
    aaa: AaaConfig | None = None
    networks: tuple[ipaddress.IPv4Network, ...] = ()
    """Mobile networks behind it (RFC 5177)."""
    dynamic_networks: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    """Most prefixes it may get out of the pools (RFC 6626)."""
    profile: ProfileName | None = None
    """The kind of router it is (``profiles.py``)."""

    def association_set(self) -> auth.AssociationSet:
        """Make the set of associations shared with this node."""
        return auth.AssociationSet(association.build() for association in self.associations)


class ForeignAgentConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"associations": "association"},
):
    """``[[home_agent.foreign_agent]]``: one that must prove itself (RFC 5944 3.5.4)."""

    address: Address
    associations: tuple[AssociationConfig, ...]

    def association_set(self) -> auth.AssociationSet:
        """Make the set of associations shared with this foreign agent."""
        return auth.AssociationSet(association.build() for association in self.associations)


Peer = TypeVar(
    "Peer", HostConfig, ForeignAgentConfig, VisitorConfig, HomeAgentPeerConfig, FixedHostConfig
)
"""Somebody an agent shares security associations with."""


class HomeAgentConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"hosts": "host", "foreign_agents": "foreign_agent", "address_pools": "pool"},
):
    """``[home_agent]``: the home agent role."""

    address: Address
    home_network: ipaddress.IPv4Network
    interface: str | None = None
    """Home link; None is a virtual home network, without ARP duties."""
    tunnel_device: str = "fmha0"
    max_lifetime: Lifetime = 1800
    max_simultaneous: Annotated[int, msgspec.Meta(ge=1, le=8)] = 4
    """1 switches simultaneous bindings off: requests get code 1."""
    reverse_tunnel: Literal["optional", "required", "off"] = "optional"
    strict_reserved: bool = False
    max_bindings_per_second: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    """0 is no limit; above the limit new bindings get code 130."""
    max_bindings: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)] = 0
    """0 is engine.max_bindings; beyond it 130, or 143 in a group."""
    max_registrations_per_second: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    """0 is no limit; above it 130, or 143 in a group."""
    spread_lifetimes: Annotated[int, msgspec.Meta(ge=0, le=86400)] = 0
    """Seconds after a start in which lifetimes are cut by chance."""
    group: GroupConfig | None = None
    """Home agents that share their nodes (RFC 4433)."""
    tos: Literal["normal", "compatibility"] = "normal"
    """ECN tunnel mode (RFC 6040)."""
    path_mtu: Annotated[int, msgspec.Meta(ge=576, le=65535)] = 1500
    """Upper bound for tunnels, bytes."""
    care_of_networks: tuple[ipaddress.IPv4Network, ...] = ()
    """Other care-of addresses are denied with 129; empty allows all."""
    strict_source: bool = True
    """Deny with 129 what comes from neither care-of nor home address nor a known agent."""
    answer_bad_authentication: bool = False
    """Answer a wrong authenticator with 131 instead of with silence."""
    denials_per_second: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 1000
    """Over all nodes; each node gets one a second at most."""
    encapsulations: tuple[Encapsulation, ...] = ("ipip", "minimal", "gre")
    nat_traversal: bool = True
    """UDP tunnels through address translators (RFC 3519)."""
    nat_force: bool = True
    """Also without one, when a node forces it."""
    nat_keepalive: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 0
    """Seconds; 0 leaves it to the node."""
    nat_max_lifetime: Lifetime = 60
    """Longest registration of a UDP tunnel (RFC 3519 5.2)."""
    revocation: bool = True
    """Negotiate revocation (RFC 3543)."""
    revocation_inform: bool = True
    """Also its I bit."""
    aaa_authorization: bool = False
    """A Mobile-AAA authentication stands in for a Mobile-Home one (RFC 4721)."""
    identity: str | None = None
    """Our own NAI, told in replies (RFC 3846)."""
    mobile_networks: MobileNetworksConfig | None = None
    """Prefixes for mobile routers that ask for some (RFC 6626)."""
    host_configuration: HostConfigurationConfig | None = None
    """What nodes that ask are told of the home network (RFC 4332)."""
    address_pools: tuple[PoolConfig, ...] = ()
    """Home addresses for hosts without one (RFC 2794)."""
    broadcast: tuple[BroadcastKind, ...] = ()
    """Broadcasts of the home link tunnelled to nodes with B set (RFC 5944 4.3)."""
    foreign_agents: tuple[ForeignAgentConfig, ...] = ()
    hosts: tuple[HostConfig, ...] = ()

    @property
    def pools(self) -> MobileNetworksConfig:
        """The table, or its defaults: no pool."""
        return self.mobile_networks or MobileNetworksConfig()

    @property
    def max_lifetime_s(self) -> int:
        """Seconds; 0xffff when infinite, as on the wire."""
        return lifetime_s(self.max_lifetime)

    @property
    def nat_max_lifetime_s(self) -> int:
        """Seconds; 0xffff when infinite, as on the wire."""
        return lifetime_s(self.nat_max_lifetime)


class SentExtensionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[[mobile_node.vendor_extension]]``: sent in every request (RFC 3115)."""

    vendor: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFF)]
    """SMI network management private enterprise code."""
    type: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    value: str = ""
    """Hexadecimal."""
    critical: bool = False
    """Who does not know it denies the request."""


class MobileNodeConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"foreign_agents": "foreign_agent", "vendor_extensions": "vendor_extension"},
):
    """``[mobile_node]``: the mobile node role."""

    home_address: Address
    home_network: ipaddress.IPv4Network
    home_agent: Address
    dynamic_home_agent: Literal["off", "any", "home"] = "off"
    """Take another home agent than the one asked first (RFC 4433), from anywhere or home."""
    home_gateway: Address | None = None
    """Default router at home; None: the home agent."""
    interfaces: tuple[str, ...]
    """In order of preference."""
    tunnel_device: str = "fmmn0"
    lifetime: Lifetime = 300
    reverse_tunnel: bool = True
    simultaneous: bool = True
    encapsulation: Encapsulation = "ipip"
    fwmark: Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)] = 0x434
    table: Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)] = 434
    """Number of the routing table of the tunnel."""
    care_of: Literal["co-located", "foreign-agent", "foreign-agent-first", "co-located-first"] = (
        "co-located"
    )
    """Kinds of care-of addresses to use; all but the first need agent discovery."""
    move_detection: Literal["lazy", "eager"] = "lazy"
    handover: Literal["smooth", "fast", "seamless"] = "smooth"
    delivery: Literal["direct", "encapsulating"] = "direct"
    """How packets get to a foreign agent that reverse-tunnels them (RFC 3024 5)."""
    broadcasts: bool = False
    nat: Literal["off", "auto", "forced"] = "off"
    keepalive: Annotated[int, msgspec.Meta(ge=10, le=3600)] = 110
    """Seconds, unless the home agent names others (RFC 3519 4.9)."""
    revocation: bool = False
    nai: str | None = None
    """Network access identifier (RFC 2794)."""
    host_configuration: bool = False
    """Ask for gateway, name servers and the like of the home network (RFC 4332)."""
    host_configuration_command: tuple[str, ...] = ()
    """Program and arguments, run after what was told has changed."""
    vendor_extensions: tuple[SentExtensionConfig, ...] = ()
    aaa: AaaConfig | None = None
    """Answers challenges of foreign agents, and signs what needs no agent."""
    foreign_agents: tuple[ForeignAgentConfig, ...] = ()
    association: AssociationConfig
    profile: ProfileName | None = None
    """Speak like this kind of router (``profiles.py``)."""
    refresh: Annotated[int, msgspec.Meta(ge=10, le=65534)] | None = None
    """Seconds between registrations at most; None: by the lifetime alone."""
    router: RouterConfig | None = None
    """Networks that move along (RFC 5177)."""

    @property
    def lifetime_s(self) -> int:
        """Seconds; 0xffff when infinite, as on the wire."""
        return lifetime_s(self.lifetime)

    def association_set(self) -> auth.AssociationSet:
        """Make the set of associations shared with the home agent: one."""
        return auth.AssociationSet([self.association.build()])

    @property
    def gateway(self) -> Address:
        """Default router to use at home."""
        return self.home_agent if self.home_gateway is None else self.home_gateway


class VendorExtensionConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"vendor_type": "type"},
):
    """``[[vendor_extension]]``: a vendor's extension that is known by name (RFC 3115)."""

    vendor: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFF)]
    """SMI network management private enterprise code."""
    vendor_type: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    name: str


class Config(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"vendor_extensions": "vendor_extension", "advertisements": "advertise"},
):
    """A whole configuration file, checked, with its keys."""

    daemon: DaemonConfig = msgspec.field(default_factory=DaemonConfig)
    engine: EngineConfig = msgspec.field(default_factory=EngineConfig)
    metrics: MetricsConfig | None = None
    home_agent: HomeAgentConfig | None = None
    mobile_node: MobileNodeConfig | None = None
    foreign_agent: ForeignAgentRoleConfig | None = None
    advertisements: tuple[AdvertiseConfig, ...] = ()
    vendor_extensions: tuple[VendorExtensionConfig, ...] = ()

    def vendor_registry(self) -> VendorRegistry:
        """Make the registry of known vendor extensions."""
        return VendorRegistry(
            {(item.vendor, item.vendor_type): item.name for item in self.vendor_extensions}
        )


Keyed = TypeVar("Keyed", AssociationConfig, AaaConfig, GroupConfig)
"""A table with a key."""


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read, check and complete a configuration file.

    Raises ConfigError, one line ``FILE: key.path: remedy``.
    """
    file = str(path)
    data, mode = _read(file)
    document = profiles.fill_in_node(profiles.fill_in_hosts(parse_toml(file, data)))
    config = convert(file, document, Config)
    config_checks.check_config(file, config, file_is_private=not mode & OTHERS, mode=mode)
    foreign_checks.check_foreign(file, config, file_is_private=not mode & OTHERS, mode=mode)
    check_router(file, config)
    check_group(file, config, file_is_private=not mode & OTHERS)
    engine_checks.check_engine(file, config)
    return _with_keys(file, config)


def check_text(file: str, text: str) -> Config:
    """Check the text of a file that is still to be written; its key files are not read.

    Raises ConfigError.
    """
    document = profiles.fill_in_hosts(parse_toml(file, text.encode()))
    document = profiles.fill_in_node(document)
    config: Config = convert(file, document, Config)
    config_checks.check_config(file, config, file_is_private=True, mode=0o600)
    foreign_checks.check_foreign(file, config, file_is_private=True, mode=0o600)
    check_router(file, config)
    check_group(file, config, file_is_private=True)
    engine_checks.check_engine(file, config)
    return config


def parse_toml(file: str, data: bytes) -> dict[str, Any]:
    """Parse TOML. Raises ConfigError naming line and column."""
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(file, f"byte {error.start}", "not UTF-8: save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise config_messages.from_toml(file, error) from None
    except RecursionError:
        raise ConfigError(file, "(file)", "nested too deeply: it is no configuration") from None
    except ValueError:  # an integer with thousands of digits
        raise ConfigError(file, "(file)", "holds a number out of range") from None


def convert(file: str, document: object, kind: type[Config] | type[HostConfig]) -> Any:
    """Turn parsed TOML, or arguments of a control request, into Structs; unknown keys are refused.

    Types and ranges are checked here, meaning in ``config_checks``. Raises ConfigError.
    """
    try:
        return msgspec.convert(document, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise config_messages.from_validation(file, error, kind) from None


def load_host(source: str, arguments: dict[str, Any], home_agent: HomeAgentConfig) -> HostConfig:
    """Check a host that arrives on the run, shaped like ``[[home_agent.host]]``, key inline.

    ``source`` takes the place of the file name in errors. Raises ConfigError.
    """
    host: HostConfig = convert(source, profiles.fill_in(arguments), HostConfig)
    config_checks.check_host(source, "host", host, home_agent, file_is_private=True, mode=0o600)
    check_host_networks(source, "host", host, home_agent, pools_of(home_agent))
    return host


def _read(file: str) -> tuple[bytes, int]:
    """Return the bytes of the file and its permission bits."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(
            file, "(file)", f"{reason}: name a readable file, or make one with fastmip init"
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(file, "(file)", "not a regular file: name a TOML file")
        if status.st_size > MAX_FILE_LEN:
            remedy = "larger than 16 MiB: keep hosts in the directory with fastmip host add"
            raise ConfigError(file, "(file)", remedy)
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(MAX_FILE_LEN), stat.S_IMODE(status.st_mode)
    finally:
        os.close(descriptor)


def _decode(kind: type, value: object) -> object:
    """Read the types msgspec does not know; every ValueError text is a remedy."""
    if not isinstance(value, str):
        # msgspec turns only a ValueError into its located ValidationError.
        raise ValueError(f"expected {config_messages.describe(kind)}")  # noqa: TRY004
    if kind is Address:
        return _address(value)
    if kind is ipaddress.IPv4Network:
        return _network(value)
    if kind in (Key, AsciiKey):
        try:
            return Key.from_hex(value) if kind is Key else Key.from_ascii(value)
        except KeyFileError as error:
            raise ValueError(str(error)) from None
    if kind is Path:
        if not value or "\0" in value:
            raise ValueError("expected a path")
        return Path(value)
    raise NotImplementedError(kind)


def _address(value: str) -> Address:
    try:
        return Address(int(ipaddress.IPv4Address(value)))
    except ValueError:
        raise ValueError(f"expected {config_messages.describe(Address)}") from None


def _network(value: str) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(value, strict=False)
    except ValueError:
        network = None
    if network is None or "/" not in value:
        raise ValueError(f"expected {config_messages.describe(ipaddress.IPv4Network)}")
    if ipaddress.IPv4Address(value.partition("/")[0]) != network.network_address:
        raise ValueError(f'host bits are set: write "{network}"')
    return network


def _with_keys(file: str, config: Config) -> Config:
    """Read every key file; paths are relative to the configuration file."""
    base = Path(file).parent
    home_agent, mobile_node = config.home_agent, config.mobile_node
    if home_agent is not None:
        group = home_agent.group
        home_agent = msgspec.structs.replace(
            home_agent,
            group=None if group is None else _with_key(file, "home_agent.group", base, group),
            hosts=_aaa_with_keys(
                file, base, _peers_with_keys(file, "home_agent.host", base, home_agent.hosts)
            ),
            foreign_agents=_peers_with_keys(
                file, "home_agent.foreign_agent", base, home_agent.foreign_agents
            ),
        )
    if mobile_node is not None:
        aaa = mobile_node.aaa
        mobile_node = msgspec.structs.replace(
            mobile_node,
            association=_with_key(file, "mobile_node.association", base, mobile_node.association),
            aaa=None if aaa is None else _with_key(file, "mobile_node.aaa", base, aaa),
            foreign_agents=_peers_with_keys(
                file, "mobile_node.foreign_agent", base, mobile_node.foreign_agents
            ),
        )
    foreign = config.foreign_agent
    if foreign is not None:
        foreign = msgspec.structs.replace(
            foreign,
            mobile_nodes=_peers_with_keys(
                file, "foreign_agent.mobile_node", base, foreign.mobile_nodes
            ),
            home_agents=_peers_with_keys(
                file, "foreign_agent.home_agent", base, foreign.home_agents
            ),
            fixed_hosts=_peers_with_keys(
                file, "foreign_agent.fixed_host", base, foreign.fixed_hosts
            ),
        )
    return msgspec.structs.replace(
        config, home_agent=home_agent, mobile_node=mobile_node, foreign_agent=foreign
    )


def _peers_with_keys(file: str, path: str, base: Path, peers: tuple[Peer, ...]) -> tuple[Peer, ...]:
    return tuple(
        msgspec.structs.replace(
            peer,
            associations=tuple(
                _with_key(file, f"{path}[{p}].association[{a}]", base, association)
                for a, association in enumerate(peer.associations)
            ),
        )
        for p, peer in enumerate(peers)
    )


def _aaa_with_keys(file: str, base: Path, hosts: tuple[HostConfig, ...]) -> tuple[HostConfig, ...]:
    return tuple(
        host
        if host.aaa is None
        else msgspec.structs.replace(
            host, aaa=_with_key(file, f"home_agent.host[{number}].aaa", base, host.aaa)
        )
        for number, host in enumerate(hosts)
    )


def _with_key(file: str, path: str, base: Path, association: Keyed) -> Keyed:
    if association.key_file is None:
        return association
    try:
        key = read_key_file(base / association.key_file)
    except KeyFileError as error:
        raise ConfigError(file, f"{path}.key_file", str(error)) from None
    return msgspec.structs.replace(association, key=key)
