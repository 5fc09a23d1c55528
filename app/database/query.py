"""Queries for model records, and two readers that run them: in a unit of work, or outside a transaction."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic, LiteralString, Protocol, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import manager_of_class

from app.database.connection import Connection
from app.database.dialect import DIALECT
from app.database.live_database import AnyDatabase
from app.models import Base

M = TypeVar("M", bound=Base)


class Query(Generic[M]):
    """A SELECT of one model with bind parameters. It is compiled to SQL text once, when first needed."""

    def __init__(self, statement: Select[M]) -> None:
        self.statement = statement
        self.model: type[M] = statement.column_descriptions[0]["entity"]
        self._manager = manager_of_class(self.model)
        self.columns = tuple(column.key for column in self.model.__table__.columns)

    @cached_property
    def compiled(self) -> tuple[str, dict[str, Any]]:
        """Return the SQL text with `%(name)s` placeholders, and the parameters bound in the statement."""
        compiled = self.statement.compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
        return str(compiled), dict(compiled.params)

    def build_record(self, row: Sequence[Any]) -> M:
        """Return a record with the values of `row`, detached from any session."""
        # The values are written to __dict__, as the ORM's loader does. The constructor would record every
        # attribute as a change, which doubles the cost of a lookup.
        record: M = self._manager.new_instance()
        record.__dict__.update(zip(self.columns, row, strict=True))
        return record


class QueryReader(Protocol):
    """Interface for running queries."""

    def all(self, query: Query[M], **parameters: Any) -> Sequence[M]:
        """Return all records that the query selects."""
        ...

    def rows(self, text: LiteralString, **parameters: Any) -> Sequence[Sequence[Any]]:
        """Return all rows of a SELECT given as text with `%(name)s` placeholders."""
        ...


class SessionReader:
    """Reader that runs queries in the transaction of a unit of work."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self, query: Query[M], **parameters: Any) -> Sequence[M]:
        # A bulk merge bypasses the session, so records in the session may be outdated: overwrite them.
        options = {"populate_existing": True}
        records: Sequence[M] = self._session.scalars(
            query.statement, parameters, execution_options=options
        ).all()
        return records

    def rows(self, text: LiteralString, **parameters: Any) -> Sequence[Sequence[Any]]:
        return self._session.connection().exec_driver_sql(text, parameters).all()


class PoolReader:
    """Reader that runs each query in autocommit mode without a session, which takes a third of the time."""

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
