"""Keepalives of a foreign agent behind a translator (RFC 3519 4.9), sans I/O.

All UDP tunnels to one home agent share our port 434 and so one mapping in the translator; one
keepalive to each home agent keeps it. It is an ICMP echo request in a UDP tunnel. Its inner
source is a visitor's home address, the only one the home agent takes out of the tunnel; the echo
reply reaches that visitor, whose kernel ignores it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fastmip.agents.effects import Endpoint, SendDatagram
from fastmip.wire.codes import MOBILE_IP_PORT
from fastmip.wire.discovery import internet_checksum
from fastmip.wire.tunneling import TunnelData

DEFAULT_S = 110
LEAST_S = 10
"""RFC 3519 4.9, 4.10."""
_SECOND = 1_000_000_000
_IPV4 = struct.Struct("!BBHHHBBHII")
_ECHO = struct.Struct("!BBHHH")
_ICMP, _ECHO_REQUEST, _TTL = 1, 8, 64


def echo_request(source: int, destination: int, number: int) -> bytes:
    """An IPv4 packet with an ICMP echo request."""
    echo = _ECHO.pack(_ECHO_REQUEST, 0, 0, MOBILE_IP_PORT, number & 0xFFFF)
    echo = echo[:2] + struct.pack("!H", internet_checksum(echo)) + echo[4:]
    fields = (0x45, 0, _IPV4.size + len(echo), number & 0xFFFF, 0, _TTL, _ICMP)
    header = _IPV4.pack(*fields, 0, source, destination)
    return _IPV4.pack(*fields, internet_checksum(header), source, destination) + echo


@dataclass(slots=True)
class _Tunnel:
    """The UDP tunnel to one home agent."""

    local: int
    remote: int
    port: int
    home_agent: int
    interval_ns: int
    due_ns: int
    users: dict[int, int]
    """Home address -> its encapsulation, in order of their registration."""


class Keepalives:
    """When a keepalive is due to which home agent."""

    __slots__ = ("_number", "_tunnels")

    def __init__(self) -> None:
        self._tunnels: dict[tuple[int, int, int], _Tunnel] = {}
        self._number = 0

    def use(
        self,
        home_address: int,
        *,
        local: int,
        remote: int,
        port: int,
        encapsulation: int,
        home_agent: int,
        interval_s: int,
        now_ns: int,
    ) -> None:
        """A visitor's registration was accepted through this tunnel: the mapping is fresh."""
        self.leave(home_address)
        interval_ns = max(interval_s, LEAST_S) * _SECOND
        key = (local, remote, port)
        tunnel = self._tunnels.get(key)
        if tunnel is None:
            tunnel = _Tunnel(local, remote, port, home_agent, interval_ns, 0, {})
            self._tunnels[key] = tunnel
        tunnel.interval_ns = min(interval_ns, tunnel.interval_ns) if tunnel.users else interval_ns
        tunnel.due_ns = now_ns + tunnel.interval_ns
        tunnel.users[home_address] = encapsulation

    def leave(self, home_address: int) -> None:
        """A visitor has gone."""
        for key, tunnel in list(self._tunnels.items()):
            if tunnel.users.pop(home_address, None) is not None and not tunnel.users:
                del self._tunnels[key]

    def due(self, now_ns: int) -> list[SendDatagram]:
        """The keepalives to send now."""
        found = []
        for tunnel in self._tunnels.values():
            if tunnel.due_ns > now_ns:
                continue
            tunnel.due_ns = now_ns + tunnel.interval_ns
            self._number += 1
            user, encapsulation = next(iter(tunnel.users.items()))
            inner = echo_request(user, tunnel.home_agent, self._number)
            found.append(
                SendDatagram(
                    TunnelData.wrap(encapsulation, inner),
                    Endpoint(tunnel.local, MOBILE_IP_PORT),
                    Endpoint(tunnel.remote, tunnel.port),
                )
            )
        return found

    def next_deadline(self) -> int | None:
        """When the next keepalive is due."""
        return min((tunnel.due_ns for tunnel in self._tunnels.values()), default=None)
