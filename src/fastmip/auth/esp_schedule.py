"""Keys of ESP out of a registration: X25519, HKDF-SHA-256 (RFC 7748, RFC 5869).

``docs/registration-keyed-esp.md`` gives the reasons. With T the hash of what request and reply
said (``transcript``), H(s, x) = HKDF-Extract with salt s, and E(k, label, n) = HKDF-Expand:

    root 0    H(T, X25519(own, other))           full exchange
    root g+1  H(T, E(root g, "ratchet", 32))     plain refresh
    name      E(root, "name", 8)                 what a ratchet offer names it by
    keys      E(root, "keys" direction home-address care-of-address suite SPI, key and salt)

Every root depends on all bytes both sides signed, nonces and Identification among them: two
exchanges have two roots, whatever a random generator does on one side.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from enum import IntEnum
from typing import Final, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from fastmip.errors import FastmipError
from fastmip.wire.esp_keying import NAME_LEN, Suite

ROOT_LEN: Final = 32
_PREFIX: Final = b"fastmip esp 1 "
_LENGTH: Final = struct.Struct("!I")
_CONTEXT: Final = struct.Struct("!BIIBI")

KEY_LEN: Final = {
    Suite.AES128_GCM16: 16 + 4,
    Suite.AES256_GCM16: 32 + 4,
    Suite.AES128_CBC_SHA256: 16 + 32,
    Suite.AES256_CBC_SHA256: 32 + 32,
}
"""Cipher key, then the salt of GCM (RFC 4106 8.1) or the key of HMAC-SHA-256 (RFC 4868 2.1.1)."""


class KeyExchangeError(FastmipError):
    """A share that must not be used."""


class Direction(IntEnum):
    """Which way packets go that a key protects."""

    TO_HOME = 0
    TO_NODE = 1


class Secret:
    """Bytes that hide themselves, compare in constant time, and can be wiped.

    Python copies what it hashes; the copy that lives long is this one.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray) -> None:
        """Take a copy."""
        self._data = bytearray(data)

    def reveal(self) -> bytes:
        """The bytes; ValueError after ``wipe``."""
        if not self._data:
            raise ValueError("the secret was wiped")
        return bytes(self._data)

    def wipe(self) -> None:
        """Overwrite and forget."""
        self._data[:] = bytes(len(self._data))
        self._data = bytearray()

    @property
    def is_wiped(self) -> bool:
        """There is nothing left."""
        return not self._data

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        return isinstance(other, Secret) and hmac.compare_digest(self._data, other._data)

    __hash__ = None  # type: ignore[assignment]  # a hash of a key is a trace of it

    def __repr__(self) -> str:
        """Tell the length, no more."""
        return f"Secret({len(self._data)} bytes withheld)"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a secret cannot be pickled or copied")


class KeyShare:
    """One side of an X25519 exchange, for one exchange."""

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes | None = None) -> None:
        """Make a fresh one; ``private`` only for vectors."""
        if private is None:
            self._private = X25519PrivateKey.generate()
        else:
            self._private = X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()

    def agree(self, other: bytes) -> Secret:
        """The shared secret with the other side's share. Raises KeyExchangeError.

        Our own share is refused (a reflection), and one whose result is zero (a point of small
        order, RFC 7748 6.1). Only to be called on what an authenticator covers.
        """
        if hmac.compare_digest(other, self.public):
            raise KeyExchangeError("our own share came back")
        try:
            return Secret(self._private.exchange(X25519PublicKey.from_public_bytes(other)))
        except ValueError:
            raise KeyExchangeError("a share of small order, or of another length") from None

    def __repr__(self) -> str:
        """Name nothing that is secret."""
        return f"KeyShare({self.public.hex()[:16]}...)"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a key share cannot be pickled or copied")


def transcript(request: bytes, reply: bytes) -> bytes:
    """What both sides said: the request up to and with its Mobile-Home authentication, the
    reply up to where its own begins."""
    seen = hashlib.sha256(_PREFIX + b"transcript")
    for message in (request, reply):
        seen.update(_LENGTH.pack(len(message)))
        seen.update(message)
    return seen.digest()


def _expand(key: bytes, info: bytes, length: int) -> bytes:
    return HKDFExpand(hashes.SHA256(), length, _PREFIX + info).derive(key)


class Root:
    """A root key: what comes out of one exchange, and out of it keys and the next root."""

    __slots__ = ("_secret", "name")

    def __init__(self, secret: Secret) -> None:
        """Take over 32 bytes."""
        self._secret = secret
        self.name = _expand(secret.reveal(), b"name", NAME_LEN)

    @classmethod
    def of_exchange(cls, secret: Secret, said: bytes) -> Root:
        """The root out of a shared secret, or out of the step from another root; wipes that."""
        root = cls(Secret(hmac.digest(said, secret.reveal(), "sha256")))
        secret.wipe()
        return root

    def step(self) -> Secret:
        """What the next root is made of; ValueError after ``wipe``."""
        return Secret(_expand(self._secret.reveal(), b"ratchet", ROOT_LEN))

    @property
    def is_wiped(self) -> bool:
        """Only the name is left."""
        return self._secret.is_wiped

    def keys(
        self, direction: Direction, home_address: int, care_of_address: int, suite: Suite, spi: int
    ) -> Secret:
        """The key of one direction: cipher key and salt, or cipher key and HMAC key."""
        context = _CONTEXT.pack(direction, home_address, care_of_address, suite, spi)
        return Secret(_expand(self._secret.reveal(), b"keys" + context, KEY_LEN[suite]))

    def wipe(self) -> None:
        """Overwrite and forget; the name stays."""
        self._secret.wipe()

    def __repr__(self) -> str:
        """Tell the name, which is public."""
        return f"Root({self.name.hex()})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a root key cannot be pickled or copied")
