"""T25 to T28: UDP tunnels through an address translator (RFC 3519), all daemons real."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.helpers.agents_lab import (
    HA,
    PROVEN_FOREIGN_AGENTS,
    PROVEN_HOME_AGENT,
    AgentsLab,
    eventually,
    one_test,
)

from fastmip.runtime.demo.topology import BEHIND, FOREIGN_1, HOME_ADDRESS, PLAIN, PRIVATE

pytestmark = pytest.mark.netns

OUTSIDE = PRIVATE.translated
_TIMEOUTS = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"
_OTHER_PORTS = """\
flush chain ip nat out
add rule ip nat out oifname "up0" ip protocol udp masquerade to :{ports}
add rule ip nat out oifname "up0" masquerade
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[AgentsLab]:
    """One lab for all tests of this file."""
    with AgentsLab() as lab:
        lab.home_agent()
        yield lab


@pytest.fixture
def lab(shared: AgentsLab) -> Iterator[AgentsLab]:
    """The shared lab with its home agent as it is without settings."""
    shared.home_agent()
    with one_test(shared):
        yield shared


@pytest.mark.parametrize("encapsulation", ["ipip", "minimal", "gre"])
def test_t25_a_node_behind_a_translator_is_reached_over_udp(
    lab: AgentsLab, encapsulation: str
) -> None:
    """T25: the home agent assents with extension 44 and sends where the translator stands."""
    lab.mobile_node(f'nat = "auto"\nencapsulation = "{encapsulation}"', care_of="co-located")
    core = lab.capture("ha", "eth1")
    lab.move(PRIVATE)
    [binding] = lab.bindings()
    assert binding["tunnel"].startswith(f"udp {OUTSIDE}:")
    assert lab.both_ways()
    talk = lab.talk()
    assert talk.echoes(b"through the translator" * 100)
    assert core.rows("mip.type == 1 and mip.ext.utrq.subtype == 0", "mip.coa")
    replies = core.rows("mip.type == 3 and mip.code == 0", "mip.ext.utrp.code", "ip.dst")
    assert ("0", OUTSIDE) in replies
    assert core.count("ip.proto == 4 or ip.proto == 47 or ip.proto == 55") == 0
    number = {"ipip": "04", "minimal": "37", "gre": "2f"}[encapsulation]
    data = core.rows("udp.port == 434 and udp.payload[0] == 4", "ip.src", "udp.payload")
    assert {source.split(",")[0] for source, _ in data} == {OUTSIDE, HA}
    payloads = [bytes.fromhex(payload.replace(":", "")) for _, payload in data]
    as_asked = {payload for payload in payloads if payload[:4].hex() == f"04{number}0000"}
    assert as_asked
    # A minimal header in UDP has no room for "may fragment": such packets stay whole IP packets.
    others = [payload for payload in payloads if payload not in as_asked]
    assert all(payload[:4].hex() == "04040000" and not payload[10] & 0x40 for payload in others)
    assert encapsulation == "minimal" or not others


def test_t26_without_a_translator_the_tunnel_stays_plain(lab: AgentsLab) -> None:
    """T26: the request for UDP is declined, the registration accepted, no packet is in UDP."""
    lab.mobile_node('nat = "auto"', care_of="co-located")
    core = lab.capture("ha", "eth1")
    lab.move(PLAIN)
    assert lab.both_ways()
    [binding] = lab.bindings()
    assert binding["tunnel"] == "ip"
    [(code, declined)] = set(core.rows("mip.type == 3", "mip.code", "mip.ext.utrp.code"))
    assert code == "0"
    assert int(declined) >= 64
    assert core.count("udp.port == 434 and udp.payload[0] == 4") == 0
    assert core.count("ip.proto == 4 and icmp") > 0


def test_t26_forced_by_flag_f_the_tunnel_is_udp_all_the_same(lab: AgentsLab) -> None:
    """T26: flag F without a translator."""
    lab.mobile_node('nat = "forced"', care_of="co-located")
    core = lab.capture("ha", "eth1")
    lab.move(PLAIN)
    assert lab.both_ways()
    [binding] = lab.bindings()
    assert binding["tunnel"].startswith(f"udp {PLAIN.care_of_address('eth0')}:")
    assert core.count("ip.proto == 4") == 0
    assert core.count("udp.port == 434 and udp.payload[0] == 4") > 0


