"""How a foreign agent sends a request on (RFC 5944 3.7.2.2).

What the mobile node signed for its home agent stays as it is, byte for byte; what stands behind
is ours and goes. Then, in this order, what we have to say: revocation support (RFC 3543 3.2), a
UDP tunnel request (RFC 3519 4.5), Foreign-Home authentication.
"""

from __future__ import annotations

from fastmip.agents.effects import Endpoint, Now, SendDatagram
from fastmip.agents.foreign_policy import ForeignAgentPolicy, ForeignCase, Nat
from fastmip.agents.revocation import timestamp
from fastmip.agents.visitors import PENDING_TIMEOUT_NS, Asker, Pending
from fastmip.auth.authenticators import append_authentication
from fastmip.wire.addresses import LIMITED_BROADCAST, is_multicast
from fastmip.wire.codes import MOBILE_IP_PORT, ExtensionType
from fastmip.wire.revocation import RevocationSupport
from fastmip.wire.tunneling import FORCED, UdpTunnelRequest

MAX_REQUEST_LEN = 4096
"""Our own limit: what is pending must not grow with what strangers send."""
_SECOND = 1_000_000_000


def asker_of(case: ForeignCase) -> Asker:
    """What answers to a request copy; they never come from a group address (3.7.2.3)."""
    destination = case.arrival.destination.address
    if is_multicast(destination) or destination == LIMITED_BROADCAST:
        destination = case.link.address
    request = case.request
    return Asker(
        case.key,
        source=case.arrival.source,
        destination=destination,
        home_agent=int.from_bytes(case.data[8:12]),  # as it came (RFC 4433 names none)
        identification=request.identification,
        lifetime=request.lifetime,
        size=len(case.data),
        holder=case.holder,
        associations=case.associations,
        proven_spi=None if case.proof is None else case.proof.spi,
    )


def relay(
    case: ForeignCase, asker: Asker, policy: ForeignAgentPolicy, now: Now
) -> tuple[Pending, SendDatagram]:
    """The record of a request on its way, and the message."""
    request = case.request
    offered = case.link.care_of_addresses
    is_ours = not case.is_colocated and request.care_of_address in offered
    care_of_address = request.care_of_address if is_ours else offered[0]
    # Not on a deregistration, nor for an address that is not ours (RFC 5944 3.5.4).
    is_signable = is_ours and request.lifetime != 0
    shared = policy.home_agent_associations(request.home_agent) if is_signable else None
    signing = None if shared is None else shared.outbound()
    patience_ns = request.lifetime * _SECOND or PENDING_TIMEOUT_NS
    pending = Pending(
        asker,
        request,
        care_of_address=care_of_address,
        expires_ns=now.boot_ns + min(PENDING_TIMEOUT_NS, patience_ns),
        encapsulation=case.encapsulation,
        encapsulating=case.wants_encapsulating,
        colocated=case.is_colocated,
        home_associations=shared,
        offers_revocation=policy.has_revocation and signing is not None,
        wants_udp=policy.wants_udp and is_signable,
    )
    message = case.data[: case.end]
    if pending.offers_revocation:
        message += RevocationSupport(policy.has_inform, timestamp(now)).build()
    if pending.wants_udp:
        message += UdpTunnelRequest(FORCED if policy.nat is Nat.FORCED else 0).build()
    if signing is not None:
        message = append_authentication(message, ExtensionType.FOREIGN_HOME_AUTHENTICATION, signing)
    source = Endpoint(care_of_address, MOBILE_IP_PORT)
    return pending, SendDatagram(message, source, Endpoint(request.home_agent, MOBILE_IP_PORT))
