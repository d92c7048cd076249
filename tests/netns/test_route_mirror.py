"""The engine's next hops follow the kernel's routing (``ip`` makes the changes, and judges)."""

from __future__ import annotations

import asyncio
import errno
import random
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import pytest
from tests.helpers.handmade import address
from tests.helpers.namespaces import Namespaces

from fastmip import _dataplane
from fastmip._dataplane import HOME, TUNNEL
from fastmip.runtime import route_mirror
from fastmip.runtime.egress_routes import Flow
from fastmip.runtime.route_messages import RTM_GETROUTE
from fastmip.runtime.route_mirror import Hop, RouteMirror
from fastmip.wire.addresses import format_address

pytestmark = pytest.mark.netns

SECONDS = 10.0
OUTSIDE = address("198.51.100.7")


@pytest.fixture
def lab() -> Iterator[Namespaces]:
    """A home agent with two ways out; this thread is in its namespace."""
    with Namespaces("ha", "one", "two") as made:
        made.wire("ha", "eth0", "one", "e0")
        made.wire("ha", "eth1", "two", "e0")
        for port, name, number in (("eth0", "one", 1), ("eth1", "two", 2)):
            made.ip("ha", "addr", "add", f"10.{number}.0.1/24", "dev", port)
            for last in (2, 3):
                made.ip(name, "addr", "add", f"10.{number}.0.{last}/24", "dev", "e0")
        with made.inside("ha"):
            yield made


@pytest.fixture
async def mirror(lab: Namespaces) -> AsyncIterator[RouteMirror]:  # noqa: ARG001 - inside it
    engine = _dataplane.Engine(max_bindings=16)
    outer = Flow(source=(address("10.1.0.1"), 32))
    followed = RouteMirror(engine, outer=outer, inner=Flow(iif="fm0"))
    await followed.start()
    yield followed
    await followed.stop()


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout


def mac(lab: Namespaces, name: str, port: str = "e0") -> bytes:
    text = lab.run(name, "cat", f"/sys/class/net/{port}/address")
    return bytes.fromhex(text.strip().replace(":", ""))


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


def leaves_by(
    followed: RouteMirror, expected: bytes | None, where: int = OUTSIDE
) -> Callable[[], bool]:
    """Condition: packets to an address go to this MAC."""

    def holds() -> bool:
        hop = followed.lookup(TUNNEL, where)
        return (None if hop is None else hop.dst) == expected

    return holds


async def test_a_gateway_is_asked_for_and_followed(lab: Namespaces, mirror: RouteMirror) -> None:
    assert mirror.lookup(TUNNEL, OUTSIDE) is None
    ip("route", "add", "default", "via", "10.1.0.2")
    await until(leaves_by(mirror, mac(lab, "one")))
    found = mirror.lookup(TUNNEL, OUTSIDE)
    assert found is not None
    index = int(ip("-o", "link", "show", "eth0").split(":")[0])
    assert found == Hop(mac(lab, "one"), mac(lab, "ha", "eth0"), index, 1500, 0xFFFF)
    mirror.set_ports({index: 3})
    assert mirror.lookup(TUNNEL, OUTSIDE) == Hop(found.dst, found.src, index, 1500, 3)
    ip("route", "replace", "default", "via", "10.2.0.2", "mtu", "1400")
    await until(leaves_by(mirror, mac(lab, "two")))
    found = mirror.lookup(HOME, OUTSIDE)
    assert found is not None
    assert found.mtu == 1400
    ip("route", "del", "default")
    await until(leaves_by(mirror, None))


async def test_what_only_the_kernel_can_do_is_left_to_it(mirror: RouteMirror) -> None:
    ip("route", "add", "default", "via", "10.1.0.2")
    await until(lambda: mirror.lookup(TUNNEL, OUTSIDE))
    for kind in ("blackhole", "unreachable", "throw"):
        ip("route", "add", kind, "198.51.100.0/24")
        await until(leaves_by(mirror, None))
        ip("route", "del", kind, "198.51.100.0/24")
        await until(lambda: mirror.lookup(TUNNEL, OUTSIDE))
    for own in ("10.1.0.1", "127.0.0.1", "10.1.0.255"):
        assert mirror.lookup(TUNNEL, address(own)) is None