def test_t26_flag_f_can_be_forbidden(lab: AgentsLab) -> None:
    """T26: the home agent denies with 129 and holds nothing."""
    lab.home_agent("nat_force = false")
    lab.mobile_node('nat = "forced"', care_of="co-located")
    core = lab.capture("ha", "eth1")
    lab.attach("eth0", PLAIN)
    eventually(lambda: lab.counter("mn", "mnRegRequestsDeniedByHA"), 10, "a denial")
    assert lab.bindings() == []
    assert ("129",) in core.rows("mip.type == 3", "mip.code")


def test_t27_a_lost_mapping_is_noticed_and_registered_again(lab: AgentsLab) -> None:
    """T27: the translator forgets; the keepalive gets no answer; a new request mends it."""
    lab.mobile_node('nat = "auto"\nkeepalive = 10', care_of="co-located")
    lab.move(PRIVATE)
    assert lab.both_ways()
    [before] = lab.bindings()
    for kind in ("", "_stream"):
        lab.net.run("nat", "sh", "-c", f"echo 1 > {_TIMEOUTS}{kind}")
    assert lab.both_ways()  # from now on the mapping lives a second
    time.sleep(2.5)
    for kind in ("", "_stream"):
        lab.net.run("nat", "sh", "-c", f"echo 120 > {_TIMEOUTS}{kind}")
    lab.net.run("nat", "nft", _OTHER_PORTS.format(ports="30000-30999"))
    assert not lab.pings("cn", HOME_ADDRESS), "the old mapping is gone"
    inside = lab.capture("mn", "eth0")

    def is_elsewhere() -> bool:
        rows = lab.bindings()
        return len(rows) == 1 and rows[0]["tunnel"] != before["tunnel"]

    eventually(is_elsewhere, 40, "a registration from the new mapping")
    [after] = lab.bindings()
    assert 30000 <= int(after["tunnel"].rpartition(":")[2]) <= 30999
    eventually(lab.both_ways, 10, "packets both ways")
    asked = inside.rows("mip.type == 1", "mip.coa")
    keepalives = inside.rows(f"icmp.type == 8 and ip.dst == {HA}", "ip.src", "ip.dst")
    assert asked
    assert {inner.split(",")[-1] for inner, _ in keepalives} == {HOME_ADDRESS}


def test_t28_a_foreign_agent_behind_a_translator_serves_by_udp(lab: AgentsLab) -> None:
    """T28: the agent asks for the UDP tunnel itself (U); the node needs to know nothing of it."""
    lab.home_agent(more=PROVEN_FOREIGN_AGENTS)
    lab.foreign_agent("fa3", 'nat = "translating"', PROVEN_HOME_AGENT)
    lab.mobile_node(care_of="foreign-agent")
    core = lab.capture("ha", "eth1")
    lab.move(BEHIND)
    assert lab.both_ways()
    [binding] = lab.bindings()
    assert binding["tunnel"].startswith(f"udp {OUTSIDE}:")
    assert core.count("ip.proto == 4") == 0


def test_t28_half_bound_until_the_first_keepalive_says_where_the_node_is(lab: AgentsLab) -> None:
    """T28: R and U advertised; the node's request goes through the agent with flag R set."""
    settings = 'nat = "translating"\nregistration_required = true'
    lab.foreign_agent("fa3", settings, PROVEN_HOME_AGENT)
    lab.mobile_node('nat = "auto"', care_of="co-located-first")
    core = lab.capture("ha", "eth1")
    lab.attach("eth0", BEHIND)
    own = BEHIND.leases["eth0"].partition("/")[0]
    eventually(lambda: lab.care_of() == {own}, 15, "the node's own address through the agent")
    eventually(lab.both_ways, 15, "packets both ways")
    [binding] = lab.bindings()
    assert binding["tunnel"].startswith(f"udp {OUTSIDE}:")
    asked = core.rows("mip.type == 1", "mip.ext.utrq.r", "mip.d")
    assert asked
    assert asked[-1][0] in ("1", "True"), asked


def test_a_foreign_agent_in_the_open_needs_no_udp(lab: AgentsLab) -> None:
    """The node asks for nothing through a foreign agent: RFC 3519 wants bit D for that."""
    lab.foreign_agent("fa1")
    lab.mobile_node('nat = "auto"', care_of="foreign-agent")
    core = lab.capture("ha", "eth1")
    lab.move(FOREIGN_1)
    assert lab.both_ways()
    assert core.rows("mip.ext.utrq.subtype == 0", "mip.coa") == []
    assert lab.bindings()[0]["tunnel"] == "ip"
