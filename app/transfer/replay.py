"""One round of the relay: what has changed on the source becomes so on the standby.

The log holds keys, not rows. A round makes the rows of all keys that it finds in the log equal to one
snapshot of the source, in one transaction, and then forgets exactly the marks that it has read. So a round
that is repeated, or one that another overtook, does no harm.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg
from psycopg import sql

from app.database.checksum import row_hash_sql
from app.errors import ConflictError, FrontdeskError
from app.transfer import protocol
from app.transfer.foreign_triggers import silenced
from app.transfer.tables import SCHEMA, Table, listed

Connection = psycopg.Connection[Any]

# Any number will do that no other program takes advisory locks on: of whoever replays, on the standby.
RELAY_LOCK = 0x46726F6E746632

# In the target's session, for each table that has changed: the marked keys, and their rows on the source as
# far as there are any.
_FETCHED = "frontdesk_transfer_{}"
_MARKED, _IS_PRESENT = "frontdesk key {}", "frontdesk present"
_MAKE = """
    CREATE TEMPORARY TABLE IF NOT EXISTS {fetched} ON COMMIT DELETE ROWS
    AS SELECT {named_key}, true AS {is_present}, {columns} FROM {table} WITH NO DATA
"""
_FETCH = """
    SELECT {marked_key}, {first_present} IS NOT NULL, {present_row}
    FROM {marked} AS marked LEFT JOIN {table} AS present ON ({present_key}) = ({marked_key})
"""
# What is known of sizes is mostly wrong here: the log has just been filled. Keys are looked up one by one,
# which is right for ten and good enough for a million.
_ONE_BY_ONE = "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
# But for a table that had next to no rows when its statistics were made, that may mean to look for each key
# among all rows of its company: a thousand new ones then take seconds.
_IS_UNKNOWN = """
    SELECT reltuples < %s OR NOT EXISTS (
        SELECT FROM pg_stats WHERE (schemaname, tablename) = (nspname, relname)
    ) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = %s::regclass
"""
FEW_ROWS, MANY_MARKS = 1_000, 100

# The numbers as ranges: a million of them in a row are one.
_LOG = f"""
    SELECT table_name, count(*), range_agg(int8range(seq, seq, '[]'))::text
    FROM {SCHEMA}.marks GROUP BY table_name
"""
SHORT_LOG = 2_000  # marks
_FORGET = f"DELETE FROM {SCHEMA}.marks WHERE seq <@ %s::int8multirange"
_DONE = f"""
    UPDATE {SCHEMA}.relay SET finished_at = clock_timestamp(), marks = %(marks)s, seconds = %(seconds)s
"""

# Rows that differ go, and come back as they are on the source: so no unique or exclusion constraint sees a
# value twice, whichever way values were swapped. Checks of foreign keys are deferred, and look at the end.
_DELETE = """
    DELETE FROM {table} AS present USING pg_temp.{fetched} AS wanted
    WHERE ({present_key}) = ({fetched_key})
        AND (NOT wanted.{is_present} OR ROW({present_row})::record *<> ROW({wanted_row})::record)
"""
_INSERT = """
    INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
    SELECT {wanted_row} FROM pg_temp.{fetched} AS wanted
    WHERE wanted.{is_present}
        AND NOT EXISTS (SELECT FROM {table} AS present WHERE ({present_key}) = ({fetched_key}))
"""
_ROOT = """
    SELECT count(*), encode(sha256(coalesce(string_agg(hash, ''::bytea ORDER BY hash), ''::bytea)), 'hex')
    FROM (
        SELECT {hash} AS hash FROM (
            SELECT {present_row} FROM {keys} JOIN {table} AS present ON ({present_key}) = ({key})
        ) AS chosen
    ) AS hashed
