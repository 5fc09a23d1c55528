"""One apply cycle of the relay: copy the rows that changed on the source to the standby.

The change log holds primary keys, not rows. An apply cycle reads all keys in the log, makes their rows on
the standby equal to one snapshot of the source, in one transaction, and then deletes exactly the log entries
that it has read. It is therefore safe to repeat a cycle, or to run one after a newer cycle has committed.

The steps can only run in their order, because each is a method of the value that the step before returns:

    lock_target -> TargetLock.add_source_queries -> SourceQueries.check -> SourceSnapshot.fetch
    -> FetchedRows.apply -> AppliedRows.completion_statements

The servers may be far away, so the statements for one server are sent in one message where possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

import psycopg
from psycopg import sql

from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection
from app.errors import ConflictError, FrontdeskError
from app.transfer.protocol import fencing
from app.transfer.protocol.pipeline import Answer, Rows, Statement, StatementBatch
from app.transfer.protocol.tables import SCHEMA, TableInfo
from app.transfer.relay.row_statements import (
    COMPARE_HASHES,
    CREATE_STAGING,
    DELETE_DIFFERING,
    DIFFERS_SQLSTATE,
    FETCH_AS_TEXT,
    FETCH_BULK,
    INSERT_INTO_STAGING,
    INSERT_MISSING,
    format_statement,
    staging_table,
)
from app.transfer.relay.user_triggers import (
    UserTrigger,
    disable_and_enable_statements,
    enabled_triggers_query,
)

INTRANS, INERROR = psycopg.pq.TransactionStatus.INTRANS, psycopg.pq.TransactionStatus.INERROR

MIN_BULK_ENTRIES = 5_000  # log entries of a table from which a binary COPY is worth its extra round trips
MAX_MESSAGE_CHARS = 8_000_000  # characters of row data in one message
# The planner's row estimates are mostly wrong here, because the log has just been filled. Index lookups, one
# key at a time, are right for ten keys and fast enough for a million.
_PREFER_INDEX_LOOKUPS = (
    "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
)
# If a table had almost no rows at its last ANALYZE, the planner may choose an index on the company and scan
# all of its rows for each key: a thousand new rows then take seconds. ANALYZE prevents that; SKIP_LOCKED
# skips tables that another session locks.
SMALL_TABLE_ROWS, MIN_ANALYZE_ENTRIES = 1_000, 100
_ANALYZE_SMALL_TABLES = f"""
    DO $frontdesk$ DECLARE found record; BEGIN
        FOR found IN
            SELECT nspname, relname, reltuples
            FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE nspname || '.' || relname = ANY({{names}})
        LOOP
            IF found.reltuples < {SMALL_TABLE_ROWS} OR NOT EXISTS (
                SELECT FROM pg_stats WHERE schemaname = found.nspname AND tablename = found.relname
            ) THEN
                EXECUTE format('ANALYZE (SKIP_LOCKED) %I.%I', found.nspname, found.relname);
            END IF;
        END LOOP;
    END $frontdesk$
"""
_TABLES_WITH_MANY_ENTRIES = (
    f"ARRAY(SELECT table_name FROM {SCHEMA}.marks GROUP BY 1 HAVING count(*) > {MIN_ANALYZE_ENTRIES})"
)

# Sequence numbers are aggregated to ranges: a million consecutive numbers become one range.
_READ_CHANGE_LOG = f"""
    SELECT table_name, count(*), range_agg(int8range(seq, seq, '[]'))::text
    FROM {SCHEMA}.marks GROUP BY table_name
"""
_DELETE_ENTRIES = f"DELETE FROM {SCHEMA}.marks WHERE seq <@ {{}}::int8multirange"
_DONE = f"UPDATE {SCHEMA}.relay SET finished_at = clock_timestamp(), marks = {{}}, seconds = {{}}"


class DirectionChangedError(ConflictError):
    """The direction of the transfer has changed. Run `frontdesk transfer status`, then try again."""


class AppliedRowsDifferError(FrontdeskError):
    """Rows that were just applied differ between the two sides."""


@dataclass(frozen=True)
class CycleResult:
    """Result of an apply cycle: log entries read, rows changed on the standby, and duration in seconds."""

    entries: int = 0
    rows: int = 0
    seconds: float = 0.0
    is_verified: bool = False


def is_change_log_empty(source: Connection) -> bool:
    """Return whether the source's change log is empty."""
    return source.execute(f"SELECT FROM {SCHEMA}.marks LIMIT 1").fetchone() is None


