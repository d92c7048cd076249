"""Mobility bindings: the durable 64-byte record and its two forms (RFC 5944 3.8.1).

A record carries its expiry on both clocks and the boot it was written in. While that boot
lasts only CLOCK_BOOTTIME counts, so steps of the wall clock neither expire nor prolong a
binding. After a reboot the wall clock is all there is; the remaining time is then capped by
the granted lifetime. Records are little-endian and packed; ``BINDING_RECORD`` (struct) and
``BINDING_DTYPE`` (numpy) describe the same bytes. A field is added in place of reserved bytes,
zero standing for what was before it, so that old rows stay readable.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastmip.agents.effects import NEVER, Now, Tunnel
from fastmip.wire.codes import MOBILE_IP_PORT

BINDING_RECORD = struct.Struct("<IIIIQQQIIHHBBHIB3x")
BINDING_RECORD_SIZE = 64

BINDING_DTYPE = np.dtype(
    [
        ("home_address", "<u4"),
        ("care_of_address", "<u4"),
        ("home_agent", "<u4"),
        ("source_address", "<u4"),
        ("expires_boot_ns", "<u8"),
        ("expires_wall_ns", "<u8"),
        ("identification", "<u8"),
        ("boot", "<u4"),
        ("spi", "<u4"),
        ("lifetime_s", "<u2"),
        ("source_port", "<u2"),
        ("flags", "u1"),
        ("encapsulation", "u1"),
        ("tunnel_port", "<u2"),
        ("revocation_timestamp", "<u4"),
        ("services", "u1"),
        ("reserved", "V3"),
    ]
)

TUNNEL_DTYPE = np.dtype(
    [
        ("home_address", "=u4"),
        ("remote", "=u4"),
        ("local", "=u4"),
        ("mtu", "=u2"),
        ("encapsulation", "u1"),
        ("flags", "u1"),
        ("expires_ns", "=u8"),
        ("gre_key", "=u4"),
        ("remote_port", "=u2"),
        ("local_port", "=u2"),
        ("ttl", "u1"),
        ("tos_mode", "u1"),
        ("reserved", "V6"),
    ]
)
"""The packet engine's tunnel record (``_dataplane.TUNNEL_RECORD_SIZE`` bytes)."""

TUNNEL_RECORD = struct.Struct("=IIIHBBQIHHBB6x")
"""The same for one record: the fields of ``TUNNEL_DTYPE`` in their order."""

RECORD_REVERSE = 1
"""Record flags; the engine's ``FLAG_*`` of the same names (a test compares them)."""
RECORD_FIRST_ONLY = 2
RECORD_BROADCAST = 4
RECORD_NESTED = 8
RECORD_GRE_KEY = 16
OUTER_TTL = 64
"""TTL of tunnel packets unless a record says otherwise."""

FLAG_REVERSE_TUNNEL = 0x02
"""T bit of the Registration Request flags (RFC 3024 3.2)."""

FLAG_COLOCATED = 0x20
"""D bit: the mobile node decapsulates itself."""

HALF_BOUND = 0xFFFF
"""``tunnel_port`` until the first keepalive tells it (RFC 3519 4.6, R flag)."""

SERVICE_REVOCATION = 0x01
"""Revocation was negotiated (RFC 3543 4.2.1)."""
SERVICE_INFORM = 0x02
"""So was the I bit."""
SERVICE_DIRECT = 0x04
"""With the mobile node itself, not with a foreign agent."""
SERVICE_BROADCASTS = 0x08
"""Broadcasts of the home network are tunnelled too (B bit, RFC 5944 4.3)."""

_SECOND = 1_000_000_000
_INFINITE = 0xFFFF


