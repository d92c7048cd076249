"""When the first packet for the home address comes in by a link, past the packet engine.

What a foreign agent decapsulates, and everything at home, arrives without a tunnel of ours. A
packet socket that lives for one handover sees it. To close one makes the kernel wait for all its
readers, tens of milliseconds: a thread does it, so the event loop does not stand still.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection

from fastmip.runtime import steering

_ETH_P_IP = 0x0800


async def wait_for_packet(
    interface: str, home_address: int, but_from: Collection[int], limit_s: float
) -> bool:
    """Wait for a packet to the home address that is of none of these senders.

    The reply that completed the handover may still be repeated; those who send it are left out.
    False after ``limit_s``. Raises OSError when the link is gone, or may not be watched.
    """
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    opened = socket.socket(socket.AF_PACKET, kind, 0)
    came = asyncio.Event()
    try:
        steering.keep_packets_to(opened, home_address, but_from)
        opened.bind((interface, _ETH_P_IP))
        loop.add_reader(opened, came.set)
        try:
            async with asyncio.timeout(limit_s):
                await came.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(opened)
        return True
    finally:
        closing = loop.run_in_executor(None, opened.close)
        closing.add_done_callback(lambda done: done.exception())
