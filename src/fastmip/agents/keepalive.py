"""Keeping a UDP tunnel's way through an address translator open (RFC 3519 4.9, 4.10).

When nothing was sent to the home agent for a while, an ICMP echo request to it goes through
the tunnel. The answer, like anything else that arrives, proves that the way is open. Without
one after some tries the translator forgot us: the node registers again, which makes a new
entry, and asks sooner from then on. All of that until the next move.
"""

from __future__ import annotations

import struct

from fastmip.agents.care_of import CareOfBinding
from fastmip.agents.effects import Endpoint, SendDatagram
from fastmip.wire.codes import MOBILE_IP_PORT
from fastmip.wire.discovery import internet_checksum
from fastmip.wire.tunneling import TunnelData

SECOND_NS = 1_000_000_000

DEFAULT_S = 110
"""RFC 3519 4.9: the default interval."""
LEAST_S = 10
"""RFC 3519 4.9: no shorter interval."""
TRIES = 3
"""Ours: unanswered keepalives after which the way counts as closed."""
ANSWER_NS = 2 * SECOND_NS
"""Ours: how long an answer is waited for."""
LOOKS = 4
"""Ours: how often during an interval somebody looks whether the tunnel was used."""
_ECHO_REQUEST, _ICMP, _TTL = 8, 1, 64
_DONT_FRAGMENT = 0x4000
"""Ours: without it a tunnel of minimal encapsulation in UDP would carry it as IP in IP."""
_IPV4 = struct.Struct("!BBHHHBBHII")
_ECHO = struct.Struct("!BBHHH")


class Keepalive:
    """The keepalive of one UDP tunnel at a time."""

    def __init__(self, interval_s: int = DEFAULT_S) -> None:
        self._usual_ns = interval_s * SECOND_NS
        self._interval_ns = self._usual_ns
        self._due_ns: int | None = None
        self._used_ns = 0
        self._seen = (0, 0)
        self._tries = 0
        self._halved = False
        self._sequence = 0

    def begin(self, suggested_s: int, now_ns: int, *, at_once: bool) -> None:
        """A registration with a UDP tunnel was accepted.

        ``at_once``: the home agent learns where we are from the first keepalive (4.11).
        """
        if not self._halved:
            self._interval_ns = max(suggested_s, LEAST_S) * SECOND_NS
            if not suggested_s:
                self._interval_ns = self._usual_ns
        self._used_ns, self._tries = now_ns, 0
        if at_once:
            self._used_ns = now_ns - self._interval_ns
        self._due_ns = now_ns if at_once else now_ns + self._look_ns

    def end(self) -> None:
        """There is no such tunnel any more."""
        self._due_ns = None

    def moved(self) -> None:
        """On another link the usual interval holds again (4.10)."""
        self._halved = False
        self._interval_ns = self._usual_ns

    @property
    def _look_ns(self) -> int:
        return self._interval_ns // LOOKS

    @property
    def interval_s(self) -> int:
        """The interval in force, 0 without a tunnel."""
        return 0 if self._due_ns is None else self._interval_ns // SECOND_NS

    def next_deadline(self) -> int | None:
        """When ``look`` has something to do; tell ``saw`` what the tunnel carried before."""
        return self._due_ns

    def saw(self, sent: int, received: int, now_ns: int) -> None:
        """Packets the tunnel carried so far, either way."""
        before_sent, before_received = self._seen
        self._seen = (sent, received)
        if sent != before_sent:
            self._used_ns = now_ns
        if received != before_received and self._tries:
            self._tries = 0
            self._used_ns = now_ns
            self._due_ns = now_ns + self._look_ns if self._due_ns is not None else None

    def look(self, now_ns: int) -> tuple[bool, bool]:
        """Whether to send a keepalive now, and whether the way is closed."""
        if self._due_ns is None or now_ns < self._due_ns:
            return False, False
        if self._tries >= TRIES:
            self._tries = 0
            self._halved = True
            self._interval_ns = max(self._interval_ns // 2, LEAST_S * SECOND_NS)
            self._used_ns, self._due_ns = now_ns, now_ns + self._look_ns
            return False, True
        if not self._tries and now_ns - self._used_ns < self._interval_ns:
            self._due_ns = min(now_ns + self._look_ns, self._used_ns + self._interval_ns)
            return False, False
        self._tries += 1
        self._due_ns = now_ns + ANSWER_NS
        return True, False

    def pursue(
        self, binding: CareOfBinding, home_address: int, now_ns: int
    ) -> tuple[SendDatagram | None, bool]:
        """The keepalive that is due, if any, and whether the way is closed."""
        ask, closed = self.look(now_ns)
        if not ask:
            return None, closed
        return self.datagram(home_address, binding), False

    def datagram(self, home_address: int, binding: CareOfBinding) -> SendDatagram:
        """The echo request as the tunnel carries packets, from the port of requests (4.9)."""
        home_agent = binding.home_agent
        self._sequence = (self._sequence + 1) & 0xFFFF
        echo = _ECHO.pack(_ECHO_REQUEST, 0, 0, _ICMP_ID, self._sequence)
        echo = _ECHO.pack(_ECHO_REQUEST, 0, internet_checksum(echo), _ICMP_ID, self._sequence)
        fields = (0x45, 0, _IPV4.size + len(echo), self._sequence, _DONT_FRAGMENT, _TTL, _ICMP)
        header = _IPV4.pack(*fields, 0, home_address, home_agent)
        header = _IPV4.pack(*fields, internet_checksum(header), home_address, home_agent)
        return SendDatagram(
            TunnelData.wrap(binding.encapsulation, header + echo),
            source=Endpoint(binding.care_of_address, 0),
            destination=Endpoint(home_agent, MOBILE_IP_PORT),
            interface=binding.interface,
        )


_ICMP_ID = 0x4D4E
"""Identifier of our echo requests."""
