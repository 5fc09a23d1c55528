"""The salon itself."""

from collections.abc import Mapping
from typing import Any

from app.data_layer.error_boundary import operation
from app.data_layer.operations import Operations
from app.models import Company


class CompanyOperations(Operations):
    """The company."""

    @operation(Company)
    def get_company(self) -> Company | None:
        """The company, or None where it is not known yet."""
        return self._read_only_repositories.companies.get()

    @operation(Company)
    def upsert_company(self, data: Mapping[str, Any]) -> Company:
        """Insert or update the company; every other write needs it."""
        return self._transact(lambda uow: uow.companies.upsert(data))
