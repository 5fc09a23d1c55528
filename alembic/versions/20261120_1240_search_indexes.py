"""Add the indexes for reads, with the company first, and drop the old ones without a company.

Revises: whatsapp_values
Created: 2026-11-20 12:40
"""

from app.migrations import operations as changes

revision = "search_indexes"
down_revision = "whatsapp_values"
branch_labels = None
depends_on = None

INDEXES = (
    ("bookings", "ix_bookings_company_id_starts_at", ["company_id", "starts_at"]),
    ("bookings", "ix_bookings_company_id_staff_id_starts_at", ["company_id", "staff_id", "starts_at"]),
    ("bookings", "ix_bookings_company_id_client_phone", ["company_id", "client_phone"]),
    ("bookings", "ix_bookings_company_id_client_id", ["company_id", "client_id"]),
    ("clients", "ix_clients_company_id_phone", ["company_id", "phone"]),
    ("services", "ix_services_company_id_category_id", ["company_id", "category_id"]),
    ("whatsapp_keys", "ix_whatsapp_keys_company_id_expires_at", ["company_id", "expires_at"]),
)
OLD = (
    ("clients", "clients_company_idx", ["company_id"]),
    ("bookings", "bookings_client_phone_idx", ["client_phone"]),
)


def upgrade() -> None:
    with changes.outside_transaction():
        for table, name, columns in INDEXES:
            changes.build_index(table, name, columns)
    for table, _, columns in OLD:
        changes.drop_indexes_on(table, columns)


def downgrade() -> None:
    with changes.outside_transaction():
        for table, name, columns in OLD:
            changes.build_index(table, name, columns)
    for table, name, _ in INDEXES:
        changes.drop_index(name, table)
