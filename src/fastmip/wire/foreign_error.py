"""FA Error (RFC 4636): what a foreign agent adds to a reply it must not change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from fastmip.errors import WireError
from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension, frame_short

FOREIGN_ERROR_SUBTYPE: Final = 0


@dataclass(frozen=True, slots=True)
class ForeignAgentError(Extension):
    """FA Error (45, RFC 4636 3): behind the Mobile-Home authentication of a reply."""

    type: int = field(default=int(ExtensionType.FOREIGN_AGENT_ERROR), init=False)
    status: int
    """A reply code of the foreign agent's range."""

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> ForeignAgentError:
        """Decode what follows the subtype."""
        return cls(body.u8())

    def build(self) -> bytes:
        """Return the extension; WireError if the status does not fit a byte."""
        if not 0 <= self.status <= 255:
            raise WireError(f"foreign agent error {self.status} does not fit a byte")
        return frame_short(self.type, FOREIGN_ERROR_SUBTYPE, bytes((self.status,)))
