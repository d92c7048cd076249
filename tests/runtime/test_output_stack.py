"""What /proc tells of iptables, and where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastmip.runtime import output_stack

REFUSED = "not to be found out: "


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc without netfilter, and no netlink to ask."""
    (tmp_path / "self" / "net").mkdir(parents=True)
    monkeypatch.setattr(output_stack, "_PROC", tmp_path)
    monkeypatch.setattr(output_stack, "_ask", lambda *_: iter(()))
    return tmp_path


@pytest.fixture
def modules(proc: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """What is found with this /proc/modules, when only root may read the names of tables."""
    read = Path.read_text

    def read_text(path: Path) -> str:
        if path.name == "ip_tables_names":
            raise PermissionError(13, "Permission denied")
        return read(path)

    def users(text: str) -> str:
        (proc / "modules").write_text(text)
        return output_stack.users()

    monkeypatch.setattr(Path, "read_text", read_text)
    return users


def test_tables_are_found(proc: Path) -> None:
    assert output_stack.users() == ""
    names = proc / "self" / "net" / "ip_tables_names"
    names.write_text("")
    assert output_stack.users() == ""
    names.write_text("mangle\nfilter\n")
    assert output_stack.users() == "iptables mangle"


def test_a_proc_without_networks_is_no_proof(proc: Path) -> None:
    (proc / "self" / "net").rmdir()
    assert output_stack.users().startswith(REFUSED)


def test_without_leave_to_read_tables_their_modules_tell(
    proc: Path, modules: Callable[[str], str]
) -> None:
    others = "x_tables 65536 1 ip_tables, Live 0x0\n"
    assert modules(others + "ip_tables 36864 0 - Live 0x0\n") == ""
    used = "ip_tables 36864 2 iptable_nat,iptable_filter, Live 0x0\n"
    assert modules(others + used) == "iptables iptable_nat"
    assert modules("ip_tables 36864 1 - Live 0x0\n").startswith("iptables")
    assert modules("").startswith(REFUSED)  # built in: nobody knows
    (proc / "modules").unlink()
    assert output_stack.users().startswith(REFUSED)
