"""Base of the repositories: reads of one company's rows, validated writes, bulk upserts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar, Generic, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    any_,
    bindparam,
    delete,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.orm import Session

from app.database.bulk_merge import MergeResult, MergeTarget, merge
from app.database.child_rows import replace_children
from app.database.connection import Connection
from app.database.filters import conditions, ordering
from app.database.query import Query, QueryReader
from app.errors import InvalidInputError
from app.models import Base
from app.repositories.batch_dedup import DistinctBatch, UpsertReport, deduplicate
from app.schemas.schema import Batch, RowSchema, Values

M = TypeVar("M", bound=Base)


@dataclass(frozen=True)
class Tenant:
    """The tenant context: company id, and the country (for phone numbers) and time zone of the company."""

    company_id: int
    country: str
    timezone: ZoneInfo


def filtered_by_company(statement: Select[M]) -> Select[M]:
    """Return the statement with a filter on the selected model's `company_id` (a bind parameter)."""
    model: Any = statement.column_descriptions[0]["entity"]
    return statement.where(model.company_id == bindparam("company_id"))


class Repository(Generic[M]):
    """Access to one company's rows of one table.

    Every statement filters by `company_id`. No method commits. Without a session (a single read outside
    of a unit of work) only the read methods work; the others raise RuntimeError.
    """

    model: ClassVar[type[Any]]
    schema: ClassVar[RowSchema]
    target: ClassVar[MergeTarget]
    # The column that identifies a row of a company: the merge key if it is one column, otherwise `id`.
    _id_column: ClassVar[str]
    _by_keys: ClassVar[Query[Any]]  # rows by `_id_column`; compiled once

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "target"):  # an abstract base class
            return
        cls._id_column = cls.target.key[0] if len(cls.target.key) == 1 else "id"
        column = getattr(cls.model, cls._id_column)
        keys = bindparam("keys", type_=ARRAY(column.type))
        cls._by_keys = Query(filtered_by_company(select(cls.model)).where(column == any_(keys)))

    def __init__(self, tenant: Tenant, reader: QueryReader, session: Session | None = None) -> None:
        self.tenant = tenant
        self._reader = reader
        self._session = session

    # Reading

    def find_one(self, **filters: Any) -> M | None:
        """Return the first row that matches the filters (`app.database.filters`), or None."""
        found = self.find_many(limit=1, **filters)
        return found[0] if found else None

    def find_many(
        self,
        *,
        order_by: str | Sequence[str] = (),
        limit: int | None = None,
        offset: int = 0,
        **filters: Any,
    ) -> list[M]:
        """Return the rows that match all filters.

        Example: `find_many(visit_count__gte=3, order_by="-name", limit=10)`.
        """
        statement = (
            filtered_by_company(select(self.model))
            .where(*conditions(self.model, filters))
            .order_by(*ordering(self.model, order_by))
            .limit(limit)
            .offset(offset)
        )
        return list(self._read(Query(statement)))

    def find_by_ids(self, ids: Sequence[int]) -> list[M | None]:
        """Return the rows with these ids, in the order of `ids`, with None for a missing row; one query.

        The ids are values of the merge key (the YClients id) if the key is one column, otherwise of `id`.
        """
        found = {getattr(row, self._id_column): row for row in self._read(self._by_keys, keys=list(ids))}
        return [found.get(i) for i in ids]

    def count(self, **filters: Any) -> int:
        """Return the number of rows that match the filters."""
        statement = select(func.count()).select_from(self.model).where(*self._where(filters))
        return self._open_session.scalar(statement) or 0

    # Writing

    def upsert(self, data: Mapping[str, Any]) -> M:
        """Insert or update one row and return the stored row. A newer stored row is left unchanged.

        Raises:
            InvalidInputError: the row is invalid.
            UnknownCompanyError: the company does not exist.
        """
        values = self.schema.validate(data, self.tenant.company_id, self.tenant.country)
        key = {name: values[name] for name in self.target.key}
        self._merge_rows([values])
        row = self.find_one(**key)
        assert row is not None, "a merged row can be read back in its own transaction"  # noqa: S101
        return row

    def validate(self, rows: Iterable[Any]) -> Batch:
        """Validate rows without a database access; return the valid and the rejected ones."""
        return self.schema.validate_all(rows, self.tenant.company_id, self.tenant.country)

    def bulk_upsert(self, rows: Iterable[Mapping[str, Any]] | Batch) -> UpsertReport:
        """Insert or update many rows. Rows that are not a `Batch` from `validate` are validated first.

        A rejected row does not prevent the others from being stored.
        """
        batch = rows if isinstance(rows, Batch) else self.validate(rows)
        return self.deduplicate(batch).merge_in_order(self.merge_distinct)

    def deduplicate(self, batch: Batch) -> DistinctBatch:
        """Split validated rows into batches without repeated keys."""
        return deduplicate(batch, self.target.key)

    def merge_distinct(self, batch: Batch) -> UpsertReport:
        """Merge validated rows with distinct keys.

        Raises TypeError if the batch was validated for another repository, InvalidInputError if it was
        validated for another company.
        """
        if batch.schema is not self.schema:
            raise TypeError("this batch was validated for another repository")
        if batch.company_id != self.tenant.company_id:
            raise InvalidInputError(fields={"company_id": "names another company"})
        report = UpsertReport()
        report.add(self._merge_rows(batch.rows))
        return report

    def delete(self, **filters: Any) -> int:
        """Delete the rows that match the filters; return their number.

        Raises InvalidInputError without a filter.
        """
        if not filters:
            raise InvalidInputError("delete() needs at least one filter.")
        statement = delete(self.model).where(*self._where(filters)).returning(self.model.id)
        return len(self._open_session.execute(statement).all())

    # For subclasses

    @property
    def _open_session(self) -> Session:
        if self._session is None:
            raise RuntimeError("this repository is read-only: use a unit of work")
        return self._session

    @property
    def _connection(self) -> Connection:
        """The psycopg connection of the session, in the session's transaction."""
        driver: Any = self._open_session.connection().connection.driver_connection
        connection: Connection = driver
        return connection

    def _where(self, filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
        return [self.model.company_id == self.tenant.company_id, *conditions(self.model, filters)]

    def _read(self, query: Query[M], **parameters: Any) -> Sequence[M]:
        return self._reader.all(query, company_id=self.tenant.company_id, **parameters)

    def _merge_rows(self, rows: list[Values]) -> MergeResult:
        """Merge rows with distinct keys, with one statement for each set of columns that occurs."""
        groups: dict[frozenset[str], list[Values]] = {}
        for row in rows:
            groups.setdefault(frozenset(row), []).append(row)
        total = MergeResult()
        for names, group in groups.items():
            total.add(self._merge_uniform_rows(names, group))
        return total

    def _merge_uniform_rows(self, names: frozenset[str], rows: list[Values]) -> MergeResult:
        """Merge rows that all have the columns `names`."""
        columns = self._columns(names)
        # itemgetter returns no tuple for a single column (a company row may consist of its title only).
        values = (
            [*map(itemgetter(*columns), rows)] if len(columns) > 1 else [(row[columns[0]],) for row in rows]
        )
        return merge(self._connection, self.target, self.tenant.company_id, columns, values)

    def _columns(self, names: frozenset[str]) -> tuple[str, ...]:
        """Return `names` in the order of the table's columns; names that are no columns are omitted."""
        return tuple(c.key for c in self.model.__table__.columns if c.key in names)

    def _replace_children(
        self,
        merged: MergeResult,
        child: type[Base],
        columns: tuple[str, ...],
        parent_key: str,
        parents: Mapping[int, int],
        rows: Sequence[Sequence[Any]],
    ) -> None:
        """Replace the child rows of `parents`, a mapping from parent key to id.

        Parents whose children changed count as updated in `merged`, and get a new `updated_at`.
        """
        changed = replace_children(
            self._connection,
            child,
            self.tenant.company_id,
            columns,
            self.model,
            parent_key,
            list(parents),
            rows,
        )
        touched = {parents[key] for key in changed} - set(merged.written_ids)
        if touched:
            ids = literal(list(touched), ARRAY(BigInteger))
            where = (self.model.company_id == self.tenant.company_id, self.model.id == any_(ids))
            self._open_session.execute(update(self.model).where(*where).values(updated_at=func.now()))
            merged.updated += len(touched)
            merged.unchanged -= len(touched)
