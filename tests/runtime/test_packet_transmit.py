"""When outer packets pass the IP stack by; nothing here does I/O."""

from __future__ import annotations

from typing import Any

import pytest

from fastmip.runtime import output_stack
from fastmip.runtime.egress_routes import Flow
from fastmip.runtime.packet_transmit import Mode, PacketTransmit


class FakeEngine:
    """Hears what workers would."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    def allow_packet_sockets(self, is_allowed: bool) -> None:
        self.told.append(is_allowed)


def made(mode: Mode, *, is_read: bool = True) -> tuple[PacketTransmit, FakeEngine]:
    engine: Any = FakeEngine()
    transmit = PacketTransmit(mode, outer=Flow(), inner=Flow())
    transmit._engine, transmit._is_read = engine, is_read
    return transmit, engine


@pytest.mark.parametrize(
    ("mode", "users", "said", "allowed"),
    [
        ("auto", "", "packet", True),
        ("auto", "iptables filter", "socket: iptables filter", False),
        ("packet", "iptables filter", "packet", True),
    ],
)
def test_the_way_follows_from_mode_and_what_acts_on_packets(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, users: str, said: str, *, allowed: bool
) -> None:
    monkeypatch.setattr(output_stack, "users", lambda: users)
    transmit, engine = made(mode)
    transmit.look()
    assert transmit.facts()["transmit"] == said
    assert engine.told == [allowed]


def test_nothing_passes_before_routes_were_read_whole() -> None:
    transmit, engine = made("packet", is_read=False)
    transmit.look()
    assert engine.told == [False]
    assert "routes" in str(transmit.facts()["transmit"])


def test_what_cannot_be_found_out_counts_as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Any:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(output_stack, "_ask", refuse)
    assert "not permitted" in output_stack.users()


@pytest.mark.parametrize("data", [b"", b"\x03\x00\x01\x00", b"\x08\x00\x01\x00ab", b"\xff"])
def test_attributes_that_are_cut_short_end_the_list(data: bytes) -> None:
    assert list(output_stack.attributes(data, 0)) == []
