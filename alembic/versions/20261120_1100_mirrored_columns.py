"""Add the times at which a mirrored row changed and was deleted in YClients.

Revises: foreign_keys
Created: 2026-11-20 11:00
"""

from app.migrations import backfill
from app.migrations import operations as changes

revision = "mirrored_columns"
down_revision = "foreign_keys"
branch_labels = None
depends_on = None

TABLES = ("companies", "clients", "services", "staff", "staff_schedules", "bookings")


def upgrade() -> None:
    for table in TABLES:
        changes.execute(
            f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS source_changed_at TIMESTAMPTZ,"
            " ADD COLUMN IF NOT EXISTS deleted_at TIMESTAMPTZ"
        )
        changes.commit()


def downgrade() -> None:
    for table in TABLES:
        backfill.refuse_rows(
            table, "deleted_at IS NOT NULL", "is marked as deleted and would count as existing"
        )
    for table in TABLES:
        changes.execute(
            f"ALTER TABLE {table} DROP COLUMN IF EXISTS source_changed_at, DROP COLUMN IF EXISTS deleted_at"
        )
        changes.commit()
