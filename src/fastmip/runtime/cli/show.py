"""``fastmip show ...``: what the daemon knows, in the words of routers.

``show ip mobile binding`` is the same as ``show binding``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fastmip.runtime.cli.client import ControlClient, control_options
from fastmip.runtime.cli.groups import AbbreviatingGroup
from fastmip.runtime.cli.render import json_option, print_result

if TYPE_CHECKING:
    from pathlib import Path

SUBJECTS = {
    "binding": "Mobile nodes away from home: care-of addresses and lifetimes.",
    "tunnel": "Tunnels with their packets, bytes and path MTU.",
    "traffic": "Registration counters, by their RFC 2006 names.",
    "secure": "Mobility security associations, without their keys.",
    "runtime": "Cost of every stage of the packet engine.",
    "errors": "Packets by verdict: why they were dropped.",
    "interface": "Interfaces and devices in use.",
    "violation": "Security violations by peer (RFC 2006 mipSecViolationTable).",
    "host": "Mobile nodes that may register here.",
    "handover": "Moves of the mobile node: from, to, how long.",
}


@click.group(cls=AbbreviatingGroup)
def show() -> None:
    """Show what the daemon knows; --json for programs."""


@click.group(cls=AbbreviatingGroup, hidden=True)
def ip() -> None:
    """Accept the router's longer words."""


@click.group(cls=AbbreviatingGroup)
def mobile() -> None:
    """Accept the router's longer words."""


def _command(subject: str, explanation: str) -> click.Command:
    @click.command(subject, help=explanation)
    @json_option
    @control_options
    def command(socket_path: Path, timeout_s: float, *, as_json: bool) -> None:
        words = f"show {subject}"
        print_result(words, ControlClient(socket_path, timeout_s).ask(words), as_json=as_json)

    return command


for _subject, _explanation in SUBJECTS.items():
    _made = _command(_subject, _explanation)
    show.add_command(_made)
    mobile.add_command(_made)
ip.add_command(mobile)
show.add_command(ip)
