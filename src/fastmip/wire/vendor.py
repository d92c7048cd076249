"""Vendor and organisation specific extensions, critical and normal (RFC 3115).

Unknown ones differ by their type: one of type 38 has the message denied (codes 100, 101, 140,
141), one of type 134 is skipped. Which are known is configuration: ``VendorRegistry``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fastmip.errors import WireError
from fastmip.wire.codes import ExtensionType
from fastmip.wire.cursor import Cursor
from fastmip.wire.extensions import Extension, frame_long, frame_simple

LAST_VENDOR: Final = 0xFFFFFF
"""The high byte of a vendor number MUST be 0 (RFC 3115 2.1)."""

_IDS: Final = struct.Struct("!IH")
_RESERVED_IDS: Final = struct.Struct("!HIH")


def _check_ids(vendor: int, vendor_type: int) -> None:
    if not 0 <= vendor <= LAST_VENDOR or not 0 <= vendor_type <= 0xFFFF:
        raise WireError(f"vendor {vendor} type {vendor_type} does not fit")


@dataclass(frozen=True, slots=True)
class CriticalVendorExtension(Extension):
    """CVSE (38, RFC 3115 2.1): the long format with a reserved byte for a subtype."""

    type: int = field(default=int(ExtensionType.CRITICAL_VENDOR), init=False)
    vendor: int
    """SMI network management private enterprise code."""
    vendor_type: int
    """The vendor's own number, 16 bits."""
    value: bytes = b""

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> CriticalVendorExtension:
        """Decode vendor, type and value; Truncated when they are not there."""
        return cls(body.u32(), body.u16(), body.rest())

    def build(self) -> bytes:
        """Return the extension; WireError if a number or the value does not fit."""
        _check_ids(self.vendor, self.vendor_type)
        return frame_long(self.type, 0, _IDS.pack(self.vendor, self.vendor_type) + self.value)


@dataclass(frozen=True, slots=True)
class NormalVendorExtension(Extension):
    """NVSE (134, RFC 3115 2.2): a one-byte length, then two reserved bytes."""

    type: int = field(default=int(ExtensionType.NORMAL_VENDOR), init=False)
    vendor: int
    """SMI network management private enterprise code."""
    vendor_type: int
    """The vendor's own number, 16 bits."""
    value: bytes = b""

    @classmethod
    def decode(cls, _type: int, body: Cursor) -> NormalVendorExtension:
        """Decode vendor, type and value; Truncated when they are not there."""
        body.u16()
        return cls(body.u32(), body.u16(), body.rest())

    def build(self) -> bytes:
        """Return the extension; WireError if a number or the value does not fit."""
        _check_ids(self.vendor, self.vendor_type)
        return frame_simple(
            self.type, _RESERVED_IDS.pack(0, self.vendor, self.vendor_type) + self.value
        )


VendorExtension = CriticalVendorExtension | NormalVendorExtension


class VendorRegistry:
    """Vendor types somebody knows, with their names; immutable."""

    __slots__ = ("_names",)

    def __init__(self, names: Mapping[tuple[int, int], str] | None = None) -> None:
        """Take names by (vendor, vendor type)."""
        self._names = dict(names or {})

    def __eq__(self, other: object) -> bool:
        """Compare what is listed."""
        return isinstance(other, VendorRegistry) and self._names == other._names

    def __hash__(self) -> int:
        """Hash what is listed."""
        return hash(frozenset(self._names.items()))

    def knows(self, extension: VendorExtension) -> bool:
        """Say whether the extension's vendor and type are listed."""
        return (extension.vendor, extension.vendor_type) in self._names

    def name(self, extension: VendorExtension) -> str:
        """Return the listed name, else one made of the numbers."""
        ids = extension.vendor, extension.vendor_type
        return self._names.get(ids) or "vendor {} type {}".format(*ids)

    def unknown_critical(self, extensions: Iterable[Extension]) -> list[CriticalVendorExtension]:
        """Return the critical ones that are not listed: each a reason to deny (RFC 3115 2.4)."""
        return [
            extension
            for extension in extensions
            if isinstance(extension, CriticalVendorExtension) and not self.knows(extension)
        ]

    def __len__(self) -> int:
        """Return how many are listed."""
        return len(self._names)
