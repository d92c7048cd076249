"""Command groups that take any unique beginning of a command's name, as routers do."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping


class AbbreviatingGroup(click.Group):
    """A group where ``sh bin`` means ``show binding`` as long as only one command fits.

    Commands named in ``lazy`` (name -> ``module:attribute``) are imported when first asked
    for, so that ``fastmip show binding`` does not pay for the demo or the doctor.
    """

    def __init__(self, *args: object, lazy: Mapping[str, str] | None = None, **kw: object) -> None:
        """Take click's arguments and the lazy commands."""
        super().__init__(*args, **kw)  # type: ignore[arg-type]  # passed on as they came
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name all commands, the lazy ones too."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its exact name."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in self._lazy:
            module, _, attribute = self._lazy[cmd_name].partition(":")
            found = getattr(importlib.import_module(module), attribute)
            self.add_command(found, cmd_name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Complete an abbreviation, then resolve as click does."""
        if args and not args[0].startswith("-"):
            args = [self._completed(ctx, args[0]), *args[1:]]
        return super().resolve_command(ctx, args)

    def _completed(self, ctx: click.Context, word: str) -> str:
        names = self.list_commands(ctx)
        if word in names:
            return word
        fitting = [name for name in names if name.startswith(word) and not self._hides(name)]
        if len(fitting) > 1:
            ctx.fail(f"{word!r} is ambiguous: {', '.join(fitting)}")
        return fitting[0] if fitting else word

    def _hides(self, name: str) -> bool:
        """Hidden commands must be typed in full (or within their own group)."""
        command = self.commands.get(name)
        return command is not None and command.hidden
