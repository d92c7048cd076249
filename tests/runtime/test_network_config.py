"""Mobile networks, pools and profiles in the configuration: what fits together (RFC 5177, 6626)."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from fastmip.errors import ConfigError
from fastmip.runtime import config_checks
from fastmip.runtime.config import Config, check_text, load_config
from fastmip.runtime.directory import host_of
from fastmip.runtime.network_config import outside
from fastmip.runtime.profiles import PROFILES, fill_in

KEY = "00" * 16


def text(*hosts: str, pools: str = "") -> str:
    """A configuration with routers 10.1.0.5, .6, ... of these networks."""
    lines = ["[home_agent]", 'address = "10.1.0.1"', 'home_network = "10.1.0.0/24"']
    if pools:
        lines += ["[home_agent.mobile_networks]", pools]
    for number, host in enumerate(hosts):
        lines += ["[[home_agent.host]]", f'home_address = "10.1.0.{5 + number}"', host]
        lines += ["[[home_agent.host.association]]", "spi = 256", f'key = "{KEY}"']
    return "\n".join(lines)


def section(*hosts: str, pools: str = "") -> Config:
    return check_text("f", text(*hosts, pools=pools))


def test_networks_beside_and_within_the_home_network_and_shared_by_two() -> None:
    config = section(
        'networks = ["10.2.8.0/24", "10.1.0.64/26", "10.2.8.0/25"]',
        'networks = ["10.2.8.0/24"]\ndynamic_networks = 2',
        pools='pools = ["10.16.0.0/12"]\nlength = 29',
    )
    assert config.home_agent is not None
    host = host_of(config.home_agent.hosts[0])
    assert host.networks == ((0x0A020800, 24), (0x0A010040, 26), (0x0A020800, 25))
    assert config.home_agent.pools.policy().length == 29


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ('networks = ["10.0.0.0/8"]', "networks[0]"),
        ('networks = ["10.1.0.0/24"]', "networks[0]"),
        ('networks = ["10.1.0.0/28"]', "networks[0]"),
        ('networks = ["0.0.0.0/0"]', "networks[0]"),
        ('networks = ["10.0.0.0/7"]', "networks[0]"),
        ('networks = ["224.1.0.0/16"]', "networks[0]"),
        ('networks = ["127.1.0.0/16"]', "networks[0]"),
        ('networks = ["10.2.8.1/24"]', "networks[0]"),
        ('networks = ["10.2.8.0/24", "10.2.8.0/24"]', "networks[1]"),
        ('networks = ["10.3.4.0/24"]', "networks[0]"),
        ("dynamic_networks = 65", "dynamic_networks"),
        ('profile = "other"', "profile"),
    ],
)
def test_what_cannot_be_a_mobile_network_is_refused_with_its_place(host: str, path: str) -> None:
    with pytest.raises(ConfigError, match=r"^f: home_agent\.host\[0\]\.") as caught:
        section(host, pools='pools = ["10.3.0.0/16"]')
    assert f"host[0].{path}" in str(caught.value)


def test_networks_of_two_routers_do_not_lie_in_each_other() -> None:
    with pytest.raises(ConfigError, match=r"host\[1\]\.networks\[0\]"):
        section('networks = ["10.2.8.0/24"]', 'networks = ["10.2.8.128/25"]')
    with pytest.raises(ConfigError, match=r"host\[1\]\.networks\[0\]"):
        section('networks = ["10.2.8.128/25"]', 'networks = ["10.2.8.0/24"]')


@pytest.mark.parametrize(
    ("pools", "path"),
    [
        ('pools = ["10.1.0.0/16"]', r"pools\[0\]"),
        ('pools = ["10.3.0.0/16", "10.3.4.0/24"]', r"pools\[1\]"),
        ('pools = ["10.3.0.0/29"]', r"pools\[0\]"),
        ('pools = ["10.3.0.0/16"]\nlength = 20', "shortest"),
        ('pools = ["10.3.0.0/16"]\nlength = 7', "length"),
    ],
)
def test_pools_that_make_no_sense(pools: str, path: str) -> None:
    with pytest.raises(ConfigError, match=rf"home_agent\.mobile_networks\.{path}"):
        section(pools=pools)


def test_prefixes_on_demand_need_a_pool() -> None:
    with pytest.raises(ConfigError, match=r"needs home_agent\.mobile_networks\.pools"):
        section("dynamic_networks = 1")


def test_routes_are_few_and_leave_the_home_network_out() -> None:
    home = IPv4Network("10.1.0.0/24")
    networks = [(0x0A020800, 24), (0x0A020900, 24), (0x0A010040, 26), (0x0A020840, 26)]
    assert outside(networks, home) == ["10.2.8.0/23"]


def write(folder: Path, host: str, association: str) -> Path:
    file = folder / "f.toml"
    file.touch(0o600)
    file.write_text(
        text() + f'\n[[home_agent.host]]\nhome_address = "10.1.0.5"\n{host}\n'
        f"[[home_agent.host.association]]\n{association}\n"
    )
    return file


def test_a_profile_fills_in_what_is_left_out_and_short_keys_are_warned_of(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, 'profile = "dmnr"', 'key_ascii = "letmein"'))
    assert config.home_agent is not None
    host = host_of(config.home_agent.hosts[0])
    (association,) = host.associations
    assert (association.spi, association.window_s, host.max_lifetime_s) == (256, 255, 65534)
    assert association.key == b"letmein"
    (warning,) = config_checks.warnings(config)
    assert warning.startswith("home_agent.host[0].association[0].key_ascii: shorter than 128")
    assert "letmein" not in repr(config) + warning


def test_what_the_table_says_comes_before_the_profile(tmp_path: Path) -> None:
    lines = 'spi = 300\nkey_ascii = "0123456789abcdef"\nreplay_window = 9'
    config = load_config(write(tmp_path, 'profile = "netmodule"', lines))
    assert config.home_agent is not None
    (association,) = host_of(config.home_agent.hosts[0]).associations
    assert (association.spi, association.window_s) == (300, 9)
    assert config_checks.warnings(config) == []


@pytest.mark.parametrize(
    ("host", "association", "wrong"),
    [
        ("", 'spi = 256\nkey_ascii = "short"', "name a profile"),
        ('profile = "dmnr"', f'key_ascii = "short"\nkey = "{KEY}"', "remove one"),
        ('profile = "dmnr"', 'key_ascii = ""', "1 to 256"),
        ('profile = "dmnr"', 'key_ascii = "\\u00e9"', "ASCII"),
        ('profile = "dmnr"', "spi = 256", "missing"),
        ('profile = "netmodule"', 'key_ascii = "short"', "missing: add"),
    ],
)
def test_keys_as_characters(tmp_path: Path, host: str, association: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        load_config(write(tmp_path, host, association))


def test_a_preset_leaves_other_shapes_alone() -> None:
    assert fill_in(7) == 7
    assert fill_in({"profile": 7, "association": [{}]}) == {"profile": 7, "association": [{}]}
    assert fill_in({"profile": "dmnr", "association": 7}) == {"profile": "dmnr", "association": 7}
    single = fill_in({"profile": "dmnr", "association": {"key": "k"}})
    assert single == {
        "profile": "dmnr",
        "association": {**PROFILES["dmnr"].association, "key": "k"},
    }
