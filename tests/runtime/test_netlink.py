"""Kernel changes through netlink: journalled, exact, and gone again (iproute2 is the judge)."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.helpers.handmade import address

from fastmip.runtime.journal import Address, Change, Journal, Route, Rule
from fastmip.runtime.netlink import Kernel, read_sysctl
from fastmip.runtime.path_mtu import PathMtu
from fastmip.runtime.service import StartError

pytestmark = pytest.mark.netns

_CLONE_NEWNET = 0x40000000


def ip(*words: str) -> str:
    done = subprocess.run(["ip", "-4", *words], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def namespace() -> Iterator[None]:
    """This process in a network namespace of its own: /proc/sys and sockets follow."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert libc.unshare(_CLONE_NEWNET) == 0
    try:
        ip("link", "set", "lo", "up")
        ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        ip("link", "set", "eth0", "up")
        ip("link", "set", "eth1", "up")
        ip("address", "add", "10.7.0.1/24", "dev", "eth0")
        yield None
    finally:
        assert libc.setns(here, _CLONE_NEWNET) == 0
        os.close(here)


@pytest.fixture
async def kernel(namespace: None, tmp_path: Path) -> AsyncIterator[Kernel]:  # noqa: ARG001 - inside it
    async with Kernel(Journal(tmp_path / "journal")) as opened:
        yield opened


CHANGES: list[Change] = [
    Address("eth0", "10.8.0.1", 32),
    Route("10.1.0.0/24", 1434, device="eth0"),
    Route("default", 1434, device="eth0", gateway="10.7.0.254", metric=7),
    Route("10.2.0.0/24", 1434, kind="blackhole"),
    Rule(priority=1434, table=1434, iif="eth0", invert=True),
    Rule(priority=1435, table=1434, source="10.1.0.5/32", destination="10.9.0.0/16"),
    Rule(priority=1436, table=254, suppress_prefixlength=0),
    Rule(priority=1437, table=1434, fwmark=0x434, invert=True),
]


def state() -> list[str]:
    return [ip("rule"), ip("route", "show", "table", "all"), ip("address")]


async def test_changes_are_made_as_iproute2_reads_them(kernel: Kernel) -> None:
    for change in CHANGES:
        assert await kernel.apply(change), change
    rules = ip("rule")
    assert "1434:\tnot from all iif eth0 lookup 1434" in rules
    assert "1435:\tfrom 10.1.0.5 to 10.9.0.0/16 lookup 1434" in rules
    assert "1436:\tfrom all lookup main suppress_prefixlength 0" in rules
    assert "1437:\tnot from all fwmark 0x434 lookup 1434" in rules
    routes = ip("route", "show", "table", "1434")
    assert "10.1.0.0/24 dev eth0" in routes
    assert "default via 10.7.0.254 dev eth0" in routes
    assert "blackhole 10.2.0.0/24" in routes
    assert "10.8.0.1/32" in ip("address", "show", "dev", "eth0")


async def test_undo_all_leaves_exactly_what_was_there(kernel: Kernel, tmp_path: Path) -> None:
    before = state()
    for change in CHANGES:
        await kernel.apply(change)
    assert state() != before
    assert await kernel.undo_all() == len(CHANGES)
    assert state() == before
    assert not (tmp_path / "journal").exists()


async def test_the_next_process_undoes_what_a_crash_left(kernel: Kernel, tmp_path: Path) -> None:
    before = state()
    for change in CHANGES:
        await kernel.apply(change)
    async with Kernel(Journal(tmp_path / "journal")) as successor:
        assert await successor.undo_all() == len(CHANGES)
    assert state() == before


async def test_what_was_there_before_is_not_ours_to_remove(kernel: Kernel) -> None:
    for change in CHANGES:
        await kernel.apply(change)
        assert not await kernel.apply(change), f"{change} was there already"
    with_changes = state()
    first = Journal(Path("/nonexistent/journal"))
    async with Kernel(first) as other:
        assert await other.undo_all() == 0
    assert state() == with_changes


async def test_undoing_what_somebody_else_removed_is_no_failure(kernel: Kernel) -> None:
    for change in CHANGES:
        await kernel.apply(change)
    ip("link", "delete", "eth0")
    ip("rule", "delete", "priority", "1436")
    assert await kernel.undo_all() == len(CHANGES)
    assert "143" not in ip("rule")


async def test_a_sysctl_is_restored_unless_somebody_changed_it_meanwhile(kernel: Kernel) -> None:
    name = "net/ipv4/conf/eth0/rp_filter"
    Path("/proc/sys", name).write_text("1")
    assert await kernel.set_sysctl(name, "2")
    assert not await kernel.set_sysctl(name, "2")
    await kernel.undo_all()
    assert read_sysctl(name) == "1"
    await kernel.set_sysctl(name, "2")
    Path("/proc/sys", name).write_text("0")
    await kernel.undo_all()
    assert read_sysctl(name) == "0"
    assert read_sysctl("net/ipv4/conf/nothing/rp_filter") == ""


async def test_interfaces_and_addresses_are_found(kernel: Kernel) -> None:
    found = await kernel.interface("eth0")
    assert found is not None
    assert found.mac.hex(":") == ip("-br", "link", "show", "dev", "eth0").split()[2]
    assert (found.mtu_bytes, found.is_up) == (1500, True)
    assert await kernel.interface("nothing0") is None
    assert await kernel.addresses(found.index) == [(address("10.7.0.1"), 24)]
    assert await kernel.is_own_address(address("10.7.0.1"))
    assert not await kernel.is_own_address(address("10.7.0.2"))


async def test_many_may_look_at_the_same_time(kernel: Kernel) -> None:
    """A netlink socket answers a second dump with EBUSY while the first one runs."""

    async def look() -> None:
        for _ in range(20):
            assert [link.name for link in await kernel.links()]
            await kernel.all_addresses()
            await kernel.default_routes()
            assert await kernel.free_table(5000) == 5000

    await asyncio.gather(*(look() for _ in range(8)))


async def test_a_free_table_is_one_no_rule_names(kernel: Kernel) -> None:
    assert await kernel.free_table(1434) == 1434
    await kernel.apply(Rule(priority=5, table=1434))
    await kernel.apply(Rule(priority=6, table=1435))
    assert await kernel.free_table(1434) == 1436
    with pytest.raises(StartError, match="all in use"):
        await kernel.free_table(1434, count=2)


@pytest.mark.usefixtures("namespace")
def test_the_path_mtu_follows_routes_and_interfaces() -> None:
    path_mtu = PathMtu(address("10.7.0.1"), 1500)
    try:
        assert path_mtu.lookup_bytes(address("10.7.0.9")) == 1500
        assert path_mtu.lookup_bytes(address("203.0.113.1")) == 1500, "no route: the bound"
        ip("route", "add", "10.3.1.0/24", "via", "10.7.0.254", "mtu", "1280")
        assert path_mtu.lookup_bytes(address("10.3.1.5")) == 1280
        ip("link", "set", "eth0", "mtu", "1400")
        assert path_mtu.lookup_bytes(address("10.7.0.9")) == 1400
        path_mtu.upper_bytes = 1300
        assert path_mtu.lookup_bytes(address("10.7.0.9")) == 1300
    finally:
        path_mtu.close()
