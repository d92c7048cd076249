"""A mobile node that uses foreign agents, and two agents on paper for it."""

from __future__ import annotations

from typing import Any

from tests.agents.mobile_world import (
    World,
)
from tests.agents.paper_foreign_agent import (
    FOREIGN_KEY,
    FOREIGN_SPI,
    PaperForeignAgent,
    extensions_of,
)

from fastmip.agents.attachment import LinkState
from fastmip.agents.exchange import Identity
from fastmip.agents.mobile_state import HandoverPolicy
from fastmip.agents.offers import CareOf
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.wire.addresses import parse_address

FA1, FA2 = parse_address("10.3.1.1"), parse_address("10.3.2.1")
MAC1, MAC2 = bytes.fromhex("020000000101"), bytes.fromhex("020000000102")
BARE = LinkState("eth0", True)


def fa1(**changes: Any) -> PaperForeignAgent:
    values: dict[str, Any] = {
        "interface": "eth0",
        "address": FA1,
        "mac": MAC1,
        "care_of": (FA1,),
    }
    return PaperForeignAgent(**(values | changes))


def fa2(**changes: Any) -> PaperForeignAgent:
    return fa1(**({"address": FA2, "mac": MAC2, "care_of": (FA2,)} | changes))


def visitor(**changes: Any) -> World:
    """A mobile node that uses foreign agents, with a link without any address."""
    world = World(
        **({"care_of": CareOf.FOREIGN_AGENT, "handover": HandoverPolicy.SEAMLESS} | changes)
    )
    world.link(BARE)
    return world


def registered(agent: PaperForeignAgent, **changes: Any) -> World:
    world = visitor(**changes)
    world.place(agent)
    world.run(0.2)
    assert world.state == "registered"
    return world


def with_mobile_foreign() -> Identity:
    shared = AssociationSet([SecurityAssociation(FOREIGN_SPI, FOREIGN_KEY)])
    return Identity(foreign={FA1: shared})


def kinds_behind_home(data: bytes) -> list[int]:
    kinds = [kind for kind, _, _ in extensions_of(data, 24)]
    return kinds[kinds.index(32) + 1 :]
