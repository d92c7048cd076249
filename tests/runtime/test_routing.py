"""What is changed in which order, and what gives way to a move (a kernel on paper)."""

from __future__ import annotations

from typing import Any

import pytest

from fastmip.agents.attachment import LinkState
from fastmip.agents.hosts import Prefix
from fastmip.runtime import routing as module
from fastmip.runtime.journal import Address, Change, Neighbour, Route, Rule, Sysctl
from fastmip.runtime.routing import PRIORITY, MobileRouting
from fastmip.wire.addresses import parse_address

HOME = parse_address("10.1.0.5")
A, GATEWAY_A = parse_address("10.3.1.5"), parse_address("10.3.1.254")
B, GATEWAY_B = parse_address("10.3.2.5"), parse_address("10.3.2.254")
MARK = 0x434


class PaperKernel:
    """Holds changes like the kernel: a second route to one place in a table is refused."""

    def __init__(self) -> None:
        self.held: list[Change] = []
        self.log: list[tuple[str, Change]] = []
        self.sysctls: dict[str, str] = {}

    async def free_table(self, _first: int, _count: int) -> int:
        return 0

    async def apply(self, change: Change) -> bool:
        for other in self.held:
            if change == other or (
                isinstance(change, Route)
                and isinstance(other, Route)
                and (change.table, change.destination, change.metric)
                == (other.table, other.destination, other.metric)
            ):
                return False
        self.held.append(change)
        self.log.append(("apply", change))
        return True

    async def undo(self, change: Change) -> None:
        if isinstance(change, Sysctl):
            self.sysctls[change.path] = change.old
        if change in self.held:  # what a dead link took with it is gone already
            self.held.remove(change)
        self.log.append(("undo", change))

    async def set_sysctl(self, path: str, value: str) -> Sysctl | None:
        old = self.sysctls.get(path, "0")
        if old == value:
            return None
        self.sysctls[path] = value
        return Sysctl(path, old, value)

    def table(self, number: int) -> list[Route]:
        return [c for c in self.held if isinstance(c, Route) and c.table == number]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> PaperKernel:
    made = PaperKernel()
    monkeypatch.setattr(module, "read_sysctl", lambda path: made.sysctls.get(path, "0"))
    monkeypatch.setattr(module, "forget_unanswered", lambda _device: None)
    return made


def build(kernel: Any, *, with_agents: bool = False) -> MobileRouting:
    return MobileRouting(
        kernel,
        device="fmmn0",
        home_address=HOME,
        home_network=Prefix(parse_address("10.1.0.0"), 24),
        home_gateway=parse_address("10.1.0.1"),
        interfaces=("eth0", "wlan0"),
        fwmark=MARK,
        table=434,
        with_agents=with_agents,
    )


def away(interface: str, address: int, gateway: int) -> LinkState:
    return LinkState(interface, True, ((address, 24),), gateway)


def never() -> bool:
    return False


async def test_stop_leaves_nothing(kernel: PaperKernel) -> None:
    kernel.sysctls |= {
        "net/ipv4/conf/all/rp_filter": "1",
        "net/ipv4/conf/eth0/rp_filter": "0",
        "net/ipv4/conf/eth0/arp_announce": "1",
    }
    before = dict(kernel.sysctls)
    routing = build(kernel)
    await routing.start()
    await routing.link_changed(away("eth0", A, GATEWAY_A))
    await routing.settle(never)
    await routing.refuse_arp("eth0")
    await routing.refuse_arp("wlan0")
    await routing.route_through_tunnel(reverse=False, interface="eth0")
    await routing.link_changed(LinkState("wlan0", True, ((B, 24),), GATEWAY_B))
    await routing.at_home("wlan0")
    await routing.answer_arp("wlan0")
    assert kernel.sysctls["net/ipv4/conf/eth0/rp_filter"] == "2"
    await routing.link_changed(LinkState("eth0", False))
    await routing.stop()
    assert kernel.held == []
    assert {k: v for k, v in kernel.sysctls.items() if v != "0" or k in before} == before


async def test_a_request_needs_two_changes_and_the_rest_gives_way(kernel: PaperKernel) -> None:
    routing = build(kernel)
    await routing.start()
    kernel.log.clear()
    await routing.link_changed(away("eth0", A, GATEWAY_A))
    assert [change for _, change in kernel.log] == [
        Route("default", 435, device="eth0", gateway="10.3.1.254", onlink=True),
        Rule(PRIORITY, 435, source="10.3.1.5/32", fwmark=MARK),
    ]
    assert not await routing.settle(lambda: True)
    assert len(kernel.log) == 2, "something else was waiting"
    waited = iter([False, False, True])
    assert not await routing.settle(lambda: next(waited))
    assert len(kernel.log) == 4, "one change at a time"
    assert await routing.settle(never)
    assert Rule(PRIORITY + 5, 435, source="10.3.1.5/32") in kernel.held
    done = len(kernel.log)
    assert await routing.settle(never)
    assert len(kernel.log) == done


