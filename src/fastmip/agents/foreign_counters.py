"""Counters of the foreign agent: RFC 2006 names, CISCO-MOBILE-IP-MIB where it has none, ours.

Every name has its sentence in ``FOREIGN_COUNTERS``, the one list; a counter that is not there
does not exist.
"""

from __future__ import annotations

from typing import Final

from fastmip.agents import revocation
from fastmip.wire.codes import ReplyCode

REQUESTS: Final = "faRegRequestsReceived"
RELAYED: Final = "faRegRequestsRelayed"
REPLIES: Final = "faRegRepliesRecieved"  # the spelling is RFC 2006's
REPLIES_RELAYED: Final = "faRegRepliesRelayed"

UNEXPECTED_TYPE: Final = "faUnexpectedMessageType"
MALFORMED: Final = "faMalformedMessage"
UNKNOWN_EXTENSION: Final = "faUnknownExtension"
BAD_SOURCE: Final = "faBadSender"
REVOCATION_IN_REQUEST: Final = "faRevocationSupportFromNode"
UNPROVEN_CHALLENGE: Final = "faChallengeWithoutProof"
UNMATCHED: Final = "faRegRepliesUnmatched"
WRONG_SOURCE: Final = "faRegRepliesWrongSource"
UNSIGNED_REPLY: Final = "faRegRepliesUnsigned"
REPLIES_WITHHELD: Final = "faRegRepliesWithheld"
REPLAYED: Final = "faRegRequestsReplayed"
DENIALS_SENT: Final = "faDenialsSent"
DENIALS_SUPPRESSED: Final = "faDenialsSuppressed"
VIOLATIONS_SUPPRESSED: Final = "faViolationsSuppressed"
TIMEOUTS: Final = "faRegRequestsTimedOut"
EXPIRED: Final = "faVisitorsExpired"
DEPARTED: Final = "faVisitorsDeregistered"
INSTALL_FAILED: Final = "faVisitorsNotInstalled"
REPORTS: Final = "faUnreachableReports"
REPORTS_UNMATCHED: Final = "faUnreachableReportsUnmatched"
ERRORS_ADDED: Final = "faErrorExtensionsAdded"
KEEPALIVES: Final = "faKeepalivesSent"
VISITORS: Final = "faVisitors"
PENDING: Final = "faPendingRequests"

UNREACHABLE: Final = "faHAUnreachable"

CODE_COUNTERS: Final[dict[int, str]] = {
    ReplyCode.FA_UNSPECIFIED: "faReasonUnspecified",
    ReplyCode.FA_PROHIBITED: "faAdmProhibited",
    ReplyCode.FA_INSUFFICIENT_RESOURCES: "faInsufficientResource",
    ReplyCode.FA_MOBILE_NODE_AUTHENTICATION: "faMNAuthenticationFailure",
    ReplyCode.FA_HOME_AGENT_AUTHENTICATION: "faHAAuthenticationFailure",
    ReplyCode.FA_LIFETIME_TOO_LONG: "faRegLifetimeTooLong",
    ReplyCode.FA_POORLY_FORMED_REQUEST: "faPoorlyFormedRequests",
    ReplyCode.FA_POORLY_FORMED_REPLY: "faPoorlyFormedReplies",
    ReplyCode.FA_ENCAPSULATION_UNAVAILABLE: "faEncapsulationUnavailable",
    ReplyCode.FA_REVERSE_TUNNEL_UNAVAILABLE: "cmiFaReverseTunnelUnavailable",
    ReplyCode.FA_REVERSE_TUNNEL_MANDATORY: "cmiFaReverseTunnelBitNotSet",
    ReplyCode.FA_MOBILE_NODE_TOO_DISTANT: "cmiFaMnTooDistant",
    ReplyCode.FA_INVALID_CARE_OF_ADDRESS: "faInvalidCareOfAddress",
    ReplyCode.FA_REGISTRATION_TIMEOUT: "faRegistrationTimeout",
    ReplyCode.FA_DELIVERY_STYLE_UNSUPPORTED: "cmiFaDeliveryStyleUnsupported",
    ReplyCode.FA_HOME_NETWORK_UNREACHABLE: UNREACHABLE,
    ReplyCode.FA_HOME_AGENT_HOST_UNREACHABLE: UNREACHABLE,
    ReplyCode.FA_HOME_AGENT_PORT_UNREACHABLE: UNREACHABLE,
    ReplyCode.FA_HOME_AGENT_UNREACHABLE: UNREACHABLE,
    ReplyCode.FA_NONZERO_HOME_AGENT_REQUIRED: "faNonzeroHomeAgentRequired",
    ReplyCode.FA_MISSING_NAI: "faMissingNAI",
    ReplyCode.FA_MISSING_HOME_AGENT: "faMissingHomeAgent",
    ReplyCode.FA_MISSING_HOME_ADDRESS: "faMissingHomeAddress",
    ReplyCode.FA_NONZERO_HOME_ADDRESS_REQUIRED: "faNonzeroHomeAddressRequired",
    ReplyCode.FA_CRITICAL_VENDOR_FROM_MOBILE_NODE: "cmiFaCvsesFromMnRejected",
    ReplyCode.FA_CRITICAL_VENDOR_FROM_HOME_AGENT: "cmiFaCvsesFromHaRejected",
    ReplyCode.FA_UNKNOWN_CHALLENGE: "cmiFaUnknownChallenge",
    ReplyCode.FA_MISSING_CHALLENGE: "cmiFaMissingChallenge",
    ReplyCode.FA_STALE_CHALLENGE: "cmiFaStaleChallenge",
    ReplyCode.FA_HOME_AGENT_WRONG_CHALLENGE: "faHAWrongChallenge",
    ReplyCode.FA_INVALID_HOME_AGENT_ADDRESS: "faInvalidHomeAgentAddress",
}
"""Reply code -> counter. A request counts by its verdict even when a rate limit withholds the
denial; a reply of the home agent that is not honoured counts by the status added to it."""

