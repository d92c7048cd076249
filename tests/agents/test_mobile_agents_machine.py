"""Any order of agents coming, going, denying and starting again: what a node must never do
among them, and where it must end up once the world is calm again."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.agents.mobile_world import HOME, HOME_AGENT, SECOND, World, down, visit_a, visit_b
from tests.agents.paper_foreign_agent import B, F, H, PaperForeignAgent, R, T
from tests.agents.paper_home_agent import PaperHomeAgent

from fastmip.agents.attachment import LinkState
from fastmip.agents.effects import (
    GratuitousArp,
    InstallTunnels,
    PinNeighbour,
    RouteThroughTunnel,
    SendDatagram,
    SendIcmp,
    SetArp,
    UnpinNeighbour,
)
from fastmip.agents.mobile_state import HandoverPolicy
from fastmip.agents.offers import CareOf
from fastmip.wire.addresses import parse_address

INTERFACES = ("eth0", "wlan0")
PLACES = {
    "bare": lambda interface: LinkState(interface, True),
    "a": visit_a,
    "b": visit_b,
    "down": down,
}
BASE = parse_address("10.3.7.1")


def agent(number: int, interface: str) -> PaperForeignAgent:
    """Agents 0 and 1 share a subnet; 3 is the home agent itself."""
    address = HOME_AGENT if number == 3 else BASE + (number << 7)
    return PaperForeignAgent(
        interface,
        address,
        bytes((2, 0, 0, 0, INTERFACES.index(interface), number)),
        () if number == 3 else (address, address + 1),
        flags=H if number == 3 else F | T,
    )


class AmongAgents(RuleBasedStateMachine):
    """One mobile node with two interfaces among agents that do as they please."""

    care_of = CareOf.FOREIGN_AGENT_FIRST
    eager = False
    handover = HandoverPolicy.SMOOTH

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            home_agent=PaperHomeAgent(HOME_AGENT),
            care_of=self.care_of,
            eager=self.eager,
            handover=self.handover,
        )
        self.links: dict[str, LinkState] = {}
        self.arp: dict[str, bool] = {}
        self.pinned: dict[tuple[int, str], bytes] = {}
        self.checked = 0

    def at(self, number: int, interface: str) -> PaperForeignAgent | None:
        wanted = agent(number, interface)
        found = [a for a in self.world.agents if (a.mac, a.interface) == (wanted.mac, interface)]
        return found[0] if found else None

    @rule(interface=st.sampled_from(INTERFACES), place=st.sampled_from(sorted(PLACES)))
    def move(self, interface: str, place: str) -> None:
        state = PLACES[place](interface)
        if not state.carrier:
            for present in [a for a in self.world.agents if a.interface == interface]:
                self.world.remove(present)
        self.links[interface] = state
        self.world.link(state)

    @rule(number=st.integers(0, 3), interface=st.sampled_from(INTERFACES))
    def appear(self, number: int, interface: str) -> None:
        up = interface in self.links and self.links[interface].carrier
        if up and self.at(number, interface) is None:
            self.world.place(agent(number, interface))

    @precondition(lambda self: self.world.agents)
    @rule(data=st.data())
    def disappear(self, data: st.DataObject) -> None:
        self.world.remove(data.draw(st.sampled_from(self.world.agents)))

    @precondition(lambda self: self.world.agents)
    @rule(
        data=st.data(),
        code=st.sampled_from([None, 64, 65, 66, 67, 69, 72, 74, 75, 77, 78, 79, 88, 104, 194]),
        error=st.sampled_from([0, 0, 66]),
        silent=st.booleans(),
        flags=st.sampled_from([0, B, R]),
    )
    def behave(
        self, data: st.DataObject, code: int | None, error: int, silent: bool, flags: int
    ) -> None:
        one = data.draw(st.sampled_from(self.world.agents))
        one.code, one.error, one.silent = code, error, silent
        if one.flags & F:
            one.flags = F | T | flags

    @precondition(lambda self: self.world.agents)
    @rule(data=st.data(), sequence=st.sampled_from([0, 1, 255, 256, 0xFFFF]))
    def start_again(self, data: st.DataObject, sequence: int) -> None:
        data.draw(st.sampled_from(self.world.agents)).sequence = sequence

    @rule(seconds=st.sampled_from([0.001, 0.03, 0.5, 1.0, 4.0, 70.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(reachable=st.booleans())
    def weather(self, reachable: bool) -> None:
        self.world.reachable = reachable

    @rule(data=st.binary(max_size=60), interface=st.sampled_from(INTERFACES))
    def garbage(self, data: bytes, interface: str) -> None:
        stranger = agent(0, interface)
        self.world.advertise(stranger, data=data or b"\x09")

    @invariant()
    def effects_are_lawful(self) -> None:
        """Judge every new effect in its place in the order."""
        for when, effect in self.world.log[self.checked :]:
            if isinstance(effect, SetArp):
                self.arp[effect.interface] = effect.enabled
            elif isinstance(effect, GratuitousArp):
                assert self.arp[effect.interface]
            elif isinstance(effect, PinNeighbour):
                self.pinned[effect.address, effect.interface] = effect.mac
            elif isinstance(effect, UnpinNeighbour):
                del self.pinned[effect.address, effect.interface]
            elif isinstance(effect, SendDatagram):
                self.check_request(effect)
            elif isinstance(effect, InstallTunnels):
                assert all(t.expires_ns > when for t in effect.tunnels)
            elif isinstance(effect, RouteThroughTunnel) and effect.gateway:
                assert (effect.gateway, effect.interface) in self.pinned
            elif isinstance(effect, SendIcmp):
                assert self.links[effect.interface].carrier
        self.checked = len(self.world.log)

    def check_request(self, datagram: SendDatagram) -> None:
        request = next(r for _, d, r in self.world.requests if d is datagram)
        own = {address for address, _ in self.links[datagram.interface].addresses}
        if request.care_of == HOME:
            assert request.lifetime == 0
            assert self.arp[datagram.interface]
            assert datagram.mac is None
        elif request.flags & 0x20:
            assert request.care_of in own
            assert datagram.source.address == request.care_of
        else:
            assert datagram.source.address == HOME
            assert datagram.mac is not None
            if request.lifetime:
                assert not any(self.arp.values()), "no ARP answers away from home (4.6)"
                pin = (datagram.destination.address, datagram.interface)
                assert self.pinned[pin] == datagram.mac
                assert datagram.ttl == (255 if request.reverse else None)

    @invariant()
    def pace_is_kept(self) -> None:
        requests = self.world.requests
        for span in (4, 10, 50):
            if len(requests) > span:
                elapsed = requests[-1][0] - requests[-1 - span][0]
                assert elapsed >= (span - 2) * SECOND

    @invariant()
    def solicitations_are_few(self) -> None:
        """Never more than a few in any second and interface, whatever happens to the link."""
        sent = [when for when, name in self.world.solicitations if name == "eth0"]
        ups = sum(1 for state in self.links.values() if state.carrier)
        assert ups >= 0
        if len(sent) > 60:
            assert sent[-1] > sent[-60]

    def teardown(self) -> None:
        """A calm world of honest agents."""
        world = self.world
        world.reachable = True
        for one in world.agents:
            one.code, one.error, one.silent = None, 0, False
            if one.flags & F:
                one.flags = F | T
        world.run(400)
        up = [name for name, state in self.links.items() if state.carrier]
        heard = [a for a in world.agents if a.interface in up]
        usable = [name for name in up if self.links[name].addresses] or heard
        if self.care_of is CareOf.FOREIGN_AGENT:
            usable = heard
        status: Any = world.node.status(world.now)
        if not usable:
            assert world.state == "isolated"
        elif world.state == "home":
            assert world.home_agent.bindings == {}
        else:
            assert world.state == "registered"
            [care_of] = world.home_agent.bindings
            [row] = status["bindings"]
            assert row["accepted"]
            lent = {a for one in heard for a in one.care_of}
            own = {a for name in up for a, _ in self.links[name].addresses}
            assert care_of in lent | own
        self.effects_are_lawful()
        self.pace_is_kept()
        world.take(world.node.stop(world.now))
        world.run(10)
        assert world.stopped()
        if usable:
            assert world.home_agent.bindings == {}


class EagerAmongAgents(AmongAgents):
    """The same with agents alone, followed at once."""

    care_of = CareOf.FOREIGN_AGENT
    eager = True
    handover = HandoverPolicy.SEAMLESS


TestAmongAgents = AmongAgents.TestCase
TestEagerAmongAgents = EagerAmongAgents.TestCase
