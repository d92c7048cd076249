"""The ladder's order: of two faults the upper rung answers (RFC 5944 3.8.2, RFC 3024 4.3.1)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from tests.agents.home_lab import (
    CARE_OF,
    CARE_OF_3,
    FA_SPI,
    FOREIGN_AGENT,
    HOME_AGENT,
    OTHER_KEY,
    D,
    Lab,
    M,
    R,
    S,
    T,
    codes,
    sign,
)

from fastmip.agents import reply_policy
from fastmip.agents.hosts import ReverseTunnel
from fastmip.agents.reply_policy import LADDER


def test_ladder_names_every_rung_once_in_the_documented_order() -> None:
    assert [rung.__name__ for rung in LADDER] == [
        "mobile_aaa",
        "identification",
        "foreign_agent",
        "form",
        "home_agent_address",
        "vendor_extensions",
        "home_address",
        "encapsulation",
        "reverse_tunnel",
        "udp_tunnel",
        "source_address",
        "care_of_address",
        "simultaneous_bindings",
        "other_home_agent",
        "resources",
    ]
    for rung in LADDER:
        assert rung.__doc__
        assert getattr(reply_policy, rung.__name__) is rung


FAULTS: list[tuple[int, dict[str, Any]]] = [
    (133, {"identification": 1}),
    (132, {}),
    (134, {"flags": R}),
    (136, {"home_agent": 0}),
    (139, {"flags": M}),
    (137, {"flags": T}),
    (129, {"care_of": HOME_AGENT}),
    (135, {"flags": S}),
    (130, {}),
]
"""Faults that can be combined freely in one request, in ladder order."""


def crowded_lab() -> Lab:
    """Four bindings, no room, no reverse tunnels, strict bits."""
    lab = Lab()
    for index in range(4):
        care_of = CARE_OF_3 + index
        lab.send(lab.request(care_of=care_of, flags=S | D), lab.arrival(care_of))
        lab.pass_time(1)
    lab.set_policy(strict_reserved=True, reverse_tunnel=ReverseTunnel.REFUSE, max_bindings=4)
    lab.set_policy(encapsulations=frozenset({4}))
    return lab


def answer(lab: Lab, faults: list[tuple[int, dict[str, Any]]]) -> list[int]:
    """Send one request with all these faults; 132 makes it come from a foreign agent with
    a wrong signature."""
    fields: dict[str, Any] = {"flags": D}
    for _, more in faults:
        flags = fields["flags"] | more.get("flags", 0)
        fields = {**fields, **more, "flags": flags}
    if any(code in (130, 135) for code, _ in faults):
        fields["flags"] |= S
    relayed = any(code == 132 for code, _ in faults)
    source = FOREIGN_AGENT if relayed else fields.get("care_of", CARE_OF)
    data = lab.request(**fields)
    if relayed:
        data = sign(data, OTHER_KEY, FA_SPI, kind=34)
    return codes(lab.send(data, lab.arrival(source)))


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=[str(code) for code, _ in FAULTS])
def test_of_all_remaining_faults_the_first_answers(first: int) -> None:
    lab = crowded_lab()
    if FAULTS[first][0] == 130:
        lab.set_policy(simultaneous_bindings=9)
    assert answer(lab, FAULTS[first:]) == [FAULTS[first][0]]


@pytest.mark.parametrize(
    ("upper", "lower"),
    list(pairwise(FAULTS)),
    ids=[f"{a[0]}-before-{b[0]}" for a, b in pairwise(FAULTS)],
)
def test_of_two_neighbours_the_upper_answers(
    upper: tuple[int, dict[str, Any]], lower: tuple[int, dict[str, Any]]
) -> None:
    assert answer(crowded_lab(), [upper, lower]) == [upper[0]]


def test_accepted_request_passes_every_rung() -> None:
    assert codes(Lab().send(Lab().request())) == [0]
