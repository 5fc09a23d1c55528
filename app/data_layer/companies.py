"""Operations on the company (the salon itself)."""

from collections.abc import Mapping
from typing import Any

from app.data_layer.error_boundary import operation
from app.data_layer.operations import Operations
from app.models import Company


class CompanyOperations(Operations):
    """Operations on the company."""

    @operation(Company)
    def get_company(self) -> Company | None:
        """Return the company, or None if it is unknown."""
        return self._read_only_repositories.companies.get()

    @operation(Company)
    def upsert_company(self, data: Mapping[str, Any]) -> Company:
        """Insert or update the company; return it. All other writes require that the company exists."""
        return self._transact(lambda uow: uow.companies.upsert(data))
