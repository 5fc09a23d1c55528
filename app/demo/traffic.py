"""`frontdesk demo traffic`: the worker processes of an installation, as real processes."""

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
from app.demo.traffic_worker import CLIENTS, OK, SHARES, STAFF, TAKEN, Play, Told, client_row, play
from app.errors import InvalidInputError
from app.frontdesk import Frontdesk

WORKERS = 7
RATE = 70.0  # operations a second, of all workers
URL = "http://127.0.0.1:8000"
RECENT = 10.0  # seconds that the live figures look back
KEPT = 100_000  # durations for the percentiles in the end
PATIENCE = 30.0  # seconds for the workers to finish what they are at
EXPECTED = (OK, TAKEN)


class Tally:
    """What all workers have told."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.began = time.monotonic()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.times: dict[str, deque[float]] = {name: deque(maxlen=KEPT) for name in SHARES}
        self.recent: deque[tuple[float, Counter[str]]] = deque()
        self.connections = self.peak = 0
        self.workers: dict[int, Told] = {}
        self.lost: list[int] = []

    def add(self, number: int, told: Told) -> None:
        """Take in what a worker says."""
        self.outcomes += told.outcomes
        for name, times in told.times.items():
            self.times[name].extend(times)
        now = time.monotonic()
        counts: Counter[str] = Counter()
        for (name, _), count in told.outcomes.items():
            counts[name] += count
        self.recent.append((now, counts))
        while self.recent and now - self.recent[0][0] > RECENT:
            self.recent.popleft()
        if told.connections is not None:
            self.connections = told.connections
            self.peak = max(self.peak, told.connections)
        self.workers[number] = told

    @property
    def errors(self) -> int:
        """Outcomes that must not be."""
        return sum(count for (_, outcome), count in self.outcomes.items() if outcome not in EXPECTED)

    @property
    def is_well(self) -> bool:
        """No error, no worker lost, never more connections than an installation may have."""
        return not self.errors and not self.lost and self.peak <= self.limit

    def rate(self, name: str) -> float:
        """Operations a second, of late."""
        span = min(RECENT, max(1.0, time.monotonic() - self.began))
        return sum(counts[name] for _, counts in self.recent) / span

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times in milliseconds, memory in bytes."""
        return {
            "seconds": round(time.monotonic() - self.began, 1),
            "operations": {
                name: {
                    "outcomes": {o: n for (each, o), n in sorted(self.outcomes.items()) if each == name},
                    "p50_ms": _percentile(self.times[name], 0.5),
                    "p95_ms": _percentile(self.times[name], 0.95),
                }
                for name in SHARES
            },
            "errors": self.errors,
            "connections": {"peak": self.peak, "limit": self.limit},
            "workers": {
                number: {"memory": told.memory, "files": told.files}
                for number, told in sorted(self.workers.items())
            },
            "workers_lost": self.lost,
            "well": self.is_well,
        }


@click.command("traffic")
@click.option("--rate", type=console.Number(0.1, 10_000), default=RATE, show_default=True, help="Per second.")
@click.option("--seconds", type=console.Number(1), help="How long; until Ctrl-C without.")
@click.option("--url", default=URL, show_default=True, help="Session keys go there, if it answers.")
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
    """The seven worker processes of an installation at work.

    They read, upsert, book and keep session keys, in a scratch company that is removed again. Watch
    the status page meanwhile. Exit code 1 where an operation failed, a worker was lost, or the workers
    held more than POSTGRES_MAX_CONNECTIONS each.
    """
    with console.opened_desk(compare_reads) as desk:
        if desk.settings.is_production:
            raise InvalidInputError("A demo writes rows that nobody needs: it does not run in production.")
        database_url = SecretStr(embedded_server.url_of(desk.settings))
        settings = desk.settings.model_copy(update={"database_url": database_url})
        company_id = _furnished_company(desk)
    # The command itself holds no connection now: the workers may have all that there are to have.
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
        _conclude(tally)
    if not tally.is_well:
        ctx.exit(console.SOMETHING_IS_WRONG)


def _furnished_company(desk: Frontdesk) -> int:
    """A company with what the workers expect to find."""
    salon = new_company(desk, "Demo: traffic")
    salon.upsert_company({"title": "Demo: traffic", "timezone": "Europe/Moscow", "country": "RU"}).unwrap()
    salon.upsert_staff([{"yclients_id": n + 1, "name": f"Master {n + 1}"} for n in range(STAFF)]).unwrap()
    salon.upsert_clients([client_row(number) for number in range(CLIENTS)]).unwrap()
    salon.whatsapp.set_creds({"demo": True}, None).unwrap()
    salon.whatsapp.set_keys({"session": {f"{n}.0": {"counter": n} for n in range(20)}}).unwrap()
    return salon.company_id


