"""Effects are carried out in their order, one input after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pyroute2.netlink.exceptions import (  # type: ignore[import-untyped]  # no annotations
    NetlinkError,
)

from fastmip.agents.attachment import LinkState
from fastmip.agents.bindings import TUNNEL_RECORD
from fastmip.agents.effects import (
    ConfigureHome,
    Effect,
    Endpoint,
    Event,
    InstallTunnels,
    Now,
    RouteThroughTunnel,
    SendDatagram,
    SetArp,
    Tunnel,
    Violation,
)
from fastmip.errors import EngineFull
from fastmip.runtime.mobile_driver import MAX_WAITING, MobileDriver, handover_row
from fastmip.wire.addresses import parse_address

HOME = parse_address("10.1.0.5")
AGENT = parse_address("10.1.0.1")
CARE_OF = parse_address("10.3.1.5")
SEND = SendDatagram(b"x", Endpoint(CARE_OF, 0), Endpoint(AGENT, 434), "eth0")


class FakeWorld:
    """Engine, routing, tunnel device and port; everything notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.full = False
        self.broken = False
        self.packets = 0

    # engine
    def prepare(self, tunnels: bytes) -> int:
        if self.full:
            raise EngineFull("no room")
        self.told.append(("prepare", tunnels))
        return 7

    def publish(self, ticket: int) -> None:
        self.told.append(("publish", ticket))

    def remove(self, home_address: int) -> bool:
        self.told.append(("remove", home_address))
        return True

    def traffic(self, _home_address: int) -> list[dict[str, int]]:
        return [{"local": CARE_OF, "remote": AGENT, "received_packets": self.packets}]

    # port
    def send(self, message: SendDatagram) -> None:
        self.told.append(message)

    def forget_interfaces(self) -> None:
        self.told.append("forget-interfaces")

    # tunnel device
    async def follow_link_mtu(self, mtu_bytes: int, _tunnel: Tunnel) -> None:
        self.told.append(("mtu", mtu_bytes))

    # routing
    async def link_changed(self, link: LinkState) -> None:
        self.told.append(("link", link.interface))
        if self.broken:
            raise NetlinkError(22, "Invalid prefsrc address")  # it was taken away meanwhile

    async def settle(self, is_waited_for: Callable[[], bool]) -> bool:
        if is_waited_for():
            return False
        self.told.append("settle")
        return True

    async def route_through_tunnel(
        self, *, reverse: bool, interface: str, gateway: int, direct: Any
    ) -> None:
        await asyncio.sleep(0.01)  # the kernel takes its time; the next effect has to wait
        if self.broken:
            raise OSError("the link is gone")
        self.told.append(("tunnel", reverse, interface, *([gateway, direct] if gateway else [])))

    async def at_home(self, interface: str) -> None:
        await asyncio.sleep(0.01)
        self.told.append(("home", interface))

    async def answer_arp(self, interface: str) -> None:
        await asyncio.sleep(0.005)
        self.told.append(("answer", interface))

    async def refuse_arp(self, interface: str) -> None:
        self.told.append(("refuse", interface))


class FakeAgent:
    """Answers every input with the next list of effects."""

    def __init__(self, *answers: list[Effect]) -> None:
        self.answers = list(answers)
        self.inputs: list[str] = []
        self.deadline: int | None = None
        self.stopped = False

    def _answer(self, name: str) -> list[Effect]:
        self.inputs.append(name)
        return self.answers.pop(0) if self.answers else []

    def link_changed(self, link: LinkState, now: Now) -> list[Effect]:
        return self._answer(f"link {link.interface} {now.boot_ns > 0}")

    def receive_datagram(self, data: bytes, _arrival: Any, _now: Now) -> list[Effect]:
        return self._answer(f"datagram {data!r}")

    def handle_timer(self, _now: Now) -> list[Effect]:
        self.deadline = None
        return self._answer("timer")

    def stop(self, _now: Now) -> list[Effect]:
        self.stopped = True
        return self._answer("stop")

    def next_deadline(self) -> int | None:
        return self.deadline


async def drive(
    agent: FakeAgent, world: FakeWorld, act: Callable[[MobileDriver], Any], **more: Any
) -> MobileDriver:
    part: Any = world
    node: Any = agent
    driver = MobileDriver(
        node,
        part,
        part,
        part,
        part,
        home_address=HOME,
        tos_mode=0,
        **more,
    )
    driver.start()
    result = act(driver)
    if result is not None:
        await result
    assert await driver.deregister(5)
    await driver.stop()
    return driver


async def test_effects_wait_for_the_one_before_rfc5944_4_6() -> None:
    world = FakeWorld()
    agent = FakeAgent(
        [
            ConfigureHome("eth0", True),
            RouteThroughTunnel(False, False),
            SetArp("wlan0", False),
            SetArp("eth0", True),
            SEND,
        ]
    )
    await drive(agent, world, lambda d: d.link_changed(LinkState("eth0", True)))
    assert world.told[:6] == [
        "forget-interfaces",
        ("link", "eth0"),
        ("home", "eth0"),
        ("refuse", "wlan0"),
        ("answer", "eth0"),
        SEND,
    ]


async def test_words_come_after_deeds_and_routing_settles_when_nothing_waits() -> None:
    world = FakeWorld()
    agent = FakeAgent([Event("link-chosen"), SEND, Violation(HOME, AGENT, 256, 1, "wrong")], [SEND])

    def act(driver: MobileDriver) -> None:
        driver.submit(lambda now: agent.link_changed(LinkState("eth0", True), now))
        driver.deliver([(b"reply", None)])  # type: ignore[list-item]  # the fake ignores arrivals

    driver = await drive(agent, world, act)
    assert world.told[:2] == [SEND, SEND]
    assert world.told.count("settle") == 1, "not before the last input"
    assert agent.inputs == ["link eth0 True", "datagram b'reply'", "stop"]
    assert driver.violations.rows[AGENT].count == 1


