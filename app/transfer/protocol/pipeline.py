"""Several statements in one message: one round trip to the server for all of them."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from psycopg import sql

from app.database.connection import Connection

Statement = str | sql.SQL | sql.Composed
Rows = list[Any]  # a tuple for each row

T = TypeVar("T")


class Answer(Generic[T]):
    """The answer to one statement of a StatementBatch. Read it after the batch has been executed."""

    def __init__(self, parse: Callable[[Any], T]) -> None:
        self._parse = parse
        self._received: list[Any] = []

    def receive(self, raw: Rows | int) -> None:
        """Store the rows of the statement, or its row count if it returns no rows."""
        self._received = [raw]

    def read(self) -> T:
        """Return the answer. Raises RuntimeError if the batch has not been executed."""
        if not self._received:
            raise RuntimeError("An answer was read before its batch of statements was executed.")
        return self._parse(self._received[0])


class StatementBatch:
    """Statements that the server receives as one message.

    The server starts only after it has received the whole message, so a lost connection leaves no part
    executed. The statements are one transaction unless they contain BEGIN and COMMIT. After an error the
    remaining statements are not executed. There are no parameters: statements contain their values. Example:

        batch = StatementBatch("BEGIN")
        now = batch.add_query("SELECT now()", single_value)
        batch.add("COMMIT")
        batch.execute(connection)
        print(now.read())
    """

    def __init__(self, *statements: Statement) -> None:
        self._statements: list[tuple[Statement, Answer[Any]]] = []
        self.add(*statements)

    def add(self, *statements: Statement) -> None:
        """Add statements whose answers are not needed."""
        for statement in statements:
            self._add(statement, lambda raw: raw)

    def add_query(self, query: Statement, parse: Callable[[Rows], T]) -> Answer[T]:
        """Add a query, and return its answer: the result of `parse` for the rows."""
        return self._add(query, parse)

    def add_write(self, statement: Statement) -> Answer[int]:
        """Add a statement that returns no rows, and return its answer: the row count."""
        return self._add(statement, int)

    def extend(self, batch: "StatementBatch") -> None:
        """Add the statements of another batch. Its answers can be read after this batch has been executed."""
        self._statements += batch._statements

    def execute(self, connection: Connection) -> None:
        """Execute the statements. Raises psycopg errors."""
        if not self._statements:
            return
        parts = [sql.SQL(part) if isinstance(part, str) else part for part, _ in self._statements]
        cursor = connection.execute(sql.SQL(";\n").join(parts))
        for (_, answer), result in zip(self._statements, cursor.results(), strict=True):
            answer.receive(result.fetchall() if result.description else result.rowcount)

    def _add(self, statement: Statement, parse: Callable[[Any], T]) -> Answer[T]:
        answer = Answer(parse)
        self._statements.append((statement, answer))
        return answer


def single_value(rows: Rows) -> Any:
    """Return the value of one row with one column, for `StatementBatch.add_query`."""
    [(value,)] = rows
    return value
