"""Keys over a restart: what comes back, behind which number, and what the file must be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.waiting import wait_until

from fastmip.agents.esp_pairs import SecurityAssociationPair
from fastmip.auth.esp_schedule import KEY_LEN, Secret
from fastmip.runtime.esp_vault import BLOCK, EspVault, VaultError, filesystem_of
from fastmip.wire.esp_keying import Suite


def a_pair(number: int, suite: Suite = Suite.AES128_GCM16) -> SecurityAssociationPair:
    keys = [Secret(bytes((number % 251, way)) * (KEY_LEN[suite] // 2)) for way in (1, 2)]
    return SecurityAssociationPair(number, 1, 2, 3, 4, suite, 300 + number % 9, 400, *keys)


def a_vault(folder: Path) -> EspVault:
    return EspVault(folder / "esp", anywhere=True)


def test_pairs_come_back_behind_what_may_have_been_sent(tmp_path: Path) -> None:
    vault = a_vault(tmp_path)
    pairs = [a_pair(number, suite) for number, suite in enumerate(Suite, start=2**40)]
    for pair in pairs:
        assert vault.keep(pair) == BLOCK
    assert vault.reserve(pairs[1].number) == 2 * BLOCK
    vault.mark(pairs[2].number, 77)
    vault.mark(pairs[2].number, 50)
    vault.close()
    again = a_vault(tmp_path)
    found = list(again.restore())
    assert [kept.pair for kept in found] == pairs
    for kept, pair in zip(found, pairs, strict=True):
        assert kept.pair.inbound == pair.inbound
        assert kept.pair.outbound == pair.outbound
    assert [kept.next_outbound for kept in found] == [
        BLOCK + 1,
        2 * BLOCK + 1,
        BLOCK + 1,
        BLOCK + 1,
    ]
    assert [kept.next_inbound for kept in found] == [1, 1, 78, 1]
    again.close()
    # Killed at once: what the second start may have sent is behind it, too.
    third = a_vault(tmp_path)
    assert next(third.restore()).next_outbound == 2 * BLOCK + 1
    third.close()


def test_the_file_is_private_and_shows_no_key_that_was_forgotten(tmp_path: Path) -> None:
    vault = a_vault(tmp_path)
    pair = a_pair(9)
    vault.keep(pair)
    path = tmp_path / "esp"
    assert path.stat().st_mode & 0o777 == 0o600
    assert pair.inbound.reveal() in path.read_bytes()
    vault.forget(9)
    assert pair.inbound.reveal() not in path.read_bytes()
    vault.forget(9)
    vault.keep(a_pair(10))
    assert path.stat().st_size == 16 + 256  # the slot is used again
    vault.close()


def test_a_file_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "esp"
    path.touch(0o600)
    path.chmod(0o640)
    with pytest.raises(VaultError, match="others"):
        a_vault(tmp_path)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "esp").write_bytes(b"something else that is long enough")
    (tmp_path / "esp").chmod(0o600)
    with pytest.raises(VaultError, match="no file of ours"):
        a_vault(tmp_path)


@pytest.mark.parametrize("make", ["symlink", "directory", "fifo"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "esp"
    if make == "symlink":
        path.symlink_to(tmp_path / "elsewhere")
    elif make == "directory":
        path.mkdir()
    else:
        os.mkfifo(path, 0o600)
    with pytest.raises(VaultError):
        a_vault(tmp_path)


def test_disks_are_refused() -> None:
    assert filesystem_of(Path("/proc").stat().st_dev) == "proc"
    with pytest.raises(VaultError):
        EspVault(Path("/proc/self/esp"))


def test_a_file_that_is_not_on_a_tmpfs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmip.runtime.esp_vault.filesystem_of", lambda _device: "ext4")
    with pytest.raises(VaultError, match="not on a tmpfs"):
        EspVault(tmp_path / "esp")
    monkeypatch.setattr("fastmip.runtime.esp_vault.filesystem_of", lambda _device: "tmpfs")
    EspVault(tmp_path / "esp").close()


@given(st.integers(0, 256 * 2 - 1), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_damaged_slot_gives_no_key_that_is_not_the_right_one(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("vault")
    vault = a_vault(folder)
    pairs = {pair.number: pair for pair in (a_pair(1), a_pair(2, Suite.AES256_CBC_SHA256))}
    for pair in pairs.values():
        vault.keep(pair)
    vault.close()
    data = bytearray((folder / "esp").read_bytes())
    data[16 + place] ^= change
    (folder / "esp").write_bytes(data)
    again = a_vault(folder)
    found = list(again.restore())
    assert len(found) >= 1
    for kept in found:
        assert kept.pair == pairs[kept.pair.number]
        assert (kept.next_outbound, kept.next_inbound) == (BLOCK + 1, 1)
        assert kept.pair.inbound == pairs[kept.pair.number].inbound
        assert kept.pair.outbound == pairs[kept.pair.number].outbound
    again.keep(a_pair(3))
    again.close()


SENDER = """
import sys
from pathlib import Path
from fastmip.runtime import esp_vault
from tests.runtime.test_esp_vault import a_pair, a_vault
esp_vault.BLOCK = 16
vault = a_vault(Path(sys.argv[1]))
kept = list(vault.restore())
if kept:
    number, last = kept[0].next_outbound, kept[0].next_outbound + 15
else:
    number, last = 1, vault.keep(a_pair(5))
print("ready", flush=True)
while True:
    if number > last:
        last = vault.reserve(5)
    print(number, flush=True)
    number += 1
"""


def is_longer(log: Path, size: int) -> bool:
    return log.stat().st_size > size


def test_no_number_is_sent_twice_whenever_the_process_is_killed(tmp_path: Path) -> None:
    sent: list[int] = []
    root = Path(__file__).parents[2]
    for life in range(3):
        log = tmp_path / f"log{life}"
        with log.open("wb") as file:
            command = [sys.executable, "-c", SENDER, str(tmp_path)]
            process = subprocess.Popen(command, stdout=file, cwd=root)
            wait_until(partial(is_longer, log, 200 + 37 * life), seconds=60)
            process.send_signal(signal.SIGKILL)
            process.wait()
        lines = log.read_text().split("\n")[1:-1]  # the last line may be torn
        sent += [int(line) for line in lines]
    assert len(sent) == len(set(sent))
    assert sent == sorted(sent)
