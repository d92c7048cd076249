"""Ciphers of ESP against NIST's vectors, and ten thousand random packets of each suite both ways.

NIST's vectors (CAVP) go through the seam of the providers. CBC has a tag there, which NIST's has
not: HMAC-SHA-256 of Python's library stands for it. Sealing encrypts the place of the IV, so the
block that becomes the vector's IV is put there.
"""

import ctypes
import hmac
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.engine.test_esp import (
    CARE_OF,
    HOME_AGENT,
    IN_SPI,
    NODE,
    OUT_SPI,
    PEER,
    PROVIDERS,
    SUITES,
    World,
    key_of,
)  # fmt: skip
from tests.helpers.c_probe import compile_probe

HERE = Path(__file__).parent
NUMBERS = {name: number for number, name in enumerate(SUITES)}
RECORD = struct.Struct("=IIII16s64s16s")
PACKETS = 10_240


@dataclass(frozen=True)
class Case:
    """One packet for the seam: `before` the text stands what is signed only, or header and IV."""

    suite: str
    key: bytes
    iv: bytes
    before: bytes
    plain: bytes
    cipher: bytes
    tag: bytes
    is_right: bool = True

    def record(self, text: bytes, tag: bytes, before: bytes) -> bytes:
        head = RECORD.pack(NUMBERS[self.suite], len(before), len(text), 0, self.iv, self.key, tag)
        return head + before + text


class Seam:
    """A provider behind its seam."""

    def __init__(self, loaded: ctypes.CDLL, is_mb: bool) -> None:
        self._run, self._is_mb = loaded.crypto_probe_run, is_mb
        if not loaded.crypto_probe_is_here(is_mb):
            pytest.skip("no ipsec-mb here")

    def run(self, is_open: bool, records: list[bytes]) -> list[tuple[bool, bytes, bytes, bytes]]:
        """Return (tag was right, before, text, tag) of each."""
        data = ctypes.create_string_buffer(b"".join(records), sum(map(len, records)))
        done = self._run(self._is_mb, is_open, data, ctypes.c_uint64(len(data)))
        assert done == len(records)
        left, at = data.raw, 0
        found = []
        while at < len(left):
            _, before, text, is_right, _, _, tag = RECORD.unpack_from(left, at)
            start = at + RECORD.size
            at = start + before + text
            found.append(
                (bool(is_right), left[start : start + before], left[start + before : at], tag)
            )
        return found


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_probe(HERE / "crypto_probe.c", tmp_path_factory.mktemp("crypto"), "crypto")


@pytest.fixture(params=PROVIDERS)
def seam(request: pytest.FixtureRequest, loaded: ctypes.CDLL) -> Seam:
    return Seam(loaded, request.param == "ipsec-mb")


def vectors(name: str) -> Iterator[dict[str, str]]:
    """Each test of a file of NIST's, with the values of the sections it stands in."""
    section: dict[str, str] = {}
    test: dict[str, str] = {}
    file = cryptography_vectors.open_vector_file(f"ciphers/AES/{name}", "r")
    with file:
        for line in [*map(str.strip, file), ""]:
            if line.startswith("["):
                word, _, value = line.strip("[]").partition(" = ")
                section[word] = value
            elif line and not line.startswith("#"):
                word, _, value = line.partition(" =")
                test[word] = value.strip()
            elif not line and test:
                yield section | test
                test = {}


def gcm_cases(bits: int, *, is_open: bool) -> list[Case]:
    """Those with the nonce and the tag of ESP: 96 and 128 bits."""
    name = f"GCM/gcm{'Decrypt' if is_open else 'EncryptExtIV'}{bits}.rsp"
    cases = []
    for given in vectors(name):
        if (given["IVlen"], given["Taglen"]) != ("96", "128"):
            continue
        key, iv, before, plain, cipher, tag = (
            bytes.fromhex(given.get(word, "")) for word in ("Key", "IV", "AAD", "PT", "CT", "Tag")
        )
        is_right = "FAIL" not in given
        suite = f"aes{bits}-gcm16"
        cases.append(Case(suite, key, iv, before, plain, cipher, tag, is_right))
    return cases


def cbc_cases(bits: int) -> list[Case]:
    signing = bytes(range(32))
    cases = []
    for kind in ("GFSbox", "KeySbox", "MMT", "VarKey", "VarTxt"):
        for given in vectors(f"CBC/CBC{kind}{bits}.rsp"):
            key, iv, plain, cipher = (
                bytes.fromhex(given[word]) for word in ("KEY", "IV", "PLAINTEXT", "CIPHERTEXT")
            )
            before = struct.pack(">II", IN_SPI, 1) + iv
            tag = hmac.digest(signing, before + cipher, "sha256")[:16]
            suite = f"aes{bits}-cbc-sha256"
            cases.append(Case(suite, key + signing, iv, before, plain, cipher, tag))
    return cases


