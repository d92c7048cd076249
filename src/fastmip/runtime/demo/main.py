"""``fastmip demo``: run the whole scenario and leave a report."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
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
def demo_command(output: Path, json_file: Path | None) -> None:
    """Show a TCP connection surviving every move of a mobile node, in namespaces."""
    del output, json_file
    raise click.ClickException("the demonstration is not complete yet")
