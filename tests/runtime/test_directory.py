"""The directory of hosts: file before store, bounded cache, effect at once."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.helpers.handmade import address

from fastmip.agents.hosts import Prefix
from fastmip.auth.associations import Algorithm, Direction, ReplayStyle
from fastmip.runtime import directory as directory_module
from fastmip.runtime.config import AaaConfig, HostConfig
from fastmip.runtime.config_types import Address, AssociationConfig
from fastmip.runtime.directory import HostDirectory, delete_host, insert_host
from fastmip.runtime.home_pipeline import Prepared
from fastmip.runtime.keys import Key
from fastmip.runtime.store import Store

HOME_NETWORK = Prefix(address("10.1.0.0"), 24)


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
    hosts = HostDirectory(store.query, home_network=HOME_NETWORK)
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
    found = HostDirectory(store.query, home_network=HOME_NETWORK).lookup(address("10.1.0.7"))
    assert found is not None
    assert [member.spi for member in found.associations] == [301]


async def test_the_file_goes_before_the_directory(store: Store[Prepared]) -> None:
    await store.run(lambda connection: insert_host(connection, host("10.1.0.7", spi=300)))
    hosts = HostDirectory(store.query, [host("10.1.0.7", spi=999)], home_network=HOME_NETWORK)
    found = hosts.lookup(address("10.1.0.7"))
    assert found is not None
    assert [member.spi for member in found.associations] == [999]
    assert hosts.is_static(address("10.1.0.7"))
    hosts.set_static([])
    found = hosts.lookup(address("10.1.0.7"))
    assert found is not None
    assert [member.spi for member in found.associations] == [300]


async def test_strangers_neither_ask_twice_nor_drive_hosts_out(
    store: Store[Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "CACHE_STRANGERS", 8)
    monkeypatch.setattr(directory_module, "CACHE_HOSTS", 8)
    await store.run(lambda connection: insert_host(connection, host("10.1.0.7")))
    asked: list[object] = []

    def query(sql: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        asked.append(values[0])
        return store.query(sql, values)

    hosts = HostDirectory(query, home_network=HOME_NETWORK)
    known = address("10.1.0.7")
    assert hosts.lookup(known) is not None
    for stranger in range(address("10.1.0.100"), address("10.1.0.200")):
        assert hosts.lookup(stranger) is None
        assert hosts.lookup(stranger) is None
    assert len(asked) == 102, "rows and identity of the host, each stranger once"
    assert hosts.lookup(known) is not None
    assert asked.count(known) == 2, "a host stays cached whatever strangers do"
    assert len(hosts._strangers) == 8


async def test_outside_the_home_network_the_store_is_not_asked() -> None:
    def query(_sql: str, _values: tuple[object, ...]) -> list[tuple[object, ...]]:
        raise AssertionError("asked for an address that cannot be a home address")

    hosts = HostDirectory(query, home_network=HOME_NETWORK)
    assert hosts.lookup(address("10.2.0.7")) is None
    assert hosts._strangers == {}


async def test_hosts_are_cached_within_bounds(
    store: Store[Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "CACHE_HOSTS", 8)
    hosts = HostDirectory(store.query, home_network=HOME_NETWORK)
    for number in range(10, 30):
        await store.run(functools.partial(insert_host, host=host(f"10.1.0.{number}")))
        assert hosts.lookup(address(f"10.1.0.{number}")) is not None
    assert len(hosts._cache) == 8


async def test_entries_show_no_key(store: Store[Prepared]) -> None:
    key = bytes(range(100, 116))
    await store.run(lambda connection: insert_host(connection, host("10.1.0.9", key=key)))
    hosts = HostDirectory(store.query, [host("10.1.0.5", key=key)], home_network=HOME_NETWORK)
    entries = list(hosts.entries(limit=10))
    assert [entry.origin for entry in entries] == ["file", "directory"]
    shown = repr(entries) + repr(hosts.lookup(address("10.1.0.9")))
    assert key.hex() not in shown
    assert repr(key)[2:-1] not in shown


def with_identity(text: str, nai: str | None, aaa_spi: int | None = None) -> HostConfig:
    plain = host(text)
    aaa = None if aaa_spi is None else AaaConfig(spi=aaa_spi, key=Key(b"a" * 16))
    return HostConfig(
        home_address=plain.home_address, associations=plain.associations, nai=nai, aaa=aaa
    )


@pytest.mark.parametrize("spi", [2, 512])
async def test_a_host_added_on_the_run_has_its_nai_and_aaa_secret(
    store: Store[Prepared], spi: int
) -> None:
    hosts = HostDirectory(store.query, home_network=HOME_NETWORK)
    assert hosts.lookup_nai(b"mn@example.org") is None
    added = with_identity("10.1.0.7", "mn@example.org", spi)
    await store.run(lambda connection: insert_host(connection, added))
    hosts.forget(address("10.1.0.7"))
    found = hosts.lookup_nai(b"mn@example.org")
    assert found is not None
    assert found.home_address == address("10.1.0.7")
    assert found.aaa == (added.aaa.build() if added.aaa is not None else None,)
    assert [(entry.home_address, entry.spi) for entry in hosts.aaa_entries(5)] == [
        (found.home_address, spi)
    ]
    [entry] = hosts.entries(5)
    assert (entry.nai, entry.origin) == ("mn@example.org", "directory")
    plain = host("10.1.0.7")
    await store.run(lambda connection: insert_host(connection, plain))
    hosts.forget(address("10.1.0.7"))
    assert hosts.lookup_nai(b"mn@example.org") is None
    assert list(hosts.aaa_entries(5)) == []
    assert await store.run(lambda connection: delete_host(connection, address("10.1.0.7")))


async def test_strangers_names_are_asked_for_once_and_bounded(
    store: Store[Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def query(statement: str, arguments: tuple[object, ...]) -> list[tuple[object, ...]]:
        nonlocal asked
        asked += 1
        return store.query(statement, arguments)

    monkeypatch.setattr(directory_module, "CACHE_STRANGE_NAIS", 4)
    hosts = HostDirectory(query, home_network=HOME_NETWORK)
    for _ in range(3):
        assert hosts.lookup_nai(b"stranger\xff@example.org") is None
    assert asked == 1
    for number in range(20):
        assert hosts.lookup_nai(b"%d@example.org" % number) is None
    assert len(hosts._strange_nais) == 4


async def test_the_file_s_word_on_a_host_counts_for_its_nai(store: Store[Prepared]) -> None:
    added = with_identity("10.1.0.7", "old@example.org")
    await store.run(lambda connection: insert_host(connection, added))
    fixed = [with_identity("10.1.0.7", "new@example.org")]
    hosts = HostDirectory(store.query, fixed, home_network=HOME_NETWORK)
    assert hosts.lookup_nai(b"old@example.org") is None
    assert hosts.lookup_nai(b"new@example.org") is not None
