"""When a mobile node solicits agents, and on which links."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from fastmip.agents.discovery import FAST_SOLICITATIONS, HURRIED_PATIENCE_NS, Solicitor

SECOND = 10**9


def bits_of(value: float) -> Callable[[int], int]:
    return lambda bits: int(value * ((1 << bits) - 1))


def times(solicitor: Solicitor, until_s: int, step_ns: int = SECOND // 20) -> list[float]:
    return [
        now / SECOND
        for now in range(0, until_s * SECOND, step_ns)
        if solicitor.due("eth0", searching=True, now_ns=now)
    ]


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_three_at_one_a_second_then_ever_slower_to_a_minute_rfc5944_2_4(chance: float) -> None:
    solicitor = Solicitor(bits_of(chance), hurry=True)
    solicitor.link_came_up("eth0", 0)
    sent = times(solicitor, 600)
    gaps = [b - a for a, b in pairwise(sent)]
    assert sent[0] == 0
    assert all(gap >= 1 for gap in gaps)
    nominal = [1, 1, 2, 4, 8, 16, 32, 60, 60]
    assert len(gaps) >= len(nominal)
    for gap, expected in zip(gaps, [1, *nominal[1:]], strict=False):
        assert expected <= gap <= 1.25 * expected + 0.1
    assert FAST_SOLICITATIONS == 3


def test_without_hurry_the_first_waits_up_to_a_second_rfc1256_5() -> None:
    solicitor = Solicitor(bits_of(0.5), hurry=False)
    solicitor.link_came_up("eth0", 0)
    assert 0.4 < times(solicitor, 3)[0] < 0.6


def test_only_a_new_link_or_a_registration_starts_fast_again_rfc5944_2_4() -> None:
    solicitor = Solicitor(bits_of(0), hurry=True)
    solicitor.link_came_up("eth0", 0)
    times(solicitor, 100)
    now = 100 * SECOND
    assert not solicitor.due("eth0", searching=True, now_ns=now)
    solicitor.search_afresh("eth0")
    assert solicitor.due("eth0", searching=True, now_ns=now)
    assert solicitor.next_due("eth0") == now + SECOND
    solicitor.link_came_up("eth0", now)
    assert solicitor.due("eth0", searching=True, now_ns=now)


def test_nothing_is_sent_where_nobody_searches_or_the_link_is_down() -> None:
    solicitor = Solicitor(bits_of(0), hurry=True)
    assert not solicitor.due("eth0", searching=True, now_ns=0)
    solicitor.link_came_up("eth0", 0)
    assert not solicitor.due("eth0", searching=False, now_ns=0)
    solicitor.link_went_down("eth0")
    assert not solicitor.due("eth0", searching=True, now_ns=0)
    assert solicitor.next_due("eth0") is None


@pytest.mark.parametrize(("hurry", "patience"), [(False, 2 * SECOND), (True, HURRIED_PATIENCE_NS)])
def test_a_link_counts_as_without_agents_when_nobody_answered(hurry: bool, patience: int) -> None:
    solicitor = Solicitor(bits_of(0), hurry=hurry)
    solicitor.link_came_up("eth0", 0)
    assert solicitor.gives_up_at("eth0") is None
    times(solicitor, 2)
    assert solicitor.gives_up_at("eth0") == patience
