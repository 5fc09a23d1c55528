"""Runner for runbooks: runs the commands of `console` blocks in order and compares their output.

A block shows a terminal: `$ ` and a command (`> ` continues it), its output, and `[1]` if it exits with that
code. Numbers, times and names of backups are compared by their form only. `…` stands for any text in its
line; a line with `…` alone stands for any number of lines.
"""

import io
import logging
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
from alembic.config import CommandLine, Config
from click.testing import CliRunner

from app.cli import main
from tests.processes import WAIT_TIMEOUT_SECONDS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/runbooks"
SERVICE = "http://127.0.0.1:8000"
BACKUPS = "/var/backups/frontdesk"

# Applied in this order.
REPLACEMENTS = [
    (r"frontdesk-\d{8}T\d{6}Z-[0-9a-f]{4}", "<backup>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|[+-]\d\d(:\d\d)?)?", "<time>"),
    (r"[\d.,]+ (bytes|kB|MB|GB)", "<size>"),
    (r"\d+ (h|days) old", "<age> old"),
    (r"\d[\d,.]*\d|\d", "#"),
    (r"-{3,}", "---"),
    (r"[ \t]+", " "),
]


# Messages of a cutover on a machine that is too busy for a short pause; the page says to run it again.
TRY_AGAIN = re.compile(r"Writes are open on \w+ again|at a quieter time|too far from here")


@dataclass(frozen=True)
class Step:
    """A command of a page, with the output and the exit code that the page shows."""

    command: str
    output: str
    code: int

    def matches(self, output: str, code: int) -> bool:
        """Return True if output and exit code match the page."""
        output = output.replace(os.environ["BACKUP_ADDRESS"], BACKUPS)
        return code == self.code and re.fullmatch(_pattern(self.output), normalise_output(output)) is not None


@dataclass
class Terminal:
    """Runs commands. `service` is the URL of the service; `units` maps systemctl commands to functions."""

    service: str = SERVICE
    units: Mapping[str, Callable[[], object]] = field(default_factory=dict)

    def run(self, command: str) -> tuple[str, int]:
        """Run a command; return its output (stdout and stderr) and its exit code."""
        command = command.replace(SERVICE, self.service)
        program, *arguments = shlex.split(os.path.expandvars(command))
        if assigned := re.fullmatch(r"([A-Z_]+)=(.*)", program):
            with patch.dict(os.environ, {assigned[1]: assigned[2]}):
                return self.run(command.partition(" ")[2])
        if program == "frontdesk":
            result = CliRunner().invoke(main, arguments)
            return result.output, result.exit_code
        if program == "alembic":
            return _alembic(arguments)
        if program == "systemctl":
            return self._systemctl(*arguments)
        if program in ("git", "pip"):
            return "", 0  # the tested code is installed already
        if program == "curl" and shutil.which(program) is None:
            pytest.skip("curl is not installed")
        done = subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WAIT_TIMEOUT_SECONDS,
            check=False,
        )
        return done.stdout, done.returncode

    def _systemctl(self, verb: str, *units: str) -> tuple[str, int]:
        """Check that the units exist in docs/systemd, and call the test's function for each, if any."""
        for unit in units:
            known = [file.name for file in (ROOT / "docs/systemd").iterdir()]
            name = unit if "." in unit else f"{unit}.service"
            assert re.sub("@.*[.]", "@.", name) in known or unit == "postgresql", unit
            self.units.get(f"{verb} {unit}", lambda: None)()
        return "", 0


def steps(page: str) -> Iterator[Step]:
    """Yield the commands of a page, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```", (FOLDER / page).read_text(), re.DOTALL | re.MULTILINE)
    for block in blocks:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            count = next((n for n, line in enumerate(lines[1:], 1) if not line.startswith("> ")), len(lines))
            command = "\n".join([lines[0], *(line[2:] for line in lines[1:count])])
            output, code = lines[count:], 0
            if output and (exit_code := re.fullmatch(r"\[(\d+)\]", output[-1])):
                output, code = output[:-1], int(exit_code[1])
            yield Step(command, "\n".join(output), code)


def run_page(page: str, terminal: Terminal) -> None:
    """Run all commands of the page. Raises AssertionError if an output or exit code differs from the page."""
    commands = list(steps(page))
    assert commands, f"{page} has no command"
    for step in commands:
        output, code = terminal.run(step.command)
        # Repeat requests to the service: its check results are up to a second old.
        deadline = time.monotonic() + WAIT_TIMEOUT_SECONDS
        while time.monotonic() < deadline and not step.matches(output, code):
            if not (step.command.startswith("curl") or TRY_AGAIN.search(output)):
                break
            time.sleep(0.2)
            output, code = terminal.run(step.command)
        actual = f"{page}: $ {step.command}\nprinted\n{output}and exited with {code}"
        assert step.matches(output, code), f"{actual}; the page shows\n{step.output}\nand {step.code}"


def _pattern(output: str) -> str:
    """Return the regular expression for an output as a page shows it."""
    return "".join(
        r"(?:.*\n)*" if line == "…\n" else ".*".join(map(re.escape, line.split("…")))
        for line in normalise_output(output).splitlines(keepends=True)
    )


def normalise_output(output: str) -> str:
    """Replace the parts of an output that differ from run to run, such as times and sizes."""
    for pattern, name in REPLACEMENTS:
        output = re.sub(pattern, name, output)
    return "".join(f"{line.strip()}\n" for line in output.splitlines() if line.strip())


def _alembic(arguments: list[str]) -> tuple[str, int]:
    """Run the command `alembic` in this process, and restore the logging that it reconfigures."""
    printed = io.StringIO()
    command_line = CommandLine(prog="alembic")
    options = command_line.parser.parse_args(arguments)
    code, root = 0, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            command_line.run_cmd(Config(ROOT / "alembic.ini", stdout=printed, cmd_opts=options), options)
    except SystemExit as exit_:
        code = int(exit_.code or 0) & 255
    finally:
        root.handlers[:], root.level = handlers, level
    return printed.getvalue(), code
