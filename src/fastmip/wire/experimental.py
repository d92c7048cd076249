"""Numbers for experiments: message 255, extensions 127 and 255 (RFC 4064).

Whoever takes part in no experiment does not know them: ``CONTROL_EXTENSIONS`` has no line for
either, so 127 drops the message and 255 is skipped. ``EXPERIMENTAL_EXTENSIONS`` of
``fastmip.wire.registry`` is for those who do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from fastmip.errors import WireError
from fastmip.wire.codes import ExtensionType, MessageType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension, frame_long, frame_short


@dataclass(frozen=True, slots=True)
class NonSkippableExperiment(Extension):
    """Experimental extension 127 (RFC 4064 4.1), in the long format."""

    type: int = field(default=int(ExtensionType.EXPERIMENTAL_NON_SKIPPABLE), init=False)
    subtype: int
    data: bytes = b""

    @classmethod
    def decode(cls, _type: int, subtype: int, body: Cursor) -> NonSkippableExperiment:
        """Decode the data: opaque."""
        return cls(subtype, body.rest())

    def build(self) -> bytes:
        """Return the extension; WireError above 65535 bytes or with a subtype out of range."""
        return frame_long(self.type, _byte(self.subtype), self.data)


@dataclass(frozen=True, slots=True)
class SkippableExperiment(Extension):
    """Experimental extension 255 (RFC 4064 4.3), in the short format."""

    type: int = field(default=int(ExtensionType.EXPERIMENTAL_SKIPPABLE), init=False)
    subtype: int
    data: bytes = b""

    @classmethod
    def decode(cls, _type: int, subtype: int, body: Cursor) -> SkippableExperiment:
        """Decode the data: opaque."""
        return cls(subtype, body.rest())

    def build(self) -> bytes:
        """Return the extension; WireError above 254 bytes or with a subtype out of range."""
        return frame_short(self.type, _byte(self.subtype), self.data)


def _byte(subtype: int) -> int:
    if not 0 <= subtype <= 255:
        raise WireError(f"subtype {subtype} does not fit a byte")
    return subtype


@dataclass(frozen=True, slots=True)
class ExperimentalMessage:
    """Message type 255 (RFC 4064 3): opaque, but it must end in an authentication."""

    payload: bytes
    """All behind the type byte, authentication extension included."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode the payload of a datagram; WireError when it is of another type."""
        if not data or data[0] != MessageType.EXPERIMENTAL:
            raise WireError(f"{len(data)} bytes are not an experimental message")
        return cls(data[1:])

    def encode(self) -> bytes:
        """Return the payload of a datagram."""
        return bytes((MessageType.EXPERIMENTAL,)) + self.payload
