"""Control messages as ``fastmip debug`` tells them; every role tells its own."""

from __future__ import annotations

from fastmip.agents.effects import Endpoint
from fastmip.runtime.event_stream import EVENTS
from fastmip.wire.addresses import format_address
from fastmip.wire.codes import MessageType

_KINDS = {kind.value: kind.name.lower().replace("_", "-") for kind in MessageType}


def tell_datagram(name: str, data: bytes, peer: Endpoint, **more: object) -> None:
    """Tell watchers of a control message: its kind, and the code of a reply."""
    kind = data[0] if data else -1
    if kind == MessageType.REGISTRATION_REPLY and len(data) > 1:
        more["code"] = data[1]
    EVENTS.emit(
        name,
        kind=_KINDS.get(kind, f"type {kind}"),
        peer=format_address(peer.address),
        port=peer.port,
        size=len(data),
        **more,
    )
