"""docs/counters.md names every counter the engine has, with its sentence, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmip import _dataplane
from fastmip.runtime.bpf import OUTCOMES, REFUSED

PAGE = Path(__file__).parents[2] / "docs" / "counters.md"
KINDS = {"info", "warning", "security"}


def rows(section: str) -> list[list[str]]:
    """Cells of a section's table, without its head."""
    text = PAGE.read_text().split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize(
    ("section", "names"),
    [("Verdicts", _dataplane.verdicts()), ("Events", _dataplane.event_names())],
)
def test_page_and_engine_agree(section: str, names: list[tuple[str, str, str]]) -> None:
    documented = rows(section)
    assert [tuple(row[:3]) for row in documented] == [
        (f"`{name}`", severity, sentence) for name, severity, sentence in names
    ]
    assert all(row[3] for row in documented), "every counter says what an operator does"


def test_kernel_port_counters_agree() -> None:
    assert [tuple(row) for row in rows("Kernel port")] == [
        (f"`{name}`", sentence) for name, sentence in _dataplane.port_counter_names()
    ]


def test_xdp_port_counters_agree() -> None:
    assert [tuple(row) for row in rows("XDP port")] == [
        (f"`{name}`", sentence) for name, sentence in _dataplane.xdp_counter_names()
    ]


def test_xdp_counters_agree() -> None:
    assert [tuple(row) for row in rows("XDP program")] == [
        (f"`{name}`", sentence) for name, sentence in (*OUTCOMES, REFUSED)
    ]


def test_names_are_kebab_case_and_sentences_end() -> None:
    outcomes = _dataplane.verdicts() + _dataplane.event_names()
    names = [name for name, _, _ in outcomes]
    assert len(names) == len(set(names))
    for name, severity, sentence in outcomes:
        assert name == name.lower()
        assert " " not in name
        assert severity in KINDS
        assert sentence.endswith(".")
        assert "|" not in sentence
