"""T04, T08, T13 to T19, T22: what agents do for a mobile node; all of them real daemons."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.agents_lab import (
    CN,
    FA1,
    FA2,
    HA,
    PROVEN_FOREIGN_AGENTS,
    PROVEN_HOME_AGENT,
    AgentsLab,
    eventually,
    one_test,
)

from fastmip.runtime.demo.topology import FOREIGN_1, FOREIGN_2, HOME, HOME_ADDRESS, PLAIN

pytestmark = pytest.mark.netns

LOCAL_HOST, PLAIN_LOCAL_HOST = "10.3.1.50", "10.3.3.50"
_FORGE = """
import sys
from scapy.all import GRE, ICMP, IP, send
HA, HOME, CN, FA1 = sys.argv[1:]
inner = IP(src=HOME, dst=CN) / ICMP() / b"forged"
stranger = IP(src="10.1.0.6", dst=CN) / ICMP() / b"forged"
for packet in (
    IP(src=FA1, dst=HA) / stranger,
    IP(src="10.3.9.9", dst=HA) / inner,
    IP(src=FA1, dst=HA) / GRE(proto=0x800) / inner,
):
    send(packet, count=3, verbose=False)
"""
_SOLICIT = """
import sys
from scapy.all import Ether, IP, Raw, get_if_hwaddr, sendp
source, target = sys.argv[1:]
message = bytes.fromhex("0a00f5ff00000000")
frame = Ether(src=get_if_hwaddr("eth0"), dst="01:00:5e:00:00:0b")
sendp(frame / IP(src=source, dst=target, ttl=1, proto=1) / Raw(message), iface="eth0", verbose=0)
"""
_BROADCAST = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for _ in range(5):
    s.sendto(b"to everybody at home", ("10.1.0.255", 4444))
    time.sleep(0.1)
"""


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


def test_t04_what_is_nearby_is_reached_without_a_tunnel(lab: AgentsLab) -> None:
    """T04: a host of the visited link directly, everything else through the tunnel."""
    lab.mobile_node()
    lab.move(PLAIN)
    core = lab.capture("inet", "to-ar3")
    assert lab.pings("mn", PLAIN_LOCAL_HOST)
    assert lab.pings("mn", CN)
    assert core.count(f"icmp and ip.addr == {PLAIN_LOCAL_HOST}") == 0
    assert core.count(f"ip.proto == 4 and icmp and ip.addr == {CN}") > 0
    assert core.count(f"icmp and ip.addr == {CN} and not ip.proto == 4") == 0


def test_t04_encapsulating_delivery_takes_all_else_through_the_tunnel(lab: AgentsLab) -> None:
    """T04: with encapsulating delivery the node tunnels to the agent, which tunnels on."""
    lab.mobile_node('delivery = "encapsulating"')
    lab.move(FOREIGN_1)
    air, core = lab.capture("mn", "eth0"), lab.capture("inet", "to-fa1")
    assert lab.both_ways()
    to_agent = air.rows(f"icmp and ip.src == {HOME_ADDRESS} and ip.dst == {FA1}", "ip.dst")
    assert {row for (row,) in to_agent} >= {f"{FA1},{CN}"}
    onwards = core.rows(f"icmp and ip.dst == {HA} and ip.proto == 4", "ip.src", "ip.dst")
    assert (f"{FA1},{HOME_ADDRESS}", f"{HA},{CN}") in onwards
    [visitor] = lab.visitors("fa1")
    assert visitor["delivery"] == "encapsulating"