async def test_tunnels_become_records_of_the_engine() -> None:
    world = FakeWorld()
    link = LinkState("eth0", True, ((CARE_OF, 24),), 1, 0, 1400)
    tunnels = (Tunnel(AGENT, CARE_OF, 5, reverse=True), Tunnel(AGENT, CARE_OF + 9, 6))
    agent = FakeAgent([InstallTunnels(HOME, tunnels)], [InstallTunnels(HOME, ())])

    async def act(driver: MobileDriver) -> None:
        await driver.link_changed(link)
        driver.submit(agent.handle_timer)

    await drive(agent, world, act)
    [records] = [item[1] for item in world.told if item[0] == "prepare"]
    first = (HOME, AGENT, CARE_OF, 1400, 4, 1, 5, 0, 0, 0, 64, 0)
    second = (HOME, AGENT, CARE_OF + 9, 1500, 4, 0, 6, 0, 0, 0, 64, 0)
    assert records == TUNNEL_RECORD.pack(*first) + TUNNEL_RECORD.pack(*second)
    assert ("publish", 7) in world.told
    assert ("mtu", 1400) in world.told
    assert ("remove", HOME) in world.told


async def test_what_the_kernel_or_engine_refuses_is_counted_and_life_goes_on() -> None:
    world = FakeWorld()
    world.broken = world.full = True
    tunnel = Tunnel(AGENT, CARE_OF, 5)
    agent = FakeAgent(
        [RouteThroughTunnel(True, True, "eth0"), InstallTunnels(HOME, (tunnel,)), SEND]
    )
    driver = await drive(agent, world, lambda d: d.submit(agent.handle_timer))
    assert driver.failures == 2
    assert SEND in world.told


async def test_the_agent_hears_of_a_link_that_changed_again_under_our_hands() -> None:
    world = FakeWorld()
    world.broken = True
    agent = FakeAgent([SEND])
    driver = await drive(agent, world, lambda d: d.link_changed(LinkState("eth0", True)))
    assert agent.inputs[0] == "link eth0 True"
    assert SEND in world.told
    assert driver.failures == 1


async def test_a_flood_of_datagrams_is_bounded() -> None:
    agent = FakeAgent()
    flood: list[Any] = [(b"flood", None)] * (MAX_WAITING + 100)
    driver = await drive(agent, FakeWorld(), lambda d: d.deliver(flood))
    assert driver.dropped == 100
    assert agent.inputs.count("datagram b'flood'") == MAX_WAITING


async def test_timers_fire_when_they_are_due() -> None:
    world = FakeWorld()
    agent = FakeAgent([], [SEND])
    clock = [1_000_000_000]

    async def act(driver: MobileDriver) -> None:
        driver._now = lambda: Now(clock[0], 0)
        agent.deadline = clock[0] + 20_000_000
        driver.submit(lambda now: agent.link_changed(LinkState("eth0", True), now))
        await asyncio.sleep(0.05)
        assert "timer" not in agent.inputs, "the clock of the agent stands still"
        clock[0] += 20_000_000
        async with asyncio.timeout(5):
            while "timer" not in agent.inputs:
                await asyncio.sleep(0.005)

    await drive(agent, world, act)
    assert SEND in world.told


async def test_broadcasts_have_a_tunnel_of_their_own_address() -> None:
    world = FakeWorld()
    broadcast = HOME | 0xFF
    asked = Tunnel(AGENT, CARE_OF, 10**18, broadcasts=True)
    plain = Tunnel(AGENT, CARE_OF, 10**18)
    agent = FakeAgent([InstallTunnels(HOME, (asked, plain))], [InstallTunnels(HOME, (plain,))])

    def act(driver: MobileDriver) -> None:
        for _ in range(2):
            driver.submit(agent.handle_timer)

    await drive(agent, world, act, home_broadcast=broadcast)
    records = [told[1] for told in world.told if told[0] == "prepare"]
    assert [TUNNEL_RECORD.unpack(record[:40])[0] for record in records] == [broadcast, HOME, HOME]
    assert len(records[0]) == 40
    assert ("remove", broadcast) in world.told


async def test_the_first_packet_after_a_handover_is_noticed() -> None:
    world = FakeWorld()
    fields = (
        ("to_address", "10.3.1.5"),
        ("link_up_ns", 5),
        ("reply_ns", 9),
    )
    agent = FakeAgent([Event("handover", fields)])

    async def act(driver: MobileDriver) -> None:
        driver.submit(agent.handle_timer)
        await asyncio.sleep(0.02)
        assert driver.first_packets == {}
        world.packets = 1
        async with asyncio.timeout(5):
            while 9 not in driver.first_packets:
                await asyncio.sleep(0.005)

    await drive(agent, world, act)


def test_handover_rows_count_from_the_new_link() -> None:
    fields: dict[str, str | int] = {
        "kind": "break-before-make",
        "from_interface": "eth0",
        "from_address": "10.3.1.5",
        "to_interface": "eth0",
        "to_address": "10.3.2.5",
        "agent": "",
        "agent_heard_ns": 0,
        "link_lost_ns": 1_000_000,
        "link_up_ns": 31_000_000,
        "request_ns": 32_000_000,
        "reply_ns": 52_500_000,
    }
    row = handover_row(fields, 0)
    assert (row["without_link_ms"], row["request_ms"], row["reply_ms"]) == (30.0, 1.0, 21.5)
    assert row["first_packet_ms"] is None
    assert handover_row(fields, 53_000_000)["first_packet_ms"] == 22.0
