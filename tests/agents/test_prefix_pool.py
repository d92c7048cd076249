"""Pools of prefixes: what a change of the pools leaves (RFC 6626 3.2)."""

from __future__ import annotations

from fastmip.agents.hosts import NetworkPolicy
from fastmip.agents.prefix_pool import PrefixPool
from fastmip.agents.prefix_set import PrefixSet

OLD, NEW = (0x0A100000, 16), (0x0A200000, 28)


def test_what_came_out_of_a_pool_that_is_gone_is_not_remembered() -> None:
    pool = PrefixPool(NetworkPolicy((OLD,), 28, 26), PrefixSet())
    assert all(pool.remember((OLD[0] + 16 * n, 28), n + 1) for n in range(100))
    pool.set_policy(NetworkPolicy((NEW,), 28, 26))
    assert len(pool) == 0
    assert pool.remember(NEW, 200)
    assert pool.allocate(0) == NEW, "given up at once, not after those of the old pool"
