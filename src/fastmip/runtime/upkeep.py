"""What others do to the machine while a role runs: mended where we can, said where we cannot.

A tunnel device that was set down loses its routes for good, and a home agent without its
address, its home link or forwarding serves nobody, without a single error anywhere. So once a
second the daemon looks: what we made stands again, the rest is a trouble in log and ``status``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastmip.runtime.logging import get_logger
from fastmip.runtime.service import StartError

if TYPE_CHECKING:
    from fastmip.runtime.journal import Address, Route, Rule
    from fastmip.runtime.netlink import Kernel

log = get_logger("upkeep")


class Watch(NamedTuple):
    """Something a role needs and must not mend itself."""

    trouble: str
    """What it is called when it is missing."""
    remedy: str
    is_well: Callable[[], Awaitable[bool]]


class Upkeep:
    """Looks after one tunnel device, the changes that lead to it, and what is watched."""

    def __init__(
        self,
        kernel: Kernel,
        device: str,
        changes: Callable[[], Sequence[Rule | Route | Address]],
        watches: Sequence[Watch] = (),
    ) -> None:
        self._troubles: set[str] = set()
        self._kernel = kernel
        self._device = device
        self._changes = changes
        self._watches = watches

    async def look(self) -> None:
        """Put back what is gone. Raises StartError when only a restart helps, OSError."""
        device = await self._kernel.interface(self._device)
        if device is None:
            raise StartError(f"{self._device} was removed while in use: start again")
        if not device.is_up:
            log.warning("tunnel-device-down", device=self._device, remedy="set up again")
            await self._kernel.set_link(device.index, state="up")
        for watch in self._watches:
            await self._judge(watch)
        if self._troubles:
            return  # a route cannot prefer an address that is not there
        for change in self._changes():
            if await self._kernel.restore(change):
                log.warning("change-restored", change=str(change))

    async def _judge(self, watch: Watch) -> None:
        is_well, is_known = await watch.is_well(), watch.trouble in self._troubles
        if not is_well and not is_known:
            log.error(watch.trouble, remedy=watch.remedy)
            self._troubles.add(watch.trouble)
        elif is_well and is_known:
            log.info(f"{watch.trouble}-mended")
            self._troubles.remove(watch.trouble)

    def status(self) -> dict[str, object]:
        """``troubles`` for ``status``, when there are any."""
        found = [watch.trouble for watch in self._watches if watch.trouble in self._troubles]
        return {"troubles": ", ".join(found)} if found else {}