async def test_equal_paths_share_flows_and_the_living_one_takes_over(
    lab: Namespaces, mirror: RouteMirror
) -> None:
    hops = ["nexthop", "via", "10.1.0.2", "weight", "3", "nexthop", "via", "10.2.0.2"]
    ip("route", "add", "198.51.100.0/24", *hops)
    one, two = mac(lab, "one"), mac(lab, "two")

    def shares() -> tuple[int, int]:
        found = [mirror.lookup(TUNNEL, OUTSIDE, flow * 0x00A34567) for flow in range(256)]
        macs = [hop.dst for hop in found if hop is not None]
        return macs.count(one), macs.count(two)

    await until(lambda: sum(shares()) == 256)
    first, second = shares()
    assert 128 < first < 240 > second > 16
    ip("link", "set", "eth1", "down")
    await until(lambda: shares() == (256, 0))
    ip("link", "set", "eth1", "up")
    ip("route", "replace", "198.51.100.0/24", *hops)
    await until(lambda: sum(shares()) == 256 and shares()[1])


async def test_next_hop_objects_that_go_take_their_routes_along(
    lab: Namespaces, mirror: RouteMirror
) -> None:
    one, two = mac(lab, "one"), mac(lab, "two")
    ip("route", "add", "default", "via", "10.1.0.3")
    ip("nexthop", "add", "id", "1", "via", "10.1.0.2", "dev", "eth0")
    ip("nexthop", "add", "id", "2", "via", "10.2.0.2", "dev", "eth1")
    ip("nexthop", "add", "id", "10", "group", "1/2")
    ip("route", "add", "198.51.100.0/24", "nhid", "10")

    def ways() -> set[bytes | None]:
        found = [mirror.lookup(TUNNEL, OUTSIDE, flow * 0x00A34567) for flow in range(64)]
        return {None if hop is None else hop.dst for hop in found}

    await until(lambda: ways() == {one, two})
    ip("nexthop", "del", "id", "1")  # the kernel says nothing of the routes
    await until(lambda: ways() == {two})
    ip("nexthop", "replace", "id", "2", "via", "10.1.0.2", "dev", "eth0")
    await until(lambda: ways() == {one})
    ip("nexthop", "replace", "id", "2", "blackhole")
    await until(lambda: ways() == {None})
    ip("nexthop", "del", "id", "2")
    assert "198.51.100" not in ip("route")
    await until(leaves_by(mirror, one))  # by the default route


async def test_routes_that_a_link_took_with_it_do_not_come_back(
    lab: Namespaces, mirror: RouteMirror
) -> None:
    ip("route", "add", "198.51.100.0/24", "via", "10.2.0.2")
    await until(leaves_by(mirror, mac(lab, "two")))
    for _ in range(3):
        ip("link", "set", "eth1", "down")
        ip("link", "set", "eth1", "up")
    assert "198.51.100" not in ip("route")
    await until(lambda: mirror.lookup(TUNNEL, address("10.2.0.3")) is None)
    ip("neigh", "replace", "10.2.0.3", "lladdr", "02:00:00:00:00:33", "dev", "eth1")
    await until(leaves_by(mirror, bytes.fromhex("020000000033"), address("10.2.0.3")))
    assert mirror.lookup(TUNNEL, OUTSIDE) is None


async def test_carrier_mtu_mac_and_an_interface_that_vanishes(
    lab: Namespaces, mirror: RouteMirror
) -> None:
    ip("route", "add", "198.51.100.0/24", "via", "10.2.0.2")
    await until(leaves_by(mirror, mac(lab, "two")))
    ip("link", "set", "eth1", "mtu", "1300")
    await until(lambda: (hop := mirror.lookup(TUNNEL, OUTSIDE)) and hop.mtu == 1300)
    ip("link", "set", "eth1", "address", "02:00:00:00:11:11")
    own = bytes.fromhex("020000001111")
    await until(lambda: (hop := mirror.lookup(TUNNEL, OUTSIDE)) and hop.src == own)
    lab.ip("two", "link", "set", "e0", "down")
    await until(leaves_by(mirror, None))
    lab.ip("two", "link", "set", "e0", "up")
    await until(lambda: mirror.lookup(TUNNEL, OUTSIDE))
    ip("link", "del", "eth1")
    await until(leaves_by(mirror, None))


