"""`frontdesk demo traffic`: generate the load of an installation's seven worker processes."""

import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import click
import httpx
from pydantic import SecretStr
from rich.live import Live
from rich.table import Table

from app.cli import console
from app.config import Settings
from app.database import embedded_server
from app.demo.commands import new_company, remove_company
from app.demo.traffic_worker import (
    CLIENT_COUNT,
    OK,
    OPERATION_WEIGHTS,
    STAFF_COUNT,
    TAKEN,
    WorkerReport,
    WorkerTask,
    client_row,
    run_worker,
)
from app.errors import InvalidInputError
from app.frontdesk import Frontdesk

WORKERS = 7
OPERATIONS_PER_SECOND = 70.0  # of all workers together
URL = "http://127.0.0.1:8000"
RATE_WINDOW_SECONDS = 10.0  # period over which the displayed rates are averaged
MAX_KEPT = 100_000  # durations per operation, for the percentiles
STOP_TIMEOUT_SECONDS = 30.0  # how long to wait until the workers finish their current operations
EXPECTED_OUTCOMES = (OK, TAKEN)


class Tally:
    """Totals of the reports of all workers."""

    def __init__(self, connection_limit: int) -> None:
        self.connection_limit = connection_limit
        self.began = time.monotonic()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.durations_ms: dict[str, deque[float]] = {
            name: deque(maxlen=MAX_KEPT) for name in OPERATION_WEIGHTS
        }
        self.recent: deque[tuple[float, Counter[str]]] = deque()
        self.connections = self.peak_connections = 0
        self.workers: dict[int, WorkerReport] = {}
        self.lost_workers: list[int] = []

    def add(self, number: int, report: WorkerReport) -> None:
        """Add the report of worker `number`."""
        self.outcomes += report.outcomes
        for name, times in report.durations_ms.items():
            self.durations_ms[name].extend(times)
        now = time.monotonic()
        counts: Counter[str] = Counter()
        for (name, _), count in report.outcomes.items():
            counts[name] += count
        self.recent.append((now, counts))
        while self.recent and now - self.recent[0][0] > RATE_WINDOW_SECONDS:
            self.recent.popleft()
        if report.connections is not None:
            self.connections = report.connections
            self.peak_connections = max(self.peak_connections, report.connections)
        self.workers[number] = report

    @property
    def errors(self) -> int:
        """Number of unexpected outcomes."""
        return sum(count for (_, outcome), count in self.outcomes.items() if outcome not in EXPECTED_OUTCOMES)

    @property
    def succeeded(self) -> bool:
        """True if no operation failed, no worker was lost, and the connection limit was never exceeded."""
        return not self.errors and not self.lost_workers and self.peak_connections <= self.connection_limit

    def rate(self, name: str) -> float:
        """Return the operations per second over the last RATE_WINDOW_SECONDS."""
        span = min(RATE_WINDOW_SECONDS, max(1.0, time.monotonic() - self.began))
        return sum(counts[name] for _, counts in self.recent) / span

    def as_dict(self) -> dict[str, Any]:
        """Return the totals for JSON output; durations are in milliseconds, memory is in bytes."""
        return {
            "seconds": round(time.monotonic() - self.began, 1),
            "operations": {
                name: {
                    "outcomes": {
                        outcome: count
                        for (operation, outcome), count in sorted(self.outcomes.items())
                        if operation == name
                    },
                    "p50_ms": _percentile(self.durations_ms[name], 0.5),
                    "p95_ms": _percentile(self.durations_ms[name], 0.95),
                }
                for name in OPERATION_WEIGHTS
            },
            "errors": self.errors,
            "connections": {"peak": self.peak_connections, "limit": self.connection_limit},
            "workers": {
                number: {"memory": report.memory_bytes, "files": report.open_files}
                for number, report in sorted(self.workers.items())
            },
            "workers_lost": self.lost_workers,
            "well": self.succeeded,
        }


