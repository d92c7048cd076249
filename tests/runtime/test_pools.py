"""``[[home_agent.pool]]``: what the file may say, and what a reload says of it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastmip.agents.address_pool import AddressPools
from fastmip.errors import ConfigError
from fastmip.runtime.config import check_text
from fastmip.runtime.directory import HostDirectory
from fastmip.runtime.home_policy import planned_changes, prefix_of
from fastmip.runtime.pool_commands import revise_pools
from fastmip.runtime.pool_config import pools_of, reserved_of

PAGE = (Path(__file__).parents[2] / "docs" / "address-assignment.md").read_text()
EXAMPLE = re.findall(r"```toml\n(.*?)```", PAGE, re.S)[1]
BASE = """\
[home_agent]
address = "10.1.0.1"
home_network = "10.1.0.0/24"
[[home_agent.pool]]
name = "one"
first = "10.1.0.16"
last = "10.1.0.31"
"""
SECOND = BASE + '[[home_agent.pool]]\nname = "two"\n'
HOST = (
    '[[home_agent.host]]\n[[home_agent.host.association]]\nspi = 256\nkey = "' + "01" * 16 + '"\n'
)


def test_the_page_s_example_is_two_pools_and_a_host_of_the_first() -> None:
    section = check_text("page.toml", EXAMPLE).home_agent
    assert section is not None
    crew, guests = pools_of(section)
    assert (crew.first & 255, crew.last & 255) == (64, 127)
    assert (guests.first & 255, guests.last & 255) == (130, 199)
    assert crew.serves(b"x@Crew.AA.com")
    assert not crew.serves(b"x@aa.com")
    assert {address & 255 for address in reserved_of(section)} == {0, 1, 255}
    hosts = HostDirectory(
        lambda _sql, _values: [], section.hosts, home_network=prefix_of(section.home_network)
    )
    found = hosts.lookup_nai(b"pilot@crew.aa.com")
    assert found is not None
    assert found.home_address == 0
    assert hosts.lookup(0) is None
    assert [entry.nai for entry in hosts.entries(10)] == ["pilot@crew.aa.com"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SECOND + 'prefix = "10.1.0.24/29"', r"pool\[1\]: overlaps pool one"),
        (SECOND + 'prefix = "10.1.1.0/28"', r"pool\[1\]\.prefix: not in home_network"),
        (SECOND + 'prefix = "10.0.0.0/8"', r"pool\[1\]\.prefix: not in home_network"),
        (SECOND + 'first = "10.1.0.9"', r"pool\[1\]: say either"),
        (SECOND, r"pool\[1\]: say either"),
        (SECOND + 'first = "10.1.0.9"\nlast = "10.1.0.8"', r"pool\[1\]\.last: lies before"),
        (BASE.replace('"one"', '""'), r"pool\[0\]\.name: use 1 to 63"),
        (
            SECOND.replace('"two"', '"one"') + 'prefix = "10.1.0.64/28"',
            r"pool\[1\]\.name: is another pool's",
        ),
        (BASE + HOST, r"host\[0\]\.home_address: is missing: give it, or a nai"),
        (
            BASE.replace("last", 'realms = ["b.org"]\nlast')
            + HOST.replace("]]\n", ']]\nnai = "n@a.org"\n', 1),
            r"host\[0\]\.home_address: is missing, and no pool serves",
        ),
        (
            BASE + HOST.replace("]]\n", ']]\nnai = "n@a.org"\nnetworks = ["10.2.0.0/24"]\n', 1),
            r"host\[0\]\.networks: needs a home_address",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        check_text("f", text)
    assert "\n" not in str(caught.value)


def test_a_reload_tells_hosts_without_address_by_name() -> None:
    before = check_text("f", EXAMPLE)
    after = check_text("f", EXAMPLE.replace("pilot@", "steward@").replace("199", "198"))
    changes = planned_changes(before, after)
    assert "host pilot@crew.aa.com: removed" in changes
    assert "host steward@crew.aa.com: added" in changes
    assert any(change.startswith("home_agent.address_pools") for change in changes)


def test_a_reload_frees_what_lies_in_no_pool_or_whose_host_is_gone_or_moved_in() -> None:
    named = "".join(HOST.replace("]]\n", f']]\nnai = "{n}@a.org"\n', 1) for n in "abcd")
    old = check_text("f", BASE + named).home_agent
    assert old is not None
    pools = AddressPools(pools_of(old), reserved=reserved_of(old))
    names = [b"%c@a.org" % letter for letter in b"abcd"]
    given = [cast(int, pools.assign(name, 0, lambda _address: True)) for name in names]
    assert given == [given[0] + n for n in range(4)]
    text = BASE.replace("10.1.0.16", "10.1.0.17") + named.replace("b@a.org", "e@a.org")
    text += HOST.replace("]]\n", ']]\nhome_address = "10.1.0.18"\n', 1)
    new = check_text("f", text).home_agent
    assert new is not None
    home = prefix_of(new.home_network)
    hosts = HostDirectory(lambda *_: [], new.hosts, home_network=home, addresses=pools)
    service: Any = SimpleNamespace(agent=SimpleNamespace(addresses=pools), hosts=hosts)
    assert revise_pools(service, new) == given[:3]
    assert pools.addresses() == [(given[3], b"d@a.org")]
    kept = hosts.lookup(given[3])
    assert kept is not None
    assert (kept.home_address, kept.nai) == (given[3], b"d@a.org")
