"""The order of effects: prepare, commit, publish, ARP, reply; and nothing of it on a refusal."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import structlog
from tests.helpers import handmade
from tests.helpers.handmade import address

from fastmip.agents.bindings import TUNNEL_DTYPE
from fastmip.agents.effects import Arrival, Endpoint, InstallTunnels, NodeRow, Now, SendDatagram
from fastmip.agents.home import HomeAgent
from fastmip.agents.hosts import HomeAgentPolicy, Host, Prefix
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.errors import EngineFull, StoreError
from fastmip.runtime import clock
from fastmip.runtime.home_pipeline import PAUSE_ABOVE, HomePipeline, Prepared

HOME_ADDRESS = "10.1.0.5"
HOME_AGENT = "10.1.0.1"
CARE_OF = "10.3.1.5"
MAC = b"\x02\x00\x00\x00\x00\x05"


class World:
    """Engine, store, port and ARP that write down what is asked of them, in order."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, ...]] = []
        self.submitted: list[Sequence[Prepared]] = []
        self.replies: list[handmade.Reply] = []
        self.records: list[bytes] = []
        self.full = False
        self.interface = "eth0"
        self._tickets = itertools.count(1)

    # engine
    def prepare(self, tunnels: bytes) -> int:
        if self.full:
            raise EngineFull("full")
        self.records.append(tunnels)
        ticket = next(self._tickets)
        self.steps.append(("prepare", ticket))
        return ticket

    def publish(self, ticket: int) -> None:
        self.steps.append(("publish", ticket))

    def abandon(self, ticket: int) -> None:
        self.steps.append(("abandon", ticket))

    def set_prefix(self, prefix: int, length: int, home_address: int) -> None:
        self.steps.append(("set prefix", prefix, length, home_address))

    def clear_prefix(self, prefix: int, length: int) -> bool:
        self.steps.append(("clear prefix", prefix, length))
        return True

    def lead_networks(self, leaving: object, entering: object, router: int) -> None:
        self.steps.append(("ARP for networks", leaving, entering, router))

    def remove(self, home_address: int) -> bool:
        self.steps.append(("remove", home_address))
        return True

    # store
    def submit(self, commits: Sequence[Prepared]) -> None:
        self.steps.append(("submit", len(commits)))
        self.submitted.append(commits)

    # port
    def send(self, message: SendDatagram) -> None:
        reply = handmade.read_reply(message.data)
        self.steps.append(("reply", reply.code))
        self.replies.append(reply)

    def pause(self) -> None:
        self.steps.append(("pause",))

    def resume(self) -> None:
        self.steps.append(("resume",))

    # ARP
    def start_proxy(self, home_address: int) -> None:
        self.steps.append(("start proxy", home_address))

    def stop_proxy(self, home_address: int) -> None:
        self.steps.append(("stop proxy", home_address))

    def announce(self, home_address: int, mac: bytes | None) -> None:
        self.steps.append(("announce", home_address, mac))

    def covers(self, number: int) -> bool:
        return number >> 8 == address("10.1.0.0") >> 8

    def mac_of(self, _number: int) -> bytes | None:
        return MAC


