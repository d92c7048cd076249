"""The directory of hosts: file before store, bounded cache, effect at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.helpers.handmade import address

from fastmip.auth.associations import Algorithm, Direction, ReplayStyle
from fastmip.runtime import directory as directory_module
from fastmip.runtime.config import Address, AssociationConfig, HostConfig
from fastmip.runtime.directory import HostDirectory, delete_host, insert_host
from fastmip.runtime.home_pipeline import Prepared
from fastmip.runtime.keys import Key
from fastmip.runtime.store import Store


def host(text: str, spi: int = 256, key: bytes = bytes(16), **more: object) -> HostConfig:
    association = AssociationConfig(spi=spi, key=Key(key), **more)  # type: ignore[arg-type]
    return HostConfig(home_address=Address(address(text)), associations=(association,))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store[Prepared]]:
    opened: Store[Prepared] = Store(tmp_path / "fastmip.db")
    opened.open()
    opened.start_writer(asyncio.get_running_loop(), lambda _group, _reason: None)
    yield opened
    opened.close()


async def test_a_host_is_known_as_soon_as_it_is_added_and_until_removed(
    store: Store[Prepared],
) -> None:
    hosts = HostDirectory(store.query)
    number = address("10.1.0.7")
    assert hosts.lookup(number) is None
    added = host(
        "10.1.0.7",
        spi=4096,
        key=b"k" * 20,
        algorithm="hmac-sha256",
        replay="nonces",
        replay_window=9,
        direction="both",
    )
    await store.run(lambda connection: insert_host(connection, added))
    hosts.forget(number)
    found = hosts.lookup(number)
    assert found is not None
    association = found.associations.inbound(4096)
    assert association is not None
    assert association.key == b"k" * 20
    assert association.algorithm is Algorithm.HMAC_SHA256
    assert association.replay is ReplayStyle.NONCES
    assert association.window_s == 9
    assert association.direction is Direction.BOTH
    assert await store.run(lambda connection: delete_host(connection, number))
    hosts.forget(number)
    assert hosts.lookup(number) is None
    assert not await store.run(lambda connection: delete_host(connection, number))


async def test_adding_again_replaces_what_was_there(store: Store[Prepared]) -> None:
    await store.run(lambda connection: insert_host(connection, host("10.1.0.7", spi=300)))
    await store.run(lambda connection: insert_host(connection, host("10.1.0.7", spi=301)))
    found = HostDirectory(store.query).lookup(address("10.1.0.7"))
    assert found is not None
    assert [member.spi for member in found.associations] == [301]


async def test_the_file_goes_before_the_directory(store: Store[Prepared]) -> None:
    await store.run(lambda connection: insert_host(connection, host("10.1.0.7", spi=300)))
    hosts = HostDirectory(store.query, [host("10.1.0.7", spi=999)])
    found = hosts.lookup(address("10.1.0.7"))
    assert found is not None
    assert [member.spi for member in found.associations] == [999]
    assert hosts.is_static(address("10.1.0.7"))
    hosts.set_static([])
    found = hosts.lookup(address("10.1.0.7"))
    assert found is not None
    assert [member.spi for member in found.associations] == [300]


async def test_strangers_and_hosts_are_cached_within_bounds(
    store: Store[Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "CACHE_HOSTS", 8)
    await store.run(lambda connection: insert_host(connection, host("10.1.0.7")))
    asked: list[object] = []

    def query(sql: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        asked.append(values[0])
        return store.query(sql, values)

    hosts = HostDirectory(query)
    known = address("10.1.0.7")
    for stranger in range(1, 100):
        assert hosts.lookup(stranger) is None
        assert hosts.lookup(stranger) is None
        assert hosts.lookup(known) is not None
    assert asked.count(known) == 1, "a host in use stays cached"
    assert len(asked) == 100
    assert len(hosts._cache) == 8


async def test_entries_show_no_key(store: Store[Prepared]) -> None:
    key = bytes(range(100, 116))
    await store.run(lambda connection: insert_host(connection, host("10.1.0.9", key=key)))
    hosts = HostDirectory(store.query, [host("10.1.0.5", key=key)])
    entries = list(hosts.entries(limit=10))
    assert [entry.origin for entry in entries] == ["file", "directory"]
    shown = repr(entries) + repr(hosts.lookup(address("10.1.0.9")))
    assert key.hex() not in shown
    assert repr(key)[2:-1] not in shown
