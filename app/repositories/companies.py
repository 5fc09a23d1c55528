"""The company row of the tenant."""

from sqlalchemy import select

from app.database.bulk_merge import MergeResult, MergeTarget, OverwritePolicy
from app.database.query import Query
from app.models import Company
from app.repositories.base import Repository, filtered_by_company
from app.schemas import rows as schemas
from app.schemas.schema import Values

_ONE = Query(filtered_by_company(select(Company)))


class CompanyRepository(Repository[Company]):
    """Access to the tenant's own company row; other companies are not accessible."""

    model = Company
    schema = schemas.COMPANY
    target = MergeTarget(Company, (), OverwritePolicy.NOT_OLDER)
    was_written = False  # if true, cached countries and time zones of the company may be outdated

    def get(self) -> Company | None:
        """Return the company, or None if it is not stored yet."""
        found = self._read(_ONE)
        return found[0] if found else None

    def _merge_rows(self, rows: list[Values]) -> MergeResult:
        self.was_written = True
        return super()._merge_rows(rows)
