"""Invariant: any ICMP message is an advertisement that encodes to itself, or WireError.

Inputs are sealed with a right checksum first, else nothing would get past it; with it wrong
everything must be refused.
"""

from __future__ import annotations

from collections.abc import Hashable

from fastmip.errors import WireError
from fastmip.wire.discovery import (
    NEVER_DEFAULT,
    AgentAdvertisement,
    AgentSolicitation,
    MobilityAgent,
    RouterAddress,
    internet_checksum,
)
from fastmip.wire.extensions import UnknownExtension

_AGENT = MobilityAgent(7, 300, 0x9140, (0x0A030001, 0x0A030002))
SEEDS = [
    AgentAdvertisement(9, (RouterAddress(1), RouterAddress(2, NEVER_DEFAULT)), _AGENT).encode(),
    AgentAdvertisement(
        9, (RouterAddress(1),), _AGENT, (24,), bytes(8), b"fa@example.net", 16
    ).encode(),
    AgentAdvertisement(1800).encode() + bytes.fromhex("7f02abcd 8903000000 ff00"),
    AgentSolicitation().encode() + bytes.fromhex("8001ff"),
]


def target(data: bytes) -> Hashable:
    """Check both decoders; the outcome names what they made of it."""
    if len(data) < 4:
        return _decode(data)
    zeroed = data[:2] + bytes(2) + data[4:]
    seal = internet_checksum(zeroed)
    wrong = zeroed[:2] + (seal ^ 0x0100).to_bytes(2) + zeroed[4:]
    assert _decode(wrong) == ("refused", "refused")
    return _decode(zeroed[:2] + seal.to_bytes(2) + zeroed[4:])


def _decode(data: bytes) -> Hashable:
    return (_advertisement(data), _solicitation(data))


def _advertisement(data: bytes) -> Hashable:
    try:
        found = AgentAdvertisement.decode(data)
    except UnknownExtension as error:
        return ("unknown", error.type)
    except WireError:
        return "refused"
    assert len(found.routers) == data[4]
    assert found.prefix_lengths is None or len(found.prefix_lengths) == len(found.routers)
    again = found.encode()
    assert AgentAdvertisement.decode(again) == found
    assert len(again) <= len(data) + 1, "more than there was"
    care_of = found.agent.care_of_addresses if found.agent else ()
    parts = (found.prefix_lengths, found.challenge, found.nai, found.agent)
    return (min(len(found.routers), 4), min(len(care_of), 4), *(p is not None for p in parts))


def _solicitation(data: bytes) -> Hashable:
    try:
        AgentSolicitation.decode(data)
    except UnknownExtension as error:
        return ("unknown", error.type)
    except WireError:
        return "refused"
    return "asked"


if __name__ == "__main__":
    from fuzz.run import main

    raise SystemExit(main(("discovery",)))
