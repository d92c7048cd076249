"""``fastmip doctor``: is this machine fit to be a home agent or a mobile node?"""

from __future__ import annotations

import click
from rich.text import Text

from fastmip.runtime.cli.daemon import load_or_fail
from fastmip.runtime.cli.doctor_checks import FAIL, OK, WARN, Subject, diagnose
from fastmip.runtime.cli.doctor_machine import LinuxMachine
from fastmip.runtime.cli.failures import printable
from fastmip.runtime.cli.render import console_for_stdout, json_option, print_json

STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}


@click.command()
@click.argument("config", type=click.Path(), required=False)
@json_option
@click.pass_context
def doctor(ctx: click.Context, config: str | None, *, as_json: bool) -> None:
    """Check this machine, and against CONFIG its interfaces, clock and limits.

    Changes nothing. Exit code 1 when something will not work.
    """
    subject = Subject() if config is None else Subject.of(load_or_fail(config))
    findings = diagnose(LinuxMachine(), subject)
    counts = {status: sum(f.status == status for f in findings) for status in STYLES}
    if as_json:
        rows = [finding._asdict() for finding in findings]
        print_json({"command": "doctor", "rows": rows, "summary": counts})
    else:
        console = console_for_stdout()
        for finding in findings:
            line = Text(f"{finding.status:4}  ", style=STYLES[finding.status])
            line.append(f"{finding.check:13} {printable(finding.detail)}", style="default")
            console.print(line)
            if finding.remedy:
                console.print(Text(f"      {'':13} -> {printable(finding.remedy)}"))
        console.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    ctx.exit(1 if counts[FAIL] else 0)
