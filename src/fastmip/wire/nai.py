"""Network access identifiers: mobile node (RFC 2794) and others (RFC 3846); RFC 4282's grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension, frame_short, frame_simple

HOME_AGENT_NAI: Final = 1
"""Subtype of type 136: identity of the home agent (RFC 3846 4)."""
AAAH_NAI: Final = 2
"""Subtype of type 136: identity of the home AAA server (RFC 3846 5)."""
FOREIGN_AGENT_NAI: Final = 3
"""Subtype of type 136: identity of a foreign agent (RFC 4857 8.2), also in advertisements."""

MAX_NAI_LEN: Final = 253
"""What RFC 4282 2.2 recommends to support, and all a RADIUS attribute can carry."""

# RFC 4282 2.1: c is every printable ASCII character but these, or an octet of UTF-8.
_CHAR: Final = rb"(?:[^\x00-\x20\x22(),.:;<>@\[\\\]\x7f]|\\[\x00-\xff])"
_USERNAME: Final = rb"%b+(?:\.%b+)*" % (_CHAR, _CHAR)
_LABEL: Final = rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REALM: Final = rb"%b(?:\.%b)+" % (_LABEL, _LABEL)
_NAI: Final = re.compile(rb"(?:%b(?:@%b)?|@%b)" % (_USERNAME, _REALM, _REALM), re.DOTALL)


def check_nai(nai: bytes) -> bool:
    """Say whether bytes are a network access identifier by the grammar of RFC 4282 2.1.

    ``user``, ``user@realm`` or ``@realm``, valid UTF-8, at most 253 bytes; a realm has at
    least two labels. A backslash quotes any octet: quote before printing (``repr``).
    """
    if len(nai) > MAX_NAI_LEN or _NAI.fullmatch(nai) is None:
        return False
    try:
        nai.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class MobileNodeNai(Extension):
    """Mobile Node NAI (131, RFC 2794 2); before the authentication (RFC 2794 3)."""

    type: int = field(default=int(ExtensionType.MOBILE_NODE_NAI), init=False)
    nai: bytes
    """As sent; ``check_nai`` says whether it follows RFC 4282."""

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> MobileNodeNai:
        """Decode the data: all of it is the identifier."""
        return cls(body.rest())

    def build(self) -> bytes:
        """Return the extension; WireError above 255 bytes."""
        return frame_simple(self.type, self.nai)


@dataclass(frozen=True, slots=True)
class NaiCarrying(Extension):
    """Generalized NAI (136, RFC 3846 3): the identity of somebody else, by subtype."""

    type: int = field(default=int(ExtensionType.GENERALIZED_NAI), init=False)
    subtype: int
    """HOME_AGENT_NAI, AAAH_NAI or FOREIGN_AGENT_NAI."""
    nai: bytes

    @classmethod
    def decode(cls, _type: int, subtype: int, body: Cursor) -> NaiCarrying:
        """Decode the data behind the subtype: all of it is the identifier."""
        return cls(subtype, body.rest())

    def build(self) -> bytes:
        """Return the extension; WireError above 254 bytes."""
        return frame_short(self.type, self.subtype, self.nai)
