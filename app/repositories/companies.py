"""The company itself: one row."""

from sqlalchemy import select

from app.database.bulk_merge import MergeResult, MergeTarget, OverwritePolicy
from app.database.query import Query
from app.models import Company
from app.repositories.base import Repository, filtered_by_company
from app.schemas import rows as schemas
from app.schemas.schema import Values

_ONE = Query(filtered_by_company(select(Company)))


class CompanyRepository(Repository[Company]):
    """The company that the unit of work is bound to; no other is within reach."""

    model = Company
    schema = schemas.COMPANY
    target = MergeTarget(Company, (), OverwritePolicy.NOT_OLDER)
    was_written = False  # the country and the time zone that others remember may be old then

    def get(self) -> Company | None:
        """The company, or None where it is not known yet."""
        found = self._read(_ONE)
        return found[0] if found else None

    def _merge_rows(self, rows: list[Values]) -> MergeResult:
        self.was_written = True
        return super()._merge_rows(rows)
