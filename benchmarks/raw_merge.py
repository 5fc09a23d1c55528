"""Peer of P1 to P3: a plain merge with psycopg, without validation and without a report of outcomes."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql


def merge(
    connection: psycopg.Connection[Any],
    table: str,
    company_id: int,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Upsert `rows` by `yclients_id` in one transaction. Unchanged rows are rewritten, too."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    settable = [sql.Identifier(column) for column in columns if column != "yclients_id"]
    parts = {
        "table": sql.Identifier(table),
        "names": names,
        "assignments": sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(name) for name in settable),
    }
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE raw_stage ON COMMIT DROP AS SELECT {names} FROM {table} LIMIT 0"
            ).format(**parts)
        )
        with cursor.copy(sql.SQL("COPY raw_stage ({names}) FROM STDIN").format(**parts)) as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(
            sql.SQL(
                "INSERT INTO {table} (company_id, {names}) SELECT %s, {names} FROM raw_stage"
                " ON CONFLICT (yclients_id, company_id) DO UPDATE SET {assignments}, updated_at = now()"
            ).format(**parts),
            (company_id,),
        )
