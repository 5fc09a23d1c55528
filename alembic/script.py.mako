"""${message}

Revises: ${down_revision | comma,n}
Created: ${create_date}

Rules, because salons are at work while this runs:

- One concern. What it does to rows it does in batches, each its own transaction (`changes.batches`).
- Safe to repeat: it may be killed anywhere and runs again from its start. Look at what
  is there first (`app.migrations.introspection`).
- No statement holds a strong lock for longer than a moment: `lock_timeout` is 100 ms, a revision that cannot
  get a lock is rolled back to its last commit and tried again. So commit (`changes.commit`) after each table.
- Indexes CONCURRENTLY (`changes.build_index`), constraints NOT VALID and then validated (`changes.add_not_valid`,
  `changes.validate`), UNIQUE from a finished index (`changes.add_unique`).
- A step that rewrites a table says so (`changes.announce_rewrite`), and a `preflight` asks before the first
  change (`changes.refuse_large_rewrite`).
- Every row is kept, merged or archived (`changes.archive`). `downgrade` restores what the old shape can hold and
  refuses the rest by name (`changes.refuse_rows`).
- Frozen in time: never import models, and copy the rules of today's code that it needs.
- No personal data in what it prints: table, company and id.
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
