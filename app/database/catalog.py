"""What a database has: columns, constraints and indexes, as its catalog tells it during a migration."""

from collections.abc import Sequence

from alembic import op
from sqlalchemy import text


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


def constraint(table: str, name: str) -> bool | None:
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
    """Return the name and the columns of the primary key."""
    row = (
        op.get_bind()
        .execute(
            text(
                "SELECT conname, (SELECT array_agg(attname::text ORDER BY place) FROM"
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
    """Return name and constraint (or None) of the plain indexes on exactly these columns."""
    rows = op.get_bind().execute(
        text(
            "SELECT indexrelid::regclass::text, conname FROM pg_index"
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


def index_is_valid(name: str) -> bool | None:
    """Return whether the index is valid, or None where there is none of that name."""
    valid: bool | None = (
        op.get_bind()
        .execute(
            text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"), {"name": name}
        )
        .scalar()
    )
    return valid
