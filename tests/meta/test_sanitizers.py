"""The engine's tests run clean under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_engine_tests_are_clean_under_sanitizers() -> None:
    run = subprocess.run(
        ["sh", "./run", "asan"],
        cwd=ROOT,
        env={**os.environ, "FASTMIP_HYPOTHESIS": "ci"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, (run.stdout + run.stderr)[-8000:]
    assert "ERROR: AddressSanitizer" not in run.stderr
    assert " passed" in run.stdout
