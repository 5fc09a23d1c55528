"""Payloads of one company on their way in: mapped, validated, merged. Files, sync and webhook share it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from app.data_layer.bulk_upsert import bulk_upsert
from app.data_layer.tenant_cache import scope_of
from app.data_layer.unit_of_work import UnitOfWork, Units
from app.errors import RAW_ERRORS, InvalidInputError, from_driver
from app.frontdesk import Frontdesk
from app.models import Company
from app.repositories.batch_dedup import UpsertReport
from app.schemas.schema import Batch, Key, Values
from app.yclients.mapping.entities import COMPANY, Kind
from app.yclients.mapping.fields import Context

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """What was wrong with a row: it was rejected, or stored without what could not be read of it.

    `reasons` by field never quote a value.
    """

    position: int
    key: Key | None
    is_rejected: bool
    reasons: Mapping[str, str]


class Intake:
    """The way into one company. A dry run does everything and rolls it back."""

    def __init__(self, desk: Frontdesk, company_id: int, dry_run: bool = False) -> None:
        """Raises FrontdeskError where the database cannot be asked about the company."""
        self._units = _DryRun(desk.database) if dry_run else desk.units
        self.company_id = company_id
        try:
            company = desk.units.reading(company_id).companies.get()
        except RAW_ERRORS as error:
            raise from_driver(error) from error
        self.is_known = company is not None
        self._scope = scope_of(company_id, company)
        self.made_company = False

    def context(self, staff_id: int | None = None) -> Context:
        """How payloads are read now; a company's own payload may change it."""
        return Context(self.company_id, self._scope.timezone, staff_id)

    def new_batch(self, kind: Kind) -> Batch:
        """An empty chunk."""
        return Batch(kind.schema, self.company_id)

    def take_payload(
        self, kind: Kind, batch: Batch, position: int, payload: Any, context: Context
    ) -> Fault | None:
        """Map a payload and validate it: it is added to the batch, or set aside."""
        if not isinstance(payload, Mapping):
            return self.take_row(kind, batch, position, payload)
        mapped = kind.map_payload(payload, context)
        return self.take_row(kind, batch, position, mapped.row, mapped.warnings)

    def take_row(
        self, kind: Kind, batch: Batch, position: int, row: Any, warnings: Mapping[str, str] | None = None
    ) -> Fault | None:
        """Validate a row: it is added to the batch, or set aside."""
        found = dict(warnings or {})
        try:
            values, reasons = kind.validate(row, self.company_id, self._scope.country)
        except InvalidInputError as error:
            return Fault(position, kind.schema.readable_key(row), True, found | error.fields)
        batch.add(position, values)
        found |= reasons
        return Fault(position, kind.schema.readable_key(values), False, found) if found else None

    def land(self, kind: Kind, batch: Batch) -> UpsertReport:
        """Merge a chunk; rows that the database refuses are in the report. Raises what is no row's fault."""
        if not batch.rows:
            return UpsertReport()
        if kind is not COMPANY:
            self.make_company_known()
        report = bulk_upsert(self._units, self.company_id, kind.repository, batch)
        if kind is COMPANY and not report.rejected:
            self._company_changed(batch.rows[-1])
        return report

    def transact(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` in a unit of work, as `Units.transact` does."""
        return self._units.transact(self.company_id, work)

    def make_company_known(self) -> None:
        """Nothing can be stored for a company that is not known; it gets default settings."""
        if self.is_known:
            return
        self.made_company = self.is_known = True
        if isinstance(self._units, _DryRun):
            self._units.makes_company = True
        else:
            self.transact(lambda uow: uow.companies.upsert(_default_company(self.company_id)))

    def _company_changed(self, company: Values) -> None:
        """Read what comes now by the country and the time zone that have just arrived."""
        ours = {"country": self._scope.country, "timezone": self._scope.timezone.key}
        self._scope = scope_of(
            self.company_id, Company(**{name: company.get(name, ours[name]) for name in ours})
        )
        if isinstance(self._units, _DryRun):
            self._units.makes_company = self._units.makes_company or not self.is_known
        else:
            self._units.scopes.forget(self.company_id)
        self.is_known = True


class _DryRun(Units):
    """Units of work that do all their work and then roll it back.

    With `makes_company` each begins with the company, which the one before has rolled back too.
    """

    makes_company = False

    def transact(self, company_id: int, work: Callable[[UnitOfWork], T]) -> T:
        def rolled_back(uow: UnitOfWork) -> T:
            if self.makes_company:
                uow.companies.upsert(_default_company(company_id))
            done = work(uow)
            uow.session.rollback()
            return done

        return super().transact(company_id, rolled_back)


def _default_company(company_id: int) -> Values:
    return {"title": f"Company {company_id}"}
