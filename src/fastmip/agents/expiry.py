"""When bindings end: a timing wheel of whole seconds, four bytes a binding.

The wheel holds hints, not truth: a home address stands in the slot of some second no later
than the node's earliest expiry, and the owner looks the node up when the slot comes due. A
refresh therefore costs nothing; the hint comes due early and is put further on.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt

from fastmip.agents.bindings import Binding
from fastmip.agents.effects import NEVER
from fastmip.agents.nodes import Node

_SECOND = 1_000_000_000


def second_of(expires_ns: int) -> int:
    """The first whole second at which an expiry has passed."""
    return -(-expires_ns // _SECOND)


class ExpiryWheel:
    """Home addresses by the CLOCK_BOOTTIME second at which to look at them again."""

    __slots__ = ("_order", "_slots")

    def __init__(self) -> None:
        self._slots: dict[int, array[int]] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        """Hints held."""
        return sum(len(slot) for slot in self._slots.values())

    def add(self, second: int, home_address: int) -> None:
        """Look at a home address at this second."""
        slot = self._slots.get(second)
        if slot is None:
            slot = self._slots[second] = array("I")
            heappush(self._order, second)
        slot.append(home_address)

    def add_many(
        self, home_addresses: npt.NDArray[np.uint32], expires_ns: npt.NDArray[np.uint64]
    ) -> None:
        """Add restored bindings in bulk; infinite ones are left out."""
        finite = expires_ns != np.uint64(NEVER)
        addresses = home_addresses[finite]
        if not len(addresses):
            return
        seconds = -(-expires_ns[finite].astype(np.int64) // _SECOND)
        order = np.argsort(seconds, kind="stable")
        addresses = np.ascontiguousarray(addresses[order], dtype=np.uint32)
        slots, starts = np.unique(seconds[order], return_index=True)
        ends = np.append(starts[1:], len(addresses))
        for second, start, end in zip(slots.tolist(), starts.tolist(), ends.tolist(), strict=True):
            slot = self._slots.get(second)
            if slot is None:
                slot = self._slots[second] = array("I")
                self._order.append(second)
            slot.frombytes(addresses[start:end].tobytes())
        heapify(self._order)

    def next_second(self) -> int | None:
        """The earliest second with a hint."""
        return self._order[0] if self._order else None

    def due(self, second: int, at_most: int) -> Iterator[int]:
        """Take up to ``at_most`` home addresses out of slots up to ``second``, each once a slot.

        The same address may come again from another slot.
        """
        taken = 0
        while self._order and self._order[0] <= second and taken < at_most:
            first = self._order[0]
            slot = self._slots[first]
            room = at_most - taken
            batch = slot[-room:]
            del slot[-room:]
            if not slot:
                del self._slots[first]
                heappop(self._order)
            taken += len(batch)
            yield from dict.fromkeys(batch)


class BindingExpiry:
    """Keeps the rule of the wheel for nodes: a hint no later than the earliest expiry.

    A node that was loaded with bindings has such a hint from an earlier touch or from the
    restart, though its second may not be known (``wheel_second`` 0).
    """

    __slots__ = ("_wheel",)

    def __init__(self) -> None:
        self._wheel = ExpiryWheel()

    def restore(
        self, home_addresses: npt.NDArray[np.uint32], expires_ns: npt.NDArray[np.uint64]
    ) -> None:
        """Take over the bindings found at a restart."""
        self._wheel.add_many(home_addresses, expires_ns)

    def next_deadline(self) -> int | None:
        """CLOCK_BOOTTIME nanoseconds of the earliest hint."""
        second = self._wheel.next_second()
        return None if second is None else second * _SECOND

    def due(self, now_ns: int, at_most: int) -> Iterator[int]:
        """Home addresses to look at now."""
        return self._wheel.due(now_ns // _SECOND, at_most)

    def is_superseded(self, node: Node, now_ns: int) -> bool:
        """Whether a due hint can be dropped because another one will come, and in time."""
        if node.wheel_second > now_ns // _SECOND:
            return True
        node.wheel_second = 0
        return False

    def schedule(
        self,
        node: Node,
        home_address: int,
        old: tuple[Binding, ...],
        new: tuple[Binding, ...],
    ) -> None:
        """Follow a change of bindings; ``old`` are those a hint stands for already."""
        expires_ns = _earliest(new)
        if expires_ns == NEVER:
            return
        second = second_of(expires_ns)
        if node.wheel_second:
            if node.wheel_second <= second:
                return
        elif _earliest(old) <= expires_ns:
            return
        self._add(node, home_address, second)

    def put_off(self, node: Node, home_address: int, now_ns: int, seconds: int) -> None:
        """Look at a node again so many seconds from now."""
        self._add(node, home_address, now_ns // _SECOND + seconds)

    def look_again(self, home_address: int, now_ns: int, seconds: int) -> None:
        """Come back to a hint whose node could not be loaded."""
        self._wheel.add(now_ns // _SECOND + seconds, home_address)

    def _add(self, node: Node, home_address: int, second: int) -> None:
        self._wheel.add(second, home_address)
        node.wheel_second = second


def _earliest(bindings: tuple[Binding, ...]) -> int:
    if len(bindings) == 1:
        return bindings[0].expires_boot_ns
    return min([binding.expires_boot_ns for binding in bindings], default=NEVER)
