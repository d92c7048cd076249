"""Extensions of control messages: framing, the skippable rule, and the registry's machinery.

Flow of ``ExtensionRegistry.decode`` (RFC 5944 1.8-1.11):
1. A run of one-byte pads becomes one ``Padding``. RFC 5944 puts no rule on where a pad may
   stand in a control message (2.1.3 speaks of Agent Advertisements), so any place will do.
2. An unregistered type below 128 raises UnknownExtension: the message is to be dropped.
   From 128 on it is kept byte for byte and stepped over by its one-byte length.
3. A registered type is framed as its entry says and decoded by its entry's function, which
   must consume the body exactly.
4. A length past the end of the message ends the walk; a body its decoder refuses is kept
   raw. Both mark the message malformed, and what stood before remains usable: a home agent
   answers 134 when the authentication held (RFC 5944 3.8.2.3), and drops otherwise.

``fastmip.wire.registry`` lists what is registered. This file knows no extension by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from fastmip.errors import WireError
from fastmip.wire.codes import FIRST_SKIPPABLE_EXTENSION, ExtensionType
from fastmip.wire.cursor import Cursor

NOT_ON_WIRE: Final = -1
"""Offset of an extension that was built, not received."""

MAX_EXTENSIONS: Final = 512
"""Our own limit (a run of pads counts once): bounds the work a 64 KiB datagram can ask for."""

_PADDING: Final = int(ExtensionType.PADDING)
_PAD_RUN: Final = re.compile(rb"\0+")


class UnknownExtension(WireError):
    """A non-skippable extension we do not know: drop the message silently (RFC 5944 1.8)."""

    def __init__(self, type_: int, offset: int) -> None:
        super().__init__(f"unknown non-skippable extension {type_} at offset {offset}")
        self.type = type_
        self.offset = offset


class Framing(Enum):
    """How an extension's length is written."""

    SIMPLE = "type, length 8, data (RFC 5944 1.9)"
    SHORT = "type, length 8, subtype, data; the length counts the subtype (RFC 5944 1.11)"
    LONG = "type, subtype, length 16, data; the length counts the data only (RFC 5944 1.10)"
    EITHER = (
        "SHORT, or LONG although skippable: then the subtype, below 4, says so (RFC 4433, C-15)"
    )


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension; subclasses add their fields and ``build``."""

    type: int
    """Type byte."""
    offset: int = field(default=NOT_ON_WIRE, kw_only=True, compare=False)
    """Where its type byte stands in the message it was decoded from, or NOT_ON_WIRE."""
    raw: bytes = field(default=b"", init=False, repr=False, compare=False)
    """All its bytes as received, header included; empty when it was built."""

    def build(self) -> bytes:
        """Return the bytes the fields ask for; raises WireError if they do not fit."""
        raise NotImplementedError

    def encode(self) -> bytes:
        """Return the bytes as received if it was decoded, else ``build()``.

        Sending on what was received unchanged matters: an authenticator covers it.
        """
        return self.raw or self.build()


@dataclass(frozen=True, slots=True)
class RawExtension(Extension):
    """A skippable extension we do not know, or a known one with a body we cannot read."""

    data: bytes = b""
    """What follows the two header bytes."""

    def build(self) -> bytes:
        """Return type, length and data; raises WireError above 255 bytes of data."""
        return frame_simple(self.type, self.data)


@dataclass(frozen=True, slots=True)
class Padding(Extension):
    """A run of one-byte pads (type 0, no length)."""

    type: int = field(default=int(ExtensionType.PADDING), init=False)
    count: int = 1
    """Pads in the run, at least one."""

    def build(self) -> bytes:
        """Return ``count`` zero bytes."""
        return bytes(self.count)


def frame_simple(type_: int, data: bytes) -> bytes:
    """Return an extension in simple format (RFC 5944 1.9); WireError above 255 bytes."""
    if len(data) > 255:
        raise WireError(f"extension {type_}: {len(data)} bytes do not fit a one-byte length")
    return bytes((type_, len(data))) + data


def frame_short(type_: int, subtype: int, data: bytes) -> bytes:
    """Return an extension in short format (RFC 5944 1.11); WireError above 254 bytes."""
    return frame_simple(type_, bytes((subtype,)) + data)


def frame_long(type_: int, subtype: int, data: bytes) -> bytes:
    """Return an extension in long format (RFC 5944 1.10); WireError above 65535 bytes.

    Only for non-skippable types: others would be skipped by a length misread from the subtype.
    """
    if type_ >= FIRST_SKIPPABLE_EXTENSION:
        raise WireError(f"extension {type_} is skippable and must not use the long format")
    if len(data) > 0xFFFF:
        raise WireError(f"extension {type_}: {len(data)} bytes do not fit a two-byte length")
    return bytes((type_, subtype)) + len(data).to_bytes(2) + data


Decoder = Callable[[int, Cursor], Extension]
"""From the type and a cursor over exactly the data; raises WireError on a bad body.

