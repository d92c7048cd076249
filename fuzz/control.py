"""Invariant: any bytes decode to a message whose parts are those bytes, or raise WireError.

Besides: a whole message encodes to its very bytes, and no bytes authenticate but signed ones.
"""

from __future__ import annotations

from collections.abc import Hashable

from fastmip.auth.associations import Algorithm, SecurityAssociation
from fastmip.auth.authenticators import append_authentication, verify_authentication
from fastmip.errors import WireError
from fastmip.wire.authext import AuthenticationExtension
from fastmip.wire.codes import ExtensionType
from fastmip.wire.extensions import MAX_EXTENSIONS, RawExtension, UnknownExtension
from fastmip.wire.registration import (
    REPLY_LEN,
    REQUEST_LEN,
    RegistrationReply,
    RegistrationRequest,
)

ASSOCIATION = SecurityAssociation(0x100, bytes(range(16)), Algorithm.HMAC_SHA256)
MOBILE_HOME = ExtensionType.MOBILE_HOME_AUTHENTICATION
TYPES = {RegistrationRequest: 1, RegistrationReply: 3}
_VENDOR = RawExtension(134, data=bytes(12))
_FOREIGN = AuthenticationExtension(34, 0x101, bytes(16))


_genuine: set[bytes] = set()


def _signed(message: RegistrationRequest | RegistrationReply) -> bytes:
    signed = append_authentication(message.encode(), MOBILE_HOME, ASSOCIATION)
    _genuine.add(signed)
    return signed


SEEDS = [
    _signed(RegistrationRequest(0x22, 300, 5, 1, 6, 7 << 32)),
    _signed(RegistrationRequest(0x22, 300, 5, 1, 6, 7 << 32, (_VENDOR,))) + _FOREIGN.encode(),
    _signed(RegistrationReply(0, 300, 5, 1, 7 << 32)),
    _signed(RegistrationReply(133, 300, 5, 1, 7 << 32, (_VENDOR,))) + bytes(3),
]


def target(data: bytes) -> Hashable:
    """Check both decoders; the outcome names what they made of it."""
    return (
        _check(RegistrationRequest, REQUEST_LEN, data),
        _check(RegistrationReply, REPLY_LEN, data),
    )


def _check(
    kind: type[RegistrationRequest | RegistrationReply], fixed_len: int, data: bytes
) -> Hashable:
    try:
        message = kind.decode(data)
    except UnknownExtension as error:
        unknown = error
    except WireError:
        assert len(data) < fixed_len or data[0] != TYPES[kind]
        return "refused"
    else:
        return _check_message(message, fixed_len, data)
    assert unknown.type < 128
    assert data[unknown.offset] == unknown.type
    return ("unknown", unknown.type)


def _check_message(
    message: RegistrationRequest | RegistrationReply, fixed_len: int, data: bytes
) -> Hashable:
    position = fixed_len
    for extension in message.extensions:
        assert extension.offset == position
        assert extension.raw == data[position : position + len(extension.raw)]
        assert extension.type == data[position]
        position += len(extension.raw)
        if isinstance(extension, AuthenticationExtension):
            assert extension.build() == extension.raw
            _check_authentication(data, extension)
    assert len(message.extensions) <= MAX_EXTENSIONS
    assert message.malformed or position == len(data)
    assert message.encode() == data[:position]
    kinds = tuple((type(e).__name__, e.type) for e in message.extensions[:6])
    return (kinds, message.malformed)


def _check_authentication(data: bytes, extension: AuthenticationExtension) -> None:
    if verify_authentication(data, extension, ASSOCIATION):
        assert data[: extension.offset + len(extension.raw)] in _genuine


if __name__ == "__main__":
    from fuzz.run import main

    raise SystemExit(main(("control",)))