class Bench:
    """A real agent in a world that writes down."""

    def __init__(
        self,
        hosts: int = 1,
        load: Callable[[int], NodeRow | None] | None = None,
        networks: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.world = World()
        self.rows: dict[int, NodeRow] = {}
        self.step_s = 0.0
        base = address(HOME_ADDRESS)
        known = {
            base + n: Host(
                base + n,
                AssociationSet([SecurityAssociation(handmade.SPI, handmade.KEY)]),
                networks=networks,
            )
            for n in range(hosts)
        }
        self.agent = HomeAgent(
            HomeAgentPolicy(
                address(HOME_AGENT),
                Prefix(address("10.1.0.0"), 16),
                home_interface="eth0",
                encapsulations=frozenset({4}),
            ),
            hosts=known.get,
            load=load or self.rows.get,
            boot=1,
            random=bytes,
        )
        self.pipeline = HomePipeline(
            self.agent,
            self.world,
            self.world.submit,
            arp=self.world,  # type: ignore[arg-type]  # has what the pipeline uses
            now=self.now,
        )
        self.pipeline.use_port(self.world)

    def now(self) -> Now:
        real = clock.now()
        return Now(real.boot_ns + int(self.step_s * 1e9), real.wall_ns)

    def deliver(self, *messages: bytes, source: str = CARE_OF, interface: str = "eth1") -> None:
        arrival = Arrival(
            Endpoint(address(source), 5000), Endpoint(address(HOME_AGENT), 434), interface
        )
        self.pipeline.deliver([(message, arrival) for message in messages])

    def finish(self, reason: str = "") -> None:
        """The store's word on everything handed over."""
        groups, self.world.submitted = self.world.submitted, []
        for group in groups:
            self.pipeline.stored(group, reason)

    def take_steps(self) -> list[tuple[Any, ...]]:
        steps, self.world.steps = self.world.steps, []
        return steps


@pytest.fixture
async def bench() -> Bench:
    return Bench()


HOME = address(HOME_ADDRESS)


async def test_leaving_home_prepare_commit_publish_arp_reply(bench: Bench) -> None:
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
    assert bench.take_steps() == [("prepare", 1), ("submit", 1)]
    bench.finish()
    steps = bench.take_steps()
    assert steps[0] == ("publish", 1)
    assert sorted(steps[1:3]) == [("announce", HOME, None), ("start proxy", HOME)]
    assert steps[3:] == [("reply", 0)]
    bench.pipeline.stop()


async def test_a_prefix_enters_after_the_commit_and_leaves_before_its_binding() -> None:
    network = (address("10.2.8.0"), 24)
    bench = Bench(networks=(network,))
    bench.world.send = lambda message: bench.world.steps.append(  # type: ignore[method-assign]
        ("reply", message.data[1])
    )
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
    assert bench.take_steps() == [("prepare", 1), ("submit", 1)]
    bench.finish("disk full")
    assert bench.take_steps() == [("abandon", 1), ("reply", 130)]
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
    bench.finish()
    steps = bench.take_steps()
    assert steps[2:5] == [
        ("publish", 2),
        ("set prefix", *network, HOME),
        ("ARP for networks", (), (network,), HOME),
    ]
    assert steps[-1] == ("reply", 0)
    home = handmade.request(HOME_ADDRESS, HOME_ADDRESS, lifetime_s=0)
    bench.deliver(home, source=HOME_ADDRESS, interface="eth0")
    bench.finish()
    assert bench.take_steps()[1:4] == [
        ("clear prefix", *network),
        ("remove", HOME),
        ("ARP for networks", (network,), (), HOME),
    ]
    bench.pipeline.stop()


async def test_returning_home_removes_then_stops_proxy_then_announces_then_replies(
    bench: Bench,
) -> None:
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
    bench.finish()
    bench.take_steps()
    home = handmade.request(HOME_ADDRESS, HOME_ADDRESS, lifetime_s=0)
    bench.deliver(home, source=HOME_ADDRESS, interface="eth0")
    assert bench.take_steps() == [("submit", 1)]
    bench.finish()
    assert bench.take_steps() == [
        ("remove", HOME),
        ("stop proxy", HOME),
        ("announce", HOME, MAC),
        ("reply", 0),
    ]
    bench.pipeline.stop()


async def test_an_engine_without_room_is_130_and_the_store_hears_nothing(bench: Bench) -> None:
    bench.world.full = True
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
    assert bench.take_steps() == [("reply", 130)]
    assert bench.pipeline.outstanding == 0
    bench.pipeline.stop()


async def test_a_failed_commit_is_130_and_leaves_the_engine_and_arp_alone(bench: Bench) -> None:
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
    bench.finish("disk full")
    assert bench.take_steps() == [("prepare", 1), ("submit", 1), ("abandon", 1), ("reply", 130)]
    # The same node may come again at once, and the failed request is not its mark.
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
    bench.finish()
    assert bench.take_steps()[-1] == ("reply", 0)
    bench.pipeline.stop()


async def test_a_failed_deregistration_keeps_the_binding_in_force(bench: Bench) -> None:
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
    bench.finish()
    bench.take_steps()
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF, lifetime_s=0))
    bench.finish("disk full")
    assert bench.take_steps() == [("submit", 1), ("reply", 130)]
    assert len(bench.agent.bindings_of(HOME)) == 1
    bench.pipeline.stop()


async def test_the_engine_record_has_the_layout_of_the_binding_cache(bench: Bench) -> None:
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF, flags=0x22))
    (record,) = np.frombuffer(bench.world.records[0], dtype=TUNNEL_DTYPE)
    assert record["home_address"] == HOME
    assert record["remote"] == address(CARE_OF)
    assert record["local"] == address(HOME_AGENT)
    assert (record["mtu"], record["encapsulation"], record["ttl"]) == (1500, 4, 64)
    assert record["flags"] == 1
    bench.finish()
    bench.pipeline.stop()


async def test_a_batch_of_datagrams_reaches_the_store_in_one_piece() -> None:
    bench = Bench(hosts=50)
    hosts = [f"10.1.0.{5 + n}" for n in range(50)]
    bench.deliver(*[handmade.request(host, CARE_OF) for host in hosts])
    assert bench.take_steps()[-1] == ("submit", 50)
    assert bench.pipeline.outstanding == 50
    bench.finish()
    assert [reply.home_address for reply in bench.world.replies] == [address(h) for h in hosts]
    assert bench.pipeline.outstanding == 0
    bench.pipeline.stop()


