"""Make `(company_id, id)` the primary key of tenant tables, and `company_id` the one of companies.

Revises: identity
Created: 2026-11-20 10:30
"""

from app.migrations import backfill
from app.migrations import operations as changes

revision = "tenant_keys"
down_revision = "identity"
branch_labels = None
depends_on = None

TABLES = (
    "clients",
    "services",
    "staff",
    "staff_schedules",
    "bookings",
    "dialog_contexts",
    "whatsapp_auth",
    "whatsapp_keys",
)


def upgrade() -> None:
    changes.set_primary_key("companies", "pk_companies", ["company_id"])
    changes.drop_indexes_on("companies", ["company_id"])
    for table in TABLES:
        changes.set_primary_key(table, f"pk_{table}", ["company_id", "id"])


def downgrade() -> None:
    for table in ("companies", *TABLES):
        backfill.refuse_rows(
            table,
            f"id IN (SELECT id FROM {table} GROUP BY id HAVING count(*) > 1)",
            "shares its id with a row of another company",
        )
    changes.add_unique_constraint("companies", "companies_company_id_key", ["company_id"])
    for table in ("companies", *TABLES):
        changes.set_primary_key(table, f"{table}_pkey", ["id"])
