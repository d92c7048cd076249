"""IPv4 addresses and prefixes as host-order 32-bit integers, the only form the core uses.

Text exists at the edges alone (configuration, command line, logs). No ``ipaddress`` object
is built: a registration touches half a dozen addresses and must cost microseconds.
"""

from __future__ import annotations

from fastmip.errors import FastmipError

UNSPECIFIED = 0
"""0.0.0.0: no home address yet, or any home agent (RFC 5944 3.3)."""
LIMITED_BROADCAST = 0xFFFFFFFF
"""255.255.255.255."""

_LOOPBACK_NETWORK = 127
_PRIVATE = ((10 << 24, 8), (172 << 24 | 16 << 16, 12), (192 << 24 | 168 << 16, 16))
_FIRST_MULTICAST = 224 << 24


class AddressError(FastmipError, ValueError):
    """Text that is not an IPv4 address or prefix in dotted-quad notation."""


def parse_address(text: str) -> int:
    """Return the integer of ``"a.b.c.d"``; all four numbers are required.

    Raises AddressError on anything else; leading zeros too, which some take for octal.
    """
    parts = text.split(".")
    if len(parts) != 4:
        raise AddressError(f"not an IPv4 address: {text!r}")
    value = 0
    for part in parts:
        value = value << 8 | _parse_octet(part, text)
    return value


def _parse_octet(part: str, text: str) -> int:
    canonical = part.isascii() and part.isdecimal() and (part[0] != "0" or part == "0")
    if not canonical or len(part) > 3 or int(part) > 255:
        raise AddressError(f"not an IPv4 address: {text!r}")
    return int(part)


def format_address(address: int) -> str:
    """Return ``"a.b.c.d"``; raises AddressError outside 0..2**32-1."""
    if not 0 <= address <= LIMITED_BROADCAST:
        raise AddressError(f"not a 32-bit address: {address!r}")
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def prefix_mask(length: int) -> int:
    """Return the network mask of a prefix length (0..32) as an integer."""
    if not 0 <= length <= 32:
        raise AddressError(f"not an IPv4 prefix length: {length!r}")
    return LIMITED_BROADCAST ^ (LIMITED_BROADCAST >> length)


def parse_network(text: str) -> tuple[int, int]:
    """Return ``(prefix, length)`` of ``"a.b.c.d/n"``.

    Raises AddressError when the length is missing or out of range, or when host bits are
    set: ``10.1.0.1/24`` is an interface address, not a network, and nearly always a typo.
    """
    address_text, slash, length_text = text.partition("/")
    if not slash or not (length_text.isascii() and length_text.isdecimal()):
        raise AddressError(f"not an IPv4 network (address/length): {text!r}")
    if len(length_text) > 2:
        raise AddressError(f"not an IPv4 prefix length: {text!r}")
    length = int(length_text)
    prefix = parse_address(address_text)
    mask = prefix_mask(length)
    if prefix & ~mask:
        network = format_address(prefix & mask)
        raise AddressError(f"host bits set in network {text!r}; meant {network}/{length}?")
    return prefix, length


def format_network(prefix: int, length: int) -> str:
    """Return ``"a.b.c.d/n"``."""
    prefix_mask(length)
    return f"{format_address(prefix)}/{length}"


def in_network(address: int, prefix: int, length: int) -> bool:
    """Say whether an address lies in ``prefix/length``."""
    return address & prefix_mask(length) == prefix


def network_broadcast(prefix: int, length: int) -> int:
    """Return the subnet-directed broadcast address (RFC 919) of ``prefix/length``.

    A /31 or /32 has none (RFC 3021); then the limited broadcast address is returned, which
    never equals a host of the network.
    """
    if length >= 31:
        prefix_mask(length)
        return LIMITED_BROADCAST
    return prefix | (LIMITED_BROADCAST >> length)


def is_multicast(address: int) -> bool:
    """Say whether an address is in 224.0.0.0/4."""
    return address >> 28 == 0xE


def is_loopback(address: int) -> bool:
    """Say whether an address is in 127.0.0.0/8."""
    return address >> 24 == _LOOPBACK_NETWORK


def is_unicast(address: int) -> bool:
    """Say whether an address can name one host: below 224.0.0.0 and not in 0.0.0.0/8.

    Loopback counts as unicast; ask ``is_loopback`` besides where a packet could carry it.
    """
    return address < _FIRST_MULTICAST and address >> 24 != 0


def is_private(address: int) -> bool:
    """Say whether an address means something in private networks only (RFC 1918)."""
    return any(in_network(address, prefix, length) for prefix, length in _PRIVATE)
