"""Security violations by the peer that caused them: RFC 2006's mipSecViolationTable.

Bounded: whoever invents addresses makes the table forget the peers that were quiet longest.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

from structlog.typing import FilteringBoundLogger

from fastmip.agents.effects import Now, Violation
from fastmip.wire.addresses import format_address

VIOLATORS = 1024
"""Peers remembered."""


@dataclasses.dataclass(slots=True)
class ViolationRow:
    """A row of the table."""

    count: int
    wall_ns: int
    latest: Violation


class ViolationTable:
    """The violations of one role, latest peer last."""

    __slots__ = ("_log", "noted", "rows")

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self.rows: OrderedDict[int, ViolationRow] = OrderedDict()
        self.noted = 0
        """All of them, also of peers the table has forgotten."""

    def note(self, violation: Violation, now: Now) -> None:
        """Count a violation and write it to the log."""
        row = self.rows.pop(violation.peer, None)
        count = 1 if row is None else row.count + 1
        self.noted += 1
        self.rows[violation.peer] = ViolationRow(count, now.wall_ns, violation)
        if len(self.rows) > VIOLATORS:
            self.rows.popitem(last=False)
        self._log.warning(
            "security-violation",
            home_address=format_address(violation.home_address),
            peer=format_address(violation.peer),
            spi=violation.spi,
            identification=f"{violation.identification:016x}",
            reason=violation.reason,
        )
