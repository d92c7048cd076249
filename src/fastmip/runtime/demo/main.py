"""``fastmip demo``: run the whole scenario in namespaces and leave a report.

1. Without the capabilities for namespaces the command starts itself again inside an
   unprivileged user namespace, with a private ``/run`` for ``ip netns``.
2. A signal to stop becomes an exception, so that every exit passes through the clean-up.
3. The scene is played; table, HTML report, capture and JSON list are written.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import msgspec
from rich.console import Console

from fastmip.runtime.demo import plane_scene
from fastmip.runtime.demo.foreign_scene import ForeignScript
from fastmip.runtime.demo.lab import LabError
from fastmip.runtime.demo.report import as_json, write_html
from fastmip.runtime.demo.scenes import HomeAgentScript
from fastmip.runtime.demo.script import Check, Outcome, Script, require_programs
from fastmip.runtime.demo.stage import Stage
from fastmip.runtime.demo.view import LEGEND, View, result_tables, total_line

PLANE = "plane"
_INSIDE = "FASTMIP_DEMO_USER_NAMESPACE"
_LOGS = ("ha", "mn", "fa1", "fa2", "capture", "traffic")
_SCENES: dict[str, type[Script]] = {
    script.scene: script for script in (HomeAgentScript, ForeignScript)
}
_ENGINES = {"kernel": "", "xdp": 'io = "xdp"\ninterfaces = ["eth0"]\n'}
"""Name of an io -> what the home agent's ``[engine]`` is told."""
_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21
_PROGRAMS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


@click.command("demo")
@click.option(
    "--scene",
    type=click.Choice([*_SCENES, PLANE]),
    default="home-agent",
    show_default=True,
    help="home-agent: addresses of its own on two links; foreign: two foreign agents and an"
    " address translator, over each encapsulation; plane: a laptop in an aircraft that is a mobile"
    " router, with the headers at every hop.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-report"),
    show_default=True,
    help="Directory for the HTML report and the capture.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the final table as a list of {name, value, unit} objects.",
)
@click.option(
    "--io",
    type=click.Choice(list(_ENGINES)),
    default="kernel",
    show_default=True,
    help="How the home agent's packets come and go; xdp needs root.",
)
@click.option(
    "--offload",
    is_flag=True,
    help="Let the home agent's kernel carry what is plain; needs root.",
)
def demo_command(
    scene: str, output: Path, json_file: Path | None, io: str, *, offload: bool
) -> None:
    """Show a TCP connection surviving every move of a mobile node.

    Builds a network of namespaces on this machine: a correspondent, a core router, a home link
    with its home agent, visited links and a mobile node. The mobile node goes from link to
    link while two TCP transfers and a paced UDP stream run to and from its home address.
    Works as root and, in a user namespace, without. Ends with status 1 when TCP did not
    survive a move.
    """
    if scene == PLANE and (io != "kernel" or offload):
        raise click.UsageError("the scene plane takes neither --io nor --offload")
    script = _SCENES.get(scene, Script)
    needed = {**_PROGRAMS, **script.programs, **({"ethtool": "ethtool"} if offload else {})}
    for program, package in needed.items():
        if not shutil.which(program):
            raise click.ClickException(f"{program} is missing: install {package}")
    if not _may_make_namespaces():
        _enter_user_namespace()
    with _signals_as_exit():
        if scene == PLANE:
            sys.exit(_fly(output, json_file))
        try:
            engine = io_lines(io, is_offload=offload)
            outcome = _run(script, output, engine)
        except LabError as error:
            raise click.ClickException(str(error)) from error
        _show(outcome, output)
        if json_file:
            json_file.write_bytes(
                msgspec.json.format(msgspec.json.encode(as_json(outcome))) + b"\n"
            )
    sys.exit(0 if outcome.succeeded else 1)