"""


class MovedOnError(ConflictError):
    """The direction of the move has changed; look at the sides again."""


class TailDiffersError(FrontdeskError):
    """Rows that were just replayed differ on the two sides."""


@dataclass(frozen=True)
class Round:
    """What a round has done: marks read, rows written or deleted on the standby, seconds."""

    marks: int = 0
    rows: int = 0
    seconds: float = 0.0
    is_verified: bool = False


def is_drained(source: Connection) -> bool:
    """Whether the log is empty."""
    return source.execute(f"SELECT FROM {SCHEMA}.marks LIMIT 1").fetchone() is None


def is_short(source: Connection) -> bool:
    """Whether what waits is replayed in a moment."""
    query = f"SELECT count(*) FROM (SELECT FROM {SCHEMA}.marks LIMIT {SHORT_LOG + 1}) AS first"
    row = source.execute(query).fetchone()
    return row is not None and row[0] <= SHORT_LOG


def replay(
    source: Connection,
    target: Connection,
    tables: Sequence[Table],
    *,
    verify: bool = False,
    dry_run: bool = False,
) -> Round:
    """One round, over sessions in autocommit; `tables`: all of the move, parents first.

    `verify`: compare the rows' SHA-256 on both sides before committing, or raise TailDiffersError.
    `dry_run`: everything but keeping it. Raises MovedOnError where `target` is no standby of `source` any
    more, and psycopg's errors; then the marks are still there.
    """
    began = monotonic()
    with target.transaction(force_rollback=dry_run):
        # The target's locks come first, the source's snapshot second: an older round can then neither
        # commit after a younger one, nor on a side that has opened.
        epoch = enter_standby(target)
        target.execute(_ONE_BY_ONE)
        with snapshot(source, epoch):
            source.execute(_ONE_BY_ONE)
            log = source.execute(_LOG).fetchall()
            counts = {name: count for name, count, _ in log}
            touched = _touched(tables, counts.keys())
            many = [table for _, table in touched if counts[table.name] > MANY_MARKS]
            _make_statistics(source, many)
            for number, table in touched:
                _fetch(source, target, number, table)
            roots = [_source_root(source, table) for _, table in touched] if verify else []
        if not log:
            return Round()
        if not dry_run:
            # A source that is killed must not lose what the target is about to have: writers may not wait
            # for their own commits to reach the disk, this one does, and takes theirs with it.
            source.execute(f"UPDATE {SCHEMA}.relay SET began_at = clock_timestamp()")
        _make_statistics(target, many)
        rows = _apply(target, touched)
        if verify:
            _compare(target, touched, roots)
    marks, seconds = sum(count for _, count, _ in log), monotonic() - began
    if not dry_run:
        with source.transaction():
            for _, _, numbers in log:
                source.execute(_FORGET, (numbers,))
            source.execute(_DONE, {"marks": marks, "seconds": seconds})
    return Round(marks, rows, seconds, verify)


def enter_standby(target: Connection) -> int:
    """Let this transaction write on the standby, alone; its epoch. Raises MovedOnError where it is none.

    Until the transaction ends, nobody else replays here and the side cannot be opened.
    """
    target.execute("SELECT pg_advisory_xact_lock(%s)", (RELAY_LOCK,))
    return pass_fence(target)


def pass_fence(target: Connection) -> int:
    """Let this transaction write on the standby; its epoch. Raises MovedOnError where it is none.

    Until the transaction ends, the side cannot be opened. What it writes leaves no marks.
    """
    row = protocol.look(target, lock="FOR SHARE")
    if row.state != "standby":
        raise MovedOnError
    target.execute("SELECT set_config('frontdesk_transfer.relay', pg_current_xact_id()::text, true)")
    target.execute("SET CONSTRAINTS ALL DEFERRED")
    return row.epoch


@contextmanager
def snapshot(source: Connection, epoch: int) -> Iterator[None]:
    """One snapshot of the source for all statements. Raises MovedOnError where it is none at that epoch."""
    with source.transaction():
        source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = protocol.look(source)
        if row.state == "standby" or row.epoch != epoch:
            raise MovedOnError
        yield


def _touched(tables: Sequence[Table], names: Set[str]) -> list[tuple[int, Table]]:
    strangers = names - {table.name for table in tables}
    if strangers:
        raise FrontdeskError(f"The log names tables that are not moved: {', '.join(sorted(strangers))}.")
    return [(number, table) for number, table in enumerate(tables) if table.name in names]


def _make_statistics(connection: Connection, tables: Sequence[Table]) -> None:
    """Count what has grown from nothing; not where somebody else is at it."""
    for table in tables:
        parameters = (FEW_ROWS, table.identifier.as_string(None))
        if connection.execute(_IS_UNKNOWN, parameters).fetchone() == (True,):
            connection.execute(sql.SQL("ANALYZE (SKIP_LOCKED) {}").format(table.identifier))


def _marked(table: Table) -> sql.Composed:
    """The keys that wait for this table, in its own types."""
    return sql.SQL("(SELECT DISTINCT {} FROM {}.marks WHERE table_name = {})").format(
        table.typed_key("key"), sql.Identifier(SCHEMA), sql.Literal(table.name)
    )


def _fetch(source: Connection, target: Connection, number: int, table: Table) -> None:
    """Bring the keys that have changed, with their rows, to the target's session."""
    target.execute(_statement(_MAKE, number, table))
    into = sql.Identifier("pg_temp", _FETCHED.format(number))
    pipe(source, target, table, _statement(_FETCH, number, table), into)


