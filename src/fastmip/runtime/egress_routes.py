"""Routes, rules, links and neighbours -> next hops for L2 ports. Nothing here does I/O.

The kernel looks through a chain of tables (its policy rules), longest prefix first in each. The
engine has one table per side. So every prefix of any table of the chain becomes a node, and a
node leads where the kernel sends the addresses in it that are in no longer node: to the first
table of the chain that has a route covering the node. What only the kernel can do (local
addresses, blackholes, tunnels, rules that select by more than addresses) leads to the kernel.

A change looks at the nodes it can matter to, no others: the changed prefix, and what other tables
have inside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastmip._dataplane import EGRESS_PORTLESS, EGRESS_TO_KERNEL
from fastmip.errors import EngineFull
from fastmip.runtime.route_messages import (
    NLM_F_APPEND,
    NLM_F_REPLACE,
    RTN_THROW,
    LinkNews,
    NeighbourNews,
    NextHop,
    RouteNews,
    RuleNews,
)

LINKS = 255
"""Ethernet links with a number; packets for others go through the kernel."""
Prefix = tuple[int, int]
"""First address and length."""
Way = tuple[int, int, int, int]
"""Gateway or 0, link, MTU or 0, weight."""
EVERYTHING: Prefix = (0, 0)


class Table(Protocol):
    """What is needed of ``_dataplane.Egress``."""

    def set_link(
        self, number: int, ifindex: int, mac: bytes, mtu: int, port: int = ...
    ) -> None: ...
    def clear_link(self, number: int) -> None: ...
    def add_set(self, ways: Sequence[Way]) -> int: ...
    def change_set(self, number: int, ways: Sequence[Way]) -> None: ...
    def retire_set(self, number: int) -> None: ...
    def set_route(self, prefix: int, length: int, number: int) -> bool: ...
    def clear_route(
        self, prefix: int, length: int, covering: int = ..., covering_length: int = ...
    ) -> None: ...
    def set_neighbour(
        self, address: int, link: int, mac: bytes, *, is_stale: bool = ...
    ) -> bool: ...
    def clear_neighbour(self, address: int, link: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Flow:
    """What policy rules can know of a side's packets beside their destination."""

    source: Prefix = EVERYTHING
    mark: int = 0
    iif: str = "lo"


@dataclass(frozen=True, slots=True)
class Step:
    """One table the kernel looks into."""

    table: int
    """0: the kernel decides by something we do not know."""
    destination: Prefix = EVERYTHING
    is_inverted: bool = False
    suppress: int = -1

    def concerns(self, node: Prefix) -> bool:
        """Whether addresses of a node that are in no longer one are looked up here."""
        return covers(self.destination, node) != self.is_inverted


def covers(outer: Prefix, inner: Prefix) -> bool:
    """Whether all of one prefix lies in another."""
    return outer[1] <= inner[1] and (outer[0] ^ inner[0]) >> (32 - outer[1]) == 0


def chain(rules: Iterable[RuleNews], flow: Flow) -> list[Step]:
    """The tables that a flow's packets are looked up in, in order."""
    steps = []
    for rule in rules:
        if rule.is_vrf:
            continue
        is_match = _matches(rule, flow)
        destination, is_inverted = rule.destination, rule.is_inverted
        if is_inverted and is_match is not True:
            destination, is_inverted = EVERYTHING, False
            is_match = None if is_match is None else True
        if is_match is False or (is_inverted and destination == EVERYTHING):
            continue
        table = rule.table if is_match else 0
        steps.append(Step(table, destination, is_inverted, rule.suppress if table else -1))
    return steps


def _matches(rule: RuleNews, flow: Flow) -> bool | None:
    """Whether a rule's selectors, but for the destination, match; None: it depends."""
    if rule.oif or (rule.iif and rule.iif != flow.iif):
        return False
    if flow.mark & rule.mark_mask != rule.mark:
        return False
    if covers(rule.source, flow.source):
        return None if rule.is_odd else True
    return None if covers(flow.source, rule.source) else False


