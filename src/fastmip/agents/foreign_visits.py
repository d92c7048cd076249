"""Visits at a foreign agent: visitors in force, those on their way in, and how they end.

A visitor whose home agent accepted is first installed in engine and kernel; only when that is
done it is in force and the reply leaves. Meanwhile it counts as here: it takes room, and nobody
else takes its home address.
"""

from __future__ import annotations

from typing import NamedTuple

from fastmip.agents import foreign_counters as names
from fastmip.agents.effects import Effect, InstallVisitor, Now, RemoveVisitor
from fastmip.agents.foreign_challenges import Challenges
from fastmip.agents.foreign_keepalive import Keepalives
from fastmip.agents.visitors import Pending, Visitor, VisitorTable, visitor_event
from fastmip.wire.registration import RegistrationReply


class Installing(NamedTuple):
    """A visitor on its way into engine and kernel, and the reply that waits for it."""

    token: int
    visitor: Visitor
    pending: Pending
    reply: RegistrationReply
    authorized: bytes
    """Of the reply, as far as the home agent signed it."""
    keepalive_s: int


class Visits:
    """All visits of one foreign agent."""

    __slots__ = ("_challenges", "_count", "_installing", "_token", "keepalives", "table")

    def __init__(self, count: dict[str, int], challenges: Challenges) -> None:
        self.table = VisitorTable()
        self.keepalives = Keepalives()
        self._installing: dict[int, Installing] = {}
        self._token = 0
        self._count = count
        self._challenges = challenges

    def __len__(self) -> int:
        """Visitors in force or on their way in."""
        return len(self.table) + len(self._installing)

    def standing(self, home_address: int) -> Visitor | None:
        """The visitor with a home address, also one that is still being installed."""
        installing = self._installing.get(home_address)
        return self.table.get(home_address) if installing is None else installing.visitor

    def identified(self, identification: int) -> list[Visitor]:
        """Visitors whose accepted request had this Identification."""
        found = self.table.identified(identification)
        for installing in self._installing.values():
            if installing.visitor.identification == identification:
                found.append(installing.visitor)
        return found

    def begin(
        self,
        visitor: Visitor,
        pending: Pending,
        reply: RegistrationReply,
        authorized: bytes,
        keepalive_s: int,
    ) -> InstallVisitor:
        """A home agent accepted: what engine and kernel are to carry."""
        self._token += 1
        installing = Installing(self._token, visitor, pending, reply, authorized, keepalive_s)
        self._installing[visitor.home_address] = installing
        return InstallVisitor(
            visitor.home_address,
            visitor.interface,
            visitor.mac,
            visitor.tunnel,
            reverse=visitor.tunnel.reverse,
            encapsulating=visitor.encapsulating,
            token=self._token,
        )

    def installed(self, token: int, home_address: int) -> Installing | None:
        """Who waited for this; None for a token that a later registration overtook."""
        installing = self._installing.get(home_address)
        if installing is None or installing.token != token:
            return None
        return self._installing.pop(home_address)

    def enter(self, installing: Installing, now: Now) -> bool:
        """Put a visitor that is carried in force; says whether it is a new one."""
        visitor = installing.visitor
        is_new = self.table.get(visitor.home_address) is None
        self.table.put(visitor)
        tunnel = visitor.tunnel
        if tunnel.remote_port:
            self.keepalives.use(
                visitor.home_address,
                local=tunnel.local,
                remote=tunnel.remote,
                port=tunnel.remote_port,
                encapsulation=tunnel.encapsulation,
                home_agent=visitor.home_agent,
                interval_s=installing.keepalive_s,
                now_ns=now.boot_ns,
            )
        else:
            self.keepalives.leave(visitor.home_address)
        return is_new

    def give_up(self, visitor: Visitor) -> RemoveVisitor:
        """Engine or kernel would not carry a visitor: nothing of it stays."""
        self._count[names.INSTALL_FAILED] += 1
        self.table.remove(visitor.home_address)
        self.keepalives.leave(visitor.home_address)
        return RemoveVisitor(visitor.home_address, visitor.interface)

    def end(self, home_address: int, effects: list[Effect], counter: str, why: str) -> None:
        """Remove a visitor, also one that is still being installed."""
        installing = self._installing.pop(home_address, None)
        visitor = self.table.remove(home_address)
        found = [visitor, None if installing is None else installing.visitor]
        visits = [visit for visit in found if visit is not None]
        if not visits:
            return
        gone = visits[0]
        self._count[counter] += 1
        self.keepalives.leave(home_address)
        self._challenges.forget(gone)
        if not all(visit.colocated for visit in visits):
            effects.append(RemoveVisitor(home_address, gone.interface))
        effects.append(visitor_event("visitor-left", gone, why))

    def expire(self, now: Now, effects: list[Effect]) -> None:
        """End the visits whose lifetime is over; nobody is told (RFC 5944 3.7)."""
        for visitor in self.table.expired(now.boot_ns):
            self.end(visitor.home_address, effects, names.EXPIRED, "lifetime over")
