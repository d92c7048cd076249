"""An assembler for the kernel's BPF machine: enough for the programs that send and count.

A program is written line by line; jumps go forward to labels. The kernel's verifier judges it.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Literal


class R(IntEnum):
    """A register. R0 returns, R1 to R5 pass arguments and are lost in calls, R10 is the stack."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    STACK = 10


Operator = Literal["+", "-", "*", "/", "|", "&", "<<", ">>", "%", "^", "="]
Relation = Literal["==", "!=", ">", ">=", "<", "<="]
Size = Literal[1, 2, 4, 8]

_OPERATORS: dict[Operator, int] = {
    "+": 0x00,
    "-": 0x10,
    "*": 0x20,
    "/": 0x30,
    "|": 0x40,
    "&": 0x50,
    "<<": 0x60,
    ">>": 0x70,
    "%": 0x90,
    "^": 0xA0,
    "=": 0xB0,
}
_RELATIONS: dict[Relation, int] = {
    "==": 0x10,
    ">": 0x20,
    ">=": 0x30,
    "!=": 0x50,
    "<": 0xA0,
    "<=": 0xB0,
}
_SIZES: dict[Size, int] = {4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18}
_ALU32, _ALU64, _JUMP = 0x04, 0x07, 0x05
_BY_REGISTER = 0x08
_LOAD, _STORE_CONSTANT, _STORE = 0x61, 0x62, 0x63
_TO_BIG_ENDIAN, _CALL, _EXIT = 0xDC, 0x85, 0x95
_LOAD_WIDE, _MAP_FD, _MAP_VALUE = 0x18, 1, 2
_LINE = struct.Struct("=BBhI")
_ALL = 0xFFFFFFFF


class Code:
    """A program in the making."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lines: list[tuple[int, int, int, int, int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}

    def _line(
        self, code: int, target: int = 0, source: int = 0, offset: int = 0, k: int = 0
    ) -> None:
        self._lines.append((code, target, source, offset, k & _ALL))

    def op(self, target: R, operator: Operator, value: R | int, *, wide: bool = True) -> None:
        """``target = target operator value``; not ``wide``: on 32 bits, the others become zero."""
        code = _OPERATORS[operator] | (_ALU64 if wide else _ALU32)
        if isinstance(value, R):
            self._line(code | _BY_REGISTER, target, value)
        else:
            self._line(code, target, k=value)

    def to_big_endian(self, target: R, bits: Literal[16, 32, 64]) -> None:
        """Keep so many bits, in network order."""
        self._line(_TO_BIG_ENDIAN, target, k=bits)

    def load(self, target: R, size: Size, base: R, offset: int) -> None:
        """Read memory."""
        self._line(_LOAD | _SIZES[size], target, base, offset)

    def store(self, size: Size, base: R, offset: int, value: R | int) -> None:
        """Write memory; a constant of 8 octets is 32 bits wide and signed."""
        if isinstance(value, R):
            self._line(_STORE | _SIZES[size], base, value, offset)
        else:
            self._line(_STORE_CONSTANT | _SIZES[size], base, 0, offset, value)

    def constant(self, target: R, value: int) -> None:
        """Set 64 bits."""
        self._line(_LOAD_WIDE, target, k=value)
        self._line(0, k=value >> 32)

    def map_fd(self, target: R, fd: int) -> None:
        """Set a pointer to a map."""
        self._line(_LOAD_WIDE, target, _MAP_FD, k=fd)
        self._line(0)

    def map_value(self, target: R, fd: int) -> None:
        """Set a pointer to the only value of an array."""
        self._line(_LOAD_WIDE, target, _MAP_VALUE, k=fd)
        self._line(0)

    def label(self, name: str) -> None:
        """Jumps to ``name`` land here."""
        self._labels[name] = len(self._lines)

    def go(self, label: str) -> None:
        """Jump in any case."""
        self._jumps[len(self._lines)] = label
        self._line(_JUMP)

    def go_if(self, label: str, left: R, relation: Relation, right: R | int) -> None:
        """Jump if; numbers are unsigned."""
        self._jumps[len(self._lines)] = label
        code = _RELATIONS[relation] | _JUMP
        if isinstance(right, R):
            self._line(code | _BY_REGISTER, left, right)
        else:
            self._line(code, left, k=right)

    def call(self, helper: int) -> None:
        """Call a function of the kernel."""
        self._line(_CALL, k=helper)

    def leave(self, value: int) -> None:
        """Return a constant."""
        self.op(R.R0, "=", value, wide=False)
        self._line(_EXIT)

    def leave_as_said(self) -> None:
        """Return R0."""
        self._line(_EXIT)

    def assemble(self) -> bytes:
        """The program as the kernel takes it."""
        lines = list(self._lines)
        for at, label in self._jumps.items():
            code, target, source, _, k = lines[at]
            lines[at] = (code, target, source, self._labels[label] - at - 1, k)
        return b"".join(
            _LINE.pack(code, source << 4 | target, offset, k)
            for code, target, source, offset, k in lines
        )
