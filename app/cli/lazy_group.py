"""A click group whose commands are imported when they are used."""

import ast
import gc
from collections.abc import Mapping
from importlib import import_module
from importlib.resources import files
from typing import Any

import click


class LazyGroup(click.Group):
    """A group that imports each command from its import path (`"module:name"`) at first use.

    It saves start-up time: for example, `frontdesk sync` does not import Alembic, and `frontdesk --help`
    imports no command.
    """

    def __init__(self, *args: Any, import_paths: Mapping[str, str], **options: Any) -> None:
        """Accept the arguments of click.Group, and `import_paths` by command name."""
        super().__init__(*args, **options)
        self._import_paths = import_paths

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in alphabetical order."""
        return sorted({*self._import_paths, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command with this name, imported if necessary, or None."""
        if cmd_name in self._import_paths and cmd_name not in self.commands:
            module, _, name = self._import_paths[cmd_name].partition(":")
            gc.disable()  # imports free almost nothing: garbage collection would take a fifth of their time
            try:
                self.add_command(getattr(import_module(module), name), cmd_name)
            finally:
                gc.enable()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands with the first sentences of their docstrings, without importing them."""
        paths = self._import_paths.items()
        listed = [click.Command(name, help=_docstring(path)) for name, path in paths]
        click.Group(commands=[*listed, *self.commands.values()]).format_commands(ctx, formatter)


def _docstring(import_path: str) -> str | None:
    """Return the docstring of the function at the import path, read from its source code."""
    module, _, name = import_path.partition(":")
    package, _, file = module.rpartition(".")
    source = files(package).joinpath(f"{file}.py").read_text(encoding="utf-8")
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    return next(ast.get_docstring(function) for function in functions if function.name == name)
