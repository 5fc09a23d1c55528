"""Change every id to BIGINT, because YClients ids can exceed INTEGER. Rewrites each table once.

Revises: composite_uniqueness
Created: 2026-11-20 09:40
"""

from sqlalchemy import Connection

from app.migrations import backfill, introspection
from app.migrations import operations as changes

revision = "wide_ids"
down_revision = "composite_uniqueness"
branch_labels = None
depends_on = None

# The id columns of each table; counts and durations stay INTEGER.
IDS = {
    "companies": ("id", "company_id"),
    "clients": ("id", "yclients_id", "company_id"),
    "services": ("id", "yclients_id", "company_id", "category_id"),
    "staff": ("id", "yclients_id", "company_id"),
    "staff_schedules": ("id", "staff_id", "company_id"),
    "bookings": ("id", "yclients_record_id", "company_id", "staff_id"),
    "dialog_contexts": ("id", "company_id"),
    "whatsapp_auth": ("id",),
    "whatsapp_keys": ("id",),
}


def preflight(connection: Connection) -> None:
    changes.refuse_dependents(connection, IDS)
    for table in IDS:
        changes.refuse_large_rewrite(connection, table)


def upgrade() -> None:
    for table, columns in IDS.items():
        change(table, columns, "bigint", "integer")


def downgrade() -> None:
    for table, columns in IDS.items():
        too_wide = " OR ".join(f"{column} NOT BETWEEN -2147483648 AND 2147483647" for column in columns)
        backfill.refuse_rows(table, too_wide, "has an id beyond INTEGER")
    for table, columns in IDS.items():
        change(table, columns, "integer", "bigint")


def change(table: str, columns: tuple[str, ...], to: str, from_: str) -> None:
    """Change all columns in one statement: this needs one rewrite, and a kill cannot leave a mixture."""
    if introspection.column_type(table, columns[0]) == from_:
        changes.log_rewrite(table)
        alterations = ", ".join(f"ALTER COLUMN {column} TYPE {to}" for column in columns)
        changes.execute(
            "-- squawk-ignore changing-column-type -- logged, and on request for large tables\n"
            f"ALTER TABLE {table} {alterations}"
        )
        changes.commit_and_analyze(table)
