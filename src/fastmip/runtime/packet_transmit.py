"""``engine.transmit``: whether outer packets pass the IP stack by (``packet_out.h``), and why.

``socket`` never, ``packet`` whenever the mirror of routes and neighbours knows how, ``auto`` only
while nothing in this namespace's IP stack would have acted on them (``output_stack.py``): asked
once a second, and at once when nftables or IPsec policies change. Workers hear of it with one word.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Literal

from fastmip.runtime import background, output_stack
from fastmip.runtime.egress_routes import Flow
from fastmip.runtime.logging import get_logger
from fastmip.runtime.route_mirror import RouteMirror

if TYPE_CHECKING:
    from fastmip._dataplane import Engine
    from fastmip.runtime.config import Config

Mode = Literal["auto", "socket", "packet"]
_RETRY_S = 5.0
_STARTING = "routes are being read"

log = get_logger("transmit")


def of(config: Config, fwmark: int) -> PacketTransmit | None:
    """What the configuration wants for a home agent; None: everything goes through the stack."""
    engine, home = config.engine, config.home_agent
    if home is None or engine.io != "kernel" or engine.transmit == "socket":
        return None
    network = home.home_network
    return PacketTransmit(
        engine.transmit,
        outer=Flow(source=(int(home.address), 32), mark=fwmark),
        inner=Flow(
            source=(int(network.network_address), network.prefixlen), iif=home.tunnel_device
        ),
    )


class PacketTransmit:
    """Follows routes for outer packets and says when they may be used."""

    def __init__(self, mode: Mode, *, outer: Flow, inner: Flow) -> None:
        self.mode = mode
        self.reason = _STARTING
        """Why packets go through the stack; empty: they pass it by."""
        self._flows = (outer, inner)
        self._engine: Engine | None = None
        self._mirror: RouteMirror | None = None
        self._is_read = False
        self._task: asyncio.Task[None] | None = None
        self._news: list[socket.socket] = []

    def start(self, engine: Engine) -> None:
        """Read routes in the background; nobody waits for a table of a million."""
        self._engine = engine
        outer, inner = self._flows
        self._mirror = RouteMirror(engine, outer=outer, inner=inner)
        self._task = background.start(self._read(self._mirror), "transmit")
        if self.mode == "auto":
            self._news = output_stack.watch()
        for news in self._news:
            asyncio.get_running_loop().add_reader(news, self._heard, news)

    async def _read(self, mirror: RouteMirror) -> None:
        while not self._is_read:
            try:
                await mirror.start()
            except OSError as error:
                log.warning("routes-unreadable", reason=str(error))
                await mirror.stop()
                await asyncio.sleep(_RETRY_S)
                continue
            self._is_read = True
        self.look()

    def _heard(self, news: socket.socket) -> None:
        with contextlib.suppress(OSError):  # empty, or so much that some was lost
            while news.recv(1 << 16):
                pass
        self.look()

    def look(self) -> None:
        """Decide anew; called once a second."""
        if self._engine is None:
            return
        reason = "" if self._is_read else _STARTING
        if not reason and self.mode == "auto":
            reason = output_stack.users()
        if reason != self.reason:
            self.reason = reason
            log.info("transmit", by="socket" if reason else "packet", reason=reason)
        self._engine.allow_packet_sockets(not reason)

    def facts(self) -> dict[str, object]:
        """What ``show runtime`` tells of it."""
        by = f"socket: {self.reason}" if self.reason else "packet"
        return {"transmit": by} | (self._mirror.facts() if self._mirror else {})

    async def release(self) -> None:
        """Follow no more; everything goes through the stack."""
        if self._engine is not None:
            self._engine.allow_packet_sockets(False)
            self._engine = None
        for news in self._news:
            asyncio.get_running_loop().remove_reader(news)
            news.close()
        self._news.clear()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._mirror is not None:
            await self._mirror.stop()
            self._mirror = None