def _fly(output: Path, json_file: Path | None) -> int:
    """Play the scene of the aircraft; returns the exit code."""
    output.mkdir(parents=True, exist_ok=True)
    console = Console(emoji=False, highlight=False)
    view = View(console)
    capture = output / "demo.pcapng"
    try:
        with view:
            flight = plane_scene.play(capture, view.say)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    for line in plane_scene.as_lines(flight):
        click.echo(line)
    _show_checks(console, flight.checks)
    click.echo(f"{flight.seconds:.1f} s; capture in {capture}")
    if json_file:
        rows = plane_scene.as_rows(flight)
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
    return 0 if flight.succeeded else 1


def _show_checks(console: Console, checks: list[Check]) -> None:
    for check in checks:
        mark = "[green]ok[/green]" if check.holds else "[red]FAILED[/red]"
        console.print(f"{mark}  {check.name}: {check.detail}", soft_wrap=True)


def io_lines(io: str, *, is_offload: bool) -> str:
    """What the home agent's ``[engine]`` is told."""
    if not is_offload:
        return _ENGINES[io]
    return f'io = "{io}"\noffload = true\ninterfaces = ["eth0", "eth1"]\n'


def _run(script: type[Script], output: Path, engine: str) -> Outcome:
    """Play the scene and write report and capture."""
    output.mkdir(parents=True, exist_ok=True)
    capture, report = output / "demo.pcapng", output / "report.html"
    for stale in (report, *(output / f"{name}.log" for name in _LOGS)):
        stale.unlink(missing_ok=True)  # of an earlier run; they would tell of another one
    started = time.monotonic()
    view = View(Console(emoji=False, highlight=False))
    with Stage(capture, view.tick, script.topology) as stage:
        require_programs(stage.lab)
        try:
            with view:
                outcome = script(stage, view, engine).play()
        except LabError:
            _keep_logs(stage, output)
            raise
        if not outcome.succeeded:
            _keep_logs(stage, output)
    outcome.seconds = time.monotonic() - started
    outcome.events = view.events
    report.write_text(write_html(outcome, capture.name), encoding="utf-8")
    return outcome


def _show(outcome: Outcome, output: Path) -> None:
    """Print the final table, the checks and where the report is."""
    console = Console(emoji=False, highlight=False)
    for table in result_tables(outcome.results):
        console.print(table)
    console.print(total_line(outcome.results))
    console.print(LEGEND)
    _show_checks(console, outcome.checks)
    console.print(
        f"{outcome.seconds:.1f} s; report in {output / 'report.html'},"
        f" capture in {output / 'demo.pcapng'}",
        highlight=False,
        soft_wrap=True,
    )


def _keep_logs(stage: Stage, output: Path) -> None:
    """Copy the programs' logs out of the lab's directory, for whoever looks for the cause."""
    for log in (stage.lab.directory / f"{name}.log" for name in _LOGS):
        if log.exists():
            shutil.copyfile(log, output / log.name)
    click.echo(f"the logs of the lab's programs are in {output}", err=True)


# ------------------------------------------------------------------ privilege
def _may_make_namespaces() -> bool:
    """Whether this process has the capabilities the lab needs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
            return bool(effective >> _CAP_NET_ADMIN & effective >> _CAP_SYS_ADMIN & 1)
    return False


def _enter_user_namespace() -> None:
    """Start this command again as root of a new user namespace; does not return."""
    if os.environ.get(_INSIDE):
        raise click.ClickException("the user namespace gave no capabilities; run as root")
    namespaces = ["unshare", "-Urnm", "--map-root-user"]
    attempt = subprocess.run([*namespaces, "true"], check=False, capture_output=True, text=True)
    if attempt.returncode:
        raise click.ClickException(
            f"no user namespace ({attempt.stderr.strip()}): run as root, or allow them"
            " (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns);"
            " in a chroot the kernel allows none"
        )
    os.environ[_INSIDE] = "1"
    script = 'mount -t tmpfs tmpfs /run && exec "$@"'
    inside = ["sh", "-c", script, "sh", sys.executable, *sys.orig_argv[1:]]
    sys.stdout.flush()
    os.execvp("unshare", [*namespaces, *inside])  # noqa: S606 -- replaces this process, from PATH by design


@contextmanager
def _signals_as_exit() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into one SystemExit; further ones wait for the clean-up."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        for other in signals:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
