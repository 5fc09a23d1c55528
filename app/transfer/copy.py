"""Copying what legacy holds to primary, while writers write: in parallel, and resumable.

All rows come from one snapshot of legacy, taken after capture was switched on: whatever changes later is in
the log, and the relay brings it when the copy is complete. So a row is never overwritten here, only added.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from queue import SimpleQueue
from threading import Event
from typing import Any

import psycopg
from psycopg import sql

from app.errors import ConflictError, InvalidInputError, UnavailableError
from app.transfer import capture, journal, protocol, schema
from app.transfer.chunks import Stretch, copy_stretch
from app.transfer.sides import Sides
from app.transfer.tables import SCHEMA, Table, moved_tables

JOBS = 2  # connections on each side
CHUNK_ROWS = 20_000  # in a transaction, about
FIRST_BLOCKS, MOST_BLOCKS = 64, 8192  # of a stretch; after the first its length follows from the rows in it
COPY_LOCK = 0x46726F6E746633  # of whoever copies, on primary; any number that nobody else uses

Connection = psycopg.Connection[Any]

_POSITIONS = f"SELECT table_name, file, next_block, rows, finished_at IS NOT NULL FROM {SCHEMA}.copied"
_FILE = """
    SELECT pg_relation_filenode(%(table)s::regclass),
        pg_relation_size(%(table)s::regclass) / current_setting('block_size')::int,
        CASE WHEN reltuples < 0 THEN pg_stat_get_live_tuples(oid) ELSE reltuples END::bigint
    FROM pg_class WHERE oid = %(table)s::regclass
"""
_BEGIN = f"""
    INSERT INTO {SCHEMA}.copied (table_name, file) VALUES (%(table)s, %(file)s)
    ON CONFLICT (table_name) DO UPDATE SET file = excluded.file,
        next_block = CASE copied.file WHEN excluded.file THEN copied.next_block ELSE 0 END,
        rows = CASE copied.file WHEN excluded.file THEN copied.rows ELSE 0 END
    WHERE copied.finished_at IS NULL RETURNING next_block, rows
"""
_FINISH = f"""
    UPDATE {SCHEMA}.copied SET finished_at = clock_timestamp()
    WHERE table_name = %(table)s AND finished_at IS NULL
"""


@dataclass
class TableCopy:
    """One table: `blocks` of its file, `done` of them copied, `rows` so far; `left` to the relay."""

    name: str
    expected_rows: int
    blocks: int
    done: int
    rows: int
    left: int = 0
    finished: bool = False


@dataclass
class Report:
    """What a copy has done, or would do."""

    tables: list[TableCopy] = field(default_factory=list)
    rows: int = 0  # in this run
    seconds: float = 0.0
    is_dry_run: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to copy."""
        return all(table.finished for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rate = round(self.rows / self.seconds) if self.seconds else None
        return {
            "dry_run": self.is_dry_run,
            "complete": self.is_complete,
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "rows_per_second": rate,
            "tables": [asdict(table) for table in self.tables],
        }


OnProgress = Callable[[Report], object]


def copy(
    sides: Sides, *, jobs: int = JOBS, dry_run: bool = False, on_progress: OnProgress = lambda report: None
) -> Report:
    """Copy every table of the move that is not copied yet; `jobs` connections on each side.

    The same call goes on after whatever has ended it. `dry_run` tells what is left and writes nothing.
    Raises InvalidInputError without a move, ConflictError where another copy runs or primary is live.
    """
    with ExitStack() as stack:
        legacy = stack.enter_context(closing(sides.legacy.connect()))
        primary = stack.enter_context(closing(sides.primary.connect()))
        _refuse_unprepared(legacy, primary)
        tables = moved_tables(legacy)
        report = Report(list(_standing(legacy, primary, tables)), is_dry_run=dry_run)
        if dry_run or report.is_complete:
            return report
        if primary.execute("SELECT pg_try_advisory_lock(%s)", (COPY_LOCK,)).fetchone() != (True,):
            raise ConflictError("Another copy is under way.")
        pairs = [(legacy, primary)]
        for _ in range(jobs - 1):
            source = stack.enter_context(closing(sides.legacy.connect()))
            pairs.append((source, stack.enter_context(closing(sides.primary.connect()))))
        _share_snapshot([source for source, _ in pairs])
        _Copy(sides, tables, report, pairs, on_progress).run()
        legacy.execute("COMMIT")
        journal.note(legacy, "copy", rows=report.rows, seconds=round(report.seconds, 3))
        return report


def _refuse_unprepared(legacy: Connection, primary: Connection) -> None:
    if not (schema.exists(legacy) and schema.exists(primary)):
        raise InvalidInputError("No move has been started: run `frontdesk transfer start`.")
    states = (protocol.look(legacy).state, protocol.look(primary).state)
    if states[1] != "standby" or states[0] == "standby":
        raise ConflictError("Primary is not the standby: there is nothing to copy to it.")
    for name, connection in (("legacy", legacy), ("primary", primary)):
        missing = capture.tables_without_triggers(connection)
        if missing:
            raise ConflictError(
                f"Changes of {', '.join(missing)} are not captured on {name}: run `frontdesk transfer start`."
            )


def _standing(legacy: Connection, primary: Connection, tables: Sequence[Table]) -> Iterator[TableCopy]:
    """How far each table is."""
    positions = {name: standing for name, *standing in primary.execute(_POSITIONS)}
    for table in tables:
        file, blocks, expected = _file(legacy, table)
        known_file, done, rows, finished = positions.get(table.name, (file, 0, 0, False))
        if finished:
            yield TableCopy(table.name, rows, blocks, blocks, rows, finished=True)
        else:
            yield TableCopy(table.name, expected, blocks, done if known_file == file else 0, rows)


def _file(legacy: Connection, table: Table) -> tuple[int, int, int]:
    """The table's file on legacy, its length in blocks, and its rows, estimated."""
    row = legacy.execute(_FILE, {"table": table.identifier.as_string(None)}).fetchone()
    assert row is not None, "the table was there a moment ago"  # noqa: S101
    file, blocks, rows = row
    return file, blocks, rows


def _share_snapshot(sources: Sequence[Connection]) -> None:
    """Open one transaction on each session; all of them see legacy as the first does."""
    snapshot = None
    for source in sources:
        # While another table is being copied, a session waits inside its transaction.
        source.execute("SET idle_in_transaction_session_timeout = 0")
        source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        if snapshot is None:
            (snapshot,) = source.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
        else:
            source.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))


