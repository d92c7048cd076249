"""The one thread that writes the store: group commit, durable before anyone hears of it.

1. The event loop hands over lists of commits; the thread takes up to ``GROUP`` at a time.
2. One transaction writes all rows of the group; COMMIT returns after fdatasync of the log.
3. One ``call_soon_threadsafe`` tells the loop the outcome of the whole group.

The group grows by itself: what arrives while a commit is on its way to the disk shares the
next one. A refused commit is rolled back and reported, never retried here: the agent answers
130 and the mobile node comes again. The next group tries afresh, on a new connection if the
old one is doubtful, so that the store recovers as soon as the disk does.

The log is copied back into the main file by a second thread, so that no registration waits
for it; the writer itself only copies the short rest, because only then can SQLite start the
log from its beginning again (https://www.sqlite.org/wal.html, "Avoiding Excessively Large
WAL Files").
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from fastmip.agents.effects import NodeRow, PrefixChange
from fastmip.errors import StoreError
from fastmip.runtime import store_schema
from fastmip.runtime.logging import get_logger

GROUP = 256
"""Most rows of one commit."""
LOCK_TIMEOUT_S = 0.1
"""How long a commit waits for a foreign lock while the store is healthy."""
COPY_ROWS = 1024
"""Rows in the log at which it is copied back: 1 MiB when they are scattered, so that the copy
holds the disk up for some 10 ms only (16384 rows: 50 ms, measured on a million nodes)."""
_BULK_PASSES = 2
"""The second pass copies what came during the first, so that the rest is short."""

log = get_logger("store")


class HasRow(Protocol):
    """Anything that carries a row to store."""

    @property
    def row(self) -> NodeRow: ...
    @property
    def networks(self) -> PrefixChange | None: ...
    @property
    def assigned(self) -> bytes: ...


C = TypeVar("C", bound=HasRow)
Outcome = Callable[[Sequence[C], str], None]
"""Called in the event loop with a group and "" or the reason of its failure."""
Job = Callable[[sqlite3.Connection], object]


class StoreWriter(Generic[C]):
    """Group commits in a thread of its own."""

    def __init__(
        self,
        path: Path,
        *,
        boot: store_schema.BootRow,
        loop: asyncio.AbstractEventLoop,
        done: Outcome[C],
    ) -> None:
        self.commits = 0
        """Groups that became durable."""
        self.rows = 0
        self.failures = 0
        self.degraded = ""
        """Reason of the latest failure, empty while commits succeed."""
        self._path = path
        self._boot = boot
        self._loop = loop
        self._done = done
        self._copied_at = 0
        self._queue: deque[C] = deque()
        self._jobs: deque[tuple[Job, Future[object]]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._copier = _LogCopier(path)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        """Start both threads."""
        self._copier.start()
        self._thread.start()

    def stop(self) -> None:
        """Commit what is queued, then end the threads; the file is closed afterwards."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._copier.stop()

    @property
    def pending(self) -> int:
        """Rows handed over and not yet taken into a group."""
        return len(self._queue)

    def submit(self, commits: Sequence[C]) -> None:
        """Queue rows; ``done`` is called for every one of them, in order."""
        with self._wake:
            self._queue.extend(commits)
            self._wake.notify()

    def submit_job(self, job: Job) -> Future[object]:
        """Run ``job`` in a transaction of its own between two groups; fails with StoreError."""
        future: Future[object] = Future()
        with self._wake:
            self._jobs.append((job, future))
            self._wake.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._queue or self._jobs or self._stopping):
                    self._wake.wait()
                take = min(GROUP, len(self._queue))
                group = [self._queue.popleft() for _ in range(take)]
                job = self._jobs.popleft() if self._jobs else None
            if job is not None:
                self._run_job(*job)
            if group:
                reason = self._attempt(functools.partial(_write_rows, group=group))
                if not reason:
                    self.rows += len(group)
                # A loop that is closed was abandoned by its daemon: nobody is left to tell.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._done, group, reason)
            elif job is None:
                break
            self._tend_log()
        self._close()

    def _run_job(self, job: Job, future: Future[object]) -> None:
        result: list[object] = []
        reason = self._attempt(lambda connection: result.append(job(connection)))
        if reason:
            future.set_exception(StoreError(reason))
        else:
            future.set_result(result[0])

    def _attempt(self, work: Callable[[sqlite3.Connection], None]) -> str:
        """Run work in a durable transaction; "" or why it failed."""
        try:
            self._check_place()
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            work(connection)
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
            return self.degraded
        self.commits += 1
        if self.degraded:
            log.warning("store-recovered", reason=self.degraded)
            self.degraded = ""
            connection.execute(f"PRAGMA busy_timeout={int(LOCK_TIMEOUT_S * 1000)}")
        return ""

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        timeout_s = 0.0 if self.degraded else LOCK_TIMEOUT_S
        connection = store_schema.connect(self._path, timeout_s=timeout_s)
        try:
            connection.execute("INSERT OR IGNORE INTO boot VALUES(?,?,?,?)", self._boot.columns())
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _check_place(self) -> None:
        """Refuse another file than the one we started with. Raises OSError.

        Before anything opens it: SQLite deletes the log beside an empty file.
        """
        status = self._path.stat()
        inode = (status.st_dev, status.st_ino)
        if self._inode is None:
            self._inode = inode
        if inode != self._inode:
            raise FileNotFoundError(f"{self._path} was replaced: put it back, or restart")

    def _fail(self, error: Exception) -> None:
        self.failures += 1
        reason = f"{type(error).__name__}: {error}"
        if reason != self.degraded:
            log.error("store-failed", reason=reason, remedy="new registrations are denied (130)")
        self.degraded = reason
        # The next attempt starts on a new connection: whatever this one believes about the
        # file may be wrong after an I/O error, and opening costs a fraction of a failure.
        self._close()

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _tend_log(self) -> None:
        """Keep the log short: have the bulk copied, copy the rest, start over."""
        if self._copier.bulk_done:
            self._copier.bulk_done = False
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        elif self.rows - self._copied_at >= COPY_ROWS:
            self._copied_at = self.rows
            self._copier.want()


