"""Proxy and gratuitous ARP, judged by scapy and by a stock kernel's filter (RFC 5944 4.6)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from tests.helpers.handmade import address
from tests.helpers.namespaces import Namespaces

from fastmip.runtime import arp
from fastmip.runtime.arp import AddressBits, ArpResponder, build_reply, build_request

OURS = b"\x02\x00\x00\x00\x00\x01"
NODE = b"\x02\x00\x00\x00\x00\x05"
HOME_ADDRESS = "10.1.0.5"
UNSPECIFIED = socket.inet_ntoa(bytes(4))
EVERYBODY = "ff:ff:ff:ff:ff:ff"


def text(mac: bytes) -> str:
    return mac.hex(":")


# frames


@pytest.mark.parametrize("mac", [OURS, NODE])
def test_a_gratuitous_arp_has_the_request_form_of_rfc5944_4_6(mac: bytes) -> None:
    frame = Ether(build_request(OURS, mac, address(HOME_ADDRESS)))
    assert (frame.dst, frame.src, frame.type) == (EVERYBODY, text(OURS), 0x0806)
    body = frame[ARP]
    assert (body.hwtype, body.ptype, body.hwlen, body.plen, body.op) == (1, 0x800, 6, 4, 1)
    assert body.psrc == body.pdst == HOME_ADDRESS
    assert body.hwsrc == text(mac)
    expected = Ether(src=text(OURS), dst=EVERYBODY) / ARP(
        op=1, hwsrc=text(mac), psrc=HOME_ADDRESS, pdst=HOME_ADDRESS, hwdst=text(bytes(6))
    )
    assert bytes(expected) == bytes(frame)


def test_a_proxy_reply_is_unicast_and_names_our_interface_rfc1027() -> None:
    frame = build_reply(OURS, address(HOME_ADDRESS), NODE, address("10.1.0.50"))
    expected = Ether(src=text(OURS), dst=text(NODE)) / ARP(
        op=2, hwsrc=text(OURS), psrc=HOME_ADDRESS, hwdst=text(NODE), pdst="10.1.0.50"
    )
    assert frame == bytes(expected)


# the set of bound addresses


@given(
    st.integers(8, 30),
    st.lists(st.tuples(st.booleans(), st.integers(0, 2**32 - 1)), max_size=60),
    st.lists(st.integers(0, 2**32 - 1), max_size=40),
)
def test_address_bits_are_a_set_within_their_network(
    length: int, steps: list[tuple[bool, int]], many: list[int]
) -> None:
    base = address("10.0.0.0")
    mask = 0xFFFFFFFF >> length
    bits, model = AddressBits(base, length), set[int]()
    for add, number in steps:
        member = base | (number & mask)
        if add:
            bits.add(member)
            model.add(member)
        else:
            bits.discard(member)
            model.discard(member)
        bits.add(base + mask + 1)  # outside: ignored
    inside = [base | (number & mask) for number in many]
    bits.update(np.array([*inside, base - 1, 0], dtype=np.uint32))
    model.update(inside)
    touched = {base | (number & mask) for _, number in steps} | set(inside)
    assert {member for member in touched if member in bits} == model
    assert base - 1 not in bits
    assert base + mask + 1 not in bits


# on a link


class Link:
    """A responder on one end of a wire, a packet socket on the other."""

    def __init__(self, net: Namespaces) -> None:
        with net.inside("ha"):
            self.responder = ArpResponder("eth0", address("10.1.0.0"), 24)
            self.responder.start(asyncio.get_running_loop())
        with net.inside("hh"):
            self.far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
            self.far.bind(("eth0", 0x0806))
        self.far.setblocking(False)
        self.mac = self.responder.mac

    def close(self) -> None:
        self.responder.stop()
        self.far.close()

    def say(self, **fields: Any) -> None:
        fields.setdefault("hwsrc", text(NODE))
        self.far.send(bytes(Ether(src=fields["hwsrc"], dst=EVERYBODY) / ARP(**fields)))

    async def heard(self) -> Ether:
        async with asyncio.timeout(3):
            data = await asyncio.get_running_loop().sock_recv(self.far, 200)
        return Ether(data)

    async def silent(self) -> bool:
        """Nothing but the answer to a control question comes: order is kept on a wire."""
        self.responder.start_proxy(address("10.1.0.99"))
        self.say(op=1, psrc="10.1.0.50", pdst="10.1.0.99", hwsrc="02:00:00:00:00:50")
        frame = await self.heard()
        self.responder.stop_proxy(address("10.1.0.99"))
        return bool(frame[ARP].psrc == "10.1.0.99")


@pytest.fixture(scope="module")
def net() -> Iterator[Namespaces]:
    with Namespaces("ha", "hh") as made:
        made.wire("ha", "eth0", "hh", "eth0")
        yield made


@pytest.fixture
async def link(net: Namespaces) -> AsyncIterator[Link]:
    made = Link(net)
    made.responder.start_proxy(address(HOME_ADDRESS))
    yield made
    made.close()


@pytest.mark.netns
async def test_requests_for_a_bound_address_get_our_interface(link: Link) -> None:
    link.say(op=1, psrc="10.1.0.50", pdst=HOME_ADDRESS, hwsrc="02:00:00:00:00:50")
    frame = await link.heard()
    assert (frame.src, frame.dst) == (text(link.mac), "02:00:00:00:00:50")
    assert (frame[ARP].op, frame[ARP].psrc, frame[ARP].pdst) == (2, HOME_ADDRESS, "10.1.0.50")
    assert frame[ARP].hwsrc == text(link.mac)


@pytest.mark.netns
@pytest.mark.parametrize(
    "fields",
    [
        {"op": 1, "psrc": "10.1.0.50", "pdst": "10.1.0.6"},  # not bound
        {"op": 1, "psrc": "10.1.0.50", "pdst": "10.1.0.1"},  # the kernel's own business
        {"op": 1, "psrc": "10.1.0.50", "pdst": "192.0.2.5"},  # another network
        {"op": 2, "psrc": HOME_ADDRESS, "pdst": HOME_ADDRESS},  # a reply
        {"op": 1, "psrc": HOME_ADDRESS, "pdst": HOME_ADDRESS},  # an announcement
        {"op": 1, "psrc": UNSPECIFIED, "pdst": HOME_ADDRESS},  # a probe of who knows whom
        {"op": 3, "psrc": "10.1.0.50", "pdst": HOME_ADDRESS},  # reverse ARP
        {"op": 1, "psrc": "10.1.0.50", "pdst": HOME_ADDRESS, "hwsrc": "01:00:5e:00:00:01"},
        {"op": 1, "psrc": "10.1.0.50", "pdst": HOME_ADDRESS, "hwtype": 6},
        {"op": 1, "psrc": "10.1.0.50", "pdst": HOME_ADDRESS, "ptype": 0x86DD},
    ],
)
async def test_what_does_not_ask_for_a_bound_address_gets_no_answer(
    link: Link, fields: dict[str, object]
) -> None:
    link.say(**fields)
    assert await link.silent()


@pytest.mark.netns
@pytest.mark.parametrize("length", range(14, 42))
async def test_truncated_frames_are_ignored(link: Link, length: int) -> None:
    whole = Ether(src=text(NODE), dst=EVERYBODY) / ARP(
        op=1, hwsrc=text(NODE), psrc="10.1.0.50", pdst=HOME_ADDRESS
    )
    link.far.send(bytes(whole)[:length])
    assert await link.silent()


@pytest.mark.netns
async def test_other_frames_never_reach_us(link: Link) -> None:
    link.far.send(bytes(Ether(dst=EVERYBODY) / Dot1Q(vlan=5) / ARP(pdst=HOME_ADDRESS)))
    link.far.send(bytes(Ether(dst="02:00:00:00:00:77") / ARP(pdst=HOME_ADDRESS)))
    link.far.send(bytes(Ether(dst=EVERYBODY) / IP(dst=HOME_ADDRESS)))
    assert await link.silent()


@pytest.mark.netns
async def test_a_returned_node_is_never_answered_about_itself(link: Link) -> None:
    link.say(op=1, psrc=HOME_ADDRESS, pdst="10.1.0.1")  # it asks for its router: learnt
    link.say(op=1, psrc=HOME_ADDRESS, pdst=HOME_ADDRESS)
    link.say(op=1, psrc=UNSPECIFIED, pdst=HOME_ADDRESS)
    link.say(op=1, psrc="10.1.0.205", pdst=HOME_ADDRESS)  # with another address of its own
    assert await link.silent()
    assert link.responder.mac_of(address(HOME_ADDRESS)) == NODE
    assert link.responder.counters["arp-own-requests-ignored"] == 3
    # Once its address is known, a stranger's probe is answered: the address is taken.
    link.say(op=1, psrc=UNSPECIFIED, pdst=HOME_ADDRESS, hwsrc="02:00:00:00:00:66")
    assert (await link.heard())[ARP].psrc == HOME_ADDRESS


@pytest.mark.netns
async def test_no_answer_after_stop_proxy(link: Link) -> None:
    link.responder.stop_proxy(address(HOME_ADDRESS))
    link.say(op=1, psrc="10.1.0.50", pdst=HOME_ADDRESS)
    assert await link.silent()


@pytest.mark.netns
async def test_an_announcement_is_repeated_until_a_later_one_or_the_end(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arp, "REPEATS_NS", (50_000_000, 120_000_000))
    home = address(HOME_ADDRESS)
    link.responder.announce(home, None)
    for _ in range(3):
        assert (await link.heard())[ARP].hwsrc == text(link.mac)
    link.responder.announce(home, None)
    link.responder.announce(home, NODE)  # it returned: the first one's repeats must not come
    assert (await link.heard())[ARP].hwsrc == text(link.mac)
    for _ in range(3):
        assert (await link.heard())[ARP].hwsrc == text(NODE)
    link.responder.announce(home, None)
    await link.heard()
    link.responder.stop_proxy(home)
    await asyncio.sleep(0.2)  # longer than both repeats would take
    assert await link.silent()
    assert link.responder._generation == {}


@pytest.mark.netns
async def test_the_kernels_neighbour_table_helps_out(net: Namespaces, link: Link) -> None:
    net.ip("ha", "address", "add", "10.1.0.1/24", "dev", "eth0")
    net.ip("ha", "neighbour", "add", "10.1.0.7", "lladdr", text(NODE), "dev", "eth0")
    with net.inside("ha"):
        assert link.responder.mac_of(address("10.1.0.7")) == NODE
        assert link.responder.mac_of(address("10.1.0.8")) is None


@pytest.mark.netns
async def test_a_link_that_goes_down_and_up_is_served_again(net: Namespaces, link: Link) -> None:
    net.ip("ha", "link", "set", "eth0", "down")
    link.responder.announce(address(HOME_ADDRESS), None)
    assert link.responder.counters["arp-send-failures"] == 1
    net.ip("ha", "link", "set", "eth0", "up")
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while True:
            link.say(op=1, psrc="10.1.0.50", pdst=HOME_ADDRESS, hwsrc="02:00:00:00:00:50")
            await asyncio.sleep(0.05)
            try:
                frame = Ether(link.far.recv(200))
            except BlockingIOError:
                continue
            if frame[ARP].op == 2:
                break
    assert frame[ARP].psrc == HOME_ADDRESS


@pytest.mark.netns
async def test_a_flood_of_senders_is_remembered_within_bounds(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arp, "LEARNT_MAX", 16)
    link.responder.bound.update(
        np.arange(address("10.1.0.1"), address("10.1.0.254"), dtype=np.uint32)
    )
    for last in range(1, 200):
        link.say(op=1, psrc=f"10.1.0.{last}", pdst="10.1.0.250", hwsrc=f"02:00:00:00:01:{last:02x}")
    async with asyncio.timeout(5):
        while link.responder.counters["arp-requests-answered"] < 199:
            await asyncio.sleep(0)
    assert len(link.responder._learnt) == 16
