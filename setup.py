"""Build the one extension module, fastmip._dataplane, in one of four modes.

FASTMIP_BUILD=release (default) | debug | trace | asan. Modes never share generated C:
each has its own build directory, because a changed mode alone does not re-cythonize.

The programs in src/fastmip/bpf are compiled by clang, if there is one; without it fastmip does
everything but XDP and offload, and says so when asked for them.
"""

import os
import platform
import shutil
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

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
BPF_FLAGS = ["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]
LINK = ["-fsanitize=address,undefined"] if MODE == "asan" else []


def find_clang():
    """The clang to compile BPF with: $CLANG, or the newest on PATH; None without one."""
    names = ["clang", *(f"clang-{version}" for version in range(25, 11, -1))]
    if os.environ.get("CLANG"):
        names = [os.environ["CLANG"]]
    return next((path for path in map(shutil.which, names) if path), None)


class BuildWithBpf(build_ext):
    """The extension module, and the BPF objects beside it."""

    def run(self):
        super().run()
        is_here = self.inplace or self.editable_mode
        self.compile_bpf(Path("src" if is_here else self.build_lib) / "fastmip" / "bpf")

    def compile_bpf(self, directory):
        clang = find_clang()
        if clang is None:
            sys.stderr.write("setup.py: no clang: built without BPF programs\n")
            return
        directory.mkdir(parents=True, exist_ok=True)
        machine = f"/usr/include/{platform.machine()}-linux-gnu"  # asm/types.h on Debian
        for source in sorted(Path("src/fastmip/bpf").glob("*.bpf.c")):
            made = directory / f"{source.stem}.o"
            command = [clang, *BPF_FLAGS, "-idirafter", machine, "-c", str(source)]
            self.spawn([*command, "-o", str(made)])


setup(
    cmdclass={"build_ext": BuildWithBpf},
    ext_modules=cythonize(
        [
            Extension(
                "fastmip._dataplane",
                ["src/fastmip/_dataplane.pyx"],
                include_dirs=["src/fastmip/engine"],
                # Headers included by headers: Cython sees only those a .pxd names.
                depends=sorted(
                    str(path)
                    for path in [
                        *Path("src/fastmip/engine").iterdir(),
                        Path("src/fastmip/bpf/home.h"),
                    ]
                ),
                extra_compile_args=FLAGS[MODE] + WARNINGS,
                extra_link_args=[*LINK, "-lpthread", "-lcrypto", "-ldl"],
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