def run_apply_cycle(
    source: Connection,
    target: Connection,
    tables: Sequence[TableInfo],
    *,
    verify: bool = False,
    dry_run: bool = False,
) -> CycleResult:
    """Run one apply cycle from `source` to `target` and return its result.

    Args:
        source: Session on the live side, in autocommit mode.
        target: Session on the standby side, in autocommit mode.
        tables: All tables of the transfer, parents before children.
        verify: Compare the SHA-256 of the applied rows on both sides before the commit.
        dry_run: Run every step, then roll back.

    Raises AppliedRowsDifferError if the comparison fails, DirectionChangedError if `target` is no longer the
    standby of `source`, and psycopg errors. After an error the log entries are still in the change log.
    """
    try:
        lock = lock_target(source, target, tables, verify=verify)
        batch = StatementBatch()
        queries = lock.add_source_queries(batch)
        batch.execute(source)
        snapshot = queries.check()
        if not snapshot.entries:
            return CycleResult()
        fetched = snapshot.fetch()
        if dry_run:
            rows = fetched.rehearse()
        else:
            applied = fetched.apply(fetched.commit_source())
            StatementBatch(*applied.completion_statements()).execute(source)
            rows = applied.rows
        return CycleResult(snapshot.entries, rows, lock.seconds, verify)
    finally:
        roll_back(source, target)


@dataclass(frozen=True)
class TableEntries:
    """The entries of one table in the change log. `numbers` is an int8multirange of `marks.seq`."""

    table: str
    count: int
    numbers: str


def lock_target(
    source: Connection, target: Connection, tables: Sequence[TableInfo], *, verify: bool = False
) -> "TargetLock":
    """Begin a transaction on the target that may write, and take the relay lock for it.

    Until this transaction ends, no other session can apply changes on the target and the target cannot be
    opened. Lock the target before reading the source: an older snapshot can then neither be committed after a
    newer one nor on a side that has been opened. See `run_apply_cycle` for the arguments. Raises
    DirectionChangedError if the target is not a standby.
    """
    batch = StatementBatch("BEGIN", f"SELECT pg_advisory_xact_lock({AdvisoryLock.TRANSFER_RELAY})")
    epoch = _add_fence_bypass(batch)
    batch.add(_PREFER_INDEX_LOOKUPS)
    triggers = batch.add_query(enabled_triggers_query(tables), list[UserTrigger])
    batch.execute(target)
    # The time excludes the wait for another session's cycle.
    return TargetLock(source, target, tables, verify, epoch.read(), triggers.read(), monotonic())


