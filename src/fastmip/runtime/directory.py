"""Who may register here: hosts of the configuration file and hosts added on the run.

The file's hosts stand in memory and cannot be changed but by a reload. Those added with
``fastmip host add`` stand in the store and are looked up on first use; the cache is bounded,
so that a million of them cost nothing until they register.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fastmip.agents.address_pool import AddressPools
from fastmip.agents.hosts import Host, Prefix
from fastmip.auth.associations import (
    Algorithm,
    AssociationSet,
    Direction,
    ReplayStyle,
    SecurityAssociation,
)
from fastmip.runtime.config import AaaConfig, HostConfig
from fastmip.runtime.keys import MIN_KEY_LEN, Key
from fastmip.runtime.network_config import networks_of
from fastmip.runtime.pool_config import addressed
from fastmip.runtime.profiles import PROFILES
from fastmip.wire.addresses import parse_network

CACHE_HOSTS = 65536
"""Hosts of the directory kept ready; about 1 KiB each."""
CACHE_STRANGERS = 65536
"""Addresses known to be nobody's; about 100 bytes each."""

CACHE_STRANGE_NAIS = 4096
"""Network access identifiers known to be nobody's; at most 300 bytes each."""

Query = Callable[[str, tuple[object, ...]], list[tuple[Any, ...]]]
"""``Store.query``."""
_COLUMNS = "spi, direction, key, algorithm, replay, replay_window"
_IDENTITY = "nai, aaa_spi, aaa_key, aaa_algorithm"
_ROUTER = "networks, dynamic, profile"


@dataclass(frozen=True, slots=True)
class HostEntry:
    """A host for the operator's eye: no key."""

    home_address: int
    spi: int
    algorithm: str
    replay: str
    replay_window_s: int
    direction: str
    origin: str = field(default="directory")
    """``file`` or ``directory``."""
    nai: str = ""


@dataclass(frozen=True, slots=True)
class AaaEntry:
    """A host's secret of the Mobile-AAA authentication for the operator's eye: no key."""

    home_address: int
    spi: int
    algorithm: str
    origin: str = field(default="directory")


class HostDirectory:
    """Looks hosts up by home address; outside ``home_network`` there are none."""

    def __init__(
        self,
        query: Query,
        static: Iterable[HostConfig] = (),
        *,
        home_network: Prefix,
        addresses: AddressPools | None = None,
    ) -> None:
        self._query = query
        self._addresses = AddressPools() if addresses is None else addresses
        self._home_network = home_network
        self._cache: OrderedDict[int, Host] = OrderedDict()
        self._strangers: OrderedDict[int, None] = OrderedDict()
        self._static: dict[int, Host] = {}
        self._by_nai: dict[bytes, Host] = {}
        self._strange_nais: OrderedDict[bytes, None] = OrderedDict()
        self.set_static(static)

    def set_static(self, hosts: Iterable[HostConfig]) -> None:
        """Replace the hosts of the configuration file."""
        everybody = tuple(hosts)
        self._static = {int(host.home_address): host_of(host) for host in addressed(everybody)}
        self._by_nai = {host.nai: host for host in map(host_of, everybody) if host.nai}

    def is_static(self, home_address: int) -> bool:
        """Whether the host stands in the configuration file."""
        return home_address in self._static

    def gets_address(self, nai: bytes) -> bool:
        """Whether the host of this name stands in the file without a home address."""
        host = self._by_nai.get(nai)
        return host is not None and not host.home_address

    def configured(self) -> set[int]:
        """Home addresses of all hosts that have one of their own."""
        rows = self._query("SELECT DISTINCT home_address FROM host", ())
        return self._static.keys() | {home_address for (home_address,) in rows}

    def lookup(self, home_address: int) -> Host | None:
        """The host with this home address; the file's before the directory's."""
        host = self._static.get(home_address)
        if host is not None:
            return host
        name = self._addresses.owner(home_address)
        if name is not None:
            host = self._by_nai.get(name)
            return None if host is None else replace(host, home_address=home_address)
        cache, strangers = self._cache, self._strangers
        host = cache.get(home_address)
        if host is not None:
            cache.move_to_end(home_address)
            return host
        if home_address in strangers or home_address not in self._home_network:
            return None
        host = self._read(home_address)
        if host is None:
            strangers[home_address] = None
            if len(strangers) > CACHE_STRANGERS:
                strangers.popitem(last=False)
            return None
        cache[home_address] = host
        if len(cache) > CACHE_HOSTS:
            cache.popitem(last=False)
        return host

    def lookup_nai(self, nai: bytes) -> Host | None:
        """The host with this network access identifier; the file's before the directory's."""
        host = self._by_nai.get(nai)
        if host is not None or nai in self._strange_nais:
            return host
        text = nai.decode("ascii", errors="replace")
        rows = self._query("SELECT home_address FROM identity WHERE nai=?", (text,))
        host = self.lookup(rows[0][0]) if rows else None
        if host is None or host.nai != nai:  # the file may say something else of this host
            self._strange_nais[nai] = None
            if len(self._strange_nais) > CACHE_STRANGE_NAIS:
                self._strange_nais.popitem(last=False)
            return None
        return host

    def forget(self, home_address: int) -> None:
        """The directory's row changed."""
        self._cache.pop(home_address, None)
        self._strangers.pop(home_address, None)
        self._strange_nais.clear()

    def _read(self, home_address: int) -> Host | None:
        rows = self._query(
            f"SELECT {_COLUMNS} FROM host WHERE home_address=?",  # noqa: S608 - a constant
            (home_address,),
        )
        if not rows:
            return None
        associations = AssociationSet(_association(row) for row in rows)
        rest = self._query(
            f"SELECT {_IDENTITY}, {_ROUTER} FROM (SELECT ? AS home_address)"  # noqa: S608 - as above
            " LEFT JOIN identity USING(home_address) LEFT JOIN router USING(home_address)",
            (home_address,),
        )
        nai, spi, key, algorithm, networks, dynamic, profile = rest[0]
        known = PROFILES.get(profile)
        return Host(
            home_address,
            associations,
            None if known is None else known.lifetime_s,
            nai=(nai or "").encode(),
            aaa=()
            if key is None
            else (AaaConfig(spi=spi, key=Key(key), algorithm=algorithm).build(),),
            networks=tuple(parse_network(text) for text in (networks or "").split()),
            dynamic_networks=dynamic or 0,
        )

    def networks(self) -> dict[tuple[int, int], int]:
        """Every mobile network configured -> a router it is for."""
        found = {
            network: host.home_address
            for host in self._static.values()
            for network in host.networks
        }
        for home_address, networks in self._query("SELECT home_address, networks FROM router", ()):
            if home_address not in self._static:
                for text in networks.split():
                    found.setdefault(parse_network(text), home_address)
        return found

    def entries(self, limit: int) -> Iterator[HostEntry]:
        """Hosts in order of home address, the file's first, one entry an association."""
        unassigned = [host for host in self._by_nai.values() if not host.home_address]
        for host in [*self._static.values(), *unassigned]:
            for member in host.associations:
                yield HostEntry(
                    host.home_address,
                    member.spi,
                    member.algorithm.value,
                    member.replay.value,
                    member.window_s,
                    member.direction.value,
                    "file",
                    host.nai.decode(),
                )
        rows = self._query(
            "SELECT home_address, spi, algorithm, replay, replay_window, direction, 'directory',"
            " coalesce(nai, '') FROM host LEFT JOIN identity USING(home_address)"
            " ORDER BY home_address, spi LIMIT ?",
            (limit,),
        )
        for row in rows:
            yield HostEntry(*row)

    def aaa_entries(self, limit: int) -> Iterator[AaaEntry]:
        """Secrets of the directory's hosts for the Mobile-AAA authentication."""
        rows = self._query(
            "SELECT home_address, aaa_spi, aaa_algorithm FROM identity WHERE aaa_key IS NOT NULL"
            " ORDER BY home_address LIMIT ?",
            (limit,),
        )
        for row in rows:
            yield AaaEntry(*row)