async def test_reading_stops_while_the_disk_is_behind() -> None:
    bench = Bench(hosts=PAUSE_ABOVE + 10)
    for start in range(0, PAUSE_ABOVE + 10, 64):
        numbers = range(start, min(start + 64, PAUSE_ABOVE + 10))
        hosts = [f"10.1.{(5 + n) >> 8}.{(5 + n) & 255}" for n in numbers]
        bench.deliver(*[handmade.request(host, CARE_OF) for host in hosts])
    assert ("pause",) in bench.take_steps()
    bench.finish()
    assert ("resume",) in bench.take_steps()
    bench.pipeline.stop()


async def test_an_unreadable_row_is_130_and_not_the_end() -> None:
    def unreadable(_home_address: int) -> NodeRow | None:
        raise StoreError("disk I/O error")

    bench = Bench(load=unreadable)
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
    assert bench.take_steps() == [("reply", 130)]
    bench.pipeline.stop()


async def test_the_timer_removes_what_has_expired(bench: Bench) -> None:
    bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF, lifetime_s=30))
    bench.finish()
    bench.take_steps()
    bench.step_s = 32.0
    async with asyncio.timeout(5):
        while not bench.world.submitted:
            await asyncio.sleep(0.01)
    bench.finish()
    steps = bench.take_steps()
    assert ("remove", HOME) in steps
    assert ("stop proxy", HOME) in steps
    assert not [step for step in steps if step[0] in {"reply", "announce"}]
    bench.pipeline.stop()


async def test_the_violation_table_is_bounded_and_counts_by_peer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmip.runtime.violations.VIOLATORS", 4)
    for last in (1, 1, 2, 3, 4, 5, 1):
        wrong = handmade.request(HOME_ADDRESS, CARE_OF, key=bytes(16))
        bench.deliver(wrong, source=f"10.3.1.{last}")
    assert list(bench.pipeline.violations.rows) == [address(f"10.3.1.{n}") for n in (3, 4, 5, 1)]
    assert bench.pipeline.violations.rows[address("10.3.1.1")].count == 1  # it had been forgotten
    assert bench.pipeline.violations.noted == 7
    bench.pipeline.stop()


async def test_the_log_tells_who_came_moved_left_and_was_denied(bench: Bench) -> None:
    other = "10.3.2.5"
    with structlog.testing.capture_logs() as logged:
        bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
        bench.finish()
        bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))  # a refresh is no news
        bench.finish()
        bench.deliver(handmade.request(HOME_ADDRESS, other, lifetime_s=90), source=other)
        bench.finish()
        bench.deliver(handmade.request(HOME_ADDRESS, other, flags=0x28), source=other)
        bench.deliver(handmade.request(HOME_ADDRESS, other, lifetime_s=0), source=other)
        bench.finish()
        bench.step_s = 2.0  # a node is denied once a second
        bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
        bench.finish("disk full")
        bench.deliver(handmade.request(HOME_ADDRESS, CARE_OF))
        bench.finish()
        now = bench.now()
        bench.pipeline.carry_out(bench.agent.clear_binding(HOME, now), now)
        bench.pipeline.flush()
        bench.finish()
    events = [entry["event"] for entry in logged]
    assert events == [
        "registered",
        "moved",
        "registration-denied",
        "deregistered",
        "registration-denied",
        "registered",
        "withdrawn",
    ]
    assert {entry["log_level"] for entry in logged} == {"info"}
    assert {entry["home_address"] for entry in logged} == {HOME_ADDRESS}
    assert (logged[1]["care_of"], logged[1]["lifetime_s"]) == (other, 90)
    assert (logged[2]["code"], logged[2]["peer"]) == (139, other)
    assert logged[4]["code"] == 130
    assert handmade.KEY.hex() not in str(logged)
    bench.pipeline.stop()


async def test_the_log_takes_samples_of_a_storm_and_counts_the_rest() -> None:
    bench = Bench(hosts=200)
    with structlog.testing.capture_logs() as logged:
        for n in range(100):
            home = socket.inet_ntoa((HOME + n).to_bytes(4))
            bench.deliver(handmade.request(home, CARE_OF))
            bench.deliver(handmade.request(home, CARE_OF, flags=0x28))
        bench.finish()
        bench.finish()
        bench.step_s = 2.0
        bench.deliver(handmade.request(socket.inet_ntoa((HOME + 150).to_bytes(4)), CARE_OF))
        bench.finish()
    came = [entry for entry in logged if entry["event"] == "registered"]
    denied = [entry for entry in logged if entry["event"] == "registration-denied"]
    assert 10 <= len(came) < 50
    assert 10 <= len(denied) < 50
    assert len(came) + sum(entry.get("omitted", 0) for entry in came) == 101
    bench.pipeline.stop()


async def test_effects_of_another_role_are_a_programming_error(bench: Bench) -> None:
    with pytest.raises(TypeError, match="InstallTunnels"):
        bench.pipeline.carry_out([InstallTunnels(HOME, ())], bench.now())
