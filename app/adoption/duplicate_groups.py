"""Duplicate rows of the old schema: find them, refuse them, and merge each group into its earliest row."""

# ruff: noqa: S608 - the SQL is composed of names from the rules and the catalog, never of data

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from app.migrations.runner import MigrationRefused

# The WhatsApp tables stored the company id as text: ' 0962302' and '962302' are the same company. NULL if
# the text is not a positive BIGINT.
_DIGITS = r"substring(company_id::text from '^\s*0*([1-9][0-9]{0,18})\s*$')::numeric"
COMPANY_ID_SQL = f"CASE WHEN {_DIGITS} <= 9223372036854775807 THEN {_DIGITS} END"

_GENERATED_COLUMNS = """
    SELECT attname::text FROM pg_attribute
    WHERE attrelid = to_regclass(:table) AND attgenerated <> '' AND NOT attisdropped
"""

ROWS_PER_TRANSACTION = 1_000  # rows of a group that are merged in one transaction


@dataclass(frozen=True)
class DuplicateRule:
    """The key that duplicates of a table share, and how they are merged.

    `key`: SQL expressions by column. `redacted_columns`: key columns that reports omit, because they can
    contain a phone number. `fills_kept_row`: True if the kept row takes values that only the others have.
    """

    table: str
    key: dict[str, str]
    redacted_columns: tuple[str, ...] = ()
    fills_kept_row: bool = True


def _rule_of_columns(table: str, *columns: str) -> DuplicateRule:
    return DuplicateRule(table, {column: column for column in columns})


RULES = {
    rule.table: rule
    for rule in (
        _rule_of_columns("clients", "yclients_id", "company_id"),
        _rule_of_columns("services", "yclients_id", "company_id"),
        _rule_of_columns("staff", "yclients_id", "company_id"),
        _rule_of_columns("bookings", "yclients_record_id", "company_id"),
        # The date as text, because PostgreSQL has dates that Python cannot represent.
        DuplicateRule(
            "staff_schedules", {"staff_id": "staff_id", "date": "date::text", "company_id": "company_id"}
        ),
        DuplicateRule(
            "dialog_contexts",
            {"user_id": "user_id", "company_id": "company_id"},
            redacted_columns=("user_id",),
        ),
        # Credentials and keys of two sessions are never mixed: the result would be unusable.
        DuplicateRule("whatsapp_auth", {"company_id": COMPANY_ID_SQL}, fills_kept_row=False),
        DuplicateRule(
            "whatsapp_keys",
            {"company_id": COMPANY_ID_SQL, "key_type": "key_type", "key_id": "key_id"},
            redacted_columns=("key_id",),
            fills_kept_row=False,
        ),
    )
}


@dataclass(frozen=True)
class DuplicateGroup:
    """Rows of one table with one key, the earliest (`created_at`, then `id`) first."""

    table: str
    columns: tuple[str, ...]  # the key as SQL expressions
    key: tuple[Any, ...]
    ids: tuple[int, ...]
    key_text: str

    def __str__(self) -> str:
        """Return table, key and ids, without personal data."""
        return f"{self.table} ({self.key_text}): ids {', '.join(map(str, self.ids))}"


@dataclass(frozen=True)
class MergedGroup:
    """The effect of the merge of a group, done or planned.

    `archived`: the ids of the removed rows, with their ids in `archived_rows` (None if only planned).
    `filled`: the columns of the kept row that take a value from a removed row. `repointed`: by referencing
    column (such as `photos.member`), the number of references that are changed to the kept row.
    """

    kept_id: int
    archived: Mapping[int, int | None]
    filled: tuple[str, ...]
    repointed: Mapping[str, int]


def find_groups(connection: Connection, rule: DuplicateRule) -> list[DuplicateGroup]:
    """Return every group of duplicates of the table. A missing table has no groups."""
    key = _key(connection, rule)
    if key is None:
        return []
    columns = ", ".join(key.values())
    rows = connection.execute(
        text(
            f"SELECT {columns}, array_agg(id ORDER BY created_at, id) FROM {rule.table}"
            f" WHERE {' AND '.join(f'({column}) IS NOT NULL' for column in key.values())}"
            f" GROUP BY {columns} HAVING count(*) > 1 ORDER BY min(id)"
        )
    )
    return [
        DuplicateGroup(
            table=rule.table,
            columns=tuple(key.values()),
            key=tuple(row[:-1]),
            ids=tuple(row[-1]),
            key_text=", ".join(
                f"{name} {value}"
                for name, value in zip(key, row[:-1], strict=True)
                if name not in rule.redacted_columns
            ),
        )
        for row in rows
    ]


