"""``fastmip clear ...``: remove bindings, reset counters."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import click

from fastmip.runtime.cli.client import ControlClient, control_options
from fastmip.runtime.cli.groups import AbbreviatingGroup
from fastmip.runtime.cli.render import json_option, print_done

if TYPE_CHECKING:
    from pathlib import Path


REVOCATION_TIMEOUT_S = 10.0
"""The daemon waits some seconds for acknowledgments."""


class Ipv4Address(click.ParamType[str]):
    """An IPv4 address as an argument; stays text, as the control socket wants it."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check and return the dotted quad."""
        try:
            return str(ipaddress.IPv4Address(value))
        except ValueError:
            self.fail(f"{value!r} is not an IPv4 address", param, ctx)


@click.group(cls=AbbreviatingGroup)
def clear() -> None:
    """Remove bindings and visitors, reset counters."""


@click.group(cls=AbbreviatingGroup, hidden=True)
def ip() -> None:
    """Accept the router's longer words."""


@click.group(cls=AbbreviatingGroup)
def mobile() -> None:
    """Accept the router's longer words."""


@click.command()
@click.argument("address", type=Ipv4Address(), required=False)
@click.option("--all", "every", is_flag=True, help="Remove the bindings of every mobile node.")
@click.option(
    "--revoke", is_flag=True, help="Wait until foreign agents acknowledged the revocation."
)
@json_option
@control_options
def binding(
    socket_path: Path,
    timeout_s: float,
    address: str | None,
    *,
    every: bool,
    revoke: bool,
    as_json: bool,
) -> None:
    """Remove the bindings of home address ADDRESS, or of all.

    Foreign agents and mobile nodes that negotiated revocation (RFC 3543) are told of it.
    """
    if every == (address is not None):
        raise click.UsageError("name one home ADDRESS, or say --all")
    arguments: dict[str, Any] = {"all": True} if every else {"home_address": address}
    if revoke:
        arguments["revoke"] = True
        timeout_s = max(timeout_s, REVOCATION_TIMEOUT_S)
    result = ControlClient(socket_path, timeout_s).ask("clear binding", arguments)
    facts = result if isinstance(result, dict) else {}
    lines = ["all bindings removed" if every else f"binding of {address} removed"]
    told = {name: facts[name] for name in ("told", "acknowledged") if name in facts}
    if told:
        lines.append("{acknowledged} of {told} acknowledged".format(**told))
    print_done("clear binding", *lines, as_json=as_json, cleared=facts.get("cleared"), **told)


@click.command()
@click.argument("address", type=Ipv4Address(), required=False)
@click.option("--all", "every", is_flag=True, help="Take every visitor away.")
@json_option
@control_options
def visitor(
    socket_path: Path, timeout_s: float, address: str | None, *, every: bool, as_json: bool
) -> None:
    """Take the visitor with home address ADDRESS away, or all; home agents are told."""
    if every == (address is not None):
        raise click.UsageError("name one home ADDRESS, or say --all")
    arguments = {"all": True} if every else {"home_address": address}
    result = ControlClient(socket_path, timeout_s).ask("clear visitor", arguments)
    cleared = result.get("cleared") if isinstance(result, dict) else None
    line = "all visitors taken away" if every else f"visitor {address} taken away"
    print_done("clear visitor", line, as_json=as_json, cleared=cleared)


@click.command()
@json_option
@control_options
def traffic(socket_path: Path, timeout_s: float, *, as_json: bool) -> None:
    """Set traffic and error counters to zero."""
    ControlClient(socket_path, timeout_s).ask("clear traffic")
    print_done("clear traffic", "counters cleared", as_json=as_json)


for _command in (binding, visitor, traffic):
    clear.add_command(_command)
    mobile.add_command(_command)
ip.add_command(mobile)
clear.add_command(ip)
