"""``docs/testing.md`` names a test for every feature id, and every test it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| (T\d\d) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs" / "testing.md").read_text(), re.M
)
LATER = {"T20"}
"""Home addresses assigned on the run."""
MOBILE_NETWORKS = {"T30", "T31", "T32", "T33", "T34"}
UNASSIGNED = {"T23", "T24"}


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_id_has_a_row() -> None:
    ids = [row[0] for row in ROWS]
    assert ids == sorted(set(ids))
    base = {f"T{n:02}" for n in range(1, 29)} - LATER - UNASSIGNED
    assert set(ids) == base | MOBILE_NETWORKS


def test_every_named_test_exists() -> None:
    for number, _, cell in ROWS:
        names = re.findall(r"`([^`]+)`", cell)
        assert names, number
        for name in names:
            file, function = name.split("::")
            assert function in _functions(ROOT / file), name


def test_tests_named_after_an_id_are_in_its_row() -> None:
    rows = {number: cell for number, _, cell in ROWS}
    for path in sorted((ROOT / "tests" / "netns").glob("test_features_*.py")):
        for function in _functions(path):
            found = re.match(r"test_(t\d\d)_", function)
            if found:
                assert function in rows[found[1].upper()], function


def test_rfc_2005_has_a_test_for_each_of_its_eleven_points() -> None:
    names = _functions(ROOT / "tests" / "netns" / "test_rfc2005_acceptance.py")
    points = [int(name.split("_")[2]) for name in names if name.startswith("test_point_")]
    assert sorted(points) == list(range(1, 12))
