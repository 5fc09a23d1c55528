"""Change the values of the WhatsApp tables from JSONB to BYTEA with compact JSON.

Revises: phones
Created: 2026-11-20 12:30
"""

from sqlalchemy import Connection

from app.migrations import backfill, introspection
from app.migrations import operations as changes

revision = "whatsapp_values"
down_revision = "phones"
branch_labels = None
depends_on = None

COLUMNS = (("whatsapp_auth", "creds"), ("whatsapp_keys", "value"))

# JSONB output has a blank after each colon and comma. Remove those outside of strings; keep numbers as is.
COMPACT = r"""convert_to(regexp_replace({column}::text, '("(?:[^"\\]|\\.)*")| ', '\1', 'g'), 'UTF8')"""

# Returns NULL for values that are not valid JSONB: with NUL or lone surrogates, or encrypted.
AS_JSONB = """
CREATE OR REPLACE FUNCTION pg_temp.as_jsonb(value bytea) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  RETURN convert_from(value, 'UTF8')::jsonb;
EXCEPTION WHEN data_exception OR syntax_error_or_access_rule_violation THEN
  RETURN NULL;
END $$
"""


def preflight(connection: Connection) -> None:
    for table, _ in COLUMNS:
        changes.refuse_large_rewrite(connection, table)


def upgrade() -> None:
    for table, column in COLUMNS:
        if introspection.column_type(table, column) == "jsonb":
            changes.log_rewrite(table)
            changes.execute(
                "-- squawk-ignore changing-column-type -- logged, and on request for large tables\n"
                f"ALTER TABLE {table} ALTER COLUMN {column} TYPE bytea USING {COMPACT.format(column=column)}"
            )
            changes.commit()
    changes.execute("ALTER TABLE whatsapp_auth ADD COLUMN IF NOT EXISTS version BIGINT NOT NULL DEFAULT 1")


def downgrade() -> None:
    changes.execute(AS_JSONB)
    for table, column in COLUMNS:
        backfill.refuse_rows(table, f"pg_temp.as_jsonb({column}) IS NULL", f"{column} is not valid JSONB")
    for table, column in COLUMNS:
        changes.execute(
            f"ALTER TABLE {table} ALTER COLUMN {column} TYPE jsonb USING pg_temp.as_jsonb({column})"
        )
    changes.execute("ALTER TABLE whatsapp_auth DROP COLUMN IF EXISTS version")
