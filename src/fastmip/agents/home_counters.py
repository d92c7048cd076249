"""Counters of the home agent: RFC 2006 names for requests and replies, ours for drops.

Every name has its sentence in ``HOME_COUNTERS``, the one list; a counter that is not there
does not exist.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from fastmip.agents.revocation import counters as revocation_counters
from fastmip.wire.codes import ReplyCode

REQUESTS: Final = "haRegRequestsReceived"
DEREGISTRATIONS: Final = "haDeRegRequestsReceived"
REPLIES: Final = "haRegRepliesSent"
DEREGISTRATION_REPLIES: Final = "haDeRegRepliesSent"
GRATUITOUS_ARPS: Final = "haGratuitiousARPsSent"  # the spelling is RFC 2006's

UNEXPECTED_TYPE: Final = "haUnexpectedMessageType"
MALFORMED: Final = "haMalformedMessage"
UNKNOWN_EXTENSION: Final = "haUnknownExtension"
BAD_SOURCE: Final = "haBadSourceAddress"
MISSING_AUTHENTICATION: Final = "haMissingAuthentication"
REPEATED_AUTHENTICATION: Final = "haRepeatedAuthentication"
UNKNOWN_HOME_ADDRESS: Final = "haUnknownHomeAddress"
UNKNOWN_SPI: Final = "haUnknownSPI"
BAD_AUTHENTICATOR: Final = "haBadAuthenticator"
NO_REPLY_ASSOCIATION: Final = "haNoReplyAssociation"
UNEXPECTED_FOREIGN_HOME: Final = "haUnexpectedForeignHomeAuthentication"
HELD_DUPLICATE: Final = "haRetransmissionsInWork"
HELD_REPLACED: Final = "haHeldRequestsReplaced"
DUPLICATES: Final = "haDuplicateRequests"
REPLIES_SUPPRESSED: Final = "haRepliesSuppressed"
VIOLATIONS_SUPPRESSED: Final = "haViolationsSuppressed"
COMMITS_FAILED: Final = "haCommitsFailed"
UNREADABLE: Final = "haRowsUnreadable"
EXPIRED: Final = "haBindingsExpired"
EXPERIMENTAL: Final = "haExperimentalMessages"
REVOCATIONS_HELD: Final = "haRevocationsHeld"
UDP_TUNNELS: Final = "haUdpTunnelsGranted"
KEEPALIVES: Final = "haFirstKeepalives"
KEEPALIVES_REFUSED: Final = "haFirstKeepalivesRefused"
ADDRESSES_ASSIGNED: Final = "haHomeAddressesAssigned"
ADDRESSES_EXHAUSTED: Final = "haHomeAddressesExhausted"
ADDRESSES_TAKEN_BACK: Final = "haHomeAddressesTakenBack"
NETWORKS_GRANTED: Final = "haNetworksGranted"
NETWORKS_INVALID: Final = "haNetworksInvalid"
NETWORKS_UNAUTHORIZED: Final = "haNetworksUnauthorized"
NETWORKS_FAILED: Final = "haNetworksForwardingFailed"
NETWORKS_UNASSIGNED: Final = "haNetworksUnassigned"
NETWORKS: Final = "haMobileNetworks"
NETWORKS_REMEMBERED: Final = "haMobileNetworksRemembered"
UNNAMED_HOME_AGENT: Final = "haUnnamedHomeAgent"
REDIRECTED: Final = "haRedirected"
BINDINGS: Final = "haBindings"
CACHED_NODES: Final = "haCachedNodes"

CODE_COUNTERS: Final[dict[int, str]] = {
    ReplyCode.ACCEPTED: "haRegistrationAccepted",
    ReplyCode.ACCEPTED_NO_SIMULTANEOUS: "haMultiBindingUnsupported",
    ReplyCode.HA_UNSPECIFIED: "haReasonUnspecified",
    ReplyCode.HA_PROHIBITED: "haAdmProhibited",
    ReplyCode.HA_INSUFFICIENT_RESOURCES: "haInsufficientResource",
    ReplyCode.HA_MOBILE_NODE_AUTHENTICATION: "haMNAuthenticationFailure",
    ReplyCode.HA_FOREIGN_AGENT_AUTHENTICATION: "haFAAuthenticationFailure",
    ReplyCode.HA_IDENTIFICATION_MISMATCH: "haIDMismatch",
    ReplyCode.HA_POORLY_FORMED_REQUEST: "haPoorlyFormedRequest",
    ReplyCode.HA_TOO_MANY_BINDINGS: "haTooManyBindings",
    ReplyCode.HA_UNKNOWN_HOME_AGENT: "haUnknownHA",
    ReplyCode.HA_REVERSE_TUNNEL_UNAVAILABLE: "cmiHaReverseTunnelUnavailable",
    ReplyCode.HA_REVERSE_TUNNEL_MANDATORY: "cmiHaReverseTunnelBitNotSet",
    ReplyCode.HA_ENCAPSULATION_UNAVAILABLE: "cmiHaEncapsulationUnavailable",
    ReplyCode.HA_CRITICAL_VENDOR_FROM_MOBILE_NODE: "haUnknownCriticalVendorFromMN",
    ReplyCode.HA_CRITICAL_VENDOR_FROM_FOREIGN_AGENT: "haUnknownCriticalVendorFromFA",
    ReplyCode.HA_UDP_ENCAPSULATION_UNAVAILABLE: "haUdpEncapsulationUnavailable",
    ReplyCode.HA_REDIRECT: REDIRECTED,
    ReplyCode.HA_BAD_AAA_AUTHENTICATION: "haAAAAuthenticationFailure",
    ReplyCode.HA_MOBILE_NETWORK_ERROR: "haMobileNetworkError",
    ReplyCode.HA_MOBILE_NETWORK_DISALLOWED: "haMobileNetworkDisallowed",
}
"""Reply code -> counter: RFC 2006 where it has one, CISCO-MOBILE-IP-MIB for RFC 3024's codes.