def refuse_duplicates(connection: Connection, rules: Iterable[DuplicateRule]) -> None:
    """Raise MigrationRefused, with a line for each group, if there are duplicates."""
    groups = [group for rule in rules for group in find_groups(connection, rule)]
    if groups:
        raise MigrationRefused(
            f"{len(groups)} groups of duplicates prevent the upgrade. Resolve them by hand, or merge each"
            " group into its earliest row and archive the others:"
            " alembic -x dedupe=keep-earliest upgrade head",
            tuple(str(group) for group in groups),
        )


def merge(connection: Connection, rule: DuplicateRule, group: DuplicateGroup) -> MergedGroup | None:
    """Merge a group into its earliest row, in the caller's transaction.

    Foreign keys to the other rows are changed to the kept row, empty fields of the kept row take values from
    the others, and the others are moved to `archived_rows`. A call merges at most ROWS_PER_TRANSACTION rows.
    Call it until it returns None: then the group has no duplicates left. Raises MigrationRefused if a
    trigger or rule prevents the deletion.
    """
    rows = _rows(connection, rule, group, f"LIMIT {ROWS_PER_TRANSACTION} FOR UPDATE")
    if len(rows) < 2:
        return None
    kept, others = rows[0], rows[1:]
    archived = _archive(connection, rule.table, kept["id"], [row["id"] for row in others])
    repointed = {
        f"{child}.{column}": connection.execute(
            text(_escaped(f"UPDATE {child} SET {column} = ") + f":kept WHERE {_escaped(column)} = ANY(:ids)"),
            {"kept": kept["id"], "ids": list(archived)},
        ).rowcount
        for child, column in _references(connection, rule.table)
    }
    deletion = text(f"DELETE FROM {rule.table} WHERE id = ANY(:ids)")
    if connection.execute(deletion, {"ids": list(archived)}).rowcount != len(archived):
        raise MigrationRefused(
            f"A trigger or rule on {rule.table} prevents the deletion of rows:"
            " drop it while duplicates are merged."
        )
    donors = _donors(connection, rule, kept, others)
    if donors:
        # Read the values from the archive: a unique value can be set only after its old row is deleted.
        values = ", ".join(
            f"{column} = (SELECT (jsonb_populate_record(NULL::{rule.table}, row)).{column}"
            f" FROM archived_rows WHERE id = {archived[donor]})"
            for column, donor in ((_escaped(_quoted(name)), donor) for name, donor in donors.items())
        )
        connection.execute(text(f"UPDATE {rule.table} SET {values} WHERE id = :id"), {"id": kept["id"]})
    return MergedGroup(kept["id"], archived, tuple(donors), _nonzero(repointed))


def plan(connection: Connection, rule: DuplicateRule, group: DuplicateGroup) -> MergedGroup | None:
    """Return the effect that `merge` would have on the whole group, without changes or locks."""
    rows = _rows(connection, rule, group)
    if len(rows) < 2:
        return None
    kept, others = rows[0], rows[1:]
    ids = [row["id"] for row in others]
    repointed = {
        f"{child}.{column}": connection.execute(
            text(_escaped(f"SELECT count(*) FROM {child} WHERE {column} = ") + "ANY(:ids)"), {"ids": ids}
        ).scalar_one()
        for child, column in _references(connection, rule.table)
    }
    donors = _donors(connection, rule, kept, others)
    return MergedGroup(kept["id"], dict.fromkeys(ids), tuple(donors), _nonzero(repointed))


