"""Counters of the mobile node: RFC 2006 names (its spelling included), ours for the rest."""

from __future__ import annotations

from typing import Final

MOBILE_COUNTERS: Final[dict[str, str]] = {
    "mnSolicitationsSent": "Agent solicitations sent.",
    "mnAdvertisementsReceived": "Router advertisements heard, of whatever use.",
    "mnAdvsDroppedInvalidExtension": "Advertisements dropped: an unknown extension that must not"
    " be skipped.",
    "mnAdvertisementsDamaged": "Advertisements dropped: malformed, or a wrong checksum.",
    "mnAdvertisementsPlainRouter": "Advertisements without a mobility agent extension.",
    "mnAdvertisementsFromAfar": "Advertisements dropped: a time to live other than 1.",
    "mnAdvertisementsMisplaced": "Advertisements dropped: a sender that cannot be on the link.",
    "mnAdvertisementsImpostor": "Unicast advertisements dropped: the agent is known by"
    " another link-layer address.",
    "mnAgentRebootsDectected": "Agents whose sequence number told of a new start.",
    "mnMoveFromHAToFA": "Moves from the home link to a foreign one.",
    "mnMoveFromFAToFA": "Moves from a foreign link or care-of address to another.",
    "mnMoveFromFAToHA": "Moves from a foreign link to the home link.",
    "mnGratuitousARPsSend": "Gratuitous ARPs sent on returning home, repeats included.",
    "mnRegRequestsSent": "Registration requests sent, deregistrations excluded.",
    "mnDeRegRequestsSent": "Deregistration requests sent (lifetime 0).",
    "mnRegRepliesRecieved": "Replies accepted as ours with a lifetime above zero.",
    "mnDeRegRepliesRecieved": "Replies accepted as ours with lifetime zero.",
    "mnRepliesInvalidHomeAddress": "Replies dropped: they name another home address.",
    "mnRepliesUnknownFA": "Replies dropped: a foreign agent's code though none is in use, or not"
    " from the agent in use.",
    "mnRepliesInvalidID": "Replies dropped: not the Identification of the latest request.",
    "mnRepliesDroppedInvalidExtension": "Datagrams dropped: malformed, of another type, or with"
    " an unknown extension that must not be skipped.",
    "mnRepliesIgnoredUnknownExtension": "Replies with unknown extensions that were skipped.",
    "mnRepliesHAAuthenticationFailure": "Replies dropped: not exactly one valid Mobile-Home"
    " authentication extension.",
    "mnRepliesFAAuthenticationFailure": "Replies dropped: not exactly one valid Mobile-Foreign"
    " authentication extension although we share an association with the agent.",
    "mnRedirectsFollowed": "Denials with code 143 whose home agent was asked next (RFC 4433).",
    "mnRedirectsUnusable": "Denials with code 143 without an authentic, usable home agent.",
    "mnRedirectLoops": "Searches for a home agent given up: they led in a circle, or too far.",
    "mnRegRequestsAccepted": "Requests the home agent accepted (codes 0 and 1).",
    "mnRegRequestsDeniedByHA": "Requests the home agent denied (codes 128-192).",
    "mnRegRequestsDeniedByFA": "Requests a foreign agent denied (codes 64-127 and 194), or"
    " accepted ones it does not carry (RFC 4636).",
    "mnChallengesRefused": "Denials with 104, 105 or 106: another challenge is needed.",
    "mnRegRequestsDeniedByHADueToID": "Requests denied with 133, Identification mismatch.",
    "mnRegRequestsWithDirectedBroadcast": "Requests that look for a home agent by the broadcast"
    " address of the home network.",
    "mnRegRequestsRetransmitted": "Requests sent again because no reply came in time.",
    "mnRegistrationsExpired": "Registrations whose lifetime ended before a refresh got through.",
    "mnKeepalivesSent": "Keepalives sent through a UDP tunnel.",
    "mnKeepalivesUnanswered": "Times nothing came back and the node registered again.",
    "mnRevocationsAccepted": "Revocations by the home agent that ended a binding (RFC 3543).",
    "mnRevocationsDropped": "Revocations dropped: not authentic, not news, or of no binding that"
    " agreed to them.",
    "mnRepliesUnknownCritical": "Replies taken as denials: a critical vendor extension that is not"
    " listed (RFC 3115).",
    "mnRepliesUnknownCode": "Authentic replies with a code of no known meaning.",
}
"""The one list: a counter that is not here does not exist."""


class MobileCounters:
    """Counts by name."""

    def __init__(self) -> None:
        self._values = dict.fromkeys(MOBILE_COUNTERS, 0)

    def add(self, name: str, count: int = 1) -> None:
        """Count; a KeyError names a counter that is missing from the list."""
        self._values[name] += count

    def set(self, name: str, value: int) -> None:
        """Take over a count kept elsewhere."""
        if name not in self._values:
            raise KeyError(name)
        self._values[name] = value

    def values(self) -> dict[str, int]:
        """A copy of all counters."""
        return dict(self._values)
