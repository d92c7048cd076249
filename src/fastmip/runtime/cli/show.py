"""``fastmip show ...``: what the daemon knows, in the words of routers.

``show ip mobile binding`` is the same as ``show binding``.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from fastmip.runtime.cli.clear import Ipv4Address
from fastmip.runtime.cli.client import ControlClient, control_options
from fastmip.runtime.cli.groups import AbbreviatingGroup
from fastmip.runtime.cli.render import json_option, print_result, rows_and_summary
from fastmip.runtime.cli.trace import show_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_F = TypeVar("_F", bound="Callable[..., Any]")

SUBJECTS = {
    "binding": "Mobile nodes away from home: care-of addresses and lifetimes.",
    "visitor": "Mobile nodes served by the foreign agent here.",
    "pending": "Requests that wait for their home agents.",
    "tunnel": "Tunnels with their packets, bytes and path MTU.",
    "traffic": "Registration counters, by their RFC 2006 names.",
    "secure": "Mobility security associations, without their keys.",
    "runtime": "Cost of every stage of the packet engine.",
    "errors": "Packets by verdict: why they were dropped.",
    "interface": "Interfaces and devices in use.",
    "violation": "Security violations by peer (RFC 2006 mipSecViolationTable).",
    "host": "Mobile nodes that may register here.",
    "group": "Home agents that share their nodes, and their loads.",
    "mobile-networks": "Networks behind mobile routers, and where they lead.",
    "pool": "Home addresses for nodes without one, and who has which.",
    "fixed-host": "Hosts the foreign agent here registered for good.",
    "agent": "Mobility agents: heard on the links, and what we advertise ourselves.",
    "host-configuration": "Mobile node: what the home agent told of the home network.",
    "handover": "Moves of the mobile node: from, to, how long.",
}

LIMITED = {"pool", "mobile-networks", "binding", "tunnel", "host", "secure", "visitor", "pending"}
BY_ADDRESS = {"binding", "tunnel", "visitor"}
MOBILE_NODE = "mobile-node"
"""``role`` of a mobile node's rows in an answer of both roles."""
PAGE = 10_000
"""Rows of one answer at most; the daemon holds no longer list together."""


@click.group(cls=AbbreviatingGroup)
def show() -> None:
    """Show what the daemon knows; --json for programs."""


@click.group(cls=AbbreviatingGroup, hidden=True)
def ip() -> None:
    """Accept the router's longer words."""


@click.group(cls=AbbreviatingGroup)
def mobile() -> None:
    """Accept the router's longer words."""


class _Show(NamedTuple):
    """What the options of one ``show`` command ask for."""

    client: ControlClient
    words: str
    arguments: dict[str, Any]

    def ask(self, *, everything: bool) -> Any:
        """Ask once, or page by page until a page is empty."""
        if not everything:
            return self.client.ask(self.words, self.arguments)
        rows: list[dict[str, Any]] = []
        after = -1
        arguments = {**self.arguments, "limit": PAGE}
        while True:
            page, summary = rows_and_summary(self.words, self.client.ask(self.words, arguments))
            # A mobile node answers with all it has, whatever was asked: once is enough.
            pageable = [row for row in page if row.get("role") != MOBILE_NODE]
            last = max(map(_home_address, pageable), default=-1)
            rows += page if after < 0 else [r for r in pageable if _home_address(r) > after]
            if last <= after:
                return {"rows": rows, "summary": {**summary, "shown": len(rows)}}
            after = last
            arguments["after"] = str(ipaddress.IPv4Address(after))


def _home_address(row: dict[str, Any]) -> int:
    try:
        return int(ipaddress.IPv4Address(row.get("home_address", "")))
    except ValueError:
        return -1


def _paging(subject: str, command: _F) -> _F:
    """Add the options that choose rows, where the daemon understands them."""
    if subject in LIMITED:
        command = click.option(
            "--limit",
            type=click.IntRange(1, PAGE),
            help="Longest list to answer with.  [default: 1000]",
        )(command)
    if subject in BY_ADDRESS:
        command = click.argument("home_address", type=Ipv4Address(), required=False)(command)
        command = click.option(
            "--after", type=Ipv4Address(), help="Begin behind this home address."
        )(command)
    if subject == "binding":
        command = click.option("--all", "everything", is_flag=True, help="List all of them.")(
            command
        )
    return command


def _command(subject: str, explanation: str) -> click.Command:
    def command(
        socket_path: Path,
        timeout_s: float,
        *,
        as_json: bool,
        everything: bool = False,
        **chosen: object,
    ) -> None:
        words = f"show {subject}"
        arguments = {name: value for name, value in chosen.items() if value is not None}
        show_it = _Show(ControlClient(socket_path, timeout_s), words, arguments)
        print_result(words, show_it.ask(everything=everything), as_json=as_json)

    decorated = _paging(subject, json_option(control_options(command)))
    return click.command(subject, help=explanation)(decorated)


for _subject, _explanation in SUBJECTS.items():
    _made = _command(_subject, _explanation)
    show.add_command(_made)
    mobile.add_command(_made)
show.add_command(show_trace)
ip.add_command(mobile)
show.add_command(ip)
