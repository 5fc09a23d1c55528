"""What all repositories share: scoped reads, validated writes, the bulk merge and its report."""

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
from app.database.database import Connection
from app.database.filters import conditions, ordering
from app.database.query import Query, QueryReader
from app.errors import InvalidInputError
from app.models import Base
from app.repositories.batch_dedup import DistinctBatch, UpsertReport, deduplicate
from app.schemas.schema import Batch, RowSchema, Values

M = TypeVar("M", bound=Base)


@dataclass(frozen=True)
class Tenant:
    """The company that everything is bound to, and how to read its phones and its clock."""

    company_id: int
    country: str
    timezone: ZoneInfo


def filtered_by_company(statement: Select[M]) -> Select[M]:
    """The statement, bound to the parameter `company_id` on the model that it selects."""
    model: Any = statement.column_descriptions[0]["entity"]
    return statement.where(model.company_id == bindparam("company_id"))


class Repository(Generic[M]):
    """One company's rows of one table. Every statement carries its `company_id`; none commits.

    Without a session (a lone read outside a unit of work) only the reading methods work.
    """

    model: ClassVar[type[Any]]
    schema: ClassVar[RowSchema]
    target: ClassVar[MergeTarget]
    # One column tells a company's rows apart: the YClients id, or our own where the key has several.
    _id_column: ClassVar[str]
    _by_keys: ClassVar[Query[Any]]  # by that column; compiled once

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "target"):  # a base of several repositories, not one itself
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
        """The first row that meets the filters (`app.database.filters`), or None."""
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
        """Rows that meet all filters: `find_many(visit_count__gte=3, order_by="-name", limit=10)`."""
        statement = (
            filtered_by_company(select(self.model))
            .where(*conditions(self.model, filters))
            .order_by(*ordering(self.model, order_by))
            .limit(limit)
            .offset(offset)
        )
        return list(self._read(Query(statement)))

    def find_by_ids(self, ids: Sequence[int]) -> list[M | None]:
        """Rows by YClients id (by ours where the key has other columns), in the order of `ids`; one query.

        None stands in the gaps.
        """
        found = {getattr(row, self._id_column): row for row in self._read(self._by_keys, keys=list(ids))}
        return [found.get(i) for i in ids]

    def count(self, **filters: Any) -> int:
        """How many rows meet the filters."""
        statement = select(func.count()).select_from(self.model).where(*self._where(filters))
        return self._open_session.scalar(statement) or 0

    # Writing

    def upsert(self, data: Mapping[str, Any]) -> M:
        """Insert or update one row and return it as it is stored now (a newer one is left as it is).

        Raises InvalidInputError, UnknownCompanyError.
        """
        values = self.schema.validate(data, self.tenant.company_id, self.tenant.country)
        key = {name: values[name] for name in self.target.key}
        self._merge_rows([values])
        row = self.find_one(**key)
        assert row is not None, "a merged row can be read back in its own transaction"  # noqa: S101
        return row

    def validate(self, rows: Iterable[Any]) -> Batch:
        """Check rows before the database sees them."""
        return self.schema.validate_all(rows, self.tenant.company_id, self.tenant.country)

    def bulk_upsert(self, rows: Iterable[Mapping[str, Any]] | Batch) -> UpsertReport:
        """Insert or update many rows, checked here unless `validate` has checked them already.

        Rejected rows do not stop the others.
        """
        batch = rows if isinstance(rows, Batch) else self.validate(rows)
        return self.deduplicate(batch).merge_in_order(self.merge_distinct)

    def deduplicate(self, batch: Batch) -> DistinctBatch:
        """The checked rows without two of one key."""
        return deduplicate(batch, self.target.key)

    def merge_distinct(self, batch: Batch) -> UpsertReport:
        """Merge checked rows of which no two have the same key."""
        if batch.schema is not self.schema:
            raise TypeError("this batch was validated as rows of another kind")
        if batch.company_id != self.tenant.company_id:
            raise InvalidInputError(fields={"company_id": "names another company"})
        report = UpsertReport()
        report.add(self._merge_rows(batch.rows))
        return report

    def delete(self, **filters: Any) -> int:
        """Delete the rows that meet the filters (at least one is required); return how many."""
        if not filters:
            raise InvalidInputError("Deleting every row of a company needs a filter that says so.")
        statement = delete(self.model).where(*self._where(filters)).returning(self.model.id)
        return len(self._open_session.execute(statement).all())

    # For subclasses

    @property
    def _open_session(self) -> Session:
        if self._session is None:
            raise RuntimeError("this repository only reads; use a unit of work")
        return self._session

    @property
    def _connection(self) -> Connection:
        """psycopg's connection, inside the session's transaction."""
        driver: Any = self._open_session.connection().connection.driver_connection
        connection: Connection = driver
        return connection

    def _where(self, filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
        return [self.model.company_id == self.tenant.company_id, *conditions(self.model, filters)]

    def _read(self, query: Query[M], **parameters: Any) -> Sequence[M]:
        return self._reader.all(query, company_id=self.tenant.company_id, **parameters)

    def _merge_rows(self, rows: list[Values]) -> MergeResult:
        """Merge rows with distinct keys: one statement for each set of columns that occurs among them."""
        groups: dict[frozenset[str], list[Values]] = {}
        for row in rows:
            groups.setdefault(frozenset(row), []).append(row)
        total = MergeResult()
        for names, group in groups.items():
            total.add(self._merge_uniform_rows(names, group))
        return total

    def _merge_uniform_rows(self, names: frozenset[str], rows: list[Values]) -> MergeResult:
        """Merge rows that all have the same columns."""
        columns = self._columns(names)
        # A company may come with its title alone, and of one column itemgetter makes no tuple.
        values = (
            [*map(itemgetter(*columns), rows)] if len(columns) > 1 else [(row[columns[0]],) for row in rows]
        )
        return merge(self._connection, self.target, self.tenant.company_id, columns, values)

    def _columns(self, names: frozenset[str]) -> tuple[str, ...]:
        """The columns among `names`, in the order of the table."""
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
        """Replace the children of `parents` (id by parent key); a row whose children changed was updated."""
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
