"""Ingest of one company's payloads: mapping, validation and merge, for files, sync and webhook."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from app.data_layer.bulk_upsert import bulk_upsert_bisecting
from app.data_layer.tenant_cache import default_tenant, tenant_of
from app.data_layer.unit_of_work import UnitOfWork, UnitOfWorkFactory
from app.errors import DRIVER_ERRORS, InvalidInputError, to_frontdesk_error
from app.frontdesk import Frontdesk
from app.models import Company
from app.repositories.batch_dedup import UpsertReport
from app.schemas.schema import Batch, RowKey, Values
from app.yclients.mapping.entities import COMPANY, EntityKind
from app.yclients.mapping.fields import MappingContext

T = TypeVar("T")


@dataclass(frozen=True)
class RowProblem:
    """A rejected row, or a row that was stored without its invalid fields.

    `reasons` by field do not contain values.
    """

    position: int
    key: RowKey | None
    is_rejected: bool
    reasons: Mapping[str, str]


class Ingest:
    """Ingest into one company. A dry run merges rows and rolls each transaction back."""

    def __init__(self, desk: Frontdesk, company_id: int, dry_run: bool = False) -> None:
        """Look up the company in the tenant cache. Raises FrontdeskError if the database fails."""
        self._uow_factory = _DryRunUnitOfWorkFactory(desk.database) if dry_run else desk.uow_factory
        self.company_id = company_id
        try:
            tenant = desk.uow_factory.tenant_cache.find(company_id)
        except DRIVER_ERRORS as error:
            raise to_frontdesk_error(error) from error
        self.is_known = tenant is not None
        self._tenant = tenant or default_tenant(company_id)
        self.made_company = False

    def context(self, staff_id: int | None = None) -> MappingContext:
        """Return the context for mapping. Ingest of the company's own payload may change its time zone."""
        return MappingContext(self.company_id, self._tenant.timezone, staff_id)

    def new_batch(self, kind: EntityKind) -> Batch:
        """Return an empty batch for rows of this kind."""
        return Batch(kind.schema, self.company_id)

    def add_payload(
        self, kind: EntityKind, batch: Batch, position: int, payload: Any, context: MappingContext
    ) -> RowProblem | None:
        """Map and validate a payload, and add it to the batch unless it is rejected.

        Returns the problem of a rejected row or of a row with dropped fields, else None.
        """
        if not isinstance(payload, Mapping):
            return self.add_row(kind, batch, position, payload)
        mapped = kind.map_payload(payload, context)
        return self.add_row(kind, batch, position, mapped.row, mapped.warnings)

    def add_row(
        self,
        kind: EntityKind,
        batch: Batch,
        position: int,
        row: Any,
        warnings: Mapping[str, str] | None = None,
    ) -> RowProblem | None:
        """Validate a row, and add it to the batch unless it is rejected.

        Returns the problem of a rejected row or of a row with dropped fields, else None.
        """
        problems = dict(warnings or {})
        try:
            values, reasons = kind.validate(row, self.company_id, self._tenant.country)
        except InvalidInputError as error:
            return RowProblem(position, kind.schema.readable_key(row), True, problems | error.fields)
        batch.add(position, values)
        problems |= reasons
        return RowProblem(position, kind.schema.readable_key(values), False, problems) if problems else None

    def merge_chunk(self, kind: EntityKind, batch: Batch) -> UpsertReport:
        """Merge a batch and report the rows that the database refuses.

        Raises FrontdeskError for errors that no row causes.
        """
        if not batch.rows:
            return UpsertReport()
        if kind is not COMPANY:
            self.ensure_company()
        report = bulk_upsert_bisecting(self._uow_factory, self.company_id, kind.select_repository, batch)
        if kind is COMPANY and not report.rejected:
            self._reload_tenant(batch.rows[-1])
        return report

    def transact(self, function: Callable[[UnitOfWork], T]) -> T:
        """Run `function` in a unit of work, as `UnitOfWorkFactory.transact` does."""
        return self._uow_factory.transact(self.company_id, function)

    def ensure_company(self) -> None:
        """Create the company with default settings if it is unknown, because other rows reference it."""
        if self.is_known:
            return
        self.made_company = self.is_known = True
        if isinstance(self._uow_factory, _DryRunUnitOfWorkFactory):
            self._uow_factory.makes_company = True
        else:
            self.transact(lambda uow: uow.companies.upsert(_default_company(self.company_id)))

    def _reload_tenant(self, company: Values) -> None:
        """Use the country and time zone of the stored company for the following payloads."""
        current = {"country": self._tenant.country, "timezone": self._tenant.timezone.key}
        self._tenant = tenant_of(
            self.company_id, Company(**{name: company.get(name, current[name]) for name in current})
        )
        if isinstance(self._uow_factory, _DryRunUnitOfWorkFactory):
            self._uow_factory.makes_company = self._uow_factory.makes_company or not self.is_known
        else:
            self._uow_factory.tenant_cache.invalidate(self.company_id)
        self.is_known = True


class _DryRunUnitOfWorkFactory(UnitOfWorkFactory):
    """Factory of units of work that are rolled back at their end.

    With `makes_company`, each unit of work first inserts the company, because the previous one rolled it
    back.
    """

    makes_company = False

    def transact(self, company_id: int, function: Callable[[UnitOfWork], T]) -> T:
        def rolled_back(uow: UnitOfWork) -> T:
            if self.makes_company:
                uow.companies.upsert(_default_company(company_id))
            result = function(uow)
            uow.session.rollback()
            return result

        return super().transact(company_id, rolled_back)


def _default_company(company_id: int) -> Values:
    return {"title": f"Company {company_id}"}
