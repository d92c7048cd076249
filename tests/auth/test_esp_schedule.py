"""Keys of registration-keyed ESP against integers, hashlib and hmac alone, and fixed vectors."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmip.auth.esp_schedule import (
    KEY_LEN,
    Direction,
    KeyExchangeError,
    KeyShare,
    Root,
    Secret,
    transcript,
)
from fastmip.wire.esp_keying import Suite

P = 2**255 - 19
SHARED = bytes(range(32))
REQUEST, REPLY = b"\x01request with its authentication", b"\x03reply before it"
HOME, CARE_OF, SPI = 0x0A010005, 0x0A030009, 0xC0FFEE01
TRANSCRIPT = "d8ca1fa026d90250c7d64e89ebe2f7703533ae2e56cff7917ce24dc0bfdb90c1"
NAME = "804e4b082f50b124"
KEY = "3d1a0ce6555722290994b3a3830e79872c92bacb"
BACK = (
    "12945f6f7207239dfb94bfdc1bbddb2387190c1abf3eb3ba90343ecf8c7766d6"
    "4638fcd23574985ad577e1edf607b18e4c5fbccae1ff7eda173d1cf44aba3f13"
)
NEXT_NAME = "ccc8f3af0840a934"
SMALL_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (P - 1).to_bytes(32, "little"),
    P.to_bytes(32, "little"),
    (P + 1).to_bytes(32, "little"),
]


def ladder(scalar: bytes, point: bytes) -> bytes:
    """X25519 by the Montgomery ladder of RFC 7748 5, with Python's integers."""
    k = int.from_bytes(scalar, "little")
    k = k & ~7 & (2**255 - 1) | 2**254
    x1 = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3 = 1, 0, x1, 1
    for bit in range(254, -1, -1):
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        e = aa - bb
        n2, m2 = aa * bb, e * (aa + 121665 * e)
        n3, m3 = (da + cb) ** 2, x1 * (da - cb) ** 2
        if k >> bit & 1:
            n2, m2, n3, m3 = n3, m3, n2, m2
        x2, z2, x3, z3 = n2 % P, m2 % P, n3 % P, m3 % P
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def extract(salt: bytes, data: bytes) -> bytes:
    """HKDF-Extract (RFC 5869 2.2)."""
    return hmac.digest(salt, data, "sha256")


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869 2.3)."""
    found = block = b""
    for counter in range(1, 9):
        block = hmac.digest(key, block + info + bytes((counter,)), "sha256")
        found += block
    return found[:length]


def said(request: bytes = REQUEST, reply: bytes = REPLY) -> bytes:
    """The transcript, written down once more."""
    text = b"fastmip esp 1 transcript"
    for message in (request, reply):
        text += struct.pack("!I", len(message)) + message
    return hashlib.sha256(text).digest()


def keys_of(root: bytes, direction: int, suite: int, length: int) -> bytes:
    context = struct.pack("!BIIBI", direction, HOME, CARE_OF, suite, SPI)
    return expand(root, b"fastmip esp 1 keys" + context, length)


def a_root(reply: bytes = REPLY) -> Root:
    return Root.of_exchange(Secret(SHARED), transcript(REQUEST, reply))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_both_sides_agree_on_what_the_ladder_says(left: bytes, right: bytes) -> None:
    one, other = KeyShare(left), KeyShare(right)
    base = (9).to_bytes(32, "little")
    assert one.public == ladder(left, base)
    if one.public == other.public:
        return
    assert one.agree(other.public) == other.agree(one.public)
    assert one.agree(other.public).reveal() == ladder(left, other.public)


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda p: p[:2].hex())
def test_a_share_of_small_order_is_refused(point: bytes) -> None:
    with pytest.raises(KeyExchangeError):
        KeyShare().agree(point)


def test_a_reflected_share_is_refused() -> None:
    share = KeyShare()
    with pytest.raises(KeyExchangeError, match="own share"):
        share.agree(share.public)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_share_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(KeyExchangeError):
        KeyShare().agree(bytes(length))


@pytest.mark.parametrize("suite", list(Suite))
@pytest.mark.parametrize("direction", list(Direction))
def test_the_schedule_is_hkdf_over_secret_and_transcript(
    suite: Suite, direction: Direction
) -> None:
    root = extract(said(), SHARED)
    mine = a_root()
    assert mine.name == expand(root, b"fastmip esp 1 name", 8)
    found = mine.keys(direction, HOME, CARE_OF, suite, SPI).reveal()
    assert found == keys_of(root, direction, suite, KEY_LEN[suite])
    following = extract(said(reply=b"next"), expand(root, b"fastmip esp 1 ratchet", 32))
    ratcheted = Root.of_exchange(mine.step(), transcript(REQUEST, b"next"))
    assert ratcheted.name == expand(following, b"fastmip esp 1 name", 8)
    found = ratcheted.keys(direction, HOME, CARE_OF, suite, SPI).reveal()
    assert found == keys_of(following, direction, suite, KEY_LEN[suite])


def test_vectors_do_not_change() -> None:
    root = a_root()
    key = root.keys(Direction.TO_HOME, HOME, CARE_OF, Suite.AES128_GCM16, SPI)
    back = root.keys(Direction.TO_NODE, HOME, CARE_OF, Suite.AES256_CBC_SHA256, SPI)
    following = Root.of_exchange(root.step(), transcript(REQUEST, b"next"))
    assert transcript(REQUEST, REPLY).hex() == TRANSCRIPT
    assert root.name.hex() == NAME
    assert key.reveal().hex() == KEY
    assert back.reveal().hex() == BACK
    assert following.name.hex() == NEXT_NAME


def test_each_input_changes_every_key() -> None:
    found = set()
    following = [Root.of_exchange(a_root().step(), said()) for _ in range(2)]
    for root in (a_root(), a_root(b"other"), *following):
        for direction in Direction:
            for home, care_of, spi in ((1, 2, 300), (2, 1, 300), (1, 3, 300), (1, 2, 301)):
                for suite in (Suite.AES128_GCM16, Suite.AES256_GCM16):
                    found.add(root.keys(direction, home, care_of, suite, spi).reveal()[:16])
    assert len(found) == 3 * 2 * 4 * 2  # the last two roots are the same


def test_bytes_do_not_move_from_request_to_reply() -> None:
    assert transcript(b"ab", b"c") != transcript(b"a", b"bc")


def test_secrets_hide_themselves_and_can_be_wiped() -> None:
    secret, root, share = Secret(SHARED), a_root(), KeyShare(SHARED)
    key = root.keys(Direction.TO_HOME, HOME, CARE_OF, Suite.AES128_GCM16, SPI)
    for hidden in (secret, root, share, key):
        assert SHARED.hex()[:16] not in repr(hidden)
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                attempt(hidden)
    assert key.reveal().hex() not in repr(key)
    held = secret._data
    secret.wipe()
    assert held == bytes(32)
    assert secret.is_wiped
    with pytest.raises(ValueError, match="wiped"):
        secret.reveal()
    root.wipe()
    with pytest.raises(ValueError, match="wiped"):
        root.step()
    assert root.is_wiped


def test_the_shared_secret_is_wiped_once_the_root_is_made() -> None:
    shared = Secret(SHARED)
    Root.of_exchange(shared, said())
    assert shared.is_wiped
