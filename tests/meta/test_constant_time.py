"""Nobody compares an authenticator with ``==``: that takes longer the more of it is right."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "fastmip"
SECRET_WORDS = ("authenticator", "digest")
# Names that tell how long one is, or what computes it; not one itself.
HARMLESS = ("_len", "algorithm")


def is_secret(node: ast.expr) -> bool:
    """Say whether an expression is named like an authenticator, or calls what returns one."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Subscript):
        node = node.value
    name = getattr(node, "attr", getattr(node, "id", "")).lower()
    return any(word in name for word in SECRET_WORDS) and not name.endswith(HARMLESS)


def offences(text: str) -> list[int]:
    """Line numbers of comparisons of an authenticator."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Compare)
        and any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops)
        and any(is_secret(side) for side in (node.left, *node.comparators))
    ]


def test_no_source_compares_an_authenticator() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 10
    found = [f"{path}:{line}" for path in files for line in offences(path.read_text())]
    assert found == []


def test_this_lint_can_fail() -> None:
    assert offences("extension.authenticator == expected") == [1]
    assert offences("x = 1\nif expected != state.digest(): pass") == [2]
    assert offences("mac in (authenticator[:12],)") == []
    assert offences("authenticator[:12] == mac") == [1]
    assert offences("hmac.compare_digest(expected, authenticator)") == []
    assert offences("len(mac) == algorithm.digest_len") == []