@click.command("traffic")
@click.option(
    "--rate",
    type=console.FiniteFloatRange(0.1, 10_000),
    default=OPERATIONS_PER_SECOND,
    show_default=True,
    help="Operations per second.",
)
@click.option("--seconds", type=console.FiniteFloatRange(1), help="Duration. Default: until Ctrl-C.")
@click.option(
    "--url",
    default=URL,
    show_default=True,
    help="Frontdesk server for the operations on session keys, if it answers.",
)
@console.compare_reads_option
@console.json_option
@click.pass_context
def traffic_command(
    ctx: click.Context,
    rate: float,
    seconds: float | None,
    url: str,
    compare_reads: float | None,
    as_json: bool,
) -> None:
    """Generate the load of an installation's seven worker processes.

    They read, upsert, book, and store session keys, in a temporary company that is removed at the end. Watch
    the status page meanwhile. Exit code 1 if an operation failed, a worker was lost, or the workers had more
    connections than POSTGRES_MAX_CONNECTIONS each.
    """
    with console.opened_desk(compare_reads) as desk:
        if desk.settings.is_production:
            raise InvalidInputError("A demo writes test rows, so it does not run in production.")
        database_url = SecretStr(embedded_server.resolve_database_url(desk.settings))
        settings = desk.settings.model_copy(update={"database_url": database_url})
        company_id = _create_traffic_company(desk)
    # This process has closed its connections, so the workers can use all allowed connections.
    tally = Tally(WORKERS * settings.postgres_max_connections)
    with _sigterm_as_ctrl_c():
        try:
            serving = url.rstrip("/") if _serves(url, settings, company_id) else None
            _run(_Workers(settings, company_id, rate, serving), tally, seconds, serving, as_json)
        finally:
            with Frontdesk(settings) as desk:
                remove_company(desk, company_id)
    if as_json:
        console.print_json(tally.as_dict())
    else:
        _print_totals(tally)
    if not tally.succeeded:
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


def _create_traffic_company(desk: Frontdesk) -> int:
    """Create the company with the rows that the workers expect, and return its id."""
    salon = new_company(desk, "Demo: traffic")
    salon.upsert_company({"title": "Demo: traffic", "timezone": "Europe/Moscow", "country": "RU"}).unwrap()
    salon.upsert_staff(
        [{"yclients_id": n + 1, "name": f"Master {n + 1}"} for n in range(STAFF_COUNT)]
    ).unwrap()
    salon.upsert_clients([client_row(number) for number in range(CLIENT_COUNT)]).unwrap()
    salon.whatsapp.set_creds({"demo": True}, None).unwrap()
    salon.whatsapp.set_keys({"session": {f"{n}.0": {"counter": n} for n in range(20)}}).unwrap()
    return salon.company_id


def _serves(url: str, settings: Settings, company_id: int) -> bool:
    """Return whether a Frontdesk server at `url` knows the company, so that it uses the same database."""
    token = settings.whatsapp_api_token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    try:
        path = f"{url.rstrip('/')}/whatsapp/{company_id}/creds"
        return httpx.get(path, headers=headers, trust_env=False, timeout=5).is_success
    except (httpx.TransportError, httpx.InvalidURL):
        return False


