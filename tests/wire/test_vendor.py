"""Vendor extensions: two layouts, and which are known (RFC 3115)."""

from __future__ import annotations

import struct

import pytest

from fastmip.errors import WireError
from fastmip.wire.extensions import RawExtension
from fastmip.wire.registry import CONTROL_EXTENSIONS
from fastmip.wire.vendor import CriticalVendorExtension, NormalVendorExtension, VendorRegistry

CISCO = 9


def test_critical_layout_is_the_long_format_with_a_reserved_byte_rfc3115_2_1() -> None:
    value = bytes(range(256)) * 2
    built = CriticalVendorExtension(CISCO, 0x1234, value)
    wire = struct.pack("!BBHIH", 38, 0, 6 + len(value), CISCO, 0x1234) + value
    assert built.encode() == wire
    assert CONTROL_EXTENSIONS.decode(wire, 0) == ((built,), False)


def test_the_reserved_byte_is_ignored_rfc3115_2_1() -> None:
    wire = struct.pack("!BBHIH", 38, 0xFF, 6, CISCO, 1)
    (found,), malformed = CONTROL_EXTENSIONS.decode(wire, 0)
    assert found == CriticalVendorExtension(CISCO, 1)
    assert found.encode() == wire, "what was received is sent on unchanged"
    assert not malformed


def test_normal_layout_has_one_length_byte_and_two_reserved_rfc3115_2_2() -> None:
    built = NormalVendorExtension(CISCO, 14, b"value")
    wire = struct.pack("!BBHIH", 134, 13, 0, CISCO, 14) + b"value"
    assert built.encode() == wire
    (found,), malformed = CONTROL_EXTENSIONS.decode(wire[:2] + b"\xff\xff" + wire[4:], 0)
    assert found == built
    assert not malformed


def test_limits_are_those_of_the_length_fields() -> None:
    assert len(NormalVendorExtension(1, 1, bytes(247)).encode()) == 257
    assert len(CriticalVendorExtension(1, 1, bytes(65529)).encode()) == 65539
    for too_long in (
        NormalVendorExtension(1, 1, bytes(248)),
        CriticalVendorExtension(1, 1, bytes(65530)),
    ):
        with pytest.raises(WireError):
            too_long.encode()


@pytest.mark.parametrize(("vendor", "vendor_type"), [(2**24, 0), (-1, 0), (0, 2**16), (0, -1)])
def test_numbers_that_do_not_fit_cannot_be_encoded(vendor: int, vendor_type: int) -> None:
    for kind in (CriticalVendorExtension, NormalVendorExtension):
        with pytest.raises(WireError):
            kind(vendor, vendor_type).encode()


@pytest.mark.parametrize("length", range(6))
def test_a_critical_one_without_its_numbers_is_malformed(length: int) -> None:
    wire = struct.pack("!BBH", 38, 0, length) + bytes(length)
    (kept,), malformed = CONTROL_EXTENSIONS.decode(wire, 0)
    assert isinstance(kept, RawExtension)
    assert malformed


@pytest.mark.parametrize("length", range(8))
def test_a_normal_one_without_its_numbers_is_malformed(length: int) -> None:
    (kept,), malformed = CONTROL_EXTENSIONS.decode(bytes((134, length)) + bytes(length), 0)
    assert isinstance(kept, RawExtension)
    assert malformed


def test_a_vendor_number_of_four_bytes_is_read_as_one_nobody_has_rfc3115_2_1() -> None:
    wire = struct.pack("!BBHIH", 38, 0, 6, 0x01000009, 14)
    (found,), malformed = CONTROL_EXTENSIONS.decode(wire, 0)
    assert found == CriticalVendorExtension(0x01000009, 14)
    assert VendorRegistry({(CISCO, 14): "known"}).unknown_critical([found]) == [found]
    assert found.encode() == wire
    assert not malformed


def test_a_registry_tells_known_from_unknown_rfc3115_2_3() -> None:
    registry = VendorRegistry({(CISCO, 14): "host configuration"})
    known = CriticalVendorExtension(CISCO, 14)
    other_type = CriticalVendorExtension(CISCO, 15)
    other_vendor = CriticalVendorExtension(10, 14)
    normal = NormalVendorExtension(10, 14)
    assert registry.knows(known)
    assert registry.knows(NormalVendorExtension(CISCO, 14))
    assert not registry.knows(normal)
    found = registry.unknown_critical([known, other_type, RawExtension(200), normal, other_vendor])
    assert found == [other_type, other_vendor]
    assert registry.name(known) == "host configuration"
    assert registry.name(other_vendor) == "vendor 10 type 14"
    assert (len(registry), len(VendorRegistry())) == (1, 0)
