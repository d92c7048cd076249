"""The alarm of whoever drives an agent: it rings when due, and only then."""

from __future__ import annotations

import asyncio

from fastmip.agents.effects import Now
from fastmip.runtime import clock
from fastmip.runtime.alarm import Alarm

MS = 1_000_000


class Agent:
    """One that wants to be called at the times given."""

    def __init__(self, *after_ms: int) -> None:
        start = clock.boot_ns()
        self.due = [start + ms * MS for ms in after_ms]
        self.rung: list[int] = []
        self.done = asyncio.Event()

    def next_deadline(self) -> int | None:
        return self.due[0] if self.due else None

    def ring(self, now: Now) -> None:
        assert self.due[0] <= now.boot_ns, "never too early"
        self.rung.append(self.due.pop(0))
        if not self.due:
            self.done.set()


async def test_it_rings_for_every_deadline_in_turn_and_then_sleeps() -> None:
    agent = Agent(0, 5, 10)
    wanted = list(agent.due)
    alarm = Alarm(agent.next_deadline, agent.ring)
    alarm.set()
    async with asyncio.timeout(10):
        await agent.done.wait()
    assert agent.rung == wanted
    await asyncio.sleep(0)
    assert not alarm.is_set, "nothing to do: nothing wakes"


async def test_a_nearer_deadline_is_heard_when_it_is_set_again() -> None:
    agent = Agent(3_600_000)
    alarm = Alarm(agent.next_deadline, agent.ring)
    alarm.set()
    agent.due.insert(0, clock.boot_ns())
    alarm.set()
    async with asyncio.timeout(10):
        while not agent.rung:
            await asyncio.sleep(0.001)
    assert len(agent.due) == 1
    assert alarm.is_set
    alarm.stop()


async def test_a_stopped_one_never_rings() -> None:
    agent = Agent(0)
    alarm = Alarm(agent.next_deadline, agent.ring)
    alarm.set()
    alarm.stop()
    await asyncio.sleep(0.02)
    assert agent.rung == []
    alarm.set()
    async with asyncio.timeout(10):
        await agent.done.wait()
    alarm.stop()


async def test_without_a_deadline_nothing_is_set() -> None:
    agent = Agent()
    alarm = Alarm(agent.next_deadline, agent.ring)
    alarm.set()
    assert not alarm.is_set
