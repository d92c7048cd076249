"""Counts and times, inside the kernel, what arrives of a load at an interface, and drops it."""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from fastmip.runtime.bench import bpf_calls
from fastmip.runtime.bench.bpf_calls import BpfError, Map
from fastmip.runtime.bench.latency import Latencies
from fastmip.runtime.bench.traffic import BUCKETS, TALLY_SIZE, receiver_code

_IN_DRIVER, _BEFORE_KERNEL = 1 << 2, 1 << 1
_WORDS = struct.Struct(f"={TALLY_SIZE // 8}Q")


@dataclass(frozen=True, slots=True)
class Received:
    """What came since it was last asked for."""

    packets: int
    octets: int
    latencies: Latencies


class Receiver:
    """An XDP program on an interface of this thread's namespace."""

    def __init__(self, interface: str) -> None:
        """In the driver where it can, else before the kernel's own reception.

        Raises BpfError, also where the interface has a program already.
        """
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            raise BpfError(f"{interface}: no such interface") from None
        self._tally = Map(bpf_calls.PER_CPU_ARRAY, TALLY_SIZE)
        code = receiver_code(self._tally.fd)
        self._program = bpf_calls.load_program(bpf_calls.XDP, code, "fastmip_sink")
        self.is_in_driver = True
        try:
            self._link = bpf_calls.attach_xdp(self._program, index, _IN_DRIVER)
        except OSError as error:
            if error.errno == errno.EBUSY:
                self._close_program()
                raise BpfError(f"{interface}: has an XDP program already") from None
            self.is_in_driver = False
            self._link = self._attach_generic(interface, index)

    def _attach_generic(self, interface: str, index: int) -> int:
        try:
            return bpf_calls.attach_xdp(self._program, index, _BEFORE_KERNEL)
        except OSError as error:
            self._close_program()
            raise BpfError(f"{interface}: takes no XDP program: {error.strerror}") from None

    def read(self) -> Received:
        """All so far, of all CPUs."""
        sums = [0] * (2 + BUCKETS)
        for one in _WORDS.iter_unpack(self._tally.read()):
            if one[0]:
                sums = [a + b for a, b in zip(sums, one, strict=True)]
        return Received(sums[0], sums[1], Latencies(sums[2:]))

    def clear(self) -> None:
        """Begin again."""
        self._tally.clear()

    def _close_program(self) -> None:
        os.close(self._program)
        self._tally.close()

    def close(self) -> None:
        """Take the program off."""
        os.close(self._link)
        self._close_program()

    def __enter__(self) -> Self:
        """Return the attached program."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take it off."""
        self.close()
