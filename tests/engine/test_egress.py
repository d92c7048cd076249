"""The engine's table of next hops beside a simple twin: longest prefix, shares, neighbours."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.lab import a

from fastmip import _dataplane
from fastmip.errors import EngineFull

OUR_MAC = bytes.fromhex("020000000001")
GATEWAYS = [a("10.0.0.1") + number for number in range(8)]


def mac(number: int) -> bytes:
    return bytes([2, 1]) + number.to_bytes(4)


def table() -> _dataplane.Egress:
    made = _dataplane.Engine(max_bindings=1).egress(_dataplane.TUNNEL)
    made.set_link(1, 7, OUR_MAC, 1500, 3)
    for number, gateway in enumerate(GATEWAYS):
        made.set_neighbour(gateway, 1, mac(number))
    return made


def mask(length: int) -> int:
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF


lengths = st.sampled_from([0, 1, 8, 15, 16, 17, 20, 23, 24, 25, 28, 31, 32])
places = st.sampled_from([0x0A000000, 0x0A010000, 0x0A010100, 0xC6336400, 0xFFFFFFFF])
prefixes = st.builds(
    lambda place, length, low: ((place | low) & mask(length), length),
    places,
    lengths,
    st.integers(0, 255),
)


@given(st.lists(st.tuples(prefixes, st.none() | st.integers(0, 7)), max_size=40))
def test_the_longest_prefix_wins_whatever_came_and_went(
    changes: list[tuple[tuple[int, int], int | None]],
) -> None:
    made = table()
    numbers = [made.add_set([(gateway, 1, 0, 1)]) for gateway in GATEWAYS]
    twin: dict[tuple[int, int], int] = {}

    def longest(address: int, shorter_than: int = 33) -> tuple[int, int] | None:
        for length in reversed(range(shorter_than)):
            if (address & mask(length), length) in twin:
                return address & mask(length), length
        return None

    probes = {0, 0x0A000001, 0x0A010101, 0x0A0101FF, 0xC6336407, 0xFFFFFFFF}
    for (prefix, length), number in changes:
        probes |= {prefix, prefix | ~mask(length) & 0xFFFFFFFF, (prefix - 1) & 0xFFFFFFFF}
        if number is not None:
            assert made.set_route(prefix, length, numbers[number])
            twin[prefix, length] = number
            continue
        known = twin.pop((prefix, length), None)
        covering = longest(prefix, length)
        if known is not None and covering is not None and covering[1]:
            made.clear_route(prefix, length, numbers[twin[covering]], covering[1])
        elif known is not None:
            made.clear_route(prefix, length)
    for probe in probes:
        hop, found = made.lookup(probe), longest(probe)
        expected = None if found is None else (mac(twin[found]), OUR_MAC, 7, 1500, 3)
        assert hop == expected, hex(probe)


@given(st.lists(st.integers(1, 255), min_size=1, max_size=16))
def test_flows_are_shared_by_weight(weights: list[int]) -> None:
    made = table()
    for number in range(16):
        made.set_neighbour(a("10.9.0.1") + number, 1, mac(number))
    ways = [(a("10.9.0.1") + number, 1, 0, weight) for number, weight in enumerate(weights)]
    made.set_route(0, 0, made.add_set(ways))
    ends = [made.lookup(1, flow << 22 & 0xFFFFFFFF) for flow in range(1024)]
    shares = [sum(hop is not None and hop[0] == mac(n) for hop in ends) for n in range(len(ways))]
    assert sum(shares) == 1024
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share / 1024 - weight / sum(weights)) < 0.15


def test_neighbours_come_and_go_by_the_thousand() -> None:
    made = table()
    made.set_route(a("100.64.0.0"), 10, made.add_set([(0, 1, 0, 1)]))
    rng = np.random.default_rng(4)
    twin: dict[int, int] = {}
    for turn in range(120_000):
        address = a("100.64.0.0") + int(rng.integers(0, 40_000))
        if address in twin and rng.random() < 0.6:
            made.clear_neighbour(address, 1)
            del twin[address]
        elif made.set_neighbour(address, 1, mac(turn)):
            twin[address] = turn
        else:
            assert len(twin) > 30_000
    assert len(twin) > 10_000
    for offset in range(40_000):
        hop = made.lookup(a("100.64.0.0") + offset)
        number = twin.get(a("100.64.0.0") + offset)
        assert (None if number is None else mac(number)) == (hop and hop[0])


def test_links_and_routes_bound_the_mtu_and_a_link_that_is_down_serves_nobody() -> None:
    made = table()
    made.set_route(0, 0, made.add_set([(GATEWAYS[0], 1, 1400, 1)]))
    assert made.lookup(1) == (mac(0), OUR_MAC, 7, 1400, 3)
    made.set_link(1, 7, mac(9), 1300)
    assert made.lookup(1) == (mac(0), mac(9), 7, 1300, _dataplane.EGRESS_PORTLESS)
    made.clear_link(1)
    assert made.lookup(1) is None


def test_only_stale_neighbours_are_told_of_and_once() -> None:
    made = table()
    made.set_route(0, 0, made.add_set([(GATEWAYS[0], 1, 0, 1)]))
    made.lookup(1)
    assert made.told() == []
    made.set_neighbour(GATEWAYS[0], 1, mac(0), is_stale=True)
    assert made.told() == []
    made.lookup(1)
    assert (made.told(), made.told()) == ([(GATEWAYS[0], 1)], [])


def test_numbers_name_neighbours() -> None:
    made = table()
    made.set_route(0, 0, made.add_set([(GATEWAYS[1], 1, 0, 1)]))
    made.set_route(a("10.0.0.0"), 24, made.add_set([(0, 1, 0, 1)]))
    addresses = np.array([a("192.0.2.1"), GATEWAYS[1], GATEWAYS[2], a("10.0.0.99")], np.uint32)
    far, gateway, other, unknown = np.frombuffer(made.numbers(addresses.data), np.uint32).tolist()
    assert far == gateway != other
    assert unknown == 0
    assert made.entry(far) == (mac(1), OUR_MAC, 7, 1500, 3)
    made.clear_neighbour(GATEWAYS[1], 1)
    assert made.entry(far) is made.entry(0) is None


def test_sets_are_given_back_and_run_out() -> None:
    made = table()
    numbers = [made.add_set([(GATEWAYS[0], 1, 0, 1)]) for _ in range(65534)]
    with pytest.raises(EngineFull):
        made.add_set([])
    made.retire_set(numbers[5])
    assert made.add_set([(GATEWAYS[0], 1, 0, 1)]) == numbers[5]


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("set_link", (0, 7, OUR_MAC, 1500)),
        ("set_link", (256, 7, OUR_MAC, 1500)),
        ("set_link", (1, 7, OUR_MAC[1:], 1500)),
        ("set_link", (1, 7, OUR_MAC, 60)),
        ("add_set", ([(1, 0, 0, 1)],)),
        ("add_set", ([(1, 1, 0, 0)],)),
        ("change_set", (1, [])),
        ("retire_set", (0,)),
        ("set_route", (1, 24, 1)),
        ("set_route", (0, 33, 1)),
        ("set_route", (0, 8, 0)),
        ("clear_route", (1, 0)),
        ("set_neighbour", (1, 300, OUR_MAC)),
        ("clear_neighbour", (1, 0)),
    ],
)
def test_what_cannot_be_is_refused(call: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"."):
        getattr(table(), call)(*arguments)


def test_a_reader_never_misses_a_route_that_is_being_changed() -> None:
    made = table()
    one, two = (made.add_set([(gateway, 1, 0, 1)]) for gateway in GATEWAYS[:2])
    made.set_route(0, 0, one)
    made.set_route(a("10.1.0.0"), 16, one)
    addresses = np.full(1 << 20, a("10.1.2.3"), np.uint32)
    results: list[tuple[int, int]] = []
    reader = threading.Thread(
        target=lambda: results.extend(made.time_lookups(addresses.data) for _ in range(8))
    )
    reader.start()
    turns = 0
    while reader.is_alive():
        made.set_route(a("10.1.0.0"), 16, two)
        made.set_route(a("10.1.2.3"), 32, one)
        made.change_set(two, [(GATEWAYS[turns % 8], 1, 0, 1), (GATEWAYS[3], 1, 0, 2)])
        made.set_neighbour(GATEWAYS[0], 1, mac(turns))
        made.set_link(1, 7, mac(turns), 1500, 3)
        made.clear_route(a("10.1.2.3"), 32, two, 16)
        made.set_neighbour(a("10.7.0.0") + turns % 5000, 1, mac(turns))
        made.clear_neighbour(a("10.7.0.0") + (turns + 2500) % 5000, 1)
        turns += 1
    reader.join()
    assert turns > 10
    assert [known for _, known in results] == [len(addresses)] * 8