@dataclass(frozen=True)
class TargetLock:
    """The open transaction on the target, which holds the relay lock, and the arguments of the cycle."""

    source: Connection
    target: Connection
    tables: Sequence[TableInfo]
    verify: bool
    epoch: int  # the epoch of the standby
    user_triggers: list[UserTrigger]
    acquired_at: float  # time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since this session acquired the target's relay lock."""
        return monotonic() - self.acquired_at

    def roll_back(self) -> None:
        """Roll back the open transactions of both sessions."""
        roll_back(self.source, self.target)

    def add_source_queries(self, batch: StatementBatch) -> "SourceQueries":
        """Add the statements that take a snapshot of the source and read its change log.

        Execute the batch on the source, then check the answers.
        """
        batch.add("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        side_row = batch.add_query(fencing.side_row_query(), fencing.parse_side_row)
        batch.add(_PREFER_INDEX_LOOKUPS)
        log = batch.add_query(_READ_CHANGE_LOG, lambda rows: [TableEntries(*row) for row in rows])
        batch.add(sql.SQL(_ANALYZE_SMALL_TABLES).format(names=sql.SQL(_TABLES_WITH_MANY_ENTRIES)))
        return SourceQueries(self, side_row, log)


@dataclass(frozen=True)
class SourceQueries:
    """Queries for the state row of the source and for its change log, in one snapshot."""

    lock: TargetLock
    side_row: Answer[fencing.SideRow]
    log: Answer[list[TableEntries]]

    def check(self) -> "SourceSnapshot":
        """Check the answers, and return them.

        Raises DirectionChangedError if the source is not live at this standby's epoch, and FrontdeskError if
        the change log names tables that are not part of the transfer.
        """
        row, log = self.side_row.read(), self.log.read()
        if row.state == "standby" or row.epoch != self.lock.epoch:
            raise DirectionChangedError
        unknown = {entries.table for entries in log} - {table.name for table in self.lock.tables}
        if unknown:
            raise FrontdeskError(
                f"The change log names tables that are not transferred: {', '.join(sorted(unknown))}."
            )
        return SourceSnapshot(self.lock, row, log)


@dataclass(frozen=True)
class SourceSnapshot:
    """An open snapshot of the source: its state row and change log."""

    lock: TargetLock
    side_row: fencing.SideRow
    log: list[TableEntries]

    @property
    def entries(self) -> int:
        """Number of entries in the change log."""
        return sum(entries.count for entries in self.log)

    @property
    def changed_tables(self) -> list[tuple[int, TableInfo]]:
        """The tables with entries, parents before children, with their numbers in the transfer."""
        names = {entries.table for entries in self.log}
        return [(n, table) for n, table in enumerate(self.lock.tables) if table.name in names]

    def closed_by(self, closing: fencing.Closing) -> "DurableSource | None":
        """Return a DurableSource if the snapshot was taken during this closing of the source, else None.

        Closing is a synchronous commit after the commits of all writers, which may be asynchronous.
        """
        if (self.side_row.state, self.side_row.attempt) != ("closing", closing.attempt):
            return None
        return DurableSource(self)

    def fetch(self) -> "FetchedRows":
        """Read the changed keys and their rows from the source.

        Tables with more than MIN_BULK_ENTRIES log entries are copied to the target's staging tables in one
        binary COPY each. The rows of all other tables come in one text stream.
        """
        lock, fetched = self.lock, FetchedRows(self)
        bulk = {entries.table for entries in self.log if entries.count > MIN_BULK_ENTRIES}
        for number, table in self.changed_tables:
            if table.name in bulk:
                StatementBatch(format_statement(CREATE_STAGING, number, table)).execute(lock.target)
                query = format_statement(FETCH_BULK, number, table, verify=lock.verify)
                pipe_copy(lock.source, lock.target, table, query, staging_table(number))
        queries = [
            format_statement(FETCH_AS_TEXT, number, table, verify=lock.verify)
            for number, table in self.changed_tables
            if table.name not in bulk
        ]
        if not queries:
            return fetched
        out = sql.SQL("COPY ({}) TO STDOUT").format(sql.SQL(" UNION ALL ").join(queries))
        size = 0
        with lock.source.cursor().copy(out) as stream:
            stream.set_types(["int4", "text"])
            for number, row in stream.rows():
                fetched.unsent.setdefault(number, []).append(row)
                size += len(row)
                if size > MAX_MESSAGE_CHARS:  # limits the memory that unsent rows take
                    StatementBatch(*fetched.staging_statements()).execute(lock.target)
                    size = 0
        return fetched


@dataclass(frozen=True)
class DurableSource:
    """Proof that the source keeps, even after a crash, every row of the snapshot.

    The source must not lose a row after the target has stored it. Only `SourceSnapshot.closed_by` and
    `FetchedRows.commit_source` create this value.
    """

    snapshot: SourceSnapshot


@dataclass(frozen=True)
class FetchedRows:
    """The changed rows of a snapshot, in the target's staging tables or still to be sent there."""

    snapshot: SourceSnapshot
    unsent: dict[int, list[str]] = field(default_factory=dict)  # by table number

    def commit_source(self) -> DurableSource:
        """End the source's snapshot with a synchronous commit.

        Writers may commit asynchronously; this commit flushes their WAL to disk together with its own.
        """
        StatementBatch("COMMIT", f"UPDATE {SCHEMA}.relay SET began_at = clock_timestamp()").execute(
            self.snapshot.lock.source
        )
        return DurableSource(self.snapshot)

    def apply(self, durable: DurableSource, extra: StatementBatch | None = None) -> "AppliedRows":
        """Make the target's rows equal to the fetched rows, and commit.

        Rows of children are deleted before those of parents. `extra` are additional statements to execute in
        the same transaction. Raises AppliedRowsDifferError if the rows are verified and differ, and psycopg
        errors.
        """
        if durable.snapshot is not self.snapshot:
            raise ValueError("The rows belong to another snapshot than the proof that the source is durable.")
        return AppliedRows(self.snapshot, self._write("COMMIT", extra))

    def rehearse(self) -> int:
        """Apply the rows and roll back, for a dry run; return the number of rows written or deleted."""
        return self._write("ROLLBACK", None)

    def _write(self, end: str, extra: StatementBatch | None) -> int:
        lock, changed_tables = self.snapshot.lock, self.snapshot.changed_tables
        many = [entries.table for entries in self.snapshot.log if entries.count > MIN_ANALYZE_ENTRIES]
        off, on = disable_and_enable_statements(lock.user_triggers, [table for _, table in changed_tables])
        batch = StatementBatch(*self.staging_statements())
        if many:
            batch.add(sql.SQL(_ANALYZE_SMALL_TABLES).format(names=sql.Literal(many)))
        batch.add(*off)
        writes = [
            batch.add_write(format_statement(template, number, table))
            for template, tables in (
                (DELETE_DIFFERING, changed_tables[::-1]),
                (INSERT_MISSING, changed_tables),
            )
            for number, table in tables
        ]
        if extra is not None:
            batch.extend(extra)
        if lock.verify:
            batch.add(
                *(
                    format_statement(COMPARE_HASHES, number, table, verify=True)
                    for number, table in changed_tables
                )
            )
        batch.add(*on, end)
        try:
            batch.execute(lock.target)
        except psycopg.Error as error:
            if error.sqlstate != DIFFERS_SQLSTATE:
                raise
            raise AppliedRowsDifferError(
                f"Rows of {error.diag.table_name} that were just applied differ between the two sides."
            ) from error
        return sum(write.read() for write in writes)

    def staging_statements(self) -> list[Statement]:
        """Return the statements that store the unsent rows in the target's staging tables, only once."""
        statements: list[Statement] = []
        for number, table in self.snapshot.changed_tables:
            if rows := self.unsent.pop(number, []):
                statements += [
                    format_statement(CREATE_STAGING, number, table),
                    format_statement(INSERT_INTO_STAGING, number, table, rows=rows),
                ]
        return statements


@dataclass(frozen=True)
class AppliedRows:
    """Rows that the target has committed. `rows`: number of rows written or deleted."""

    snapshot: SourceSnapshot
    rows: int

    def completion_statements(self) -> list[Statement]:
        """Return the statements that delete the log entries of this cycle. Execute them on the source."""
        deletions = [
            sql.SQL(_DELETE_ENTRIES).format(sql.Literal(entries.numbers)) for entries in self.snapshot.log
        ]
        seconds = self.snapshot.lock.seconds
        done = sql.SQL(_DONE).format(sql.Literal(self.snapshot.entries), sql.Literal(seconds))
        return [*deletions, done]


def roll_back(*connections: Connection) -> None:
    """Roll back the open transactions of the sessions, for example after an error in an apply cycle."""
    for connection in connections:
        if connection.info.transaction_status not in (INTRANS, INERROR):
            continue
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            if not connection.closed:  # the server rolls back a lost connection's transaction
                raise


def bypass_fence(target: Connection) -> None:
    """Allow the current transaction of `target` to write on the standby.

    Until the transaction ends, the side cannot be opened. Its writes are not added to the change log.
    Raises DirectionChangedError if `target` is not a standby.
    """
    batch = StatementBatch()
    epoch = _add_fence_bypass(batch)
    batch.execute(target)
    epoch.read()


def _add_fence_bypass(batch: StatementBatch) -> Answer[int]:
    """Add the statements of `bypass_fence`; return the answer with the standby's epoch."""
    epoch = batch.add_query(fencing.side_row_query(lock="FOR SHARE"), _parse_standby_epoch)
    batch.add(
        "SELECT set_config('frontdesk_transfer.relay', pg_current_xact_id()::text, true)",
        "SET CONSTRAINTS ALL DEFERRED",
    )
    return epoch


def pipe_copy(
    source: Connection, target: Connection, table: TableInfo, query: sql.Composable, into: sql.Composable
) -> int:
    """Pipe COPY TO on the source into COPY FROM on the target, and return the number of rows.

    The data is streamed, not kept in memory. `into` is a table name, optionally followed by a column list.
    """
    out = sql.SQL("COPY ({}) TO STDOUT (FORMAT {})").format(query, table.copy_format)
    in_ = sql.SQL("COPY {} FROM STDIN (FORMAT {})").format(into, table.copy_format)
    cursor = target.cursor()
    with source.cursor().copy(out) as reader, cursor.copy(in_) as writer:
        for block in reader:
            writer.write(block)
    return cursor.rowcount


def _parse_standby_epoch(rows: Rows) -> int:
    row = fencing.parse_side_row(rows)
    if row.state != "standby":
        raise DirectionChangedError
    return row.epoch