def pipe(
    source: Connection, target: Connection, table: Table, query: sql.Composable, into: sql.Composable
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


def _apply(target: Connection, touched: Sequence[tuple[int, Table]]) -> int:
    """Make the target's rows what was fetched; how many rows that took. Children go before parents."""
    written = 0
    with silenced(target, [table for _, table in touched]):
        for number, table in reversed(touched):
            written += target.execute(_statement(_DELETE, number, table)).rowcount
        for number, table in touched:
            written += target.execute(_statement(_INSERT, number, table)).rowcount
    return written


def _statement(template: str, number: int, table: Table) -> sql.Composed:
    marked = [_MARKED.format(place) for place, _ in enumerate(table.key)]
    named = [
        sql.SQL("{} AS {}").format(sql.Identifier(column), sql.Identifier(name))
        for column, name in zip(table.key, marked, strict=True)
    ]
    return sql.SQL(template).format(
        table=table.identifier,
        fetched=sql.Identifier(_FETCHED.format(number)),
        marked=_marked(table),
        is_present=sql.Identifier(_IS_PRESENT),
        columns=table.column_list(),
        present_row=table.column_list("present"),
        wanted_row=table.column_list("wanted"),
        named_key=sql.SQL(", ").join(named),
        present_key=table.key_list("present"),
        marked_key=table.key_list("marked"),
        fetched_key=listed(marked, "wanted"),
        first_present=sql.Identifier("present", table.key[0]),
    )


def _source_root(source: Connection, table: Table) -> Any:
    keys = sql.SQL("{} AS marked").format(_marked(table))
    return source.execute(_root(table, keys, table.key_list("marked"))).fetchone()


def _compare(target: Connection, touched: Sequence[tuple[int, Table]], roots: Sequence[Any]) -> None:
    for (number, table), root in zip(touched, roots, strict=True):
        keys = sql.SQL("{} AS wanted").format(sql.Identifier("pg_temp", _FETCHED.format(number)))
        key = listed([_MARKED.format(place) for place, _ in enumerate(table.key)], "wanted")
        if target.execute(_root(table, keys, key)).fetchone() != root:
            raise TailDiffersError(f"Rows of {table.name} that were just replayed differ on the two sides.")


def _root(table: Table, keys: sql.Composable, key: sql.Composable) -> sql.Composed:
    return sql.SQL(_ROOT).format(
        hash=sql.SQL(row_hash_sql(table.columns)),
        table=table.identifier,
        present_row=table.column_list("present"),
        present_key=table.key_list("present"),
        keys=keys,
        key=key,
    )
