"""What an operator reads of visitors: a bounded list, in order, page by page."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tests.agents.foreign_lab import HOME_AGENT, NODE, Bench, identification, request

from fastmip.runtime.foreign_commands import ForeignCommands
from fastmip.runtime.service import CommandError

VISITORS = 5


def commands() -> ForeignCommands:
    """Of an agent with five visitors and two requests that wait."""
    bench = Bench()
    for number in reversed(range(VISITORS)):
        bench.register(home_address=NODE + number, mac=bytes((2, 0, 0, 0, 1, number)))
    for number in range(2):
        mac = bytes((2, 0, 0, 0, 2, number))
        bench.ask(request(identification(), home_address=NODE + 100 + number), mac=mac)
    service: Any = SimpleNamespace(
        agent=bench.agent, engine=SimpleNamespace(traffic=lambda _home_address: [])
    )
    return ForeignCommands(service)


def hosts(answer: dict[str, Any]) -> list[int]:
    """The last octets of the home addresses listed."""
    return [int(row["home_address"].rsplit(".", 1)[1]) for row in answer["rows"]]


async def test_visitors_are_listed_in_order_and_page_by_page() -> None:
    of = commands()
    first = NODE & 0xFF
    page: Any = await of.show_visitor({"limit": 2})
    assert hosts(page) == [first, first + 1]
    assert page["summary"] == {"visitors": VISITORS, "shown": 2, "busy": False}
    behind = page["rows"][-1]["home_address"]
    page = await of.show_visitor({"limit": 2, "after": behind})
    assert hosts(page) == [first + 2, first + 3]
    assert hosts(await of.show_visitor({"home_address": behind})) == [first + 1]
    assert page["rows"][0]["home_agent"] == ".".join(map(str, HOME_AGENT.to_bytes(4, "big")))


async def test_requests_that_wait_are_bounded_too() -> None:
    answer: Any = await commands().show_pending({"limit": 1})
    assert len(answer["rows"]) == 1
    assert answer["summary"] == {"pending": 2, "shown": 1}


@pytest.mark.parametrize("limit", [0, -1, 10_001, "ten", 1.5])
async def test_a_limit_that_is_none_is_refused(limit: object) -> None:
    for show in (commands().show_visitor, commands().show_pending):
        with pytest.raises(CommandError, match="limit: expected 1 to"):
            await show({"limit": limit})
