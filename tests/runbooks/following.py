"""Follow a runbook: run the commands of its `console` blocks in order, and compare what they print.

A block is what one sees on a terminal: `$ ` and a command (`> ` goes on with it), what it prints, and
`[1]` where it leaves with that exit code. Numbers, times and names of backups are compared by their shape
alone; `…` stands for anything on its line, or on a line of its own for any lines.
"""

import io
import logging
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from alembic.config import CommandLine, Config
from click.testing import CliRunner

from app.cli import main
from tests.processes import WAIT_TIMEOUT_SECONDS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/runbooks"
SERVICE = "http://127.0.0.1:8000"
BACKUPS = "/var/backups/frontdesk"

# The first that fits wins.
REPLACEMENTS = [
    (r"frontdesk-\d{8}T\d{6}Z-[0-9a-f]{4}", "<backup>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|[+-]\d\d(:\d\d)?)?", "<time>"),
    (r"[\d.,]+ (bytes|kB|MB|GB)", "<size>"),
    (r"\d+ (h|days) old", "<age> old"),
    (r"\d[\d,.]*\d|\d", "#"),
    (r"-{3,}", "---"),
    (r"[ \t]+", " "),
]


# What a move says on a machine that is too busy for a short pause; the page says to try again.
TRY_AGAIN = re.compile(r"Writes are open on \w+ again|at a quieter time|too far from here")


@dataclass(frozen=True)
class Step:
    """One command of a page, what it prints there, and its exit code."""

    command: str
    output: str
    code: int

    def matches(self, output: str, code: int) -> bool:
        """Whether this is what the page shows."""
        output = output.replace(os.environ["BACKUP_ADDRESS"], BACKUPS)
        return code == self.code and re.fullmatch(_pattern(self.output), normalise_output(output)) is not None


@dataclass
class Terminal:
    """Where commands run: where the service listens, and what systemctl does there."""

    service: str = SERVICE
    units: Mapping[str, Callable[[], object]] = field(default_factory=dict)

    def run(self, command: str) -> tuple[str, int]:
        """What the command prints (on stdout and stderr), and its exit code."""
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
            return "", 0  # the code is the one that is tested
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
        """Nothing is started here but what the test has put in; the units that are named exist."""
        for unit in units:
            known = [each.name for each in (ROOT / "docs/systemd").iterdir()]
            named = unit if "." in unit else f"{unit}.service"
            assert re.sub("@.*[.]", "@.", named) in known or unit == "postgresql", unit
            self.units.get(f"{verb} {unit}", lambda: None)()
        return "", 0


def steps(page: str) -> Iterator[Step]:
    """The commands of a page, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```", (FOLDER / page).read_text(), re.DOTALL | re.MULTILINE)
    for block in blocks:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            count = next((n for n, line in enumerate(lines[1:], 1) if not line.startswith("> ")), len(lines))
            command = "\n".join([lines[0], *(line[2:] for line in lines[1:count])])
            output, code = lines[count:], 0
            if output and (found := re.fullmatch(r"\[(\d+)\]", output[-1])):
                output, code = output[:-1], int(found[1])
            yield Step(command, "\n".join(output), code)


def run_page(page: str, terminal: Terminal) -> None:
    """Run every command of the page. Raises AssertionError where it prints something else than the page."""
    found = list(steps(page))
    assert found, f"{page} has no command"
    for step in found:
        output, code = terminal.run(step.command)
        # A person looks again as well: what the service answers is up to a second old.
        deadline = time.monotonic() + WAIT_TIMEOUT_SECONDS
        while time.monotonic() < deadline and not step.matches(output, code):
            if not (step.command.startswith("curl") or TRY_AGAIN.search(output)):
                break
            time.sleep(0.2)
            output, code = terminal.run(step.command)
        told = f"{page}: $ {step.command}\nprinted\n{output}and left with {code}"
        assert step.matches(output, code), f"{told}; instead of\n{step.output}\nand {step.code}"


def _pattern(output: str) -> str:
    """The expression for what is printed where the page shows this."""
    return "".join(
        r"(?:.*\n)*" if line == "…\n" else ".*".join(map(re.escape, line.split("…")))
        for line in normalise_output(output).splitlines(keepends=True)
    )


def normalise_output(output: str) -> str:
    """The output without what is different each time."""
    for pattern, name in REPLACEMENTS:
        output = re.sub(pattern, name, output)
    return "".join(f"{line.strip()}\n" for line in output.splitlines() if line.strip())


def _alembic(arguments: list[str]) -> tuple[str, int]:
    """The command `alembic` in this process; it sets up logging as if the process were its own."""
    printed = io.StringIO()
    command_line = CommandLine(prog="alembic")
    options = command_line.parser.parse_args(arguments)
    code, root = 0, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            command_line.run_cmd(Config(ROOT / "alembic.ini", stdout=printed, cmd_opts=options), options)
    except SystemExit as left:
        code = int(left.code or 0) & 255
    finally:
        root.handlers[:], root.level = handlers, level
    return printed.getvalue(), code
