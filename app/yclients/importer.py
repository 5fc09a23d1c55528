"""The import of files into one company: recognised, mapped, validated, and merged chunk by chunk."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from app.bulk import bulk_upsert
from app.errors import FrontdeskError, InvalidInputError
from app.frontdesk import Frontdesk
from app.models import Company
from app.schemas.schema import Batch, Key, Values
from app.scopes import scope_of
from app.unit_of_work import UnitOfWork, Units
from app.yclients.files import BrokenFileError, NotARow
from app.yclients.kinds import COMPANY, Kind
from app.yclients.mapping import Context
from app.yclients.sources import Source, open_sources
from app.yclients.summary import KEPT, Finding, ImportSummary, KindSummary

CHUNK = 5_000  # rows of one transaction

T = TypeVar("T")
OnProgress = Callable[[str, int, int], None]
OnFinding = Callable[[Finding], None]


def import_files(
    desk: Frontdesk,
    company_id: int,
    paths: Iterable[str | Path],
    kind: Kind | None = None,
    staff_id: int | None = None,
    on_progress: OnProgress | None = None,
    dry_run: bool = False,
    on_finding: OnFinding | None = None,
) -> ImportSummary:
    """Import files of YClients payloads, or of rows of ours, into one company.

    Their order does not matter: what others refer to comes first. Each chunk of rows is a transaction,
    so what an interrupted import has stored stays, and the same import again goes on from there.
    `kind` and `staff_id` (whose schedule) stand where the files themselves do not say. `on_progress` is
    told the kind that is being read, and how many bytes of all have been; `on_finding` hears of every
    rejected row and warning, of which the summary keeps the first. A dry run merges every chunk and
    rolls it back.

    Raises InvalidInputError before anything is written where a file cannot be used at all: not there,
    empty, no JSON, of unknown kind, of another company. A file that breaks off later has its rows up to
    there stored, and is named in the summary. Raises FrontdeskError where the database is at fault.
    """
    sources = open_sources([Path(path) for path in paths], company_id, kind, staff_id)
    run = _Run(desk, company_id, dry_run, on_finding)
    total = sum(source.reader.size for source in sources)
    done = 0
    for source in sources:
        for bytes_read in run.take(source):
            if on_progress is not None:
                on_progress(str(source.kind), done + bytes_read, total)
        done += source.reader.size
    return run.summary


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


class _Run:
    """One import under way."""

    def __init__(self, desk: Frontdesk, company_id: int, dry_run: bool, on_finding: OnFinding | None) -> None:
        self._units = _DryRun(desk.database) if dry_run else desk.units
        self._company_id = company_id
        self._on_finding = on_finding or (lambda finding: None)
        self._found: Counter[bool] = Counter()
        company = desk.company(company_id).get_company().unwrap()
        self._is_known = company is not None
        self._scope = scope_of(company_id, company)
        self.summary = ImportSummary(company_id, dry_run)

    def take(self, source: Source) -> Iterator[int]:
        """Import one file; after each chunk say how many of its bytes are done."""
        summary = self.summary.kinds.setdefault(str(source.kind), KindSummary())
        started = time.perf_counter()
        batch = Batch(source.kind.schema, self._company_id)
        context = Context(self._company_id, self._scope.timezone, source.staff_id)
        try:
            for position, row in enumerate(source.reader):
                self._check(source, context, position, row, batch)
                if position % CHUNK == CHUNK - 1:
                    self._land(source, batch)
                    batch = Batch(source.kind.schema, self._company_id)
                    yield source.reader.bytes_read
        except BrokenFileError as error:
            self.summary.broken.append(error)
        self._land(source, batch)
        summary.seconds += time.perf_counter() - started

    def _check(self, source: Source, context: Context, position: int, row: Any, batch: Batch) -> None:
        """Map and validate a row: add it to the batch, or set it aside."""
        if isinstance(row, NotARow):
            self._find(source, position, None, {"row": row.reason}, is_rejected=True)
            return
        warnings: dict[str, str] = {}
        if not source.is_ours and isinstance(row, dict):
            mapped = source.kind.map_payload(row, context)
            row, warnings = mapped.row, mapped.warnings
        try:
            values, reasons = source.kind.validate(row, self._company_id, self._scope.country)
        except InvalidInputError as error:
            key = source.kind.schema.readable_key(row)
            self._find(source, position, key, warnings | error.fields, is_rejected=True)
            return
        batch.add(position, values)
        if warnings | reasons:
            key = source.kind.schema.readable_key(values)
            self._find(source, position, key, warnings | reasons, is_rejected=False)

    def _land(self, source: Source, batch: Batch) -> None:
        """Merge a chunk of good rows."""
        if not batch.rows:
            return
        if source.kind is not COMPANY:
            self._make_company_known()
        try:
            report = bulk_upsert(self._units, self._company_id, source.kind.repository, batch)
        except FrontdeskError as error:
            where = f"{source.reader.path}, rows {batch.positions[0]} to {batch.positions[-1]}"
            again = "What came before is stored; the same import again goes on from there."
            raise type(error)(f"{where}: {error.message} {again}") from error
        refused, report.rejected = report.rejected, []
        for row in refused:
            self._find(source, row.position, row.key, row.errors, is_rejected=True)
        self.summary.kinds[str(source.kind)].add(report)
        if source.kind is COMPANY and not refused:
            self._company_changed(batch.rows[-1])

    def _make_company_known(self) -> None:
        """Nothing can be stored for a company that is not known; it gets default settings."""
        if self._is_known:
            return
        self.summary.made_company = self._is_known = True
        if isinstance(self._units, _DryRun):
            self._units.makes_company = True
        else:
            make_default = _default_company(self._company_id)
            self._units.transact(self._company_id, lambda uow: uow.companies.upsert(make_default))

    def _company_changed(self, company: Values) -> None:
        """Read what comes now by the country and the time zone that have just arrived."""
        ours = {"country": self._scope.country, "timezone": self._scope.timezone.key}
        self._scope = scope_of(
            self._company_id, Company(**{name: company.get(name, ours[name]) for name in ours})
        )
        if isinstance(self._units, _DryRun):
            self._units.makes_company = not self._is_known
        else:
            self._units.scopes.forget(self._company_id)
        self._is_known = True

    def _find(
        self, source: Source, position: int, key: Key | None, reasons: Mapping[str, str], is_rejected: bool
    ) -> None:
        finding = Finding(source.reader.path, str(source.kind), position, key, is_rejected, reasons)
        counts = self.summary.kinds[str(source.kind)]
        if is_rejected:
            counts.rows += 1
            counts.rejected += 1
        else:
            counts.warnings += 1
        self._found[is_rejected] += 1
        if self._found[is_rejected] <= KEPT:
            self.summary.findings.append(finding)
        self._on_finding(finding)


def _default_company(company_id: int) -> Values:
    return {"title": f"Company {company_id}"}