class _Copy:
    """The tables at work: parents before children, otherwise the largest first."""

    def __init__(
        self,
        sides: Sides,
        tables: Sequence[Table],
        report: Report,
        pairs: Sequence[tuple[Connection, Connection]],
        on_progress: OnProgress,
    ) -> None:
        self._legacy = sides.legacy
        self._report = report
        self._on_progress = on_progress
        self._standing = {each.name: each for each in report.tables}
        self._waiting = {table.name: table for table in tables if not self._standing[table.name].finished}
        self._jobs = len(pairs)
        self._pairs: SimpleQueue[tuple[Connection, Connection]] = SimpleQueue()
        for pair in pairs:
            self._pairs.put(pair)
        self._stop = Event()
        self._began = time.monotonic()

    def run(self) -> None:
        """Copy all; the first error ends the others at their next stretch, and is raised."""
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(self._jobs) as threads:
            try:
                while self._waiting or running:
                    for table in self._ready(running.values())[: self._jobs - len(running)]:
                        del self._waiting[table.name]
                        running[threads.submit(self._copy, table)] = table.name
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        del running[future]
                        future.result()
            finally:
                self._stop.set()
        self._report.seconds = time.monotonic() - self._began

    def _ready(self, running: Collection[str]) -> list[Table]:
        unfinished = {*self._waiting, *running}
        ready = [
            table
            for table in self._waiting.values()
            if not any(key.parent in unfinished - {table.name} for key in table.foreign_keys)
        ]
        if not ready and not running:
            # They refer to each other in a circle. What has no parent yet is left to the relay.
            ready = list(self._waiting.values())[:1]
        return sorted(ready, key=lambda table: -self._standing[table.name].blocks)

    def _copy(self, table: Table) -> None:
        source, target = self._pairs.get()
        try:
            self._copy_with(source, target, table)
        except psycopg.OperationalError as error:
            side = "legacy" if source.closed else "primary"
            raise UnavailableError(
                f"Copying {table.name} was broken off by {side} ({_reason(error)});"
                " run the same command again: it goes on from there."
            ) from error
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            what = error.diag.constraint_name or error.sqlstate
            raise ConflictError(
                f"A row of {table.name} does not fit primary ({what}):"
                " `frontdesk transfer plan` names what differs."
            ) from error
        finally:
            self._pairs.put((source, target))

    def _copy_with(self, source: Connection, target: Connection, table: Table) -> None:
        # The lock keeps the file: block numbers mean something as long as nobody rewrites it.
        source.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table.identifier))
        standing = self._standing[table.name]
        file, standing.blocks, _ = _file(source, table)
        row = target.execute(_BEGIN, {"table": table.name, "file": file}).fetchone()
        if row is None:
            return  # another copy has finished it
        standing.done, standing.rows = row
        target.execute("SET synchronous_commit = off")  # rows and progress are lost together, if at all
        length = FIRST_BLOCKS
        while standing.done < standing.blocks and not self._stop.is_set():
            end = min(standing.done + length, standing.blocks)
            rows, left = copy_stretch(source, target, self._legacy, Stretch(table, file, standing.done, end))
            length = _next_length(end - standing.done, rows + left)
            standing.done = end
            standing.rows += rows
            standing.left += left
            self._report.rows += rows
            self._report.seconds = time.monotonic() - self._began
            self._on_progress(self._report)
        target.execute("SET synchronous_commit = on")
        if standing.done >= standing.blocks:
            target.execute(_FINISH, {"table": table.name})
            target.execute(sql.SQL("ANALYZE {}").format(table.identifier))
            standing.finished = True
            self._on_progress(self._report)


def _reason(error: psycopg.Error) -> str:
    """What a server says of itself (no space left, shutting down), which holds no values."""
    return error.diag.message_primary or "the connection was lost"


def _next_length(blocks: int, rows: int) -> int:
    """As many blocks as hold CHUNK_ROWS, going by the last stretch."""
    return max(1, min(MOST_BLOCKS, blocks * CHUNK_ROWS // max(1, rows)))
