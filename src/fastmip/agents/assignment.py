"""A mobile node that is given its home agent (RFC 4433 5.1).

The first request names no home agent and says in an extension whom it is sent to; who accepts is
the home agent until the session ends. A 143 names another one, which is asked next, also in the
middle of a session: what is registered stays until its lifetime ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from fastmip.agents.effects import NEVER
from fastmip.wire.addresses import is_loopback, is_unicast
from fastmip.wire.codes import LIFETIME_INFINITE
from fastmip.wire.dynamic_home_agent import REDIRECTED, DynamicHomeAgent
from fastmip.wire.extensions import Extension

PATIENCE = 3
"""Ours: unanswered transmissions after which another one is asked."""
REMEMBERED = 8
"""Ours: home agents that may send us on in one search (RFC 4433 4.2, step 5)."""
SECOND_NS = 1_000_000_000
LOOP_PAUSE_NS = 300 * SECOND_NS
"""Ours: how long nothing is asked after a circle, unless the node moves."""


def redirection(extensions: Iterable[Extension]) -> int:
    """The home agent that the home agent names; 0 without, or for what can be none."""
    for found in extensions:
        if isinstance(found, DynamicHomeAgent) and found.subtype == REDIRECTED:
            usable = is_unicast(found.address) and not is_loopback(found.address)
            return found.address if usable else 0
    return 0


class Exchange(Protocol):
    """What of a request under way counts here."""

    @property
    def lifetime_s(self) -> int: ...
    @property
    def lifetime_start_ns(self) -> int: ...
    @property
    def transmissions(self) -> int: ...


class Assignment:
    """What a node remembers of its search for a home agent."""

    def __init__(self, start: int, any_home_agent: int) -> None:
        self.start = start
        """Asked first."""
        self.has_looped = False
        self._any = any_home_agent
        self._is_assigned = False
        self._ends_ns = 0
        self._asked: list[int] = []
        self._pause_ns = 0

    @property
    def field(self) -> int | None:
        """The Home Agent field; None: the home agent that is asked (RFC 4433 5.1.2)."""
        return None if self._is_assigned else self._any

    def accepted(self, exchange: Exchange, lifetime_s: int) -> None:
        """The home agent that was asked accepted; lifetime 0: the session is over."""
        self._asked.clear()
        self._is_assigned = exchange.lifetime_s > 0
        granted_s = min(lifetime_s, exchange.lifetime_s)
        self._ends_ns = NEVER
        if granted_s < LIFETIME_INFINITE:
            self._ends_ns = exchange.lifetime_start_ns + granted_s * SECOND_NS

    def is_over(self, exchange: Exchange | None, now_ns: int) -> bool:
        """Whether the search begins anew: the lifetime ended, or whom we ask does not answer."""
        if self._is_assigned:
            if now_ns < self._ends_ns:
                return False
            self.end()
            return exchange is not None
        if exchange is None or exchange.transmissions < PATIENCE or not self._asked:
            return False
        self._asked.clear()
        return True

    def end(self) -> None:
        """The session is over."""
        self._is_assigned = False
        self._asked.clear()

    def follow(self, asked: int, redirected_to: int) -> bool:
        """Whether to ask another home agent; if not, the search begins anew after a pause."""
        self._asked.append(asked)
        self.has_looped = redirected_to in self._asked
        if redirected_to and not self.has_looped and len(self._asked) < REMEMBERED:
            self._is_assigned = False
            return True
        if redirected_to:
            self.has_looped = True
            self._pause_ns = LOOP_PAUSE_NS
        self.end()
        return False

    def take_pause_ns(self) -> int:
        """How much longer to wait than after other denials; once."""
        pause_ns, self._pause_ns = self._pause_ns, 0
        return pause_ns
