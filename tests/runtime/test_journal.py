"""The journal of kernel changes: written before, struck after, void after a reboot."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fastmip.runtime import clock
from fastmip.runtime.journal import Address, Change, Journal, Route, Rule, Sysctl

CHANGES: list[Change] = [
    Rule(priority=1434, table=1434, iif="fmha0", invert=True),
    Route("10.1.0.0/24", 1434, device="fmha0"),
    Address("fmmn0", "10.1.0.5", 32),
    Sysctl("net/ipv4/conf/eth0/rp_filter", "1", "2"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.journal"


def test_what_was_recorded_is_found_by_the_next_process_in_order(path: Path) -> None:
    journal = Journal(path)
    for change in CHANGES:
        journal.record(change)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Journal(path).changes() == CHANGES


def test_striking_the_last_change_removes_the_file(path: Path) -> None:
    journal = Journal(path)
    for change in CHANGES:
        journal.record(change)
    for change in reversed(CHANGES):
        assert path.exists()
        journal.strike(change)
    assert not path.exists()
    assert Journal(path).changes() == []


def test_equal_changes_are_struck_one_at_a_time(path: Path) -> None:
    journal = Journal(path)
    journal.record(CHANGES[0])
    journal.record(CHANGES[0])
    journal.strike(CHANGES[0])
    assert Journal(path).changes() == [CHANGES[0]]


def test_a_torn_last_line_is_a_change_that_was_not_made(path: Path) -> None:
    journal = Journal(path)
    journal.record(CHANGES[0])
    whole = path.read_bytes()
    journal.record(CHANGES[1])
    for end in range(len(whole), len(path.read_bytes()) - 1):
        torn = path.with_name("torn")
        torn.write_bytes(path.read_bytes()[:end])
        assert Journal(torn).changes() == [CHANGES[0]]


def test_changes_of_another_boot_are_void(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(path).record(CHANGES[0])
    monkeypatch.setattr(clock, "boot_id", lambda: "another boot")
    assert Journal(path).changes() == []


def test_changes_of_another_namespace_are_void(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(path).record(CHANGES[0])
    monkeypatch.setattr("fastmip.runtime.journal._namespace", lambda: 1)
    assert Journal(path).changes() == []
