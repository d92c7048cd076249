"""What a foreign agent makes of a home agent's reply: pure judgements, no state.

1. ``match``: the pending request it answers (RFC 5944 3.7.3.1).
2. ``proven``: what the home agent says to us behind its signature, if that is right.
3. ``fault``: why a proven reply is not honoured (RFC 2794, 3115, 3543, 4721), as a code of our
   own or as a status beside the home agent's (RFC 4636, C-04).
4. ``visitor_of``: the entry an accepted reply asks for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from fastmip.agents import foreign_counters as names
from fastmip.agents.effects import NEVER, Arrival, Endpoint, Now, Tunnel
from fastmip.agents.foreign_policy import ForeignAgentPolicy
from fastmip.agents.home_counters import ViolationReason
from fastmip.agents.hosts import INFINITE_LIFETIME
from fastmip.agents.revocation import timestamp
from fastmip.agents.visitors import Pending, PendingTable, Visitor
from fastmip.auth.authenticators import verify_authentication
from fastmip.wire.addresses import is_loopback, is_unicast
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import (
    FLAG_REVERSE_TUNNEL,
    MOBILE_IP_PORT,
    ExtensionType,
    MessageType,
    ReplyCode,
    is_accepted,
)
from fastmip.wire.extensions import Extension
from fastmip.wire.nai import MobileNodeNai
from fastmip.wire.registration import REQUEST_LEN, RegistrationReply
from fastmip.wire.revocation import RevocationSupport
from fastmip.wire.tunneling import UdpTunnelReply

_Kind = TypeVar("_Kind", bound=Extension)
_SECOND = 1_000_000_000
_UNREACHABLE, _TIME_EXCEEDED = 3, 11
_FRAGMENTATION_NEEDED = 4
_REPORT_CODES = {
    0: ReplyCode.FA_HOME_NETWORK_UNREACHABLE,
    1: ReplyCode.FA_HOME_AGENT_HOST_UNREACHABLE,
    3: ReplyCode.FA_HOME_AGENT_PORT_UNREACHABLE,
}


def first(extensions: Iterable[Extension], kind: type[_Kind]) -> _Kind | None:
    return next((found for found in extensions if isinstance(found, kind)), None)


def match(
    table: PendingTable, reply: RegistrationReply, arrival: Arrival, now: Now
) -> Pending | str:
    """The pending request a reply answers, or the counter of why there is none."""
    matching = [
        pending
        for pending in table.numbered(reply.identification & 0xFFFFFFFF)
        if pending.request.home_address in (0, reply.home_address)
        and pending.care_of_address == arrival.destination.address
        and pending.expires_ns > now.boot_ns
    ]
    if not matching:
        return names.UNMATCHED
    # An unknown home agent may have been asked by broadcast (RFC 5944 3.6.1.2).
    if reply.code != ReplyCode.HA_UNKNOWN_HOME_AGENT:
        asked = arrival.source.address
        matching = [pending for pending in matching if pending.request.home_agent == asked]
        if not matching:
            return names.WRONG_SOURCE
    nai = first(reply.extensions, MobileNodeNai)
    if nai is not None:
        named = [pending for pending in matching if pending.key.nai in (None, nai.nai)]
        matching = named or matching
    return matching[0]


@dataclass(frozen=True, slots=True)
class Unproven:
    """Foreign-Home authentication that is missing or wrong."""

    spi: int
    reason: ViolationReason


def proven(
    data: bytes, reply: RegistrationReply, pending: Pending, end: int
) -> tuple[Extension, ...] | Unproven:
    """The extensions meant for us, or the SPI and the reason why they are not to be trusted."""
    trailing = tuple([e for e in reply.extensions if e.offset >= end])
    shared = pending.home_associations
    if shared is None:
        return trailing
    found = reply.authentications(ExtensionType.FOREIGN_HOME_AUTHENTICATION)
    if len(found) != 1:
        return Unproven(0, ViolationReason.MISSING_SECURITY_EXTENSION)
    association = shared.inbound(found[0].spi)
    if association is None:
        return Unproven(found[0].spi, ViolationReason.BAD_SPI)
    if not verify_authentication(data, found[0], association):
        return Unproven(found[0].spi, ViolationReason.BAD_AUTHENTICATOR)
    return tuple([e for e in trailing if e.offset < found[0].offset])


def fault(
    reply: RegistrationReply,
    trailing: tuple[Extension, ...],
    pending: Pending,
    policy: ForeignAgentPolicy,
    standing: Visitor | None,
    *,
    is_full: bool,
) -> tuple[int | None, int | None]:
    """Why a proven reply is not honoured: a code of our own, or a status to add (C-04)."""
    if reply.malformed:
        return None, ReplyCode.FA_POORLY_FORMED_REPLY
    if policy.vendors.unknown_critical(trailing):
        return ReplyCode.FA_CRITICAL_VENDOR_FROM_HOME_AGENT, None
    sent = first(pending.request.extensions, MobileForeignChallenge)
    echoed = first(trailing, MobileForeignChallenge)
    if sent is not None and echoed is not None and sent.challenge != echoed.challenge:
        return None, ReplyCode.FA_HOME_AGENT_WRONG_CHALLENGE
    if not is_accepted(reply.code):
        return None, None
    nai = first(reply.extensions, MobileNodeNai)
    if pending.key.nai is not None and (nai is None or nai.nai != pending.key.nai):
        return ReplyCode.FA_MISSING_NAI, None
    if not reply.home_agent:
        return ReplyCode.FA_MISSING_HOME_AGENT, None
    if not reply.home_address:
        return ReplyCode.FA_MISSING_HOME_ADDRESS, None
    if not is_believable(reply, pending, policy):
        return None, ReplyCode.FA_POORLY_FORMED_REPLY
    if not reply.lifetime or not pending.request.lifetime:
        return None, None
    return None, _unwelcome(reply, trailing, pending, policy, standing, is_full=is_full)


def _unwelcome(
    reply: RegistrationReply,
    trailing: tuple[Extension, ...],
    pending: Pending,
    policy: ForeignAgentPolicy,
    standing: Visitor | None,
    *,
    is_full: bool,
) -> int | None:
    """Why a visitor is not taken in, as a status."""
    if policy.requires_revocation and not _is_revocable(trailing, pending):
        return ReplyCode.FA_PROHIBITED
    if not pending.colocated and policy.is_local_host(reply.home_address, reply.home_agent):
        return ReplyCode.FA_PROHIBITED
    if standing is None:
        return ReplyCode.FA_INSUFFICIENT_RESOURCES if is_full else None
    if standing.home_agent == reply.home_agent or _is_known_as(standing, pending):
        return None
    # It proved itself just now, and nobody did for the visitor.
    if pending.home_associations is not None and policy.trusts_more(
        reply.home_agent, standing.home_agent
    ):
        return None
    return ReplyCode.FA_INSUFFICIENT_RESOURCES


def _is_known_as(standing: Visitor, pending: Pending) -> bool:
    """Whether a node proved to us that it is the one that is here.

    Whom another home agent vouches for is another node, whatever its link-layer address; until
    the visit ends, or this proof, its home address is taken.
    """
    holder = pending.asker.holder
    if pending.asker.proven_spi is None:
        return False
    if holder.nai is not None:
        return holder.nai == standing.nai
    return holder.home_address == standing.home_address


def _is_revocable(trailing: tuple[Extension, ...], pending: Pending) -> bool:
    """Whether both sides offered revocation; without our own proof theirs is anybody's word."""
    return pending.offers_revocation and first(trailing, RevocationSupport) is not None


