"""All descriptors of an engine's kernel port: opened together, attached, closed together.

For each worker: a TUN queue, a raw socket for each encapsulation offered, and with NAT traversal
a UDP socket. The first worker also gets the ICMP socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastmip.runtime import devices

if TYPE_CHECKING:
    from fastmip._dataplane import Engine


NAMES = {devices.IPIP: "ipip", devices.GRE: "gre", devices.MINIMAL: "minimal"}
"""IP protocol number -> its name in configuration files."""


class EnginePort:
    """Opens what the engine works on; closes exactly that."""

    def __init__(
        self,
        device: str,
        *,
        address: int | None,
        fwmark: int | None,
        protocols: Sequence[int] = (devices.IPIP,),
    ) -> None:
        self.device = device
        self.protocols = tuple(protocols)
        """IP protocol numbers of the encapsulations that are received."""
        self.udp_port = 0
        """Port of UDP tunnels; 0: none."""
        self.super_frames: frozenset[str] = frozenset()
        self._address = address
        """None: every address of this machine; the engine itself checks both ends."""
        self._fwmark = fwmark
        self._engine: Engine | None = None
        self._queues: list[int] = []
        self._sockets: dict[str, list[socket.socket]] = {}

    def open(
        self,
        engine: Engine,
        workers: int,
        *,
        udp_port: int = 0,
        mtu_bytes: int = devices.TUN_MTU,
        ring: bool = True,
        packet: bool = False,
    ) -> None:
        """Open everything and attach it to the engine's workers.

        ``udp_port``: that of a control socket bound for as many data sockets (``ControlPort``).
        ``ring``: see ``Engine.attach_kernel``. ``packet``: with sockets that outer packets leave
        by once ``Engine.allow_packet_sockets`` says so. Raises DeviceError; then ``close`` takes
        back what was opened.
        """
        self.udp_port = udp_port
        self._engine = engine
        for worker in range(workers):
            if worker >= len(self._queues):  # else ``reserve`` has opened it
                several = workers > 1
                tun = devices.open_tun(self.device, multi_queue=several, mtu_bytes=mtu_bytes)
                self._keep_queue(tun)
            shard = (worker, workers)
            engine.attach_kernel(
                tun_fd=self._queues[worker],
                raw_fds=[self._open_raw(protocol, shard) for protocol in self.protocols],
                udp_fd=self._open_udp() if udp_port else -1,
                icmp_fd=self._open_icmp() if worker == 0 else -1,
                packet_fd=self._open_packet() if packet else -1,
                ring=ring,
            )
        devices.set_tun_policy(self.device)

    async def reserve(self, workers: int, *, mtu_bytes: int = devices.TUN_MTU) -> None:
        """Make the device before ``open``, which takes no time then; raises DeviceError."""
        multi_queue = workers > 1
        self._keep_queue(
            await devices.open_tun_patiently(
                self.device, multi_queue=multi_queue, mtu_bytes=mtu_bytes
            )
        )

    def _keep_queue(self, tun: devices.Tun) -> None:
        self._queues.append(tun.fd)
        self.super_frames = tun.super_frames

    def _open_raw(self, protocol: int, shard: tuple[int, int]) -> int:
        return self._keep(
            "tunnel",
            devices.open_tunnel_socket(
                self._address, self._fwmark, None, protocol=protocol, shard=shard
            ),
        )

    def _open_udp(self) -> int:
        return self._keep("udp", devices.open_udp_socket(self.udp_port, self._fwmark))

    def _open_icmp(self) -> int:
        return self._keep("icmp", devices.open_icmp_socket(self._address, None))

    def _open_packet(self) -> int:
        return self._keep("packet", devices.open_packet_socket(self._fwmark))

    def _keep(self, kind: str, opened: socket.socket) -> int:
        self._sockets.setdefault(kind, []).append(opened)
        return opened.fileno()

    def sockets(self, kind: str) -> tuple[socket.socket, ...]:
        """Sockets of a kind: ``tunnel`` (raw), ``udp``, ``icmp``, ``packet``."""
        return tuple(self._sockets.get(kind, ()))

    def facts(self) -> dict[str, object]:
        """What ``show runtime`` tells of it."""
        drops = {f"receive_drops_{kind}": count for kind, count in self.receive_drops().items()}
        return {
            "tunnel_device": self.device,
            "super_frames": ", ".join(sorted(self.super_frames)) or "none",
            "encapsulations": ", ".join(NAMES[protocol] for protocol in self.protocols),
            "udp_tunnel_port": self.udp_port or "off",
            "home_reads": self._home_reads(),
            **drops,
        }

    def _home_reads(self) -> str:
        """How workers read the TUN device under load: ``io_uring``, ``read``, or either."""
        workers = [] if self._engine is None else self._engine.worker_status()
        return ", ".join(sorted({str(worker["home_reads"]) for worker in workers}))

    def receive_drops(self) -> dict[str, int]:
        """Packets the kernel dropped because a socket's buffer was full, by kind of socket."""
        return {
            kind: sum(map(devices.receive_drops, sockets))
            for kind, sockets in self._sockets.items()
            if kind != "packet"  # it receives nothing
        }

    def close(self) -> None:
        """Close all descriptors, after the engine stopped; the device goes with them."""
        for sockets in self._sockets.values():
            for opened in sockets:
                opened.close()
        for queue in self._queues:
            with contextlib.suppress(OSError):
                os.close(queue)
        self._sockets.clear()
        self._queues.clear()
