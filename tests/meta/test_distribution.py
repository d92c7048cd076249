"""What users install: the sdist is complete, the wheel holds the compiled engine and no source."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_compiled_engine_is_the_one_of_this_tree() -> None:
    import fastmip._dataplane as engine  # noqa: PLC0415 - the import is what is tested

    file = Path(str(engine.__file__))
    assert file.suffix == ".so"
    assert file.parent in {ROOT / "src" / "fastmip", ROOT / "build" / "asan" / "lib" / "fastmip"}


@pytest.mark.slow
def test_sdist_builds_a_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, "--sdist", str(ROOT)], check=True, capture_output=True)
    sdist = next(tmp_path.glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "x")  # noqa: S202 - our own; filters came after Python 3.11.2
    tree = next((tmp_path / "x").iterdir())
    assert (tree / "src/fastmip/_dataplane.pyx").is_file()
    assert list((tree / "src/fastmip/engine").glob("*.h"))
    assert not list(tree.rglob("*.so"))
    subprocess.run([*build, "--wheel", str(tree)], check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert any(n.startswith("fastmip/_dataplane.") and n.endswith(".so") for n in names)
    assert "fastmip/_dataplane.pyi" in names
    assert not [n for n in names if n.endswith((".c", ".pyx", ".pxi", ".h"))]