def is_believable(reply: RegistrationReply, pending: Pending, policy: ForeignAgentPolicy) -> bool:
    """Whether a home agent speaks for itself (RFC 5944 3.8.3.2), of an address that can be one.

    Whoever answers could else name another home agent, and take over that one's visitors.
    """
    address = reply.home_address
    return (
        reply.home_agent == pending.request.home_agent
        and is_unicast(address)
        and not is_loopback(address)
        and address not in policy.own
    )


def visitor_of(
    reply: RegistrationReply,
    trailing: tuple[Extension, ...],
    pending: Pending,
    policy: ForeignAgentPolicy,
    arrival: Arrival,
    now: Now,
) -> Visitor:
    """The entry an accepted reply asks for."""
    lifetime = min(reply.lifetime, pending.request.lifetime, policy.max_lifetime_s)
    udp = first(trailing, UdpTunnelReply)
    is_udp = pending.wants_udp and udp is not None and udp.is_accepted
    tunnel = Tunnel(
        arrival.source.address if is_udp else reply.home_agent,
        pending.care_of_address,
        NEVER if lifetime == INFINITE_LIFETIME else now.boot_ns + lifetime * _SECOND,
        pending.encapsulation,
        reverse=pending.request.flags & FLAG_REVERSE_TUNNEL != 0,
        remote_port=arrival.source.port if is_udp else 0,
        local_port=MOBILE_IP_PORT if is_udp else 0,
        nested=pending.encapsulating,
    )
    visitor = Visitor(pending, reply.home_address, reply.home_agent, tunnel, lifetime)
    visitor.accepted_ns = now.boot_ns
    support = first(trailing, RevocationSupport)
    if support is not None and _is_revocable(trailing, pending):
        visitor.revocable = True
        visitor.inform = support.inform and policy.has_inform
        visitor.home_agent_clock = support.timestamp
        visitor.own_clock = timestamp(now)
    return visitor


def quoted_in(table: PendingTable, quoted: bytes, destination: Endpoint) -> Pending | None:
    """The pending request whose beginning an ICMP error quotes.

    Less than the fixed part proves nothing: only who saw the request knows its Identification.
    """
    if len(quoted) < REQUEST_LEN or quoted[0] != MessageType.REGISTRATION_REQUEST:
        return None
    identification = int.from_bytes(quoted[16:24], "big")
    home_address = int.from_bytes(quoted[4:8], "big")
    for pending in table.numbered(identification & 0xFFFFFFFF):
        request = pending.request
        if (
            request.identification == identification
            and request.home_address == home_address
            and request.home_agent == destination.address
        ):
            return pending
    return None


def report_code(icmp_type: int, code: int) -> int | None:
    """The denial an ICMP error asks for (RFC 5944 3.7.3); None: the request may still arrive."""
    if icmp_type == _UNREACHABLE:
        if code == _FRAGMENTATION_NEEDED:
            return None
        return _REPORT_CODES.get(code, ReplyCode.FA_HOME_AGENT_UNREACHABLE)
    return ReplyCode.FA_HOME_AGENT_UNREACHABLE if icmp_type == _TIME_EXCEEDED else None
