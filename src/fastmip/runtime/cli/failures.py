"""How the command line ends when something is wrong: one line on stderr, a documented code."""

from __future__ import annotations

from typing import IO, Any

import click


class Failure(click.ClickException):
    """Ends the program with one line ``fastmip: ...``: the daemon refused, or a check failed."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Take the line; line breaks and control characters do not get through."""
        super().__init__(printable(" ".join(message.split())))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line to stderr."""
        click.echo(f"fastmip: {self.message}", file=file, err=file is None)


class ConfigRefused(Failure):
    """A configuration file was refused."""

    exit_code = 3


class Unreachable(Failure):
    """No daemon answered on the control socket, or not in our language."""

    exit_code = 4


def printable(text: str) -> str:
    """Replace control characters: what came from the network must not drive the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
