"""Counts the normative sentences of an RFC text, section by section.

``python tests/helpers/normative.py RFC.txt...`` prints lines of ``tests/meta/rfc_statements.txt``,
with ``--text`` the sentences with their numbers instead. A sentence counts if a requirement word
of RFC 2119 in capitals stands in it; texts older than that are read with small letters too. The
RFC texts are not part of the project.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OLDER_THAN_RFC_2119 = {"1256", "2003", "2004"}
MUST = {"MUST", "MUST NOT", "SHALL", "SHALL NOT", "REQUIRED"}
SHOULD = {"SHOULD", "SHOULD NOT", "RECOMMENDED", "NOT RECOMMENDED"}
WORDS = "|".join(sorted(MUST | SHOULD, key=len, reverse=True))
CAPITALS = re.compile(rf"\b({WORDS})\b")
ANY_CASE = re.compile(rf"\b({WORDS}|must not|shall not|should not|must|shall|should)\b")
HEADING = re.compile(r"^(?: {0,3}|Appendix )((?:\d+|[A-Z])(?:\.\d+)*)[.:]?\s+[A-Z'\"`(0-9]")
BULLET = re.compile(r"^\s+(?:[-o*]|\(?[a-z0-9]{1,2}[.)])\s+\S")
PAGE_END = re.compile(r"\[Page \w+\]\s*$")
PAGE_HEAD = re.compile(r"^RFC \d+ .*\d{4}\s*$")
ABOUT_THE_WORDS = re.compile(
    r"key ?words|2119|to be interpreted|^\"?(MUST|SHOULD|SHALL|MAY)\"? +Th"
)


class Statement(NamedTuple):
    """A normative sentence: its section, its number there, M, S or B (both) and its text."""

    section: str
    number: int
    level: str
    text: str


def heading(line: str) -> str:
    """The section number if a line is a heading and not one of the table of contents."""
    found = HEADING.match(line)
    if not found or re.search(r"(\. ){2}|\.{4}", line):
        return ""
    if line.startswith(" ") and (
        len(line) > 66 or ("." not in found[1] and not found[1].isdigit())
    ):
        return ""
    return found[1]


def paragraphs(text: str) -> Iterator[tuple[str, str]]:
    """Paragraphs and list items with their sections, put together where a page ends inside."""
    section, lines, torn, blank = "", list[str](), False, True
    for line in text.replace("\f", "\n").splitlines():
        if PAGE_END.search(line):
            torn = True
            continue
        if PAGE_HEAD.match(line):
            continue
        if not line.strip():
            blank = True
            continue
        number = heading(line) if blank or not lines else ""
        goes_on = torn and lines and not re.search(r"[.:!?]\s*$", lines[-1]) and not number
        if BULLET.match(line) or number or (blank and not goes_on):
            yield section, " ".join(lines)
            lines = []
        torn = blank = False
        section = number or section
        if not number:
            lines.append(line.strip())
    yield section, " ".join(lines)


def statements(text: str, words: re.Pattern[str] = CAPITALS) -> Iterator[Statement]:
    """The normative sentences of an RFC text."""
    count: dict[str, int] = {}
    for section, paragraph in paragraphs(text):
        whole = re.sub(
            r"\b(?:e\.g\.|i\.e\.|vs\.|etc\.),?", lambda m: m[0].replace(".", "\0"), paragraph
        )
        for sentence in re.split(r"(?<=[.!?])[)\"']*\s+(?=[A-Z(\"'])", whole):
            found = {word.upper() for word in words.findall(sentence)}
            if not found or ABOUT_THE_WORDS.search(sentence):
                continue
            count[section] = count.get(section, 0) + 1
            level = "B" if found & MUST and found & SHOULD else "M" if found & MUST else "S"
            yield Statement(section, count[section], level, sentence.replace("\0", "."))


def main() -> None:
    """Print what the texts named demand."""
    for path in map(Path, [a for a in sys.argv[1:] if a != "--text"]):
        rfc = re.sub(r"\D", "", path.name)
        words = ANY_CASE if rfc in OLDER_THAN_RFC_2119 else CAPITALS
        found = list(statements(path.read_text(errors="replace"), words))
        if "--text" in sys.argv:
            for s in found:
                sys.stdout.write(f"{rfc} {s.section}:{s.number} [{s.level}] {s.text}\n")
            continue
        for section in dict.fromkeys(s.section for s in found):
            levels = "".join(s.level for s in found if s.section == section)
            sys.stdout.write(f"{rfc} {section} {levels}\n")


if __name__ == "__main__":
    main()
