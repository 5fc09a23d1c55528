"""One round of the relay: what has changed on the source becomes so on the standby.

The log holds keys, not rows. A round makes the rows of all keys that it finds in the log equal to one
snapshot of the source, in one transaction, and then forgets exactly the marks that it has read. So a round
that is repeated, or one that another overtook, does no harm.

The servers may be far away: what can be said to one of them in one message is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg
from psycopg import sql

from app.database.advisory_locks import AdvisoryLock
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

Connection = psycopg.Connection[Any]

# Any number will do that no other program takes advisory locks on: of whoever replays, on the standby.

# Past the fence: what this transaction writes here is allowed and leaves no marks.
_BYPASS_FENCE = (
    fencing.side_row_query(lock="FOR SHARE"),
    "SELECT set_config('frontdesk_transfer.relay', pg_current_xact_id()::text, true)",
    "SET CONSTRAINTS ALL DEFERRED",
)

MIN_BULK_ENTRIES = 5_000  # marks of a table: its own stream, in binary, is then worth the trips
MAX_MESSAGE_CHARS = 8_000_000  # characters of rows in one message
# What is known of sizes is mostly wrong here: the log has just been filled. Keys are looked up one by one,
# which is right for ten and good enough for a million.
_PREFER_INDEX_LOOKUPS = (
    "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
)
# But for a table that had next to no rows when its statistics were made, that may mean to look for each key
# among all rows of its company: a thousand new ones then take seconds. Not where somebody else is at it.
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

# The numbers as ranges: a million of them in a row are one.
_READ_CHANGE_LOG = f"""
    SELECT table_name, count(*), range_agg(int8range(seq, seq, '[]'))::text
    FROM {SCHEMA}.marks GROUP BY table_name
