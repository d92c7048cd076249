"""Configuration of what a home agent offers: tunnels, identities, secrets, vendors."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runtime.test_config import HOME_AGENT, KEY_HEX, MOBILE_NODE

from fastmip.auth.associations import SecurityAssociation
from fastmip.auth.mn_aaa import ChapKey
from fastmip.errors import ConfigError
from fastmip.runtime.config import Config, load_config
from fastmip.runtime.directory import host_of
from fastmip.runtime.home_policy import policy_of
from fastmip.wire.vendor import CriticalVendorExtension


def load(directory: Path, text: str) -> Config:
    """Load a configuration that lies beside its keys."""
    key = directory / "mn.key"
    key.write_text(KEY_HEX + "\n")
    key.chmod(0o600)
    file = directory / "fastmip.toml"
    file.touch(0o600)
    file.write_text(text)
    return load_config(file)


def with_settings(*lines: str) -> str:
    return HOME_AGENT.replace(
        'interface = "eth0"\n', 'interface = "eth0"\n' + "\n".join(lines) + "\n"
    )


def test_the_policy_is_what_the_file_says(tmp_path: Path) -> None:
    text = with_settings(
        'encapsulations = ["gre", "ipip"]',
        "nat_force = false",
        "nat_keepalive = 40",
        'nat_max_lifetime = "infinite"',
        "revocation = false",
        "revocation_inform = false",
        "aaa_authorization = true",
        'identity = "ha1@wustl.edu"',
        'broadcast = ["dhcp"]',
    )
    text += '[[vendor_extension]]\nvendor = 9\ntype = 14\nname = "host-configuration"\n'
    policy = policy_of(load(tmp_path, "[daemon]\nexperimental = true\n" + text))
    assert policy.encapsulations == {4, 47}
    assert (policy.nat_traversal, policy.nat_force, policy.nat_keepalive_s) == (True, False, 40)
    assert policy.nat_max_lifetime_s == 0xFFFF
    assert (policy.revocation, policy.revocation_inform) == (False, False)
    assert (policy.aaa_authorizes, policy.identity) == (True, b"ha1@wustl.edu")
    assert (policy.broadcasts, policy.experimental) == (True, True)
    assert policy.vendors.knows(CriticalVendorExtension(9, 14))
    assert not policy.vendors.knows(CriticalVendorExtension(9, 15))


def test_defaults_offer_everything_but_broadcasts_aaa_and_experiments(tmp_path: Path) -> None:
    policy = policy_of(load(tmp_path, HOME_AGENT))
    assert policy.encapsulations == {4, 47, 55}
    assert policy.nat_traversal
    assert policy.nat_force
    assert policy.nat_max_lifetime_s == 60
    assert policy.revocation
    assert not policy.broadcasts
    assert not policy.aaa_authorizes
    assert not policy.experimental
    assert policy.identity == b""


@pytest.mark.parametrize(
    ("spi", "kind"), [(2, ChapKey), (512, SecurityAssociation)], ids=["chap", "association"]
)
def test_a_host_has_a_name_and_a_secret_of_its_home_domain(
    tmp_path: Path, spi: int, kind: type
) -> None:
    text = HOME_AGENT.replace(
        'home_address = "10.1.0.5"\n', 'home_address = "10.1.0.5"\nnai = "mn@wustl.edu"\n'
    )
    text += f'[home_agent.host.aaa]\nspi = {spi}\nkey_file = "mn.key"\n'
    config = load(tmp_path, text)
    assert config.home_agent is not None
    host = host_of(config.home_agent.hosts[0])
    assert host.nai == b"mn@wustl.edu"
    (secret,) = host.aaa
    assert isinstance(secret, kind)
    assert KEY_HEX not in repr(config)
    assert KEY_HEX not in repr(host)


SECOND_HOST = """
[[home_agent.host]]
home_address = "10.1.0.6"
nai = "mn@wustl.edu"
[[home_agent.host.association]]
spi = 256
key_file = "mn.key"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (with_settings('encapsulations = ["gre"]'), "home_agent.encapsulations: must list"),
        (with_settings('encapsulations = ["ipsec"]'), "home_agent.encapsulations"),
        (with_settings('identity = "two words"'), "home_agent.identity: not a network access"),
        (with_settings('broadcast = ["arp"]'), "home_agent.broadcast"),
        (
            HOME_AGENT.replace('interface = "eth0"\n', 'broadcast = ["all"]\n'),
            "home_agent.broadcast: needs home_agent.interface",
        ),
        (with_settings("nat_keepalive = 3601"), "home_agent.nat_keepalive"),
        (with_settings("nat_max_lifetime = 0"), "home_agent.nat_max_lifetime"),
        (
            HOME_AGENT.replace("[[home_agent.host.assoc", 'nai = "@"\n[[home_agent.host.assoc'),
            r"home_agent.host\[0\].nai: not a network access identifier",
        ),
        (
            HOME_AGENT.replace(
                "[[home_agent.host.assoc", 'nai = "mn@wustl.edu"\n[[home_agent.host.assoc'
            )
            + SECOND_HOST,
            r"home_agent.host\[1\].nai: is also that of host\[0\]",
        ),
        (
            HOME_AGENT + '[home_agent.host.aaa]\nspi = 3\nkey_file = "mn.key"\n',
            r"home_agent.host\[0\].aaa.spi: SPIs below 256",
        ),
        (
            HOME_AGENT + "[home_agent.host.aaa]\nspi = 512\n",
            r"home_agent.host\[0\].aaa.key_file: missing",
        ),
        (
            HOME_AGENT + '[home_agent.host.aaa]\nspi = 512\nkey_file = "none.key"\n',
            r"home_agent.host\[0\].aaa.key_file",
        ),
        (
            MOBILE_NODE + 2 * '[[vendor_extension]]\nvendor = 9\ntype = 14\nname = "x"\n',
            r"vendor_extension\[1\]: is listed twice",
        ),
        (
            MOBILE_NODE + '[[vendor_extension]]\nvendor = 16777216\ntype = 14\nname = "x"\n',
            r"vendor_extension\[0\].vendor",
        ),
    ],
)
def test_nonsense_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)
