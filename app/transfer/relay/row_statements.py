"""What a round says to the servers about the rows of one table."""

from collections.abc import Sequence

from psycopg import sql

from app.database.checksum import row_hash_sql
from app.transfer.protocol.tables import SCHEMA, TableInfo, quote_columns

# In the target's session, for each table that has changed: the marked keys, and their rows on the source as
# far as there are any, with their SHA-256.
_STAGING_TABLE = "frontdesk_transfer_{}"
_MARKED, _IS_PRESENT, _HASH = "frontdesk key {}", "frontdesk present", "frontdesk hash"
CREATE_STAGING = """
    CREATE TEMPORARY TABLE IF NOT EXISTS {fetched} ON COMMIT DELETE ROWS
    AS SELECT {named_key}, true AS {is_present}, ''::bytea AS {hash}, {columns} FROM {table} WITH NO DATA
"""
_WANTED = "{marked_key}, {first_present} IS NOT NULL, {present_hash}, {present_row}"
_FROM = "FROM {marked} AS marked LEFT JOIN {table} AS present ON ({present_key}) = ({marked_key})"
# As text, in the canonical form of both sessions: so the rows of several tables are one stream.
FETCH_AS_TEXT = f"SELECT {{number}}, ROW({_WANTED})::text {_FROM}"
FETCH_BULK = f"SELECT {_WANTED} {_FROM}"
# The array as a whole: `(row).*` of a single one would be read once for each of its columns.
INSERT_INTO_STAGING = (
    "INSERT INTO pg_temp.{fetched} SELECT taken.* FROM unnest({rows}::pg_temp.{fetched}[]) AS taken"
)
# Rows that differ go, and come back as they are on the source: so no unique or exclusion constraint sees a
# value twice, whichever way values were swapped. Checks of foreign keys are deferred, and look at the end.
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
            RAISE 'rows that were just replayed differ' USING ERRCODE = '{DIFFERS_SQLSTATE}', TABLE = {{name}};
        END IF;
    END $frontdesk$
"""


def staging_table(number: int) -> sql.Identifier:
    """The table in the target's session."""
    return sql.Identifier("pg_temp", _STAGING_TABLE.format(number))


def format_statement(
    template: str, number: int, table: TableInfo, *, verify: bool = False, rows: Sequence[str] = ()
) -> sql.Composed:
    """One of them; `number`: of the table. `verify`: with the rows' SHA-256; `rows`: as they were fetched."""
    marked = [_MARKED.format(place) for place, _ in enumerate(table.key)]
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
    """The keys that wait for this table, in its own types."""
    return sql.SQL("(SELECT DISTINCT {} FROM {}.marks WHERE table_name = {})").format(
        table.typed_key("key"), sql.Identifier(SCHEMA), sql.Literal(table.name)
    )
