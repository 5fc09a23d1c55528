"""Add the remaining columns of clients, services, staff and bookings.

Revises: mirrored_columns
Created: 2026-11-20 11:10
"""

from app.migrations import backfill
from app.migrations import operations as changes

revision = "details"
down_revision = "mirrored_columns"
branch_labels = None
depends_on = None

COLUMNS = {
    "clients": (
        ("surname", "TEXT"),
        ("patronymic", "TEXT"),
        ("birth_date", "DATE"),
        ("importance", "TEXT"),
        ("discount", "NUMERIC(5,2)"),
        ("comment", "TEXT"),
        ("balance", "NUMERIC(12,2)"),
    ),
    "services": (("comment", "TEXT"), ("weight", "INTEGER")),
    "staff": (("position", "TEXT"), ("weight", "INTEGER")),
    "bookings": (("client_id", "BIGINT"), ("pending_since", "TIMESTAMPTZ")),
}
FLAGS = (
    ("clients", "source", "TEXT NOT NULL DEFAULT 'yclients'", "false"),
    ("staff", "is_bookable", "BOOLEAN NOT NULL DEFAULT true", "NOT is_bookable"),
    ("bookings", "source", "TEXT NOT NULL DEFAULT 'yclients'", "false"),
    ("bookings", "attendance", "SMALLINT NOT NULL DEFAULT 0", "attendance <> 0"),
)


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        additions = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {type_}" for name, type_ in columns)
        changes.execute(
            f"-- squawk-ignore prefer-bigint-over-int -- weights for sorting\nALTER TABLE {table} {additions}"
        )
        changes.commit()
    for table, column, definition, _ in FLAGS:
        changes.execute(
            "-- squawk-ignore prefer-bigint-over-smallint -- attendance has four values\n"
            f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {definition}"
        )
        changes.commit()


def downgrade() -> None:
    """Refuse rows with values that the older schema cannot hold.

    `source` is dropped without a check: later downgrades have refused rows without a YClients id.
    """
    for table, columns in COLUMNS.items():
        for name, _ in columns:
            backfill.refuse_rows(table, f"{name} IS NOT NULL", f"has a {name}")
    for table, column, _, lost in FLAGS:
        backfill.refuse_rows(table, lost, f"has its {column} set")
    for table, columns in COLUMNS.items():
        changes.execute(f"ALTER TABLE {table} " + ", ".join(f"DROP COLUMN {name}" for name, _ in columns))
    for table, column, _, _ in FLAGS:
        changes.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
