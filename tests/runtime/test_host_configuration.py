"""``[home_agent.host_configuration]`` and the operator's page (RFC 4332)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastmip.errors import ConfigError
from fastmip.runtime.config import check_text
from fastmip.runtime.home_policy import planned_changes, policy_of
from fastmip.runtime.mobile_service import settings_of
from fastmip.wire.addresses import parse_address
from fastmip.wire.host_configuration import HostConfiguration, request_host_configuration

PAGE = (Path(__file__).parents[2] / "docs" / "address-assignment.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
BASE = """\
[home_agent]
address = "10.1.0.1"
home_network = "10.1.0.0/24"
"""
SECTION = BASE + "[home_agent.host_configuration]\n"


def test_the_page_s_example_is_told_as_it_stands() -> None:
    example = EXAMPLES[0]
    config = check_text("page.toml", example)
    assert policy_of(config).host_configuration == HostConfiguration(
        24,
        (parse_address("10.1.0.53"), parse_address("10.1.0.54")),
        gateway=parse_address("10.1.0.1"),
        dns_suffix=b"wustl.edu",
        url=b"https://config.wustl.edu/mn",
    )
    assert config.home_agent is not None
    assert config.home_agent.hosts[0].nai == "mn@wustl.edu"


def test_the_prefix_length_is_told_in_any_case() -> None:
    assert policy_of(check_text("f", BASE)).host_configuration == HostConfiguration(24)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ('gateway = "10.2.0.1"', "gateway"),
        ('dns = ["10.1.0.2", "10.1.0.3", "10.1.0.4"]', "dns"),
        ('dns = ["224.0.0.1"]', r"dns\[0\]"),
        ('dns_suffix = ""', "dns_suffix"),
        ('dns_suffix = "two words"', "dns_suffix"),
        (f'url = "{"u" * 246}"', "url"),
        ("lease = 5", "host_configuration"),
    ],
)
def test_what_cannot_be_told_is_refused(line: str, path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        check_text("f", SECTION + line)


def test_a_reload_may_change_it() -> None:
    old, new = check_text("f", BASE), check_text("f", SECTION + 'dns_suffix = "wustl.edu"')
    (change,) = planned_changes(old, new)
    assert "host_configuration" in change


def test_the_page_s_mobile_node_asks_for_it() -> None:
    config = check_text("page.toml", EXAMPLES[-1])
    asked = settings_of(config).identity.extensions
    assert asked == (request_host_configuration(),)
    assert config.mobile_node is not None
    assert config.mobile_node.host_configuration_command == ("/etc/fastmip/resolver",)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("host_configuration = true\n", "", "host_configuration_command"),
        ('"/etc/fastmip/resolver"', '"resolver"', r"command\[0\]"),
    ],
)
def test_a_command_needs_a_path_and_something_to_do(old: str, new: str, path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        check_text("f", EXAMPLES[-1].replace(old, new))
