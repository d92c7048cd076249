"""A kernel port on sockets, without kernel devices and without a pipeline."""

from __future__ import annotations

import ctypes
import socket

from tests.helpers.c_probe import pack, unpack

HOME, TUNNEL = 0, 1
DECAPSULATED = 5
VNET_LEN = 10


class Port:
    """A kernel port whose TUN device is one end of a socket pair."""

    def __init__(
        self, library: ctypes.CDLL, *, raw_sockets: int = 1, udp_fd: int = -1, ring: bool = False
    ) -> None:
        self.library = library
        library.probe_counter.restype = ctypes.c_uint64
        library.probe_counter_name.restype = ctypes.c_char_p
        library.probe_receive.restype = ctypes.c_uint32
        self.out = (ctypes.c_ubyte * (1 << 23))()
        pairs = [
            socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(1 + raw_sockets)
        ]
        self.ends = [end for pair in pairs for end in pair]
        for end in self.ends:
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.device, *self.tunnels = [far for _, far in pairs]
        self.tunnel = self.tunnels[0]
        near, *raw = [end.fileno() for end, _ in pairs]
        self.descriptors = near, (ctypes.c_int * raw_sockets)(*raw), raw_sockets, udp_fd
        assert library.probe_open(*self.descriptors, int(ring)) == 0

    def reopen(self, *, ring: bool) -> None:
        """A fresh port on the same sockets."""
        self.library.probe_close()
        assert self.library.probe_open(*self.descriptors, int(ring)) == 0

    def has_ring(self) -> bool:
        """True if the next batch after a full one is read by io_uring."""
        return bool(self.library.probe_has_ring())

    def make_busy(self) -> None:
        """Fill a batch, so that the next one is read by the ring if there is one."""
        for index in range(64):
            self.device.send(bytes(VNET_LEN) + index.to_bytes(20))
        assert len(self.receive(HOME)) == 64

    def close(self) -> None:
        self.library.probe_close()
        for end in self.ends:
            end.close()

    def send_home(self, packets: list[bytes]) -> list[tuple[bytes, bytes]]:
        """Send one batch; the writes: vnet header and packet."""
        self.send(HOME, packets)
        return self.writes()

    def send(self, side: int, packets: list[bytes]) -> None:
        """Send one batch to a side."""
        data = pack(packets)
        self.library.probe_send(side, data, len(data), DECAPSULATED)

    def writes(self) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        while True:
            try:
                write = self.device.recv(70000)
            except BlockingIOError:
                return found
            found.append((write[:VNET_LEN], write[VNET_LEN:]))

    def receive(self, side: int) -> list[bytes]:
        used = self.library.probe_receive(side, self.out)
        return unpack(bytes(self.out[:used]))

    def counters(self) -> dict[str, int]:
        found, number = {}, 0
        while name := self.library.probe_counter_name(number):
            found[name.decode()] = self.library.probe_counter(number)
            number += 1
        return found
