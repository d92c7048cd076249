"""Broadcasts and multicasts of the home link, for mobile nodes that asked for them (B bit).

A packet socket takes what is sent to the link's broadcast or to a group, a filter in the
kernel lets the configured kinds through, and ``Engine.broadcast`` copies them to every binding
with the B bit (RFC 5944 4.3, 4.4). Nothing that is tunnelled costs the link anything, so the
number a second is limited; the rest is counted.

What is never taken: packets of this machine, fragments, groups that belong to one link alone
(224.0.0.0/24), and what is tunnelled already.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Collection
from typing import Final

from fastmip.agents.throttle import Allowance
from fastmip.runtime import clock
from fastmip.runtime.logging import get_logger
from fastmip.runtime.service import StartError
from fastmip.wire.addresses import LIMITED_BROADCAST, is_multicast

PER_SECOND: Final = 100
"""Broadcasts copied to mobile nodes each second."""
BATCH: Final = 64
"""Packets read before the loop gets a turn."""
UDP_PORTS: Final = {"dhcp": (67, 68), "netbios": (137, 138)}
"""Kinds told by the UDP destination port."""

_ETH_P_IP: Final = 0x0800
_PACKET_BROADCAST, _PACKET_MULTICAST = 1, 2
_IP: Final = struct.Struct("!BxHHHxBHII")
_MIN_HEADER_LEN: Final = 20
_FRAGMENT: Final = 0x3FFF
_UDP: Final = 17
_TUNNELS: Final = (4, 47, 55)
_LINK_GROUPS: Final = 0xE0000000 >> 8

BROADCAST_COUNTERS: Final = {
    "broadcasts-taken": "Broadcasts of the home link that are of a configured kind.",
    "broadcasts-copied": "Copies of them sent to mobile nodes.",
    "broadcasts-over-limit": "Broadcasts left out because there were too many in a second.",
}
"""Counter -> what it counts; ``docs/counters.md`` is checked against it."""

log = get_logger("home-agent")


class BroadcastTap:
    """Takes broadcasts off the home link; driven by the event loop."""

    def __init__(
        self,
        interface: str,
        kinds: Collection[str],
        broadcast: int,
        copy: Callable[[bytes], int],
    ) -> None:
        """``broadcast`` is the home network's; ``copy`` sends a packet to all that asked."""
        self.counters = dict.fromkeys(BROADCAST_COUNTERS, 0)
        self._interface = interface
        self._kinds = frozenset(kinds)
        self._ports = {port for kind in self._kinds for port in UDP_PORTS.get(kind, ())}
        self._broadcast = broadcast
        self._copy = copy
        self._allowance = Allowance()
        self._socket: socket.socket | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen. Raises StartError when the link is not there or may not be watched."""
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            opened = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_IP))
            try:
                opened.bind((self._interface, _ETH_P_IP))
            except OSError:
                opened.close()
                raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise StartError(f"broadcasts of {self._interface}: {reason}") from error
        self._socket = opened
        loop.add_reader(opened, self._drain)

    def stop(self) -> None:
        """Listen no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _drain(self) -> None:
        tap = self._socket
        if tap is None:
            return
        for _ in range(BATCH):
            try:
                packet, source = tap.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError as error:  # the link went down; it may come back
                log.warning("broadcasts-not-read", reason=str(error))
                return
            if source[2] in (_PACKET_BROADCAST, _PACKET_MULTICAST):
                self.offer(packet)

    def offer(self, packet: bytes) -> None:
        """Copy a packet of the link to the mobile nodes, if it is of a configured kind."""
        length = self._length(packet)
        if not length:
            return
        counters = self.counters
        if not self._allowance.spend(clock.now().boot_ns, PER_SECOND):
            counters["broadcasts-over-limit"] += 1
            return
        counters["broadcasts-taken"] += 1
        counters["broadcasts-copied"] += self._copy(packet[:length])

    def _length(self, packet: bytes) -> int:
        """Bytes of the IPv4 packet without the link's padding; 0: not for us."""
        if len(packet) < _MIN_HEADER_LEN:
            return 0
        version, length, _, fragment, protocol, _, _, destination = _IP.unpack_from(packet)
        header_len = (version & 0x0F) * 4
        if version >> 4 != 4 or not _MIN_HEADER_LEN <= header_len <= length <= len(packet):
            return 0
        if fragment & _FRAGMENT or protocol in _TUNNELS:
            return 0
        return length if self._is_wanted(packet, header_len, protocol, destination) else 0

    def _is_wanted(self, packet: bytes, header_len: int, protocol: int, destination: int) -> bool:
        if is_multicast(destination):
            return "multicast" in self._kinds and destination >> 8 != _LINK_GROUPS
        if destination not in (LIMITED_BROADCAST, self._broadcast):
            return False
        if "all" in self._kinds:
            return True
        if protocol != _UDP or len(packet) < header_len + 4:
            return False
        return int.from_bytes(packet[header_len + 2 : header_len + 4]) in self._ports
