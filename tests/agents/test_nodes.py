"""The bounded cache of nodes."""

from __future__ import annotations

from fastmip.agents.bindings import Binding, pack_bindings
from fastmip.agents.effects import NEVER, NodeRow, Now
from fastmip.agents.nodes import NodeCache

SECOND = 1_000_000_000
NOW = Now(100 * SECOND, 1000 * SECOND)


def binding(expires_ns: int, boot: int = 1, lifetime_s: int = 300) -> Binding:
    return Binding(5, 6, 7, 6, expires_ns, 1200 * SECOND, 9, boot, 256, lifetime_s, 434, 0x22, 4)


class Rows:
    """A store that counts its reads."""

    def __init__(self) -> None:
        self.rows: dict[int, NodeRow] = {}
        self.reads: list[int] = []

    def load(self, home_address: int) -> NodeRow | None:
        self.reads.append(home_address)
        return self.rows.get(home_address)


def test_least_recently_used_node_goes_first() -> None:
    rows = Rows()
    cache = NodeCache(rows.load, boot=1, capacity=16)
    for address in range(16):
        cache.get(address, NOW)
    cache.get(0, NOW)
    cache.get(16, NOW)
    assert len(cache) == 16
    rows.reads.clear()
    cache.get(0, NOW)
    assert rows.reads == []
    cache.get(1, NOW)
    assert rows.reads == [1]


def test_dirty_nodes_stay_and_the_cache_shrinks_again_when_they_are_clean() -> None:
    cache = NodeCache(Rows().load, boot=1, capacity=16)
    nodes = [cache.get(address, NOW) for address in range(16)]
    for node in nodes:
        node.unsaved_nonce = True
    for address in range(100, 110):
        cache.get(address, NOW)
    assert [cache.get(address, NOW) for address in range(16)] == nodes
    for node in nodes:
        node.unsaved_nonce = False
    for address in range(200, 230):
        cache.get(address, NOW)
    assert len(cache) == 16


def test_rows_are_unpacked_and_what_expired_before_the_restart_is_gone() -> None:
    rows = Rows()
    kept = binding(NEVER, lifetime_s=0xFFFF)
    ended = binding(NOW.boot_ns)
    rows.rows[5] = NodeRow(5, 77, 88, pack_bindings([kept, ended]))
    cache = NodeCache(rows.load, boot=1, capacity=16, started=NOW)
    node = cache.get(5, NOW)
    assert (node.identification, node.nonce, node.bindings) == (77, 88, (kept,))


def test_records_of_an_earlier_boot_are_converted_by_the_clocks_of_the_start() -> None:
    rows = Rows()
    rows.rows[5] = NodeRow(5, 77, 0, pack_bindings([binding(3, boot=9)]))
    cache = NodeCache(rows.load, boot=1, capacity=16, started=NOW)
    later = Now(150 * SECOND, 99999 * SECOND)
    (found,) = cache.get(5, later).bindings
    assert found.expires_boot_ns == 300 * SECOND
    assert cache.peek(5) == (found,)


def test_live_is_exact_to_the_nanosecond() -> None:
    cache = NodeCache(Rows().load, boot=1, capacity=16)
    node = cache.get(5, NOW)
    node.bindings = (binding(50), binding(60))
    assert node.live(49) == node.bindings
    assert node.live(50) == (binding(60),)
    assert node.live(60) == ()


def test_peek_leaves_no_trace() -> None:
    rows = Rows()
    cache = NodeCache(rows.load, boot=1, capacity=16)
    assert cache.peek(5) == ()
    assert len(cache) == 0
