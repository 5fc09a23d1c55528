"""Align column names: `is_active` in all tables, `yclients_record_id` for the id of a booking's record.

Revises: baseline
Created: 2026-11-20 09:10
"""

from app.migrations import introspection
from app.migrations import operations as changes

revision = "alignment"
down_revision = "baseline"
branch_labels = None
depends_on = None


def upgrade() -> None:
    rename("services", "active", "is_active")
    if introspection.has_column("staff", "fired"):
        invert("fired", default="true")
        rename("staff", "fired", "is_active")
    rename("bookings", "yclients_id", "yclients_record_id")


def downgrade() -> None:
    rename("bookings", "yclients_record_id", "yclients_id")
    if introspection.has_column("staff", "is_active"):
        invert("is_active", default="false")
        rename("staff", "is_active", "fired")
    rename("services", "is_active", "active")


def rename(table: str, old: str, new: str) -> None:
    if introspection.has_column(table, old):
        changes.execute(
            "-- squawk-ignore renaming-column -- the old code is stopped; a second column could diverge\n"
            f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}"
        )
        changes.commit()


def invert(column: str, default: str) -> None:
    """Negate a boolean column, in the transaction that also renames it, so that a repeated run skips it."""
    changes.execute(
        "-- squawk-ignore changing-column-type, ban-drop-default -- tens of rows; the default is set again\n"
        f"ALTER TABLE staff ALTER COLUMN {column} DROP DEFAULT,"
        f" ALTER COLUMN {column} TYPE boolean USING NOT {column},"
        f" ALTER COLUMN {column} SET DEFAULT {default}"
    )
