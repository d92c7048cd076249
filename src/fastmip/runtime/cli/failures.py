"""How the command line ends when something is wrong: one line on stderr, a documented code."""

from __future__ import annotations

from typing import IO, Any

import click


class Failure(click.ClickException):
    """Ends the program with one line ``fastmip: ...``: the daemon refused, or a check failed."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Take the line; line breaks in it become spaces."""
        super().__init__(" ".join(message.split()))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line to stderr."""
        click.echo(f"fastmip: {self.message}", file=file, err=file is None)


class ConfigRefused(Failure):
    """A configuration file was refused."""

    exit_code = 3


class Unreachable(Failure):
    """No daemon answered on the control socket, or not in our language."""

    exit_code = 4
