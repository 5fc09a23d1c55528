"""Change timestamps to TIMESTAMPTZ. The old values are UTC, so with `TimeZone=UTC` no row is rewritten.

Revises: whatsapp_company_ids
Created: 2026-11-20 10:00
"""

from app.migrations import introspection
from app.migrations import operations as changes

revision = "instants"
down_revision = "whatsapp_company_ids"
branch_labels = None
depends_on = None

INSTANTS = {
    "companies": ("created_at", "updated_at"),
    "clients": ("last_visit_date", "created_at", "updated_at"),
    "services": ("created_at", "updated_at"),
    "staff": ("created_at", "updated_at"),
    "staff_schedules": ("created_at", "updated_at"),
    "bookings": ("datetime", "created_at", "updated_at"),
    "dialog_contexts": ("last_activity", "created_at", "updated_at"),
    "whatsapp_auth": ("created_at", "updated_at"),
    "whatsapp_keys": ("expires_at", "created_at", "updated_at"),
}

# Names of TIMESTAMPTZ columns end in `_at`.
RENAMED = (
    ("clients", "last_visit_date", "last_visit_at"),
    ("dialog_contexts", "last_activity", "last_activity_at"),
)


def upgrade() -> None:
    for table, columns in INSTANTS.items():
        change(table, columns, "timestamp with time zone")
    for table, old, new in RENAMED:
        rename(table, old, new)


def downgrade() -> None:
    for table, old, new in RENAMED:
        rename(table, new, old)
    for table, columns in INSTANTS.items():
        change(table, columns, "timestamp without time zone")


def change(table: str, columns: tuple[str, ...], to: str) -> None:
    if introspection.column_type(table, columns[-1]) != to:
        alterations = ", ".join(f"ALTER COLUMN {column} TYPE {to}" for column in columns)
        changes.execute(
            "-- squawk-ignore changing-column-type -- with TimeZone=UTC only the catalog changes\n"
            f"ALTER TABLE {table} {alterations}"
        )
        changes.commit()


def rename(table: str, old: str, new: str) -> None:
    if introspection.has_column(table, old):
        changes.execute(
            "-- squawk-ignore renaming-column -- the old code is stopped; a second column could diverge\n"
            f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}"
        )
        changes.commit()
