"""Detection of rows that YClients has deleted: compare with its complete list, and mark the missing rows.

YClients does not report deletions. Marked rows stay in the table.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ARRAY, BigInteger, ColumnElement, any_, func, literal, select, update

from app.models import Base
from app.repositories.base import Repository

M = TypeVar("M", bound=Base)


class MirroredRepository(Repository[M]):
    """A repository whose rows can be compared with a complete list from YClients."""

    def find_ids_by_key(self, updated_before: datetime, **filters: Any) -> dict[tuple[Any, ...], int]:
        """Return `{merge key: id}` of the rows that a complete list from YClients should contain.

        Omits rows written at or after `updated_before`, which YClients may have listed before the write,
        and rows without a YClients id, which YClients does not have yet.
        """
        key = [getattr(self.model, name) for name in self.target.key]
        statement = select(self.model.id, *key).where(
            *self._not_deleted_conditions(updated_before), *self._where(filters)
        )
        rows = self._open_session.execute(statement.where(*(column.is_not(None) for column in key)))
        return {tuple(values): row_id for row_id, *values in rows}

    def mark_deleted(self, ids: Collection[int], updated_before: datetime) -> int:
        """Mark the rows with these `id`s as deleted in YClients; return the number of marked rows.

        Rows written at or after `updated_before` are left unchanged.
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
