"""``[foreign_agent]`` and ``[[advertise]]``: defaults, checks, and the policy they become."""

from __future__ import annotations

import pytest

from fastmip.agents.foreign_policy import ForeignLink, Nat
from fastmip.agents.hosts import ReverseTunnel
from fastmip.errors import ConfigError
from fastmip.runtime.config import Config, check_text
from fastmip.runtime.config_checks import warnings
from fastmip.runtime.foreign_config import AdvertiseConfig
from fastmip.runtime.foreign_service import policy_of

MINIMAL = '[foreign_agent]\ninterfaces = ["air"]\n'
KEY = "000102030405060708090a0b0c0d0e0f"


def read(text: str) -> Config:
    """A configuration file's meaning."""
    return check_text("fa.toml", text)


def test_check_warns_of_udp_tunnels_no_home_agent_of_ours_grants() -> None:
    text = MINIMAL + 'nat = "translating"\n'
    [warning] = warnings(read(text))
    assert warning.startswith("foreign_agent.nat: ")
    peer = (
        '[[foreign_agent.home_agent]]\naddress = "10.1.0.1"\n'
        f'[[foreign_agent.home_agent.association]]\nspi = 300\nkey = "{KEY}"\n'
    )
    assert warnings(read(text + peer)) == []
    assert warnings(read(MINIMAL)) == []


def test_a_foreign_agent_needs_its_links_only() -> None:
    section = read(MINIMAL).foreign_agent
    assert section is not None
    assert section.interfaces == ("air",)
    assert section.encapsulations == ("ipip", "minimal", "gre")
    assert section.max_lifetime_s == 1800


def test_a_link_demands_the_challenges_it_advertises() -> None:
    config = read(
        MINIMAL.replace('"air"', '"air", "out"')
        + '[[advertise]]\ninterface = "out"\nchallenge = true\n'
    )
    links = (ForeignLink("air", 1, (1,)), ForeignLink("out", 2, (2,)))
    policy = policy_of(config, links, frozenset({1, 2}))
    assert not policy.demands_challenge("air")
    assert policy.demands_challenge("out")


def test_the_policy_follows_the_file() -> None:
    config = read(
        MINIMAL
        + 'encapsulations = ["ipip", "gre"]\nreverse_tunnel = "required"\n'
        + 'max_lifetime = "infinite"\n'
        + "max_visitors = 7\nmax_pending = 8\nmax_pending_per_node = 9\n"
        + "max_visitors_per_node = 10\nchallenge = true\nchallenge_window = 3\n"
        + 'revocation = true\nnat = "forced"\nnat_keepalive = 20\nstrict_reserved = true\n'
        + 'home_networks = ["10.1.0.0/16"]\nencapsulating_delivery = false\n'
        + '[[foreign_agent.mobile_node]]\nnai = "mn@example.com"\n'
        + f'[[foreign_agent.mobile_node.association]]\nspi = 256\nkey = "{KEY}"\n'
        + '[[foreign_agent.home_agent]]\naddress = "10.1.0.1"\n'
        + f'[[foreign_agent.home_agent.association]]\nspi = 257\nkey = "{KEY}"\n'
    )
    link = ForeignLink("air", 1, (1,))
    policy = policy_of(config, (link,), frozenset({1}))
    assert policy.encapsulations == {4, 47}
    assert policy.reverse_tunnel is ReverseTunnel.REQUIRE
    assert policy.max_lifetime_s == 0xFFFF
    assert policy.limits == (7, 8, 9, 10)
    assert policy.has_challenge
    assert policy.challenge_window == 3
    assert policy.has_revocation
    assert not policy.has_encapsulating_delivery
    assert (policy.nat, policy.keepalive_s) == (Nat.FORCED, 20)
    assert policy.strict_reserved
    assert 0x0A010001 in policy.home_networks[0]
    assert policy.mobile_nodes(0, b"mn@example.com") is not None
    assert policy.mobile_nodes(5, None) is None
    assert policy.home_agent_associations(0x0A010001) is not None
    assert policy.home_agent_associations(0x0A010002) is None


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[foreign_agent]\ninterfaces = []\n", "foreign_agent.interfaces"),
        ('[foreign_agent]\ninterfaces = ["air", "air"]\n', "foreign_agent.interfaces[1]"),
        (MINIMAL + 'tunnel_device = "air"\n', "foreign_agent.tunnel_device"),
        (MINIMAL + 'encapsulations = ["gre"]\n', "foreign_agent.encapsulations"),
        (MINIMAL + "revocation_required = true\n", "foreign_agent.revocation_required"),
        (
            MINIMAL + 'nat = "translating"\nreverse_tunnel = "off"\n',
            "foreign_agent.reverse_tunnel",
        ),
        (MINIMAL + 'care_of_addresses = ["224.0.0.1"]\n', "foreign_agent.care_of_addresses[0]"),
        (
            MINIMAL + f"[[foreign_agent.mobile_node]]\n[[foreign_agent.mobile_node.association]]\n"
            f'spi = 256\nkey = "{KEY}"\n',
            "foreign_agent.mobile_node[0]",
        ),
        (
            MINIMAL + '[[foreign_agent.home_agent]]\naddress = "10.1.0.1"\nassociation = []\n',
            "foreign_agent.home_agent[0].association",
        ),
        (MINIMAL + "max_visitors = 200\n[engine]\nmax_bindings = 100\n", "engine.max_bindings"),
        (MINIMAL + '[[advertise]]\ninterface = "other"\n', "advertise[0].interface"),
        (
            MINIMAL + '[[advertise]]\ninterface = "air"\nmin_interval = 2.0\n',
            "advertise[0].min_interval",
        ),
        (
            MINIMAL + '[[advertise]]\ninterface = "air"\nmax_interval = 10.0\nlifetime = 9\n',
            "advertise[0].lifetime",
        ),
        (MINIMAL + '[[advertise]]\ninterface = "air"\nnai = "a@b@c"\n', "advertise[0].nai"),
        (
            MINIMAL + '[[advertise]]\ninterface = "air"\n[[advertise]]\ninterface = "air"\n',
            "advertise[1].interface",
        ),
        (
            MINIMAL
            + 'nat = "forced"\n[home_agent]\naddress = "10.1.0.1"\nhome_network = "10.1.0.0/24"\n',
            "foreign_agent.nat",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_key(text: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(f"fa.toml: {where}: ")


@pytest.mark.parametrize(("longest", "lifetime"), [(1.0, 3), (0.2, 1), (600.0, 1800), (1.5, 4)])
def test_three_advertisements_fit_into_a_lifetime(longest: float, lifetime: int) -> None:
    table = AdvertiseConfig(interface="air", max_interval=longest)
    assert table.lifetime_s == lifetime
    assert table.shortest_s == longest * 0.75