class Binding(NamedTuple):
    """One entry of the mobility binding list; the fields of a record in their order."""

    home_address: int
    care_of_address: int
    home_agent: int
    """Our address the tunnel starts from: the Home Agent field of the reply."""
    source_address: int
    """IP source of the accepted request: the care-of address, or a foreign agent."""
    expires_boot_ns: int
    """CLOCK_BOOTTIME of boot ``boot``, or NEVER."""
    expires_wall_ns: int
    """Unix time, or NEVER; counts only after a reboot."""
    identification: int
    """Identification of the accepted request."""
    boot: int
    """Row of the boot table this record was written under."""
    spi: int
    """SPI of the authenticator that was verified."""
    lifetime_s: int
    """Granted lifetime, 0xffff infinite."""
    source_port: int
    flags: int
    """Flags byte of the Registration Request."""
    encapsulation: int
    """IP protocol number of the tunnel."""
    tunnel_port: int = 0
    """Not 0: a UDP tunnel (RFC 3519) to this port of ``source_address``; HALF_BOUND: the port
    is that of the first keepalive."""
    revocation_timestamp: int = 0
    """Of the peer's extension 137, by its clock (RFC 3543)."""
    services: int = 0
    """SERVICE_ bits: what was granted beside the tunnel."""

    @property
    def remote(self) -> int:
        """Where the tunnel leads: behind a translator not the address registered."""
        return self.source_address if self.tunnel_port else self.care_of_address

    @property
    def registered_boot_ns(self) -> int:
        """CLOCK_BOOTTIME of the registration; 0 when the lifetime is infinite."""
        if self.expires_boot_ns == NEVER:
            return 0
        return self.expires_boot_ns - self.lifetime_s * _SECOND

    @property
    def reverse(self) -> bool:
        """Whether a reverse tunnel was granted."""
        return bool(self.flags & FLAG_REVERSE_TUNNEL)

    def to_bytes(self) -> bytes:
        """The 64-byte durable record."""
        return BINDING_RECORD.pack(*self)


def pack_bindings(bindings: Iterable[Binding]) -> bytes:
    """Concatenate the records of a node for ``NodeRow.bindings``."""
    pack = BINDING_RECORD.pack
    return b"".join([pack(*binding) for binding in bindings])


def tunnel_of(binding: Binding) -> Tunnel:
    """The tunnel a binding asks the packet engine for."""
    flags = binding.flags
    if not binding.tunnel_port and not binding.services:
        return Tunnel(
            binding.care_of_address,
            binding.home_agent,
            binding.expires_boot_ns,
            binding.encapsulation,
            flags & FLAG_REVERSE_TUNNEL != 0,
            nested=not flags & FLAG_COLOCATED,
        )
    broadcasts = binding.services & SERVICE_BROADCASTS != 0
    return Tunnel(
        binding.remote,
        binding.home_agent,
        binding.expires_boot_ns,
        binding.encapsulation,
        flags & FLAG_REVERSE_TUNNEL != 0,
        remote_port=binding.tunnel_port,
        local_port=MOBILE_IP_PORT if binding.tunnel_port else 0,
        broadcasts=broadcasts,
        nested=not flags & FLAG_COLOCATED,
    )


def live_expiry(expires_wall_ns: int, lifetime_s: int, anchor: Now) -> int:
    """CLOCK_BOOTTIME expiry of a record from an earlier boot, never beyond its lifetime.

    The wall clock at the ``anchor`` decides; a clock set back grants at most the lifetime again.
    """
    if lifetime_s == _INFINITE or expires_wall_ns == NEVER:
        return NEVER
    remaining = expires_wall_ns - anchor.wall_ns
    return anchor.boot_ns + max(0, min(remaining, lifetime_s * _SECOND))


def unpack_bindings(records: bytes, *, boot: int, anchor: Now | None) -> list[Binding]:
    """Bindings of a ``NodeRow``, with expiries converted to the current boot.

    ``anchor`` are the clocks at one moment of this boot; records of earlier boots are
    converted by it, always the same one, so that later clock steps do not matter. Without it
    they are returned as they are. Bytes after the last whole record are ignored.
    """
    whole = len(records) - len(records) % BINDING_RECORD_SIZE
    found = [Binding._make(item) for item in BINDING_RECORD.iter_unpack(records[:whole])]
    return [
        binding
        if binding.boot == boot or anchor is None
        else binding._replace(
            boot=boot,
            expires_boot_ns=live_expiry(binding.expires_wall_ns, binding.lifetime_s, anchor),
        )
        for binding in found
    ]


