"""A group of commands that are imported when they are asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group that knows its commands by the place where each is defined (`"module:name"`).

    So `frontdesk sync` does not wait for Alembic, nor `frontdesk up` for what draws the demos.
    """

    def __init__(self, *args: Any, import_paths: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._import_paths = import_paths

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in alphabetical order."""
        return sorted({*self._import_paths, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name in self._import_paths and cmd_name not in self.commands:
            module, _, name = self._import_paths[cmd_name].partition(":")
            self.add_command(getattr(import_module(module), name), cmd_name)
        return super().get_command(ctx, cmd_name)