class RouteTable:
    """One table of the kernel."""

    def __init__(self) -> None:
        self.routes: dict[Prefix, list[RouteNews]] = {}
        """In the kernel's order: by TOS and priority, then as they were inserted."""
        self._lengths: Counter[int] = Counter()

    def add(self, route: RouteNews, flags: int = NLM_F_APPEND) -> None:
        """Add or replace, as the flags of the kernel's message say."""
        node = (route.prefix, route.length)
        held = self.routes.get(node)
        if held is None:
            self.routes[node] = [route]
            self._lengths[route.length] += 1
            return
        key = _order(route)
        same = [number for number, other in enumerate(held) if _order(other) == key]
        if route in held and not flags & NLM_F_REPLACE:
            return  # told twice: by a dump and by an event
        if same and flags & NLM_F_REPLACE:
            held[same[0]] = route
        elif same and not flags & NLM_F_APPEND:
            held.insert(same[0], route)
        else:
            held.append(route)
            held.sort(key=_order)

    def remove(self, route: RouteNews) -> None:
        """Remove a route; one that differs only in the state of its hops counts, too."""
        node = (route.prefix, route.length)
        held = self.routes.get(node, [])
        like = [other for other in held if _identity(other) == _identity(route)]
        for other in like[:1]:
            held.remove(other)
        if not held and self.routes.pop(node, None) is not None:
            self._lengths[route.length] -= 1
            if not self._lengths[route.length]:
                del self._lengths[route.length]

    def best(self, node: Prefix) -> RouteNews | None:
        """The route of exactly this prefix that the kernel would take."""
        for route in self.routes.get(node, ()):
            if not route.hops or not all(hop.is_dead for hop in route.hops):
                return route
        return None

    def covering(self, node: Prefix) -> RouteNews | None:
        """The longest route that covers a prefix."""
        for length in sorted(self._lengths, reverse=True):
            if length <= node[1]:
                found = self.best((node[0] & _mask(length), length))
                if found is not None:
                    return found
        return None

    def has_tos(self, node: Prefix) -> bool:
        """Whether the TOS of a packet decides in this prefix."""
        return any(route.tos for route in self.routes.get(node, ()))


def _order(route: RouteNews) -> tuple[int, int]:
    return -route.tos, route.priority


def _identity(route: RouteNews) -> tuple[object, ...]:
    hops = tuple((hop.index, hop.gateway, hop.weight) for hop in route.hops)
    return _order(route), route.kind, hops


def _mask(length: int) -> int:
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF


Hops = tuple[tuple[NextHop, ...], int]
"""Next hops in use and a route's MTU: what sets of the engine are known by."""


class View:
    """One side: a chain of tables as one table of the engine."""

    def __init__(self, flow: Flow, table: Table, ways: Callable[[Hops], list[Way]]) -> None:
        self.flow = flow
        self.table = table
        self.steps: list[Step] = []
        self.is_stale = False
        """Other tables count than those the engine was shown: every node is to be looked at."""
        self.sets: dict[Hops, int] = {}
        self.overflowed = 0
        """Routes the engine had no room for; the kernel serves them."""
        self._users: Counter[Hops] = Counter()
        self._values: dict[Prefix, Hops | None] = {}
        self._ways = ways

    def tables(self) -> set[int]:
        """The kernel's tables that matter."""
        return {step.table for step in self.steps if step.table}

    def nodes(self, tables: Mapping[int, RouteTable]) -> set[Prefix]:
        """Every prefix where something may change."""
        found = {step.destination for step in self.steps}
        for number in self.tables():
            if number in tables:
                found |= tables[number].routes.keys()
        return found

    def known(self) -> Iterable[Prefix]:
        """The nodes that the engine has."""
        return self._values.keys()

    def touched(
        self, changed: int, node: Prefix, tables: Mapping[int, RouteTable]
    ) -> Iterator[Prefix]:
        """The nodes to which a change of one prefix in a table can matter."""
        yield node
        if node[1] == 32:
            return
        own = tables[changed].routes
        for step in self.steps:
            if covers(node, step.destination):
                yield step.destination
            if step.table in (0, changed) or step.table not in tables:
                continue
            for other in tables[step.table].routes:
                if covers(node, other) and other not in own:
                    yield other

    def differing(
        self,
        before: Mapping[int, RouteTable],
        tables: Mapping[int, RouteTable],
        into: list[Prefix],
        at_once: int,
    ) -> Iterator[None]:
        """Collect the nodes that differences between old and new tables can matter to."""
        for number in self.tables():
            old, new = before[number].routes, tables[number].routes
            nodes = list(old.keys() | new.keys())
            for first in range(0, len(nodes), 10 * at_once):
                for node in nodes[first : first + 10 * at_once]:
                    if old.get(node) != new.get(node):
                        into.extend(self.touched(number, node, tables))
                yield

    def refresh(self, nodes: Iterable[Prefix], tables: Mapping[int, RouteTable]) -> None:
        """Bring nodes in line with the kernel's tables."""
        for node in nodes:
            exists = any(step.destination == node for step in self.steps) or any(
                node in tables[number].routes for number in self.tables() if number in tables
            )
            if not exists:
                self._clear(node)
                continue
            hops = self._value(node, tables)
            if node not in self._values or self._values[node] != hops:
                self._set(node, hops)

    def _value(self, node: Prefix, tables: Mapping[int, RouteTable]) -> Hops | None:
        for step in self.steps:
            if not step.concerns(node):
                continue
            table = tables.get(step.table)
            if table is None:  # not for us to know, or not read yet
                return None
            route = table.covering(node)
            if route is None or route.kind == RTN_THROW or route.length <= step.suppress:
                continue
            if not route.hops or table.has_tos((route.prefix, route.length)):
                return None
            return tuple(hop for hop in route.hops if not hop.is_dead), route.mtu
        return None

    def _set(self, node: Prefix, hops: Hops | None) -> None:
        number = EGRESS_TO_KERNEL if hops is None else self._acquire(hops)
        if not self.table.set_route(node[0], node[1], number):
            self.overflowed += 1
        before = self._values.get(node)
        self._values[node] = hops if number != EGRESS_TO_KERNEL else None
        self._release(before)

    def _clear(self, node: Prefix) -> None:
        if node not in self._values:
            return
        before = self._values.pop(node)
        covering, length = 0, node[1] - 1
        while length > 0:
            shorter = (node[0] & _mask(length), length)
            if shorter in self._values:
                hops = self._values[shorter]
                covering = EGRESS_TO_KERNEL if hops is None else self.sets[hops]
                break
            length -= 1
        self.table.clear_route(node[0], node[1], covering, max(length, 0) if covering else 0)
        self._release(before)

    def _acquire(self, hops: Hops) -> int:
        if hops not in self.sets:
            try:
                self.sets[hops] = self.table.add_set(self._ways(hops))
            except EngineFull:
                self.overflowed += 1
                return EGRESS_TO_KERNEL
        self._users[hops] += 1
        return self.sets[hops]

    def _release(self, hops: Hops | None) -> None:
        if hops is None:
            return
        self._users[hops] -= 1
        if not self._users[hops]:
            del self._users[hops]
            self.table.retire_set(self.sets.pop(hops))

    def link_changed(self, index: int) -> None:
        """A link became usable or ceased to be: other hops of its sets take over."""
        for hops, number in self.sets.items():
            if any(hop.index == index for hop in hops[0]):
                self.table.change_set(number, self._ways(hops))


