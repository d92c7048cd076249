"""The path MTU the kernel knows towards an address, for three cheap system calls."""

from __future__ import annotations

import contextlib
import socket
import struct

_IP_MTU = 14  # linux/in.h
_SO_MARK = 36
_DISCARD_PORT = 9


class PathMtu:
    """Asks the routing cache: route MTU, interface MTU and learnt path MTU in one answer.

    A netlink route lookup costs some 300 us; connecting a UDP socket, which sends nothing,
    costs two, so that every registration can afford it.
    """

    def __init__(self, source: int, upper_bytes: int, *, fwmark: int = 0) -> None:
        self.upper_bytes = upper_bytes
        """Configured bound; also the answer for an address without a route."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        if fwmark:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_MARK, fwmark)
        with contextlib.suppress(OSError):  # an address that is not ours fails elsewhere, aloud
            self._socket.bind((socket.inet_ntoa(struct.pack("!I", source)), 0))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def lookup_bytes(self, address: int) -> int:
        """Path MTU to a host-order address, never above the configured bound."""
        target = socket.inet_ntoa(struct.pack("!I", address))
        try:
            self._socket.connect((target, _DISCARD_PORT))
            mtu_bytes = self._socket.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError:
            return self.upper_bytes
        return min(mtu_bytes, self.upper_bytes)
