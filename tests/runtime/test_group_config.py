"""``[home_agent.group]``: what is refused, and that the operator's page holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastmip.errors import ConfigError
from fastmip.runtime.config import check_text
from fastmip.runtime.home_policy import policy_of

PAGE = (Path(__file__).parents[2] / "docs" / "dynamic-home-agents.md").read_text()
BASE = """
[home_agent]
address = "10.2.0.1"
home_network = "10.2.0.0/16"
"""
MEMBER = '[[home_agent.group.member]]\naddress = "10.2.0.2"\n'


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.+?)```", PAGE, re.S))
def test_configurations_of_the_page_are_good(block: str) -> None:
    check_text("page.toml", block)


@pytest.mark.parametrize(
    ("group", "complaint"),
    [
        ("[home_agent.group]", "member"),
        (MEMBER + MEMBER, "member[1].address: is listed twice"),
        (MEMBER.replace("10.2.0.2", "10.2.0.1"), "group.member: name at least one other"),
        (MEMBER.replace("10.2.0.2", "224.0.0.1"), "member[0].address: not a unicast address"),
        ('[home_agent.group]\npolicy = "by-nai"\n' + MEMBER, "policy: needs nais"),
        ('[home_agent.group]\npolicy = "nearest-to-coa"\n' + MEMBER, "policy: needs care_of"),
        ('[home_agent.group]\npolicy = "drain"\n' + MEMBER, "group.policy"),
        (
            f'[home_agent.group]\nkey = "{"00" * 16}"\nkey_file = "k"\n' + MEMBER,
            "key: key_file is set too",
        ),
    ],
)
def test_bad_groups_are_refused_in_one_line(group: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_text("ha.toml", BASE + group)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_group_becomes_the_agents_policy() -> None:
    config = check_text("ha.toml", BASE + "max_bindings = 7\n" + MEMBER + "weight = 3\n")
    policy = policy_of(config)
    assert policy.max_bindings == 7
    assert policy.group is not None
    assert [(m.address & 0xFF, m.weight) for m in policy.group.members] == [(2, 3), (1, 1)]
