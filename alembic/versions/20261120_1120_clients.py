"""Allow clients without a phone or YClients id, and add `search_name` for searches by name.

Revises: details
Created: 2026-11-20 11:20
"""

import unicodedata

from app.migrations import backfill
from app.migrations import operations as changes

revision = "clients"
down_revision = "details"
branch_labels = None
depends_on = None

CHECKS = (
    ("clients", "ck_clients_id_unless_assistant", "CHECK (source = 'assistant' OR yclients_id IS NOT NULL)"),
    ("clients", "ck_clients_source", "CHECK (source IN ('yclients', 'assistant'))"),
)


def search_name(name: str) -> str:
    """Fold case and compatibility forms, like the code at the time of this revision."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def upgrade() -> None:
    changes.execute(
        "-- squawk-ignore ban-drop-not-null -- new clients have no id yet, and some clients have no phone\n"
        "ALTER TABLE clients ADD COLUMN IF NOT EXISTS search_name TEXT NOT NULL DEFAULT '',"
        " ALTER COLUMN phone DROP NOT NULL, ALTER COLUMN yclients_id DROP NOT NULL"
    )
    changes.commit()
    for table, name, definition in CHECKS:
        changes.add_not_valid_constraint(table, name, definition)
        changes.validate_constraint(table, name)
    for rows in backfill.batches("clients", "name", "search_name = '' AND name <> ''"):
        backfill.update_each(
            "clients",
            "search_name",
            [(company, row_id, search_name(name)) for company, row_id, name in rows],
            unless_changed=("name", [name for _, _, name in rows]),
        )


def downgrade() -> None:
    backfill.refuse_rows("clients", "phone IS NULL", "has no phone")
    backfill.refuse_rows("clients", "yclients_id IS NULL", "has no YClients id yet")
    for table, name, _ in CHECKS:
        changes.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    changes.commit()
    changes.set_not_null("clients", "phone")
    changes.set_not_null("clients", "yclients_id")
    changes.execute("ALTER TABLE clients DROP COLUMN IF EXISTS search_name")