class EgressRoutes:
    """The kernel's picture, kept by news, and shown to the engine side by side."""

    def __init__(self, sides: Iterable[tuple[Flow, Table]]) -> None:
        self.links: dict[int, LinkNews] = {}
        self.neighbours: dict[tuple[int, int], NeighbourNews] = {}
        """By interface index and address; only those with a MAC."""
        self.tables: dict[int, RouteTable] = {}
        self.views = [View(flow, table, self._ways) for flow, table in sides]
        self._suspects: dict[int, int] = {}
        """Links that were down, and how often until now: the kernel drops routes with them, and
        gives next hops back, without a word."""
        self._downs = 0
        self._numbers: dict[int, int] = {}
        self._ports: Mapping[int, int] = {}

    # links

    def is_usable(self, index: int) -> bool:
        """Whether frames can leave by a link."""
        link = self.links.get(index)
        if link is None or index in self._suspects or index not in self._numbers:
            return False
        return link.has_carrier and bool(link.mac) and link.mtu >= 68

    def _ways(self, hops: Hops) -> list[Way]:
        return [
            (hop.gateway, self._numbers[hop.index], hops[1] if hops[1] >= 68 else 0, hop.weight)
            for hop in hops[0]
            if self.is_usable(hop.index)
        ]

    def set_ports(self, ports: Mapping[int, int]) -> None:
        """Interface index -> number of our port there."""
        self._ports = dict(ports)
        for index in self._numbers:
            self._show_link(index)

    def link(self, news: LinkNews) -> bool:
        """An interface as it is now; True when routes have to be read again."""
        index = news.index
        was = self.links.get(index)
        if was == news:
            return False
        self.links[index] = news
        is_stale = was is not None and was.is_up != news.is_up
        if is_stale and not news.is_up:
            self._downs += 1
            self._suspects[index] = self._downs
        if news.mac and index not in self._numbers:
            self._number(index)
        self._show_link(index)
        for view in self.views:
            view.link_changed(index)
        return is_stale

    def link_gone(self, index: int) -> bool:
        """An interface is no more; True when routes have to be read again."""
        if self.links.pop(index, None) is None:
            return False
        self._show_link(index)
        for view in self.views:
            view.link_changed(index)
        for known in [known for known in self.neighbours if known[0] == index]:
            self.neighbour_gone(*known)
        self._numbers.pop(index, None)
        self._suspects.pop(index, None)
        return True

    def suspects(self) -> dict[int, int]:
        """Links that were down: they are not used until ``trust`` is told."""
        return dict(self._suspects)

    def trust(self, suspects: Mapping[int, int]) -> None:
        """Routes were read well after these links were down, if they were not down again."""
        for index, down in suspects.items():
            if self._suspects.get(index) != down:
                continue
            del self._suspects[index]
            self._show_link(index)
            for view in self.views:
                view.link_changed(index)

    def _number(self, index: int) -> None:
        used = set(self._numbers.values())
        free = next((number for number in range(1, LINKS + 1) if number not in used), 0)
        if not free:
            return
        self._numbers[index] = free
        for neighbour in self.neighbours.values():
            if neighbour.index == index:
                self._show_neighbour(neighbour)

    def _show_link(self, index: int) -> None:
        number = self._numbers.get(index)
        if number is None:
            return
        for view in self.views:
            if self.is_usable(index):
                link, port = self.links[index], self._ports.get(index, EGRESS_PORTLESS)
                view.table.set_link(number, index, link.mac, link.mtu, port)
            else:
                view.table.clear_link(number)

    # neighbours

    def neighbour(self, news: NeighbourNews) -> None:
        """A neighbour as it is now."""
        if not news.mac:
            self.neighbour_gone(news.index, news.address)
        elif self.neighbours.get((news.index, news.address)) != news:
            self.neighbours[news.index, news.address] = news
            self._show_neighbour(news)

    def neighbour_gone(self, index: int, address: int) -> None:
        """A neighbour is no more, or cannot be reached."""
        if self.neighbours.pop((index, address), None) is not None and index in self._numbers:
            for view in self.views:
                view.table.clear_neighbour(address, self._numbers[index])

    def _show_neighbour(self, news: NeighbourNews) -> None:
        number = self._numbers.get(news.index)
        if number is not None:
            for view in self.views:
                view.table.set_neighbour(news.address, number, news.mac, is_stale=news.is_stale)

    def neighbour_of(self, address: int, number: int) -> tuple[int, int] | None:
        """Interface index and address of a neighbour as the engine tells it."""
        for index, known in self._numbers.items():
            if known == number:
                return index, address
        return None

    def wanted(self) -> set[tuple[int, int]]:
        """Gateways (interface index, address) without a MAC, on links that could be used."""
        return {
            (hop.index, hop.gateway)
            for view in self.views
            for hops, _ in view.sets
            for hop in hops
            if hop.gateway
            and (hop.index, hop.gateway) not in self.neighbours
            and self.is_usable(hop.index)
        }

    # routes

    def route(self, news: RouteNews, flags: int) -> None:
        """A route came, or changed."""
        table = self.tables.get(news.table)
        if table is not None:
            table.add(news, flags)
            self._route_changed(news)

    def route_gone(self, news: RouteNews) -> None:
        """A route went."""
        table = self.tables.get(news.table)
        if table is not None:
            table.remove(news)
            self._route_changed(news)

    def _route_changed(self, news: RouteNews) -> None:
        node = (news.prefix, news.length)
        for view in self.views:
            if news.table in view.tables():
                view.refresh(list(view.touched(news.table, node, self.tables)), self.tables)

    def rules(self, rules: Sequence[RuleNews]) -> None:
        """Policy rules in order; routes are to be read after them."""
        for view in self.views:
            steps = chain(rules, view.flow)
            if steps != view.steps:
                view.steps = steps
                view.is_stale = True

    def empty_tables(self) -> dict[int, RouteTable]:
        """The tables that matter, to be filled with all routes there are, then given to
        ``settle``."""
        return {number: RouteTable() for view in self.views for number in view.tables()}

    def settle(self, tables: dict[int, RouteTable], at_once: int = 500) -> Iterator[None]:
        """Take all routes anew and show what differs, some at a time; news may come in between."""
        before, self.tables = self.tables, tables
        yield  # news that came while routes were read, once more
        for view in self.views:
            if view.is_stale:
                nodes = list(view.nodes(tables) | set(view.known()))
                view.is_stale = False
            else:
                nodes = []
                for _ in view.differing(before, tables, nodes, at_once):
                    yield
            for first in range(0, len(nodes), at_once):
                view.refresh(nodes[first : first + at_once], tables)
                yield

    def replace_neighbours(self, neighbours: Iterable[NeighbourNews]) -> None:
        """All neighbours there are now."""
        gone = set(self.neighbours)
        for news in neighbours:
            self.neighbour(news)
            if news.mac:
                gone.discard((news.index, news.address))
        for index, address in gone:
            self.neighbour_gone(index, address)

    def replace_links(self, links: Iterable[LinkNews]) -> None:
        """All interfaces there are now."""
        gone = set(self.links)
        for news in links:
            self.link(news)
            gone.discard(news.index)
        for index in gone:
            self.link_gone(index)
