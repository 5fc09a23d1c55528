"""SQL templates of an apply cycle for the rows of one table."""

from collections.abc import Sequence

from psycopg import sql

from app.database.checksum import row_hash_sql
from app.transfer.protocol.tables import SCHEMA, TableInfo, quote_columns

# Staging table in the target's session, one for each changed table: the keys from the change log, their rows
# on the source if they exist there, and the SHA-256 of the rows.
_STAGING_TABLE = "frontdesk_transfer_{}"
_MARKED, _IS_PRESENT, _HASH = "frontdesk key {}", "frontdesk present", "frontdesk hash"
CREATE_STAGING = """
    CREATE TEMPORARY TABLE IF NOT EXISTS {fetched} ON COMMIT DELETE ROWS
    AS SELECT {named_key}, true AS {is_present}, ''::bytea AS {hash}, {columns} FROM {table} WITH NO DATA
"""
_WANTED = "{marked_key}, {first_present} IS NOT NULL, {present_hash}, {present_row}"
_FROM = "FROM {marked} AS marked LEFT JOIN {table} AS present ON ({present_key}) = ({marked_key})"
# Rows as text, in the canonical format that both sessions use: one stream can hold rows of several tables.
FETCH_AS_TEXT = f"SELECT {{number}}, ROW({_WANTED})::text {_FROM}"
FETCH_BULK = f"SELECT {_WANTED} {_FROM}"
# One array of rows: PostgreSQL would evaluate `(row).*` once for each column.
INSERT_INTO_STAGING = (
    "INSERT INTO pg_temp.{fetched} SELECT taken.* FROM unnest({rows}::pg_temp.{fetched}[]) AS taken"
)
# Rows that differ are deleted and inserted again instead of being updated. So unique and exclusion
# constraints never see a value twice, even if rows swapped values. Foreign keys are deferred until the end.
DELETE_DIFFERING = """
    DELETE FROM {table} AS present USING pg_temp.{fetched} AS wanted
    WHERE ({present_key}) = ({fetched_key})
        AND (NOT wanted.{is_present} OR ROW({present_row})::record *<> ROW({wanted_row})::record)
"""
INSERT_MISSING = """
    INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
    SELECT {wanted_row} FROM pg_temp.{fetched} AS wanted
    WHERE wanted.{is_present}
        AND NOT EXISTS (SELECT FROM {table} AS present WHERE ({present_key}) = ({fetched_key}))
"""
DIFFERS_SQLSTATE = "FD003"
COMPARE_HASHES = f"""
    DO $frontdesk$ BEGIN
        IF EXISTS (
            SELECT FROM pg_temp.{{fetched}} AS wanted
                LEFT JOIN {{table}} AS present ON ({{present_key}}) = ({{fetched_key}})
            WHERE wanted.{{hash}} IS DISTINCT FROM {{present_hash}}
        ) THEN
            RAISE 'rows that were just applied differ' USING ERRCODE = '{DIFFERS_SQLSTATE}', TABLE = {{name}};
        END IF;
    END $frontdesk$
"""


def staging_table(number: int) -> sql.Identifier:
    """Return the name of the staging table for table `number` in the target's session."""
    return sql.Identifier("pg_temp", _STAGING_TABLE.format(number))


def format_statement(
    template: str, number: int, table: TableInfo, *, verify: bool = False, rows: Sequence[str] = ()
) -> sql.Composed:
    """Fill in a template of this module for one table.

    Args:
        template: One of the templates of this module, such as FETCH_AS_TEXT.
        number: The position of the table in the transfer; it names the staging table.
        table: The table.
        verify: Include the SHA-256 of the rows.
        rows: Rows as FETCH_AS_TEXT returned them, for INSERT_INTO_STAGING.
    """
    marked = [_MARKED.format(position) for position, _ in enumerate(table.key)]
    named = [
        sql.SQL("{} AS {}").format(sql.Identifier(column), sql.Identifier(name))
        for column, name in zip(table.key, marked, strict=True)
    ]
    first_present = sql.Identifier("present", table.key[0])
    hashed = "CASE WHEN {} IS NOT NULL THEN {} END" if verify else "NULL::bytea"
    return sql.SQL(template).format(
        number=sql.Literal(number),
        name=sql.Literal(table.name),
        table=table.identifier,
        fetched=sql.Identifier(_STAGING_TABLE.format(number)),
        marked=_pending_keys(table),
        is_present=sql.Identifier(_IS_PRESENT),
        hash=sql.Identifier(_HASH),
        columns=table.column_list(),
        present_row=table.column_list("present"),
        present_hash=sql.SQL(hashed).format(first_present, sql.SQL(row_hash_sql(table.columns, "present"))),
        wanted_row=table.column_list("wanted"),
        named_key=sql.SQL(", ").join(named),
        present_key=table.key_list("present"),
        marked_key=table.key_list("marked"),
        fetched_key=quote_columns(marked, "wanted"),
        first_present=first_present,
        rows=sql.Literal(list(rows)),
    )


def _pending_keys(table: TableInfo) -> sql.Composed:
    """Return a subquery for the pending keys of this table, cast to the types of its key columns."""
    return sql.SQL("(SELECT DISTINCT {} FROM {}.marks WHERE table_name = {})").format(
        table.typed_key("key"), sql.Identifier(SCHEMA), sql.Literal(table.name)
    )