"""
_DELETE_ENTRIES = f"DELETE FROM {SCHEMA}.marks WHERE seq <@ {{}}::int8multirange"
_DONE = f"UPDATE {SCHEMA}.relay SET finished_at = clock_timestamp(), marks = {{}}, seconds = {{}}"


class DirectionChangedError(ConflictError):
    """The direction of the move has changed; look at the sides again."""


class AppliedRowsDifferError(FrontdeskError):
    """Rows that were just replayed differ on the two sides."""


@dataclass(frozen=True)
class CycleResult:
    """What a round has done: marks read, rows written or deleted on the standby, seconds."""

    entries: int = 0
    rows: int = 0
    seconds: float = 0.0
    is_verified: bool = False


def is_change_log_empty(source: Connection) -> bool:
    """Whether the log is empty."""
    return source.execute(f"SELECT FROM {SCHEMA}.marks LIMIT 1").fetchone() is None


def run_apply_cycle(
    source: Connection,
    target: Connection,
    tables: Sequence[TableInfo],
    *,
    verify: bool = False,
    dry_run: bool = False,
) -> CycleResult:
    """One round, over sessions in autocommit; `tables`: all of the move, parents first.

    `verify`: compare the rows' SHA-256 on both sides before committing, or raise TailDiffersError.
    `dry_run`: everything but keeping it. Raises MovedOnError where `target` is no standby of `source` any
    more, and psycopg's errors; then the marks are still there.
    """
    work = ApplyCycle(source, target, tables, verify=verify)
    try:
        work.lock_target()
        work.read_answers(execute_batch(source, *work.read_statements()))
        if not work.entries:
            return CycleResult()
        work.fetch()
        if dry_run:
            work.apply(dry_run=True)
            return CycleResult(work.entries, work.rows, work.seconds, verify)
        # A source that is killed must not lose what the target is about to have: writers may not wait
        # for their own commits to reach the disk, this one does, and takes theirs with it.
        execute_batch(source, "COMMIT", f"UPDATE {SCHEMA}.relay SET began_at = clock_timestamp()")
        work.apply()
        execute_batch(source, *work.completion_statements())
        return CycleResult(work.entries, work.rows, work.seconds, verify)
    finally:
        work.rollback()


class ApplyCycle:
    """The steps of a round, in their order; a cutover puts its own between them."""

    def __init__(
        self, source: Connection, target: Connection, tables: Sequence[TableInfo], *, verify: bool = False
    ) -> None:
        self._source, self._target = source, target
        self._tables = tables
        self._verify = verify
        self.rows = 0  # that were written or deleted on the target
        self._locked_at = 0.0
        self._epoch = 0
        self._user_triggers: list[tuple[str, str, str]] = []
        self._log_summary: list[tuple[str, int, str]] = []
        self._changed_tables: list[tuple[int, TableInfo]] = []
        self._unsent_rows: dict[int, list[str]] = {}  # rows that have not been sent to the target yet

    def lock_target(self) -> None:
        """Let the target's session write on the standby, alone. Raises MovedOnError where it is none.

        The target's locks come first, the source's snapshot second: an older round can then neither
        commit after a younger one, nor on a side that has opened. Until its transaction ends, nobody else
        replays here and the side cannot be opened.
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
        self._locked_at = monotonic()  # what somebody else was at before is not ours

    def read_statements(self) -> list[Statement]:
        """One snapshot of the source, and its log; to be sent by the caller, and its answers heeded."""
        return [
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            fencing.side_row_query(),
            _PREFER_INDEX_LOOKUPS,
            _READ_CHANGE_LOG,
            sql.SQL(_ANALYZE_SMALL_TABLES).format(names=sql.SQL(_TABLES_WITH_MANY_ENTRIES)),
        ]

    def read_answers(self, answers: Sequence[Any]) -> fencing.SideRow:
        """The source's row. Raises MovedOnError where it is none that this standby follows."""
        row = fencing.parse_side_row(answers[1])
        if row.state == "standby" or row.epoch != self._epoch:
            raise DirectionChangedError
        self._log_summary = answers[3]
        names = {name for name, _, _ in self._log_summary}
        strangers = names - {table.name for table in self._tables}
        if strangers:
            raise FrontdeskError(f"The log names tables that are not moved: {', '.join(sorted(strangers))}.")
        self._changed_tables = [(n, table) for n, table in enumerate(self._tables) if table.name in names]
        return row

    @property
    def entries(self) -> int:
        """How many are in the log."""
        return sum(count for _, count, _ in self._log_summary)

    @property
    def seconds(self) -> float:
        """Since the target was ours alone."""
        return monotonic() - self._locked_at

    def fetch(self) -> None:
        """Bring the keys that have changed, with their rows: in one stream, but for large tables."""
        bulk = {name for name, count, _ in self._log_summary if count > MIN_BULK_ENTRIES}
        for number, table in self._changed_tables:
            if table.name in bulk:
                execute_batch(self._target, format_statement(CREATE_STAGING, number, table))
                query = format_statement(FETCH_BULK, number, table, verify=self._verify)
                pipe_copy(self._source, self._target, table, query, staging_table(number))
        few = [(number, table) for number, table in self._changed_tables if table.name not in bulk]
        if not few:
            return
        queries = [
            format_statement(FETCH_AS_TEXT, number, table, verify=self._verify) for number, table in few
        ]
        out = sql.SQL("COPY ({}) TO STDOUT").format(sql.SQL(" UNION ALL ").join(queries))
        size = 0
        with self._source.cursor().copy(out) as stream:
            stream.set_types(["int4", "text"])
            for number, row in stream.rows():
                self._unsent_rows.setdefault(number, []).append(row)
                size += len(row)
                if size > MAX_MESSAGE_CHARS:  # what is on the way needs no memory
                    execute_batch(self._target, *self._staging_statements())
                    size = 0

    def apply(self, *extra: Statement, dry_run: bool = False) -> list[Any]:
        """Make the target's rows what was fetched, and commit. Children go before parents.

        `extra`: what else to do in the target's transaction; what came of it is returned. Raises
        TailDiffersError, psycopg's errors.
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
                f"Rows of {error.diag.table_name} that were just replayed differ on the two sides."
            ) from error
        first, last = len(before), len(before) + len(writes)
        self.rows = sum(answers[first:last])
        return answers[last : last + len(extra)]

    def completion_statements(self) -> list[Statement]:
        """What forgets the marks that were read; to be sent to the source by the caller."""
        forget = [
            sql.SQL(_DELETE_ENTRIES).format(sql.Literal(numbers)) for _, _, numbers in self._log_summary
        ]
        done = sql.SQL(_DONE).format(sql.Literal(self.entries), sql.Literal(self.seconds))
        return [*forget, done]

    def rollback(self) -> None:
        """End what is open on either side, and keep nothing of it."""
        for connection in (self._source, self._target):
            if connection.info.transaction_status not in (INTRANS, INERROR):
                continue
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                if not connection.closed:  # one that is lost has nothing open
                    raise

    def _staging_statements(self) -> list[Statement]:
        """What gives the target the rows that it does not have yet."""
        statements: list[Statement] = []
        for number, table in self._changed_tables:
            if rows := self._unsent_rows.pop(number, []):
                statements += [
                    format_statement(CREATE_STAGING, number, table),
                    format_statement(INSERT_INTO_STAGING, number, table, rows=rows),
                ]
        return statements


def bypass_fence(target: Connection) -> int:
    """Let this transaction write on the standby; its epoch. Raises MovedOnError where it is none.

    Until the transaction ends, the side cannot be opened. What it writes leaves no marks.
    """
    return _epoch_of_standby(execute_batch(target, *_BYPASS_FENCE)[0])


def pipe_copy(
    source: Connection, target: Connection, table: TableInfo, query: sql.Composable, into: sql.Composable
) -> int:
    """COPY to COPY, row by row: what is on the way needs no memory; the number of rows.

    `into`: a table, or one with columns.
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