class _Workers:
    """The worker processes. They exit by themselves when this process ends, even after kill -9."""

    def __init__(self, settings: Settings, company_id: int, rate: float, url: str | None) -> None:
        self._tasks = [
            WorkerTask(settings, number + 1, company_id, rate / WORKERS, url) for number in range(WORKERS)
        ]
        self._processes: list[Any] = []
        self.pipes: dict[Connection, int] = {}

    def __enter__(self) -> "_Workers":
        # Forks of this process would inherit its threads and connections, and seven separate imports would
        # take many seconds. So the workers are forks of a server process that has only imported the code.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["app.demo.traffic_worker"])
        for task in self._tasks:
            our_end, worker_end = context.Pipe()
            process = context.Process(
                target=run_worker, args=(task, worker_end), name=f"worker {task.number}"
            )
            process.start()
            worker_end.close()
            self.pipes[our_end] = task.number
            self._processes.append(process)
        return self

    def stop(self) -> None:
        """Request all workers to finish their current operations and exit."""
        for end in self.pipes:
            with suppress(BrokenPipeError, ConnectionResetError):  # the worker has exited already
                end.send(None)

    def __exit__(self, *_: object) -> None:
        for end in self.pipes:
            end.close()
        for process in self._processes:
            process.join(STOP_TIMEOUT_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()


def _run(workers: _Workers, tally: Tally, seconds: float | None, url: str | None, as_json: bool) -> None:
    """Collect reports for `seconds` or until Ctrl-C, then stop the workers and collect their last reports."""
    screen = console.screen()
    if not as_json:
        transport = f"over {url}" if url else "through the data layer"
        screen.print(
            f"{WORKERS} workers, {STAFF_COUNT} members of staff, {CLIENT_COUNT} clients;"
            f" session keys are stored {transport}.\n"
        )
    shown = screen.is_terminal and not as_json
    with workers, Live(console=screen, auto_refresh=False) if shown else nullcontext() as live:
        with suppress(KeyboardInterrupt):  # Ctrl-C ends the demo
            while len(tally.workers) + len(tally.lost_workers) < WORKERS:
                _collect_reports(workers, tally, time.monotonic() + 0.2, live)
            tally.began = time.monotonic()
            _collect_reports(workers, tally, None if seconds is None else tally.began + seconds, live)
        workers.stop()
        _collect_reports(workers, tally, time.monotonic() + STOP_TIMEOUT_SECONDS, live, is_last=True)


def _collect_reports(
    workers: _Workers, tally: Tally, deadline: float | None, live: Live | None, is_last: bool = False
) -> None:
    while workers.pipes and (deadline is None or time.monotonic() < deadline):
        for ready in wait([*workers.pipes], timeout=0.2):
            assert isinstance(ready, Connection)  # noqa: S101 - `wait` returns only what was passed to it
            number = workers.pipes[ready]
            try:
                tally.add(number, ready.recv())
            except (EOFError, ConnectionResetError):
                ready.close()
                del workers.pipes[ready]
                if not is_last:
                    tally.lost_workers.append(number)
        if live is not None:
            live.update(_totals_table(tally), refresh=True)


def _totals_table(tally: Tally) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "per second", "total", "slot taken", "errors", "p50 ms", "p95 ms"):
        table.add_column(name, justify="right" if name else "left")
    for name in OPERATION_WEIGHTS:
        counts = {outcome: n for (operation, outcome), n in tally.outcomes.items() if operation == name}
        errors = sum(n for outcome, n in counts.items() if outcome not in EXPECTED_OUTCOMES)
        table.add_row(
            name,
            f"{tally.rate(name):.1f}",
            f"{sum(counts.values()):,}",
            f"{counts[TAKEN]:,}" if TAKEN in counts else "",
            f"{errors:,}" if errors else "",
            *(f"{_percentile(tally.durations_ms[name], share) or 0:.1f}" for share in (0.5, 0.95)),
        )
    memory = sum(report.memory_bytes for report in tally.workers.values()) / 2**20
    table.caption = (
        f"{time.monotonic() - tally.began:.0f} s; {tally.connections} connections, peak"
        f" {tally.peak_connections}, limit {tally.connection_limit};"
        f" {len(tally.workers)} workers, {memory:.0f} MB"
    )
    return table


def _print_totals(tally: Tally) -> None:
    screen = console.screen()
    if not screen.is_terminal:
        screen.print(_totals_table(tally))
    for (name, outcome), count in sorted(tally.outcomes.items()):
        if outcome not in EXPECTED_OUTCOMES:
            screen.print(f"{count:,} {name}: {outcome}", style="bold red")
    for number in tally.lost_workers:
        screen.print(f"worker {number} exited unexpectedly", style="bold red")
    if tally.succeeded:
        screen.print("No errors; the connection limit was never exceeded.", style="bold green")


def _percentile(times: deque[float], share: float) -> float | None:
    if not times:
        return None
    ordered = sorted(times)
    return round(ordered[int(share * (len(ordered) - 1))], 2)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C, so that the temporary company is removed in either case."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