def _serves(url: str, settings: Settings, company_id: int) -> bool:
    """Whether a Frontdesk answers there that knows the company: one on the same database, that is."""
    token = settings.whatsapp_api_token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    try:
        path = f"{url.rstrip('/')}/whatsapp/{company_id}/creds"
        return httpx.get(path, headers=headers, trust_env=False, timeout=5).is_success
    except (httpx.TransportError, httpx.InvalidURL):
        return False


class _Workers:
    """The processes. One that the command cannot reach any more ends by itself, after kill -9 as well."""

    def __init__(self, settings: Settings, company_id: int, rate: float, url: str | None) -> None:
        self._tasks = [
            Play(settings, number + 1, company_id, rate / WORKERS, url) for number in range(WORKERS)
        ]
        self._processes: list[Any] = []
        self.ends: dict[Connection, int] = {}

    def __enter__(self) -> "_Workers":
        # Not forks of this process, whose threads and connections are none of theirs, but of one that has
        # done nothing but import the code: seven imports would take many seconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["app.demo.traffic_worker"])
        for task in self._tasks:
            ours, theirs = context.Pipe()
            process = context.Process(target=play, args=(task, theirs), name=f"worker {task.number}")
            process.start()
            theirs.close()
            self.ends[ours] = task.number
            self._processes.append(process)
        return self

    def stop(self) -> None:
        """Let them finish what they are at."""
        for end in self.ends:
            with suppress(BrokenPipeError, ConnectionResetError):  # one that is gone need not be stopped
                end.send(None)

    def __exit__(self, *_: object) -> None:
        for end in self.ends:
            end.close()
        for process in self._processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()


def _run(workers: _Workers, tally: Tally, seconds: float | None, url: str | None, as_json: bool) -> None:
    """Listen to the workers until the time is over or Ctrl-C, then until they have said their last."""
    screen = console.screen()
    if not as_json:
        where = f"over {url}" if url else "through the data layer"
        screen.print(f"{WORKERS} workers, {STAFF} masters, {CLIENTS} clients; session keys go {where}.\n")
    shown = screen.is_terminal and not as_json
    with workers, Live(console=screen, auto_refresh=False) if shown else nullcontext() as live:
        with suppress(KeyboardInterrupt):  # the way to stop it
            while len(tally.workers) + len(tally.lost) < WORKERS:
                _listen(workers, tally, time.monotonic() + 0.2, live)
            tally.began = time.monotonic()
            _listen(workers, tally, None if seconds is None else tally.began + seconds, live)
        workers.stop()
        _listen(workers, tally, time.monotonic() + PATIENCE, live, is_last=True)


def _listen(
    workers: _Workers, tally: Tally, end: float | None, live: Live | None, is_last: bool = False
) -> None:
    while workers.ends and (end is None or time.monotonic() < end):
        for ready in wait([*workers.ends], timeout=0.2):
            assert isinstance(ready, Connection)  # noqa: S101 - nothing else is waited for
            number = workers.ends[ready]
            try:
                tally.add(number, ready.recv())
            except (EOFError, ConnectionResetError):
                ready.close()
                del workers.ends[ready]
                if not is_last:
                    tally.lost.append(number)
        if live is not None:
            live.update(_picture(tally), refresh=True)


def _picture(tally: Tally) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "a second", "all", "taken", "errors", "p50 ms", "p95 ms"):
        table.add_column(name, justify="right" if name else "left")
    for name in SHARES:
        counts = {outcome: n for (each, outcome), n in tally.outcomes.items() if each == name}
        wrong = sum(n for outcome, n in counts.items() if outcome not in EXPECTED)
        table.add_row(
            name,
            f"{tally.rate(name):.1f}",
            f"{sum(counts.values()):,}",
            f"{counts[TAKEN]:,}" if TAKEN in counts else "",
            f"{wrong:,}" if wrong else "",
            *(f"{_percentile(tally.times[name], share) or 0:.1f}" for share in (0.5, 0.95)),
        )
    memory = sum(told.memory for told in tally.workers.values()) / 2**20
    table.caption = (
        f"{time.monotonic() - tally.began:.0f} s; connections {tally.connections}, at most {tally.peak}"
        f" of {tally.limit}; workers {len(tally.workers)}, {memory:.0f} MB"
    )
    return table


def _conclude(tally: Tally) -> None:
    screen = console.screen()
    if not screen.is_terminal:
        screen.print(_picture(tally))
    for (name, outcome), count in sorted(tally.outcomes.items()):
        if outcome not in EXPECTED:
            screen.print(f"{count:,} {name}: {outcome}", style="bold red")
    for number in tally.lost:
        screen.print(f"worker {number} was lost", style="bold red")
    if tally.is_well:
        screen.print("No error, and never more connections than allowed.", style="bold green")


def _percentile(times: deque[float], share: float) -> float | None:
    if not times:
        return None
    ordered = sorted(times)
    return round(ordered[int(share * (len(ordered) - 1))], 2)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Whoever ends it also wants the scratch company removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
