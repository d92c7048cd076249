"""The binding store: durable when it says so, honest when it cannot be."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastmip.agents.effects import NodeRow, PrefixChange
from fastmip.errors import StoreError
from fastmip.runtime import store_schema
from fastmip.runtime.service import StartError
from fastmip.runtime.store import Store
from fastmip.runtime.store_schema import BootRow
from fastmip.runtime.store_writer import COPY_ROWS, GROUP

SOURCE = str(Path(__file__).parents[2] / "src")


@dataclass
class Item:
    """A commit as the store sees it."""

    row: NodeRow
    networks: PrefixChange | None = None
    assigned: bytes = b""


def item(number: int, mark: int = 1) -> Item:
    return Item(NodeRow(number, mark, 0, number.to_bytes(4, "big") * 16))


class Commits:
    """A store with its writer, and what it reported."""

    def __init__(self, path: Path) -> None:
        self.store: Store[Item] = Store(path)
        self.reasons: list[str] = []
        self.groups: list[int] = []
        self._told = asyncio.Event()

    def done(self, group: Sequence[Item], reason: str) -> None:
        self.groups.append(len(group))
        self.reasons += [reason] * len(group)
        self._told.set()

    def start(self) -> None:
        self.store.open()
        self.store.start_writer(asyncio.get_running_loop(), self.done)

    async def commit(self, *items: Item) -> list[str]:
        """Submit and wait; returns the reason told for each."""
        before = len(self.reasons)
        self.store.submit(items)
        async with asyncio.timeout(10):
            while len(self.reasons) < before + len(items):
                self._told.clear()
                await self._told.wait()
        return self.reasons[before:]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fastmip.db"


def rows_in(path: Path) -> dict[int, int]:
    """What a foreign reader finds: home address -> identification."""
    with sqlite3.connect(path) as connection:
        found = dict(connection.execute("SELECT home_address, identification FROM node"))
    connection.close()
    return found


async def test_a_commit_is_in_the_file_before_it_is_reported(path: Path) -> None:
    commits = Commits(path)
    commits.start()
    assert await commits.commit(item(7, 42)) == [""]
    assert rows_in(path) == {7: 42}  # while the daemon lives
    commits.store.close()
    assert rows_in(path) == {7: 42}


async def test_commits_that_wait_share_a_transaction_of_at_most_a_group(path: Path) -> None:
    commits = Commits(path)
    commits.start()
    count = 3 * GROUP + 17
    assert await commits.commit(*[item(n) for n in range(count)]) == [""] * count
    assert max(commits.groups) <= GROUP
    assert commits.store.writer.commits < 10
    commits.store.close()
    assert len(rows_in(path)) == count


async def test_the_later_row_of_a_node_wins_also_within_a_group(path: Path) -> None:
    commits = Commits(path)
    commits.start()
    await commits.commit(item(5, 1), item(4, 1), item(5, 2), item(5, 3))
    commits.store.close()
    assert rows_in(path) == {5: 3, 4: 1}


@pytest.mark.parametrize("mark", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
async def test_identifications_keep_all_64_bits(path: Path, mark: int) -> None:
    commits = Commits(path)
    commits.start()
    await commits.commit(item(1, mark))
    loaded = commits.store.load(1)
    commits.store.close()
    assert loaded == NodeRow(1, mark, 0, item(1).row.bindings)


async def test_unknown_nodes_have_no_row(path: Path) -> None:
    commits = Commits(path)
    commits.start()
    assert commits.store.load(99) is None
    commits.store.close()


async def test_restart_reads_records_in_order_and_skips_nodes_at_home(path: Path) -> None:
    commits = Commits(path)
    commits.start()
    await commits.commit(item(3), item(1), Item(NodeRow(2, 9, 0, b"")))
    chunks = list(commits.store.chunks(rows=1))
    commits.store.close()
    assert chunks == [item(1).row.bindings, item(3).row.bindings]


def test_the_file_is_private_and_a_public_one_is_refused(path: Path) -> None:
    store: Store[Item] = Store(path)
    store.open()
    store.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(StartError, match="chmod 600"):
        Store[Item](path).open()


def test_a_store_of_another_version_is_refused(path: Path) -> None:
    store: Store[Item] = Store(path)
    store.open()
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StartError, match="version 99"):
        Store[Item](path).open()


def test_a_damaged_file_stops_the_start_with_a_remedy(path: Path) -> None:
    path.touch(0o600)
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StartError, match="move a damaged file away"):
        Store[Item](path).open()


def test_a_boot_keeps_its_number_and_another_boot_gets_the_next(path: Path) -> None:
    async def boot_of(boot_id: str) -> BootRow:
        commits = Commits(path)
        commits.store.boot = commits.store.boot._replace(boot_id=boot_id)
        commits.start()
        await commits.commit(item(1))
        commits.store.close()
        return commits.store.boot

    first = asyncio.run(boot_of("one"))
    assert asyncio.run(boot_of("one")) == first  # the clocks of its first start, too
    second = asyncio.run(boot_of("two"))
    assert second.id == first.id + 1
    assert second.anchor.boot_ns > first.anchor.boot_ns


async def test_a_locked_store_denies_and_recovers_by_itself(path: Path) -> None:
    commits = Commits(path)
    commits.start()
    assert await commits.commit(item(1, 1)) == [""]
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = await commits.commit(item(1, 2), item(2, 1))
    assert all("locked" in reason for reason in refused)
    assert "locked" in commits.store.writer.degraded
    loaded = commits.store.load(1)
    assert loaded is not None  # reading goes on
    assert loaded.identification == 1  # the saved record stays in force
    other.execute("ROLLBACK")
    other.close()
    assert await commits.commit(item(1, 3)) == [""]
    assert not commits.store.writer.degraded
    commits.store.close()
    assert rows_in(path) == {1: 3}


async def test_a_removed_store_takes_no_commit_until_it_is_back(path: Path) -> None:
    commits = Commits(path)
    commits.start()
    assert await commits.commit(item(1)) == [""]
    aside = path.with_name("aside.db")
    path.rename(aside)
    assert (await commits.commit(item(2)))[0]
    path.touch()  # another file in its place is not it
    assert (await commits.commit(item(2)))[0]
    aside.rename(path)
    assert await commits.commit(item(3)) == [""]
    commits.store.close()
    assert sorted(rows_in(path)) == [1, 3]


async def test_a_job_shares_the_writer_and_reports_failure(path: Path) -> None:
    commits = Commits(path)
    commits.start()
    count = await commits.store.run(
        lambda connection: connection.execute("INSERT INTO meta VALUES('a','b')").rowcount
    )
    assert count == 1
    with pytest.raises(StoreError):
        await commits.store.run(lambda connection: connection.execute("INSERT INTO nothing"))
    assert await commits.commit(item(1)) == [""]
    commits.store.close()


async def test_the_log_does_not_grow_without_bound(path: Path) -> None:
    commits = Commits(path)
    commits.start()
    for round_number in range(12):
        await commits.commit(*[item(n * 16, round_number) for n in range(COPY_ROWS)])
    size = path.with_name(path.name + "-wal").stat().st_size
    commits.store.close()
    written = 12 * COPY_ROWS * store_schema.PAGE_SIZE_BYTES
    assert size < written / 3, f"{size} bytes of log"


CHILD = """
import asyncio, sys
sys.path[:0] = [{source!r}, {root!r}]
from pathlib import Path
from tests.runtime.test_store import Commits, item

