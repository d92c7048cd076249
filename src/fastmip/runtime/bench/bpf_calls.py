"""The ``bpf`` system call, as far as programs that send and count need it."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path

from fastmip.errors import FastmipError

_NUMBERS = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD = 0, 1, 2, 5
_PROG_TEST_RUN, _LINK_CREATE = 10, 28

ARRAY, PER_CPU_ARRAY = 2, 6
"""Types of maps."""
XDP, LWT_XMIT = 6, 12
"""Types of programs."""
_ATTACH_XDP = 37
XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3

_LIVE_FRAMES = 1 << 1
_LOG_SIZE = 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class BpfError(FastmipError):
    """The kernel refused a map, a program or to run it."""


def _bpf(command: int, attributes: bytes) -> int:
    """The call's result; raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise BpfError(f"bpf: not on {platform.machine()}")
    done = int(_libc.syscall(number, command, buffer, ctypes.c_uint(len(attributes))))
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done


def possible_cpus() -> int:
    """How many values a per-CPU map has for one key."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace(",", "-").split("-")[-1]) + 1


class Map:
    """An array with one value."""

    def __init__(self, kind: int, value_size: int) -> None:
        """Raises BpfError, mostly for want of privileges."""
        self._size = value_size * (possible_cpus() if kind == PER_CPU_ARRAY else 1)
        try:
            self.fd = _bpf(_MAP_CREATE, struct.pack("=5I", kind, 4, value_size, 1, 0))
        except OSError as error:
            raise BpfError(
                f"bpf map: {error.strerror}: it takes CAP_BPF and CAP_NET_ADMIN, or root"
            ) from None

    def _element(self, command: int, value: bytes) -> bytes:
        key = ctypes.create_string_buffer(4)
        buffer = ctypes.create_string_buffer(value, self._size)
        where = (ctypes.addressof(key), ctypes.addressof(buffer))
        _bpf(command, struct.pack("=I4xQQQ", self.fd, *where, 0))
        return buffer.raw

    def read(self) -> bytes:
        """The value; of a per-CPU map all of them in a row."""
        return self._element(_MAP_LOOKUP, b"")

    def clear(self) -> None:
        """Set all to zero."""
        self._element(_MAP_UPDATE, b"")

    def close(self) -> None:
        """Let go of it; programs keep theirs."""
        os.close(self.fd)


def load_program(kind: int, code: bytes, name: str) -> int:
    """Descriptor of a loaded program. Raises BpfError with the verifier's last words."""
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        *(kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(licence)),
        *(0, 0, 0, 0, 0, name.encode(), 0, _ATTACH_XDP if kind == XDP else 0),
    )
    try:
        return _bpf(_PROG_LOAD, attributes)
    except OSError as error:
        reason = error.strerror
    log = ctypes.create_string_buffer(_LOG_SIZE)
    told = struct.pack("=IIQ", 1, _LOG_SIZE, ctypes.addressof(log))
    try:
        return _bpf(_PROG_LOAD, attributes[:24] + told + attributes[40:])
    except OSError:
        words = log.value.decode(errors="replace").strip().splitlines()
        raise BpfError(f"bpf program {name}: {reason}: {' / '.join(words[-4:])}") from None


def attach_xdp(program: int, index: int, flags: int) -> int:
    """Put a program on an interface; closing the descriptor takes it off. Raises OSError."""
    return _bpf(_LINK_CREATE, struct.pack("=4I", program, index, _ATTACH_XDP, flags))


def run_live(program: int, frame: bytes, index: int, *, repeat: int, batch: int) -> None:
    """Run an XDP program on so many frames as if the interface had received them.

    Raises OSError, InterruptedError when a signal came.
    """
    data = ctypes.create_string_buffer(frame, len(frame))
    context = ctypes.create_string_buffer(struct.pack("=6I", 0, len(frame), 0, index, 0, 0), 24)
    attributes = struct.pack(
        "=4I2Q4I2Q3I4x",
        *(program, 0, len(frame), 0, ctypes.addressof(data), 0),
        *(repeat, 0, 24, 0, ctypes.addressof(context), 0),
        *(_LIVE_FRAMES, 0, batch),
    )
    _bpf(_PROG_TEST_RUN, attributes)
