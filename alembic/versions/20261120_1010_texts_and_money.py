"""Widen VARCHAR(n) to TEXT, and amounts of money to NUMERIC(12,2). No row is rewritten.

Revises: instants
Created: 2026-11-20 10:10
"""

from app.migrations import backfill, introspection
from app.migrations import operations as changes

revision = "texts_and_money"
down_revision = "instants"
branch_labels = None
depends_on = None

# (column, old type, new type) by table
TYPES = {
    "companies": (
        ("title", "varchar(255)", "text"),
        ("phone", "varchar(20)", "text"),
        ("timezone", "varchar(64)", "text"),
        ("country", "varchar(64)", "text"),
    ),
    "clients": (
        ("name", "varchar(255)", "text"),
        ("phone", "varchar(20)", "text"),
        ("email", "varchar(255)", "text"),
        ("total_spent", "numeric(10,2)", "numeric(12,2)"),
    ),
    "services": (
        ("title", "varchar(255)", "text"),
        ("category_title", "varchar(255)", "text"),
        ("price_min", "numeric(10,2)", "numeric(12,2)"),
        ("price_max", "numeric(10,2)", "numeric(12,2)"),
    ),
    "staff": (("name", "varchar(255)", "text"), ("specialization", "varchar(255)", "text")),
    "bookings": (
        ("client_phone", "varchar(20)", "text"),
        ("client_name", "varchar(255)", "text"),
        ("status", "varchar(32)", "text"),
        ("price", "numeric(10,2)", "numeric(12,2)"),
    ),
    "dialog_contexts": (("user_id", "varchar(64)", "text"), ("stage", "varchar(64)", "text")),
    "whatsapp_keys": (("key_type", "varchar(64)", "text"), ("key_id", "varchar(255)", "text")),
}


def upgrade() -> None:
    for table, types in TYPES.items():
        if introspection.column_type(table, types[0][0]) != "text":
            change(table, [(column, new) for column, _, new in types])


def downgrade() -> None:
    for table, types in TYPES.items():
        for column, old, _ in types:
            backfill.refuse_rows(table, too_wide(column, old), f"{column} does not fit {old}")
    for table, types in TYPES.items():
        if introspection.column_type(table, types[0][0]) == "text":
            change(table, [(column, old) for column, old, _ in types])


def too_wide(column: str, old: str) -> str:
    size = old[old.index("(") + 1 : -1]
    if old.startswith("varchar"):
        return f"length({column}) > {size}"
    digits, scale = size.split(",")
    return f"abs({column}) >= 10 ^ {int(digits) - int(scale)} AND {column} <> 'NaN'"


def change(table: str, types: list[tuple[str, str]]) -> None:
    alterations = [f"ALTER COLUMN {column} TYPE {to}" for column, to in types]
    if table == "bookings":
        # Set the default again: otherwise it keeps the old type, with a cast.
        alterations.append("ALTER COLUMN status SET DEFAULT 'active'")
    changes.execute(
        "-- squawk-ignore changing-column-type -- a wider type changes the catalog, but no row\n"
        f"ALTER TABLE {table} {', '.join(alterations)}"
    )
    changes.commit()
