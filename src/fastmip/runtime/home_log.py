"""What a home agent's log tells of registrations: who came, moved, left, and was denied.

A refresh is no news. Under load the log takes samples and says how many it left out, so that
thousands of registrations a second cost no more than the counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastmip.agents.throttle import Allowance
from fastmip.runtime.logging import get_logger
from fastmip.wire.addresses import format_address
from fastmip.wire.codes import MessageType, ReplyCode

if TYPE_CHECKING:
    from fastmip.agents.bindings import Binding
    from fastmip.agents.effects import Now, SendDatagram

PER_SECOND = 10
"""Changes logged each second, and as many denials; more are only counted."""
_LAST_ACCEPTED = ReplyCode.ACCEPTED_NO_SIMULTANEOUS

log = get_logger("home-agent")


class _Sample:
    """Lets some events through and counts the others."""

    __slots__ = ("_allowance", "_omitted")

    def __init__(self) -> None:
        self._allowance = Allowance()
        self._omitted = 0

    def take(self, now: Now) -> dict[str, int] | None:
        """Fields to add to the event (how many were left out before it); None: leave it out."""
        if not self._allowance.spend(now.boot_ns, PER_SECOND):
            self._omitted += 1
            return None
        omitted, self._omitted = self._omitted, 0
        return {"omitted": omitted} if omitted else {}


class RegistrationLog:
    """Compares a node's bindings before and after a commit; reads replies that deny."""

    def __init__(self) -> None:
        self._changes = _Sample()
        self._denials = _Sample()

    def changed(
        self,
        home_address: int,
        old: Sequence[Binding],
        new: Sequence[Binding],
        now: Now,
        *,
        asked: bool,
        revoked: bool = False,
    ) -> None:
        """A change is in force; ``asked``: by a request, ``revoked``: by a foreign agent.

        Else by time or an operator.
        """
        before = [binding.care_of_address for binding in old]
        after = [binding.care_of_address for binding in new]
        if before == after:
            return
        more = self._changes.take(now)
        if more is None:
            return
        home = format_address(home_address)
        if after:
            log.info(
                "revoked-in-part" if revoked else _event(before, after, asked=asked),
                home_address=home,
                care_of=_listed(after),
                lifetime_s=new[0].lifetime_s,
                reverse_tunnel=new[0].reverse,
                **more,
            )
        else:
            is_over = all(binding.expires_boot_ns <= now.boot_ns for binding in old)
            name = "deregistered" if asked else "expired" if is_over else "withdrawn"
            name = "revoked" if revoked else name
            log.info(name, home_address=home, care_of=_listed(before), **more)

    def sent(self, reply: SendDatagram, now: Now) -> None:
        """A message leaves; nothing but a reply that denies is news."""
        code = reply.data[1]
        if reply.data[0] != MessageType.REGISTRATION_REPLY or code <= _LAST_ACCEPTED:
            return
        more = self._denials.take(now)
        if more is not None:
            log.info(
                "registration-denied",
                home_address=format_address(int.from_bytes(reply.data[4:8])),
                peer=format_address(reply.destination.address),
                code=code,
                **more,
            )


def _event(before: list[int], after: list[int], *, asked: bool) -> str:
    if not before:
        return "registered"
    if not asked:
        return "expired-in-part"
    return "moved" if after[0] not in before else "bindings-changed"


def _listed(addresses: list[int]) -> str:
    return ", ".join(map(format_address, addresses))
