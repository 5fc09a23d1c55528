"""Several statements in one message: one round trip to the server for all of them."""

from typing import Any

from psycopg import sql

from app.database.connection import Connection

Statement = str | sql.SQL | sql.Composed


def execute_batch(connection: Connection, *statements: Statement) -> list[Any]:
    """Run several statements in one message; return, per statement, its rows or the row count of a write.

    The server starts only after it has received the whole message, so a lost connection leaves no part
    executed. The statements are one transaction unless they contain BEGIN and COMMIT. After an error the
    remaining statements are not executed. There are no parameters: statements contain their values. Example:
    `_, [(now,)], _ = execute_batch(connection, "BEGIN", "SELECT now()", "COMMIT")`.
    """
    parts = [sql.SQL(part) if isinstance(part, str) else part for part in statements]
    cursor = connection.execute(sql.SQL(";\n").join(parts))
    return [result.fetchall() if result.description else result.rowcount for result in cursor.results()]
