"""What a database has: columns, constraints and indexes, as its catalog tells it during a migration."""

# ruff: noqa: S608 - what is put together here is written here

from collections.abc import Sequence
from dataclasses import dataclass

from alembic import op
from sqlalchemy import text

# A constraint takes no index that sorts or compares in a way of its own.
_DEFAULT_ORDERING = (
    "0 = ALL (indoption::int2[]) AND NOT EXISTS ("
    "  SELECT FROM unnest(indclass::oid[], indcollation::oid[], indkey::int2[]) AS k (class, sorted, number)"
    "  JOIN pg_opclass ON pg_opclass.oid = class"
    "  JOIN pg_attribute ON attrelid = indrelid AND attnum = number"
    "  WHERE NOT opcdefault OR sorted NOT IN (0, attcollation))"
)


def column_type(table: str, column: str) -> str | None:
    """Return the type as PostgreSQL writes it (`bigint`), or None where there is no such column."""
    found: str | None = (
        op.get_bind()
        .execute(
            text(
                "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = to_regclass(:table) AND attname = :column AND NOT attisdropped"
            ),
            {"table": table, "column": column},
        )
        .scalar()
    )
    return found


def has_column(table: str, column: str) -> bool:
    return column_type(table, column) is not None


def has_table(table: str) -> bool:
    return op.get_bind().execute(text("SELECT to_regclass(:table)"), {"table": table}).scalar() is not None


def is_constraint_validated(table: str, name: str) -> bool | None:
    """Return whether the constraint is validated, or None where there is none of that name."""
    validated: bool | None = (
        op.get_bind()
        .execute(
            text(
                "SELECT convalidated FROM pg_constraint"
                " WHERE conrelid = to_regclass(:table) AND conname = :name"
            ),
            {"table": table, "name": name},
        )
        .scalar()
    )
    return validated


def primary_key(table: str) -> tuple[str, list[str]] | None:
    """Return the name (quoted where SQL asks for it) and the columns of the primary key."""
    row = (
        op.get_bind()
        .execute(
            text(
                "SELECT quote_ident(conname), (SELECT array_agg(attname::text ORDER BY place) FROM"
                " unnest(conkey) WITH ORDINALITY AS k(number, place)"
                " JOIN pg_attribute ON attrelid = conrelid AND attnum = number)"
                " FROM pg_constraint WHERE conrelid = to_regclass(:table) AND contype = 'p'"
            ),
            {"table": table},
        )
        .one_or_none()
    )
    return (row[0], row[1]) if row else None


def indexes_on(
    table: str, columns: Sequence[str], *, unique: bool | None = None
) -> list[tuple[str, str | None]]:
    """Return name and constraint (or None), quoted where need be, of the indexes on exactly these columns."""
    rows = op.get_bind().execute(
        text(
            "SELECT indexrelid::regclass::text, quote_ident(conname) FROM pg_index"
            " LEFT JOIN pg_constraint ON conindid = indexrelid AND conrelid = indrelid AND contype = 'u'"
            " WHERE indrelid = to_regclass(:table) AND NOT indisprimary"
            " AND indpred IS NULL AND indexprs IS NULL"
            " AND (CAST(:unique AS boolean) IS NULL OR indisunique = :unique)"
            " AND (SELECT array_agg(attname::text ORDER BY place) FROM"
            "  unnest(indkey[0:indnkeyatts - 1]) WITH ORDINALITY AS k(number, place)"
            "  JOIN pg_attribute ON attrelid = indrelid AND attnum = number) = CAST(:columns AS text[])"
            " ORDER BY 1"
        ),
        {"table": table, "columns": list(columns), "unique": unique},
    )
    return [(name, constraint_name) for name, constraint_name in rows]


@dataclass(frozen=True)
class UniqueIndex:
    """A unique index on some columns, by its name and its constraint's (quoted where SQL asks for it).

    `is_usable`: it is all that a UNIQUE constraint on these columns, in this order, should be: finished, not
    deferrable (ON CONFLICT refuses those), of all rows, and rows with NULL are no duplicates.
    """

    index: str
    constraint: str | None
    is_usable: bool


def unique_indexes_on(table: str, columns: Sequence[str]) -> list[UniqueIndex]:
    """Return the unique indexes, but the primary key, whose columns are these in any order."""
    rows = op.get_bind().execute(
        text(
            "SELECT indexrelid::regclass::text, quote_ident(conname), names = CAST(:columns AS text[])"
            " AND indisvalid AND indimmediate AND indpred IS NULL AND NOT indnullsnotdistinct"
            f" AND indnkeyatts = indnatts AND {_DEFAULT_ORDERING} FROM pg_index"
            " LEFT JOIN pg_constraint ON conindid = indexrelid AND conrelid = indrelid AND contype = 'u'"
            " CROSS JOIN LATERAL (SELECT array_agg(attname::text ORDER BY place) AS names FROM"
            "  unnest(indkey[0:indnkeyatts - 1]) WITH ORDINALITY AS k(number, place)"
            "  JOIN pg_attribute ON attrelid = indrelid AND attnum = number) AS key"
            " WHERE indrelid = to_regclass(:table) AND indisunique AND NOT indisprimary"
            " AND indexprs IS NULL AND names @> CAST(:columns AS text[])"
            " AND names <@ CAST(:columns AS text[]) ORDER BY 1"
        ),
        {"table": table, "columns": list(columns)},
    )
    return [UniqueIndex(*row) for row in rows]


def is_index_usable(name: str, table: str, columns: Sequence[str], *, unique: bool) -> bool | None:
    """Return whether the index of this name is finished and what is asked for; None where there is none."""
    fits: bool | None = (
        op.get_bind()
        .execute(
            text(
                "SELECT indisvalid AND indrelid = to_regclass(:table) AND indisunique = :unique"
                " AND indpred IS NULL AND indexprs IS NULL AND NOT indnullsnotdistinct"
                f" AND indnkeyatts = indnatts AND {_DEFAULT_ORDERING}"
                " AND (SELECT array_agg(attname::text ORDER BY place)"
                "  FROM unnest(indkey::int2[]) WITH ORDINALITY AS k(number, place)"
                "  JOIN pg_attribute ON attrelid = indrelid AND attnum = number) = CAST(:columns AS text[])"
                " FROM pg_index WHERE indexrelid = to_regclass(:name)"
            ),
            {"name": name, "table": table, "columns": list(columns), "unique": unique},
        )
        .scalar()
    )
    return fits