def host_of(config: HostConfig) -> Host:
    """A host of the configuration file as the agent knows it."""
    return Host(
        int(config.home_address),
        config.association_set(),
        nai=(config.nai or "").encode(),
        aaa=() if config.aaa is None else (config.aaa.build(),),
        max_lifetime_s=None if config.profile is None else PROFILES[config.profile].lifetime_s,
        networks=networks_of(config.networks),
        dynamic_networks=config.dynamic_networks,
    )


def insert_host(connection: sqlite3.Connection, host: HostConfig) -> None:
    """Write a host into the directory, replacing what it had. For ``Store.run``."""
    delete_host(connection, int(host.home_address))
    connection.executemany(
        f"INSERT INTO host(home_address, {_COLUMNS}) VALUES(?,?,?,?,?,?,?)",
        [
            (
                int(host.home_address),
                item.spi,
                item.direction,
                item.secret,
                item.algorithm,
                item.replay,
                item.replay_window,
            )
            for item in host.associations
        ],
    )
    if host.networks or host.dynamic_networks or host.profile:
        networks = " ".join(map(str, host.networks))
        connection.execute(
            "INSERT INTO router(home_address, networks, dynamic, profile) VALUES(?,?,?,?)",
            (int(host.home_address), networks, host.dynamic_networks, host.profile),
        )
    if host.nai is None and host.aaa is None:
        return
    aaa = host.aaa
    secret = None if aaa is None or aaa.key is None else (aaa.spi, aaa.key.reveal(), aaa.algorithm)
    connection.execute(
        f"INSERT INTO identity(home_address, {_IDENTITY}) VALUES(?,?,?,?,?)",
        (int(host.home_address), host.nai, *(secret or (None, None, None))),
    )


def delete_host(connection: sqlite3.Connection, home_address: int) -> bool:
    """Remove a host from the directory; False if it was not there. For ``Store.run``."""
    connection.execute("DELETE FROM identity WHERE home_address=?", (home_address,))
    connection.execute("DELETE FROM router WHERE home_address=?", (home_address,))
    cursor = connection.execute("DELETE FROM host WHERE home_address=?", (home_address,))
    return cursor.rowcount > 0


def _association(row: tuple[int, str, bytes, str, str, int]) -> SecurityAssociation:
    spi, direction, key, algorithm, replay, window_s = row
    return SecurityAssociation(
        spi=spi,
        key=key,
        algorithm=Algorithm(algorithm),
        replay=ReplayStyle(replay),
        window_s=window_s,
        direction=Direction(direction),
        may_be_short=len(key) < MIN_KEY_LEN,
    )
