"""Any order of moves, losses, denials, clock steps: what a mobile node must never do,
and where it must end up once the world is calm again."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.agents.mobile_world import (
    HOME,
    HOME_AGENT,
    SECOND,
    World,
    at_home,
    down,
    visit_a,
    visit_b,
)
from tests.agents.paper_home_agent import KEY, PaperHomeAgent, build_reply, parse_request

from fastmip.agents.attachment import LinkState
from fastmip.agents.effects import GratuitousArp, InstallTunnels, SendDatagram, SetArp
from fastmip.auth.associations import ReplayStyle

PLACES = {"home": at_home, "a": visit_a, "b": visit_b, "down": down}


class MobileNodeMachine(RuleBasedStateMachine):
    """One mobile node with two interfaces in a hostile world."""

    nonces = False

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            home_agent=PaperHomeAgent(HOME_AGENT, nonces=self.nonces),
            replay=ReplayStyle.NONCES if self.nonces else ReplayStyle.TIMESTAMPS,
        )
        self.links: dict[str, LinkState] = {}
        self.arp: dict[str, bool] = {}
        self.checked = 0
        self.deny: int | None = None

    @rule(interface=st.sampled_from(["eth0", "wlan0"]), place=st.sampled_from(sorted(PLACES)))
    def move(self, interface: str, place: str) -> None:
        state = PLACES[place](interface)
        self.links[interface] = state
        self.world.link(state)

    @rule(interface=st.sampled_from(["eth0", "wlan0", None]))
    def prefer(self, interface: str | None) -> None:
        self.world.take(self.world.node.prefer(interface, self.world.now))

    @rule(seconds=st.sampled_from([0.001, 0.03, 0.5, 1.0, 7.0, 100.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(reachable=st.booleans())
    def weather(self, reachable: bool) -> None:
        self.world.reachable = reachable

    @rule(code=st.sampled_from([None, 128, 129, 130, 131, 133, 135, 137, 138, 139]))
    def mood(self, code: int | None) -> None:
        self.world.home_agent.code = code

    @rule(supported=st.booleans())
    def simultaneous(self, supported: bool) -> None:
        self.world.home_agent.simultaneous = supported

    @rule(step_s=st.integers(-100_000, 100_000))
    def step_clock(self, step_s: int) -> None:
        self.world.wall_ns += step_s * SECOND
        self.world.home_agent.clock_offset_s -= step_s

    @rule(data=st.binary(max_size=80))
    def garbage(self, data: bytes) -> None:
        self.world.hear(data)

    @precondition(lambda self: self.world.requests)
    @rule(back=st.integers(0, 5), code=st.integers(0, 255), good_key=st.booleans())
    def late_or_forged_reply(self, back: int, code: int, good_key: bool) -> None:
        if good_key and code <= 8:
            return  # only the home agent has the key, and it says so only when it is true
        requests = self.world.sent()
        request = requests[max(0, len(requests) - 1 - back)]
        self.world.hear(
            build_reply(
                code,
                request.lifetime,
                HOME,
                request.home_agent,
                request.identification,
                key=KEY if good_key else bytes(16),
            )
        )

    @invariant()
    def effects_are_lawful(self) -> None:
        """Judge every new effect in its place in the order."""
        for when, effect in self.world.log[self.checked :]:
            if isinstance(effect, SetArp):
                self.arp[effect.interface] = effect.enabled
                assert sum(self.arp.values()) <= 1, "one link at most answers for the address"
            elif isinstance(effect, GratuitousArp):
                assert self.arp[effect.interface], "ARP is answered again before it is announced"
            elif isinstance(effect, SendDatagram):
                self.check_request(effect)
            elif isinstance(effect, InstallTunnels):
                assert all(t.expires_ns > when for t in effect.tunnels)
        self.checked = len(self.world.log)

    def check_request(self, datagram: SendDatagram) -> None:
        request = parse_request(datagram.data)
        assert datagram.source.address == request.care_of
        held = {address for address, _ in self.links[datagram.interface].addresses}
        if request.care_of == HOME:
            assert request.lifetime == 0
            assert self.arp[datagram.interface]
            assert request.flags == 0
        else:
            assert request.care_of in held, "the link owns the care-of address"
            assert request.flags & 0x20
            if request.lifetime:
                assert not any(self.arp.values()), "no ARP answers away from home (4.6)"

    @invariant()
    def pace_is_kept(self) -> None:
        requests = self.world.requests
        for span in (4, 10, 50):
            if len(requests) > span:
                # `span` requests after the first: the bucket starts with at most three.
                elapsed = requests[-1][0] - requests[-1 - span][0]
                assert elapsed >= (span - 2) * SECOND

    @invariant()
    def identifications_differ(self) -> None:
        """Of requests; a retransmission with nonces is the same request (3.6.3)."""
        last = self.world.requests[-2:]
        datagrams = {datagram.data for _, datagram, _ in last}
        assert len({request.identification for _, _, request in last}) == len(datagrams)
        if not self.nonces:
            assert len(datagrams) == len(last)

    def teardown(self) -> None:
        """A calm world: the node must end registered where it is, or at home."""
        world = self.world
        world.reachable = True
        world.home_agent.code = None
        world.run(400)
        usable = [s for s in self.links.values() if s.carrier]
        if not usable:
            assert world.state == "isolated"
        elif world.state == "home":
            assert world.home_agent.bindings == {}
        else:
            assert world.state == "registered"
            assert len(world.home_agent.bindings) == 1
            assert world.tunnels() == tuple(world.home_agent.bindings)
        self.effects_are_lawful()
        self.pace_is_kept()
        world.take(world.node.stop(world.now))
        world.run(10)
        assert world.stopped()
        if usable:
            assert world.home_agent.bindings == {}


class NonceMachine(MobileNodeMachine):
    """The same with nonces instead of timestamps."""

    nonces = True


TestMobileNodeMachine = MobileNodeMachine.TestCase
TestMobileNodeMachineWithNonces = NonceMachine.TestCase
