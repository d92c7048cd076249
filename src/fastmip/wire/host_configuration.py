"""Host configuration of the home network in registrations (RFC 4332): 134, vendor 9, type 14.

Each is a normal vendor extension whose value begins with a 16-bit sub-type. A request asks for
everything the home agent has; a reply carries what it has, an extension each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final

from fastmip.errors import WireError
from fastmip.wire.extensions import Extension
from fastmip.wire.vendor import NormalVendorExtension

CISCO: Final = 9
HOST_CONFIGURATION: Final = 14
"""Vendor type of all of them."""
ALL: Final = 0
"""The only selector defined: whatever the home agent has."""
MAX_TEXT_LEN: Final = 245
"""Most bytes of a name, URL or client identifier: the RFC allows more than fits."""


@unique
class HostConfigurationType(IntEnum):
    """Sub-type; a peer may send numbers that are not listed."""

    REQUEST = 0  # RFC 4332 3.1
    PREFIX_LENGTH = 1  # RFC 4332 3.2
    DNS_SERVERS = 2  # RFC 4332 3.3
    DHCP_SERVER = 3  # RFC 4332 3.4
    DHCP_CLIENT_ID = 4  # RFC 4332 3.5
    GATEWAY = 5  # RFC 4332 3.6
    DNS_SUFFIX = 6  # RFC 4332 3.7
    URL = 7  # RFC 4332 3.8


@dataclass(frozen=True, slots=True)
class HostConfiguration:
    """What a home agent tells of the home network; an empty field is not told."""

    prefix_length: int | None = None
    dns_servers: tuple[int, ...] = ()
    """At most two; where one is told the second field is 0."""
    dhcp_server: int = 0
    dhcp_client_id: bytes = b""
    gateway: int = 0
    dns_suffix: bytes = b""
    url: bytes = b""
    """Where the node may load the rest from; as sent, and not to be trusted."""

    def build(self) -> bytes:
        """Return an extension for each field that is told, WireError if one does not fit."""
        kinds = HostConfigurationType
        built = b""
        if self.prefix_length is not None:
            if not 0 <= self.prefix_length <= 32:
                raise WireError(f"host configuration: prefix length {self.prefix_length}")
            built += _build(kinds.PREFIX_LENGTH, struct.pack("!H", self.prefix_length))
        if self.dns_servers:
            if len(self.dns_servers) > 2:
                raise WireError("host configuration: more than two DNS servers")
            first, second = (*self.dns_servers, 0)[:2]
            built += _build(kinds.DNS_SERVERS, struct.pack("!II", first, second))
        for kind, address in (
            (kinds.DHCP_SERVER, self.dhcp_server),
            (kinds.GATEWAY, self.gateway),
        ):
            if address:
                built += _build(kind, struct.pack("!I", address))
        for kind, text in (
            (kinds.DHCP_CLIENT_ID, self.dhcp_client_id),
            (kinds.DNS_SUFFIX, self.dns_suffix),
            (kinds.URL, self.url),
        ):
            if text:
                built += _build(kind, text)
        return built


def request_host_configuration(selector: int = ALL) -> NormalVendorExtension:
    """Ask for everything (RFC 4332 3.1)."""
    value = struct.pack("!HH", HostConfigurationType.REQUEST, selector)
    return NormalVendorExtension(CISCO, HOST_CONFIGURATION, value)


def wants_host_configuration(extension: Extension) -> bool:
    """Whether an extension asks for host configuration, with a selector that is defined."""
    value = _value(extension)
    return value is not None and value == struct.pack("!HH", HostConfigurationType.REQUEST, ALL)


def read_host_configuration(extensions: Iterable[Extension]) -> HostConfiguration | None:
    """What a reply tells; None if nothing. Of a field told twice the last counts.

    Extensions of the wrong length, prefix lengths above 32 and unknown sub-types are passed over.
    """
    found: dict[int, bytes] = {}
    for extension in extensions:
        value = _value(extension)
        if value is not None and len(value) > 2:
            found[int.from_bytes(value[:2], "big")] = value[2:]
    kinds = HostConfigurationType
    length = _number(found, kinds.PREFIX_LENGTH, 2)
    servers = found.get(kinds.DNS_SERVERS, b"")
    dns = struct.unpack("!II", servers) if len(servers) == 8 else ()
    client_id = found.get(kinds.DHCP_CLIENT_ID, b"")
    told = HostConfiguration(
        length if length is not None and length <= 32 else None,
        tuple(server for server in dns if server),
        _number(found, kinds.DHCP_SERVER, 4) or 0,
        client_id if len(client_id) >= 2 else b"",
        _number(found, kinds.GATEWAY, 4) or 0,
        found.get(kinds.DNS_SUFFIX, b""),
        found.get(kinds.URL, b""),
    )
    return None if told == HostConfiguration() else told


def _value(extension: Extension) -> bytes | None:
    if (
        isinstance(extension, NormalVendorExtension)
        and extension.vendor == CISCO
        and extension.vendor_type == HOST_CONFIGURATION
    ):
        return extension.value
    return None


def _number(found: dict[int, bytes], kind: HostConfigurationType, size: int) -> int | None:
    data = found.get(kind, b"")
    if len(data) != size:
        return None
    return int.from_bytes(data, "big")


def _build(kind: HostConfigurationType, data: bytes) -> bytes:
    if len(data) > MAX_TEXT_LEN:
        raise WireError(f"host configuration {kind.name.lower()}: {len(data)} bytes")
    value = struct.pack("!H", kind) + data
    return NormalVendorExtension(CISCO, HOST_CONFIGURATION, value).build()
