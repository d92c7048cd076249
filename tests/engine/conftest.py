"""Prove that the engine under test is the one that was built for this run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastmip import _dataplane


@pytest.fixture(autouse=True, scope="session")
def _expected_build() -> None:
    """An installed release build would otherwise stand in for the sanitized one, silently."""
    expected = os.environ.get("FASTMIP_EXPECT_BUILD")
    if expected:
        loaded = Path(_dataplane.__file__).resolve()
        assert loaded.is_relative_to(Path(expected).resolve()), loaded
