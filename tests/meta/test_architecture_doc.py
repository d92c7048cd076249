"""docs/architecture.md and the README speak of files and rooms that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.meta.test_layers import RANK

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "fastmip"
QUOTED = re.compile(r"`([\w./]+\.(?:py|pyx|pyi|h|pxi|md|toml)|(?:src|docs|tests|bench)/[\w./]*)`")
LINKED = re.compile(r"\]\(([\w./-]+)\)")
HEADERS = {p.name for p in (SOURCE / "engine").iterdir()}


def exists(name: str) -> bool:
    """Paths are written from the project's root, from src/fastmip, or as an engine header."""
    return (ROOT / name).exists() or (SOURCE / name).exists() or name in HEADERS


@pytest.mark.parametrize("page", ["docs/architecture.md", "README.md", "CONTRIBUTING.md"])
def test_named_files_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    named = QUOTED.findall(text) + [str(Path(page).parent / name) for name in LINKED.findall(text)]
    assert named
    assert [name for name in named if not exists(name) and "<" not in name] == []


def test_the_arrows_are_those_the_layer_test_enforces() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    arrows = re.search(r"Arrows: `([\w\s>-]+)`", text)
    assert arrows is not None
    rooms = arrows[1].split(" -> ")
    assert rooms == sorted(rooms, key=lambda room: -RANK[room])
    assert {"runtime", "agents", "auth", "wire", "errors"} == set(rooms)
