"""Compile C engine headers into a library that tests load by ctypes."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

ENGINE = Path(__file__).parents[2] / "src/fastmip/engine"


def compile_probe(source: Path, directory: Path, *libraries: str) -> ctypes.CDLL:
    """Build ``source`` with warnings as errors; undefined behaviour traps. Loads the result."""
    library = directory / f"{source.stem}.so"
    command = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", "-shared", "-fPIC"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-unused-parameter"]
    command += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    if "libasan" in os.environ.get("LD_PRELOAD", ""):  # sh ./run asan
        command += ["-fsanitize=address", "-fno-omit-frame-pointer"]
    command += [f"-I{ENGINE}", "-o", str(library), str(source)]
    subprocess.run([*command, *(f"-l{name}" for name in libraries)], check=True)
    return ctypes.CDLL(str(library))


def pack(packets: Iterable[bytes]) -> bytes:
    """Packets as probes take them: length, packet, repeated."""
    return b"".join(struct.pack("=I", len(packet)) + packet for packet in packets)


def unpack(data: bytes) -> list[bytes]:
    """Packets as probes give them."""
    packets = []
    while data:
        (size,) = struct.unpack_from("=I", data)
        packets.append(data[4 : 4 + size])
        data = data[4 + size :]
    return packets
