"""``fastmip run``, ``check``, ``reload``, ``status``: the daemon and its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fastmip.errors import ConfigError
from fastmip.runtime import config_checks
from fastmip.runtime.cli.client import ControlClient, control_options
from fastmip.runtime.cli.failures import ConfigRefused
from fastmip.runtime.cli.render import cell, json_option, print_done, print_json, print_table
from fastmip.runtime.config import Config, load_config

if TYPE_CHECKING:
    from pathlib import Path


def load_or_fail(path: str) -> Config:
    """Load a configuration; ConfigRefused with the one line when it is not accepted."""
    try:
        return load_config(path)
    except ConfigError as error:
        raise ConfigRefused(str(error)) from None


@click.command()
@click.argument("config", type=click.Path())
@click.pass_context
def run(ctx: click.Context, config: str) -> None:
    """Run the daemon in the foreground with the roles that CONFIG names.

    SIGTERM and SIGINT stop it, SIGHUP reloads CONFIG.
    """
    load_or_fail(config)  # a refused file never gets as far as sockets and devices
    from fastmip.runtime.daemon import run_daemon  # noqa: PLC0415 - loads the packet engine

    ctx.exit(run_daemon(config))


@click.command()
@click.argument("config", type=click.Path())
@json_option
def check(config: str, *, as_json: bool) -> None:
    """Check CONFIG and its key files without starting anything."""
    loaded = load_or_fail(config)
    facts = summary(loaded)
    warnings = config_checks.warnings(loaded)
    if as_json:
        print_json({"command": "check", "file": config, "summary": facts, "warnings": warnings})
        return
    for warning in warnings:
        click.echo(f"warning: {config}: {warning}", err=True)
    facts_text = ", ".join(f"{name} {cell(value)}" for name, value in facts.items())
    click.echo(f"{config}: ok ({facts_text})")


def summary(config: Config) -> dict[str, object]:
    """Say in few words what a configuration makes of this machine."""
    facts: dict[str, object] = {}
    if config.home_agent is not None:
        facts["home_agent"] = str(config.home_agent.address)
        facts["home_network"] = str(config.home_agent.home_network)
        facts["hosts"] = len(config.home_agent.hosts)
    if config.mobile_node is not None:
        facts["mobile_node"] = str(config.mobile_node.home_address)
        facts["interfaces"] = list(config.mobile_node.interfaces)
    return facts


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would change, change nothing.")
@json_option
@control_options
def reload(socket_path: Path, timeout_s: float, *, as_json: bool, dry_run: bool) -> None:
    """Let the daemon apply the changes of its configuration file, or refuse all of them."""
    result = ControlClient(socket_path, timeout_s).ask("reload", {"dry_run": dry_run})
    changes = result.get("changes", []) if isinstance(result, dict) else []
    if as_json:
        print_json({"command": "reload", "dry_run": dry_run, "changes": changes})
        return
    for change in changes:
        click.echo(cell(change))
    if not changes:
        click.echo("nothing to change")
    elif dry_run:
        click.echo("nothing was changed: this was a dry run")


@click.command()
@json_option
@control_options
def status(socket_path: Path, timeout_s: float, *, as_json: bool) -> None:
    """Say whether the daemon runs and how it is."""
    result = ControlClient(socket_path, timeout_s).ask("status")
    facts = result if isinstance(result, dict) else {"status": result}
    if as_json:
        print_json({"command": "status", "summary": facts})
    else:
        print_table([], facts)


@click.command()
@click.argument("interface", required=False)
@json_option
@control_options
def prefer(socket_path: Path, timeout_s: float, interface: str | None, *, as_json: bool) -> None:
    """Mobile node: move to INTERFACE and keep to it; without one, as configured again."""
    arguments = {"interface": interface} if interface else {}
    ControlClient(socket_path, timeout_s).ask("prefer", arguments)
    line = f"{interface} is preferred" if interface else "the configured order holds"
    print_done("prefer", line, as_json=as_json, preferred=interface)


@click.command()
@click.argument("state", type=click.Choice(["on", "off", "status"]))
@json_option
@control_options
def drain(socket_path: Path, timeout_s: float, state: str, *, as_json: bool) -> None:
    """Home agent: send nodes to the others of its group, before maintenance."""
    answer = ControlClient(socket_path, timeout_s).ask("drain", {"state": state})
    is_on = bool(answer["draining"])
    word = "draining" if is_on else "not draining"
    print_done(
        "drain",
        f"{word}: {answer['bindings']} bindings left",
        as_json=as_json,
        draining=is_on,
        bindings=answer["bindings"],
    )
