"""Sign and verify authentication extensions (RFC 5944 3.5.1).

What an authenticator covers: the message from its first byte, all earlier extensions whole,
and type, length and SPI of its own extension. Not the UDP header, not itself, and nothing
that stands behind it.
"""

from __future__ import annotations

import hmac

from fastmip.auth.associations import SecurityAssociation
from fastmip.wire.authext import (
    AuthenticationExtension,
    GeneralizedAuthentication,
    authentication_header,
    generalized_header,
)
from fastmip.wire.codes import ExtensionType


def authenticator(association: SecurityAssociation, covered: bytes) -> bytes:
    """Return the authenticator of the covered bytes, whole (16, 20 or 32 bytes)."""
    return association.authenticator(covered)


def append_authentication(
    message: bytes, extension_type: ExtensionType, association: SecurityAssociation
) -> bytes:
    """Return the message with an authentication extension that covers all of it."""
    covered = message + authentication_header(
        extension_type, association.spi, association.algorithm.digest_len
    )
    return covered + association.authenticator(covered)


def append_generalized(message: bytes, subtype: int, association: SecurityAssociation) -> bytes:
    """Return the message with a generalized authentication extension (36) that covers all of it.

    As RFC 4721 6 and RFC 4857 11 have it: the authenticator covers its own header too.
    """
    covered = message + generalized_header(
        subtype, association.spi, association.algorithm.digest_len
    )
    return covered + association.authenticator(covered)


def verify_authentication(
    message: bytes,
    extension: AuthenticationExtension | GeneralizedAuthentication,
    association: SecurityAssociation,
) -> bool:
    """Say whether ``extension``, decoded from ``message``, is right; in constant time.

    The association must be the one its SPI names, else it is not right. An authenticator of
    another length than the algorithm's is not right: nothing is accepted truncated. Raises
    ValueError for an extension that was built, not decoded: it has no place in the message.
    """
    if extension.offset < 0:
        raise ValueError("the extension was not decoded from a message")
    if extension.spi != association.spi:
        return False
    expected = association.authenticator(message[: extension.offset + extension.header_len])
    return hmac.compare_digest(expected, extension.authenticator)
