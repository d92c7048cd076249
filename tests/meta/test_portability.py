"""The engine compiles for aarch64: what is x86-64 alone sits behind run-time dispatch."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python_headers(tmp_path: Path) -> list[str]:
    """Include flags for Python.h on another LP64 little-endian machine.

    Debian's pyconfig.h dispatches to a folder per architecture; this machine's fits, because
    both are LP64 and little-endian.
    """
    include = Path(sysconfig.get_paths()["include"])
    foreign = tmp_path / "aarch64-linux-gnu" / include.name
    foreign.mkdir(parents=True)
    native = Path("/usr/include/x86_64-linux-gnu") / include.name / "pyconfig.h"
    if native.exists():
        (foreign / "pyconfig.h").write_text(native.read_text())
    # OpenSSL's configuration, too; last, so that the foreign C library is found first.
    return [f"-I{include}", f"-I{tmp_path}", "-idirafter", "/usr/include/x86_64-linux-gnu"]


@pytest.mark.slow
def test_engine_compiles_for_aarch64(tmp_path: Path) -> None:
    generated = tmp_path / "_dataplane.c"
    cython = [sys.executable, "-m", "cython", "-3", "-I", "src", "-o", str(generated)]
    subprocess.run([*cython, "src/fastmip/_dataplane.pyx"], cwd=ROOT, check=True)
    compiler = ["aarch64-linux-gnu-gcc", "-O1", "-c", "-o", str(tmp_path / "x.o")]
    flags = ["-Werror=implicit-function-declaration", f"-I{ROOT}/src/fastmip/engine"]
    compiled = subprocess.run(
        [*compiler, *flags, *python_headers(tmp_path), str(generated)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr[-4000:]
