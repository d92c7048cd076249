"""Compile the probe extension into build/ and import it from there."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path
from types import ModuleType

from Cython.Build import cythonize
from setuptools import Distribution, Extension

ROOT = Path(__file__).parents[2]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"]


@cache
def probe() -> ModuleType:
    """The probe, compiled as the engine under test is: sanitized in a sanitized run."""
    is_sanitized = "FASTMIP_EXPECT_BUILD" in os.environ
    build = ROOT / "build" / ("probe-asan" if is_sanitized else "probe")
    extension = Extension(
        "_probe",
        [str(ROOT / "tests/engine/_probe.pyx")],
        include_dirs=[str(ROOT / "src/fastmip/engine"), str(ROOT / "tests/engine")],
        depends=[
            *map(str, (ROOT / "src/fastmip/engine").glob("*.h")),
            str(ROOT / "tests/engine/publication_lab.h"),
        ],
        extra_compile_args=SANITIZE if is_sanitized else ["-O2"],
        extra_link_args=SANITIZE if is_sanitized else [],
    )
    modules = cythonize([extension], build_dir=str(build / "c"), quiet=True)
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = str(build)
    command.build_temp = str(build / "tmp")
    command.ensure_finalized()
    command.run()
    spec = importlib.util.spec_from_file_location("_probe", next(build.glob("_probe.*.so")))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
