"""Agent advertisements (RFC 5944 2.1-2.3, RFC 1256 4), sans I/O.

On every link an agent serves, in the order of this file:
1. ``handle_timer``: a multicast advertisement at random moments between the shortest and the
   longest interval; the first three come sooner. Sequence numbers count per link from 0.
2. ``receive_solicitation``: a neighbour that says its address gets a unicast answer to its MAC;
   one without an address makes the next multicast come sooner, for all who ask meanwhile.
3. ``notify``: the unicast advertisement with sequence number 0 that tells a visitor its
   registration is gone (RFC 3543 4.1).
4. ``shut_down``: a last one with lifetime 0, so that nobody waits for us (RFC 1256 4.3).

What strangers elicit is bounded by link and by neighbour, and keeps no state of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from fastmip.agents.effects import Arrival, Effect, Now, SendIcmp
from fastmip.agents.throttle import DenialThrottle
from fastmip.errors import WireError
from fastmip.wire.addresses import is_unicast, parse_address
from fastmip.wire.discovery import (
    AGENT_B,
    AGENT_F,
    AgentAdvertisement,
    AgentSolicitation,
    MobilityAgent,
    RouterAddress,
    next_sequence,
)

ALL_HOSTS: Final = parse_address("224.0.0.1")
INITIAL_ADVERTISEMENTS: Final = 3
"""How many come sooner after the start (RFC 1256 6)."""
INITIAL_INTERVAL_S: Final = 16
"""Not later than this after each other."""
RESPONSE_DELAY_S: Final = 2.0
"""Longest delay of a multicast answer (RFC 1256 6), never more than the usual interval."""
ANSWERS_PER_SECOND: Final = 100
"""Unicast answers on one link; each neighbour gets one a second."""

SENT: Final = "maAdvertisementsSent"
ANSWERED: Final = "maAdvsSentForSolicitation"
SOLICITATIONS: Final = "maSolicitationsReceived"
MALFORMED: Final = "maSolicitationsMalformed"
SUPPRESSED: Final = "maAnswersSuppressed"
NOTIFIED: Final = "maRevocationNotices"

ADVERTISER_COUNTERS: Final[dict[str, str]] = {
    SENT: "Agent advertisements sent, answers included.",
    ANSWERED: "Agent advertisements sent because somebody asked.",
    SOLICITATIONS: "Agent solicitations received.",
    MALFORMED: "Messages received as solicitations that are none; dropped.",
    SUPPRESSED: "Solicitations not answered by the rate limits.",
    NOTIFIED: "Unicast advertisements with sequence number 0 after a revocation (RFC 3543).",
}
"""Counter -> what it counts. ``docs/counters.md`` is checked against it."""

_SECOND: Final = 1_000_000_000


class Challenges(Protocol):
    """Where the challenge of an advertisement comes from (RFC 4721)."""

    def advertise(self) -> bytes:
        """A fresh one, for a multicast advertisement."""

    def newest(self) -> bytes:
        """The one advertised last, for a multicast answer."""

    def offer(self, node: Hashable) -> bytes:
        """One this node can use, for a unicast answer."""


@dataclass(frozen=True, slots=True)
class AdvertisedLink:
    """What is advertised on one link."""

    interface: str
    address: int
    """Our address on the link: the IP source."""
    flags: int
    """AGENT_* without B, which follows from the load."""
    registration_lifetime_s: int
    """Longest registration lifetime; 0xffff is infinite."""
    care_of_addresses: tuple[int, ...] = ()
    routers: tuple[RouterAddress, ...] = ()
    prefix_lengths: tuple[int, ...] | None = None
    """One for each router; None leaves the extension out."""
    max_interval_s: float = 1.0
    min_interval_s: float = 0.75
    lifetime_s: int = 3
    """How long one advertisement holds."""
    destination: int = ALL_HOSTS
    is_periodic: bool = True
    """False: only answers to solicitations."""
    has_challenge: bool = False
    nai: bytes | None = None
    code: int = 0


class _State:
    """What changes on a link."""

    __slots__ = ("answer_ns", "due_ns", "link", "sent", "sequence")

    def __init__(self, link: AdvertisedLink, due_ns: int) -> None:
        self.link = link
        self.sequence = 0
        self.sent = 0
        self.due_ns: int | None = due_ns if link.is_periodic else None
        self.answer_ns: int | None = None
        """When a multicast answer is due that somebody without an address asked for."""


class Advertiser:
    """All advertisements of one daemon: one instance, one caller thread.

    ``random`` gives a number in [0, 1); ``is_busy`` says whether the foreign agent takes no
    more registrations; ``challenges`` gives the challenge window of an interface.
    """

    def __init__(
        self,
        links: Iterable[AdvertisedLink] = (),
        *,
        random: Callable[[], float],
        now: Now,
        is_busy: Callable[[], bool] = lambda: False,
        challenges: Callable[[str], Challenges] | None = None,
    ) -> None:
        self._random = random
        self._is_busy = is_busy
        self._challenges = challenges
        self._throttles: dict[str, DenialThrottle] = {}
        self._count = dict.fromkeys(ADVERTISER_COUNTERS, 0)
        self._states = {link.interface: _State(link, now.boot_ns) for link in links}

    # in time --------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> list[Effect]:
        """Send what is due; call it at ``next_deadline``."""
        effects: list[Effect] = []
        for state in self._states.values():
            answer = state.answer_ns is not None and state.answer_ns <= now.boot_ns
            if not answer and (state.due_ns is None or state.due_ns > now.boot_ns):
                continue
            state.answer_ns = None
            if answer:
                self._count[ANSWERED] += 1
            effects.append(self._multicast(state, is_answer=answer))
            if state.due_ns is not None:
                state.due_ns = now.boot_ns + self._interval_ns(state)
        return effects

    def _interval_ns(self, state: _State) -> int:
        """The time to the next one: random, so that agents do not fall into step."""
        link = state.link
        shortest, longest = link.min_interval_s, link.max_interval_s
        if state.sent < INITIAL_ADVERTISEMENTS:
            longest = min(longest, INITIAL_INTERVAL_S)
            shortest = min(shortest, longest)
        return int((shortest + (longest - shortest) * self._random()) * _SECOND)

    def next_deadline(self) -> int | None:
        """CLOCK_BOOTTIME nanoseconds at which ``handle_timer`` has something to do."""
        times = [
            at
            for state in self._states.values()
            for at in (state.due_ns, state.answer_ns)
            if at is not None
        ]
        return min(times, default=None)

    def _multicast(self, state: _State, *, is_answer: bool) -> SendIcmp:
        link = state.link
        challenge = None
        if link.has_challenge and self._challenges is not None:
            # An answer must not push a challenge out that somebody still holds (RFC 4721 12).
            fresh = not is_answer or not link.is_periodic
            window = self._challenges(link.interface)
            challenge = window.advertise() if fresh else window.newest()
        return self._send(state, link.destination, challenge)

    def _send(
        self, state: _State, destination: int, challenge: bytes | None, mac: bytes | None = None
    ) -> SendIcmp:
        """The next advertisement of a link; the sequence number goes on (RFC 5944 2.3.2)."""
        link = state.link
        message = self._encode(link, state.sequence, challenge, busy=self._is_busy())
        state.sequence = next_sequence(state.sequence)
        state.sent += 1
        self._count[SENT] += 1
        return SendIcmp(message, link.address, destination, link.interface, mac)

    @staticmethod
    def _encode(
        link: AdvertisedLink,
        sequence: int,
        challenge: bytes | None,
        *,
        busy: bool,
        lifetime_s: int | None = None,
    ) -> bytes:
        flags = link.flags | AGENT_B if busy and link.flags & AGENT_F else link.flags
        return AgentAdvertisement(
            link.lifetime_s if lifetime_s is None else lifetime_s,
            link.routers,
            MobilityAgent(sequence, link.registration_lifetime_s, flags, link.care_of_addresses),
            link.prefix_lengths,
            challenge,
            link.nai,
            link.code,
        ).encode()

    # asked ----------------------------------------------------------------------------------

    def receive_solicitation(self, data: bytes, arrival: Arrival, now: Now) -> list[Effect]:
        """Answer an agent solicitation, also of a node that is no neighbour by its address."""
        state = self._states.get(arrival.interface)
        if state is None:
            return []
        try:
            AgentSolicitation.decode(data)
        except WireError:
            self._count[MALFORMED] += 1
            return []
        self._count[SOLICITATIONS] += 1
        source = arrival.source.address
        if arrival.mac is None or not is_unicast(source):
            if source:
                self._count[MALFORMED] += 1
            else:
                self._hurry(state, now)
            return []
        throttle = self._throttles.setdefault(arrival.interface, DenialThrottle())
        asker = int.from_bytes(arrival.mac, "big")
        if not throttle.allow(asker, now.boot_ns, ANSWERS_PER_SECOND):
            self._count[SUPPRESSED] += 1
            return []
        self._count[ANSWERED] += 1
        challenge = self._offer(state.link, source)
        return [self._send(state, source, challenge, arrival.mac)]

    def _offer(self, link: AdvertisedLink, node: int) -> bytes | None:
        if not link.has_challenge or self._challenges is None:
            return None
        return self._challenges(link.interface).offer(node)

    def _hurry(self, state: _State, now: Now) -> None:
        """Multicast soon, once for all who ask until then (RFC 1256 4.3)."""
        if state.answer_ns is not None:
            self._count[SUPPRESSED] += 1
            return
        longest = min(RESPONSE_DELAY_S, state.link.min_interval_s)
        # Never sooner after another than half the shortest interval: the rate stays bounded.
        delay_s = longest / 2 + longest / 2 * self._random()
        at = now.boot_ns + int(delay_s * _SECOND)
        if state.due_ns is None or at < state.due_ns:
            state.answer_ns = at
        else:
            self._count[SUPPRESSED] += 1

    # told -----------------------------------------------------------------------------------

    def notify(
        self, interface: str, home_address: int, mac: bytes, *, busy: bool = False
    ) -> list[Effect]:
        """Tell a visitor that its registration is gone: sequence number 0 (RFC 3543 4.1).

        The link's own sequence goes on as if nothing had been sent.
        """
        state = self._states.get(interface)
        if state is None:
            return []
        link = state.link
        challenge = self._offer(link, home_address)
        message = self._encode(link, 0, challenge, busy=busy or self._is_busy())
        self._count[SENT] += 1
        self._count[NOTIFIED] += 1
        return [SendIcmp(message, link.address, home_address, interface, mac)]

    def shut_down(self) -> list[Effect]:
        """The last advertisement of every link: lifetime 0 (RFC 1256 4.3)."""
        effects: list[Effect] = []
        for state in self._states.values():
            effects.append(self._farewell(state))
        self._states.clear()
        return effects

    def _farewell(self, state: _State) -> SendIcmp:
        link = state.link
        message = self._encode(link, state.sequence, None, busy=self._is_busy(), lifetime_s=0)
        self._count[SENT] += 1
        return SendIcmp(message, link.address, link.destination, link.interface)

    # administration -------------------------------------------------------------------------

    def set_links(self, links: Iterable[AdvertisedLink], now: Now) -> list[Effect]:
        """Take other links or settings; a link that goes gets its last advertisement."""
        wanted = {link.interface: link for link in links}
        effects: list[Effect] = []
        for interface in [name for name in self._states if name not in wanted]:
            effects.append(self._farewell(self._states.pop(interface)))
        for interface, link in wanted.items():
            state = self._states.get(interface)
            if state is None:
                self._states[interface] = _State(link, now.boot_ns)
            elif state.link != link:
                state.link = link
                state.due_ns = now.boot_ns if link.is_periodic else None
        return effects

    def links(self) -> list[tuple[AdvertisedLink, int, int]]:
        """Every link with its next sequence number and how many were sent."""
        return [(state.link, state.sequence, state.sent) for state in self._states.values()]

    @property
    def is_busy(self) -> bool:
        """Whether B is set now."""
        return self._is_busy()

    def counters(self) -> dict[str, int]:
        """Counters of ``ADVERTISER_COUNTERS``."""
        return dict(self._count)
