"""Neighbours a link left behind: entries that wait for an answer, and packets that wait in them.

When a mobile node leaves a link, its home routes stay for the moment until the new care-of
address is registered. A packet sent in that moment waits for a neighbour that is not on the new
link, for the three seconds the kernel goes on asking. And so long TCP repeats nothing of what
waits, because it counts as not yet sent: a connection would stand still although the tunnel
has long been up.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from pathlib import Path

_SIOCDARP = 0x8953
_ATF_COM = 0x02
_ARP_TABLE = Path("/proc/net/arp")


def unanswered(interface: str, table: str) -> list[str]:
    """Return the addresses of a link in a ``/proc/net/arp`` text that have no MAC address."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return [
        row[0]
        for row in rows
        if len(row) == 6 and row[5] == interface and not int(row[2], 16) & _ATF_COM
    ]


def mac_of(interface: str, address: str) -> str:
    """The MAC address a link's neighbour is known by, empty while there is none."""
    for line in _ARP_TABLE.read_text(encoding="ascii").splitlines()[1:]:
        row = line.split()
        if len(row) == 6 and (row[0], row[5]) == (address, interface):
            return row[3] if int(row[2], 16) & _ATF_COM else ""
    return ""


def forget_unanswered(interface: str) -> None:
    """Drop a link's neighbour entries without an answer; their packets are reported lost.

    Raises ``OSError`` when the table cannot be read or the kernel refuses.
    """
    silent = unanswered(interface, _ARP_TABLE.read_text(encoding="ascii"))
    if not silent:
        return
    device = interface.encode().ljust(16, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        for address in silent:
            target = struct.pack("=H2s4s8x", socket.AF_INET, b"", socket.inet_aton(address))
            try:
                fcntl.ioctl(control, _SIOCDARP, target + bytes(16 + 4 + 16) + device)
            except OSError as error:
                if error.errno not in (errno.ENXIO, errno.ENODEV):  # gone by itself
                    raise
