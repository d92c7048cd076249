"""What the doctor may look at, and how it looks on a real Linux machine.

``Machine`` is the whole list; the checks see nothing else, so tests hand them any machine.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import sqlite3
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple, Protocol

from fastmip.errors import FastmipError
from fastmip.runtime import libbpf, output_stack

# linux/ethtool.h, linux/sockios.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x3
_DRVINFO_LEN = 196
_ETHTOOL_GSTRINGS = 0x1B
_ETHTOOL_GSSET_INFO = 0x37
_ETHTOOL_GFEATURES = 0x3A
_ETH_SS_FEATURES = 4
_ETH_GSTRING_LEN = 32
_MAX_FEATURES = 512

_RULESET_TIMEOUT_S = 5


class ClockStatus(NamedTuple):
    """What the kernel says about the wall clock (adjtimex(2))."""

    is_synchronised: bool
    max_error_s: float


class Machine(Protocol):
    """Everything a check may ask; ``None`` means it cannot be known here."""

    def read(self, path: str) -> str | None:
        """Text of a file in /proc or /sys."""

    def open_tun(self) -> str | None:
        """Why /dev/net/tun cannot be opened; None when it can."""

    def open_raw_socket(self, protocol: int) -> str | None:
        """Why a raw socket for a protocol cannot be opened; None when it can."""

    def clock(self) -> ClockStatus | None:
        """State of the wall clock."""

    def offloads(self, interface: str) -> dict[str, bool] | None:
        """Offload features of an interface by their kernel names."""

    def driver(self, interface: str) -> str | None:
        """Driver of an interface, as ``ethtool -i`` names it."""

    def xdp_program(self, interface: str) -> str | None:
        """XDP program that is attached to an interface."""

    def bpf_error(self) -> str | None:
        """Why XDP programs cannot be loaded here, in one line; None when nothing is missing."""

    def ruleset(self) -> str | None:
        """The nftables rule set as JSON."""

    def output_users(self) -> str:
        """What acts on packets this machine sends, beside routing; empty: nothing."""

    def sqlite_version(self) -> tuple[int, ...]:
        """Version of the SQLite library."""


class LinuxMachine:
    """This machine."""

    def read(self, path: str) -> str | None:
        """Text of a file; None when it is absent or closed to us."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def open_tun(self) -> str | None:
        """Open and close the TUN device node."""
        try:
            os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return error.strerror or str(error)
        return None

    def open_raw_socket(self, protocol: int) -> str | None:
        """Open and close a raw socket."""
        try:
            socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol).close()
        except OSError as error:
            return error.strerror or str(error)
        return None

    def clock(self) -> ClockStatus | None:
        """Ask adjtimex(2), changing nothing."""
        timex = _Timex()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
        if state < 0:
            return None
        unsynchronised = state == _TIME_ERROR or timex.status & _STA_UNSYNC
        return ClockStatus(not unsynchronised, timex.maxerror / 1e6)

    def offloads(self, interface: str) -> dict[str, bool] | None:
        """Ask the driver through SIOCETHTOOL, as ``ethtool -k`` does."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
                names = _feature_names(query, interface)
                return _features(query, interface, names)
        except OSError:
            return None

    def driver(self, interface: str) -> str | None:
        """Ask through SIOCETHTOOL, as ``ethtool -i`` does."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
                command = bytearray(struct.pack("=I", _ETHTOOL_GDRVINFO) + bytes(_DRVINFO_LEN - 4))
                answer = _ethtool(query, interface, command)
        except OSError:
            return None
        return bytes(answer[4:36]).partition(b"\0")[0].decode("ascii", "replace") or None

    def xdp_program(self, interface: str) -> str | None:
        """Ask by libbpf; None also without it."""
        try:
            return libbpf.xdp_program_of(socket.if_nametoindex(interface))
        except (OSError, FastmipError):
            return None

    def bpf_error(self) -> str | None:
        """Look for the library and for the object that was built with the package."""
        try:
            libbpf.library()
            libbpf.read_object("fastmip_xdp")
        except FastmipError as error:
            return str(error)
        return None

    def ruleset(self) -> str | None:
        """Ask ``nft``; None when it is not installed or not permitted."""
        try:
            done = subprocess.run(
                ["nft", "-j", "list", "chains"],  # noqa: S607 - wherever the system has it
                capture_output=True,
                text=True,
                timeout=_RULESET_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    def output_users(self) -> str:
        """Ask by netlink, as the daemon does."""
        return output_stack.users()

    def sqlite_version(self) -> tuple[int, ...]:
        """Version of the library Python is linked to."""
        return sqlite3.sqlite_version_info


class _Timex(ctypes.Structure):
    """The head of ``struct timex``; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_int),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_char * 256),
    )


_TIME_ERROR = 5
_STA_UNSYNC = 0x40


def _ethtool(query: socket.socket, interface: str, command: bytearray) -> bytearray:
    """Run one ETHTOOL command in place. Raises OSError."""
    buffer = (ctypes.c_char * len(command)).from_buffer(command)
    name = interface.encode()[:15]
    request = struct.pack("16sP16x", name, ctypes.addressof(buffer))
    fcntl.ioctl(query, _SIOCETHTOOL, request)
    return command


def _feature_names(query: socket.socket, interface: str) -> list[str]:
    sets = _ethtool(
        query, interface, bytearray(struct.pack("=IIQI", _ETHTOOL_GSSET_INFO, 0, 1 << 4, 0))
    )
    count = min(struct.unpack_from("=I", sets, 16)[0], _MAX_FEATURES)
    head = struct.pack("=III", _ETHTOOL_GSTRINGS, _ETH_SS_FEATURES, count)
    strings = _ethtool(query, interface, bytearray(head + bytes(count * _ETH_GSTRING_LEN)))
    return [
        bytes(strings[at : at + _ETH_GSTRING_LEN]).partition(b"\0")[0].decode("ascii", "replace")
        for at in range(12, 12 + count * _ETH_GSTRING_LEN, _ETH_GSTRING_LEN)
    ]


def _features(query: socket.socket, interface: str, names: list[str]) -> dict[str, bool]:
    blocks = (len(names) + 31) // 32
    head = struct.pack("=II", _ETHTOOL_GFEATURES, blocks)
    answer = _ethtool(query, interface, bytearray(head + bytes(16 * blocks)))
    found = {}
    for number, name in enumerate(names):
        # struct ethtool_get_features_block: available, requested, active, never_changed
        active = struct.unpack_from("=I", answer, 8 + 16 * (number // 32) + 8)[0]
        found[name] = bool(active >> (number % 32) & 1)
    return found
