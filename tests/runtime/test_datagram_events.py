"""What ``fastmip debug datagram`` tells of a control message, however damaged it is."""

from __future__ import annotations

import pytest

from fastmip.agents.effects import Endpoint
from fastmip.runtime import datagram_events
from fastmip.runtime.datagram_events import tell_datagram
from fastmip.runtime.event_stream import EventStream


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", {"kind": "type -1", "size": 0}),
        (b"\x03", {"kind": "registration-reply", "size": 1}),
        (b"\x03\x85", {"kind": "registration-reply", "size": 2, "code": 133}),
        (b"\x01" * 24, {"kind": "registration-request", "size": 24}),
        (b"\x63x", {"kind": "type 99", "size": 2}),
    ],
)
def test_kind_size_and_the_code_of_a_reply(
    data: bytes, told: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = EventStream()
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(stream, "offer", seen.append)
    monkeypatch.setattr(datagram_events, "EVENTS", stream)
    tell_datagram("datagram-received", data, Endpoint(0x0A010005, 434), interface="air0")
    [event] = seen
    expected = {"peer": "10.1.0.5", "port": 434, "interface": "air0", **told}
    assert {name: event.get(name) for name in expected} == expected
    assert ("code" in event) == ("code" in told)
