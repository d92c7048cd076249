"""The tests can run in a plain chroot: they make it a root of their own first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.roots import leave_chroot, plain_chroot

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]

LEAVE = """
import os, subprocess
from tests.helpers.roots import leave_chroot

def allowed(*command):
    return subprocess.run([*command, "true"], capture_output=True).returncode == 0

def told():
    print(allowed("unshare", "-Ur"), allowed("unshare", "-m"), os.getcwd(), *os.listdir("/"))

told()
print(leave_chroot())
told()
print(leave_chroot())
"""


def in_plain_chroot(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*plain_chroot(directory), *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )


def test_this_session_is_in_no_chroot() -> None:
    assert not leave_chroot()


def test_what_the_kernel_refuses_in_a_chroot_works_after_leaving_it(tmp_path: Path) -> None:
    done = in_plain_chroot(tmp_path / "chroot", sys.executable, "-c", LEAVE)
    before, left, after, left_again = done.stdout.splitlines()
    assert before.startswith(f"False False {ROOT} ")
    assert left == "True"
    assert after == before.replace("False False", "True True", 1)
    assert left_again == "False"


def test_leaving_a_chroot_changes_nothing_for_others(tmp_path: Path) -> None:
    mounts = "grep -v /run/netns/ /proc/self/mountinfo"  # other tests' namespaces come and go
    script = f'{mounts} && echo - && "$@" >&2 && echo - && {mounts}'
    leave = [sys.executable, "-c", LEAVE]
    done = in_plain_chroot(tmp_path / "chroot", "sh", "-c", script, "sh", *leave)
    before, after = done.stdout.split("-\n-\n")
    assert "True True" in done.stderr
    assert before == after
    assert " shared:" in before  # what was mounted there would have been seen
    assert list((tmp_path / "chroot").iterdir()) == []


def test_tests_that_need_namespaces_and_mounts_pass_in_a_plain_chroot(tmp_path: Path) -> None:
    examples = [
        "tests/netns/test_namespaces.py",
        "tests/runtime/test_store.py::"
        "test_a_full_and_a_read_only_store_deny_and_recover_by_themselves",
    ]
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = in_plain_chroot(tmp_path / "chroot", *pytest_, *examples)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
