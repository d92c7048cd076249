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
from fastmip.wire.cursor import Cursor, Truncated

NOT_ON_WIRE: Final = -1
"""Offset of an extension that was built, not received."""

MAX_EXTENSIONS: Final = 512
"""Our own limit (a run of pads counts once): bounds the work a 64 KiB datagram can ask for."""

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
"""From the type and a cursor over exactly the data; raises WireError on a bad body."""


class Entry(NamedTuple):
    """One line of the registry."""

    type: int
    decode: Decoder
    framing: Framing = Framing.SIMPLE
    subtype: int | None = None
    """None: the decoder takes every subtype (or the framing has none)."""


class Decoded(NamedTuple):
    """What a walk over the extensions found."""

    extensions: tuple[Extension, ...]
    malformed: bool
    """The walk ended early or a body was unreadable; ``extensions`` holds what stood before."""


class _Family(NamedTuple):
    """All entries of one type; one type has one framing."""

    framing: Framing
    decoders: dict[int | None, Decoder]


class _Frame(NamedTuple):
    """One framed extension, body not yet read."""

    body: Cursor
    decoder: Decoder | None


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
        family = self._families.setdefault(entry.type, _Family(entry.framing, {}))
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
        cursor = Cursor(data, start)
        end = cursor.end
        while (offset := cursor.offset) < end:
            if len(found) == MAX_EXTENSIONS:
                return Decoded(tuple(found), malformed=True)
            type_ = data[offset]
            extension: Extension
            if type_ == ExtensionType.PADDING:
                extension = _take_padding(cursor, data)
            else:
                try:
                    body, decoder = self._frame(type_, cursor)
                except Truncated:
                    return Decoded(tuple(found), malformed=True)
                if decoder is None:
                    extension = _keep_raw(type_, data[offset : cursor.offset])
                else:
                    try:
                        extension = decoder(type_, body)
                        unread = body.offset != body.end
                    except WireError:
                        unread = True
                    if unread:
                        malformed = True
                        extension = _keep_raw(type_, data[offset : cursor.offset])
            _place(extension, offset, data[offset : cursor.offset])
            found.append(extension)
        return Decoded(tuple(found), malformed)

    def _frame(self, type_: int, cursor: Cursor) -> _Frame:
        """Step over one extension; Truncated if it does not fit, UnknownExtension by rule."""
        offset = cursor.offset
        family = self._families.get(type_)
        if family is None:
            if type_ < FIRST_SKIPPABLE_EXTENSION:
                raise UnknownExtension(type_, offset)
            cursor.u8()
            return _Frame(cursor.restrict_to(cursor.u8()), None)
        cursor.u8()
        subtype: int | None = None
        if family.framing is Framing.LONG:
            subtype = cursor.u8()
            body = cursor.restrict_to(cursor.u16())
        else:
            body = cursor.restrict_to(cursor.u8())
            if family.framing is Framing.SHORT:
                if not body.remaining:
                    return _Frame(body, _refuse)
                subtype = body.u8()
        decoder = family.decoders.get(subtype) or family.decoders.get(None)
        if decoder is None and type_ < FIRST_SKIPPABLE_EXTENSION:
            raise UnknownExtension(type_, offset)
        return _Frame(body, decoder)


def _refuse(type_: int, body: Cursor) -> Extension:
    """Stand in for the decoder of a short-format extension too short for its subtype."""
    raise WireError(f"extension {type_} at offset {body.offset - 2} has no subtype")


def _take_padding(cursor: Cursor, data: bytes) -> Padding:
    run = _PAD_RUN.match(data, cursor.offset, cursor.end)
    count = run.end() - run.start() if run else 0
    cursor.take(count)
    return Padding(count=count)


def _keep_raw(type_: int, raw: bytes) -> RawExtension:
    return RawExtension(type_, data=raw[2:])


def _place(extension: Extension, offset: int, raw: bytes) -> None:
    """Note where a fresh extension stood; nobody else holds it yet, so frozen is not broken."""
    object.__setattr__(extension, "offset", offset)
    object.__setattr__(extension, "raw", raw)
