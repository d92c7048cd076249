"""T01 to T12: what moving is like, all agents and the mobile node real daemons."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.helpers.agents_lab import CN, FA1, FA2, HA, HH, AgentsLab, eventually, one_test

from fastmip.runtime.demo.topology import (
    FOREIGN_1,
    FOREIGN_2,
    HOME,
    HOME_ADDRESS,
    PLAIN,
)

pytestmark = pytest.mark.netns

T01_LINKS = (FOREIGN_1, FOREIGN_2, PLAIN, HOME)


@pytest.fixture(scope="module")
def shared() -> Iterator[AgentsLab]:
    """One lab for all tests of this file."""
    with AgentsLab() as lab:
        lab.agents()
        yield lab


@pytest.fixture
def lab(shared: AgentsLab) -> Iterator[AgentsLab]:
    """The shared lab with its agents as they are without settings."""
    shared.agents()
    with one_test(shared):
        yield shared


def test_t01_packets_follow_the_node_to_every_kind_of_link(lab: AgentsLab) -> None:
    """T01: fa1, fa2, an address of its own, home; reached there, decapsulated, each time."""
    lab.mobile_node()
    for link in T01_LINKS:
        outside = lab.capture("ha", "eth1")
        lab.move(link)
        assert lab.both_ways(), link.name
        if link is HOME:
            assert outside.count("ip.proto == 4") == 0
        else:
            end = link.tunnel_end("eth0")
            tunnelled = f"ip.proto == 4 and ip.src == {HA} and ip.dst == {end}"
            assert outside.count(f"{tunnelled} and icmp") > 0, link.name


def test_t02_tcp_stays_connected_through_every_move(lab: AgentsLab) -> None:
    """T02: one connection; no reset on the wire, not one byte lost."""
    lab.mobile_node()
    lab.move(HOME)
    at_cn = lab.capture("cn", "eth0")
    talk = lab.talk()
    for link in T01_LINKS:
        lab.move(link)
        assert talk.echoes(link.name.encode() * 100), link.name
    assert at_cn.count("tcp.flags.reset == 1") == 0
    assert at_cn.count("tcp.flags.syn == 1 and tcp.flags.ack == 0") == 1


def test_t03_what_is_at_home_stays_reachable(lab: AgentsLab) -> None:
    """T03: a stock host of the home link, both directions, through the home agent."""
    lab.mobile_node()
    for link in (FOREIGN_1, PLAIN):
        lab.move(link)
        assert lab.pings("mn", HH, "-I", HOME_ADDRESS), link.name
        assert lab.pings("hh", HOME_ADDRESS), link.name


def test_t05_cold_start_finds_the_agent_and_registers(lab: AgentsLab) -> None:
    """T05: advertisements as RFC 5944 2.1 wants them, then a registration through the agent."""
    lab.attach("eth0", FOREIGN_1)
    air = lab.capture("mn", "eth0")
    began = time.monotonic()
    lab.mobile_node()
    lab.settled(FOREIGN_1)
    assert time.monotonic() - began < 15
    time.sleep(1.2)  # one more periodic advertisement
    fields = ("ip.src", "ip.dst", "ip.ttl", "icmp.mip.coa", "icmp.mip.f", "_ws.malformed")
    heard = air.rows("icmp.type == 9", *fields)
    assert {row[3:] for row in heard} <= {(FA1, "1", ""), (FA1, "True", "")}
    assert {row[0] for row in heard} == {FA1}
    assert {row[2] for row in heard} == {"1"}
    assert "224.0.0.1" in {row[1] for row in heard}
    [agent] = [row for row in lab.daemon("mn").ask("show agent")["rows"] if row["in_use"]]
    assert agent["agent"] == FA1
    assert agent["care_of_addresses"] == [FA1] or FA1 in agent["care_of_addresses"]
    asked = air.rows("mip.type == 1", "ip.src", "ip.dst", "ip.ttl", "mip.coa")
    assert asked[0] == (HOME_ADDRESS, FA1, "255", FA1)


def test_t06_plugged_into_the_same_link_again_nothing_is_registered(lab: AgentsLab) -> None:
    """T06: a layer 2 handover within the subnet of the same agent needs no request."""
    lab.mobile_node()
    lab.move(FOREIGN_1)
    assert lab.both_ways()
    outside = lab.capture("ha", "eth1")
    lab.net.unplug("eth0")
    time.sleep(0.2)
    lab.net.plug("eth0", FOREIGN_1)
    eventually(lab.both_ways, 10, "packets after the plug is back")
    time.sleep(1.5)
    assert outside.count("mip.type == 1") == 0


def test_t07_horizontal_and_vertical_handovers_look_alike(lab: AgentsLab) -> None:
    """T07: the same interface on another link, then another interface (RFC 3753 4.1)."""
    node = lab.mobile_node()
    lab.move(FOREIGN_1)
    lab.move(FOREIGN_2)
    assert lab.both_ways()
    horizontal = node.ask("show handover")["rows"][-1]
    lab.leave("eth0")
    lab.attach("wlan0", FOREIGN_1)
    lab.settled(FOREIGN_1, "wlan0")
    assert lab.both_ways()
    vertical = node.ask("show handover")["rows"][-1]
    assert (horizontal["from_interface"], horizontal["to_interface"]) == ("eth0", "eth0")
    assert (vertical["from_interface"], vertical["to_interface"]) == ("eth0", "wlan0")
    assert (horizontal["agent"], vertical["agent"]) == (FA2, FA1)
    assert {row["kind"] for row in (horizontal, vertical)} == {"break-before-make"}


def test_t09_make_before_break_loses_nothing(lab: AgentsLab) -> None:
    """T09: bit S keeps both care-of addresses, each gets a copy; DSCP survives (seamless)."""
    node = lab.mobile_node(handover="seamless")
    lab.move(FOREIGN_1)
    assert lab.both_ways()
    outside = lab.capture("ha", "eth1")
    pings = lab.start_pings("cn", HOME_ADDRESS, "-Q", "0xb8")
    time.sleep(0.5)
    lab.attach("wlan0", FOREIGN_2)
    node.ask("prefer", interface="wlan0")
    eventually(lambda: FA2 in lab.care_of(), 12, "the second care-of address")
    time.sleep(0.5)
    lab.leave("eth0")
    time.sleep(0.8)
    pings.stop()
    assert pings.sent > 50
    assert pings.lost == 0, (pings.sent, pings.lost)
    asked = outside.rows("mip.type == 1", "mip.s", "mip.coa")
    assert any(simultaneous in ("1", "True") and to == FA2 for simultaneous, to in asked), asked
    echo = f"icmp.type == 8 and ip.src == {HA}"
    copies = outside.rows(echo, "ip.dst", "icmp.seq", "ip.dsfield.dscp")
    by_agent: dict[str, set[str]] = {FA1: set(), FA2: set()}
    for destinations, number, _ in copies:
        by_agent[destinations.split(",")[0]].add(number.split(",")[0])
    assert by_agent[FA1] & by_agent[FA2], "some requests went to both"
    assert {marks for _, _, marks in copies} == {"46,46"}


def test_t10_break_before_make_loses_what_the_outage_takes(lab: AgentsLab) -> None:
    """T10: loss is the time without a link and the handover; the node measures the latter."""
    node = lab.mobile_node()
    lab.move(FOREIGN_1)
    assert lab.both_ways()
    began = time.monotonic()
    pings = lab.start_pings("cn", HOME_ADDRESS)
    time.sleep(0.5)
    lab.leave("eth0")
    left = time.monotonic()
    time.sleep(1)
    without_link = time.monotonic() - left
    lab.attach("eth0", FOREIGN_2)
    lab.settled(FOREIGN_2)
    time.sleep(0.5)
    pings.stop()
    a_second = pings.sent / (time.monotonic() - began)  # fifty, less on a busy machine
    assert pings.lost >= 0.8 * without_link * a_second, "what the time without a link takes"
    assert pings.received >= 30, "before and after"
    row = node.ask("show handover")["rows"][-1]
    assert row["kind"] == "break-before-make"
    assert row["without_link_ms"] >= 900
    assert 0 < row["request_ms"] <= row["reply_ms"]


def test_t11_home_link_learns_who_takes_the_packets(lab: AgentsLab) -> None:
    """T11: gratuitous ARP by the home agent, then by the node; the stock host's table follows."""
    lab.mobile_node()
    lab.move(HOME)
    at_hh = lab.capture("hh", "eth0")
    own, agents = lab.net.mac("mn", "eth0"), lab.net.mac("ha", "eth0")
    assert lab.pings("hh", HOME_ADDRESS)
    assert lab.net.neighbour("hh", HOME_ADDRESS) == own
    lab.move(FOREIGN_1)
    eventually(lambda: lab.net.neighbour("hh", HOME_ADDRESS) == agents, 3, "the agent's MAC")
    assert lab.pings("hh", HOME_ADDRESS)
    lab.move(HOME)
    eventually(lambda: lab.net.neighbour("hh", HOME_ADDRESS) == own, 3, "the node's own MAC")
    assert lab.pings("hh", HOME_ADDRESS)
    told = at_hh.rows(
        f"arp.isgratuitous and arp.src.proto_ipv4 == {HOME_ADDRESS}", "arp.src.hw_mac", "eth.dst"
    )
    assert {broadcast for _, broadcast in told} == {"ff:ff:ff:ff:ff:ff"}
    senders = [mac for mac, _ in told]
    assert agents in senders
    assert own in senders[senders.index(agents) :]


def test_t12_a_trigger_of_the_link_beats_waiting_for_a_lifetime(lab: AgentsLab) -> None:
    """T12: carrier loss is acted upon at once; without it the advertisements must run out."""
    lab.mobile_node()
    lab.move(FOREIGN_1)
    began = time.monotonic()
    lab.move(FOREIGN_2)
    triggered_s = time.monotonic() - began
    began = time.monotonic()
    lab.net.ip("sw", f"link set p-eth0 master {FOREIGN_1.bridge}")  # the carrier stays up
    eventually(lambda: lab.care_of() == {FA1}, 20, "a move noticed by silence")
    silent_s = time.monotonic() - began
    assert lab.both_ways()
    assert triggered_s < silent_s, (triggered_s, silent_s)
    assert lab.pings("mn", CN, "-I", HOME_ADDRESS)
