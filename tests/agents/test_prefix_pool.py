"""Pools of prefixes: what a change of the pools leaves (RFC 6626 3.2)."""

from __future__ import annotations

from fastmip.agents.hosts import NetworkPolicy
from fastmip.agents.prefix_pool import PrefixPool
from fastmip.agents.prefix_set import Network, PrefixSet

OLD, NEW = (0x0A100000, 16), (0x0A200000, 28)
POOL = (0x0A100000, 24)
POLICY = NetworkPolicy((POOL,), 28, 26)


def taken(pool: PrefixPool, routed: PrefixSet) -> list[Network]:
    """Everything a pool has, routed for router 7."""
    networks = []
    while (network := pool.allocate(0)) is not None:
        routed.add(network, 7)
        networks.append(network)
    return networks


def remembering(pool: PrefixPool, networks: list[Network], first: int) -> None:
    for number, network in enumerate(networks, first):
        assert pool.remember(network, number)


def test_what_came_out_of_a_pool_that_is_gone_is_not_remembered() -> None:
    pool = PrefixPool(NetworkPolicy((OLD,), 28, 26), PrefixSet())
    assert all(pool.remember((OLD[0] + 16 * n, 28), n + 1) for n in range(100))
    pool.set_policy(NetworkPolicy((NEW,), 28, 26))
    assert len(pool) == 0
    assert pool.remember(NEW, 200)
    assert pool.allocate(0) == NEW, "given up at once, not after those of the old pool"


def test_what_was_given_back_is_joined_again() -> None:
    routed = PrefixSet()
    pool = PrefixPool(POLICY, routed)
    networks = taken(pool, routed)
    assert len(networks) == 16
    assert pool.allocate(26) is None
    for network in networks[4:9]:
        routed.remove(network, 7)
        pool.give_back(network, 7)
    assert pool.allocate(26) == (POOL[0] + 64, 26)


def test_a_larger_prefix_forgets_those_in_its_place_alone() -> None:
    pool = PrefixPool(POLICY, PrefixSet())
    remembering(pool, [(POOL[0] + 16 * n, 28) for n in range(16)], 100)
    assert pool.allocate(26) == (POOL[0], 26)
    assert len(pool) == 12
    assert all(pool.owns((POOL[0] + 16 * n, 28), 100 + n) for n in range(4, 16))


def test_a_refusal_forgets_nobody() -> None:
    routed = PrefixSet()
    pool = PrefixPool(POLICY, routed)
    networks = taken(pool, routed)
    for network in networks:
        if network[0] & 63:  # one /28 of each /26 stays in use
            routed.remove(network, 7)
            assert pool.remember(network, 8)
    assert pool.allocate(26) is None
    assert len(pool) == 12
    assert pool.allocate(28) == (POOL[0] + 16, 28), "the one unused for the longest time"
    assert len(pool) == 11


def test_a_shorter_prefix_remembered_makes_room_for_one_of_its_parts() -> None:
    pool = PrefixPool(POLICY, PrefixSet())
    remembering(pool, [(POOL[0] + 64 * n, 26) for n in range(4)], 100)
    assert pool.allocate(28) == (POOL[0], 28)
    assert len(pool) == 3


def test_a_prefix_that_becomes_routed_is_not_remembered_for_another() -> None:
    pool = PrefixPool(POLICY, PrefixSet())
    remembering(pool, [(POOL[0], 28), (POOL[0] + 16, 28)], 100)
    pool.forget_overlapping((POOL[0], 28), 7)
    assert len(pool) == 1
    assert not pool.owns((POOL[0], 28), 100)
