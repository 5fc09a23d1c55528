"""Add foreign keys to `companies`; missing companies are inserted with default settings.

Revises: companies
Created: 2026-11-20 10:50
"""

from app.migrations import operations as changes

revision = "foreign_keys"
down_revision = "companies"
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
    for table in TABLES:
        name = f"fk_{table}_company_id_companies"
        insert_missing_companies(table)
        changes.add_not_valid_constraint(
            table, name, "FOREIGN KEY (company_id) REFERENCES companies (company_id) DEFERRABLE"
        )
        insert_missing_companies(table)  # for rows inserted before the constraint was added
        changes.validate_constraint(table, name)


def insert_missing_companies(table: str) -> None:
    changes.execute(
        "INSERT INTO companies (company_id, title)"
        f" SELECT DISTINCT company_id, 'Company ' || company_id FROM {table} AS row"
        " WHERE NOT EXISTS (SELECT FROM companies WHERE companies.company_id = row.company_id)"
        " ON CONFLICT DO NOTHING"
    )
    changes.commit()


def downgrade() -> None:
    for table in TABLES:
        changes.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS fk_{table}_company_id_companies")
        changes.commit()
