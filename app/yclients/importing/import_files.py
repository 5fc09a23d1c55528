"""The import of files into one company: recognised, mapped, validated, and merged chunk by chunk."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from app.errors import FrontdeskError
from app.frontdesk import Frontdesk
from app.schemas.schema import Batch
from app.text import printable
from app.yclients.importing.row_reader import BrokenFileError, NotARow
from app.yclients.importing.sources import Source, open_sources
from app.yclients.importing.summary import Finding, ImportSummary
from app.yclients.ingest import Fault, Intake
from app.yclients.mapping.entities import Kind
from app.yclients.mapping.fields import Context
from app.yclients.summary import KEPT, KindSummary

CHUNK = 5_000  # rows of one transaction

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


class _Run:
    """One import under way."""

    def __init__(self, desk: Frontdesk, company_id: int, dry_run: bool, on_finding: OnFinding | None) -> None:
        self._intake = Intake(desk, company_id, dry_run)
        self._on_finding = on_finding or (lambda finding: None)
        self._found: Counter[bool] = Counter()
        self.summary = ImportSummary(company_id, dry_run)

    def take(self, source: Source) -> Iterator[int]:
        """Import one file; after each chunk, and at the end, say how many of its bytes are done."""
        summary = self.summary.kinds.setdefault(str(source.kind), KindSummary())
        started = time.perf_counter()
        batch = self._intake.new_batch(source.kind)
        context = self._intake.context(source.staff_id)
        try:
            for position, row in enumerate(source.reader):
                fault = self._check(source, context, position, row, batch)
                if fault is not None:
                    self._find(source, fault)
                if position % CHUNK == CHUNK - 1:
                    self._land(source, batch)
                    batch = self._intake.new_batch(source.kind)
                    yield source.reader.bytes_read
        except BrokenFileError as error:
            self.summary.broken.append(error)
        self._land(source, batch)
        self.summary.made_company = self._intake.made_company
        summary.seconds += time.perf_counter() - started
        yield source.reader.size

    def _check(self, source: Source, context: Context, position: int, row: Any, batch: Batch) -> Fault | None:
        """Map and validate a row: add it to the batch, or set it aside."""
        if isinstance(row, NotARow):
            return Fault(position, None, True, {"row": row.reason})
        if source.is_ours:
            return self._intake.take_row(source.kind, batch, position, row)
        return self._intake.take_payload(source.kind, batch, position, row, context)

    def _land(self, source: Source, batch: Batch) -> None:
        """Merge a chunk of good rows."""
        try:
            report = self._intake.land(source.kind, batch)
        except FrontdeskError as error:
            path = printable(str(source.reader.path))
            where = f"{path}, rows {batch.positions[0]} to {batch.positions[-1]}"
            again = "What came before is stored; the same import again goes on from there."
            raise type(error)(f"{where}: {error.message} {again}") from error
        refused, report.rejected = report.rejected, []
        for row in refused:
            self._find(source, Fault(row.position, row.key, True, row.errors))
        self.summary.kinds[str(source.kind)].add(report)

    def _find(self, source: Source, fault: Fault) -> None:
        finding = Finding(
            source.reader.path,
            str(source.kind),
            fault.position,
            fault.key,
            fault.is_rejected,
            fault.reasons,
        )
        counts = self.summary.kinds[str(source.kind)]
        if fault.is_rejected:
            counts.rows += 1
            counts.rejected += 1
        else:
            counts.warnings += 1
        self._found[fault.is_rejected] += 1
        if self._found[fault.is_rejected] <= KEPT:
            self.summary.findings.append(finding)
        self._on_finding(finding)