def test_t08_a_revoked_visitor_moves_to_another_agent(lab: AgentsLab) -> None:
    """T08: push; revocation to the home agent, a unicast advertisement to the node."""
    lab.home_agent(more=PROVEN_FOREIGN_AGENTS)
    lab.foreign_agent("fa1", "revocation = true", PROVEN_HOME_AGENT)
    lab.foreign_agent("fa2", "revocation = true", PROVEN_HOME_AGENT)
    lab.mobile_node()
    lab.attach("eth0", FOREIGN_1)
    lab.settled(FOREIGN_1)
    [visitor] = lab.visitors("fa1")
    assert visitor["revocable"] is True
    lab.attach("wlan0", FOREIGN_2)
    core, air = lab.capture("fa1", "up0"), lab.capture("mn", "eth0")
    lab.daemon("fa1").ask("clear visitor", home_address=HOME_ADDRESS)
    eventually(lambda: not lab.visitors("fa1"), 5, "the end of the visit")
    eventually(lambda: FA2 in lab.care_of() or FA1 in lab.care_of(), 20, "a new registration")
    eventually(lab.both_ways, 10, "packets again")
    kinds = core.rows("udp.port == 434", "ip.src", "ip.dst", "udp.payload")
    sent = [(source, target) for source, target, data in kinds if data.startswith("07")]
    acknowledged = [(source, target) for source, target, data in kinds if data.startswith("0f")]
    assert (FA1, HA) in sent
    assert (HA, FA1) in acknowledged
    own = lab.net.mac("mn", "eth0")
    told = air.rows(f"icmp.type == 9 and eth.dst == {own}", "ip.ttl", "icmp.mip.seq")
    assert ("1", "0") in told, told


def test_t13_solicitations_are_answered_on_the_link(lab: AgentsLab) -> None:
    """T13: agents listen to 224.0.0.11; sources of any subnet are answered; TTL is 1."""
    for node in ("fa1", "fa2"):
        assert "224.0.0.11" in lab.net.run(node, "ip", "maddress", "show", "dev", "visit0").stdout
    lab.attach("eth0", FOREIGN_1)
    own = lab.net.mac("mn", "eth0")
    for source in ("10.77.0.9", HOME_ADDRESS):
        air = lab.capture("mn", "eth0")
        lab.python("mn", _SOLICIT, source, "224.0.0.11")
        time.sleep(0.6)
        answers = air.rows(
            f"icmp.type == 9 and eth.dst == {own}", "ip.src", "ip.dst", "ip.ttl", "eth.src"
        )
        assert answers == [(FA1, source, "1", lab.net.mac("fa1", "visit0"))]


def test_t13_the_node_solicits_and_is_answered_at_once(lab: AgentsLab) -> None:
    """T13: between two advertisements ten seconds apart the node need not wait."""
    table = '[[advertise]]\ninterface = "visit0"\nmax_interval = 10.0\nmin_interval = 9.0'
    lab.foreign_agent("fa1", more=table)
    time.sleep(0.5)
    lab.mobile_node()
    air = lab.capture("mn", "eth0")
    began = time.monotonic()
    lab.move(FOREIGN_1)
    assert time.monotonic() - began < 8
    asked = air.rows("icmp.type == 10", "ip.dst", "ip.ttl")
    assert {target for target, _ in asked} <= {"224.0.0.11", "224.0.0.2", "255.255.255.255"}
    assert {ttl for _, ttl in asked} == {"1"}


def test_t14_the_next_care_of_address_is_tried_when_one_is_refused(lab: AgentsLab) -> None:
    """T14: two are advertised; no request from the first gets through to the home agent."""
    lab.net.ip("fa1", "address add 10.77.0.1/32 dev lo")
    lab.net.ip("inet", "route add 10.77.0.1/32 via 10.8.1.1")
    lab.net.ip("inet", "rule add from 10.77.0.1 unreachable")
    try:
        lab.foreign_agent("fa1", f'care_of_addresses = ["10.77.0.1", "{FA1}"]')
        lab.mobile_node(care_of="foreign-agent")
        air = lab.capture("mn", "eth0")
        lab.attach("eth0", FOREIGN_1)
        lab.settled(FOREIGN_1, seconds=25)
        assert lab.both_ways()
        asked = [care_of for (care_of,) in air.rows("mip.type == 1", "mip.coa")]
        assert asked[0] == "10.77.0.1"
        assert asked[-1] == FA1
        codes = {int(code) for (code,) in air.rows("mip.type == 3", "mip.code")}
        assert codes & {78, 80, 81, 82, 88}, codes
    finally:
        lab.net.ip("inet", "rule delete from 10.77.0.1 unreachable")
        lab.net.ip("inet", "route delete 10.77.0.1/32 via 10.8.1.1")
        lab.net.ip("fa1", "address delete 10.77.0.1/32 dev lo")


