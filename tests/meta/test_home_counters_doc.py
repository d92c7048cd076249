"""The home agent's part of ``docs/counters.md`` says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from fastmip.agents.home_counters import HOME_COUNTERS

DOCUMENT = Path(__file__).parents[2] / "docs" / "counters.md"
HEADING = "## Home agent registration"


def section() -> str:
    """The text from our heading to the next of its rank."""
    text = DOCUMENT.read_text()
    begin = text.index(HEADING)
    following = re.search(r"^## ", text[begin + 3 :], re.MULTILINE)
    return text[begin : begin + 3 + following.start()] if following else text[begin:]


def test_every_counter_is_documented_with_its_sentence_once() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section(), re.MULTILINE)
    assert sorted((name, sentence) for name, sentence, _ in rows) == sorted(HOME_COUNTERS.items())
