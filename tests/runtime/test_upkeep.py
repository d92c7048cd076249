"""A role that cannot look after itself for a moment ends nothing; what only a start mends does."""

from __future__ import annotations

import pytest

from fastmip.runtime import daemon as daemon_module
from fastmip.runtime.config import Config
from fastmip.runtime.daemon import Daemon
from fastmip.runtime.libbpf import BpfError
from fastmip.runtime.service import StartError


class Role:
    """A service whose upkeep fails in turn by these."""

    name = "home-agent"

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def keep(self) -> None:
        raise self.errors.pop(0)


@pytest.mark.parametrize("passing", [OSError("busy"), BpfError("eth0: busy")], ids=repr)
async def test_upkeep_goes_on_until_only_a_start_mends(
    monkeypatch: pytest.MonkeyPatch, passing: Exception
) -> None:
    monkeypatch.setattr(daemon_module, "KEEP_S", 0)
    process = Daemon(Config(), "fastmip.toml")
    role = Role(passing, StartError("fm0: gone"))
    process._services.append(role)  # type: ignore[arg-type] # upkeep asks for no more
    await process._keep()
    assert role.errors == []
    assert str(process._failure) == "fm0: gone"
    assert process._stopping.is_set()
