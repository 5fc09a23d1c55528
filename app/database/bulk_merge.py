"""Bulk merge: insert or update many rows by key with one statement, and count the outcomes.

The rows are loaded into a temporary table by COPY and joined with the target table. The join leaves out
unchanged rows before anything is locked or written (no new row version, hardly any WAL). Stored rows are
changed by an UPDATE: it takes half the time of INSERT … ON CONFLICT on the same rows, and it evaluates its
conditions again on a row that another writer has changed in the meantime. New rows are inserted. Their
ON CONFLICT clause applies the same conditions to rows that another writer inserts in the meantime.

Two cases are handled differently. Up to MAX_INLINE_ROWS rows are merged by INSERT … ON CONFLICT alone. If the
company has no rows in the table yet, the rows are copied into the table directly, which takes three quarters
of the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.expression import ColumnElement

from app.database.connection import Connection
from app.database.dialect import DIALECT
from app.models import Base

# For so few rows, one statement with parameters is faster than a temporary table, and it leaves no dead rows
# in the system catalog.
MAX_INLINE_ROWS = 50


_COUNTS = "SELECT count(*) FILTER (WHERE inserted), count(*), array_agg(id) FILTER (WHERE underived)"
_OUTCOME = {
    False: sql.SQL(f"{_COUNTS} FROM written"),
    True: sql.SQL(f"{_COUNTS}, array_agg(id) FROM written"),
}


class OverwritePolicy(Enum):
    """Rule that decides whether an incoming row may overwrite the stored row."""

    ALWAYS = "always"
    NOT_OLDER = "not older"  # compares source_changed_at; a missing time counts as current
    NEWER_IF_PENDING = "not older; newer where a local change is pending"


@dataclass(frozen=True)
class MergeTarget:
    """Target of a merge: the table's model, its conflict key without `company_id`, its overwrite policy."""

    model: type[Base]
    key: tuple[str, ...]
    overwrite_policy: OverwritePolicy

    @property
    def columns(self) -> Mapping[str, ColumnElement[Any]]:
        """Return the table's columns by name."""
        return dict(self.model.__table__.columns.items())


@dataclass(frozen=True)
class DerivedColumn:
    """A column that is computed from several others; the incoming rows lack some of them (`missing_columns`).

    The merge writes the new value to a stored row only if all `missing_columns` of that row are NULL. The
    caller must recompute the column of the other rows (`MergeResult.underived_ids`).
    """

    column: str
    missing_columns: tuple[str, ...]


