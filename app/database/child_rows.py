"""Rows that belong to a parent row and are given whole: replaced where they differ, else left alone."""

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from app.database.database import Connection
from app.database.dialect import DIALECT
from app.models import Base


def replace_children(
    connection: Connection,
    model: type[Base],
    company_id: int,
    columns: tuple[str, ...],
    parent: type[Base],
    parent_key: str,
    parent_keys: Sequence[int],
    rows: Sequence[Sequence[Any]],
) -> list[int]:
    """Make the children of `parent_keys` equal to `rows`; return the parents whose children changed.

    The first of `columns` refers to `parent_key` of the parent. Parents of changed children are locked,
    so that of two writers one waits.
    """
    table = model.__table__
    parameters = {"company_id": company_id, "parents": list(parent_keys)}
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    definitions = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(c), sql.SQL(table.columns[c].type.compile(dialect=DIALECT)))
        for c in columns
    )
    parts = {
        "stage": sql.Identifier(f"stage_{model.__tablename__}"),
        "table": sql.Identifier(model.__tablename__),
        "parent": sql.Identifier(columns[0]),
        "parent_table": sql.Identifier(parent.__tablename__),
        "parent_key": sql.Identifier(parent_key),
        "names": names,
        "definitions": definitions,
    }
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("CREATE TEMPORARY TABLE {stage} ({definitions}) ON COMMIT DROP").format(**parts)
        )
        with cursor.copy(sql.SQL("COPY {stage} ({names}) FROM STDIN").format(**parts)) as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(
            sql.SQL(
                """
                WITH ours AS (
                    SELECT {names} FROM {table}
                    WHERE company_id = %(company_id)s AND {parent} = ANY(%(parents)s::bigint[])
                )
                SELECT {parent} FROM (
                    (TABLE ours EXCEPT ALL SELECT {names} FROM {stage})
                    UNION ALL (SELECT {names} FROM {stage} EXCEPT ALL TABLE ours)
                ) AS difference GROUP BY {parent}
                """
            ).format(**parts),
            parameters,
        )
        changed = [parent for (parent,) in cursor.fetchall()]
        if changed:
            parameters["changed"] = changed
            cursor.execute(
                sql.SQL(
                    "SELECT FROM {parent_table} WHERE company_id = %(company_id)s"
                    " AND {parent_key} = ANY(%(changed)s::bigint[]) ORDER BY {parent_key} FOR UPDATE"
                ).format(**parts),
                parameters,
            )
            cursor.execute(
                sql.SQL(
                    "DELETE FROM {table}"
                    " WHERE company_id = %(company_id)s AND {parent} = ANY(%(changed)s::bigint[])"
                ).format(**parts),
                parameters,
            )
            cursor.execute(
                sql.SQL(
                    "INSERT INTO {table} (company_id, {names}) SELECT %(company_id)s, {names} FROM {stage}"
                    " WHERE {parent} = ANY(%(changed)s::bigint[])"
                ).format(**parts),
                parameters,
            )
        cursor.execute(sql.SQL("DROP TABLE {stage}").format(**parts))
    return changed