async def test_the_same_interface_on_another_network(kernel: PaperKernel) -> None:
    routing = build(kernel)
    await routing.start()
    await routing.link_changed(away("eth0", A, GATEWAY_A))
    await routing.settle(never)
    await routing.link_changed(LinkState("eth0", False))
    await routing.link_changed(away("eth0", B, GATEWAY_B))
    default = [r for r in kernel.table(435) if r.destination == "default"]
    assert [r.gateway for r in default] == ["10.3.2.254"], "the old one stood in the way"
    await routing.settle(never)
    assert "10.3.1" not in repr(kernel.held)


async def test_routes_a_bounced_link_lost_are_put_up_again(kernel: PaperKernel) -> None:
    routing = build(kernel)
    await routing.start()
    state = away("eth0", A, GATEWAY_A)
    await routing.link_changed(state)
    await routing.settle(never)
    complete = sorted(map(repr, kernel.held))
    kernel.held = [c for c in kernel.held if not (isinstance(c, Route) and c.table == 435)]
    await routing.link_changed(LinkState("eth0", False))
    await routing.link_changed(state)
    await routing.settle(never)
    assert sorted(map(repr, kernel.held)) == complete


async def test_home_and_back_never_leaves_packets_without_a_route(kernel: PaperKernel) -> None:
    routing = build(kernel)
    await routing.start()
    await routing.link_changed(away("eth0", A, GATEWAY_A))
    await routing.route_through_tunnel(reverse=True, interface="eth0")
    assert [r.device for r in kernel.table(434)] == ["fmmn0"]
    await routing.at_home("wlan0")
    best = min((r for r in kernel.table(434) if r.destination == "default"), key=lambda r: r.metric)
    assert (best.device, best.gateway, best.prefsrc) == ("wlan0", "10.1.0.1", "10.1.0.5")
    await routing.route_through_tunnel(reverse=False, interface="eth0")
    best = min(kernel.table(434), key=lambda r: r.metric)
    assert (best.device, best.gateway) == ("eth0", "10.3.1.254")
    await routing.route_through_tunnel(reverse=True, interface="eth0")
    assert [r.device for r in kernel.table(434)] == ["fmmn0"]


async def test_tunnel_packets_follow_the_link_in_use(kernel: PaperKernel) -> None:
    routing = build(kernel)
    await routing.start()
    await routing.link_changed(away("eth0", A, GATEWAY_A))
    await routing.link_changed(away("wlan0", B, GATEWAY_B))

    def leads_to() -> list[int]:
        rules = [c for c in kernel.held if isinstance(c, Rule)]
        return [r.table for r in rules if r.priority == PRIORITY + 1]

    await routing.route_through_tunnel(reverse=True, interface="eth0")
    assert leads_to() == [435]
    await routing.route_through_tunnel(reverse=True, interface="wlan0")
    assert leads_to() == [436]
    await routing.route_through_tunnel(reverse=True, interface="")
    assert leads_to() == []


async def test_arp_goes_with_the_home_address(kernel: PaperKernel) -> None:
    routing = build(kernel)
    await routing.start()
    own = Address("eth0", "10.1.0.5", 32)
    await routing.answer_arp("eth0")
    assert own in kernel.held
    assert routing.is_ours("eth0", HOME, 32)
    await routing.refuse_arp("eth0")
    assert own not in kernel.held
    assert kernel.sysctls["net/ipv4/conf/eth0/arp_ignore"] == "1"
    assert kernel.sysctls["net/ipv4/conf/eth0/arp_announce"] == "2"
    assert routing.is_ours("eth0", HOME, 32), "who looked before we took it away saw ours"
    await routing.answer_arp("eth0")
    assert kernel.sysctls["net/ipv4/conf/eth0/arp_ignore"] == "0"


async def test_an_address_of_the_operators_is_not_ours(kernel: PaperKernel) -> None:
    routing = build(kernel)
    await routing.start()
    kernel.held.append(Address("eth0", "10.1.0.5", 32))
    await routing.answer_arp("eth0")
    assert not routing.is_ours("eth0", HOME, 32)
    await routing.refuse_arp("eth0")
    await routing.stop()
    assert kernel.held == [Address("eth0", "10.1.0.5", 32)]


# -- foreign agents --------------------------------------------------------------------------------

FOREIGN = parse_address("10.3.1.1")
MAC = bytes.fromhex("020000000101")


