"""What the home agent told of the home network (RFC 4332), for ``show`` and for a program of the
operator's, which puts name servers where this system wants them.

The program gets everything by its environment and nothing by its arguments; what came over the
network is checked before: a domain or URL with other characters than such things have is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from fastmip.runtime import background
from fastmip.runtime.logging import get_logger
from fastmip.wire.addresses import format_address, is_unicast

if TYPE_CHECKING:
    from fastmip.wire.host_configuration import HostConfiguration

LIMIT_S: Final = 10.0
"""How long the program may take; then it is killed."""
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DOMAIN: Final = re.compile(rb"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
_URL: Final = re.compile(rb"https?://[A-Za-z0-9._~:/?#@!&*+,;=%\[\]-]+")

log = get_logger("mobile-node")


def facts(told: HostConfiguration | None) -> dict[str, str]:
    """Name -> text of what makes sense, in a fixed order."""
    if told is None:
        return {}
    found = {
        "prefix_length": "" if told.prefix_length is None else str(told.prefix_length),
        "gateway": _address(told.gateway),
        "dns": " ".join(filter(None, map(_address, told.dns_servers))),
        "dns_suffix": _text(told.dns_suffix, _DOMAIN),
        "url": _text(told.url, _URL),
        "dhcp_server": _address(told.dhcp_server),
        "dhcp_client_id": told.dhcp_client_id.hex(),
    }
    return {name: value for name, value in found.items() if value}


def environment(home_address: int, told: HostConfiguration | None) -> dict[str, str]:
    """The program's whole environment."""
    named = {f"FASTMIP_{name.upper()}": value for name, value in facts(told).items()}
    return {"PATH": PATH, "FASTMIP_HOME_ADDRESS": format_address(home_address), **named}


class HostHook:
    """Runs the program once after every change; the latest counts, and no two run at a time."""

    def __init__(
        self, command: Sequence[str], home_address: int, *, limit_s: float = LIMIT_S
    ) -> None:
        self.told: HostConfiguration | None = None
        """What the home agent told last."""
        self._command = tuple(command)
        self._home_address = home_address
        self._limit_s = limit_s
        self._is_due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def take(self, told: HostConfiguration) -> None:
        """The home agent told something new."""
        self.told = told
        log.info("host-configured", **facts(told))
        if not self._command:
            return
        self._is_due.set()
        if self._task is None:
            self._task = background.start(self._serve(), "host-configuration-hook")

    async def stop(self) -> None:
        """Kill what runs."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _serve(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            await self._run()

    async def _run(self) -> None:
        nothing = asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=nothing,
                stdout=nothing,
                stderr=nothing,
                env=environment(self._home_address, self.told),
                start_new_session=True,
            )
        except OSError as error:
            log.warning("hook-failed", command=self._command[0], reason=str(error))
            return
        try:
            async with asyncio.timeout(self._limit_s):
                code = await process.wait()
        except TimeoutError:
            log.warning("hook-failed", command=self._command[0], reason="it took too long")
        else:
            if code:
                log.warning("hook-failed", command=self._command[0], reason=f"exit code {code}")
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()


def _address(address: int) -> str:
    return format_address(address) if is_unicast(address) else ""


def _text(data: bytes, allowed: re.Pattern[bytes]) -> str:
    return data.decode("ascii") if allowed.fullmatch(data) else ""
