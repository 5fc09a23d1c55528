"""${message}

Revises: ${down_revision | comma,n}
Created: ${create_date}

Rules for migrations, which run while salons use the database:

- A migration has one purpose. It changes rows in batches, one transaction each (`backfill.batches`).
- It can be killed at any point and is then run again from its start. So it first checks what already exists
  (`app.migrations.introspection`).
- It holds strong locks briefly only. `lock_timeout` is 100 ms; a revision that cannot get a lock is rolled back
  to its last commit and retried. So commit after each table (`changes.commit`).
- Build indexes CONCURRENTLY (`changes.build_index`). Add constraints as NOT VALID and validate them afterwards
  (`changes.add_not_valid_constraint`, `changes.validate_constraint`). Add UNIQUE from a finished index
  (`changes.add_unique_constraint`).
- Log the rewrite of a table (`changes.log_rewrite`), and check its size in a `preflight` function before the
  first change (`changes.refuse_large_rewrite`).
- Keep, merge or archive every row (`backfill.archive`). `downgrade` restores the rows that the old schema can
  hold, and refuses the others by table, company and id (`backfill.refuse_rows`).
- Never import models, which change over time. Copy the parts of the current code that the migration needs.
- Log no personal data: only table, company and id.
"""

${imports if imports else ""}
from app.migrations import operations as changes

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
