"""``fastmip``: the entry point and its table of commands.

Exit codes: 0 done; 1 refused by the daemon or a check failed; 2 wrong usage; 3 configuration
refused; 4 no daemon answered; 130 interrupted. ``docs/cli.md`` describes every command.
"""

from __future__ import annotations

import click

from fastmip import __version__
from fastmip.runtime.cli.groups import AbbreviatingGroup

_HERE = "fastmip.runtime.cli"

COMMANDS = {
    "bench": f"{_HERE}.bench:bench",
    "capture": f"{_HERE}.capture:capture",
    "check": f"{_HERE}.daemon:check",
    "clear": f"{_HERE}.clear:clear",
    "debug": f"{_HERE}.debug:debug",
    "demo": "fastmip.runtime.demo.main:demo_command",
    "doctor": f"{_HERE}.doctor:doctor",
    "drain": f"{_HERE}.daemon:drain",
    "host": f"{_HERE}.host:host",
    "init": f"{_HERE}.init:init",
    "prefer": f"{_HERE}.daemon:prefer",
    "reload": f"{_HERE}.daemon:reload",
    "run": f"{_HERE}.daemon:run",
    "show": f"{_HERE}.show:show",
    "status": f"{_HERE}.daemon:status",
    "top": f"{_HERE}.top:top",
    "trace": f"{_HERE}.trace:trace",
}


@click.group(
    cls=AbbreviatingGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="fastmip")
def main() -> None:
    """Mobile IPv4: home agent, mobile node, packet engine.

    Every command may be shortened while it stays unique: "fastmip sh bin".
    """
