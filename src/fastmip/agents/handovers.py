"""The record of a mobile node's moves: what changed, and how long each step took."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from fastmip.agents.attachment import Attachment
from fastmip.wire.addresses import format_address

HANDOVERS_KEPT = 32
"""Ours: completed handovers shown by ``status``."""


@dataclass(slots=True)
class Handover:
    """A change of attachment; times are CLOCK_BOOTTIME nanoseconds, 0 while unknown."""

    kind: str
    """``start``, ``break-before-make``, ``make-before-break`` or ``return-home``."""
    from_interface: str
    from_address: int
    to_interface: str
    to_address: int
    link_lost_ns: int
    """When the link before stopped being usable; 0 if it still was."""
    link_up_ns: int
    """When the new attachment appeared."""
    agent: int = 0
    """Foreign agent registered through, 0 for none."""
    agent_heard_ns: int = 0
    """When that agent was heard first."""
    request_ns: int = 0
    """First transmission of the request."""
    reply_ns: int = 0
    """Arrival of the accepting reply."""

    def fields(self) -> dict[str, str | int]:
        """Flat and JSON-ready; addresses as text, empty where there was none."""
        return {
            "kind": self.kind,
            "from_interface": self.from_interface,
            "from_address": format_address(self.from_address) if self.from_address else "",
            "to_interface": self.to_interface,
            "to_address": format_address(self.to_address),
            "agent": format_address(self.agent) if self.agent else "",
            "link_lost_ns": self.link_lost_ns,
            "link_up_ns": self.link_up_ns,
            "agent_heard_ns": self.agent_heard_ns,
            "request_ns": self.request_ns,
            "reply_ns": self.reply_ns,
        }


class HandoverLog:
    """The handover under way and those before it."""

    def __init__(self) -> None:
        self._current: Handover | None = None
        self._done: deque[Handover] = deque(maxlen=HANDOVERS_KEPT)

    def begin(
        self,
        chosen: Attachment,
        before: Attachment | None,
        *,
        lost_ns: int,
        up_ns: int,
        heard_ns: int,
    ) -> None:
        """The node goes from one attachment to another."""
        kind = "break-before-make" if lost_ns else "make-before-break"
        if before is None:
            kind = "start"
        self._current = Handover(
            "return-home" if chosen.at_home and before else kind,
            before.interface if before else "",
            before.care_of_address if before else 0,
            chosen.interface,
            chosen.care_of_address,
            link_lost_ns=lost_ns,
            link_up_ns=up_ns,
            agent=chosen.agent,
            agent_heard_ns=heard_ns,
        )

    def give_up(self) -> None:
        """The new link is gone before anything was agreed."""
        self._current = None

    def asked(self, now_ns: int) -> None:
        """A request was sent."""
        if self._current is not None and not self._current.request_ns:
            self._current.request_ns = now_ns

    def agreed(self, care_of_address: int, now_ns: int) -> Handover | None:
        """A request for this address was accepted; the handover that completes, if any."""
        handover = self._current
        if handover is None or handover.to_address != care_of_address:
            return None
        handover.reply_ns = now_ns
        self._current = None
        self._done.append(handover)
        return handover

    def rows(self) -> list[dict[str, str | int]]:
        """Completed handovers, the latest last."""
        return [handover.fields() for handover in self._done]
