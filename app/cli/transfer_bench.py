"""`frontdesk transfer bench`: time the most frequent operations of the service on either side."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.table import Table

from app.cli import console
from app.config import Settings
from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection
from app.errors import ConflictError, FrontdeskError
from app.frontdesk import Frontdesk, Salon
from app.models import Base
from app.transfer.protocol.endpoints import Side, Sides
from app.transfer.protocol.tables import BENCH_SCHEMA

COMPANY_ID = 1
CLIENT_COUNT = 5_000
ROWS_PER_UPSERT = 100  # clients per call
KEYS_PER_CALL = 20  # session keys read or written per call

Operation = Callable[[Salon, int], Any]  # called with the number of the repetition


@dataclass
class OperationTimings:
    """Timings of one operation on one side, in milliseconds, and the number of failed calls."""

    durations_ms: list[float] = field(default_factory=list)
    errors: int = 0

    def percentile(self, percent: int) -> float | None:
        """Return the duration in ms that `percent` of the calls did not exceed, or None if all failed."""
        ordered = sorted(self.durations_ms)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else None

    def as_dict(self) -> dict[str, Any]:
        """Return the percentiles and the number of errors for JSON output."""
        values = {f"p{percent}": self.percentile(percent) for percent in (50, 95, 99)}
        return {name: value and round(value, 3) for name, value in values.items()} | {"errors": self.errors}


@dataclass(frozen=True)
class BenchResult:
    """Timings of one operation on both sides."""

    name: str
    legacy: OperationTimings
    primary: OperationTimings

    @property
    def ratio(self) -> float | None:
        """Median on primary divided by the median on legacy."""
        legacy, primary = self.legacy.percentile(50), self.primary.percentile(50)
        return primary / legacy if legacy and primary else None


@click.command("bench")
@click.option(
    "--repeats",
    type=click.IntRange(1, 100_000),
    default=200,
    show_default=True,
    help="Calls of each operation.",
)
@console.json_option
@click.pass_context
def bench_command(ctx: click.Context, repeats: int, as_json: bool) -> None:
    """Run the most frequent operations on both sides and compare their durations.

    The command uses made-up rows in a separate schema, which it drops at the end. It does not touch the data
    of the services, and may run during a transfer. Exit code 1 if calls failed.
    """
    settings = console.load_settings()
    with _progress(repeats) as on_repeat:
        lines = run_bench(Sides.from_settings(settings), settings, repeats, on_repeat)
    if as_json:
        operations = [
            {
                "operation": line.name,
                "legacy": line.legacy.as_dict(),
                "primary": line.primary.as_dict(),
                "ratio": line.ratio and round(line.ratio, 3),
            }
            for line in lines
        ]
        console.print_json({"unit": "ms", "repeats": repeats, "operations": operations})
    else:
        _print(lines)
    if any(line.legacy.errors or line.primary.errors for line in lines):
        ctx.exit(console.EXIT_PROBLEMS_FOUND)


def run_bench(
    sides: Sides, settings: Settings, repeats: int, on_repeat: Callable[[], object] = lambda: None
) -> list[BenchResult]:
    """Run each operation on both sides alternately, `repeats` times after one uncounted warm-up.

    `on_repeat` is called after each repetition. Raises UnavailableError, and ConflictError if another bench
    is running.
    """
    with ExitStack() as stack:
        salons = [stack.enter_context(_salon(side, settings)) for side in sides]
        lines = [BenchResult(name, OperationTimings(), OperationTimings()) for name in OPERATIONS]
        for number in range(repeats + 1):
            for line, operation in zip(lines, OPERATIONS.values(), strict=True):
                turns = list(zip(salons, (line.legacy, line.primary), strict=True))
                for salon, measured in turns if number % 2 else reversed(turns):
                    # The first repetition only warms up connections and caches.
                    _call(operation, salon, number, measured if number else OperationTimings())
            on_repeat()
    return lines


def _call(operation: Operation, salon: Salon, number: int, timings: OperationTimings) -> None:
    began = time.perf_counter()
    result = operation(salon, number)
    if result.success:
        timings.durations_ms.append((time.perf_counter() - began) * 1000)
    else:
        timings.errors += 1


@contextmanager
def _salon(side: Side, settings: Settings) -> Iterator[Salon]:
    """Create a salon with sample rows in BENCH_SCHEMA on one side; drop the schema when the block ends."""
    with closing(side.connect()) as connection:
        if connection.execute(
            "SELECT pg_try_advisory_lock(%s)", (AdvisoryLock.TRANSFER_BENCH,)
        ).fetchone() != (True,):
            raise ConflictError(f"Another bench is running on {side.name}. Run this one when it has ended.")
        _drop(connection)  # a killed bench may have left its schema
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(BENCH_SCHEMA)))
        try:
            with Frontdesk(_settings(side, settings)) as desk:
                Base.metadata.create_all(desk.database.engine)
                salon = desk.company(COMPANY_ID)
                _fill(salon)
                connection.execute("ANALYZE")
                yield salon
        finally:
            _drop(connection)


def _drop(connection: Connection) -> None:
    connection.execute("SET client_min_messages = warning")
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(BENCH_SCHEMA)))


def _settings(side: Side, settings: Settings) -> Settings:
    options = f"{conninfo_to_dict(side.url).get('options') or ''} -c search_path={BENCH_SCHEMA}"
    url = SecretStr(make_conninfo(side.url, options=options.strip()))
    alone = {"legacy_database_url": None, "direct_database_url": None, "postgres_pooler": None}
    apart = {"transfer_pin": None, "transfer_compare_reads": 0.0}
    return settings.model_copy(update={"database_url": url, **alone, **apart})


def _fill(salon: Salon) -> None:
    salon.upsert_company({"title": "Bench"}).unwrap()
    report = salon.upsert_clients(_client(number, 0) for number in range(CLIENT_COUNT)).unwrap()
    start = datetime.now(UTC).replace(microsecond=0)
    bookings = [
        {
            "yclients_record_id": number + 1,
            "client_phone": _phone(number // 3),
            "staff_id": 1,
            "starts_at": start + timedelta(hours=number),
            "ends_at": start + timedelta(hours=number + 1),
        }
        for number in range(CLIENT_COUNT)
    ]
    booked = salon.upsert_bookings(bookings).unwrap()
    if report.rejected or booked.rejected:
        raise FrontdeskError("Rows that the bench generates were rejected: this is a bug in Frontdesk.")
    salon.whatsapp.set_keys(_keys(0)).unwrap()


def _phone(number: int) -> str:
    return f"+7968{number % CLIENT_COUNT:07}"


def _client(number: int, visit: int) -> dict[str, Any]:
    return {
        "yclients_id": number + 1,
        "name": f"Клиентка {number}",
        "phone": _phone(number),
        "visit_count": visit,
    }


def _keys(number: int) -> dict[str, dict[str, Any]]:
    return {
        "session": {
            f"{index}.0": {"registrationId": number, "ratchet": "x" * 500} for index in range(KEYS_PER_CALL)
        }
    }


OPERATIONS: dict[str, Operation] = {
    "a client by phone": lambda salon, number: salon.get_client_by_phone(_phone(number * 7919)),
    "a client's appointments": lambda salon, number: salon.get_client_appointments(_phone(number % 1000)),
    f"{ROWS_PER_UPSERT} clients upserted": lambda salon, number: salon.upsert_clients(
        [
            _client((number * ROWS_PER_UPSERT + index) % CLIENT_COUNT, number)
            for index in range(ROWS_PER_UPSERT)
        ]
    ),
    "a name search": lambda salon, number: salon.search_clients_by_name(f"ентка {number % 100}"),
    f"{KEYS_PER_CALL} session keys read": lambda salon, number: salon.whatsapp.get_keys(
        "session", [f"{index}.0" for index in range(KEYS_PER_CALL)]
    ),
    f"{KEYS_PER_CALL} session keys written": lambda salon, number: salon.whatsapp.set_keys(_keys(number)),
}


def _print(results: list[BenchResult]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("\nmilliseconds")
    for side in ("legacy", "primary"):
        for name in (f"{side}\np50", "\np95", "\np99", "\nerrors"):
            table.add_column(name, justify="right")
    table.add_column("primary\nto legacy", justify="right")
    for line in results:
        cells = []
        for measured in (line.legacy, line.primary):
            values = (measured.percentile(percent) for percent in (50, 95, 99))
            cells += ["-" if value is None else f"{value:.2f}" for value in values]
            cells.append(f"[bold red]{measured.errors}[/]" if measured.errors else "0")
        table.add_row(line.name, *cells, "-" if line.ratio is None else f"{line.ratio:.2f}")
    console.screen().print(table)


@contextmanager
def _progress(repeats: int) -> Iterator[Callable[[], object]]:
    """Show a progress bar on stderr if that is a terminal; yield the function that advances it."""
    with console.progress(TextColumn("measuring"), BarColumn(), MofNCompleteColumn()) as progress:
        task = progress.add_task("", total=repeats + 1)
        yield lambda: progress.advance(task)
