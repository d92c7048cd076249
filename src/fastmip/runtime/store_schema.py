"""The SQLite file of the binding store: its tables, its statements, how to open it.

Pages are small (1 KiB) because commits touch scattered rows: a commit of 256 nodes then
writes 256 KiB to the log instead of 1 MiB (measured: 2.0 ms instead of 3.9 ms a commit).
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

from fastmip.agents.effects import Now
from fastmip.runtime.service import StartError

SCHEMA_VERSION = 1
PAGE_SIZE_BYTES = 1024
READ_TIMEOUT_S = 1.0
"""How long a reader waits for a lock; in WAL mode only a recovery holds one against it."""

_TABLES = """
CREATE TABLE node(
    home_address INTEGER PRIMARY KEY,
    identification INTEGER NOT NULL,
    nonce INTEGER NOT NULL,
    bindings BLOB NOT NULL
);
CREATE TABLE host(
    home_address INTEGER NOT NULL,
    spi INTEGER NOT NULL,
    direction TEXT NOT NULL,
    key BLOB NOT NULL,
    algorithm TEXT NOT NULL,
    replay TEXT NOT NULL,
    replay_window INTEGER NOT NULL,
    PRIMARY KEY(home_address, spi, direction)
) WITHOUT ROWID;
CREATE TABLE boot(
    id INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL UNIQUE,
    anchor_boot_ns INTEGER NOT NULL,
    anchor_wall_ns INTEGER NOT NULL
);
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


_LATER_TABLES = """
CREATE TABLE IF NOT EXISTS identity(
    home_address INTEGER PRIMARY KEY,
    nai TEXT UNIQUE,
    aaa_spi INTEGER,
    aaa_key BLOB,
    aaa_algorithm TEXT
);
CREATE TABLE IF NOT EXISTS router(
    home_address INTEGER PRIMARY KEY,
    networks TEXT NOT NULL,
    dynamic INTEGER NOT NULL,
    profile TEXT
);
CREATE TABLE IF NOT EXISTS mobile_network(
    home_address INTEGER PRIMARY KEY,
    networks BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS pool_address(
    home_address INTEGER PRIMARY KEY,
    nai BLOB NOT NULL UNIQUE
);
"""
"""Made in older stores of this version too; who does not know them passes them over."""


class BootRow(NamedTuple):
    """A boot of the machine as the store knows it."""

    id: int
    """Part of every binding record written under it."""
    boot_id: str
    """The kernel's name of it."""
    anchor: Now
    """The clocks at the first start in this boot. Every start converts expiries of earlier
    boots by these, so that a clock step between two starts moves nothing."""

    def columns(self) -> tuple[int, str, int, int]:
        """The row of the boot table."""
        return (self.id, self.boot_id, *self.anchor)


_TWO_63 = 1 << 63
_TWO_64 = 1 << 64


def to_signed(value: int) -> int:
    """Fold an unsigned 64-bit integer into SQLite's signed one."""
    return value - _TWO_64 if value >= _TWO_63 else value


def to_unsigned(value: int) -> int:
    """Unfold what ``to_signed`` folded."""
    return value + _TWO_64 if value < 0 else value


def upsert_nodes(rows: int) -> str:
    """One statement that writes ``rows`` whole node rows: SQLite runs it without the GIL."""
    return "REPLACE INTO node VALUES" + ",".join(["(?,?,?,?)"] * rows)


def connect(path: Path, *, timeout_s: float = READ_TIMEOUT_S) -> sqlite3.Connection:
    """Open an existing store for the calling thread. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"file:{_quote(path)}?mode=rw", uri=True, isolation_level=None, timeout=timeout_s
    )
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=0")  # store_writer.py does it
    except BaseException:
        connection.close()
        raise
    return connection


def connect_frozen(path: Path) -> sqlite3.Connection:
    """Open a store nobody can write, on a full or read-only file system.

    Only valid while no log lies beside it: then the main file is the whole truth.
    Raises sqlite3.Error.
    """
    return sqlite3.connect(
        f"file:{_quote(path)}?mode=ro&immutable=1", uri=True, isolation_level=None
    )


def create_if_missing(path: Path) -> None:
    """Make the file (mode 0600) and its tables, or check what is there.

    Raises StartError for a store of another version or with readable keys, sqlite3.Error or
    OSError for what the machine refuses.
    """
    if path.exists():
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise StartError(f"{path}: mode {mode:04o} lets others read keys: run chmod 600 {path}")
    else:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, timeout=READ_TIMEOUT_S)
    try:
        _check_version(connection, path)
    finally:
        connection.close()


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        connection.executescript(_LATER_TABLES)
        return
    if version != 0:
        raise StartError(
            f"{path}: store version {version}, this is version {SCHEMA_VERSION}:"
            " install the matching fastmip or move the file away"
        )
    connection.execute(f"PRAGMA page_size={PAGE_SIZE_BYTES}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    tables = _TABLES + _LATER_TABLES
    connection.executescript(f"BEGIN;{tables}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")


def _quote(path: Path) -> str:
    text = str(path.absolute())
    return text.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
