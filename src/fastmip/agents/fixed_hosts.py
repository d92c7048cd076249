"""Fixed hosts registered for good by the router they are behind (RFC 5944 4.5), sans I/O.

A host without any mobility function has a home elsewhere: whoever serves its link registers it,
with a care-of address of ours, and asks for an infinite lifetime. Packets are carried like a
visitor's; the host's traffic always goes through the reverse tunnel, because its address is not
of this place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fastmip.agents.care_of import INFINITE_LIFETIME, granted_lifetime_s, lifetime_end_ns
from fastmip.agents.conversation import Conversation, Wishes
from fastmip.agents.effects import (
    NEVER,
    Arrival,
    Effect,
    Event,
    InstallVisitor,
    Now,
    RemoveVisitor,
    Tunnel,
)
from fastmip.agents.exchange import Goal, Purpose, ReplyRefused
from fastmip.agents.mobile_counters import MobileCounters
from fastmip.auth.associations import AssociationSet
from fastmip.auth.freshness import RandomBits
from fastmip.wire.addresses import format_address
from fastmip.wire.codes import MessageType

SECOND_NS = 1_000_000_000
_REPLY_LEN = 20


class FixedHost(NamedTuple):
    """A host of a link of ours."""

    home_address: int
    home_agent: int
    care_of_address: int
    """Ours."""
    interface: str
    mac: bytes
    associations: AssociationSet
    """Shared by the host's home agent and us, in the host's place."""
    lifetime_s: int = INFINITE_LIFETIME


@dataclass(slots=True)
class _Registration:
    host: FixedHost
    talk: Conversation
    expires_ns: int = 0
    """0 while the home agent holds nothing."""
    refresh_ns: int = 0
    again_ns: int | None = 0

    @property
    def goal(self) -> Goal:
        return Goal(Purpose.REGISTER, self.host.care_of_address, "")


class FixedHosts:
    """All of them; every method returns effects to be carried out in order."""

    def __init__(self, hosts: Sequence[FixedHost], random_bits: RandomBits) -> None:
        """Raises FastmipError when an association cannot sign and verify."""
        self._counters = MobileCounters()
        self._all = {
            host.home_address: _Registration(
                host,
                Conversation(
                    host.home_address,
                    host.home_agent,
                    Wishes(host.lifetime_s, True, 4),
                    host.associations,
                    random_bits,
                    self._counters,
                    0,
                ),
            )
            for host in hosts
        }

    def claims(self, data: bytes) -> bool:
        """Whether a datagram answers a registration of ours."""
        is_reply = len(data) >= _REPLY_LEN and data[0] == MessageType.REGISTRATION_REPLY
        return is_reply and int.from_bytes(data[4:8], "big") in self._all

    def receive(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """A reply that ``claims`` said is for us."""
        one = self._all[int.from_bytes(data[4:8], "big")]
        try:
            answer = one.talk.hear(data, arrival)
        except ReplyRefused as refusal:
            self._counters.add(refusal.counter)
            return []
        effects: list[Effect] = []
        if answer.accepted:
            one.talk.accept(answer)
            lifetime_s = granted_lifetime_s(answer.exchange.lifetime_s, answer.reply.lifetime)
            began_ns = answer.exchange.lifetime_start_ns
            one.expires_ns = lifetime_end_ns(began_ns, lifetime_s)
            one.refresh_ns = NEVER
            if one.expires_ns != NEVER:
                one.refresh_ns = began_ns + lifetime_s * SECOND_NS // 2
            effects += self._carry(one)
        else:
            told, _ = one.talk.deny(answer, now)
            effects += told
        return effects + self.handle_timer(now)

    def _carry(self, one: _Registration) -> list[Effect]:
        host = one.host
        tunnel = Tunnel(one.talk.home_agent, host.care_of_address, one.expires_ns, reverse=True)
        fields = (
            ("home_address", format_address(host.home_address)),
            ("home_agent", format_address(one.talk.home_agent)),
        )
        return [
            InstallVisitor(host.home_address, host.interface, host.mac, tunnel, reverse=True),
            Event("fixed-host-registered", fields),
        ]

    def handle_timer(self, now: Now) -> list[Effect]:
        """Register, again where nothing came back or a lifetime is half over."""
        effects: list[Effect] = []
        for one in self._all.values():
            if one.expires_ns and one.expires_ns <= now.boot_ns:
                one.expires_ns = 0
                effects.append(RemoveVisitor(one.host.home_address, one.host.interface))
            is_due = not one.expires_ns or one.refresh_ns <= now.boot_ns
            datagram, one.again_ns = one.talk.speak(one.goal if is_due else None, False, now)
            if datagram is not None:
                effects.append(datagram)
        return effects

    def next_deadline(self) -> int | None:
        """When ``handle_timer`` has something to do."""
        times: list[int] = []
        for one in self._all.values():
            if one.again_ns is not None:
                times.append(one.again_ns)  # speaking already
            elif one.expires_ns:
                times.append(one.refresh_ns)
            if one.expires_ns:
                times.append(one.expires_ns)
        return min((time for time in times if time != NEVER), default=None)

    def rows(self, now: Now) -> list[dict[str, object]]:
        """One line for each, JSON-ready; lifetimes in seconds."""
        found: list[dict[str, object]] = []
        for one in self._all.values():
            left: object = max(0, one.expires_ns - now.boot_ns) // SECOND_NS
            found.append(
                {
                    "home_address": format_address(one.host.home_address),
                    "home_agent": format_address(one.talk.home_agent),
                    "care_of_address": format_address(one.host.care_of_address),
                    "interface": one.host.interface,
                    "registered": bool(one.expires_ns),
                    "remaining_s": "infinite" if one.expires_ns == NEVER else left,
                }
            )
        return found
