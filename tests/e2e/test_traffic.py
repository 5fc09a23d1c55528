"""`frontdesk demo traffic`: seven worker processes beside the service, and nothing that grows."""

import json
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
import psycopg
import pytest
from click.testing import CliRunner

from app.cli import main
from app.config import PROJECT_ROOT
from tests.processes import BIN, Process, free_port, get, is_serving, running_process, wait_until

WORKERS, EACH = 7, 3
RATE = 70.0  # operations a second
EVERY = 0.25  # seconds between two looks

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name"


@dataclass
class Seen:
    """What was seen from outside, look by look: the workers' connections; by process, bytes and files."""

    connections: list[int] = field(default_factory=list)
    memory: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    files: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def look(self, connection: psycopg.Connection, processes: list[psutil.Process]) -> None:
        row = connection.execute(f"{SESSIONS} LIKE 'traffic-%'").fetchone()
        assert row is not None
        self.connections.append(row[0])
        for process in processes:
            try:
                with process.oneshot():
                    memory, files = process.memory_info().rss, process.num_fds()
            except psutil.NoSuchProcess:  # it has done its part
                continue
            self.memory[process.pid].append(memory)
            self.files[process.pid].append(files)


def growth(figures: list[int]) -> int:
    """How much more there was at the end than when half of the time was over."""
    middle, tenth = len(figures) // 2, max(1, len(figures) // 10)
    return int(median(figures[-tenth:]) - median(figures[middle : middle + tenth]))


@contextmanager
def service(url: str, output: Path) -> Iterator[tuple[Process, int]]:
    port = free_port()
    command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{port}", "wsgi:app"]
    with running_process(command, output, PROJECT_ROOT, DATABASE_URL=url) as process:
        wait_until(lambda: is_serving(port))
        yield process, port


def playing(port: int, *options: str) -> list[str]:
    """The command, which asks the service on that port for session keys."""
    url = f"http://127.0.0.1:{port}"
    return [str(BIN / "frontdesk"), "demo", "traffic", "--json", "--url", url, *options]


# Half a minute shows a handle or a connection that each operation leaves behind, the hour what grows slowly.
@pytest.mark.parametrize(
    "seconds", [30, *(pytest.param(each, marks=pytest.mark.full) for each in (120, 3600))]
)
def test_seven_workers_keep_to_their_connections_and_nothing_grows(
    database_url: str, tmp_path: Path, seconds: int
) -> None:
    seen, report = Seen(), tmp_path / "report"
    with service(database_url, tmp_path / "output") as (gunicorn, port):
        command = playing(port, "--rate", str(RATE), "--seconds", str(seconds))
        with (
            psycopg.connect(database_url, autocommit=True) as connection,
            running_process(command, report, PROJECT_ROOT, DATABASE_URL=database_url) as traffic,
        ):
            began = time.monotonic()
            wait_until(lambda: len(traffic.descendants()) > WORKERS)
            processes = [*traffic.descendants(), *gunicorn.descendants()]
            is_alive = False
            while traffic.is_running():
                assert time.monotonic() - began < seconds + 120
                seen.look(connection, processes)
                if not is_alive and time.monotonic() - began > seconds / 2:
                    is_alive = "transactions/s" in get(port, "/status").text
                time.sleep(EVERY)
            assert traffic.wait() == 0, traffic.output
            assert is_alive
            wait_until(lambda: connection.execute(f"{SESSIONS} LIKE 'traffic-%'").fetchone() == (0,))
            left = connection.execute("SELECT count(*) FROM companies").fetchone()
    assert left == (0,)

    told = json.loads(report.read_text())
    assert told["well"]
    assert told["errors"] == 0
    assert told["connections"]["limit"] == WORKERS * EACH
    assert len(told["workers"]) == WORKERS
    for name, operation in told["operations"].items():
        assert sum(operation["outcomes"].values()) > 0, name
    played = sum(sum(each["outcomes"].values()) for each in told["operations"].values())
    assert played > 0.5 * RATE * seconds

    assert WORKERS <= max(seen.connections) <= WORKERS * EACH
    assert len(seen.memory) > WORKERS
    for process, figures in seen.memory.items():
        assert growth(figures) < max(2 * 2**20, 0.03 * max(figures)), process
    for process, counts in seen.files.items():
        assert growth(counts) <= 2, process


@pytest.mark.full
def test_a_worker_that_dies_is_told_and_nothing_is_left(database_url: str, tmp_path: Path) -> None:
    with (
        psycopg.connect(database_url, autocommit=True) as connection,
        running_process(
            playing(free_port()), tmp_path / "report", PROJECT_ROOT, DATABASE_URL=database_url
        ) as traffic,
    ):
        pids = "SELECT application_name, pid FROM pg_stat_activity WHERE application_name LIKE 'traffic-%'"
        wait_until(lambda: len({name for name, _ in connection.execute(pids)}) == WORKERS)
        workers = [each for each in traffic.descendants() if each.num_threads() > EACH]
        assert len(workers) == WORKERS
        workers[0].kill()
        time.sleep(2)
        traffic.send(signal.SIGTERM)
        assert traffic.wait() == 1
        psutil.wait_procs(workers, timeout=10)
        assert not [each for each in workers if each.is_running()]
        assert connection.execute("SELECT count(*) FROM companies").fetchone() == (0,)
    told = json.loads(traffic.output)
    assert len(told["workers_lost"]) == 1
    assert not told["well"]


@pytest.mark.full
def test_workers_end_when_the_command_is_killed(database_url: str, tmp_path: Path) -> None:
    command = [
        str(BIN / "frontdesk"),
        "demo",
        "traffic",
        "--json",
        "--url",
        f"http://127.0.0.1:{free_port()}",
    ]
    with (
        psycopg.connect(database_url, autocommit=True) as connection,
        running_process(command, tmp_path / "report", PROJECT_ROOT, DATABASE_URL=database_url) as traffic,
    ):
        count = f"{SESSIONS} LIKE 'traffic-%'"
        wait_until(lambda: connection.execute(count).fetchone() >= (WORKERS,))
        workers = traffic.descendants()
        traffic.send(signal.SIGKILL)
        wait_until(lambda: connection.execute(count).fetchone() == (0,))
        psutil.wait_procs(workers, timeout=10)
        assert not [each for each in workers if each.is_running()]


def test_it_does_not_run_in_production(database_url: str) -> None:
    environment = {"DATABASE_URL": database_url, "ENVIRONMENT": "production", "SENTRY_ENABLED": "false"}
    result = CliRunner().invoke(main, ["demo", "traffic"], env=environment)
    assert result.exit_code == 2
    assert "production" in result.output