FOREIGN_COUNTERS: Final[dict[str, str]] = {
    REQUESTS: "Registration Requests received from mobile nodes.",
    RELAYED: "Registration Requests relayed to home agents.",
    "faReasonUnspecified": "Requests denied with code 64.",
    "faAdmProhibited": "Requests denied with code 65: policy forbids it.",
    "faInsufficientResource": "Requests denied with code 66: pending or visitor limit.",
    "faMNAuthenticationFailure": "Requests with wrong Mobile-Foreign authentication, code 67.",
    "faHAAuthenticationFailure": "Replies with wrong Foreign-Home authentication, status 68.",
    "faRegLifetimeTooLong": "Requests denied with code 69: lifetime above the maximum.",
    "faPoorlyFormedRequests": "Requests denied with code 70.",
    "faPoorlyFormedReplies": "Replies of home agents that are malformed, code 71.",
    "faEncapsulationUnavailable": "Requests denied with code 72: encapsulation not offered.",
    "cmiFaReverseTunnelUnavailable": "Requests denied with code 74 (RFC 3024).",
    "cmiFaReverseTunnelBitNotSet": "Requests denied with code 75 (RFC 3024).",
    "cmiFaMnTooDistant": "Requests denied with code 76: a router brought them (RFC 3024).",
    "faInvalidCareOfAddress": "Requests denied with code 77: care-of address not offered.",
    "faRegistrationTimeout": "Requests denied with code 78: no reply within seven seconds.",
    "cmiFaDeliveryStyleUnsupported": "Requests denied with code 79 (RFC 3024).",
    UNREACHABLE: "Requests denied with codes 80-82 and 88: an ICMP error came back.",
    "faNonzeroHomeAgentRequired": "Requests denied with code 90: no home agent named.",
    "faNonzeroHomeAddressRequired": "Requests denied with code 96: no home address, no NAI.",
    "faMissingNAI": "Replies without the NAI of their request, code 97 (RFC 2794).",
    "faMissingHomeAgent": "Replies that name no home agent, code 98 (RFC 2794).",
    "faMissingHomeAddress": "Replies that name no home address, code 99 (RFC 2794).",
    "cmiFaCvsesFromMnRejected": "Requests with an unknown critical vendor extension, code 100.",
    "cmiFaCvsesFromHaRejected": "Replies with an unknown critical vendor extension, code 101.",
    "cmiFaUnknownChallenge": "Requests denied with code 104: challenge not ours (RFC 4721).",
    "cmiFaMissingChallenge": "Requests denied with code 105: no challenge (RFC 4721).",
    "cmiFaStaleChallenge": "Requests denied with code 106: challenge used before (RFC 4721).",
    "faHAWrongChallenge": "Replies that echo another challenge, status 109 (RFC 4721).",
    "faInvalidHomeAgentAddress": "Requests denied with code 194: our own address named.",
    REPLIES: "Registration Replies received from home agents.",
    REPLIES_RELAYED: "Registration Replies relayed to mobile nodes.",
    DENIALS_SENT: "Registration Replies of our own, all of them denials.",
    UNEXPECTED_TYPE: "Datagrams of a type a foreign agent has no use for; dropped.",
    MALFORMED: "Messages too short to be read; dropped.",
    UNKNOWN_EXTENSION: "Messages with an unknown extension below 128; dropped.",
    BAD_SOURCE: "Requests from off the link, or whose sender could not be answered; dropped.",
    REVOCATION_IN_REQUEST: "Requests offering revocation that must not (RFC 3543 4.2.1); dropped.",
    UNPROVEN_CHALLENGE: "Requests with a challenge and no proof of it (RFC 4721 3.2); dropped.",
    UNMATCHED: "Replies no pending request belongs to; dropped.",
    WRONG_SOURCE: "Replies from another address than was asked; dropped.",
    UNSIGNED_REPLY: "Replies without Mobile-Home authentication; dropped.",
    REPLIES_WITHHELD: "Home agents' denials larger than the unproven request; dropped.",
    REPLAYED: "Requests another node had sent before, of a visit or pending; dropped.",
    DENIALS_SUPPRESSED: "Denials withheld by the rate limits, or larger than their request.",
    VIOLATIONS_SUPPRESSED: "Security violations counted but not reported, by the rate limit.",
    TIMEOUTS: "Pending requests given up after seven seconds.",
    EXPIRED: "Visitors removed because their lifetime ended.",
    DEPARTED: "Visitors removed because they deregistered.",
    INSTALL_FAILED: "Visitors the packet engine or the kernel would not carry.",
    REPORTS: "ICMP errors about relayed requests.",
    REPORTS_UNMATCHED: "ICMP errors that quote no pending request; ignored.",
    ERRORS_ADDED: "Foreign agent error extensions added to replies (RFC 4636).",
    KEEPALIVES: "Keepalives sent through UDP tunnels (RFC 3519).",
    **revocation.counters("fa"),
    VISITORS: "Visitors served now (a gauge).",
    PENDING: "Requests waiting for their home agent now (a gauge).",
}
"""Counter -> what it counts. ``docs/counters.md`` is checked against it."""


def new_counters() -> dict[str, int]:
    """All counters at zero."""
    return dict.fromkeys(FOREIGN_COUNTERS, 0)
