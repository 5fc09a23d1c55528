"""Add an index with all columns that health check and clean-up of `whatsapp_keys` read.

Revises: whatsapp_states
Created: 2026-11-20 13:30
"""

from app.migrations import operations as changes

revision = "whatsapp_health_index"
down_revision = "whatsapp_states"
branch_labels = None
depends_on = None

TABLE = "whatsapp_keys"
OLD = ("ix_whatsapp_keys_company_id_expires_at", ["company_id", "expires_at"])
NEW = (
    "ix_whatsapp_keys_company_id_key_type_expires_at_updated_at",
    ["company_id", "key_type", "expires_at", "updated_at"],
)


def upgrade() -> None:
    with changes.outside_transaction():
        changes.build_index(TABLE, *NEW)
    changes.drop_index(OLD[0], TABLE)


def downgrade() -> None:
    with changes.outside_transaction():
        changes.build_index(TABLE, *OLD)
    changes.drop_index(NEW[0], TABLE)
