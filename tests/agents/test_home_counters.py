"""Every counter has a name, a sentence and a place (RFC 2006, home agent groups)."""

from __future__ import annotations

import pytest
from tests.agents.home_lab import Lab

from fastmip.agents import home_counters, reply_policy
from fastmip.agents.home_counters import (
    CODE_COUNTERS,
    HOME_COUNTERS,
    ViolationReason,
    new_counters,
)
from fastmip.agents.reply_policy import SILENT, Refusal
from fastmip.agents.revocation import counters
from fastmip.wire.codes import ReplyCode

RFC2006 = {
    "haRegistrationAccepted": 0,
    "haMultiBindingUnsupported": 1,
    "haReasonUnspecified": 128,
    "haAdmProhibited": 129,
    "haInsufficientResource": 130,
    "haMNAuthenticationFailure": 131,
    "haFAAuthenticationFailure": 132,
    "haIDMismatch": 133,
    "haPoorlyFormedRequest": 134,
    "haTooManyBindings": 135,
    "haUnknownHA": 136,
}
"""The scalar counters of RFC 2006's haRegistration group that stand for a code."""
RFC2006_OTHERS = {
    "haGratuitiousARPsSent",
    "haRegRequestsReceived",
    "haDeRegRequestsReceived",
    "haRegRepliesSent",
    "haDeRegRepliesSent",
}


def test_codes_count_under_their_rfc2006_names() -> None:
    assert {CODE_COUNTERS[code]: code for code in CODE_COUNTERS if code < 137} == RFC2006
    assert set(HOME_COUNTERS) >= RFC2006_OTHERS


def test_every_name_has_a_sentence() -> None:
    constants = {
        value
        for name, value in vars(home_counters).items()
        if name.isupper() and isinstance(value, str)
    }
    others = set(CODE_COUNTERS.values()) | set(counters("ha"))
    assert constants | others == set(HOME_COUNTERS)
    for sentence in HOME_COUNTERS.values():
        assert sentence[0].isupper()
        assert sentence[-1] in ".)"


def test_every_refusal_is_counted() -> None:
    refusals = [value for value in vars(reply_policy).values() if isinstance(value, Refusal)]
    assert len(refusals) > 10
    for refusal in refusals:
        counter = refusal.counter if refusal.code == SILENT else CODE_COUNTERS[refusal.code]
        assert counter in HOME_COUNTERS


@pytest.mark.parametrize("code", [129, 130, 131, 144])
def test_codes_given_outside_the_ladder_are_counted(code: int) -> None:
    assert ReplyCode(code) in CODE_COUNTERS


def test_agent_reports_all_of_them_from_the_start() -> None:
    assert Lab().agent.counters() == new_counters() == dict.fromkeys(HOME_COUNTERS, 0)


def test_violation_reasons_are_spelled_as_in_rfc2006() -> None:
    assert [(reason.value, reason.text) for reason in ViolationReason] == [
        (1, "noMobilitySecurityAssociation"),
        (2, "badAuthenticator"),
        (3, "badIdentifier"),
        (4, "badSPI"),
        (5, "missingSecurityExtension"),
        (6, "other"),
    ]
