"""Mobile-Foreign Challenge of control messages (RFC 4721 4).

What a foreign agent advertises is another extension of another space: type 24 of
``fastmip.wire.discovery``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension, frame_simple

ADVISED_CHALLENGE_LEN: Final = 4
"""A challenge SHOULD have at least as many bytes (RFC 4721 2, 4)."""


@dataclass(frozen=True, slots=True)
class MobileForeignChallenge(Extension):
    """Challenge (132): copied by a mobile node into a request, fresh from the agent in a reply."""

    type: int = field(default=int(ExtensionType.CHALLENGE), init=False)
    challenge: bytes

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> MobileForeignChallenge:
        """Decode the data: all of it is the challenge."""
        return cls(body.rest())

    def build(self) -> bytes:
        """Return the extension; WireError above 255 bytes."""
        return frame_simple(self.type, self.challenge)
