"""Numbers for experiments, and that nobody knows them by default (RFC 4064)."""

from __future__ import annotations

import pytest

from fastmip.errors import WireError
from fastmip.wire.experimental import (
    ExperimentalMessage,
    NonSkippableExperiment,
    SkippableExperiment,
)
from fastmip.wire.extensions import RawExtension, UnknownExtension
from fastmip.wire.registry import CONTROL_EXTENSIONS, EXPERIMENTAL_EXTENSIONS


def test_who_takes_no_part_drops_127_and_skips_255_rfc4064_4() -> None:
    with pytest.raises(UnknownExtension):
        CONTROL_EXTENSIONS.decode(NonSkippableExperiment(1).encode(), 0)
    skipped = SkippableExperiment(1, b"abc")
    assert CONTROL_EXTENSIONS.decode(skipped.encode(), 0) == (
        (RawExtension(255, data=b"\x01abc"),),
        False,
    )


@pytest.mark.parametrize("subtype", range(256))
def test_who_takes_part_knows_every_subtype(subtype: int) -> None:
    long = NonSkippableExperiment(subtype, bytes(300))
    short = SkippableExperiment(subtype, b"xyz")
    assert EXPERIMENTAL_EXTENSIONS.decode(long.encode() + short.encode(), 0) == (
        (long, short),
        False,
    )


@pytest.mark.parametrize("subtype", [-1, 256])
def test_a_subtype_is_a_byte(subtype: int) -> None:
    for kind in (NonSkippableExperiment, SkippableExperiment):
        with pytest.raises(WireError):
            kind(subtype).encode()


def test_the_message_is_opaque_rfc4064_3() -> None:
    assert ExperimentalMessage(b"opaque").encode() == b"\xffopaque"
    assert ExperimentalMessage.decode(b"\xffopaque") == ExperimentalMessage(b"opaque")
    assert ExperimentalMessage.decode(b"\xff") == ExperimentalMessage(b"")
    for data in (b"", b"\x01", b"\x01\xff"):
        with pytest.raises(WireError):
            ExperimentalMessage.decode(data)
