"""``docs/rfc-compliance.md`` and ``docs/rfc`` are true and complete as far as a machine can tell.

Every row states a requirement in our words; a row that claims to be met names code and tests,
and both must exist. Every normative sentence of the RFCs, as counted by
``tests/helpers/normative.py`` and kept in ``rfc_statements.txt``, has a row that claims it.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.helpers.normative import ANY_CASE, statements

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "rfc-compliance.md"
PAGES = sorted((ROOT / "docs" / "rfc").glob("rfc*.md"))
HEADER = ["Section", "Nos.", "Level", "Requirement", "Status", "Code", "Test"]
LEVELS = {"MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY", "-"}
PROVEN = {"met", "partly"}
OPEN = {"planned", "declined", "not applicable"}
PROTOCOL = (
    5944,
    1256,
    2003,
    2004,
    2784,
    2890,
    2794,
    3024,
    3115,
    3519,
    3543,
    3846,
    4064,
    4636,
    4721,
)
COMPILED = {".h", ".pyx", ".pxd", ".pxi", ".c"}


class Row(NamedTuple):
    """One requirement."""

    line: int
    rfc: str
    section: str
    claims: set[tuple[str, int]]
    level: str
    text: str
    status: str
    code: list[str]
    tests: list[str]


def cells(line: str) -> list[str]:
    """The cells of a table line."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def claimed(cell: str, section: str) -> set[tuple[str, int]]:
    """The sentences a cell like ``1, 3-4, 2.1:7`` names; here the last is of another section."""
    found: set[tuple[str, int]] = set()
    for item in re.split(r", *", cell) if cell != "-" else []:
        place, _, numbers = item.rpartition(":")
        first, _, last = numbers.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise ValueError(f"no numbers of sentences: {cell}")
        found |= {(place or section, n) for n in range(int(first), int(last or first) + 1)}
    return found


def parse(text: str, rfc: str) -> list[Row]:
    """All rows of all tables of a page; ValueError on a bad table."""
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("|"):
            continue
        row = cells(line)
        if row == HEADER or set("".join(row)) <= set("-: "):
            continue
        if len(row) != len(HEADER):
            raise ValueError(f"line {number}: {len(row)} cells")
        section, sentences, level, requirement, status, code, tests = row
        names = [re.findall(r"`([^`]+)`", cell) for cell in (code, tests)]
        claims = claimed(sentences, section)
        rows.append(Row(number, rfc, section, claims, level, requirement, status, *names))
    return rows


ROWS = [row for page in PAGES for row in parse(page.read_text(), page.stem.removeprefix("rfc"))]
# Of each RFC and section the level of each normative sentence: M is MUST, S SHOULD, B both.
SENTENCES = {
    (rfc, section): levels
    for rfc, section, levels in (
        line.split() for line in (ROOT / "tests/meta/rfc_statements.txt").read_text().splitlines()
    )
}
COUNTED = {rfc for rfc, _ in SENTENCES}


