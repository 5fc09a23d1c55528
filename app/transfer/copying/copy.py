"""The copy of all rows from legacy to primary, concurrent with writers, parallel and resumable.

All rows come from one snapshot of legacy that is taken after change capture is enabled. Later changes are in
the change log, and the relay applies them when the copy is complete. The copy therefore only inserts rows; it
never overwrites one.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from threading import Condition

import psycopg
from psycopg import sql

from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection
from app.errors import ConflictError, InvalidInputError, UnavailableError
from app.transfer.copying.chunk import Chunk, copy_chunk
from app.transfer.copying.progress import CopyReport, begin_table, finish_table, read_progress
from app.transfer.protocol import change_capture, control_schema, fencing, journal
from app.transfer.protocol.endpoints import Sides
from app.transfer.protocol.tables import TableInfo, transfer_tables

DEFAULT_JOBS = 2  # connections on each side

OnCopyProgress = Callable[[CopyReport], object]


def copy(
    sides: Sides,
    *,
    jobs: int = DEFAULT_JOBS,
    dry_run: bool = False,
    on_progress: OnCopyProgress = lambda report: None,
) -> CopyReport:
    """Copy every table of the transfer that is not copied yet.

    After an interruption, the same call continues with the chunks that are not copied.

    Args:
        sides: The two databases.
        jobs: Number of connections on each side.
        dry_run: Report the tables that are left to copy, and write nothing.
        on_progress: Called with the current report after each chunk and each table.

    Raises:
        InvalidInputError: No transfer has been started.
        ConflictError: Another copy is running, primary is not the standby, a table is not captured, or a row
            violates a constraint on primary.
        UnavailableError: A connection was lost.
    """
    with ExitStack() as stack:
        legacy = stack.enter_context(closing(sides.legacy.connect()))
        primary = stack.enter_context(closing(sides.primary.connect()))
        _require_prepared_sides(legacy, primary)
        tables = transfer_tables(legacy)
        report = CopyReport(list(read_progress(legacy, primary, tables)), is_dry_run=dry_run)
        if dry_run or report.is_complete:
            return report
        lock = primary.execute("SELECT pg_try_advisory_lock(%s)", (AdvisoryLock.TRANSFER_COPY,))
        if lock.fetchone() != (True,):
            raise ConflictError("Another copy is running: wait until it ends, or stop it.")
        pairs = [(legacy, primary)]
        for _ in range(jobs - 1):
            source = stack.enter_context(closing(sides.legacy.connect()))
            pairs.append((source, stack.enter_context(closing(sides.primary.connect()))))
        _share_snapshot([source for source, _ in pairs])
        _CopyRun(sides, tables, report, on_progress).run(pairs)
        legacy.execute("COMMIT")
        journal.record(legacy, "copy", rows=report.rows, seconds=round(report.seconds, 3))
        return report


def _require_prepared_sides(legacy: Connection, primary: Connection) -> None:
    if not (control_schema.is_set_up(legacy) and control_schema.is_set_up(primary)):
        raise InvalidInputError("No transfer has been started: run `frontdesk transfer start`.")
    states = (fencing.read_side_row(legacy).state, fencing.read_side_row(primary).state)
    if states[1] != "standby" or states[0] == "standby":
        raise ConflictError("Primary is not the standby: a copy is possible only before the cutover.")
    for name, connection in (("legacy", legacy), ("primary", primary)):
        missing = change_capture.tables_without_triggers(connection)
        if missing:
            raise ConflictError(
                f"Changes of {', '.join(missing)} are not captured on {name}: run `frontdesk transfer start`."
            )


def _share_snapshot(sources: Sequence[Connection]) -> None:
    """Begin a transaction on each session, all with the snapshot of the first."""
    snapshot = None
    for source in sources:
        # A session can be idle inside its transaction while other sessions copy the remaining chunks.
        source.execute("SET idle_in_transaction_session_timeout = 0")
        source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        if snapshot is None:
            (snapshot,) = source.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
        else:
            source.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))


class _CopyRun:
    """One run of the copy, which distributes chunks to connections.

    Parent tables are copied before their children; otherwise the largest table comes first.
    """

    def __init__(
        self, sides: Sides, tables: Sequence[TableInfo], report: CopyReport, on_progress: OnCopyProgress
    ) -> None:
        self._legacy = sides.legacy
        self._report = report
        self._on_progress = on_progress
        self._progress = {table_copy.name: table_copy for table_copy in report.tables}
        self._unfinished = {table.name: table for table in tables if not self._progress[table.name].finished}
        self._remaining_chunks: dict[str, deque[Chunk]] = {}  # of each table that is begun
        self._chunks_in_progress: Counter[str] = Counter()  # number of chunks, by table
        self._condition = Condition()  # guards the attributes above and `_is_stopped`
        self._is_stopped = False
        self._began = time.monotonic()

    def run(self, pairs: Sequence[tuple[Connection, Connection]]) -> None:
        """Copy all tables with one thread per pair of sessions.

        After an error, the other threads stop at their next chunk, and the first error is raised.
        """
        with ThreadPoolExecutor(len(pairs)) as threads:
            try:
                for done in as_completed([threads.submit(self._work, *pair) for pair in pairs]):
                    done.result()
            finally:
                self._stop()
        self._report.seconds = time.monotonic() - self._began

    def _work(self, source: Connection, target: Connection) -> None:
        try:
            while (chunk := self._next(source, target)) is not None:
                self._copy(source, target, chunk)
        except psycopg.OperationalError as error:
            side = "legacy" if source.closed else "primary"
            raise UnavailableError(
                f"The copy was interrupted by {side} ({_reason(error)});"
                " run the same command again: it continues from there."
            ) from error
        finally:  # wake the other threads, which would wait forever for the chunk of this one
            self._stop()

    def _stop(self) -> None:
        with self._condition:
            self._is_stopped = True
            self._condition.notify_all()

    def _next(self, source: Connection, target: Connection) -> Chunk | None:
        """Wait for a chunk to copy and return it, or None when the run is finished or stopped."""
        with self._condition:
            while self._unfinished and not self._is_stopped:
                table = self._next_table()
                if table is None:
                    self._condition.wait()
                    continue
                if table.name not in self._remaining_chunks:
                    self._remaining_chunks[table.name] = deque(
                        begin_table(source, target, table, self._progress[table.name])
                    )
                    self._condition.notify_all()  # other threads can copy chunks of this table now
                if self._remaining_chunks[table.name]:
                    self._chunks_in_progress[table.name] += 1
                    return self._remaining_chunks[table.name].popleft()
                self._finish(target, table)
        return None

    def _next_table(self) -> TableInfo | None:
        waiting = [table for table in self._unfinished.values() if table.name not in self._remaining_chunks]
        ready = [self._unfinished[name] for name, chunks in self._remaining_chunks.items() if chunks]
        ready += [
            table
            for table in waiting
            if not any(key.parent in self._unfinished.keys() - {table.name} for key in table.foreign_keys)
        ]
        if not ready and not self._chunks_in_progress.total():
            # The waiting tables have cyclic references. Rows whose parents are missing are left to the relay.
            ready = waiting[:1]
        return max(ready, key=lambda table: self._progress[table.name].blocks, default=None)

    def _copy(self, source: Connection, target: Connection, chunk: Chunk) -> None:
        table = chunk.table
        try:
            rows, left = copy_chunk(source, target, self._legacy, chunk)
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            reason = error.diag.constraint_name or error.sqlstate
            raise ConflictError(
                f"Primary rejected a row of {table.name} ({reason}):"
                " run `frontdesk transfer plan` to find the schema difference."
            ) from error
        with self._condition:
            self._chunks_in_progress[table.name] -= 1
            self._progress[table.name].add_chunk(chunk, rows, left)
            self._report.rows += rows
            if not self._remaining_chunks[table.name] and not self._chunks_in_progress[table.name]:
                self._finish(target, table)
            self._report_progress()

    def _finish(self, target: Connection, table: TableInfo) -> None:
        finish_table(target, table)
        self._progress[table.name].finished = True
        del self._unfinished[table.name], self._remaining_chunks[table.name]
        self._condition.notify_all()  # child tables can begin now
        self._report_progress()

    def _report_progress(self) -> None:
        self._report.seconds = time.monotonic() - self._began
        self._on_progress(self._report)


def _reason(error: psycopg.Error) -> str:
    """Return the server's primary message, which contains no row values, for example that it shuts down."""
    return error.diag.message_primary or "the connection was lost"
