"""What we changed outside our own process, so that exactly that can be undone.

1. A change is written here *before* it is made, and struck off *after* it was undone.
2. A clean stop undoes everything in reverse order and leaves an empty journal.
3. After a crash the next start finds the entries and undoes them first. Entries of another
   boot or another network namespace describe a kernel state that is gone: they are dropped.

The file survives the death of the process without fsync (the page cache does), and what it
describes does not survive the death of the machine.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from fastmip.runtime import clock

_LEAST_DEAD = 64
"""Lines that may be dead before the file is written afresh."""


class Rule(msgspec.Struct, frozen=True, tag="rule"):
    """A policy rule (``ip rule``). Zero and empty mean: not part of the selector."""

    priority: int
    table: int
    source: str = ""
    destination: str = ""
    iif: str = ""
    oif: str = ""
    fwmark: int = 0
    invert: bool = False
    suppress_prefixlength: int = -1


class Route(msgspec.Struct, frozen=True, tag="route"):
    """A route (``ip route``); ``destination`` is ``default`` or a prefix."""

    destination: str
    table: int
    device: str = ""
    gateway: str = ""
    prefsrc: str = ""
    metric: int = 0
    onlink: bool = False
    kind: str = "unicast"
    gateways_behind: bool = True
    """Without a gateway: whether gateways of other routes may be found behind the device. Not
    behind a tunnel, or ``ip route add default via GATEWAY`` would lead into it."""
    mtu: int = 0
    """Path MTU by which packets on this route are made, bytes; 0 leaves it to the device."""


class Address(msgspec.Struct, frozen=True, tag="address"):
    """An address on a device; ``noprefixroute`` keeps the kernel from adding a route."""

    device: str
    address: str
    prefix_length: int
    noprefixroute: bool = True


class Neighbour(msgspec.Struct, frozen=True, tag="neighbour"):
    """A permanent neighbour entry: the address is reached by this MAC, without ARP."""

    device: str
    address: str
    mac: str
    """Six hexadecimal octets with colons."""


class Sysctl(msgspec.Struct, frozen=True, tag="sysctl"):
    """A file below /proc/sys and what it said before and what we wrote."""

    path: str
    old: str
    new: str


Change = Rule | Route | Address | Neighbour | Sysctl
KernelChange = Rule | Route | Address | Neighbour
"""What netlink makes and unmakes."""


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    boot: str
    namespace: int
    change: Change
    struck: bool = False
    """The change was undone: the line takes back an earlier one."""


def _namespace() -> int:
    return Path("/proc/self/ns/net").stat().st_ino


class Journal:
    """An append-only list of changes in a file of mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = clock.boot_id()
        self._namespace = _namespace()
        self._dead = 0
        """Lines of the file that say nothing any more."""
        self._entries = self._read()

    def changes(self) -> list[Change]:
        """Changes in force, oldest first."""
        return list(self._entries)

    def record(self, change: Change) -> None:
        """Write a change down; call it before making the change."""
        self._entries.append(change)
        self._append(_Entry(self._boot, self._namespace, change))

    def strike(self, change: Change) -> None:
        """Strike a change off; call it after undoing it."""
        self._entries.remove(change)
        if not self._entries:
            self._path.unlink(missing_ok=True)
            self._dead = 0
        elif self._dead < len(self._entries) + _LEAST_DEAD:
            self._append(_Entry(self._boot, self._namespace, change, struck=True))
            self._dead += 2
        else:
            self._rewrite()

    def _append(self, entry: _Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(entry) + b"\n")
        finally:
            os.close(descriptor)

    def _rewrite(self) -> None:
        lines = [
            msgspec.json.encode(_Entry(self._boot, self._namespace, change)) + b"\n"
            for change in self._entries
        ]
        fresh = self._path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(b"".join(lines))
        fresh.replace(self._path)
        self._dead = 0

    def _read(self) -> list[Change]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        decoder = msgspec.json.Decoder(_Entry)
        entries: list[Change] = []
        for line in lines:
            try:
                entry = decoder.decode(line)
            except msgspec.DecodeError:
                # Only the last line can be torn, and its change was not made yet.
                continue
            if entry.boot != self._boot or entry.namespace != self._namespace:
                continue
            if not entry.struck:
                entries.append(entry.change)
            elif entry.change in entries:
                entries.remove(entry.change)
        return entries
