"""The engine's place in the kernel at a mobile node: TUN device and raw sockets.

Unlike a home agent's, these sockets belong to no address: care-of addresses come and go, and
the engine itself checks both ends of every tunnel packet. They carry the mark that keeps
tunnel packets out of the tunnel (``routing.py``). The MTU of the device follows the link in
use, so that TCP offers the right segment size from the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastmip.runtime import devices
from fastmip.runtime.engine_port import EnginePort
from fastmip.runtime.netlink import Kernel
from fastmip.runtime.service import StartError

if TYPE_CHECKING:
    from fastmip._dataplane import Engine
    from fastmip.agents.effects import Tunnel

OVERHEAD = 20
"""Bytes an IP-in-IP header adds (RFC 2003): what is assumed before there is a tunnel."""
_OVERHEADS = {devices.IPIP: OVERHEAD, devices.GRE: 24, devices.MINIMAL: 12}
"""IP protocol number -> bytes it adds to a packet (RFC 2003, 2784, 2004)."""
GRE_KEY_LEN = 4
UDP_SHIM_LEN = 12
"""UDP header and tunnel data header (RFC 3519)."""
DEFAULT_LINK_MTU = 1500
MIN_DEVICE_MTU = 576
"""Ours: below this the device does not follow a link; the engine fragments."""


def overhead_bytes(tunnel: Tunnel) -> int:
    """Bytes a tunnel adds to a packet."""
    added = _OVERHEADS[tunnel.encapsulation]
    added += GRE_KEY_LEN if tunnel.gre_key is not None else 0
    return added + (UDP_SHIM_LEN if tunnel.remote_port else 0)


class MobileTunnel:
    """Opens what the engine works on; closes exactly that."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        device: str,
        fwmark: int,
        protocols: Sequence[int] = (devices.IPIP,),
    ) -> None:
        self.device = device
        self.port = EnginePort(device, address=None, fwmark=fwmark, protocols=protocols)
        self._kernel = kernel
        self._index = 0
        self._mtu_bytes = DEFAULT_LINK_MTU - OVERHEAD

    async def open(self, engine: Engine, workers: int, *, udp_port: int = 0) -> None:
        """Open what each worker works on and attach it; ``udp_port``: see ``EnginePort.open``.

        Raises DeviceError or StartError.
        """
        await self.port.reserve(workers, mtu_bytes=self._mtu_bytes)
        self.port.open(engine, workers, udp_port=udp_port, mtu_bytes=self._mtu_bytes)
        found = await self._kernel.interface(self.device)
        if found is None:
            raise StartError(f"{self.device}: the device vanished while it was configured")
        self._index = found.index
        await self._kernel.set_link(found.index, txqlen=devices.TUN_QUEUE_LENGTH, state="up")

    async def follow_link_mtu(self, link_mtu_bytes: int, tunnel: Tunnel) -> None:
        """Make the device's MTU fit a tunnel over a link of this MTU."""
        mtu_bytes = max(link_mtu_bytes - overhead_bytes(tunnel), MIN_DEVICE_MTU)
        if mtu_bytes != self._mtu_bytes:
            self._mtu_bytes = mtu_bytes
            await self._kernel.set_link(self._index, mtu=mtu_bytes)

    def close(self) -> None:
        """Close all descriptors, after the engine stopped; the device goes with them."""
        self.port.close()
