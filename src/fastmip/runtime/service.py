"""What the daemon asks of a role: start, stop, show itself, take a new configuration.

The daemon (``daemon.py``) runs any mix of services (home agent, mobile node) and knows them
only through this protocol. A service owns its sockets, its engine and its timers, and leaves
nothing behind after ``stop``: every change to the kernel goes through ``netlink.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from fastmip.errors import FastmipError

if TYPE_CHECKING:
    from fastmip.runtime.config import Config
    from fastmip.runtime.engine_view import Observed

Arguments = dict[str, object]
"""The ``args`` object of a control request."""
Answer = dict[str, object]
"""A control result. ``show`` commands answer ``{"rows": [flat dicts], "summary": flat dict}``."""
Command = Callable[[Arguments], Awaitable[Answer]]
"""One control command. Raises CommandError with a line an operator can act on."""


class CommandError(FastmipError):
    """A control command that cannot be carried out; the text is one line for the operator."""


class ReloadRefused(FastmipError):
    """A new configuration that needs a restart; the text names the keys that changed."""


class StartError(FastmipError):
    """Something outside the configuration stops the start; one line with the remedy."""


class Service(Protocol):
    """One role of the daemon."""

    name: str
    """RFC noun with a hyphen: ``home-agent``, ``mobile-node``."""

    async def start(self) -> None:
        """Bring the role up; returns when it serves. Raises ConfigError or StartError."""

    async def stop(self) -> None:
        """Stop serving and undo what ``start`` did; safe after a failed ``start``."""

    async def keep(self) -> None:
        """Put back what others took away; called about once a second.

        Raises StartError when only a restart helps, OSError or NetlinkError.
        """

    def status(self) -> dict[str, object]:
        """Flat facts for ``status`` and the service manager's status line."""

    def heartbeats(self) -> list[int]:
        """One growing number per engine worker; the watchdog aborts when one stands still."""

    def observed(self) -> Observed | None:
        """Engine and counters, to be measured; None without a running engine."""

    def commands(self) -> Mapping[str, Command]:
        """Control commands by name, for example ``show binding``.

        Several services may offer the same command: the daemon asks all of them and joins
        the rows.
        """

    async def plan_reload(self, new: Config) -> list[str]:
        """Changes the new configuration brings, one line each. Raises ReloadRefused, ConfigError.

        Changes nothing: the daemon asks every service before it applies anything. Whatever can
        stand against the file, on this machine too, is found here.
        """

    async def apply_reload(self, new: Config) -> None:
        """Put a configuration into force that ``plan_reload`` accepted last; never refuses."""
