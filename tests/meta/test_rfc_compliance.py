"""``docs/rfc-compliance.md`` is true as far as a machine can tell.

Every row states a requirement in our words; a row that claims to be met names code and tests,
and both must exist.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "rfc-compliance.md"
HEADER = ["Section", "Level", "Requirement", "Status", "Code", "Test"]
LEVELS = {"MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY", "-"}
PROVEN = {"met", "partly"}
OPEN = {"planned", "declined", "not applicable"}
COMPILED = {".h", ".pyx", ".pxd", ".pxi", ".c"}


class Row(NamedTuple):
    """One requirement."""

    line: int
    rfc: str
    section: str
    level: str
    text: str
    status: str
    code: list[str]
    tests: list[str]


def cells(line: str) -> list[str]:
    """The cells of a table line."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def parse(text: str) -> list[Row]:
    """All rows of all tables below a heading that names an RFC; ValueError on a bad table."""
    rows: list[Row] = []
    rfc = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            found = re.match(r"## RFC (\d+)\b", line)
            rfc = found[1] if found else ""
        if not line.startswith("|") or not rfc:
            continue
        row = cells(line)
        if row == HEADER or set("".join(row)) <= set("-: "):
            continue
        if len(row) != len(HEADER):
            raise ValueError(f"line {number}: {len(row)} cells")
        section, level, requirement, status, code, tests = row
        names = [re.findall(r"`([^`]+)`", cell) for cell in (code, tests)]
        rows.append(Row(number, rfc, section, level, requirement, status, *names))
    return rows


ROWS = parse(DOCUMENT.read_text())


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
    assert re.fullmatch(r"[A-Z]?[\d.]+[A-Z\d.]*", row.section), row.section
    for reference in row.code:
        assert missing(reference, ROOT / "src" / "fastmip") == ""
    for reference in row.tests:
        assert reference.startswith("tests/")
        assert missing(reference, ROOT) == ""
        assert reference.rpartition("::")[2].startswith(("test_", "Test"))
    if row.status in PROVEN:
        assert row.code, "a met requirement names its code"
        assert row.tests, "a met requirement names its test"


def test_every_rfc_of_the_home_agent_has_rows() -> None:
    assert {"5944", "3024"} <= {row.rfc for row in ROWS}


def test_no_requirement_is_listed_twice() -> None:
    seen = [(row.rfc, row.section, row.text) for row in ROWS]
    assert len(seen) == len(set(seen))


def test_the_check_itself_can_fail() -> None:
    assert missing("agents/home.py::HomeAgent.receive_datagram", ROOT / "src" / "fastmip") == ""
    assert missing("agents/home.py::HomeAgent.nothing", ROOT / "src" / "fastmip")
    assert missing("agents/nowhere.py", ROOT / "src" / "fastmip")
    assert missing("tests/meta/test_rfc_compliance.py::test_row_is_false", ROOT)
    table = "## RFC 1\n| Section | Level |\n"
    with pytest.raises(ValueError, match="cells"):
        parse(table)
