"""Bindings from a CSV file, for measuring on packets from outside."""

from __future__ import annotations

import csv
import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from fastmip.agents.bindings import tunnel_record
from fastmip.agents.effects import NEVER, Tunnel
from fastmip.errors import FastmipError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HEADERS = (["home_address", "remote", "local"], ["home_address", "remote", "local", "mtu"])
DEFAULT_MTU = 1500
MIN_MTU = 68 + 20
"""The smallest IPv4 link (RFC 791) plus an outer header."""


class BindingsError(FastmipError):
    """A CSV file that holds no bindings; the text names file, line and remedy."""


class Binding(NamedTuple):
    """One line of the file, addresses as integers."""

    home_address: int
    remote: int
    local: int
    mtu_bytes: int = DEFAULT_MTU


def read_bindings(path: Path) -> list[Binding]:
    """Read a CSV file with the header ``home_address,remote,local[,mtu]``.

    Several lines with one home address are simultaneous bindings. Raises BindingsError.
    """
    try:
        with path.open(newline="", encoding="ascii") as file:
            reader = csv.reader(file, strict=True)
            if next(reader, None) not in HEADERS:
                raise BindingsError(f"{path}: line 1: expected home_address,remote,local[,mtu]")
            found = [_binding(path, reader.line_num, line) for line in reader if line]
    except OSError as error:
        raise BindingsError(f"{path}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise BindingsError(f"{path}: not a CSV file: {error}") from None
    if not found:
        raise BindingsError(f"{path}: holds no bindings: add a line for each")
    return found


def _binding(path: Path, number: int, line: list[str]) -> Binding:
    try:
        home_address, remote, local = (int(ipaddress.IPv4Address(text)) for text in line[:3])
        mtu_bytes = int(line[3]) if len(line) == 4 else DEFAULT_MTU
    except ValueError as error:
        raise BindingsError(f"{path}: line {number}: {error}") from None
    if len(line) > 4 or not MIN_MTU <= mtu_bytes <= 0xFFFF:
        remedy = f"expected an MTU from {MIN_MTU} to 65535 at the end"
        raise BindingsError(f"{path}: line {number}: {remedy}")
    return Binding(home_address, remote, local, mtu_bytes)


def tunnel_records(bindings: Iterable[Binding]) -> bytes:
    """Pack bindings as the engine wants them: chains adjacent, never expiring, reverse too."""
    ordered = sorted(bindings, key=lambda binding: binding.home_address)
    return b"".join(
        tunnel_record(
            binding.home_address,
            Tunnel(binding.remote, binding.local, NEVER, reverse=True),
            mtu_bytes=binding.mtu_bytes,
        )
        for binding in ordered
    )