async def test_a_carrier_that_flaps(lab: Namespaces, mirror: RouteMirror) -> None:
    ip("route", "add", "198.51.100.0/24", "via", "10.2.0.2")
    await until(leaves_by(mirror, mac(lab, "two")))
    words = "link set e0 down\nlink set e0 up\n" * 100
    lab.run("two", "sh", "-c", f"printf '{words}' | ip -batch -")
    await until(leaves_by(mirror, mac(lab, "two")))
    lab.ip("two", "link", "set", "e0", "down")
    await until(leaves_by(mirror, None))


async def test_a_reading_that_fails_forgets_no_link(
    lab: Namespaces, mirror: RouteMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = address("10.2.0.3")
    ip("neigh", "replace", "10.2.0.3", "lladdr", mac(lab, "two").hex(":"), "dev", "eth1")
    await until(leaves_by(mirror, mac(lab, "two"), there))
    refused = 0
    dump = RouteMirror._dump

    async def refuse(self: RouteMirror, opened: socket.socket, kind: int) -> list[bytes]:
        nonlocal refused
        if kind == RTM_GETROUTE and mirror._routes.links[index].is_up:
            refused += 1
            raise OSError(errno.ENOBUFS, "no buffer space available")
        return await dump(self, opened, kind)

    index = socket.if_nametoindex("eth1")
    monkeypatch.setattr(route_mirror, "_RETRY_S", 0.5)
    monkeypatch.setattr(RouteMirror, "_dump", refuse)
    ip("link", "set", "eth1", "down")
    ip("link", "set", "eth1", "up")
    ip("neigh", "replace", "10.2.0.3", "lladdr", mac(lab, "two").hex(":"), "dev", "eth1")
    await until(lambda: refused >= 3)  # the last one after the link was to be trusted
    monkeypatch.setattr(RouteMirror, "_dump", dump)
    await until(leaves_by(mirror, mac(lab, "two"), there))


async def test_a_neighbour_that_changes_its_mac(lab: Namespaces, mirror: RouteMirror) -> None:
    there = address("10.1.0.3")
    lab.run("ha", "ping", "-c1", "-W5", "10.1.0.3")
    await until(leaves_by(mirror, mac(lab, "one"), there))
    ip("neigh", "replace", "10.1.0.3", "lladdr", "02:00:00:00:00:77", "dev", "eth0")
    await until(leaves_by(mirror, bytes.fromhex("020000000077"), there))
    ip("neigh", "del", "10.1.0.3", "dev", "eth0")
    await until(leaves_by(mirror, None, there))


async def test_a_stale_neighbour_in_use_is_asked_again(
    lab: Namespaces, mirror: RouteMirror
) -> None:
    lab.sysctl("ha", neigh__eth0__delay_first_probe_time=1)
    there = address("10.1.0.3")
    true_mac = mac(lab, "one").hex(":")
    ip("neigh", "replace", "10.1.0.3", "lladdr", true_mac, "dev", "eth0", "nud", "stale")
    await until(leaves_by(mirror, mac(lab, "one"), there))
    async with asyncio.timeout(SECONDS):
        while "REACHABLE" not in ip("neigh", "show", "10.1.0.3"):
            mirror.lookup(TUNNEL, there)  # a worker's packets
            await asyncio.sleep(0.05)


async def test_rules_choose_the_table(lab: Namespaces, mirror: RouteMirror) -> None:
    ip("route", "add", "default", "via", "10.1.0.2")
    ip("route", "add", "default", "via", "10.2.0.2", "table", "77")
    await until(leaves_by(mirror, mac(lab, "one")))
    ip("rule", "add", "from", "10.1.0.1", "lookup", "77", "priority", "99")
    await until(leaves_by(mirror, mac(lab, "two")))
    ip("route", "add", "throw", "198.51.100.0/24", "table", "77")
    await until(leaves_by(mirror, mac(lab, "one")))
    ip("rule", "add", "dport", "53", "lookup", "77", "priority", "98")
    await until(leaves_by(mirror, None))
    ip("rule", "del", "priority", "98")
    ip("rule", "del", "priority", "99")
    await until(leaves_by(mirror, mac(lab, "one")))
    assert mirror.lookup(HOME, OUTSIDE) == mirror.lookup(TUNNEL, OUTSIDE)


async def test_lost_messages_are_made_up_for(
    mirror: RouteMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    ip("route", "add", "default", "via", "10.1.0.2")
    await until(lambda: mirror.lookup(TUNNEL, OUTSIDE))
    events = mirror._events
    assert events is not None
    events.setsockopt(1, 33, 2048)  # SO_RCVBUFFORCE
    readings = mirror.readings
    monkeypatch.setattr(route_mirror, "_DATAGRAMS_AT_ONCE", 1)
    lines = [f"route add 10.9.{n >> 8}.{n & 255}/32 via 10.1.0.3" for n in range(500)]
    lines += ["route replace default via 10.2.0.2"]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
    await until(lambda: mirror.readings > readings)
    await until(lambda: mirror.facts()["mirrored_routes"] == len(kernel_prefixes()))


def kernel_prefixes() -> set[str]:
    """Prefixes of the tables local and main, with those of rules: everything."""
    text = ip("-4", "route", "show", "table", "local") + ip("-4", "route")
    kinds = {"local", "broadcast"}
    found = {next(word for word in line.split() if word not in kinds) for line in text.splitlines()}
    return found | {"default"}


async def test_the_kernel_agrees_about_random_routes(mirror: RouteMirror) -> None:
    """``ip route get`` is the judge, over routes that come and go in three tables."""
    rng = random.Random(7)  # noqa: S311 - routes, no secrets
    for number in (1, 2):
        for last in (2, 3):
            gateway = (f"10.{number}.0.{last}", "lladdr", f"02:00:00:00:0{number}:0{last}")
            ip("neigh", "replace", *gateway, "dev", f"eth{number - 1}", "nud", "permanent")
    ip("rule", "add", "to", "203.0.113.0/25", "lookup", "78", "priority", "50")
    ip("rule", "add", "lookup", "77", "suppress_prefixlength", "24", "priority", "60")
    ip("rule", "add", "not", "from", "10.0.0.0/8", "lookup", "78", "priority", "61")
    held: set[tuple[str, str]] = set()
    for _ in range(6):
        lines = []
        for _ in range(40):
            length = rng.choice([0, 8, 16, 20, 24, 25, 28, 32])
            base = (address("203.0.113.0") | rng.randrange(256)) & (0xFFFFFFFF << 32 - length)
            route = f"{format_address(base & 0xFFFFFFFF)}/{length}", rng.choice(["254", "77", "78"])
            if route in held and rng.random() < 0.5:
                held.discard(route)
                lines.append(f"route del {route[0]} table {route[1]}")
                continue
            held.add(route)
            where = f"via 10.{rng.choice('12')}.0.{rng.choice('23')}"
            kind = rng.choice(["", "", "", "", "unreachable", "throw"])
            lines.append(
                f"route replace {kind} {route[0]} {'' if kind else where} table {route[1]}"
            )
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
        probes = [address("203.0.113.0") | last for last in rng.sample(range(256), 40)]
        probes += [OUTSIDE]
        expected = [judged(probe) for probe in probes]
        await until(partial(agrees, mirror, dict(zip(probes, expected, strict=True))))


def judged(where: int) -> bytes | None:
    words = ["ip", "route", "get", format_address(where), "from", "10.1.0.1"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    found = re.search(r" via 10\.(\d)\.0\.(\d) ", done.stdout)
    return found and bytes([2, 0, 0, 0, int(found[1]), int(found[2])])


def agrees(followed: RouteMirror, expected: dict[int, bytes | None]) -> bool:
    return all(leaves_by(followed, mac, where)() for where, mac in expected.items())
