"""``[mobile_node.router]``: what is refused, profiles, and the operator's page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastmip.agents.router_networks import RouterSettings
from fastmip.errors import ConfigError
from fastmip.runtime.config import check_text
from fastmip.runtime.config_checks import warnings
from fastmip.runtime.foreign_service import policy_of
from fastmip.runtime.mobile_service import settings_of
from fastmip.runtime.router_config import serves_from_networks
from fastmip.wire.addresses import parse_address

PAGE = (Path(__file__).parents[2] / "docs" / "mobile-router.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
BASE = """\
[mobile_node]
home_address = "10.2.0.9"
home_network = "10.2.0.0/24"
home_agent = "10.2.0.1"
interfaces = ["wlan0"]
{node}
[mobile_node.association]
{key}
[mobile_node.router]
ingress = ["eth1"]
{router}
"""
KEY = 'spi = 256\nkey = "000102030405060708090a0b0c0d0e0f"'


def text(router: str = "", node: str = "", key: str = KEY) -> str:
    return BASE.format(router=router, node=node, key=key)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_page_holds(example: str) -> None:
    config = check_text("page.toml", example)
    assert config.mobile_node is not None
    assert config.mobile_node.router is not None


def test_the_page_has_an_example_of_each_kind() -> None:
    assert len(EXAMPLES) >= 3
    assert sum("[foreign_agent]" in example for example in EXAMPLES) == 2
    assert sum("dynamic" in example for example in EXAMPLES) == 1


@pytest.mark.parametrize(
    ("router", "node", "where"),
    [
        ('networks = ["10.2.0.0/24"]', "", "networks[0]"),
        ('networks = ["0.0.0.0/0"]', "", "networks[0]"),
        ('networks = ["224.0.0.0/24"]', "", "networks[0]"),
        ('networks = ["10.2.8.0/24", "10.2.8.128/25"]', "", "networks[1]"),
        ("dynamic = [31]", "", "dynamic[0]"),
        (f"dynamic = {[28] * 33}", "", "mobile_node.router"),
        ("", "reverse_tunnel = false", "mobile_node.reverse_tunnel"),
        ("", 'care_of = "foreign-agent"\ndelivery = "encapsulating"', "mobile_node.delivery"),
        ("", 'profile = "cisco"', "profile"),
    ],
)
def test_what_cannot_be_is_refused(router: str, node: str, where: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(where)):
        check_text("mr.toml", text(router, node))


@pytest.mark.parametrize("name", ["wlan0", "fmmn0"])
def test_an_ingress_interface_is_nothing_else(name: str) -> None:
    with pytest.raises(ConfigError, match="ingress"):
        check_text("mr.toml", text().replace('"eth1"', f'"{name}"'))


def test_settings_of_a_router() -> None:
    found = settings_of(check_text("mr.toml", text('networks = ["10.2.8.0/24"]\ndynamic = [28]')))
    assert found.router == RouterSettings(((parse_address("10.2.8.0"), 24),), (28,))
    assert found.wishes.is_router


def test_a_profile_is_what_such_routers_are_set_to() -> None:
    key = 'key_ascii = "secret"'
    config = check_text("mr.toml", text(node='profile = "dmnr"', key=key))
    node = config.mobile_node
    assert node is not None
    assert (node.lifetime, node.refresh, node.reverse_tunnel) == (65534, 30, True)
    assert (node.association.spi, node.association.algorithm) == (256, "hmac-md5")
    assert any("mobile_node.association" in line for line in warnings(config))
    own = check_text("mr.toml", text(node='profile = "dmnr"\nrefresh = 60', key=key))
    assert settings_of(own).refresh_s == 60
    netmodule = check_text("mr.toml", text(node='profile = "netmodule"'))
    assert settings_of(netmodule).nat.value == "auto"
    with pytest.raises(ConfigError, match="16 characters"):
        check_text("mr.toml", text(key=f"spi = 256\n{key}"))


def test_visitors_on_board_need_reverse_tunnels_rfc3024_4_2_1() -> None:
    with_agent = text() + '[foreign_agent]\ninterfaces = ["eth1"]\n'
    config = check_text("mr.toml", with_agent)
    assert serves_from_networks(config)
    assert policy_of(config, (), frozenset()).reverse_tunnel.value == "require"
    elsewhere = check_text(
        "mr.toml", with_agent.replace('interfaces = ["eth1"]', 'interfaces = ["eth2"]')
    )
    assert not serves_from_networks(elsewhere)