def test_t15_four_messages_through_an_agent_two_without(lab: AgentsLab) -> None:
    """T15: and each reply goes to the source of its request, not blindly to the care-of address."""
    lab.mobile_node()
    air, core = lab.capture("mn", "eth0"), lab.capture("ha", "eth1")
    lab.move(FOREIGN_1)
    mip = "mip and not icmp"
    near = air.rows(mip, "mip.type", "ip.src", "ip.dst", "mip.coa")
    far = core.rows(mip, "mip.type", "ip.src", "ip.dst", "mip.coa")
    assert near == [("1", HOME_ADDRESS, FA1, FA1), ("3", FA1, HOME_ADDRESS, "")]
    assert far == [("1", FA1, HA, FA1), ("3", HA, FA1, "")]
    core = lab.capture("ha", "eth1")
    lab.move(PLAIN)
    own = PLAIN.care_of_address("eth0")
    rows = core.rows(mip, "mip.type", "ip.src", "ip.dst", "mip.coa")
    assert rows[:2] == [("1", own, HA, own), ("3", HA, own, "")]


def test_t16_a_shortened_lifetime_is_renewed_before_it_ends(lab: AgentsLab) -> None:
    """T16: the home agent grants four seconds of 300; twelve later the binding never lapsed."""
    lab.home_agent("max_lifetime = 4")
    lab.mobile_node()
    core = lab.capture("ha", "eth1")
    lab.move(FOREIGN_1)
    end = time.monotonic() + 12
    while time.monotonic() < end:
        assert lab.care_of() == {FA1}
        time.sleep(0.1)
    assert lab.both_ways()
    asked = core.rows("mip.type == 1", "mip.life")
    granted = core.rows("mip.type == 3 and mip.code == 0", "mip.life")
    assert len(asked) >= 4
    assert {life for (life,) in granted} == {"4"}
    assert "expired" not in [
        word for line in lab.daemon("ha").log.read_text().splitlines() for word in line.split('"')
    ]


def test_t17_deregistration_at_home_and_silence_of_the_agent_left(lab: AgentsLab) -> None:
    """T17: lifetime 0 for the home address deletes all; the visit just ages out, no message."""
    lab.mobile_node("lifetime = 6")
    lab.move(FOREIGN_1)
    assert len(lab.visitors("fa1")) == 1
    home, up = lab.capture("ha", "eth0"), lab.capture("fa1", "up0")
    lab.move(HOME)
    assert lab.bindings() == []
    eventually(lambda: not lab.visitors("fa1"), 10, "the end of the visit's lifetime")
    gone = home.rows("mip.type == 1", "mip.life", "mip.homeaddr", "mip.coa")
    assert ("0", HOME_ADDRESS, HOME_ADDRESS) in gone
    assert up.count("mip.type == 1 or mip.type == 3") == 0


def test_t17_one_care_of_address_of_two_is_released_alone(lab: AgentsLab) -> None:
    """T17: lifetime 0 with a care-of address deletes that one."""
    node = lab.mobile_node(handover="seamless")
    lab.move(FOREIGN_1)
    core = lab.capture("ha", "eth1")
    lab.attach("wlan0", FOREIGN_2)
    node.ask("prefer", interface="wlan0")
    eventually(lambda: lab.care_of() == {FA2}, 15, "only the new care-of address")
    assert lab.both_ways()
    released = core.rows("mip.type == 1 and mip.life == 0", "mip.homeaddr", "mip.coa")
    assert released
    assert {care_of for _, care_of in released} == {FA1}


