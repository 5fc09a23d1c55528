"""Catalog queries for migrations: columns, constraints and indexes of the database."""

# ruff: noqa: S608 - the SQL is composed of constants of this module

from collections.abc import Sequence
from dataclasses import dataclass

from alembic import op
from sqlalchemy import text

# ADD CONSTRAINT USING INDEX rejects indexes with a non-default order, operator class or collation.
_DEFAULT_ORDERING = (
    "0 = ALL (indoption::int2[]) AND NOT EXISTS ("
    "  SELECT FROM unnest(indclass::oid[], indcollation::oid[], indkey::int2[]) AS k (class, sorted, number)"
    "  JOIN pg_opclass ON pg_opclass.oid = class"
    "  JOIN pg_attribute ON attrelid = indrelid AND attnum = number"
    "  WHERE NOT opcdefault OR sorted NOT IN (0, attcollation))"
)


def column_type(table: str, column: str) -> str | None:
    """Return the type in PostgreSQL's spelling (such as `bigint`), or None if the column does not exist."""
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
    """Return True if the constraint is validated, or None if the table has no constraint of this name."""
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
    """Return the name (quoted if necessary) and the columns of the primary key, or None."""
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
    """Return `(name, constraint or None)` of the indexes on exactly these columns, in this order.

    Names are quoted if necessary. Primary keys, partial indexes and expression indexes are omitted.
    """
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
    """A unique index and its constraint, if any. The names are quoted if necessary.

    `is_usable` is True if the index can serve as a UNIQUE constraint on the requested columns: it has them
    in this order, it is valid, not deferrable (ON CONFLICT rejects deferrable constraints) and not partial,
    and it treats NULLs as distinct.
    """

    index: str
    constraint: str | None
    is_usable: bool


def unique_indexes_on(table: str, columns: Sequence[str]) -> list[UniqueIndex]:
    """Return the unique indexes on these columns, in any order, except the primary key."""
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
    """Return True if the index is valid and has the requested definition, or None if it does not exist."""
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
