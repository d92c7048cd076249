"""The foreign agent's and the advertiser's part of ``docs/counters.md`` says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastmip.agents.advertiser import ADVERTISER_COUNTERS
from fastmip.agents.foreign_counters import CODE_COUNTERS, FOREIGN_COUNTERS

PAGE = Path(__file__).parents[2] / "docs" / "counters.md"


@pytest.mark.parametrize(
    ("heading", "counters"),
    [
        ("## Foreign agent registration\n", FOREIGN_COUNTERS),
        ("## Agent advertisements\n", ADVERTISER_COUNTERS),
    ],
)
def test_every_counter_is_documented_with_its_sentence_once(
    heading: str, counters: dict[str, str]
) -> None:
    section = PAGE.read_text().split(heading, 1)[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    assert [(name, text) for name, text, _ in rows] == list(counters.items())


def test_every_code_has_a_counter_that_exists() -> None:
    assert set(CODE_COUNTERS.values()) <= set(FOREIGN_COUNTERS)
