"""Payloads of one company on their way in: mapped, validated, merged. Files, sync and webhook share it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from app.data_layer.bulk_upsert import bulk_upsert_bisecting
from app.data_layer.tenant_cache import tenant_of
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
    """What was wrong with a row: it was rejected, or stored without what could not be read of it.

    `reasons` by field never quote a value.
    """

    position: int
    key: RowKey | None
    is_rejected: bool
    reasons: Mapping[str, str]


class Ingest:
    """The way into one company. A dry run does everything and rolls it back."""

    def __init__(self, desk: Frontdesk, company_id: int, dry_run: bool = False) -> None:
        """Raises FrontdeskError where the database cannot be asked about the company."""
        self._uow_factory = _DryRunUnitOfWorkFactory(desk.database) if dry_run else desk.uow_factory
        self.company_id = company_id
        try:
            company = desk.uow_factory.read_only_repositories(company_id).companies.get()
        except DRIVER_ERRORS as error:
            raise to_frontdesk_error(error) from error
        self.is_known = company is not None
        self._tenant = tenant_of(company_id, company)
        self.made_company = False

    def context(self, staff_id: int | None = None) -> MappingContext:
        """How payloads are read now; a company's own payload may change it."""
        return MappingContext(self.company_id, self._tenant.timezone, staff_id)

    def new_batch(self, kind: EntityKind) -> Batch:
        """An empty chunk."""
        return Batch(kind.schema, self.company_id)

    def add_payload(
        self, kind: EntityKind, batch: Batch, position: int, payload: Any, context: MappingContext
    ) -> RowProblem | None:
        """Map a payload and validate it: it is added to the batch, or set aside."""
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
        """Validate a row: it is added to the batch, or set aside."""
        found = dict(warnings or {})
        try:
            values, reasons = kind.validate(row, self.company_id, self._tenant.country)
        except InvalidInputError as error:
            return RowProblem(position, kind.schema.readable_key(row), True, found | error.fields)
        batch.add(position, values)
        found |= reasons
        return RowProblem(position, kind.schema.readable_key(values), False, found) if found else None

    def merge_chunk(self, kind: EntityKind, batch: Batch) -> UpsertReport:
        """Merge a chunk; rows that the database refuses are in the report. Raises what is no row's fault."""
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
        """Nothing can be stored for a company that is not known; it gets default settings."""
        if self.is_known:
            return
        self.made_company = self.is_known = True
        if isinstance(self._uow_factory, _DryRunUnitOfWorkFactory):
            self._uow_factory.makes_company = True
        else:
            self.transact(lambda uow: uow.companies.upsert(_default_company(self.company_id)))

    def _reload_tenant(self, company: Values) -> None:
        """Read what comes now by the country and the time zone that have just arrived."""
        ours = {"country": self._tenant.country, "timezone": self._tenant.timezone.key}
        self._tenant = tenant_of(
            self.company_id, Company(**{name: company.get(name, ours[name]) for name in ours})
        )
        if isinstance(self._uow_factory, _DryRunUnitOfWorkFactory):
            self._uow_factory.makes_company = self._uow_factory.makes_company or not self.is_known
        else:
            self._uow_factory.tenant_cache.invalidate(self.company_id)
        self.is_known = True


class _DryRunUnitOfWorkFactory(UnitOfWorkFactory):
    """Units of work that do all their work and then roll it back.

    With `makes_company` each begins with the company, which the one before has rolled back too.
    """

    makes_company = False

    def transact(self, company_id: int, function: Callable[[UnitOfWork], T]) -> T:
        def rolled_back(uow: UnitOfWork) -> T:
            if self.makes_company:
                uow.companies.upsert(_default_company(company_id))
            done = function(uow)
            uow.session.rollback()
            return done

        return super().transact(company_id, rolled_back)


def _default_company(company_id: int) -> Values:
    return {"title": f"Company {company_id}"}