async def main():
    commits = Commits(Path(sys.argv[1]))
    def done(group, reason):
        Commits.done(commits, group, reason)
        assert not reason
        for member in group:
            print(member.row.home_address, member.row.identification, flush=True)
    commits.done = done
    commits.start()
    mark = 0
    while True:
        mark += 1
        await commits.commit(*[item(n, mark) for n in range(mark % 7, 600, 3)])

asyncio.run(main())
"""


@pytest.mark.parametrize("after_lines", [500, 3000, 20000])
def test_every_acknowledged_row_survives_kill_9(path: Path, after_lines: int) -> None:
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(source=SOURCE, root=root), str(path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    acknowledged: dict[int, int] = {}
    try:
        for _ in range(after_lines):
            home_address, mark = child.stdout.readline().split()
            acknowledged[int(home_address)] = int(mark)
        os.kill(child.pid, signal.SIGKILL)
        for line in child.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                home_address, mark = line.split()
                acknowledged[int(home_address)] = int(mark)
    finally:
        child.kill()
        child.communicate()
    assert len(acknowledged) > 200
    store: Store[Item] = Store(path)
    store.open()
    for number, least in acknowledged.items():
        row = store.load(number)
        assert row is not None
        assert row.identification >= least
    store.close()


SMALL_DISK = """
import asyncio, os, subprocess, sys
sys.path[:0] = [{source!r}, {root!r}]
from pathlib import Path
from tests.runtime.test_store import Commits, item

