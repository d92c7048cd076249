"""Build the one extension module, fastmip._dataplane, in one of four modes.

FASTMIP_BUILD=release (default) | debug | trace | asan. Modes never share generated C:
each has its own build directory, because a changed mode alone does not re-cythonize.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

MODE = os.environ.get("FASTMIP_BUILD", "release")
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
FLAGS = {
    "release": ["-O3"],
    "debug": ["-O0", "-g"],
    "trace": ["-O0", "-g", "-DCYTHON_TRACE_NOGIL=1"],
    "asan": [
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-omit-frame-pointer",
        "-fno-sanitize-recover=undefined",
    ],
}
if MODE not in FLAGS:
    raise SystemExit(f"setup.py: FASTMIP_BUILD={MODE}: expected one of {', '.join(FLAGS)}")
LINK = ["-fsanitize=address,undefined"] if MODE == "asan" else []

setup(
    ext_modules=cythonize(
        [
            Extension(
                "fastmip._dataplane",
                ["src/fastmip/_dataplane.pyx"],
                include_dirs=["src/fastmip/engine"],
                # Headers included by headers: Cython sees only those a .pxd names.
                depends=sorted(str(path) for path in Path("src/fastmip/engine").iterdir()),
                extra_compile_args=FLAGS[MODE] + WARNINGS,
                extra_link_args=[*LINK, "-lpthread"],
            )
        ],
        include_path=["src"],
        build_dir=f"build/cython-{MODE}",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "linetrace": MODE == "trace",
        },
    ),
)
