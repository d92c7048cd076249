"""docs/configuration.md names every key with its real default and range, and no other."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from fastmip.runtime.config import (
    AaaConfig,
    Config,
    DaemonConfig,
    EngineConfig,
    ForeignAgentConfig,
    HomeAgentConfig,
    HostConfig,
    MetricsConfig,
    MobileNodeConfig,
    SentExtensionConfig,
    VendorExtensionConfig,
    check_text,
)
from fastmip.runtime.config_types import AssociationConfig
from fastmip.runtime.fixed_host_config import FixedHostConfig
from fastmip.runtime.foreign_config import (
    AdvertiseConfig,
    ForeignAgentRoleConfig,
    HomeAgentPeerConfig,
    VisitorConfig,
)
from fastmip.runtime.foreign_service import NEEDS_RESTART as FOREIGN_NEEDS_RESTART
from fastmip.runtime.group_config import GroupConfig, GroupMemberConfig
from fastmip.runtime.home_policy import NEEDS_RESTART
from fastmip.runtime.host_configuration import HostConfigurationConfig
from fastmip.runtime.mobile_service import RELOADABLE
from fastmip.runtime.network_config import MobileNetworksConfig
from fastmip.runtime.pool_config import PoolConfig
from fastmip.runtime.router_config import RouterConfig

DOCUMENT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "`[daemon]`": DaemonConfig,
    "`[engine]`": EngineConfig,
    "`[metrics]`": MetricsConfig,
    "`[home_agent]`": HomeAgentConfig,
    "`[[home_agent.host]]`": HostConfig,
    "`[[home_agent.pool]]`": PoolConfig,
    "`[home_agent.group]`": GroupConfig,
    "`[[home_agent.group.member]]`": GroupMemberConfig,
    "`[home_agent.mobile_networks]`": MobileNetworksConfig,
    "`[home_agent.host_configuration]`": HostConfigurationConfig,
    "`[[home_agent.foreign_agent]]`": ForeignAgentConfig,
    "`[home_agent.host.aaa]`": AaaConfig,
    "Associations": AssociationConfig,
    "`[foreign_agent]`": ForeignAgentRoleConfig,
    "`[[foreign_agent.mobile_node]]`": VisitorConfig,
    "`[[foreign_agent.home_agent]]`": HomeAgentPeerConfig,
    "`[[advertise]]`": AdvertiseConfig,
    "`[mobile_node]`": MobileNodeConfig,
    "`[[vendor_extension]]`": VendorExtensionConfig,
    "`[[mobile_node.vendor_extension]]`": SentExtensionConfig,
    "`[mobile_node.aaa]`": AaaConfig,
    "`[mobile_node.router]`": RouterConfig,
    "`[[foreign_agent.fixed_host]]`": FixedHostConfig,
}
DERIVED = {"home_gateway": "the home agent"}
"""Defaults that are taken from another key."""


def rows_of(heading: str) -> dict[str, list[str]]:
    """Key -> cells of the table under a heading."""
    match = re.search(rf"^##+ {re.escape(heading)}$(.*?)(?=^##|\Z)", DOCUMENT, re.M | re.S)
    assert match is not None, heading
    rows = {}
    for line in match[1].splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 5, line
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def documented_default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.encode_name in DERIVED:
        return DERIVED[field.encode_name]
    value = field.default
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    if field.name == "fwmark":
        return f"`{value:#x}`"
    return f'`"{value}"`' if isinstance(value, str | Path) else f"`{value}`"


@pytest.mark.parametrize("heading", SECTIONS)
def test_keys_and_defaults_are_those_of_the_code(heading: str) -> None:
    fields = msgspec.structs.fields(SECTIONS[heading])
    rows = rows_of(heading)
    assert {name: cells[0] for name, cells in rows.items()} == {
        field.encode_name: documented_default(field) for field in fields
    }
    assert list(rows) == [field.encode_name for field in fields]
    assert all(cells[2] for cells in rows.values())


@pytest.mark.parametrize("heading", SECTIONS)
def test_ranges_and_choices_are_those_of_the_code(heading: str) -> None:
    rows = rows_of(heading)
    for field in msgspec.structs.fields(SECTIONS[heading]):
        values = rows[field.encode_name][1]
        for bound in bounds(field.type):
            assert str(bound) in values, f"{heading} {field.encode_name}: {bound}"
        for choice in choices(field.type):
            assert f"`{choice}`" in values or f'`"{choice}"`' in values, field.encode_name


def bounds(kind: Any) -> list[int]:
    if isinstance(kind, msgspec.Meta):
        # An SPI may be 0 for the types and is refused below 256 for its meaning.
        return [256 if kind.le == 0xFFFFFFFF and kind.ge == 0 else kind.ge, kind.le]  # type: ignore[list-item]
    return [bound for inner in (*get_args(kind), *meta_of(kind)) for bound in bounds(inner)]


def meta_of(kind: Any) -> tuple[Any, ...]:
    return getattr(kind, "__metadata__", ())


def choices(kind: Any) -> list[str]:
    if get_origin(kind) is not None and str(get_origin(kind)) == "typing.Literal":
        return [str(value) for value in get_args(kind)]
    return [choice for inner in get_args(kind) for choice in choices(inner)]


def test_what_needs_a_restart_is_what_the_home_agent_refuses_to_reload() -> None:
    changes = {name: cells[3] for name, cells in rows_of("`[home_agent]`").items()}
    assert set(changes.values()) == {"reload", "restart"}
    assert {name for name, change in changes.items() if change == "restart"} == set(NEEDS_RESTART)


def test_what_needs_a_restart_is_what_the_foreign_agent_refuses_to_reload() -> None:
    changes = {name: cells[3] for name, cells in rows_of("`[foreign_agent]`").items()}
    restart = {name for name, change in changes.items() if change == "restart"}
    fields = msgspec.structs.fields(ForeignAgentRoleConfig)
    assert restart == {f.encode_name for f in fields if f.name in FOREIGN_NEEDS_RESTART}


def test_what_can_be_reloaded_is_what_the_mobile_node_reloads() -> None:
    changes = {name: cells[3] for name, cells in rows_of("`[mobile_node]`").items()}
    assert {name for name, change in changes.items() if change == "reload"} == set(RELOADABLE)


def test_every_table_of_the_file_is_documented() -> None:
    names = {field.name for field in msgspec.structs.fields(Config)}
    assert names == {
        "daemon",
        "engine",
        "home_agent",
        "foreign_agent",
        "advertisements",
        "metrics",
        "mobile_node",
        "vendor_extensions",
    }


def test_the_example_is_a_configuration() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.S)
    assert check_text("example.toml", example).home_agent is not None
    assert tomllib.loads(example)["home_agent"]["host"]


def test_the_error_shown_is_the_error_made() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.S)
    [shown] = re.findall(r"^fastmip: (/etc/.*)$", DOCUMENT, re.M)
    with pytest.raises(Exception, match="SPIs below 256") as caught:
        check_text("/etc/fastmip/fastmip.toml", example.replace("spi = 256", "spi = 1"))
    assert str(caught.value) == shown
