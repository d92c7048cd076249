"""The durable truth about nodes: one SQLite file, read by the loop, written by one thread.

A row outlives its bindings because the Identification high-water mark must (RFC 5944 5.7).
The directory of hosts that operators add on the run lives in the same file.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic

from fastmip.agents.effects import NodeRow, Now
from fastmip.errors import StoreError
from fastmip.runtime import clock, store_schema
from fastmip.runtime.logging import get_logger
from fastmip.runtime.service import StartError
from fastmip.runtime.store_writer import C, Job, Outcome, StoreWriter

RESTORE_ROWS = 65536
"""Rows of one chunk at restart: large enough for numpy, small enough for memory."""

log = get_logger("store")


class Store(Generic[C]):
    """The store of one home agent; every method but the writer's runs in the event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.boot = store_schema.BootRow(0, clock.boot_id(), clock.now())
        """This boot of the machine; its number is part of every binding record."""
        self._reader: sqlite3.Connection | None = None
        self._frozen = False
        self._writer: StoreWriter[C] | None = None

    def open(self) -> None:
        """Open or make the file for reading. Raises StartError with the remedy.

        A store that exists but cannot be written (full, read-only, locked) still opens: what
        it holds is forwarded, and registrations are denied until it can be written.
        """
        try:
            store_schema.create_if_missing(self.path)
        except (sqlite3.Error, OSError) as error:
            if not self._is_settled():
                raise self._unusable(error) from error
            log.warning("store-not-writable", path=str(self.path), reason=str(error))
        try:
            self._reader = self._open_reader()
            self.boot = self._find_boot()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _is_settled(self) -> bool:
        """Whether the main file alone is the whole truth: it is there, no log beside it."""
        log_file = self.path.with_name(self.path.name + "-wal")
        with contextlib.suppress(OSError):
            return self.path.stat().st_size > 0 and not (
                log_file.exists() and log_file.stat().st_size > 0
            )
        return False

    def _open_reader(self) -> sqlite3.Connection:
        try:
            connection = store_schema.connect(self.path)
            connection.execute("SELECT count(*) FROM boot").fetchone()
        except sqlite3.Error:
            if not self._is_settled():
                raise
            self._frozen = True
            return store_schema.connect_frozen(self.path)
        self._frozen = False
        return connection

    def _find_boot(self) -> store_schema.BootRow:
        """The row of this boot, made now if this is its first start."""
        reader = self._read()
        row = reader.execute(
            "SELECT id, anchor_boot_ns, anchor_wall_ns FROM boot WHERE boot_id=?",
            (self.boot.boot_id,),
        ).fetchone()
        if row is not None:
            return store_schema.BootRow(row[0], self.boot.boot_id, Now(row[1], row[2]))
        (number,) = reader.execute("SELECT coalesce(max(id), 0) + 1 FROM boot").fetchone()
        found = self.boot._replace(id=number)
        # Where the store cannot be written yet, the writer makes the row with its first commit.
        with contextlib.suppress(sqlite3.Error):
            reader.execute("INSERT OR IGNORE INTO boot VALUES(?,?,?,?)", found.columns())
        return found

    def _unusable(self, error: Exception) -> StartError:
        return StartError(
            f"{self.path}: {error}: make the directory writable for fastmip, or move a damaged"
            " file away (registrations in it are lost)"
        )

    def _read(self) -> sqlite3.Connection:
        if self._reader is None:
            raise StartError(f"{self.path}: the store is not open")
        return self._reader

    # restart

    def chunks(self, rows: int = RESTORE_ROWS) -> Iterator[bytes]:
        """Binding records of all nodes in order of home address, many nodes a chunk."""
        cursor = self._read().execute(
            "SELECT bindings FROM node WHERE bindings <> x'' ORDER BY home_address"
        )
        cursor.arraysize = rows
        while found := cursor.fetchmany():
            yield b"".join([row[0] for row in found])

    def networks(self) -> list[tuple[int, bytes]]:
        """Home addresses of mobile routers and the records of their networks."""
        return self.query("SELECT home_address, networks FROM mobile_network")

    def pool_addresses(self) -> list[tuple[int, bytes]]:
        """Home addresses out of pools, and the names of the nodes they are kept for."""
        return self.query("SELECT home_address, nai FROM pool_address")

    # one node

    def load(self, home_address: int) -> NodeRow | None:
        """The durable row of a node, None when it never registered. Raises StoreError."""
        rows = self.query(
            "SELECT identification, nonce, bindings FROM node WHERE home_address=?",
            (home_address,),
        )
        if not rows:
            return None
        identification, nonce, bindings = rows[0]
        return NodeRow(home_address, store_schema.to_unsigned(identification), nonce, bindings)

    def query(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Read; the transaction ends with the call. Raises StoreError."""
        try:
            return self._read().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{type(error).__name__}: {error}") from error

    # writing

    def start_writer(self, loop: asyncio.AbstractEventLoop, done: Outcome[C]) -> None:
        """Start group commits; ``done(group, reason)`` is called in the loop."""

        def told(group: Sequence[C], reason: str) -> None:
            if self._frozen and not reason:
                self._thaw()
            done(group, reason)

        self._writer = StoreWriter(self.path, boot=self.boot, loop=loop, done=told)
        self._writer.start()

    @property
    def writer(self) -> StoreWriter[C]:
        """The running writer."""
        if self._writer is None:
            raise StartError(f"{self.path}: the store's writer is not running")
        return self._writer

    def submit(self, commits: Sequence[C]) -> None:
        """Make rows durable; see ``start_writer`` for the outcome."""
        self.writer.submit(commits)

    async def run(self, job: Job) -> object:
        """Run a job in the writer's thread and transaction. Raises StoreError."""
        result = await asyncio.wrap_future(self.writer.submit_job(job))
        if self._frozen:
            self._thaw()
        return result

    def _thaw(self) -> None:
        """The store became writable: stop reading the frozen image of it."""
        self._close_reader()
        self._reader = self._open_reader()

    def close(self) -> None:
        """Finish what is queued and close the file."""
        if self._writer is not None:
            self._writer.stop()
            self._writer = None
        self._close_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def status(self) -> dict[str, object]:
        """Flat facts for ``show runtime``."""
        writer = self._writer
        return {
            "store": str(self.path),
            "store_state": "starting" if writer is None else writer.degraded or "ok",
            "store_commits": 0 if writer is None else writer.commits,
            "store_rows": 0 if writer is None else writer.rows,
            "store_failures": 0 if writer is None else writer.failures,
            "store_pending": 0 if writer is None else writer.pending,
        }
