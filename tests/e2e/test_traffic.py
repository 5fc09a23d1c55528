"""`frontdesk demo traffic`: seven workers and the service leak no memory, files or connections."""

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

WORKERS, CONNECTIONS_PER_WORKER = 7, 3
RATE = 70.0  # operations per second
SAMPLE_INTERVAL_SECONDS = 0.25

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name"


@dataclass
class Samples:
    """Measurements over time: connections of all workers; memory in bytes and open files by process id."""

    connections: list[int] = field(default_factory=list)
    memory: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    files: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, connection: psycopg.Connection, processes: list[psutil.Process]) -> None:
        """Measure once, and append the results."""
        row = connection.execute(f"{SESSIONS} LIKE 'traffic-%'").fetchone()
        assert row is not None
        self.connections.append(row[0])
        for process in processes:
            try:
                with process.oneshot():
                    memory, files = process.memory_info().rss, process.num_fds()
            except psutil.NoSuchProcess:  # the process has ended as planned
                continue
            self.memory[process.pid].append(memory)
            self.files[process.pid].append(files)


def growth(samples: list[int]) -> int:
    """Return the growth over the second half of the time, as a difference of medians."""
    middle, tenth = len(samples) // 2, max(1, len(samples) // 10)
    return int(median(samples[-tenth:]) - median(samples[middle : middle + tenth]))


@contextmanager
def service(url: str, output: Path) -> Iterator[tuple[Process, int]]:
    """Run gunicorn on a free port; yield the process and the port."""
    port = free_port()
    command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{port}", "wsgi:app"]
    with running_process(command, output, PROJECT_ROOT, DATABASE_URL=url) as process:
        wait_until(lambda: is_serving(port))
        yield process, port


def traffic_command(port: int, *options: str) -> list[str]:
    """Return the command line; its workers read session keys from the service on this port."""
    url = f"http://127.0.0.1:{port}"
    return [str(BIN / "frontdesk"), "demo", "traffic", "--json", "--url", url, *options]


# Twelve seconds, 800 operations, detect a file or connection leaked by every operation; an hour detects slow
# leaks.
@pytest.mark.parametrize(
    "seconds", [12, *(pytest.param(duration, marks=pytest.mark.full) for duration in (120, 3600))]
)
def test_workers_stay_within_their_connection_limit_and_leak_nothing(
    database_url: str, tmp_path: Path, seconds: int
) -> None:
    samples, report = Samples(), tmp_path / "report"
    with service(database_url, tmp_path / "output") as (gunicorn, port):
        command = traffic_command(port, "--rate", str(RATE), "--seconds", str(seconds))
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
                samples.add(connection, processes)
                if not is_alive and time.monotonic() - began > seconds / 2:
                    is_alive = "transactions/s" in get(port, "/status").text
                time.sleep(SAMPLE_INTERVAL_SECONDS)
            assert traffic.wait() == 0, traffic.output
            assert is_alive
            wait_until(lambda: connection.execute(f"{SESSIONS} LIKE 'traffic-%'").fetchone() == (0,))
            left = connection.execute("SELECT count(*) FROM companies").fetchone()
    assert left == (0,)

    result = json.loads(report.read_text())
    assert result["well"]
    assert result["errors"] == 0
    assert result["connections"]["limit"] == WORKERS * CONNECTIONS_PER_WORKER
    assert len(result["workers"]) == WORKERS
    for name, operation in result["operations"].items():
        assert sum(operation["outcomes"].values()) > 0, name
    calls = sum(sum(operation["outcomes"].values()) for operation in result["operations"].values())
    assert calls > 0.5 * RATE * seconds

    assert WORKERS <= max(samples.connections) <= WORKERS * CONNECTIONS_PER_WORKER
    assert len(samples.memory) > WORKERS
    for process, memory in samples.memory.items():
        assert growth(memory) < max(2 * 2**20, 0.03 * max(memory)), process
    for process, counts in samples.files.items():
        assert growth(counts) <= 2, process


@pytest.mark.full
def test_a_killed_worker_is_reported_and_no_process_or_row_is_left(database_url: str, tmp_path: Path) -> None:
    with (
        psycopg.connect(database_url, autocommit=True) as connection,
        running_process(
            traffic_command(free_port()), tmp_path / "report", PROJECT_ROOT, DATABASE_URL=database_url
        ) as traffic,
    ):
        pids = "SELECT application_name, pid FROM pg_stat_activity WHERE application_name LIKE 'traffic-%'"
        wait_until(lambda: len({name for name, _ in connection.execute(pids)}) == WORKERS)
        workers = [
            process for process in traffic.descendants() if process.num_threads() > CONNECTIONS_PER_WORKER
        ]
        assert len(workers) == WORKERS
        workers[0].kill()
        time.sleep(2)
        traffic.send(signal.SIGTERM)
        assert traffic.wait() == 1
        psutil.wait_procs(workers, timeout=10)
        assert not [worker for worker in workers if worker.is_running()]
        assert connection.execute("SELECT count(*) FROM companies").fetchone() == (0,)
    result = json.loads(traffic.output)
    assert len(result["workers_lost"]) == 1
    assert not result["well"]


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
        assert not [worker for worker in workers if worker.is_running()]


def test_traffic_refuses_to_run_in_production(database_url: str) -> None:
    environment = {"DATABASE_URL": database_url, "ENVIRONMENT": "production", "SENTRY_ENABLED": "false"}
    result = CliRunner().invoke(main, ["demo", "traffic"], env=environment)
    assert result.exit_code == 2
    assert "production" in result.output