def _nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _rows(
    connection: Connection, rule: DuplicateRule, group: DuplicateGroup, ending: str = ""
) -> Sequence[Mapping[str, Any]]:
    """Return the rows that still have the group's key, earliest first."""
    # Select JSON, because Python cannot represent every timestamp; the values are only compared.
    statement = (
        f"SELECT to_jsonb(old) FROM {rule.table} AS old WHERE id = ANY(:ids)"
        f" AND ({', '.join(group.columns)}) IN"
        f" (({', '.join(f':key{number}' for number in range(len(group.key)))}))"
        f" ORDER BY created_at, id {ending}"
    )
    values = {f"key{number}": value for number, value in enumerate(group.key)}
    return connection.execute(text(statement), {"ids": list(group.ids), **values}).scalars().all()


def _key(connection: Connection, rule: DuplicateRule) -> dict[str, str] | None:
    """Return the key's expressions by column, or None if the table does not exist."""
    columns = set(
        connection.execute(
            text(
                "SELECT attname::text FROM pg_attribute"
                " WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped"
            ),
            {"table": rule.table},
        ).scalars()
    )
    if not columns:
        return None
    key = rule.key
    if "yclients_record_id" in key and "yclients_record_id" not in columns:
        # Before the `alignment` migration.
        key = {"yclients_id": "yclients_id", "company_id": "company_id"}
    if missing := sorted({"id", "created_at", *key} - columns):
        raise MigrationRefused(
            f"Table {rule.table} has no {', '.join(missing)}: `frontdesk db adopt` lists the differences."
        )
    return key


def _archive(connection: Connection, table: str, kept_id: int, ids: list[int]) -> dict[int, int]:
    """Copy the rows to `archived_rows`; return their ids there by their original ids."""
    rows = connection.execute(
        text(
            "INSERT INTO archived_rows (table_name, row, reason, kept_id)"
            f" SELECT :table, to_jsonb(old), 'duplicate', :kept FROM {table} AS old WHERE id = ANY(:ids)"
            " ORDER BY created_at, id RETURNING (row ->> 'id')::bigint AS old_id, id"
        ),
        {"table": table, "kept": kept_id, "ids": ids},
    )
    return {row.old_id: row.id for row in rows}


def _references(connection: Connection, table: str) -> Sequence[tuple[str, str]]:
    """Return `(table, column)` of the foreign keys to the table's `id`, also in tables of other programs."""
    found = connection.execute(
        text(
            "SELECT conrelid::regclass::text, quote_ident(child.attname) FROM pg_constraint"
            " CROSS JOIN unnest(conkey, confkey) AS pair(child_number, parent_number)"
            " JOIN pg_attribute AS child ON child.attrelid = conrelid AND child.attnum = child_number"
            " JOIN pg_attribute AS parent ON parent.attrelid = confrelid AND parent.attnum = parent_number"
            " WHERE contype = 'f' AND confrelid = to_regclass(:table) AND parent.attname = 'id'"
        ),
        {"table": table},
    )
    return [(child, column) for child, column in found]


def _donors(
    connection: Connection, rule: DuplicateRule, kept: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> dict[str, int]:
    """Return, for each empty column of the kept row, the id of the earliest row with a value.

    Columns without such a row are omitted. The rows are processed one by one, so that `_fits` sees the
    values that earlier rows have already contributed.
    """
    if not rule.fills_kept_row:
        return {}
    computed = set(connection.execute(text(_GENERATED_COLUMNS), {"table": rule.table}).scalars())
    now = {name: value for name, value in kept.items() if name not in computed}
    donors: dict[str, int] = {}
    for row in others:
        taken = {
            column: row[column]
            for column, value in now.items()
            if _is_empty(value) and not _is_empty(row[column]) and _fits(column, now, row)
        }
        donors |= dict.fromkeys(taken, row["id"])
        now |= taken
    return donors


def _quoted(name: str) -> str:
    """Quote a column name: an installation may have added columns with any name."""
    return '"' + name.replace('"', '""') + '"'


def _escaped(names: str) -> str:
    """Escape colons for SQLAlchemy's `text`, in which a colon begins a parameter."""
    return names.replace(":", r"\:")


def _is_empty(value: Any) -> bool:
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _fits(column: str, kept: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return False if the value makes sense only with another column that the kept row has otherwise."""
    if column == "category_title":
        return kept["category_id"] in (None, other["category_id"])
    if column in ("slots", "intervals"):
        return bool(kept["is_working"])
    return True
