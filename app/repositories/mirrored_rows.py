"""Rows that YClients lists in full and drops without a word: found by comparison, marked, never removed."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ARRAY, BigInteger, ColumnElement, any_, func, literal, select, update

from app.models import Base
from app.repositories.base import Repository

M = TypeVar("M", bound=Base)


class MirroredRepository(Repository[M]):
    """A repository whose rows can be compared with a complete list of YClients."""

    def find_ids_by_key(self, updated_before: datetime, **filters: Any) -> dict[tuple[Any, ...], int]:
        """Our id by key of the rows that YClients should have, last written before `updated_before`.

        Those without a YClients id have not reached it yet; later writes may have crossed its list.
        """
        key = [getattr(self.model, name) for name in self.target.key]
        statement = select(self.model.id, *key).where(
            *self._not_deleted_conditions(updated_before), *self._where(filters)
        )
        rows = self._open_session.execute(statement.where(*(column.is_not(None) for column in key)))
        return {tuple(values): row_id for row_id, *values in rows}

    def mark_deleted(self, ids: Collection[int], updated_before: datetime) -> int:
        """Mark the rows with these ids (ours) as deleted upstream; return how many.

        What was written since `updated_before` is left as it is.
        """
        marked = self._open_session.execute(
            update(self.model)
            .where(
                self.model.company_id == self.tenant.company_id,
                self.model.id == any_(literal(list(ids), ARRAY(BigInteger))),
                *self._not_deleted_conditions(updated_before),
            )
            .values(deleted_at=func.now(), updated_at=func.now())
            .returning(self.model.id),
            execution_options={"synchronize_session": False},
        )
        return len(marked.all())

    def _not_deleted_conditions(self, before: datetime) -> list[ColumnElement[bool]]:
        return [self.model.deleted_at.is_(None), self.model.updated_at < before]
