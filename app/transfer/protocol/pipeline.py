"""Several statements in one message: one trip to the server and back, however many they are."""

from typing import Any

import psycopg
from psycopg import sql

Statement = str | sql.SQL | sql.Composed


def execute_batch(connection: psycopg.Connection[Any], *statements: Statement) -> list[Any]:
    """What each has to say: its rows, or the number of rows that it has written.

    The server begins when it has all of them, so whoever is lost on the way leaves nothing half-sent behind.
    They are one transaction as far as they do not say BEGIN and COMMIT; after an error none of the rest is
    carried out. Values must be written in them: there are no parameters.
    """
    parts = [sql.SQL(each) if isinstance(each, str) else each for each in statements]
    cursor = connection.execute(sql.SQL(";\n").join(parts))
    return [each.fetchall() if each.description else each.rowcount for each in cursor.results()]
