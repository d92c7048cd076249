"""Every fuzz target runs for a bounded time in each test run, and the fuzzer does find bugs."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from fuzz import mutation
from fuzz.run import TARGETS, main

from fastmip.errors import WireError
from fastmip.wire.registration import RegistrationRequest

SEED = 20260101


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_for_a_while(name: str) -> None:
    module = importlib.import_module(f"fuzz.{name}")
    result = mutation.run(name, module.target, module.SEEDS, seconds=3, seed=SEED)
    assert result.runs > len(module.SEEDS)
    assert result.outcomes > 10


@pytest.mark.parametrize("name", TARGETS)
def test_target_states_its_invariant_in_its_first_line(name: str) -> None:
    first = Path(importlib.import_module(f"fuzz.{name}").__file__ or "").read_text()[:20]
    assert first.startswith('"""Invariant: ')


@pytest.mark.fuzz
def test_the_fuzzer_finds_a_planted_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def careless(data: bytes) -> object:
        try:
            request = RegistrationRequest.decode(data)
        except WireError:
            return None
        return [extension.raw[7] for extension in request.extensions if extension.type == 134]

    def target(data: bytes) -> str:
        return str(careless(data))

    monkeypatch.setattr(mutation, "CRASHES", tmp_path)
    module = importlib.import_module("fuzz.control")
    with pytest.raises(mutation.Finding, match="IndexError") as found:
        mutation.run("planted", target, module.SEEDS, seconds=30, seed=SEED)
    with pytest.raises(IndexError):
        careless(found.value.path.read_bytes())
    monkeypatch.setattr(module, "target", target)
    assert main(("control",), ["--seconds", "30", "--seed", "1"]) == 1
    assert "IndexError" in capsys.readouterr().err
