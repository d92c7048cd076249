"""The assembler: encodings of the kernel's documents, jumps, and programs of loads."""

from __future__ import annotations

import struct

import pytest

from fastmip.runtime.bench.assembler import Code, R
from fastmip.runtime.bench.traffic import IMIX, Load, generator_code, receiver_code


def lines(code: Code) -> list[tuple[int, int, int, int, int]]:
    """Code, target, source, offset, constant of every instruction."""
    return [
        (op, registers & 15, registers >> 4, offset, k)
        for op, registers, offset, k in struct.iter_unpack("=BBhi", code.assemble())
    ]


def test_instructions_are_encoded_as_the_kernel_reads_them() -> None:
    c = Code()
    c.op(R.R1, "=", R.R2)
    c.op(R.R3, "+", -4)
    c.op(R.R3, "%", 7, wide=False)
    c.load(R.R4, 2, R.R1, 12)
    c.store(8, R.STACK, -8, R.R4)
    c.store(4, R.R6, 18, 5)
    c.to_big_endian(R.R0, 32)
    c.call(7)
    c.leave(2)
    assert lines(c) == [
        (0xBF, 1, 2, 0, 0),
        (0x07, 3, 0, 0, -4),
        (0x94, 3, 0, 0, 7),
        (0x69, 4, 1, 12, 0),
        (0x7B, 10, 4, -8, 0),
        (0x62, 6, 0, 18, 5),
        (0xDC, 0, 0, 0, 32),
        (0x85, 0, 0, 0, 7),
        (0xB4, 0, 0, 0, 2),
        (0x95, 0, 0, 0, 0),
    ]


def test_wide_constants_take_two_lines_and_jumps_count_them() -> None:
    c = Code()
    c.go_if("end", R.R1, "==", 0)
    c.constant(R.R2, 0x1122334455667788)
    c.map_value(R.R3, 9)
    c.label("end")
    c.leave(0)
    assert lines(c)[0] == (0x15, 1, 0, 4, 0)
    assert [line[4] for line in lines(c)[1:3]] == [0x55667788, 0x11223344]
    assert lines(c)[3] == (0x18, 3, 2, 0, 9)


def test_a_jump_to_nowhere_is_a_mistake_of_ours() -> None:
    c = Code()
    c.go("nowhere")
    with pytest.raises(KeyError):
        c.assemble()


def test_a_load_names_its_largest_and_mean_size() -> None:
    load = Load(first=1, addresses=1, sizes=IMIX)
    assert load.largest == 1400
    assert load.mean_size == pytest.approx((7 * 64 + 4 * 576 + 1400) / 12)
    assert len(load.frame()) == 1414
    assert len(generator_code(load, 3, out=True)) > len(receiver_code(4)) / 4
