"""Replacement of child rows: the caller passes all children of a parent row; only differences are written."""

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from app.database.connection import Connection
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
    """Replace the children of the parents `parent_keys` by `rows`; return the keys of parents that changed.

    Children that are equal already are not written. Rows of changed parents are locked, so that one of two
    concurrent writers waits for the other.

    Args:
        columns: the columns of `rows`; the first one refers to the parent's column `parent_key`.
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
                WITH stored AS (
                    SELECT {names} FROM {table}
                    WHERE company_id = %(company_id)s AND {parent} = ANY(%(parents)s::bigint[])
                )
                SELECT {parent} FROM (
                    (TABLE stored EXCEPT ALL SELECT {names} FROM {stage})
                    UNION ALL (SELECT {names} FROM {stage} EXCEPT ALL TABLE stored)
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
