"""One apply cycle of the relay: copy the rows that changed on the source to the standby.

The change log holds primary keys, not rows. An apply cycle reads all keys in the log, makes their rows on
the standby equal to one snapshot of the source, in one transaction, and then deletes exactly the log entries
that it has read. It is therefore safe to repeat a cycle, or to run one after a newer cycle has committed.

The servers may be far away, so the statements for one server are sent in one message where possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg
from psycopg import sql

from app.database.advisory_locks import AdvisoryLock
from app.database.connection import Connection
from app.errors import ConflictError, FrontdeskError
from app.transfer.protocol import fencing
from app.transfer.protocol.pipeline import Statement, execute_batch
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
from app.transfer.relay.user_triggers import disable_and_enable_statements, enabled_triggers_query

INTRANS, INERROR = psycopg.pq.TransactionStatus.INTRANS, psycopg.pq.TransactionStatus.INERROR


# Allow the current transaction to write on the standby without adding entries to the standby's change log.
_BYPASS_FENCE = (
    fencing.side_row_query(lock="FOR SHARE"),
    "SELECT set_config('frontdesk_transfer.relay', pg_current_xact_id()::text, true)",
    "SET CONSTRAINTS ALL DEFERRED",
)

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
    cycle = ApplyCycle(source, target, tables, verify=verify)
    try:
        cycle.lock_target()
        cycle.read_answers(execute_batch(source, *cycle.read_statements()))
        if not cycle.entries:
            return CycleResult()
        cycle.fetch()
        if dry_run:
            cycle.apply(dry_run=True)
            return CycleResult(cycle.entries, cycle.rows, cycle.seconds, verify)
        # The source must not lose a row in a crash after the target has stored it. Writers may commit
        # asynchronously; this synchronous commit flushes their WAL to disk together with its own.
        execute_batch(source, "COMMIT", f"UPDATE {SCHEMA}.relay SET began_at = clock_timestamp()")
        cycle.apply()
        execute_batch(source, *cycle.completion_statements())
        return CycleResult(cycle.entries, cycle.rows, cycle.seconds, verify)
    finally:
        cycle.rollback()


class ApplyCycle:
    """The steps of an apply cycle, in calling order. A cutover runs additional steps between them."""

    def __init__(
        self, source: Connection, target: Connection, tables: Sequence[TableInfo], *, verify: bool = False
    ) -> None:
        self._source, self._target = source, target
        self._tables = tables
        self._verify = verify
        self.rows = 0  # written or deleted on the target
        self._locked_at = 0.0
        self._epoch = 0
        self._user_triggers: list[tuple[str, str, str]] = []
        self._log_summary: list[tuple[str, int, str]] = []
        self._changed_tables: list[tuple[int, TableInfo]] = []
        self._unsent_rows: dict[int, list[str]] = {}  # rows still to be sent to the target, by table number

    def lock_target(self) -> None:
        """Begin a transaction on the target that may write, and take the relay lock for it.

        Until this transaction ends, no other session can apply changes on the target and the target cannot be
        opened. Lock the target before reading the source: an older snapshot can then neither be committed
        after a newer one nor on a side that has been opened. Raises DirectionChangedError if the target is
        not a standby.
        """
        _, _, row, *_, self._user_triggers = execute_batch(
            self._target,
            "BEGIN",
            f"SELECT pg_advisory_xact_lock({AdvisoryLock.TRANSFER_RELAY})",
            *_BYPASS_FENCE,
            _PREFER_INDEX_LOOKUPS,
            enabled_triggers_query(self._tables),
        )
        self._epoch = _epoch_of_standby(row)
        self._locked_at = monotonic()  # excludes the time spent waiting for another session's cycle

    def read_statements(self) -> list[Statement]:
        """Return the statements that take a snapshot of the source and read its change log.

        Execute them on the source as one batch, then pass the answers to `read_answers`.
        """
        return [
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            fencing.side_row_query(),
            _PREFER_INDEX_LOOKUPS,
            _READ_CHANGE_LOG,
            sql.SQL(_ANALYZE_SMALL_TABLES).format(names=sql.SQL(_TABLES_WITH_MANY_ENTRIES)),
        ]

    def read_answers(self, answers: Sequence[Any]) -> fencing.SideRow:
        """Check the answers of the source, keep the contents of its change log, and return its state row.

        Raises DirectionChangedError if the source is not live at this standby's epoch, and FrontdeskError if
        the change log names tables that are not part of the transfer.
        """
        row = fencing.parse_side_row(answers[1])
        if row.state == "standby" or row.epoch != self._epoch:
            raise DirectionChangedError
        self._log_summary = answers[3]
        names = {name for name, _, _ in self._log_summary}
        unknown = names - {table.name for table in self._tables}
        if unknown:
            raise FrontdeskError(
                f"The change log names tables that are not transferred: {', '.join(sorted(unknown))}."
            )
        self._changed_tables = [(n, table) for n, table in enumerate(self._tables) if table.name in names]
        return row

    @property
    def entries(self) -> int:
        """Number of change log entries that were read."""
        return sum(count for _, count, _ in self._log_summary)

    @property
    def seconds(self) -> float:
        """Seconds since this session acquired the target's relay lock."""
        return monotonic() - self._locked_at

    def fetch(self) -> None:
        """Read the changed keys and their rows from the source.

        Tables with more than MIN_BULK_ENTRIES log entries are copied to the target's staging tables in one
        binary COPY each. The rows of all other tables come in one text stream.
        """
        bulk = {name for name, count, _ in self._log_summary if count > MIN_BULK_ENTRIES}
        for number, table in self._changed_tables:
            if table.name in bulk:
                execute_batch(self._target, format_statement(CREATE_STAGING, number, table))
                query = format_statement(FETCH_BULK, number, table, verify=self._verify)
                pipe_copy(self._source, self._target, table, query, staging_table(number))
        small = [(number, table) for number, table in self._changed_tables if table.name not in bulk]
        if not small:
            return
        queries = [
            format_statement(FETCH_AS_TEXT, number, table, verify=self._verify) for number, table in small
        ]
        out = sql.SQL("COPY ({}) TO STDOUT").format(sql.SQL(" UNION ALL ").join(queries))
        size = 0
        with self._source.cursor().copy(out) as stream:
            stream.set_types(["int4", "text"])
            for number, row in stream.rows():
                self._unsent_rows.setdefault(number, []).append(row)
                size += len(row)
                if size > MAX_MESSAGE_CHARS:  # limits the memory that unsent rows take
                    execute_batch(self._target, *self._staging_statements())
                    size = 0

    def apply(self, *extra: Statement, dry_run: bool = False) -> list[Any]:
        """Make the target's rows equal to the fetched rows, and commit (or roll back if `dry_run`).

        Rows of children are deleted before those of parents. `extra` are additional statements to execute in
        the same transaction; their answers are returned. Raises AppliedRowsDifferError if the rows are
        verified and differ, and psycopg errors.
        """
        touched = [table for _, table in self._changed_tables]
        many = [name for name, count, _ in self._log_summary if count > MIN_ANALYZE_ENTRIES]
        off, on = disable_and_enable_statements(self._user_triggers, touched)
        before = [
            *self._staging_statements(),
            *[sql.SQL(_ANALYZE_SMALL_TABLES).format(names=sql.Literal(many))] * bool(many),
            *off,
        ]
        writes = [
            format_statement(DELETE_DIFFERING, number, table)
            for number, table in reversed(self._changed_tables)
        ]
        writes += [format_statement(INSERT_MISSING, number, table) for number, table in self._changed_tables]
        compares = [
            format_statement(COMPARE_HASHES, number, table, verify=True)
            for number, table in self._changed_tables
        ]
        end = "ROLLBACK" if dry_run else "COMMIT"
        try:
            answers = execute_batch(
                self._target, *before, *writes, *extra, *compares * self._verify, *on, end
            )
        except psycopg.Error as error:
            if error.sqlstate != DIFFERS_SQLSTATE:
                raise
            raise AppliedRowsDifferError(
                f"Rows of {error.diag.table_name} that were just applied differ between the two sides."
            ) from error
        first, last = len(before), len(before) + len(writes)
        self.rows = sum(answers[first:last])
        return answers[last : last + len(extra)]

    def completion_statements(self) -> list[Statement]:
        """Return the statements that delete the log entries of this cycle. Execute them on the source."""
        deletions = [
            sql.SQL(_DELETE_ENTRIES).format(sql.Literal(numbers)) for _, _, numbers in self._log_summary
        ]
        done = sql.SQL(_DONE).format(sql.Literal(self.entries), sql.Literal(self.seconds))
        return [*deletions, done]

    def rollback(self) -> None:
        """Roll back the open transactions of both sessions."""
        for connection in (self._source, self._target):
            if connection.info.transaction_status not in (INTRANS, INERROR):
                continue
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                if not connection.closed:  # the server rolls back a lost connection's transaction
                    raise

    def _staging_statements(self) -> list[Statement]:
        """Return the statements that store the unsent rows in the target's staging tables."""
        statements: list[Statement] = []
        for number, table in self._changed_tables:
            if rows := self._unsent_rows.pop(number, []):
                statements += [
                    format_statement(CREATE_STAGING, number, table),
                    format_statement(INSERT_INTO_STAGING, number, table, rows=rows),
                ]
        return statements


def bypass_fence(target: Connection) -> int:
    """Allow the current transaction of `target` to write on the standby, and return the standby's epoch.

    Until the transaction ends, the side cannot be opened. Its writes are not added to the change log.
    Raises DirectionChangedError if `target` is not a standby.
    """
    return _epoch_of_standby(execute_batch(target, *_BYPASS_FENCE)[0])


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


def _epoch_of_standby(answer: Any) -> int:
    row = fencing.parse_side_row(answer)
    if row.state != "standby":
        raise DirectionChangedError
    return row.epoch
