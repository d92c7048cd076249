"""What the engine is shown of the kernel's routing, beside a twin that looks rule by rule."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.handmade import address

from fastmip import _dataplane
from fastmip.runtime.egress_routes import EgressRoutes, Flow, Step, chain, covers
from fastmip.runtime.route_messages import (
    NLM_F_REPLACE,
    LinkNews,
    NeighbourNews,
    NextHop,
    RouteNews,
    RuleNews,
)

US = address("10.1.0.1")
FLOW = Flow(source=(US, 32))
TABLES = (255, 254, 77)
UNICAST, LOCAL, BLACKHOLE, THROW = 1, 2, 6, 9
Place = tuple[int, int]


def mask(length: int) -> int:
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF


def link(index: int, *, up: bool = True, carrier: bool = True) -> LinkNews:
    return LinkNews(index, bytes([2, 0, 0, 0, 0, index]), 1500, up, up and carrier)


def neighbour_mac(index: int, where: int) -> bytes:
    return bytes([2, index]) + where.to_bytes(4)


@dataclass
class Kernel:
    """The kernel's state in the plainest form."""

    links: dict[int, LinkNews] = field(default_factory=dict)
    neighbours: set[tuple[int, int]] = field(default_factory=set)
    routes: dict[tuple[int, Place, int], RouteNews] = field(default_factory=dict)
    """By table, prefix, priority."""
    rules: list[RuleNews] = field(default_factory=list)

    def lookup(self, where: int) -> bytes | None:
        """MAC of the next hop; None: the kernel's business."""
        for rule in sorted(self.rules, key=lambda rule: rule.priority):
            is_match = all(
                covers(selector, (address, 32))
                for selector, address in ((rule.source, US), (rule.destination, where))
            )
            if is_match == rule.is_inverted:
                continue
            if rule.is_odd:
                return None
            route = self._in_table(rule.table, where)
            if route is None or route.kind == THROW or route.length <= rule.suppress:
                continue
            return self._next(route, where)
        return None

    def _in_table(self, table: int, where: int) -> RouteNews | None:
        found = [
            route
            for (number, prefix, _), route in self.routes.items()
            if number == table and covers(prefix, (where, 32))
        ]
        return max(found, key=lambda route: (route.length, -route.priority), default=None)

    def _next(self, route: RouteNews, where: int) -> bytes | None:
        if route.kind != UNICAST:
            return None
        hop = route.hops[0]
        known = self.links.get(hop.index)
        at = hop.index, hop.gateway or where
        if known is None or not known.has_carrier or at not in self.neighbours:
            return None
        return neighbour_mac(*at)


low = st.integers(0, 15)
prefix = st.builds(
    lambda value, length: ((address("10.7.0.0") | value) & mask(length), length),
    low,
    st.sampled_from([0, 8, 24, 29, 30, 31, 32]),
)
hop = st.builds(
    NextHop, st.integers(2, 4), st.sampled_from([0, address("10.7.0.3"), address("10.8.0.1")])
)
route = st.builds(
    lambda table, where, priority, kind, one: RouteNews(
        table, where[0], where[1], priority, 0, kind, (one,) if kind == UNICAST else ()
    ),
    st.sampled_from(TABLES),
    prefix,
    st.sampled_from([0, 10]),
    st.sampled_from([UNICAST, UNICAST, UNICAST, LOCAL, BLACKHOLE, THROW]),
    hop,
)
rule = st.builds(
    RuleNews,
    priority=st.integers(1, 9),
    table=st.sampled_from(TABLES),
    source=st.sampled_from(
        [(0, 0), (US, 32), (address("10.1.0.0"), 16), (address("10.9.0.0"), 16)]
    ),
    destination=st.just((0, 0)) | prefix,
    suppress=st.sampled_from([-1, -1, 0, 24]),
    is_inverted=st.booleans(),
) | st.builds(RuleNews, priority=st.integers(1, 9), table=st.just(77), is_odd=st.just(True))
gone = st.tuples(st.just("gone"), st.integers(0, 30))
others = st.one_of(
    st.builds(link, st.integers(2, 4), up=st.just(True), carrier=st.booleans()),
    st.tuples(st.just("neighbour"), st.integers(2, 4), low, st.booleans()),
    st.tuples(st.just("gateway"), st.integers(2, 4), st.booleans()),
    st.lists(rule, max_size=3),
    st.sampled_from(["read again", "missed"]),
)
# Mostly routes, and no reading everything again near the end, which would mend all.
changes = st.builds(
    lambda *parts: [news for part in parts for news in part],
    st.lists(rule, max_size=3).map(lambda rules: [rules]),
    st.lists(route, min_size=4, max_size=12),
    st.lists(others, max_size=4),
    st.lists(st.booleans().flatmap(lambda more: route if more else gone), min_size=3, max_size=12),
)
MAIN = [RuleNews(0, 255), RuleNews(10, 254)]