def test_t18_only_a_reverse_tunnel_passes_the_filter(lab: AgentsLab) -> None:
    """T18: the core drops home addresses from visited links; the correspondent sees no other."""
    node_settings = "reverse_tunnel = false"
    lab.mobile_node(node_settings)
    lab.move(FOREIGN_1)
    assert not lab.pings("mn", CN, "-I", HOME_ADDRESS)
    lab.mobile_node()
    lab.leave("eth0")
    at_cn = lab.capture("cn", "eth0")
    lab.move(FOREIGN_1)
    assert lab.both_ways()
    lab.move(PLAIN)
    assert lab.both_ways()
    sources = {source for (source,) in at_cn.rows("icmp and ip.dst == 10.9.0.7", "ip.src")}
    assert sources == {HOME_ADDRESS}


def test_t19_forged_tunnel_packets_are_dropped_and_counted(lab: AgentsLab) -> None:
    """T19: another inner source, another outer source, another encapsulation than agreed."""
    lab.mobile_node()
    lab.move(FOREIGN_1)
    assert lab.both_ways()
    names = ("drop-no-binding", "drop-care-of-address", "drop-encapsulation")
    before = [lab.verdict("ha", name) for name in names]
    at_cn = lab.capture("cn", "eth0")
    lab.python("inet", _FORGE, HA, HOME_ADDRESS, CN, FA1)
    time.sleep(0.3)
    after = [lab.verdict("ha", name) for name in names]
    assert [late - early for early, late in zip(before, after, strict=True)] == [3, 3, 3]
    assert at_cn.count('frame contains "forged"') == 0
    assert lab.both_ways()


def test_the_home_network_is_told_behind_an_agent_rfc4332(lab: AgentsLab, tmp_path: Path) -> None:
    """Gateway, name server and domain come with the reply, to show and to a program."""
    out, hook = tmp_path / "out", tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\necho "$FASTMIP_DNS $FASTMIP_DNS_SUFFIX" >> {out}\n')
    hook.chmod(0o700)
    told = 'gateway = "10.1.0.1"\ndns = ["10.1.0.53"]\ndns_suffix = "wustl.edu"'
    lab.home_agent(more=f"[home_agent.host_configuration]\n{told}")
    command = f'host_configuration_command = ["{hook}"]'
    node = lab.mobile_node(f"host_configuration = true\n{command}")
    core = lab.capture("ha", "eth1")
    lab.move(FOREIGN_1)
    wanted = "10.1.0.53 wustl.edu\n"
    eventually(lambda: out.exists() and out.read_text() == wanted, 10, "the program")
    rows = node.ask("show host-configuration")["rows"]
    assert {row["name"]: row["value"] for row in rows} == {
        "prefix_length": "24",
        "gateway": "10.1.0.1",
        "dns": "10.1.0.53",
        "dns_suffix": "wustl.edu",
    }
    lab.move(FOREIGN_2)
    assert out.read_text() == "10.1.0.53 wustl.edu\n"
    asked = core.rows("mip.type == 1", "mip.ext.type")
    assert asked
    assert all("134" in kinds for (kinds,) in asked)


@pytest.mark.parametrize("link", [FOREIGN_1, PLAIN], ids=["nested", "co-located"])
@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "unwanted"])
def test_t22_broadcasts_of_the_home_link_follow_who_wants_them(
    lab: AgentsLab, link: object, wanted: bool
) -> None:
    """T22: with bit B in both modes, without it never."""
    target = FOREIGN_1 if link is FOREIGN_1 else PLAIN
    lab.home_agent('broadcast = ["all"]')
    lab.mobile_node(f"broadcasts = {str(wanted).lower()}")
    lab.move(target)
    assert lab.both_ways()
    air = lab.capture("mn", "eth0")
    lab.python("hh", _BROADCAST)
    time.sleep(0.3)
    seen = air.rows('frame contains "to everybody at home"', "ip.src", "ip.dst")
    if not wanted:
        assert seen == []
    elif target is PLAIN:
        assert set(seen) == {(f"{HA},10.1.0.50", f"{PLAIN.care_of_address('eth0')},10.1.0.255")}
    else:
        assert set(seen) == {(f"{HA},10.1.0.50", f"{HOME_ADDRESS},10.1.0.255")}
