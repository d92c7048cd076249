"""The mobile node's part of ``docs/counters.md`` says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from fastmip.agents.mobile_counters import MOBILE_COUNTERS

PAGE = Path(__file__).parents[2] / "docs" / "counters.md"


def test_every_counter_is_documented_with_its_sentence_once() -> None:
    section = PAGE.read_text().split("## Mobile node\n", 1)[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(mn\w+)` \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    assert [(name, text) for name, text, _ in rows] == list(MOBILE_COUNTERS.items())
