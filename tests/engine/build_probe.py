"""Compile the probe extension into build/ and import it from there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ENGINE = ROOT / "src/fastmip/engine"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"]


def is_fresh(built: Path) -> bool:
    """Newer than everything it was made from."""
    sources = [*ENGINE.glob("*.h"), HERE / "_probe.pyx", HERE / "publication_lab.h"]
    return built.exists() and all(built.stat().st_mtime > s.stat().st_mtime for s in sources)


@cache
def probe() -> ModuleType:
    """The probe, compiled as the engine under test is: sanitized in a sanitized run."""
    is_sanitized = "FASTMIP_EXPECT_BUILD" in os.environ
    build = ROOT / "build" / ("probe-asan" if is_sanitized else "probe")
    built = build / f"_probe{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not is_fresh(built):
        build.mkdir(parents=True, exist_ok=True)
        generated = build / "_probe.c"
        cython = [sys.executable, "-m", "cython", "-3", str(HERE / "_probe.pyx")]
        plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        subprocess.run([*cython, "-o", str(generated)], check=True, env=plain)
        includes = [f"-I{place}" for place in (ENGINE, HERE, sysconfig.get_paths()["include"])]
        flags = SANITIZE if is_sanitized else ["-O2"]
        compiler = ["gcc", "-shared", "-fPIC", *flags, *includes, str(generated)]
        subprocess.run([*compiler, "-o", str(built)], check=True, env=plain)
    spec = importlib.util.spec_from_file_location("_probe", built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
