"""Whose challenge is whose at a foreign agent (RFC 4721 3.2): windows by link, nodes by proof.

A node is known by what vouches for it, so that it cannot take another name to use a challenge
twice, and nobody spends another's:

- one that shares an association with us: the home address or the NAI the association belongs to;
- any other: its home agent, together with the home address and with the signed NAI. Whoever runs
  a home agent of its own spends in that one's name alone.

A request is judged under all its names and spends under all of them, the home address that the
home agent has just given included. Link-layer addresses are no names: a replay comes from another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from fastmip.auth.challenges import (
    CHALLENGE_WINDOW,
    ChallengeVerdict,
    ChallengeWindow,
    is_retransmission,
)

if TYPE_CHECKING:
    from fastmip.agents.visitors import Pending, Visitor
    from fastmip.wire.registration import RegistrationRequest

SHARED: Final = -1
"""Domain of nodes that share an association with us; no address."""

Name = tuple[int, int | bytes]
"""What a window knows a node by."""


class Holder(NamedTuple):
    """Whose challenges a request spends."""

    domain: int
    """The home agent that vouches, or SHARED."""
    home_address: int
    nai: bytes | None

    def names(self, given: int = 0) -> list[Name]:
        """All names, with the home address ``given`` to a node that asked for one."""
        known = (self.home_address or given, self.nai)
        return [(self.domain, name) for name in known if name] or [(self.domain, 0)]


class Challenges:
    """The challenge windows of a foreign agent's links."""

    __slots__ = ("_random", "_width", "_windows")

    def __init__(self, random: Callable[[int], bytes], width: int = CHALLENGE_WINDOW) -> None:
        self._random = random
        self._width = width
        self._windows: dict[str, ChallengeWindow] = {}

    def window(self, interface: str) -> ChallengeWindow:
        """The challenges of one link; the advertiser draws from it."""
        found = self._windows.get(interface)
        if found is None:
            found = self._windows[interface] = ChallengeWindow(self._random, self._width)
        return found

    def judge(
        self,
        interface: str,
        holder: Holder,
        request: RegistrationRequest,
        challenge: bytes,
        pending: Pending | None,
    ) -> ChallengeVerdict:
        """What the link's window says; a repetition of a pending request is no reuse."""
        verdict = self._judge(interface, holder.names(), challenge)
        if (
            verdict is ChallengeVerdict.STALE
            and pending is not None
            and is_retransmission(pending.request, request)
        ):
            return ChallengeVerdict.FRESH
        return verdict

    def _judge(self, interface: str, names: list[Name], challenge: bytes) -> ChallengeVerdict:
        window = self.window(interface)
        verdicts = {window.judge(name, challenge) for name in names}
        for verdict in (ChallengeVerdict.STALE, ChallengeVerdict.FRESH):
            if verdict in verdicts:
                return verdict
        return ChallengeVerdict.UNKNOWN

    def spend(self, interface: str, holder: Holder, challenge: bytes, given: int = 0) -> bool:
        """Spend what was proven; False: no room to remember it, so nothing may come of it."""
        window = self.window(interface)
        return all(window.use(name, challenge) for name in holder.names(given))

    def offer(self, interface: str, holder: Holder, given: int = 0) -> bytes:
        """A challenge this node can use next (RFC 4721 3.3)."""
        names = holder.names(given)
        for name in names:
            challenge = self.window(interface).offer(name)
            if self._judge(interface, names, challenge) is ChallengeVerdict.FRESH:
                return challenge
        return self.window(interface).newest()

    def forget(self, visitor: Visitor) -> None:
        """Drop the records of a visitor that has gone, as far as they guard nothing."""
        window = self._windows.get(visitor.interface)
        if window is not None:
            for domain in (SHARED, visitor.home_agent):
                for name in Holder(domain, visitor.home_address, visitor.nai).names():
                    window.forget(name)