@pytest.mark.parametrize("bits", [128, 256])
def test_gcm_is_that_of_nist(seam: Seam, bits: int) -> None:
    cases = gcm_cases(bits, is_open=False)
    assert len(cases) >= 375
    left = seam.run(False, [c.record(c.plain, bytes(16), c.before) for c in cases])
    assert [(text, tag) for _, _, text, tag in left] == [(c.cipher, c.tag) for c in cases]
    cases = gcm_cases(bits, is_open=True)
    assert len(cases) >= 375
    assert {c.is_right for c in cases} == {True, False}
    opened = seam.run(True, [c.record(c.cipher, c.tag, c.before) for c in cases])
    assert [is_right for is_right, *_ in opened] == [c.is_right for c in cases]
    for (is_right, _, text, _), case in zip(opened, cases, strict=True):
        assert not is_right or text == case.plain


@pytest.mark.parametrize("bits", [128, 256])
def test_cbc_is_that_of_nist(seam: Seam, bits: int) -> None:
    cases = cbc_cases(bits)
    assert len(cases) >= 500
    records = []
    for case in cases:
        ecb = Cipher(algorithms.AES(case.key[:-32]), modes.ECB()).decryptor()  # noqa: S305 - one block
        before = case.before[:8] + ecb.update(case.iv)
        records.append(case.record(case.plain, bytes(16), before))
    left = seam.run(False, records)
    assert [taken[1:] for taken in left] == [(c.before, c.cipher, c.tag) for c in cases]
    opened = seam.run(True, [c.record(c.cipher, c.tag, c.before) for c in cases])
    assert all(is_right for is_right, *_ in opened)
    assert [text for _, _, text, _ in opened] == [c.plain for c in cases]
    wrong = [c.record(c.cipher, bytes([c.tag[0] ^ 1]) + c.tag[1:], c.before) for c in cases]
    assert not any(is_right for is_right, *_ in seam.run(True, wrong))


class Library:
    """ESP by the `cryptography` library, of one direction."""

    def __init__(self, suite: str, key: bytes) -> None:
        self.is_gcm = "gcm" in suite
        if self.is_gcm:
            self._gcm, self._salt = AESGCM(key[:-4]), key[-4:]
        else:
            self._aes, self._signing = algorithms.AES(key[:-32]), key[-32:]

    def seal(self, esp: bytes, iv: bytes, plain: bytes, upper: bytes) -> bytes:
        if self.is_gcm:
            return self._gcm.encrypt(self._salt + iv, plain, esp[:4] + upper + esp[4:])
        own = Cipher(self._aes, modes.CBC(iv)).encryptor()
        text = own.update(plain)
        return text + hmac.digest(self._signing, esp + iv + text + upper, "sha256")[:16]

    def open(self, esp: bytes, upper: bytes) -> bytes:
        header, size = esp[:8], 8 if self.is_gcm else 16
        iv, text, tag = esp[8 : 8 + size], esp[8 + size : -16], esp[-16:]
        if self.is_gcm:
            return self._gcm.decrypt(self._salt + iv, text + tag, header[:4] + upper + header[4:])
        if hmac.digest(self._signing, esp[:-16] + upper, "sha256")[:16] != tag:
            raise InvalidTag
        return Cipher(self._aes, modes.CBC(iv)).decryptor().update(text)


def ipv4(source: int, destination: int, protocol: int, payload: bytes) -> bytes:
    words = [0x4500, 20 + len(payload), 0, 0x4000, 0x4000 | protocol, 0]
    words += [source >> 16, source & 0xFFFF, destination >> 16, destination & 0xFFFF]
    total = sum(words)
    words[5] = 0xFFFF - ((total & 0xFFFF) + (total >> 16))
    return struct.pack(">10H", *words) + payload


@cache
def inner_packets(source: int, destination: int) -> list[bytes]:
    draw = random.Random(source)  # noqa: S311 - repeatable octets
    sizes = [min(int(draw.expovariate(1 / 200)), 1380) for _ in range(PACKETS)]
    return [ipv4(source, destination, 17, draw.randbytes(size)) for size in sizes]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("suite", SUITES)
def test_ten_thousand_packets_of_a_library_agree(suite: str, provider: str) -> None:
    world = World(suite, provider, esn=True)
    library = Library(suite, key_of(suite, 2))
    upper, trailer = bytes(4), bytes(range(1, 16))
    packets = inner_packets(PEER, NODE)
    assert set(world.home(*packets)) == {"encapsulated"}
    for number, (packet, left) in enumerate(zip(packets, world.sent(), strict=True), 1):
        assert left[20:28] == struct.pack(">II", OUT_SPI, number)
        plain = library.open(left[20:], upper)
        pad, following = plain[-2:]
        assert (following, plain[: -2 - pad], plain[len(packet) : -2]) == (4, packet, trailer[:pad])
    library = Library(suite, key_of(suite, 1))
    packets, wire = inner_packets(NODE, PEER), []
    draw = random.Random(suite)  # noqa: S311 - repeatable octets
    block, size = (4, 8) if library.is_gcm else (16, 16)
    for number, packet in enumerate(packets, 1):
        header, iv = struct.pack(">II", IN_SPI, number), draw.randbytes(size)
        pad = -(len(packet) + 2) % block
        plain = packet + trailer[:pad] + bytes((pad, 4))
        esp = header + iv + library.seal(header, iv, plain, upper)
        wire.append(ipv4(CARE_OF, HOME_AGENT, 50, esp))
    assert set(world.tunnel(*wire)) == {"decapsulated"}
    assert world.arrived() == packets
