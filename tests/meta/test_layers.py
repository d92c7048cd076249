"""Knowledge flows one way: runtime -> agents -> auth -> wire -> errors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "fastmip"
RANK = {"errors": 0, "wire": 1, "auth": 2, "agents": 3, "_dataplane": 3, "runtime": 4}
# What only the edge may know: sockets, clocks, threads, processes, stores.
EDGE_ONLY = {
    *("asyncio", "click", "os", "pyroute2", "random", "rich", "secrets", "socket"),
    *("sqlite3", "structlog", "subprocess", "threading", "time"),
}


def modules() -> list[Path]:
    return sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE or p.stem == "errors")


def room_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def imported(text: str, path: Path) -> list[str]:
    """Absolute dotted names of everything a module's text imports, also inside functions."""
    package = ["fastmip", *path.relative_to(SOURCE).parts[:-1]]
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            names.append(".".join(stem))
            names += [".".join([*stem, alias.name]) for alias in node.names]
    return names


def upward(text: str, path: Path) -> list[str]:
    """Imports of a module's text that the arrows forbid."""
    room = room_of(path)
    wrong = []
    for name in imported(text, path):
        parts = name.split(".")
        if parts[0] != "fastmip" or len(parts) < 2 or parts[1] not in RANK:
            continue
        engine_outside_runtime = parts[1] == "_dataplane" and room != "runtime"
        if RANK[parts[1]] > RANK[room] or engine_outside_runtime:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_import_points_upward(path: Path) -> None:
    assert upward(path.read_text(), path) == []


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_runtime_touches_the_world(path: Path) -> None:
    if room_of(path) == "runtime":
        return
    touched = {name.split(".")[0] for name in imported(path.read_text(), path)} & EDGE_ONLY
    assert touched == set()


@pytest.mark.parametrize(
    "text",
    [
        "from ..runtime import clock",
        "import fastmip.runtime.clock",
        "from fastmip import _dataplane",
    ],
)
def test_the_rule_sees_an_upward_arrow(text: str) -> None:
    assert upward(text, SOURCE / "agents" / "home.py") != []