A RawExtension returned for a readable body says "not understood": it is skipped.
"""
SubtypeDecoder = Callable[[int, int, Cursor], Extension]
"""Like Decoder with the subtype besides, for layouts that several subtypes share."""


class Entry(NamedTuple):
    """One line of the registry."""

    type: int
    decode: Decoder
    framing: Framing = Framing.SIMPLE
    subtype: int | None = None
    """None: the decoder takes every subtype (or the framing has none)."""


def subtypes(
    type_: int, decode: SubtypeDecoder, framing: Framing, numbers: Iterable[int]
) -> list[Entry]:
    """Return one line for each of several subtypes that share a layout."""

    def of(number: int) -> Decoder:
        return lambda type_, body: decode(type_, number, body)

    return [Entry(type_, of(number), framing, number) for number in numbers]


class Decoded(NamedTuple):
    """What a walk over the extensions found."""

    extensions: tuple[Extension, ...]
    malformed: bool
    """The walk ended early or a body was unreadable; ``extensions`` holds what stood before."""


class _Family(NamedTuple):
    """All entries of one type; one type has one framing."""

    framing: Framing
    header_len: int
    decoders: dict[int | None, Decoder]


_UNKNOWN: Final = _Family(Framing.SIMPLE, 2, {})
"""Stands for every type that is not registered."""


class ExtensionRegistry:
    """The extensions a decoder knows, by type and subtype."""

    __slots__ = ("_families",)

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Index the entries; ValueError on a duplicate, mixed framing or a skippable LONG."""
        self._families: dict[int, _Family] = {}
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        if entry.type == ExtensionType.PADDING or not 0 < entry.type <= 255:
            raise ValueError(f"extension type {entry.type} cannot be registered")
        if entry.framing is Framing.LONG and entry.type >= FIRST_SKIPPABLE_EXTENSION:
            raise ValueError(f"extension {entry.type}: skippable types must not use LONG")
        header_len = 4 if entry.framing is Framing.LONG else 2
        family = self._families.setdefault(entry.type, _Family(entry.framing, header_len, {}))
        if family.framing is not entry.framing:
            raise ValueError(f"extension {entry.type}: two framings for one type")
        if entry.subtype in family.decoders:
            raise ValueError(f"extension {entry.type} subtype {entry.subtype}: listed twice")
        family.decoders[entry.subtype] = entry.decode

    @property
    def types(self) -> frozenset[int]:
        """The registered type bytes."""
        return frozenset(self._families)

    def decode(self, data: bytes, start: int) -> Decoded:
        """Decode ``data[start:]`` as extensions.

        Raises UnknownExtension for an unregistered type (or subtype) below 128, and nothing
        else whatever the bytes are.
        """
        found: list[Extension] = []
        malformed = False
        offset, end = start, len(data)
        while offset < end:
            type_ = data[offset]
            extension: Extension | None
            if type_ == _PADDING:
                stop = _end_of_padding(data, offset)
                extension = Padding(count=stop - offset)
            else:
                family = self._families.get(type_, _UNKNOWN)
                if family is _UNKNOWN and type_ < FIRST_SKIPPABLE_EXTENSION:
                    raise UnknownExtension(type_, offset)
                body = offset + family.header_len
                stop = body + _body_len(family, data, offset) if body <= end else body
                if stop > end:
                    return Decoded(tuple(found), malformed=True)
                try:
                    extension = _read(family, data, offset, body, stop)
                except UnknownExtension:
                    raise
                except WireError:
                    malformed = True
                    extension = None
            if len(found) == MAX_EXTENSIONS:
                return Decoded(tuple(found), malformed=True)
            raw = data[offset:stop]
            if extension is None:
                extension = RawExtension(type_, data=raw[2:])
            # Fresh and nobody else's yet, so noting where it stood breaks no promise of frozen.
            object.__setattr__(extension, "offset", offset)
            object.__setattr__(extension, "raw", raw)
            found.append(extension)
            offset = stop
        return Decoded(tuple(found), malformed)


def _end_of_padding(data: bytes, offset: int) -> int:
    run = _PAD_RUN.match(data, offset)
    return run.end() if run else offset


def _body_len(family: _Family, data: bytes, offset: int) -> int:
    if family.framing is Framing.LONG:
        return data[offset + 2] << 8 | data[offset + 3]
    if family.framing is Framing.EITHER and _is_long(family, data, offset):
        return 2 + int.from_bytes(data[offset + 2 : offset + 4])
    return data[offset + 1]


def _is_long(family: _Family, data: bytes, offset: int) -> bool:
    """Whether an extension of either framing is long: no short one has so small a length."""
    return data[offset + 1] in family.decoders


def _read(family: _Family, data: bytes, offset: int, body: int, stop: int) -> Extension | None:
    """Decode a framed extension; None if it is unknown and skippable.

    Raises UnknownExtension by the rule, another WireError when the body is unreadable.
    """
    type_ = data[offset]
    subtype: int | None = None
    if family.framing is Framing.LONG:
        subtype = data[offset + 1]
    elif family.framing is Framing.EITHER and _is_long(family, data, offset):
        if stop < body + 2:
            raise WireError(f"extension {type_} at offset {offset} has no length")
        subtype = data[offset + 1]
        body += 2
    elif family.framing is not Framing.SIMPLE:
        if body == stop:
            raise WireError(f"extension {type_} at offset {offset} has no subtype")
        subtype = data[body]
        body += 1
    decoder = family.decoders.get(subtype) or family.decoders.get(None)
    if decoder is None:
        if type_ < FIRST_SKIPPABLE_EXTENSION:
            raise UnknownExtension(type_, offset)
        return None
    cursor = Cursor(data, body, stop)
    extension = decoder(type_, cursor)
    if cursor.remaining:
        raise WireError(f"extension {type_} at offset {offset}: {cursor.remaining} bytes unread")
    return extension
