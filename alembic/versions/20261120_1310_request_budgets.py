"""Add `request_budgets`, shared by all processes: an API limits the requests of an IP address.

Revises: sync_runs
Created: 2026-11-20 13:10
"""

from app.migrations import operations as changes

revision = "request_budgets"
down_revision = "sync_runs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    changes.execute(
        "CREATE TABLE IF NOT EXISTS request_budgets ("
        " api TEXT NOT NULL, granted TIMESTAMPTZ[] NOT NULL DEFAULT '{}', paused_until TIMESTAMPTZ,"
        " CONSTRAINT pk_request_budgets PRIMARY KEY (api))"
    )


def downgrade() -> None:
    """Drop the table, which holds data of one minute."""
    changes.execute("DROP TABLE IF EXISTS request_budgets")
