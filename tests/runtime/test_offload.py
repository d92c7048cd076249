"""Which netlink messages make offload ask for next hops anew."""

from __future__ import annotations

import socket
import struct

from fastmip.runtime.offload import Neighbours

NEW, DELETED, NEW_ROUTE = 28, 29, 24
REACHABLE, STALE, FAILED = 0x02, 0x04, 0x20


def message(kind: int, state: int, mac: str = "0a", family: int = socket.AF_INET) -> bytes:
    attributes = struct.pack("=HH4s", 8, 1, bytes([192, 0, 2, 9]))
    attributes += struct.pack("=HH6s2x", 10, 2, bytes.fromhex(mac * 6))
    body = struct.pack("=B3xiH2x", family, 3, state) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_a_confirmed_neighbour_is_no_news() -> None:
    known = Neighbours()
    assert known.changes(message(NEW, REACHABLE))
    assert not known.changes(message(NEW, STALE) + message(NEW, REACHABLE))
    assert known.changes(message(NEW, REACHABLE, mac="0b"))
    assert known.changes(message(NEW, FAILED, mac="0b"))
    assert known.changes(message(NEW, REACHABLE, mac="0b"))
    assert known.changes(message(DELETED, REACHABLE, mac="0b"))
    assert not known.changes(message(NEW, REACHABLE, family=socket.AF_INET6))


def test_everything_else_is_news() -> None:
    known = Neighbours()
    known.changes(message(NEW, REACHABLE))
    route = struct.pack("=IHHII", 28, NEW_ROUTE, 0, 0, 0) + bytes(12)
    assert known.changes(message(NEW, REACHABLE) + route)
    assert known.changes(struct.pack("=IHHII", 3, NEW, 0, 0, 0))
    assert known.changes(struct.pack("=IHHII", 18, NEW, 0, 0, 0) + bytes(2))
