"""Visitors on their way into kernel and engine: in order, whole, and with an honest reply."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.agents.foreign_lab import (
    AGENT,
    FROM_NODE,
    HOME_AGENT,
    LINK,
    MAC,
    NODE,
    Bench,
    identification,
    reply,
    request,
)

from fastmip.agents.effects import Arrival, Endpoint, InstallVisitor, Now, SendDatagram
from fastmip.errors import EngineFull
from fastmip.runtime.foreign_pipeline import ForeignPipeline


class World:
    """Kernel, engine and port of one foreign agent; everything they do is one list."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.deeds: list[str] = []
        self.sent: list[SendDatagram] = []
        self.engine_error: Exception | None = None
        self.kernel_error: Exception | None = None
        fake: Any = self
        self.pipeline = ForeignPipeline(self.bench.agent, fake, fake, now=self.now)

    def now(self) -> Now:
        return self.bench.now

    # the engine

    def prepare(self, record: bytes) -> int:
        assert len(record) == 40
        if self.engine_error is not None:
            raise self.engine_error
        self.deeds.append("prepare")
        return 7

    def publish(self, ticket: int) -> None:
        assert ticket == 7
        self.deeds.append("publish")

    def remove(self, home_address: int) -> bool:
        assert home_address == NODE
        self.deeds.append("remove")
        return True

    # the kernel

    async def carry(self, visitor: InstallVisitor) -> None:
        await asyncio.sleep(0.01)
        if self.kernel_error is not None:
            raise self.kernel_error
        self.deeds.append(f"carry {visitor.tunnel.encapsulation}")

    async def drop(self, home_address: int) -> None:
        assert home_address == NODE
        await asyncio.sleep(0.01)
        self.deeds.append("drop")

    # the port

    def send(self, message: SendDatagram) -> None:
        self.sent.append(message)
        self.deeds.append("relay" if message.destination.port == 434 else "reply")

    def ask(self, number: int, **fields: Any) -> None:
        arrival = Arrival(FROM_NODE, Endpoint(AGENT, 434), LINK, MAC, 255)
        self.pipeline.deliver([(request(number, **fields), arrival)])

    def answer(self, data: bytes) -> None:
        arrival = Arrival(Endpoint(HOME_AGENT, 434), Endpoint(AGENT, 434), "core0", None, 60)
        self.pipeline.deliver([(data, arrival)])

    async def register(self, **fields: Any) -> None:
        number = identification()
        self.ask(number, **fields)
        self.answer(reply(number, lifetime=fields.get("lifetime", 300)))
        await self.pipeline.settle()

    def start(self) -> None:
        port: Any = self
        self.pipeline.start(port)


async def test_kernel_before_engine_before_reply_and_the_other_way_out() -> None:
    world = World()
    world.start()
    await world.register()
    assert world.deeds == ["relay", "carry 4", "prepare", "publish", "reply"]
    world.deeds.clear()
    await world.register(lifetime=0, care_of=NODE)
    assert world.deeds == ["relay", "reply", "remove", "drop"]
    await world.pipeline.stop()


async def test_changes_of_one_visitor_keep_their_order() -> None:
    world = World()
    world.start()
    first, second = identification(), identification()
    world.ask(first)
    world.answer(reply(first))
    world.ask(second, flags=0x0A)
    world.answer(reply(second))
    await world.pipeline.settle()
    assert [deed for deed in world.deeds if deed.startswith("carry")] == ["carry 4", "carry 47"]
    [visitor] = world.bench.agent.visitors()
    assert visitor.tunnel.encapsulation == 47
    # The first was overtaken before it was carried: only the second is answered.
    assert world.deeds.count("reply") == 1
    await world.pipeline.stop()


async def test_a_full_engine_is_told_with_status_66_and_nothing_is_left() -> None:
    world = World()
    world.start()
    world.engine_error = EngineFull("no room")
    await world.register()
    await world.pipeline.settle()
    assert world.sent[-1].data[-4:] == b"\x2d\x02\x00\x42"
    assert world.deeds == ["relay", "carry 4", "reply", "remove", "drop"]
    assert list(world.bench.agent.visitors()) == []
    await world.pipeline.stop()


async def test_a_kernel_that_refuses_is_told_with_status_66() -> None:
    world = World()
    world.start()
    world.kernel_error = OSError("no such device")
    await world.register()
    await world.pipeline.settle()
    assert world.sent[-1].data[-4:] == b"\x2d\x02\x00\x42"
    assert "publish" not in world.deeds
    await world.pipeline.stop()


async def test_pending_requests_time_out_by_themselves() -> None:
    world = World()
    world.start()
    world.ask(identification())
    world.bench.s += 7.1
    world.pipeline.deliver([])  # looks at the clock
    async with asyncio.timeout(5):
        while "reply" not in world.deeds:
            await asyncio.sleep(0.01)
    assert world.sent[-1].data[1] == 78
    await world.pipeline.stop()
