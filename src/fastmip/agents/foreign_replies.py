"""Registration Replies of a foreign agent: its own denials, and those it passes on.

RFC 5944 3.7.2.3 and 3.7.3.2: from the address the request was sent to, to the home address, in
a frame to the link-layer address the request came from. A denial of our own copies the
request's fields and carries Mobile-Foreign authentication where there is an association. No
unauthenticated request elicits more bytes than it has, and no node more than a denial a second.
"""

from __future__ import annotations

from fastmip.agents import foreign_counters as names
from fastmip.agents.effects import Effect, Endpoint, Now, SendDatagram, Violation
from fastmip.agents.foreign_counters import CODE_COUNTERS
from fastmip.agents.foreign_policy import ForeignAgentPolicy
from fastmip.agents.home_counters import ViolationReason
from fastmip.agents.peaks import MinutePeaks
from fastmip.agents.throttle import Allowance, DenialThrottle
from fastmip.agents.visitors import Asker, NodeKey
from fastmip.auth.authenticators import append_authentication
from fastmip.wire.addresses import LIMITED_BROADCAST
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import MOBILE_IP_PORT, ExtensionType, ReplyCode, is_accepted
from fastmip.wire.foreign_error import ForeignAgentError
from fastmip.wire.registration import RegistrationReply


class ForeignReplies:
    """Builds replies, counts them, and keeps to the rate limits."""

    __slots__ = ("_count", "_denials", "_peaks", "_reports", "policy")

    def __init__(
        self, policy: ForeignAgentPolicy, count: dict[str, int], peaks: MinutePeaks
    ) -> None:
        self.policy = policy
        self._count = count
        self._peaks = peaks
        self._denials = DenialThrottle()
        self._reports = Allowance()

    def deny(
        self, asker: Asker, code: int, now: Now, effects: list[Effect], challenge: bytes | None
    ) -> None:
        """Add a denial of our own, as far as the limits allow."""
        self._note(code, now)
        if not self._may_deny(asker.key, now):
            return
        is_lifetime = code == ReplyCode.FA_LIFETIME_TOO_LONG
        message = RegistrationReply(
            code,
            self.policy.max_lifetime_s if is_lifetime else asker.lifetime,
            asker.key.home_address,
            asker.home_agent,
            asker.identification,
        ).encode()
        data = self._fitting(message, asker, challenge, is_vouched=False)
        if data is None:
            self._count[names.DENIALS_SUPPRESSED] += 1
            return
        self._count[names.DENIALS_SENT] += 1
        effects.append(self.to_node(data, asker, asker.key.home_address))

    def pass_on(
        self,
        authorized: bytes,
        asker: Asker,
        reply: RegistrationReply,
        now: Now,
        effects: list[Effect],
        *,
        status: int | None = None,
        challenge: bytes | None = None,
        is_proven: bool = False,
    ) -> None:
        """Add a home agent's reply: what the home agent signed, then what we have to say.

        Acceptance vouches for the request, and so does a home agent that proves itself to us
        (``is_proven``); else nobody does but the node's own proof.
        """
        message = authorized
        if status is not None:
            self._count[names.ERRORS_ADDED] += 1
            self._note(status, now)
            message += ForeignAgentError(status).build()
        is_vouched = is_proven or is_accepted(reply.code)
        is_vouched = is_vouched and status != ReplyCode.FA_HOME_AGENT_AUTHENTICATION
        data = self._fitting(message, asker, challenge, is_vouched=is_vouched)
        if data is None:
            self._count[names.REPLIES_WITHHELD] += 1
            return
        self._count[names.REPLIES_RELAYED] += 1
        effects.append(self.to_node(data, asker, asker.key.home_address or reply.home_address))

    def _fitting(
        self, message: bytes, asker: Asker, challenge: bytes | None, *, is_vouched: bool
    ) -> bytes | None:
        """The whole message, without the challenge if need be; None: larger than its request."""
        data = self._complete(message, asker, challenge)
        if is_vouched or asker.proven_spi is not None or len(data) <= asker.size:
            return data
        data = self._complete(message, asker, None)
        return data if len(data) <= asker.size else None

    @staticmethod
    def _complete(message: bytes, asker: Asker, challenge: bytes | None) -> bytes:
        """Add a fresh challenge (RFC 4721 3.3) and our authentication, in this order."""
        if challenge is not None:
            message += MobileForeignChallenge(challenge).build()
        if asker.associations is not None:
            association = asker.associations.outbound(asker.proven_spi)
            if association is not None:
                kind = ExtensionType.MOBILE_FOREIGN_AUTHENTICATION
                message = append_authentication(message, kind, association)
        return message

    @staticmethod
    def to_node(data: bytes, asker: Asker, home_address: int) -> SendDatagram:
        """A datagram to a node on one of our links (RFC 5944 3.7.2.3)."""
        return SendDatagram(
            data,
            Endpoint(asker.destination, MOBILE_IP_PORT),
            Endpoint(home_address or LIMITED_BROADCAST, asker.source.port),
            asker.key.interface,
            asker.key.mac,
        )

    def _note(self, code: int, now: Now) -> None:
        self._count[CODE_COUNTERS[code]] += 1
        self._peaks.note(CODE_COUNTERS[code], now)

    def _may_deny(self, key: NodeKey, now: Now) -> bool:
        node = int.from_bytes(key.mac, "big")
        if self._denials.allow(node, now.boot_ns, self.policy.denials_per_second):
            return True
        self._count[names.DENIALS_SUPPRESSED] += 1
        return False

    def report(
        self,
        asker: Asker,
        peer: int,
        spi: int,
        reason: ViolationReason,
        now: Now,
        effects: list[Effect],
    ) -> None:
        """Add a security violation to the effects, within the limit."""
        if self._reports.spend(now.boot_ns, self.policy.reports_per_second):
            home_address = asker.key.home_address
            effects.append(Violation(home_address, peer, spi, asker.identification, reason.text))
        else:
            self._count[names.VIOLATIONS_SUPPRESSED] += 1
