"""``fastmip init`` and ``check``: a pair that fits, private files, nothing overwritten."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastmip.runtime.cli.main import main
from fastmip.runtime.config import load_config

NAMES = {"home-agent.toml", "mobile-node.toml", "10.1.0.5.key"}


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_init_writes_a_pair_that_passes_check_in_private_files(tmp_path: Path) -> None:
    directory = tmp_path / "etc" / "fastmip"
    old = os.umask(0)
    try:
        made = invoke("init", str(directory))
    finally:
        os.umask(old)
    assert made.exit_code == 0, made.output
    assert {path.name for path in directory.iterdir()} == NAMES
    assert directory.stat().st_mode & 0o777 == 0o700
    for path in directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    for name in ("home-agent.toml", "mobile-node.toml"):
        checked = invoke("check", str(directory / name))
        assert checked.exit_code == 0, checked.output
        assert ": ok (" in checked.output


def test_both_sides_of_a_pair_agree(tmp_path: Path) -> None:
    invoke("init", str(tmp_path))
    agent = load_config(tmp_path / "home-agent.toml").home_agent
    node = load_config(tmp_path / "mobile-node.toml").mobile_node
    assert agent is not None
    assert node is not None
    [host] = agent.hosts
    assert host.home_address == node.home_address
    assert agent.address == node.home_agent
    assert agent.home_network == node.home_network
    assert host.associations[0] == node.association
    assert host.association_set() == node.association_set()


def test_a_foreign_agent_s_file_comes_on_demand_and_passes_check(tmp_path: Path) -> None:
    made = invoke("init", str(tmp_path), "--foreign-link", "eth7")
    assert made.exit_code == 0, made.output
    assert {path.name for path in tmp_path.iterdir()} == NAMES | {"foreign-agent.toml"}
    section = load_config(tmp_path / "foreign-agent.toml").foreign_agent
    assert section is not None
    assert section.interfaces == ("eth7",)
    assert invoke("check", str(tmp_path / "foreign-agent.toml")).exit_code == 0


def test_every_pair_has_a_key_of_its_own(tmp_path: Path) -> None:
    invoke("init", str(tmp_path / "a"))
    invoke("init", str(tmp_path / "b"))
    keys = [(tmp_path / side / "10.1.0.5.key").read_text().strip() for side in "ab"]
    assert keys[0] != keys[1]
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_init_refuses_to_overwrite_and_then_writes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    refused = invoke("init", str(tmp_path))
    assert refused.exit_code == 1
    assert f"{tmp_path / name}: exists: name another directory" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_init_does_not_follow_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "home-agent.toml").symlink_to(tmp_path / "elsewhere")
    assert invoke("init", str(tmp_path)).exit_code == 1
    assert not (tmp_path / "elsewhere").exists()


def test_options_reach_both_files(tmp_path: Path) -> None:
    made = invoke(
        *("init", str(tmp_path), "--home-network", "192.0.2.0/24", "--home-agent", "203.0.113.7"),
        *("--home-address", "192.0.2.50", "--home-gateway", "192.0.2.1", "--virtual"),
        *("--interface", "wlan0", "--interface", "wwan0", "--spi", "4096"),
        *("--algorithm", "hmac-md5"),
    )
    assert made.exit_code == 0, made.output
    agent = load_config(tmp_path / "home-agent.toml").home_agent
    node = load_config(tmp_path / "mobile-node.toml").mobile_node
    assert agent is not None
    assert node is not None
    assert agent.interface is None
    assert str(agent.address) == str(node.home_agent) == "203.0.113.7"
    assert str(node.gateway) == "192.0.2.1"
    assert node.interfaces == ("wlan0", "wwan0")
    assert node.association.spi == agent.hosts[0].associations[0].spi == 4096
    assert node.association.algorithm == "hmac-md5"


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--home-network", "10.1.0.9/24"], 2, "has host bits set"),
        (["--home-address", "ten"], 2, "Expected 4 octets"),
        (["--home-address", "10.2.0.5"], 3, "home_address: not in home_network"),
        (["--home-interface", "a-very-long-name"], 3, "interface name too long"),
        (["--interface", 'e"0'], 0, ""),
        (["--interface", "e 0"], 3, "mobile_node.interfaces[0]: not an interface name"),
        (["--home-agent", "203.0.113.7"], 3, "home_gateway: not in home_network"),
        (["--spi", "255"], 2, "255 is not in the range"),
    ],
)
def test_options_that_make_no_sense_write_nothing(
    tmp_path: Path, options: list[str], code: int, text: str
) -> None:
    made = invoke("init", str(tmp_path), *options)
    assert made.exit_code == code, made.output
    assert text in made.output
    assert (list(tmp_path.iterdir()) == []) == (code != 0)


def test_check_refuses_with_code_3_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[home_agent]\nadress = 1\n")
    refused = invoke("check", str(path))
    assert refused.exit_code == 3
    assert refused.output == (
        f"fastmip: {path}: home_agent.adress: unknown key: did you mean address?\n"
    )
    assert invoke("run", str(path)).output == refused.output
    assert invoke("doctor", str(path)).exit_code == 3


def test_check_warns_of_what_is_allowed_but_unwise(tmp_path: Path) -> None:
    invoke("init", str(tmp_path))
    path = tmp_path / "home-agent.toml"
    text = path.read_text().replace('"hmac-sha256"', '"keyed-md5"\nreplay_window = 3')
    path.write_text(text)
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0
    assert "association[0].algorithm: keyed-md5 is weak" in result.stderr
    assert "association[0].replay_window: should be greater than 3 (RFC 5944" in result.stderr
    assert len(json.loads(invoke("check", str(path), "--json").stdout)["warnings"]) == 2
