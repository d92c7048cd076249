"""Dynamic Home Agent extensions (RFC 4433 3.4) in both forms that are on the wire (C-15)."""

from __future__ import annotations

import pytest

from fastmip.wire.dynamic_home_agent import DynamicHomeAgent, redirected, requested
from fastmip.wire.extensions import RawExtension
from fastmip.wire.registry import CONTROL_EXTENSIONS

LONG = bytes.fromhex("8b 01 0004 0a010001")
SHORT = bytes.fromhex("8b 05 01 0a010001")
NAI = bytes.fromhex("83 03 61 40 62")


@pytest.mark.parametrize("wire", [LONG, SHORT])
def test_both_forms_are_read_and_what_follows_too_c15(wire: bytes) -> None:
    found = CONTROL_EXTENSIONS.decode(wire + NAI, 0)
    assert not found.malformed
    first, second = found.extensions
    assert first == requested(0x0A010001)
    assert first.encode() == wire, "what is signed stays as it came"
    assert second.encode() == NAI


def test_the_long_form_is_written_rfc4433_3_4() -> None:
    assert redirected(0x0A010002).build() == bytes.fromhex("8b 02 0004 0a010002")


@pytest.mark.parametrize("wire", ["8b 05 03 0a010001", "8b 03 000004"])
def test_unknown_subtypes_are_stepped_over(wire: str) -> None:
    found = CONTROL_EXTENSIONS.decode(bytes.fromhex(wire) + NAI, 0)
    assert isinstance(found.extensions[0], RawExtension)
    assert found.extensions[1].encode() == NAI


@pytest.mark.parametrize("wire", ["8b 01 0004 0a01", "8b 05 01 0a01", "8b 04 01 0a0100", "8b"])
def test_a_damaged_one_marks_the_message(wire: str) -> None:
    found = CONTROL_EXTENSIONS.decode(bytes.fromhex(wire), 0)
    assert found.malformed
    assert not any(isinstance(one, DynamicHomeAgent) for one in found.extensions)