@cache
def names_in(path: Path) -> set[str]:
    """Dotted names a Python file defines: functions, classes, methods, assignments."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign):
                found.update(prefix + t.id for t in node.targets if isinstance(t, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(prefix + node.target.id)

    collect(ast.parse(path.read_text()).body, "")
    return found


def missing(reference: str, root: Path) -> str:
    """What is wrong with a ``path::name`` or ``path`` below a folder; empty if nothing."""
    file, _, name = reference.partition("::")
    path = root / file
    if not path.is_file():
        return f"no file {file}"
    if not name:
        return ""
    if path.suffix in COMPILED:
        known = re.search(rf"\b{re.escape(name)}\b", path.read_text()) is not None
    else:
        known = name.replace("::", ".") in names_in(path)
    return "" if known else f"no {name} in {file}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"rfc{row.rfc}-{row.section}-{row.line}")
def test_row_is_true(row: Row) -> None:
    assert row.level in LEVELS
    assert row.status in PROVEN | OPEN
    assert len(row.text) > 10
    assert re.fullmatch(r"[A-Z]|[A-Z]?[\d.]+[A-Z\d.]*", row.section), row.section
    for reference in row.code:
        assert missing(reference, ROOT / "src" / "fastmip") == ""
    for reference in row.tests:
        assert reference.startswith("tests/")
        assert missing(reference, ROOT) == ""
        assert reference.rpartition("::")[2].startswith(("test_", "Test"))
    if row.status in PROVEN:
        assert row.code, "a met requirement names its code"
        assert row.tests, "a met requirement names its test"


def test_every_rfc_of_the_protocol_is_counted() -> None:
    assert set(map(str, PROTOCOL)) <= COUNTED


@pytest.mark.parametrize("rfc", sorted(COUNTED))
def test_every_normative_sentence_has_a_row(rfc: str) -> None:
    here = {
        (section, number)
        for (of, section), levels in SENTENCES.items()
        if of == rfc
        for number in range(1, len(levels) + 1)
    }
    rows = set().union(*(row.claims for row in ROWS if row.rfc == rfc))
    assert here - rows == set()
    assert rows - here == set()


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.claims],
    ids=lambda row: f"rfc{row.rfc}-{row.section}-{row.line}",
)
def test_a_row_has_the_level_of_a_sentence_it_claims(row: Row) -> None:
    levels = {SENTENCES[row.rfc, section][number - 1] for section, number in row.claims}
    assert levels & {"B", "M" if row.level.startswith("MUST") else "S"}
    assert row.level not in {"MAY", "-"}


def test_the_index_lists_every_page_with_its_sentences() -> None:
    listed = dict(re.findall(r"\]\(rfc/(rfc\d+\.md)\) \|.*\| (\d+|-) \|$", INDEX.read_text(), re.M))
    for page in PAGES:
        rfc = page.stem.removeprefix("rfc")
        total = sum(len(levels) for (r, _), levels in SENTENCES.items() if r == rfc)
        assert listed.pop(page.name) == (str(total) if rfc in COUNTED else "-")
    assert not listed


def test_no_requirement_is_listed_twice() -> None:
    seen = [(row.rfc, row.section, row.text) for row in ROWS]
    assert len(seen) == len(set(seen))


def test_the_check_itself_can_fail() -> None:
    assert missing("agents/home.py::HomeAgent.receive_datagram", ROOT / "src" / "fastmip") == ""
    assert missing("agents/home.py::HomeAgent.nothing", ROOT / "src" / "fastmip")
    assert missing("agents/nowhere.py", ROOT / "src" / "fastmip")
    assert missing("tests/meta/test_rfc_compliance.py::test_row_is_false", ROOT)
    with pytest.raises(ValueError, match="cells"):
        parse("| Section | Level |\n", "1")
    with pytest.raises(ValueError, match="numbers"):
        claimed("1; 2", "3.1")
    assert claimed("1, 3-4, 2.1:7", "3.1") == {("3.1", 1), ("3.1", 3), ("3.1", 4), ("2.1", 7)}


TEXT = """\
1. Terms ........................ 1

1.  Terms

   The key words "MUST" and "SHOULD" are to be interpreted as usual.
   Nodes listen (e.g., on port 9).  They MUST NOT talk
   over each other, and they SHOULD wait.

2.1.  Rules

   The rules are these:

   o  a node SHOULD answer, because it

Author                                                          [Page 1]

RFC 9999                     Good Manners                   January 2026

      was asked, and

   o  it is REQUIRED to say thanks.  It must smile.
"""


def test_sentences_are_found_and_numbered() -> None:
    found = list(statements(TEXT))
    assert [s[:3] for s in found] == [("1", 1, "B"), ("2.1", 1, "S"), ("2.1", 2, "M")]
    assert found[1].text == "o  a node SHOULD answer, because it was asked, and"
    assert len(list(statements(TEXT, ANY_CASE))) == 4