@dataclass
class MergeResult:
    """Outcome of one merge, in numbers of rows.

    `underived_ids`: ids of the rows whose derived column the caller must recompute. With `want_ids`,
    `written_ids` are the ids of the inserted and updated rows, and `ids_by_key` maps the key of every row
    that is not stale to its id. Without `want_ids`, both are empty.
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0
    written_ids: list[int] = field(default_factory=list)
    underived_ids: list[int] = field(default_factory=list)
    ids_by_key: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def add(self, other: "MergeResult") -> None:
        """Add the counts of another merge to this one; ids are not added."""
        self.inserted += other.inserted
        self.updated += other.updated
        self.unchanged += other.unchanged
        self.stale += other.stale


def merge(
    connection: Connection,
    target: MergeTarget,
    company_id: int,
    columns: tuple[str, ...],
    rows: Sequence[Sequence[Any]],
    derived: DerivedColumn | None = None,
    want_ids: bool = False,
) -> MergeResult:
    """Insert or update rows in the open transaction.

    Args:
        target: the table and its conflict key.
        company_id: the company that all rows belong to.
        columns: names of the columns, without `company_id`.
        rows: values in the order of `columns`. No two rows may have the same key.
        derived: a column that the rows do not determine completely.
        want_ids: also return the ids of the rows.

    Returns the numbers of inserted, updated, unchanged and stale rows.
    """
    if not rows:
        return MergeResult()
    # All writers use the same order, so two merges of the same rows seldom deadlock. The caller retries a
    # deadlock.
    key_of = itemgetter(*map(columns.index, target.key)) if target.key else len
    rows = sorted(rows, key=key_of)
    statements = _statements(target, columns, derived, want_ids)
    if jsonb := statements.jsonb_positions:
        rows = [[Jsonb(v) if i in jsonb and v is not None else v for i, v in enumerate(row)] for row in rows]
    if (
        len(rows) > MAX_INLINE_ROWS
        and not want_ids
        and _try_direct_copy(connection, statements, company_id, rows)
    ):
        return MergeResult(inserted=len(rows))
    with connection.cursor() as cursor:
        parameters: dict[str, Any] = {"company_id": company_id}
        is_inline = len(rows) <= MAX_INLINE_ROWS
        if is_inline:
            source = _inline_statements(statements, len(rows))
            parameters |= {f"v{n}": value for n, value in enumerate(v for row in rows for v in row)}
        else:
            source = statements.of_stage
            cursor.execute(statements.create_stage)
            with cursor.copy(statements.copy) as copy:
                for row in rows:
                    copy.write_row(row)
        cursor.execute(source.merge, parameters)
        ((inserted, written, underived, *ids),) = cursor
        merged = MergeResult(inserted, written - inserted, underived_ids=underived or [])
        left = len(rows) - written
        if want_ids:
            merged.written_ids = ids[0] or []
            cursor.execute(source.current, parameters)
            merged.ids_by_key = {tuple(key): row_id for row_id, *key in cursor.fetchall()}
            merged.stale = len(rows) - len(merged.ids_by_key)
        elif left and statements.can_find_stale:
            cursor.execute(source.count_stale, parameters)
            ((merged.stale,),) = cursor
        merged.unchanged = left - merged.stale
        if not is_inline:
            cursor.execute(statements.drop_stage)
    return merged


def _try_direct_copy(
    connection: Connection, statements: "_Statements", company_id: int, rows: Sequence[Sequence[Any]]
) -> bool:
    """Copy the rows into the table itself, if the company has no rows in it.

    Returns True if the rows were copied, False if the caller must merge them.
    """
    with connection.cursor() as cursor:
        if cursor.execute(statements.any_row, {"company_id": company_id}).fetchone() is not None:
            return False
        try:
            with connection.transaction(), cursor.copy(statements.fill) as copy:  # a savepoint
                for row in rows:
                    copy.write_row((company_id, *row))
        except psycopg.errors.UniqueViolation:  # another writer inserted rows of the company first
            return False
    return True


@lru_cache(maxsize=512)
def _statements(
    target: MergeTarget, columns: tuple[str, ...], derived: DerivedColumn | None, want_ids: bool
) -> "_Statements":
    return _Statements(target, columns, derived, want_ids)


# Composing a statement takes longer than its execution on a near server. Most merges have one row.
@lru_cache(maxsize=256)
def _inline_statements(statements: "_Statements", count: int) -> "_SourceStatements":
    return statements.of_values(count)


@dataclass(frozen=True)
class _SourceStatements:
    """The statements that read the incoming rows, composed for one source of rows."""

    merge: bytes
    current: bytes  # id and key of each row that is not stale
    count_stale: bytes


class _Statements:
    """SQL statements of a merge of the given columns into one table."""

    def __init__(
        self, target: MergeTarget, columns: tuple[str, ...], derived: DerivedColumn | None, want_ids: bool
    ) -> None:
        self._outcome = _OUTCOME[want_ids]
        self._target = target
        self._derived = derived
        self._columns = columns
        types = [target.columns[c].type for c in columns]
        self.jsonb_positions = {i for i, kind in enumerate(types) if isinstance(kind, JSONB)}
        self._types = [sql.SQL(kind.compile(dialect=DIALECT)) for kind in types]
        self._settable = [c for c in columns if c not in target.key]
        self._table = sql.Identifier(target.model.__tablename__)
        stage = sql.Identifier(f"stage_{target.model.__tablename__}")
        self._stage = sql.SQL("{} AS s").format(stage)
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        definitions = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(c), t) for c, t in zip(columns, self._types, strict=True)
        )
        self.create_stage = sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(
            stage, definitions
        )
        self.copy = sql.SQL("COPY {} ({}) FROM STDIN").format(stage, names)
        self.any_row = sql.SQL("SELECT 1 FROM {} WHERE company_id = %(company_id)s LIMIT 1").format(
            self._table
        )
        self.fill = sql.SQL("COPY {} (company_id, {}) FROM STDIN").format(self._table, names)
        self.drop_stage = sql.SQL("DROP TABLE {}").format(stage)

    @property
    def can_find_stale(self) -> bool:
        """True if a row with these columns can be older than the stored row."""
        timed = "source_changed_at" in self._columns
        return self._target.overwrite_policy is OverwritePolicy.NEWER_IF_PENDING or (
            timed and self._target.overwrite_policy is OverwritePolicy.NOT_OLDER
        )

    @cached_property
    def of_stage(self) -> _SourceStatements:
        """The statements for rows in the temporary table."""
        return self._of_source(self._stage, self._merge_stage())

    def of_values(self, count: int) -> _SourceStatements:
        """Return the statements for `count` rows that are the parameters `v0`, `v1`, …, row by row."""
        values = self._values(count)
        return self._of_source(values, self._merge_values(values))

    def _of_source(self, source: sql.Composable, merge: sql.Composed) -> _SourceStatements:
        statements = (merge, self._current(source), self._count_stale(source))
        return _SourceStatements(*(statement.as_bytes(None) for statement in statements))

    def _values(self, count: int) -> sql.Composable:
        width = len(self._columns)
        rows = sql.SQL(", ").join(
            sql.SQL("({})").format(
                sql.SQL(", ").join(
                    sql.SQL("{}::{}").format(sql.Placeholder(f"v{row * width + i}"), self._types[i])
                    for i in range(width)
                )
            )
            for row in range(count)
        )
        names = sql.SQL(", ").join(map(sql.Identifier, self._columns))
        return sql.SQL("(VALUES {}) AS s ({})").format(rows, names)

    def _merge_stage(self) -> sql.Composed:
        changed = sql.SQL(
            """
            UPDATE {table} AS t SET {assignments} FROM {stage}
            WHERE {same_key} AND {fresh} AND {differs}
            RETURNING t.id, false AS inserted, NOT ({derived}) AS underived
            """
        ).format(
            table=self._table,
            assignments=self._assignments("s"),
            stage=self._stage,
            same_key=self._same_key(),
            fresh=self._may_overwrite("s"),
            differs=self._differs("s"),
            derived=self._derivable,
        )
        is_new = sql.SQL("WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})").format(
            self._table, self._same_key()
        )
        return sql.SQL(
            "WITH changed AS ({}), added AS ({}), written AS (TABLE changed UNION ALL TABLE added) {}"
        ).format(changed, self._insert(self._stage, is_new), self._outcome)

    def _merge_values(self, values: sql.Composable) -> sql.Composed:
        # Each row is found by its key in the unique index, so no plan can read the company's other rows.
        return sql.SQL("WITH written AS ({}) {}").format(self._insert(values, sql.SQL("")), self._outcome)

    def _insert(self, source: sql.Composable, condition: sql.Composable) -> sql.Composable:
        key = self._target.key
        return sql.SQL(
            """
            INSERT INTO {table} AS t (company_id, {columns})
            SELECT %(company_id)s, {selected} FROM {source} {condition} {in_order}
            ON CONFLICT ({conflict_key}) DO UPDATE SET {assignments} WHERE {fresh} AND {differs}
            RETURNING t.id, t.xmax = 0 AS inserted, NOT ({derived}) AS underived
            """
        ).format(
            table=self._table,
            source=source,
            condition=condition,
            columns=sql.SQL(", ").join(map(sql.Identifier, self._columns)),
            selected=sql.SQL(", ").join(sql.Identifier("s", c) for c in self._columns),
            # Rows are inserted in the order of their keys. If two writers insert the same rows, one waits for
            # the other, instead of a deadlock.
            in_order=sql.SQL("ORDER BY {}" if key else "").format(
                sql.SQL(", ").join(sql.Identifier("s", c) for c in key)
            ),
            conflict_key=sql.SQL(", ").join(map(sql.Identifier, ("company_id", *key))),
            assignments=self._assignments("excluded"),
            fresh=self._may_overwrite("excluded"),
            differs=self._differs("excluded"),
            derived=self._derivable,
        )

    def _assignments(self, source: str) -> sql.Composable:
        assignments: list[sql.Composable] = [
            sql.SQL("{} = {}").format(sql.Identifier(c), self._new_value(source, c)) for c in self._settable
        ]
        assignments.append(sql.SQL("updated_at = now()"))
        if self._target.overwrite_policy is OverwritePolicy.NEWER_IF_PENDING:
            assignments.append(sql.SQL("pending_since = NULL"))
        return sql.SQL(", ").join(assignments)

    def _count_stale(self, source: sql.Composable) -> sql.Composed:
        return sql.SQL(
            "SELECT count(*) FROM {source} JOIN {table} AS t ON {same_key} WHERE NOT {fresh}"
        ).format(source=source, table=self._table, same_key=self._same_key(), fresh=self._may_overwrite("s"))

    def _current(self, source: sql.Composable) -> sql.Composed:
        return sql.SQL(
            "SELECT t.id, {key} FROM {source} JOIN {table} AS t ON {same_key} WHERE {fresh}"
        ).format(
            key=sql.SQL(", ").join(sql.Identifier("s", c) for c in self._target.key),
            source=source,
            table=self._table,
            same_key=self._same_key(),
            fresh=self._may_overwrite("s"),
        )

    def _same_key(self) -> sql.Composable:
        same = [
            sql.SQL("{} = {}").format(sql.Identifier("t", c), sql.Identifier("s", c))
            for c in self._target.key
        ]
        return sql.SQL(" AND ").join([sql.SQL("t.company_id = %(company_id)s"), *same])

    def _new_value(self, source: str, column: str) -> sql.Composable:
        value = sql.Identifier(source, column)
        if column == "source_changed_at":  # a row without a time keeps the stored time
            return sql.SQL("COALESCE({}, t.source_changed_at)").format(value)
        if self._derived is not None and column == self._derived.column:
            return sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(
                self._derivable, value, sql.Identifier("t", column)
            )
        return value

    @property
    def _derivable(self) -> sql.Composable:
        """SQL condition: all `missing_columns` of the stored row are NULL."""
        missing = self._derived.missing_columns if self._derived is not None else ()
        absent: list[sql.Composable] = [sql.SQL("{} IS NULL").format(sql.Identifier("t", c)) for c in missing]
        return sql.SQL(" AND ").join(absent) if absent else sql.SQL("true")

    def _differs(self, source: str) -> sql.Composable:
        if not self._settable:
            return sql.SQL("false")
        return sql.SQL("({}) IS DISTINCT FROM ({})").format(
            sql.SQL(", ").join(sql.Identifier("t", c) for c in self._settable),
            sql.SQL(", ").join(self._new_value(source, c) for c in self._settable),
        )

    def _may_overwrite(self, source: str) -> sql.Composable:
        """Return the SQL condition that allows an incoming row to overwrite the stored row; never NULL."""
        freshness = self._target.overwrite_policy
        if freshness is OverwritePolicy.ALWAYS:
            return sql.SQL("true")
        pending = freshness is OverwritePolicy.NEWER_IF_PENDING
        if "source_changed_at" not in self._columns:
            return sql.SQL("t.pending_since IS NULL") if pending else sql.SQL("true")
        stored, incoming = sql.SQL("t.source_changed_at"), sql.Identifier(source, "source_changed_at")
        not_older = sql.SQL("({} IS NULL OR {} IS NULL OR {} >= {})").format(
            incoming, stored, incoming, stored
        )
        if not pending:
            return not_older
        # A booking that Frontdesk created has no YClients time yet. The YClients row that confirms the local
        # change is newer than `pending_since`.
        newer = sql.SQL("COALESCE({} > COALESCE({}, t.pending_since), false)").format(incoming, stored)
        return sql.SQL("CASE WHEN t.pending_since IS NULL THEN {} ELSE {} END").format(not_older, newer)
