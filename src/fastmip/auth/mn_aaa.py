"""Mobile-AAA authentication (RFC 4721 5, 6, 8): a mobile node's word to its home domain.

Two ways, told apart by the SPI. A security association signs like any other (HMAC-MD5 unless
it says otherwise). CHAP_SPI is the formula RADIUS servers can check; RFC 4721 12 wants it
avoided where possible, for it is plain MD5.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final, NoReturn

from fastmip.auth.associations import MIN_KEY_LEN, AssociationError, SecurityAssociation
from fastmip.auth.authenticators import append_generalized, verify_authentication
from fastmip.wire.authext import MN_AAA, GeneralizedAuthentication, generalized_header

CHAP_SPI: Final = 2
"""Reserved SPI that names the formula instead of an association (RFC 4721 9)."""
CHAP_TAIL_LEN: Final = 237
"""What of a challenge fits a RADIUS attribute beside an MD5 digest (RFC 4721 8)."""
COLOCATED_CHALLENGE: Final = b"\0"
"""The "Challenge value 0" of a registration without a foreign agent (RFC 4721 3.5): one octet."""

_DIGEST_LEN: Final = 16


@dataclass(frozen=True, slots=True)
class ChapKey:
    """The secret a mobile node shares with a RADIUS server; AssociationError below 128 bits."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Check the length."""
        if len(self.key) < MIN_KEY_LEN:
            raise AssociationError(
                f"CHAP key of {len(self.key)} bytes, at least {MIN_KEY_LEN} needed"
            )

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled, as a security association does."""
        raise TypeError("a CHAP key cannot be pickled or copied")

    def authenticator(self, covered: bytes, challenge: bytes) -> bytes:
        """Return the authenticator of the covered bytes under a challenge (RFC 4721 8).

        A challenge of at most 237 octets goes in whole, its first octet twice; it is never
        padded. An empty one stands for itself: nothing is known of it to add.
        """
        digest = hashlib.md5(covered).digest()  # noqa: S324 - the formula of RFC 4721 8
        chap = challenge[:1] + self.key + digest + challenge[-CHAP_TAIL_LEN:]
        return hashlib.md5(chap).digest()  # noqa: S324 - as above


AaaSecret = SecurityAssociation | ChapKey
"""What a mobile node and its AAA server share."""


def spi_of(secret: AaaSecret) -> int:
    """Return the SPI that names a secret in the extension."""
    return CHAP_SPI if isinstance(secret, ChapKey) else secret.spi


def sign_mn_aaa(message: bytes, secret: AaaSecret, challenge: bytes) -> bytes:
    """Return the message with a Mobile-AAA authentication that covers all of it.

    ``challenge`` is the one in the message's challenge extension, COLOCATED_CHALLENGE without
    a foreign agent; a security association has no use for it, the message covers it already.
    """
    if isinstance(secret, SecurityAssociation):
        return append_generalized(message, MN_AAA, secret)
    covered = message + generalized_header(MN_AAA, CHAP_SPI, _DIGEST_LEN)
    return covered + secret.authenticator(covered, challenge)


def verify_mn_aaa(
    message: bytes, extension: GeneralizedAuthentication, secret: AaaSecret, challenge: bytes
) -> bool:
    """Say whether ``extension``, decoded from ``message``, is right; in constant time.

    Never right: another subtype, an SPI that does not name this secret, another length.
    Raises ValueError for an extension that was built, not decoded.
    """
    if extension.subtype != MN_AAA:
        return False
    if isinstance(secret, SecurityAssociation):
        return verify_authentication(message, extension, secret)
    if extension.offset < 0:
        raise ValueError("the extension was not decoded from a message")
    if extension.spi != CHAP_SPI:
        return False
    covered = message[: extension.offset + extension.header_len]
    return hmac.compare_digest(secret.authenticator(covered, challenge), extension.authenticator)
