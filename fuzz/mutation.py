"""A small mutational fuzzer: no compiler, no coverage, guided by what a target says it saw.

A target is a function from bytes to an outcome (any hashable value). It raises for a broken
invariant, any exception will do. Inputs with an outcome not seen before join the corpus.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

Target = Callable[[bytes], Hashable]

MAX_CORPUS = 1024
MAX_LEN = 65507  # the largest payload of a UDP datagram over IPv4
SLOW_S = 5.0
"""One input that takes longer is a finding: something is superlinear. Generous: machines stall."""
INTERESTING = (0, 1, 2, 3, 4, 5, 6, 20, 31, 32, 33, 34, 36, 127, 128, 129, 131, 254, 255)
CRASHES = Path("build/fuzz")


@dataclass(frozen=True)
class Result:
    """What a run did."""

    runs: int
    outcomes: int


class Finding(Exception):
    """An input that breaks the invariant; ``path`` holds it."""

    def __init__(self, name: str, data: bytes, cause: str) -> None:
        CRASHES.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(data).hexdigest()[:16]
        self.path = CRASHES / f"{name}-{digest}.bin"
        self.path.write_bytes(data)
        super().__init__(f"{name}: {cause}; {len(data)} bytes kept in {self.path}")


class Mutator:
    """Damages messages in the ways that matter to length-prefixed formats."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._ways = (
            self._flip,
            self._overwrite,
            self._cut,
            self._insert,
            self._repeat,
            self._zeros,
            self._length,
        )

    def mutate(self, corpus: Sequence[bytes]) -> bytes:
        """Return a damaged copy of one input, now and then crossed with another."""
        dice = self._dice
        data = bytearray(dice.choice(corpus))
        if dice.random() < 0.2:
            other = dice.choice(corpus)
            data = data[: dice.randint(0, len(data))] + other[dice.randint(0, len(other)) :]
        for _ in range(dice.randint(1, 4)):
            dice.choice(self._ways)(data)
        return bytes(data[:MAX_LEN])

    def _place(self, data: bytearray) -> int:
        return self._dice.randrange(len(data)) if data else 0

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._place(data)] ^= 1 << self._dice.randrange(8)

    def _overwrite(self, data: bytearray) -> None:
        if data:
            data[self._place(data)] = self._dice.choice(INTERESTING)

    def _cut(self, data: bytearray) -> None:
        start = self._place(data)
        del data[start : start + self._dice.choice((1, 2, 4, 16, MAX_LEN))]

    def _insert(self, data: bytearray) -> None:
        start = self._place(data)
        data[start:start] = self._dice.randbytes(self._dice.choice((1, 2, 3, 4, 8, 24)))

    def _repeat(self, data: bytearray) -> None:
        start = self._place(data)
        piece = data[start : start + self._dice.choice((2, 6, 22, 64))]
        data[start:start] = piece * self._dice.choice((1, 2, 100))

    def _zeros(self, data: bytearray) -> None:
        start = self._place(data)
        data[start:start] = bytes(self._dice.choice((1, 2, 5000)))

    def _length(self, data: bytearray) -> None:
        """Make the byte behind an interesting type byte wrong by a little or a lot."""
        start = self._place(data)
        if start + 1 < len(data):
            data[start] = self._dice.choice(INTERESTING)
            data[start + 1] = self._dice.choice((0, 1, 3, 4, 5, len(data) - start, 255)) & 255


def run(name: str, target: Target, seeds: Sequence[bytes], seconds: float, seed: int) -> Result:
    """Fuzz a target for some seconds; raises Finding with the input that broke it."""
    mutator = Mutator(seed)
    corpus = list(seeds)
    outcomes: set[Hashable] = set()
    runs = 0
    end = time.monotonic() + seconds
    pending = list(seeds)
    while (began := time.monotonic()) < end:
        data = pending.pop() if pending else mutator.mutate(corpus)
        try:
            outcome = target(data)
        except Exception as error:
            raise Finding(name, data, f"{type(error).__name__}: {error}") from error
        took = time.monotonic() - began
        if took > SLOW_S:
            raise Finding(name, data, f"took {took:.1f} s")
        runs += 1
        if outcome not in outcomes:
            outcomes.add(outcome)
            if len(corpus) < MAX_CORPUS:
                corpus.append(data)
    return Result(runs, len(outcomes))
