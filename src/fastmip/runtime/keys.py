"""Key material of mobility security associations: a value that hides itself, and its files.

A key lives in a file of its own, mode 0600, as hexadecimal digits. RFC 5944 5.1 asks for
keys of at least 128 bits and allows arbitrary binary ones.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from typing import TYPE_CHECKING, NoReturn

from fastmip.errors import FastmipError

if TYPE_CHECKING:
    from pathlib import Path

MIN_KEY_LEN = 16
"""128 bits, the RFC's minimum (RFC 5944 5.1)."""
MAX_KEY_LEN = 256
NEW_KEY_LEN = 32
"""Bytes in a key that fastmip makes."""
MAX_KEY_FILE_LEN = 4096
OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Permission bits that a file with a key must not have."""


class KeyFileError(FastmipError):
    """A key or key file that cannot be used; the text names the remedy, never the key."""


class Key:
    """A key: compares in constant time and never shows itself in ``repr``, ``str``, pickles."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        """Take the raw bytes. Raises KeyFileError outside 16 to 256 bytes."""
        if len(data) < MIN_KEY_LEN:
            raise KeyFileError(
                f"the key has {len(data)} bytes: use at least {MIN_KEY_LEN} (RFC 5944 5.1)"
            )
        if len(data) > MAX_KEY_LEN:
            raise KeyFileError(f"the key has {len(data)} bytes: use at most {MAX_KEY_LEN}")
        self._data = bytes(data)

    @classmethod
    def from_hex(cls, text: str) -> Key:
        """Read hexadecimal digits, with ``0x`` and white space allowed around them.

        Raises KeyFileError.
        """
        digits = text.strip().removeprefix("0x")
        try:
            data = bytes.fromhex(digits)
        except ValueError:
            # The parser's own message is dropped: it may quote the text.
            raise KeyFileError("the key is not an even number of hexadecimal digits") from None
        return cls(data)

    @classmethod
    def from_ascii(cls, text: str) -> AsciiKey:
        """Take characters as they are; short ones too, which only old routers need.

        Raises KeyFileError.
        """
        if not text.isascii() or not text.isprintable() or not 1 <= len(text) <= MAX_KEY_LEN:
            raise KeyFileError(f"the key is not 1 to {MAX_KEY_LEN} printable ASCII characters")
        key = AsciiKey.__new__(AsciiKey)
        key._data = text.encode()
        return key

    @property
    def is_short(self) -> bool:
        """Whether it is shorter than RFC 5944 5.1 asks for."""
        return len(self._data) < MIN_KEY_LEN

    @classmethod
    def generate(cls) -> Key:
        """Make a fresh random key of 32 bytes."""
        return cls(secrets.token_bytes(NEW_KEY_LEN))

    def reveal(self) -> bytes:
        """Return the raw bytes: only for authenticators and for writing key files."""
        return self._data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._data, other._data)

    __hash__ = None  # type: ignore[assignment]  # a hash of a key is a trace of it

    def __repr__(self) -> str:
        return f"Key({len(self._data)} bytes withheld)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key cannot be pickled")


class AsciiKey(Key):
    """A key that is written as characters in a configuration; it may be short."""

    __slots__ = ()


def read_key_file(path: Path) -> Key:
    """Read a key from a file that only its owner can read.

    Raises KeyFileError with the remedy: missing, not a regular file, mode wider than 0600,
    not hexadecimal, too short or too long.
    """
    try:
        # Non-blocking: a FIFO must not hang the start. Checks use the open file, so that
        # nobody can swap it in between.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise KeyFileError(f"key file {path} does not exist: create it, mode 0600") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise KeyFileError(f"key file {path}: {reason}") from None
    try:
        _check_key_file(path, os.fstat(descriptor))
        data = os.read(descriptor, MAX_KEY_FILE_LEN + 1)
    finally:
        os.close(descriptor)
    try:
        return Key.from_hex(data.decode("ascii", errors="replace"))
    except KeyFileError as error:
        raise KeyFileError(f"key file {path}: {error}") from None


def _check_key_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"key file {path} is not a regular file: name a file, mode 0600")
    if status.st_mode & OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise KeyFileError(f"key file {path} has mode {mode:04o}: run chmod 600 {path}")
    if status.st_size > MAX_KEY_FILE_LEN:
        raise KeyFileError(f"key file {path} has {status.st_size} bytes: it is not a key file")


def write_private_file(path: Path, text: str) -> None:
    """Write a new file, mode 0600, durably. Raises FileExistsError rather than overwrite."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def write_key_file(path: Path, key: Key) -> None:
    """Write a key to a new file, mode 0600. Raises FileExistsError rather than overwrite."""
    write_private_file(path, key.reveal().hex() + "\n")