def pinned(kernel: PaperKernel) -> list[Neighbour]:
    return [change for change in kernel.held if isinstance(change, Neighbour)]


async def test_a_pinned_agent_is_a_neighbour_and_a_route_alone_rfc5944_4_6(
    kernel: PaperKernel,
) -> None:
    routing = build(kernel, with_agents=True)
    await routing.start()
    await routing.link_changed(LinkState("eth0", True))
    await routing.pin(FOREIGN, "eth0", MAC)
    assert pinned(kernel) == [Neighbour("eth0", "10.3.1.1", "02:00:00:00:01:01")]
    assert [r.destination for r in kernel.table(254)] == ["10.3.1.1/32"]
    assert [r.destination for r in kernel.table(435)] == ["10.3.1.1/32"]
    await routing.pin(FOREIGN, "eth0", bytes(6))
    assert [n.mac for n in pinned(kernel)] == ["00:00:00:00:00:00"]
    assert len(kernel.table(254)) == 1
    await routing.unpin(FOREIGN, "eth0")
    assert pinned(kernel) == []
    assert kernel.table(254) == []
    await routing.unpin(FOREIGN, "eth0")
    await routing.stop()
    assert kernel.held == []


async def test_an_agent_can_be_pinned_again_after_its_link_went_down(kernel: PaperKernel) -> None:
    routing = build(kernel, with_agents=True)
    await routing.start()
    await routing.link_changed(LinkState("eth0", True))
    await routing.pin(FOREIGN, "eth0", MAC)
    await routing.link_changed(LinkState("eth0", False))
    await routing.link_changed(LinkState("eth0", True))
    await routing.pin(FOREIGN, "eth0", MAC)
    await routing.settle(never)
    assert len(pinned(kernel)) == 1
    assert len(kernel.table(254)) == 1
    await routing.stop()
    assert kernel.held == []


async def test_a_foreign_agent_takes_the_place_of_the_links_router(kernel: PaperKernel) -> None:
    routing = build(kernel, with_agents=True)
    await routing.start()
    await routing.link_changed(away("eth0", A, GATEWAY_A))
    await routing.route_through_tunnel(reverse=False, interface="eth0", gateway=FOREIGN)
    [top] = [route for route in kernel.table(434) if route.device == "eth0"]
    assert (top.gateway, top.onlink, top.prefsrc, top.mtu) == ("10.3.1.1", True, "10.1.0.5", 1480)
    await routing.route_through_tunnel(reverse=True, interface="eth0", gateway=FOREIGN)
    assert [route.device for route in kernel.table(434)] == ["fmmn0"]
    local = (parse_address("10.3.1.0"), 24)
    await routing.route_through_tunnel(
        reverse=True, interface="eth0", gateway=FOREIGN, direct=[local]
    )
    [direct] = [route for route in kernel.table(434) if route.device == "eth0"]
    assert (direct.destination, direct.gateway) == ("10.3.1.0/24", "10.3.1.1")


async def test_from_agent_to_agent_of_one_link_there_is_always_a_route(kernel: PaperKernel) -> None:
    routing = build(kernel, with_agents=True)
    await routing.start()
    await routing.link_changed(LinkState("eth0", True))
    for turn in range(5):
        await routing.route_through_tunnel(
            reverse=False, interface="eth0", gateway=FOREIGN + turn % 2
        )
        [top] = [route for route in kernel.table(434) if route.device == "eth0"]
        assert top.gateway == ("10.3.1.1", "10.3.1.2")[turn % 2]
        await routing.route_through_tunnel(
            reverse=False, interface="eth0", gateway=FOREIGN + turn % 2
        )
        assert len([route for route in kernel.table(434) if route.device == "eth0"]) == 1


async def test_links_of_a_visitor_take_no_redirects_and_filter_nothing(
    kernel: PaperKernel,
) -> None:
    kernel.sysctls |= {
        "net/ipv4/conf/eth0/rp_filter": "1",
        "net/ipv4/conf/eth0/accept_redirects": "1",
        "net/ipv4/conf/all/accept_redirects": "1",
    }
    routing = build(kernel, with_agents=True)
    await routing.start()
    assert kernel.sysctls["net/ipv4/conf/eth0/rp_filter"] == "0"
    for name in ("eth0", "all"):
        assert kernel.sysctls[f"net/ipv4/conf/{name}/accept_redirects"] == "0"
    await routing.stop()
    assert kernel.sysctls["net/ipv4/conf/eth0/rp_filter"] == "1"
    for name in ("eth0", "all"):
        assert kernel.sysctls[f"net/ipv4/conf/{name}/accept_redirects"] == "1"
