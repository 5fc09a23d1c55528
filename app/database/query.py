"""A SELECT of model records, and the two ways to run it: inside a unit of work, or alone."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic, LiteralString, Protocol, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import manager_of_class

from app.database.database import Connection
from app.database.dialect import DIALECT
from app.database.live_database import AnyDatabase
from app.models import Base

M = TypeVar("M", bound=Base)


class Query(Generic[M]):
    """A SELECT of one model with bind parameters; compiled to SQL text at most once."""

    def __init__(self, statement: Select[M]) -> None:
        self.statement = statement
        self.model: type[M] = statement.column_descriptions[0]["entity"]
        self._manager = manager_of_class(self.model)
        self.columns = tuple(column.key for column in self.model.__table__.columns)

    @cached_property
    def compiled(self) -> tuple[str, dict[str, Any]]:
        """The statement as psycopg takes it (`%(name)s`), and the parameters it was built with."""
        compiled = self.statement.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
        return str(compiled), dict(compiled.params)

    def build_record(self, row: Sequence[Any]) -> M:
        """A record with these values, bound to no session."""
        # Straight into its dictionary, as the ORM's own loader does: through the constructor every
        # attribute would be recorded as a change, which doubles the cost of a lookup.
        record: M = self._manager.new_instance()
        record.__dict__.update(zip(self.columns, row, strict=True))
        return record


class QueryReader(Protocol):
    """Runs queries."""

    def all(self, query: Query[M], **parameters: Any) -> Sequence[M]:
        """All records of the query."""
        ...

    def rows(self, text: LiteralString, **parameters: Any) -> Sequence[Sequence[Any]]:
        """All rows of a SELECT that is no model's, with psycopg's `%(name)s` parameters."""
        ...


class SessionReader:
    """Reads inside a unit of work's transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self, query: Query[M], **parameters: Any) -> Sequence[M]:
        # The merge writes past the session, so what the session remembers may be old.
        options = {"populate_existing": True}
        records: Sequence[M] = self._session.scalars(
            query.statement, parameters, execution_options=options
        ).all()
        return records

    def rows(self, text: LiteralString, **parameters: Any) -> Sequence[Sequence[Any]]:
        return self._session.connection().exec_driver_sql(text, parameters).all()


class PoolReader:
    """Reads alone: one statement in autocommit, without a session's cost (a third of its time)."""

    def __init__(self, database: AnyDatabase) -> None:
        self._database = database

    def all(self, query: Query[M], **parameters: Any) -> Sequence[M]:
        text, built_in = query.compiled
        return [query.build_record(row) for row in self._fetch(text, {**built_in, **parameters}, query)]

    def rows(self, text: LiteralString, **parameters: Any) -> Sequence[Sequence[Any]]:
        return self._fetch(text, parameters)

    def _fetch(
        self, text: str, parameters: dict[str, Any], query: Query[Any] | None = None
    ) -> list[tuple[Any, ...]]:
        def run(connection: Connection) -> list[tuple[Any, ...]]:
            return connection.execute(text, parameters).fetchall()

        return self._database.read(run)
