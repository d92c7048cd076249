"""A reload applies the whole file or refuses the whole file."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastmip.runtime import daemon as daemon_module
from fastmip.runtime.config import Config
from fastmip.runtime.daemon import Daemon
from fastmip.runtime.service import ReloadRefused


class Role:
    """A service that takes a configuration, or not."""

    def __init__(self, name: str, *, refuses: bool = False) -> None:
        self.name = name
        self.refuses = refuses
        self.applied = 0

    async def plan_reload(self, _new: Config) -> list[str]:
        await asyncio.sleep(0)
        if self.refuses:
            raise ReloadRefused(f"{self.name}: not this")
        return [f"{self.name}: changed"]

    async def apply_reload(self, _new: Config) -> None:
        self.applied += 1


def daemon(monkeypatch: pytest.MonkeyPatch, *roles: Any) -> Daemon:
    """One with these services, whose file is all defaults."""
    monkeypatch.setattr(daemon_module, "load_config", lambda _file: Config())
    process = Daemon(Config(), "fastmip.toml")
    process._services.extend(roles)
    return process


async def test_what_one_refuses_none_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    willing, refusing = Role("one"), Role("two", refuses=True)
    process = daemon(monkeypatch, willing, refusing)
    with pytest.raises(ReloadRefused, match="two: not this"):
        await process.reload(dry_run=False)
    assert (willing.applied, refusing.applied) == (0, 0)
    refusing.refuses = False
    assert await process.reload(dry_run=True) == ["one: changed", "two: changed"]
    assert willing.applied == 0
    await process.reload(dry_run=False)
    assert (willing.applied, refusing.applied) == (1, 1)
