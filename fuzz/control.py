"""Invariant: any bytes decode to a message whose parts are those bytes, or raise WireError.

Besides: a whole message encodes to its very bytes, and no bytes authenticate but signed ones.
"""

from __future__ import annotations

from collections.abc import Hashable

from fastmip.auth.associations import Algorithm, SecurityAssociation
from fastmip.auth.authenticators import (
    append_authentication,
    append_generalized,
    verify_authentication,
)
from fastmip.errors import WireError
from fastmip.wire.authext import AuthenticationExtension, GeneralizedAuthentication
from fastmip.wire.challenge import MobileForeignChallenge
from fastmip.wire.codes import ExtensionType
from fastmip.wire.extensions import MAX_EXTENSIONS, RawExtension, UnknownExtension
from fastmip.wire.nai import MobileNodeNai, check_nai
from fastmip.wire.registration import (
    REPLY_LEN,
    REQUEST_LEN,
    RegistrationReply,
    RegistrationRequest,
)
from fastmip.wire.registry import EXPERIMENTAL_EXTENSIONS
from fastmip.wire.revocation import (
    ACKNOWLEDGMENT_LEN,
    REVOCATION_LEN,
    RevocationAcknowledgment,
    RevocationMessage,
    RevocationSupport,
)
from fastmip.wire.tunneling import UdpTunnelReply, UdpTunnelRequest
from fastmip.wire.vendor import (
    LAST_VENDOR,
    CriticalVendorExtension,
    NormalVendorExtension,
)

ASSOCIATION = SecurityAssociation(0x100, bytes(range(16)), Algorithm.HMAC_SHA256)
MOBILE_HOME = ExtensionType.MOBILE_HOME_AUTHENTICATION
AAA = SecurityAssociation(0x200, bytes(range(16, 32)))
Message = RegistrationRequest | RegistrationReply | RevocationMessage | RevocationAcknowledgment
KINDS: dict[type[Message], tuple[int, int]] = {
    RegistrationRequest: (1, REQUEST_LEN),
    RegistrationReply: (3, REPLY_LEN),
    RevocationMessage: (7, REVOCATION_LEN),
    RevocationAcknowledgment: (15, ACKNOWLEDGMENT_LEN),
}
_VENDOR = RawExtension(134, data=bytes(12))
_FOREIGN = AuthenticationExtension(34, 0x101, bytes(16))


_genuine: set[bytes] = set()


def _signed(message: Message) -> bytes:
    signed = append_authentication(message.encode(), MOBILE_HOME, ASSOCIATION)
    _genuine.add(signed)
    return signed


def _aaa(message: bytes) -> bytes:
    signed = append_generalized(message, 1, AAA)
    _genuine.add(signed)
    return signed


SEEDS = [
    _signed(RegistrationRequest(0x22, 300, 5, 1, 6, 7 << 32)),
    _signed(RegistrationRequest(0x22, 300, 5, 1, 6, 7 << 32, (_VENDOR,))) + _FOREIGN.encode(),
    _signed(RegistrationReply(0, 300, 5, 1, 7 << 32)),
    _signed(RegistrationReply(133, 300, 5, 1, 7 << 32, (_VENDOR,))) + bytes(3),
    _aaa(
        _signed(RegistrationRequest(0x02, 300, 5, 1, 6, 7 << 32, (MobileNodeNai(b"mn@x.org"),)))
        + MobileForeignChallenge(bytes(8)).encode()
    ),
    _signed(
        RegistrationRequest(0x22, 300, 5, 1, 6, 7 << 32, (UdpTunnelRequest(0x80, 47), _VENDOR))
    ),
    _signed(
        RegistrationReply(
            0, 300, 5, 1, 7, (UdpTunnelReply(0, True, 110), RevocationSupport(True, 9))
        )
    ),
    _signed(RevocationMessage(True, True, 5, 1, 6, 9, (CriticalVendorExtension(9, 1, b"x"),))),
    _signed(RevocationAcknowledgment(True, 5, 9, (NormalVendorExtension(9, 1, b"x"),))),
]


def target(data: bytes) -> Hashable:
    """Check all decoders; the outcome names what they made of it."""
    return tuple(_check(kind, type_, length, data) for kind, (type_, length) in KINDS.items())


def _check(kind: type[Message], type_: int, fixed_len: int, data: bytes) -> Hashable:
    try:
        message = kind.decode(data)
    except UnknownExtension as error:
        unknown = error
    except WireError:
        assert len(data) < fixed_len or data[0] != type_
        return "refused"
    else:
        return _check_message(message, fixed_len, data)
    assert unknown.type < 128
    assert data[unknown.offset] == unknown.type
    return ("unknown", unknown.type, _check_experiment(kind, fixed_len, data))


def _check_experiment(kind: type[Message], fixed_len: int, data: bytes) -> Hashable:
    """The same bytes for somebody who knows the numbers for experiments too."""
    try:
        message = kind.decode(data, EXPERIMENTAL_EXTENSIONS)
    except UnknownExtension as error:
        return error.type
    return _check_message(message, fixed_len, data)


def _check_message(message: Message, fixed_len: int, data: bytes) -> Hashable:
    position = fixed_len
    for extension in message.extensions:
        assert extension.offset == position
        assert extension.raw == data[position : position + len(extension.raw)]
        assert extension.type == data[position]
        position += len(extension.raw)
        if isinstance(extension, AuthenticationExtension | GeneralizedAuthentication):
            assert extension.build() == extension.raw
            _check_authentication(data, extension)
        elif isinstance(extension, MobileNodeNai):
            check_nai(extension.nai)
        # What the fields say is all there is: reserved bits alone may differ. A vendor number of
        # four bytes may be received, but not sent.
        if getattr(extension, "vendor", 0) <= LAST_VENDOR:
            assert len(extension.build()) <= len(extension.raw)
    assert len(message.extensions) <= MAX_EXTENSIONS
    assert message.malformed or position == len(data)
    assert message.encode()[fixed_len:] == data[fixed_len:position]
    assert len(message.encode()) == position
    kinds = tuple((type(e).__name__, e.type) for e in message.extensions[:6])
    return (kinds, message.malformed)


def _check_authentication(
    data: bytes, extension: AuthenticationExtension | GeneralizedAuthentication
) -> None:
    for association in (ASSOCIATION, AAA):
        if verify_authentication(data, extension, association):
            assert data[: extension.offset + len(extension.raw)] in _genuine


if __name__ == "__main__":
    from fuzz.run import main

    raise SystemExit(main(("control",)))