def tunnel_records(
    records: bytes | bytearray | memoryview,
    *,
    boot: int,
    now: Now,
    anchor: Now | None = None,
    mtu_bytes: int,
    reverse_flag: int = RECORD_REVERSE,
    ttl: int = 64,
    tos_mode: int = 0,
) -> npt.NDArray[np.void]:
    """Convert binding records to the engine's tunnel records, dropping expired ones.

    Vectorised for restarts with millions of bindings; the order is kept, so chains that were
    adjacent stay adjacent. ``anchor`` as in ``unpack_bindings``, ``now`` if not given.
    """
    turned = now if anchor is None else anchor
    source = np.frombuffer(records, dtype=BINDING_DTYPE)
    expires = source["expires_boot_ns"].astype(np.uint64)
    old = source["boot"] != boot
    if old.any():
        infinite = (source["lifetime_s"] == _INFINITE) | (source["expires_wall_ns"] == NEVER)
        wall = source["expires_wall_ns"]
        floor = np.uint64(max(0, turned.wall_ns))
        remaining = np.where(wall > floor, wall - floor, np.uint64(0))
        granted = source["lifetime_s"].astype(np.uint64) * np.uint64(_SECOND)
        converted = np.uint64(turned.boot_ns) + np.minimum(remaining, granted)
        converted[infinite] = NEVER
        expires = np.where(old, converted, expires)
    alive = expires > np.uint64(now.boot_ns)
    kept = source[alive]
    tunnels = np.zeros(len(kept), dtype=TUNNEL_DTYPE)
    tunnels["home_address"] = kept["home_address"]
    in_udp = kept["tunnel_port"] != 0
    tunnels["remote"] = np.where(in_udp, kept["source_address"], kept["care_of_address"])
    tunnels["remote_port"] = kept["tunnel_port"]
    tunnels["local_port"] = np.where(in_udp, MOBILE_IP_PORT, 0)
    tunnels["local"] = kept["home_agent"]
    tunnels["mtu"] = mtu_bytes
    tunnels["encapsulation"] = kept["encapsulation"]
    broadcasts = kept["services"] & SERVICE_BROADCASTS != 0
    nested = kept["flags"] & FLAG_COLOCATED == 0
    tunnels["flags"] = (
        np.where(kept["flags"] & FLAG_REVERSE_TUNNEL, reverse_flag, 0)
        | np.where(broadcasts, RECORD_BROADCAST, 0)
        | np.where(nested, RECORD_NESTED, 0)
    )
    tunnels["expires_ns"] = expires[alive]
    tunnels["ttl"] = ttl
    tunnels["tos_mode"] = tos_mode
    return tunnels


def tunnel_record(
    home_address: int,
    tunnel: Tunnel,
    *,
    mtu_bytes: int,
    ttl: int = OUTER_TTL,
    tos_mode: int = 0,
) -> bytes:
    """One tunnel of a home address as the engine takes it."""
    flags = (
        (RECORD_REVERSE if tunnel.reverse else 0)
        | (RECORD_BROADCAST if tunnel.broadcasts else 0)
        | (RECORD_NESTED if tunnel.nested else 0)
        | (RECORD_GRE_KEY if tunnel.gre_key is not None else 0)
    )
    return TUNNEL_RECORD.pack(
        home_address,
        tunnel.remote,
        tunnel.local,
        mtu_bytes,
        tunnel.encapsulation,
        flags,
        tunnel.expires_ns,
        tunnel.gre_key or 0,
        tunnel.remote_port,
        tunnel.local_port,
        ttl,
        tos_mode,
    )
