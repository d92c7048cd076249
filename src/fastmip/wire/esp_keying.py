"""Keys for ESP agreed in a registration: what the vendor extensions carry (RFC 3115).

``docs/registration-keyed-esp.md`` has the layout and the reasons. A request carries an offer, a
reply an answer, both before the Mobile-Home authentication and both as a critical (38) or a normal
(134) vendor extension. Each names one of three kinds:

    FULL     an X25519 share, a nonce, the SPI of the sender's inbound association, suites
    RATCHET  the same without share and suites: the next key comes from the one that is named
    AGAIN    (answer only) the named key is not known here: offer FULL
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Final

from fastmip.errors import WireError
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension
from fastmip.wire.vendor import (
    CriticalVendorExtension,
    NormalVendorExtension,
    VendorExtension,
)

VENDOR: Final = 32473
"""Private enterprise number: the one for documentation (RFC 5612), since none is assigned."""
OFFER_TYPE: Final = 0x4501
ANSWER_TYPE: Final = 0x4502
VERSION: Final = 1

SHARE_LEN: Final = 32
NONCE_LEN: Final = 16
NAME_LEN: Final = 8
"""Bytes by which a root key is named."""
MAX_SUITES: Final = 16
FIRST_SPI: Final = 256
"""0 is never sent and 1-255 are reserved (RFC 4303 2.1)."""


@unique
class Suite(IntEnum):
    """What protects packets, by our own number."""

    AES128_GCM16 = 1
    AES256_GCM16 = 2
    AES128_CBC_SHA256 = 3
    AES256_CBC_SHA256 = 4


@unique
class Kind(IntEnum):
    """What an offer or an answer is about."""

    FULL = 1
    RATCHET = 2
    AGAIN = 3


@dataclass(frozen=True, slots=True)
class FullOffer:
    """A share and all that goes with it."""

    spi: int
    nonce: bytes
    share: bytes
    suites: tuple[int, ...]
    """In order of preference; numbers that are not listed are passed over."""

    def value(self) -> bytes:
        """The value of the vendor extension. Raises WireError."""
        if not 0 < len(self.suites) <= MAX_SUITES:
            raise WireError(f"{len(self.suites)} suites in an offer")
        _check(self.spi, self.nonce, share=self.share)
        try:
            suites = bytes((len(self.suites), *self.suites))
        except ValueError as error:
            raise WireError(f"suites of an offer: {error}") from error
        return _head(Kind.FULL, self.spi, self.nonce) + self.share + suites


@dataclass(frozen=True, slots=True)
class RatchetOffer:
    """The next key from the one that is named."""

    spi: int
    nonce: bytes
    name: bytes

    def value(self) -> bytes:
        """The value of the vendor extension. Raises WireError."""
        _check(self.spi, self.nonce, name=self.name)
        return _head(Kind.RATCHET, self.spi, self.nonce) + self.name


@dataclass(frozen=True, slots=True)
class FullAnswer:
    """The other share, and the suite that was chosen."""

    spi: int
    nonce: bytes
    share: bytes
    suite: int

    def value(self) -> bytes:
        """The value of the vendor extension. Raises WireError."""
        _check(self.spi, self.nonce, share=self.share)
        if not 0 <= self.suite <= 0xFF:
            raise WireError(f"suite {self.suite} does not fit")
        return _head(Kind.FULL, self.spi, self.nonce) + self.share + bytes((self.suite,))


@dataclass(frozen=True, slots=True)
class RatchetAnswer:
    """Agreed; the suite stays."""

    spi: int
    nonce: bytes
    name: bytes
    """As offered."""

    def value(self) -> bytes:
        """The value of the vendor extension. Raises WireError."""
        _check(self.spi, self.nonce, name=self.name)
        return _head(Kind.RATCHET, self.spi, self.nonce) + self.name


@dataclass(frozen=True, slots=True)
class AgainAnswer:
    """The key that was named is not known here."""

    def value(self) -> bytes:
        """The value of the vendor extension."""
        return bytes((VERSION, Kind.AGAIN))


Offer = FullOffer | RatchetOffer
Answer = FullAnswer | RatchetAnswer | AgainAnswer


def _head(kind: Kind, spi: int, nonce: bytes) -> bytes:
    return bytes((VERSION, kind)) + spi.to_bytes(4) + nonce


def _check(
    spi: int, nonce: bytes, *, share: bytes | None = None, name: bytes | None = None
) -> None:
    if not FIRST_SPI <= spi <= 0xFFFFFFFF:
        raise WireError(f"SPI {spi} is reserved or does not fit")
    if len(nonce) != NONCE_LEN:
        raise WireError(f"nonce of {len(nonce)} bytes")
    if share is not None and len(share) != SHARE_LEN:
        raise WireError(f"share of {len(share)} bytes")
    if name is not None and len(name) != NAME_LEN:
        raise WireError(f"name of {len(name)} bytes")


def _read_head(value: bytes) -> tuple[int, Cursor]:
    body = Cursor(value)
    version = body.u8()
    if version != VERSION:
        raise WireError(f"version {version} of keyed ESP")
    return body.u8(), body


def _read_ends(body: Cursor) -> tuple[int, bytes]:
    spi, nonce = body.u32(), body.take(NONCE_LEN)
    if spi < FIRST_SPI:
        raise WireError(f"SPI {spi} is reserved")
    return spi, nonce


def _read_to_the_end(body: Cursor) -> None:
    if body.remaining:
        raise WireError(f"{body.remaining} bytes too many")


def decode_offer(value: bytes) -> Offer:
    """Read the value of an offer; WireError for anything but one whole offer."""
    kind, body = _read_head(value)
    offer: Offer
    if kind == Kind.FULL:
        spi, nonce = _read_ends(body)
        share = body.take(SHARE_LEN)
        suites = tuple(body.take(body.u8()))
        if not 0 < len(suites) <= MAX_SUITES:
            raise WireError(f"{len(suites)} suites in an offer")
        offer = FullOffer(spi, nonce, share, suites)
    elif kind == Kind.RATCHET:
        spi, nonce = _read_ends(body)
        offer = RatchetOffer(spi, nonce, body.take(NAME_LEN))
    else:
        raise WireError(f"kind {kind} of an offer")
    _read_to_the_end(body)
    return offer


def decode_answer(value: bytes) -> Answer:
    """Read the value of an answer; WireError for anything but one whole answer."""
    kind, body = _read_head(value)
    answer: Answer
    if kind == Kind.FULL:
        spi, nonce = _read_ends(body)
        answer = FullAnswer(spi, nonce, body.take(SHARE_LEN), body.u8())
    elif kind == Kind.RATCHET:
        spi, nonce = _read_ends(body)
        answer = RatchetAnswer(spi, nonce, body.take(NAME_LEN))
    elif kind == Kind.AGAIN:
        answer = AgainAnswer()
    else:
        raise WireError(f"kind {kind} of an answer")
    _read_to_the_end(body)
    return answer


def _carry(vendor_type: int, value: bytes, *, critical: bool) -> VendorExtension:
    if critical:
        return CriticalVendorExtension(VENDOR, vendor_type, value)
    return NormalVendorExtension(VENDOR, vendor_type, value)


def carry_offer(offer: Offer, *, critical: bool) -> VendorExtension:
    """The extension of a request; critical: a home agent without it has to deny. WireError."""
    return _carry(OFFER_TYPE, offer.value(), critical=critical)


def carry_answer(answer: Answer, *, critical: bool) -> VendorExtension:
    """The extension of a reply. Raises WireError."""
    return _carry(ANSWER_TYPE, answer.value(), critical=critical)


def find_offer(extensions: Iterable[Extension]) -> Offer | None:
    """The one offer among a request's extensions; WireError for two, or one that is damaged.

    Give only those before the Mobile-Home authentication: the others are anybody's.
    """
    value = _find(OFFER_TYPE, extensions)
    return None if value is None else decode_offer(value)


def find_answer(extensions: Iterable[Extension]) -> Answer | None:
    """The one answer among a reply's extensions; as ``find_offer``."""
    value = _find(ANSWER_TYPE, extensions)
    return None if value is None else decode_answer(value)


def _find(vendor_type: int, extensions: Iterable[Extension]) -> bytes | None:
    found = [
        extension.value
        for extension in extensions
        if isinstance(extension, CriticalVendorExtension | NormalVendorExtension)
        and (extension.vendor, extension.vendor_type) == (VENDOR, vendor_type)
    ]
    if len(found) > 1:
        raise WireError("keys for ESP are offered or answered twice")
    return found[0] if found else None
