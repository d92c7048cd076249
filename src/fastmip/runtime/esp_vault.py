"""Keys of ESP over a restart of the daemon: a private file in memory (tmpfs), 0600.

The file dies with the machine's memory, and that is the point: after a reboot, or on another
machine, registrations make new keys. One slot of fixed size per pair, changed in place:

    state 1 | suite 1 | 2 unused | CRC-32 of the rest but the blocks | number, addresses, SPIs
    | keys 2 x 64 | end of the outbound block 8 | inbound mark 8 | CRC-32 of both

What keeps (key, nonce) unique over a kill: sequence numbers are sent only out of a block whose end
was written *before*. Whoever comes back begins behind that end, and never sends again what may
have been sent. The mark is the highest number that surely was taken inbound: what is
replayed from below it is refused.

A slot is written whole before its state says that it is used; one whose sum is wrong is a torn
write, and is wiped.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from fastmip.agents.esp_pairs import SecurityAssociationPair
from fastmip.auth.esp_schedule import KEY_LEN, Secret
from fastmip.errors import FastmipError
from fastmip.runtime.keys import OTHERS
from fastmip.wire.esp_keying import Suite

BLOCK: Final = 1 << 20
"""Sequence numbers reserved at a time: one write per so many packets."""
IN_MEMORY: Final = frozenset(("tmpfs", "ramfs"))

_MAGIC: Final = b"fastmip esp 1\n\0\0"
_HEAD: Final = 16
_SLOT: Final = 256
_USED: Final = 1
_FIXED: Final = struct.Struct("<BB2xI")
_BODY: Final = struct.Struct("<QIIIIII64s64s")
_BLOCKS: Final = struct.Struct("<QQ")
_CHECK: Final = struct.Struct("<I")
_BLOCKS_AT: Final = _FIXED.size + _BODY.size


class VaultError(FastmipError):
    """A file that must not be used; the text names the remedy, never a key."""


class KeptPair(NamedTuple):
    """A pair as it comes back."""

    pair: SecurityAssociationPair
    next_outbound: int
    """The first sequence number that surely was never sent."""
    next_inbound: int
    """The lowest number to take."""


class EspVault:
    """The file, open; one process at a time."""

    def __init__(self, path: Path, *, anywhere: bool = False) -> None:
        """Open or make it. Raises VaultError: not private, not in memory, or of something else.

        ``anywhere``: also on a disk, for tests.
        """
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise VaultError(f"{path}: {error.strerror}") from None
        try:
            self._check(anywhere=anywhere)
        except VaultError:
            os.close(self._file)
            raise
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._count = max(0, os.fstat(self._file).st_size - _HEAD) // _SLOT

    def _check(self, *, anywhere: bool) -> None:
        path, status = self._path, os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            raise VaultError(f"{path} is not a regular file: name a file")
        if status.st_uid != os.geteuid() or status.st_mode & OTHERS:
            raise VaultError(f"{path} can be read by others: remove it")
        if not anywhere and filesystem_of(status.st_dev) not in IN_MEMORY:
            raise VaultError(f"{path} is not on a tmpfs: keys do not belong on disks")
        if not status.st_size:
            os.pwrite(self._file, _MAGIC.ljust(_HEAD, b"\0"), 0)
        elif os.pread(self._file, len(_MAGIC), 0) != _MAGIC:
            raise VaultError(f"{path} is no file of ours: remove it")

    def restore(self) -> Iterator[KeptPair]:
        """Every pair that is kept, each with a new outbound block already reserved."""
        self._slots.clear()
        self._free = []
        for slot in range(self._count):
            found = self._read(slot)
            if found is None:
                self._wipe(slot)
                self._free.append(slot)
                continue
            pair, last, mark = found
            self._slots[pair.number] = slot
            self._write_blocks(slot, last + BLOCK, mark)
            yield KeptPair(pair, last + 1, mark + 1)

    def keep(self, pair: SecurityAssociationPair) -> int:
        """Keep a new pair; returns the end of its first outbound block."""
        if pair.number in self._slots:
            raise ValueError(f"pair {pair.number} is kept already")
        slot = self._free.pop() if self._free else self._count
        self._count = max(self._count, slot + 1)
        body = _BODY.pack(
            *(pair.number, pair.home_address, pair.care_of_address, pair.local, pair.remote),
            *(pair.inbound_spi, pair.outbound_spi, pair.inbound.reveal(), pair.outbound.reveal()),
        )
        blocks = _checked(BLOCK, 0)
        fixed = _FIXED.pack(0, pair.suite, _sum(pair.suite, body))
        at = _at(slot)
        os.pwrite(self._file, (fixed + body + blocks).ljust(_SLOT, b"\0"), at)
        os.pwrite(self._file, bytes((_USED,)), at)
        self._slots[pair.number] = slot
        return BLOCK

    def reserve(self, number: int) -> int:
        """Take the next outbound block; returns its end, up to which may be sent from now on."""
        slot = self._slots[number]
        last, mark = self._read_blocks(slot)
        self._write_blocks(slot, last + BLOCK, mark)
        return last + BLOCK

    def mark(self, number: int, highest: int) -> None:
        """Note the highest inbound number that was taken; a lower one changes nothing."""
        slot = self._slots[number]
        last, mark = self._read_blocks(slot)
        self._write_blocks(slot, last, max(mark, highest))

    def forget(self, number: int) -> None:
        """The pair is retired: overwrite its keys."""
        slot = self._slots.pop(number, None)
        if slot is not None:
            self._wipe(slot)
            self._free.append(slot)

    def close(self) -> None:
        """Close the file; what is kept stays."""
        os.close(self._file)

    def _read(self, slot: int) -> tuple[SecurityAssociationPair, int, int] | None:
        data = os.pread(self._file, _SLOT, _at(slot))
        if len(data) < _SLOT:
            return None
        state, suite_number, check = _FIXED.unpack_from(data)
        body = data[_FIXED.size : _BLOCKS_AT]
        if state != _USED or check != _sum(suite_number, body) or suite_number not in KEY_LEN:
            return None
        suite = Suite(suite_number)
        number, home, care_of, local, remote, spi_in, spi_out, key_in, key_out = _BODY.unpack(body)
        pair = SecurityAssociationPair(
            number,
            home,
            care_of,
            local,
            remote,
            suite,
            spi_in,
            spi_out,
            Secret(key_in[: KEY_LEN[suite]]),
            Secret(key_out[: KEY_LEN[suite]]),
        )
        last, mark = _BLOCKS.unpack_from(data, _BLOCKS_AT)
        checked = _checked(last, mark)
        if data[_BLOCKS_AT : _BLOCKS_AT + len(checked)] != checked:
            return None
        return pair, last, mark

    def _read_blocks(self, slot: int) -> tuple[int, int]:
        data = os.pread(self._file, _BLOCKS.size, _at(slot) + _BLOCKS_AT)
        last, mark = _BLOCKS.unpack(data)
        return last, mark

    def _write_blocks(self, slot: int, last: int, mark: int) -> None:
        os.pwrite(self._file, _checked(last, mark), _at(slot) + _BLOCKS_AT)

    def _wipe(self, slot: int) -> None:
        os.pwrite(self._file, bytes(_SLOT), _at(slot))


def _at(slot: int) -> int:
    return _HEAD + slot * _SLOT


def _checked(last: int, mark: int) -> bytes:
    blocks = _BLOCKS.pack(last, mark)
    return blocks + _CHECK.pack(zlib.crc32(blocks))


def _sum(suite: int, body: bytes) -> int:
    return zlib.crc32(bytes((suite,)) + body)


def filesystem_of(device: int) -> str:
    """Kind of the file system with this device number; empty when it is not mounted here."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return ""
