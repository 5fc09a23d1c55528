"""Change `company_id` of the WhatsApp tables from text to BIGINT; archive rows without a valid number.

Revises: wide_ids
Created: 2026-11-20 09:50
"""

from sqlalchemy import Connection

from app.adoption import duplicate_groups
from app.migrations import backfill, introspection
from app.migrations import operations as changes
from app.migrations.runner import MigrationRefused

revision = "whatsapp_company_ids"
down_revision = "wide_ids"
branch_labels = None
depends_on = None

UNIQUE = {
    "whatsapp_auth": ["company_id"],
    "whatsapp_keys": ["company_id", "key_type", "key_id"],
}
ROUNDS = 20  # attempts to convert a table while writers add duplicates


def preflight(connection: Connection) -> None:
    for table in UNIQUE:
        changes.refuse_large_rewrite(connection, table)


def upgrade() -> None:
    for table in UNIQUE:
        if introspection.column_type(table, "company_id") != "bigint":
            to_number(table)
    for table, columns in UNIQUE.items():
        changes.add_unique_constraint(table, f"uq_{table}_{'_'.join(columns)}", columns)


def to_number(table: str) -> None:
    """Merge the duplicates, archive invalid ids, convert the column.

    '0962302' and '962302 ' become the same number, so writers may have added duplicates after a merge. The
    last check for duplicates runs under the lock of the conversion.
    """
    rule = duplicate_groups.RULES[table]
    changes.log_rewrite(table)
    for _ in range(ROUNDS):
        if changes.option("dedupe") is None:
            duplicate_groups.refuse_duplicates(changes.bind(), [rule])
        for group in duplicate_groups.find_groups(changes.bind(), rule):
            changes.commit()  # each group in a transaction of its own
            while duplicate_groups.merge(changes.bind(), rule, group):
                changes.commit()
        changes.commit()
        changes.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        if not duplicate_groups.find_groups(changes.bind(), rule):
            unreadable = f"{duplicate_groups.COMPANY_ID_SQL} IS NULL"
            backfill.archive(table, unreadable, "company_id is not a positive number")
            changes.execute(f"DELETE FROM {table} WHERE {unreadable}")
            changes.execute(
                "-- squawk-ignore changing-column-type -- logged, and on request for large tables\n"
                f"ALTER TABLE {table} ALTER COLUMN company_id TYPE bigint"
                f" USING ({duplicate_groups.COMPANY_ID_SQL})::bigint"
            )
            changes.commit_and_analyze(table)
            return
        changes.commit()
    raise MigrationRefused(
        f"Writers keep adding duplicates to {table}: stop them, then run the same command again."
    )


def downgrade() -> None:
    for table, columns in UNIQUE.items():
        changes.add_unique_constraint(table, f"{table}_{'_'.join(columns)}_key", columns)
    for table in UNIQUE:
        if introspection.column_type(table, "company_id") == "bigint":
            changes.execute(
                f"ALTER TABLE {table} ALTER COLUMN company_id TYPE varchar(64) USING company_id::text"
            )
            changes.commit()