A request counts by its verdict even when the denial itself is suppressed by a rate limit."""

HOME_COUNTERS: Final[dict[str, str]] = {
    REQUESTS: "Registration Requests received.",
    DEREGISTRATIONS: "Registration Requests received with lifetime 0.",
    "haRegistrationAccepted": "Requests accepted with code 0.",
    "haMultiBindingUnsupported": "Requests accepted with code 1: no simultaneous bindings here.",
    "haReasonUnspecified": "Requests denied with code 128.",
    "haAdmProhibited": "Requests denied with code 129: address or policy forbids it.",
    "haInsufficientResource": "Requests denied with code 130: a limit, the engine or the store.",
    "haMNAuthenticationFailure": "Requests with a wrong Mobile-Home authenticator, answered 131.",
    "haFAAuthenticationFailure": "Requests denied with code 132: foreign agent not authentic.",
    "haIDMismatch": "Requests denied with code 133: replayed, delayed, or clocks differ.",
    "haPoorlyFormedRequest": "Authentic requests denied with code 134.",
    "haTooManyBindings": "Requests denied with code 135: simultaneous bindings exhausted.",
    "haUnknownHA": "Requests denied with code 136: broadcast, or another home agent named.",
    "cmiHaReverseTunnelUnavailable": "Requests denied with code 137 (RFC 3024).",
    "cmiHaReverseTunnelBitNotSet": "Requests denied with code 138 (RFC 3024).",
    "cmiHaEncapsulationUnavailable": "Requests denied with code 139 (RFC 3024).",
    "haUnknownCriticalVendorFromMN": "Requests denied with code 140 (RFC 3115).",
    "haUnknownCriticalVendorFromFA": "Requests denied with code 141 (RFC 3115).",
    "haUdpEncapsulationUnavailable": "Requests denied with code 142 (RFC 3519).",
    REDIRECTED: "Requests denied with code 143: another home agent shall serve them (RFC 4433).",
    UNNAMED_HOME_AGENT: "Requests that take any home agent: field 0.0.0.0 or all ones.",
    "haAAAAuthenticationFailure": "Requests with a wrong Mobile-AAA authenticator, code 144.",
    "haMobileNetworkError": "Requests denied with code 147: no mobile network granted (RFC 5177).",
    "haMobileNetworkDisallowed": "Requests denied with code 148: no mobile router (RFC 5177).",
    ADDRESSES_ASSIGNED: "Requests without a home address that got the one of their NAI (RFC 2794).",
    ADDRESSES_EXHAUSTED: "Requests denied with 130: no address of a pool is free for their node.",
    ADDRESSES_TAKEN_BACK: "Addresses of pools that went from one node to another.",
    NETWORKS_GRANTED: "Mobile networks acknowledged with code 0 (RFC 5177).",
    NETWORKS_INVALID: "Mobile networks answered 1: length 0 or above 32, or no pools.",
    NETWORKS_UNAUTHORIZED: "Mobile networks answered 2: not configured for their router.",
    NETWORKS_FAILED: "Mobile networks answered 3: another router has it, or the engine no room.",
    NETWORKS_UNASSIGNED: "Mobile networks answered 4: pools or the router's limit exhausted.",
    REPLIES: "Registration Replies sent.",
    DEREGISTRATION_REPLIES: "Registration Replies sent to requests with lifetime 0.",
    GRATUITOUS_ARPS: "Gratuitous ARPs asked for on behalf of mobile nodes.",
    UNEXPECTED_TYPE: "Datagrams on port 434 that no home agent expects; dropped.",
    MALFORMED: "Requests too short, or damaged where authentication would stand; dropped.",
    UNKNOWN_EXTENSION: "Requests with an unknown extension below 128; dropped.",
    BAD_SOURCE: "Requests from a source no reply could reach (port 0, not unicast); dropped.",
    MISSING_AUTHENTICATION: "Requests without Mobile-Home authentication; dropped.",
    REPEATED_AUTHENTICATION: "Requests with several Mobile-Home authentications; dropped.",
    UNKNOWN_HOME_ADDRESS: "Requests for a home address this home agent does not serve; dropped.",
    UNKNOWN_SPI: "Requests with an SPI their mobile node does not have; dropped, or 131.",
    BAD_AUTHENTICATOR: "Requests with a wrong Mobile-Home authenticator; dropped, or 131.",
    NO_REPLY_ASSOCIATION: "Requests of a mobile node no reply can be signed for; dropped.",
    UNEXPECTED_FOREIGN_HOME: "Foreign-Home authentication from an unknown agent; dropped.",
    HELD_DUPLICATE: "Retransmissions of a request that is in work; its reply answers both.",
    HELD_REPLACED: "Requests overtaken by a later one of the same node while one was in work.",
    DUPLICATES: "Exact repetitions of the accepted request; answered without any change.",
    REPLIES_SUPPRESSED: "Replies withheld by the rate limits, or larger than a stranger's request.",
    VIOLATIONS_SUPPRESSED: "Security violations counted but not reported, by the rate limit.",
    COMMITS_FAILED: "Changes the packet engine or the store refused.",
    UNREADABLE: "Hosts or nodes the store could not read; answered 130, or not at all.",
    EXPIRED: "Bindings removed because their lifetime ended.",
    EXPERIMENTAL: "Experimental messages (type 255) where experiments are allowed; dropped.",
    UDP_TUNNELS: "Registrations granted a UDP tunnel (RFC 3519).",
    KEEPALIVES: "Half-bound UDP tunnels completed by their first keepalive (RFC 3519 4.6).",
    KEEPALIVES_REFUSED: "First keepalives from an address that did not register; dropped.",
    **revocation_counters("ha"),
    REVOCATIONS_HELD: "Revocations that waited for a commit of their node to end.",
    NETWORKS: "Mobile networks routed now (a gauge).",
    NETWORKS_REMEMBERED: "Allocated mobile networks kept for their routers now (a gauge).",
    BINDINGS: "Bindings in force now (a gauge).",
    CACHED_NODES: "Mobile nodes held in memory now (a gauge).",
}
"""Counter -> what it counts. ``docs/counters.md`` is checked against it."""


class ViolationReason(IntEnum):
    """mipSecRecentViolationReason of RFC 2006."""

    NO_MOBILITY_SECURITY_ASSOCIATION = 1
    BAD_AUTHENTICATOR = 2
    BAD_IDENTIFIER = 3
    BAD_SPI = 4
    MISSING_SECURITY_EXTENSION = 5
    OTHER = 6

    @property
    def text(self) -> str:
        """The reason in RFC 2006's spelling."""
        first, *rest = self.name.lower().split("_")
        return first + "".join(word.upper() if word == "spi" else word.title() for word in rest)


def new_counters() -> dict[str, int]:
    """All counters at zero."""
    return dict.fromkeys(HOME_COUNTERS, 0)
