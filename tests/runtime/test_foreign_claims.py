"""Which datagrams on a shared port are the foreign agent's where both agents have one address."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

from tests.agents.foreign_lab import (
    AGENT,
    FOREIGN_HOME,
    HOME_AGENT,
    NODE,
    Bench,
    reply,
    request,
    short,
    sign_foreign_home,
)
from tests.agents.foreign_lab import identification as fresh

from fastmip.agents.effects import Arrival, Endpoint
from fastmip.runtime.foreign_service import ForeignService

PEER = Arrival(Endpoint(HOME_AGENT, 434), Endpoint(AGENT, 434), "core0", None, 60)
ACKNOWLEDGMENT = struct.pack("!BBHII", 15, 0, 0, NODE, 2000)


def service(bench: Bench) -> Any:
    made: Any = ForeignService.__new__(ForeignService)
    made._offered = made._ours = frozenset({AGENT})
    made.section = SimpleNamespace(interfaces=("air0",))
    made.config = SimpleNamespace(home_agent=SimpleNamespace(address="10.3.1.1"))
    made.agent = bench.agent
    return made


def test_an_acknowledgment_is_the_agent_s_that_awaits_it_rfc3543_3_4() -> None:
    bench = Bench(has_revocation=True, home_agent_associations={HOME_AGENT: FOREIGN_HOME}.get)
    shared = service(bench)
    assert not shared.claims(ACKNOWLEDGMENT, PEER), "the home agent's"
    number = fresh()
    bench.ask(request(number))
    support = short(137, struct.pack("!HI", 0, 1000))
    bench.answer(sign_foreign_home(reply(number) + support))
    bench.tick(2)
    bench.run(bench.agent.clear_visitor(NODE, bench.now))
    assert bench.agent.unacknowledged == 1
    assert shared.claims(ACKNOWLEDGMENT, PEER)
    assert not shared.claims(ACKNOWLEDGMENT[:3], PEER)
    assert shared.claims(reply(number), PEER)