def carry_out(made: EgressRoutes, kernel: Kernel, news: object) -> None:
    """Change the kernel, and tell of it as the kernel would."""
    if isinstance(news, RouteNews):
        key = news.table, (news.prefix, news.length), news.priority
        kernel.routes[key] = news
        made.route(news, NLM_F_REPLACE)
    elif isinstance(news, LinkNews):
        kernel.links[news.index] = news
        made.link(news)
    elif isinstance(news, list):
        kernel.rules = sorted([*MAIN, *news], key=lambda rule: rule.priority)
        made.rules(kernel.rules)
        read_again(made, kernel)
    elif news == "read again":
        read_again(made, kernel)
    elif news == "missed":  # a route changed and nobody told
        for key in list(kernel.routes)[::3]:
            del kernel.routes[key]
        read_again(made, kernel)
    elif isinstance(news, tuple) and news[0] == "gone":
        if kernel.routes:
            key = list(kernel.routes)[news[1] % len(kernel.routes)]
            made.route_gone(kernel.routes.pop(key))
    elif isinstance(news, tuple):
        *_, is_there = news
        where = address("10.7.0.0") | news[2] if news[0] == "neighbour" else address("10.8.0.1")
        known = news[1], where
        mac = neighbour_mac(*known) if is_there else b""
        made.neighbour(NeighbourNews(*known, mac, False))
        (kernel.neighbours.add if is_there else kernel.neighbours.discard)(known)


def read_again(made: EgressRoutes, kernel: Kernel) -> None:
    read_routes(made, list(kernel.routes.values()))


def read_routes(made: EgressRoutes, routes: list[RouteNews]) -> None:
    tables = made.empty_tables()
    for news in routes:
        if news.table in tables:
            tables[news.table].add(news)
    for _ in made.settle(tables, at_once=3):
        pass


def shown() -> tuple[_dataplane.Egress, EgressRoutes]:
    table = _dataplane.Engine(max_bindings=1).egress(_dataplane.TUNNEL)
    return table, EgressRoutes([(FLOW, table)])


@settings(max_examples=200)
@given(changes)
def test_the_engine_sends_where_the_kernel_would(changes: list[object]) -> None:
    table, made = shown()
    kernel = Kernel()
    carry_out(made, kernel, [])
    for index in (2, 3, 4):
        carry_out(made, kernel, link(index))
        carry_out(made, kernel, ("gateway", index, True))
        carry_out(made, kernel, ("neighbour", index, 3, True))
    for news in changes:
        carry_out(made, kernel, news)
    for where in [address("10.7.0.0") | value for value in range(16)] + [address("8.8.8.8")]:
        found = table.lookup(where)
        assert (None if found is None else found[0]) == kernel.lookup(where)


def test_a_link_that_was_down_waits_until_routes_were_read() -> None:
    table, made = shown()
    made.rules(MAIN)
    read_routes(made, [RouteNews(254, 0, 0, 0, 0, UNICAST, (NextHop(2, US + 1),))])
    made.link(link(2))
    assert made.wanted() == {(2, US + 1)}
    made.neighbour(NeighbourNews(2, US + 1, neighbour_mac(2, US + 1), False))
    assert made.wanted() == set()
    assert table.lookup(1) is not None
    assert made.link(link(2, up=False)), "routes are to be read again"
    first = made.suspects()
    made.link(link(2))
    assert table.lookup(1) is None
    made.link(link(2, up=False))
    made.link(link(2))
    made.trust(first)
    assert table.lookup(1) is None, "it was down again since"
    made.trust(made.suspects())
    assert table.lookup(1) is not None
    assert made.link_gone(2)
    assert table.lookup(1) is None


def test_ports_macs_and_mtus_of_links_are_shown() -> None:
    table, made = shown()
    made.rules(MAIN)
    read_routes(made, [RouteNews(254, 0, 0, 0, 0, UNICAST, (NextHop(2, US + 1),), 1400)])
    made.neighbour(NeighbourNews(2, US + 1, neighbour_mac(2, US + 1), False))
    made.link(link(2))
    made.set_ports({2: 5})
    expected = (neighbour_mac(2, US + 1), link(2).mac, 2, 1400, 5)
    assert table.lookup(1) == expected
    made.link(replace(link(2), mtu=1300, mac=link(9).mac))
    assert table.lookup(1) == (*expected[:1], link(9).mac, 2, 1300, 5)


def test_rules_that_depend_on_what_is_not_known_are_the_kernels() -> None:
    wide = Flow(source=(address("10.1.0.0"), 16), mark=7, iif="fm0")
    rules = [
        RuleNews(1, 77, source=(address("10.1.2.0"), 24), destination=(address("10.3.0.0"), 16)),
        RuleNews(2, 77, iif="eth0"),
        RuleNews(3, 78, oif="eth0"),
        RuleNews(4, 79, mark=7, mark_mask=0xFF),
        RuleNews(5, 80, mark=6, mark_mask=0xFF),
        RuleNews(6, 81, iif="fm0", is_inverted=True),
        RuleNews(7, 1000, is_vrf=True),
        RuleNews(8, 82, destination=(address("10.4.0.0"), 16), is_inverted=True),
        RuleNews(9, 254),
    ]
    assert chain(rules, wide) == [
        Step(0, (address("10.3.0.0"), 16)),
        Step(79),
        Step(82, (address("10.4.0.0"), 16), is_inverted=True),
        Step(254),
    ]
