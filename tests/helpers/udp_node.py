"""A mobile node's end of a UDP tunnel, by struct and sockets alone (RFC 3519 3.3)."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self

from tests.helpers.namespaces import Namespaces

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
MTU = 1468
"""1500 bytes without IP, UDP and the header of four bytes."""


class UdpNode:
    """Carries packets between a TUN device of a namespace and a UDP socket.

    ``port`` is the socket registrations use too; whatever is no tunnel data stays for
    ``replies``.
    """

    def __init__(self, net: Namespaces, where: str, home: str, agent: str, care_of: str) -> None:
        self.replies: list[bytes] = []
        self._agent = (agent, 434)
        with net.inside(where):
            self.port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._tun = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(self._tun, _TUNSETIFF, struct.pack("16sH", b"tun0", _IFF_TUN_NO_PI))
        self.port.bind((care_of, 0))
        net.ip(where, "address", "add", f"{home}/32", "dev", "tun0")
        net.ip(where, "link", "set", "tun0", "up", "mtu", str(MTU))
        net.ip(where, "route", "add", "default", "dev", "tun0", "table", "77")
        net.ip(where, "rule", "add", "from", home, "lookup", "77")
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._stopped)
        self._thread.join()
        for descriptor in (self._tun, self._stop):
            os.close(descriptor)
        self.port.close()

    def send(self, message: bytes) -> None:
        """Send a control message to the home agent."""
        self.port.sendto(message, self._agent)

    def _run(self) -> None:
        while True:
            port = self.port.fileno()
            ready, _, _ = select.select([self._tun, port, self._stop], [], [])
            if self._stop in ready:
                return
            if self._tun in ready:
                packet = os.read(self._tun, 65536)
                if packet[0] >> 4 == 4:
                    self.port.sendto(b"\x04\x04\0\0" + packet, self._agent)
            if port in ready:
                data, source = self.port.recvfrom(65536)
                if source == self._agent and data[:4] == b"\x04\x04\0\0":
                    os.write(self._tun, data[4:])
                else:
                    self.replies.append(data)