async def main():
    disk = Path(sys.argv[1])
    commits = Commits(disk / "fastmip.db")
    commits.start()
    assert await commits.commit(*[item(n) for n in range(100)]) == [""] * 100

    # full
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                assert file.write(bytes(4096))
        except OSError:
            pass
    refused = []
    for n in range(40):
        batch = [item(1000 + n * 100 + k) for k in range(100)]
        refused += [reason for reason in await commits.commit(*batch) if reason]
    assert refused and "full" in refused[0], refused[:1]
    assert commits.store.load(5) is not None
    ballast.unlink()
    assert await commits.commit(item(1, 77)) == [""], commits.reasons[-1]

    # read-only
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=False)
    writable = os.access(disk, os.W_OK)
    if not writable:
        refused = await commits.commit(item(1, 78))
        assert refused[0], "a read-only store took a commit"
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert await commits.commit(item(1, 79)) == [""], commits.reasons[-1]
    assert commits.store.load(1).identification == 79
    commits.store.close()

    # a start on a read-only file system: what is stored is readable, commits are refused
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    commits = Commits(disk / "fastmip.db")
    commits.start()
    assert commits.store.load(1).identification == 79
    assert sum(len(chunk) for chunk in commits.store.chunks()) >= 6400
    assert (await commits.commit(item(1, 80)))[0]
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert await commits.commit(item(1, 81)) == [""], commits.reasons[-1]
    assert commits.store.load(1).identification == 81
    commits.store.close()
    print("survived", writable)

asyncio.run(main())
"""


@pytest.mark.netns
def test_a_full_and_a_read_only_store_deny_and_recover_by_themselves(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    script = tmp_path / "child.py"
    script.write_text(SMALL_DISK.format(source=SOURCE, root=root))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f'mount -t tmpfs -o size=1m tmpfs "$2" && exec "{sys.executable}" "$1" "$2"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted, "sh", str(script), str(disk)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "survived" in done.stdout
    assert list(disk.iterdir()) == []  # the mount was the child's alone


async def test_an_address_out_of_a_pool_is_one_nodes_and_a_node_has_one(tmp_path: Path) -> None:
    commits = Commits(tmp_path / "fastmip.db")
    commits.start()
    row = item(1).row
    await commits.commit(Item(row, assigned=b"a@x"), Item(item(2).row, assigned=b"b@x"))
    assert commits.store.pool_addresses() == [(1, b"a@x"), (2, b"b@x")]
    await commits.commit(Item(row))
    assert commits.store.pool_addresses() == [(1, b"a@x"), (2, b"b@x")]
    await commits.commit(Item(row, assigned=b"b@x"))
    assert commits.store.pool_addresses() == [(1, b"b@x")]
    commits.store.close()