def _write_rows(connection: sqlite3.Connection, group: Sequence[HasRow]) -> None:
    """Write rows with few, large statements: each lets go of the GIL only once."""
    values: list[int | bytes] = []
    for item in sorted(group, key=_address):
        home_address, identification, nonce, bindings = item.row
        values += (home_address, store_schema.to_signed(identification), nonce, bindings)
    start, rows = 0, len(group)
    while rows:
        size = 1 << (rows.bit_length() - 1)
        connection.execute(_UPSERTS[size], values[start : start + 4 * size])
        start += 4 * size
        rows -= size
    for item in group:
        if item.networks is not None:
            _write_networks(connection, item.row.home_address, item.networks.records)
        if item.assigned:  # replaces what the node had, and who had it
            kept = (item.row.home_address, item.assigned)
            connection.execute("REPLACE INTO pool_address VALUES(?,?)", kept)


def _write_networks(connection: sqlite3.Connection, home_address: int, records: bytes) -> None:
    """What a mobile router has of prefixes from now on."""
    if records:
        values = (home_address, records)
        connection.execute("REPLACE INTO mobile_network VALUES(?,?)", values)
    else:
        connection.execute("DELETE FROM mobile_network WHERE home_address=?", (home_address,))


def _address(item: HasRow) -> int:
    return item.row.home_address


_UPSERTS = {1 << power: store_schema.upsert_nodes(1 << power) for power in range(9)}


class _LogCopier:
    """Copies the log back into the main file while the writer goes on."""

    def __init__(self, path: Path) -> None:
        self.bulk_done = False
        """Only the short rest is left, which the writer copies. Written by one thread each."""
        self._path = path
        self._wanted = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="store-copier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def want(self) -> None:
        """The log has grown long."""
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._stopping:
                return
            self._wanted.clear()
            # A store that cannot be opened is the writer's to report; it asks again later.
            with contextlib.suppress(sqlite3.Error):
                self._copy()
                self.bulk_done = True

    def _copy(self) -> None:
        connection = store_schema.connect(self._path)
        try:
            for _ in range(_BULK_PASSES):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            connection.close()
