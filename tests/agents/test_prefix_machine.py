"""The prefix table beside a simple model: ownership, overlaps, pools, restarts (RFC 5177, 6626)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastmip.agents.home_counters import new_counters
from fastmip.agents.hosts import Host, NetworkPolicy
from fastmip.agents.mobile_networks import (
    Judgement,
    MobileNetworks,
    NetworkChange,
    pack_networks,
    room_for_any,
)
from fastmip.agents.prefix_set import Network
from fastmip.auth.associations import AssociationSet, SecurityAssociation
from fastmip.wire.mobile_network import MobileNetworkRequest

ROUTERS = range(1, 5)
POOLS = NetworkPolicy(((0x0A800000, 27),), 29, 28)
SHARED = AssociationSet([SecurityAssociation(256, bytes(16))])
NETWORKS: list[Network] = [
    *((0x0A020000 + (n << 8), 24) for n in range(3)),
    *((0x0A020080, 25), (0x0A020000, 16), (0x0A020101, 32), (0x0A800000, 29)),
]
ROUTER = st.sampled_from(ROUTERS)
ASKED = st.lists(
    st.one_of(
        st.sampled_from(NETWORKS).map(lambda n: MobileNetworkRequest(*n)),
        st.sampled_from([0, 28, 29, 30, 32, 33]).map(
            lambda length: MobileNetworkRequest(0, length)
        ),
        st.just(MobileNetworkRequest(0x0A020000, 0)),
    ),
    max_size=4,
)


def span(network: Network) -> tuple[int, int]:
    return network[0], network[0] + (1 << (32 - network[1])) - 1


class PrefixTable(RuleBasedStateMachine):
    """Judgements settle at once or later; what leads where is kept in ``routed``."""

    @initialize()
    def start(self) -> None:
        self.count = new_counters()
        self.table = MobileNetworks(POOLS, self.count, room_for_any)
        self.hosts = {r: Host(r, SHARED, dynamic_networks=r % 3) for r in ROUTERS}
        self.routed: dict[Network, int] = {}
        self.stored: dict[int, bytes] = {}
        self.waiting: dict[int, NetworkChange] = {}

    def take(self, router: int, judged: Judgement) -> None:
        if judged.change is not None:
            self.waiting[router] = judged.change

    @rule(router=ROUTER, networks=st.lists(st.sampled_from(NETWORKS[:-1]), unique=True, max_size=3))
    def configure(self, router: int, networks: list[Network]) -> None:
        before = self.hosts[router]
        self.hosts[router] = Host(
            router, SHARED, networks=tuple(networks), dynamic_networks=before.dynamic_networks
        )
        if router not in self.waiting:
            change = self.table.revise(self.hosts[router], router)
            if change is not None:
                self.waiting[router] = change
                self.settle(router, committed=True)
                allowed = self.hosts[router].networks
                for network, owner in self.routed.items():
                    assert owner != router or network in allowed or network[0] >> 8 == 0x0A8000

    @rule(router=ROUTER, asked=ASKED)
    def register(self, router: int, asked: list[MobileNetworkRequest]) -> None:
        if router in self.waiting:
            return
        host = self.hosts[router]
        judged = self.table.judge(host, asked)
        if judged.code == 148:
            assert not host.networks
            assert not host.dynamic_networks
            return
        if asked:
            assert len(judged.answers) == len(asked)
        for request, answer in zip(asked, judged.answers, strict=False):
            if request.length > 32 or (not request.length and request.prefix):
                assert answer.code == 1
            elif answer.is_success:
                assert answer.network is not None
                assert self.routed.get(answer.network, router) == router
                if request.prefix:
                    assert answer.network == request.network
        granted = [answer for answer in judged.answers if answer.is_success]
        assert (judged.code == 147) == (bool(judged.answers) and not granted)
        self.take(router, judged)

    @rule(router=ROUTER)
    def leave(self, router: int) -> None:
        if router not in self.waiting:
            change = self.table.leave(router)
            if change is not None:
                self.waiting[router] = change
                self.settle(router, committed=True)
            assert router not in self.routed.values()

    @rule(router=ROUTER, committed=st.booleans())
    def settle(self, router: int, committed: bool) -> None:
        change = self.waiting.pop(router, None)
        if change is None:
            return
        if committed:
            step = change.step()
            for network in step.leaving:
                assert self.routed.pop(network) == router
            for network in step.entering:
                assert network not in self.routed
                self.routed[network] = router
            self.stored[router] = step.records
        self.table.settle(change, committed=committed)
        routed = {n for n, owner in self.routed.items() if owner == router}
        assert {held.network for held in self.table.held_by(router) if held.routed} == routed

    @rule()
    def restart(self) -> None:
        self.waiting.clear()
        self.table = MobileNetworks(POOLS, self.count, room_for_any)
        bound = set(self.routed.values())
        found: dict[Network, int] = {}
        for router, records in self.stored.items():
            host = self.hosts[router] if router in bound else None
            found |= dict.fromkeys(self.table.restore(router, records, host), router)
        gone = self.routed.keys() - found.keys()
        assert found.items() <= self.routed.items()
        for network in gone:  # configured no more while a commit of its router was outstanding
            assert network not in self.hosts[self.routed[network]].networks
        self.routed = found

    @invariant()
    def prefixes_of_two_never_overlap(self) -> None:
        if not hasattr(self, "routed"):
            return
        spans = sorted((*span(network), owner) for network, owner in self.routed.items())
        for first, last, owner in spans:
            for other_first, other_last, other in spans:
                assert owner == other or last < other_first or other_last < first

    @invariant()
    def addresses_lead_where_the_longest_prefix_does(self) -> None:
        if not hasattr(self, "routed") or self.waiting:
            return
        for address in (0x0A020005, 0x0A020085, 0x0A020101, 0x0A021005, 0x0A800001):
            holding = [
                (network[1], owner)
                for network, owner in self.routed.items()
                if span(network)[0] <= address <= span(network)[1]
            ]
            assert self.table.router_of(address) == (max(holding)[1] if holding else 0)


PrefixTable.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestPrefixTable = PrefixTable.TestCase


def test_records_are_read_back() -> None:
    table = MobileNetworks(POOLS, new_counters(), room_for_any)
    host = Host(1, SHARED, networks=((0x0A020000, 24),), dynamic_networks=1)
    judged = table.judge(host, [MobileNetworkRequest(0x0A020000, 24), MobileNetworkRequest(0, 0)])
    assert judged.change is not None
    table.settle(judged.change, committed=True)
    again = MobileNetworks(POOLS, new_counters(), room_for_any)
    again.restore(1, pack_networks(table.held_by(1)) + b"rest", host)
    assert again.held_by(1) == table.held_by(1)
