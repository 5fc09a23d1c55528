"""The import of files into one company: recognised, mapped, validated, and merged chunk by chunk."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from app.errors import FrontdeskError
from app.frontdesk import Frontdesk
from app.schemas.schema import Batch
from app.text import to_printable_line
from app.yclients.importing.row_reader import BrokenFileError, InvalidLine
from app.yclients.importing.sources import SourceFile, open_source_files
from app.yclients.importing.summary import ImportProblem, ImportSummary
from app.yclients.ingest import Ingest, RowProblem
from app.yclients.mapping.entities import EntityKind
from app.yclients.mapping.fields import MappingContext
from app.yclients.summary import MAX_KEPT, KindSummary

ROWS_PER_TRANSACTION = 5_000  # rows of one transaction

OnProgress = Callable[[str, int, int], None]
OnProblem = Callable[[ImportProblem], None]


def import_files(
    desk: Frontdesk,
    company_id: int,
    paths: Iterable[str | Path],
    kind: EntityKind | None = None,
    staff_id: int | None = None,
    on_progress: OnProgress | None = None,
    dry_run: bool = False,
    on_problem: OnProblem | None = None,
) -> ImportSummary:
    """Import files of YClients payloads, or of rows of ours, into one company.

    Their order does not matter: what others refer to comes first. Each chunk of rows is a transaction,
    so what an interrupted import has stored stays, and the same import again goes on from there.
    `kind` and `staff_id` (whose schedule) stand where the files themselves do not say. `on_progress` is
    told the kind that is being read, and how many bytes of all have been; `on_problem` hears of every
    rejected row and warning, of which the summary keeps the first. A dry run merges every chunk and
    rolls it back.

    Raises InvalidInputError before anything is written where a file cannot be used at all: not there,
    empty, no JSON, of unknown kind, of another company. A file that breaks off later has its rows up to
    there stored, and is named in the summary. Raises FrontdeskError where the database is at fault.
    """
    sources = open_source_files([Path(path) for path in paths], company_id, kind, staff_id)
    run = _Run(desk, company_id, dry_run, on_problem)
    total = sum(source.reader.size for source in sources)
    done = 0
    for source in sources:
        for bytes_read in run.import_file(source):
            if on_progress is not None:
                on_progress(str(source.kind), done + bytes_read, total)
        done += source.reader.size
    return run.summary


class _Run:
    """One import under way."""

    def __init__(self, desk: Frontdesk, company_id: int, dry_run: bool, on_problem: OnProblem | None) -> None:
        self._ingest = Ingest(desk, company_id, dry_run)
        self._on_problem = on_problem or (lambda finding: None)
        self._found: Counter[bool] = Counter()
        self.summary = ImportSummary(company_id, dry_run)

    def import_file(self, source: SourceFile) -> Iterator[int]:
        """Import one file; after each chunk, and at the end, say how many of its bytes are done."""
        summary = self.summary.kinds.setdefault(str(source.kind), KindSummary())
        started = time.perf_counter()
        batch = self._ingest.new_batch(source.kind)
        context = self._ingest.context(source.staff_id)
        try:
            for position, row in enumerate(source.reader):
                fault = self._add_row(source, context, position, row, batch)
                if fault is not None:
                    self._record_problem(source, fault)
                if position % ROWS_PER_TRANSACTION == ROWS_PER_TRANSACTION - 1:
                    self._merge_chunk(source, batch)
                    batch = self._ingest.new_batch(source.kind)
                    yield source.reader.bytes_read
        except BrokenFileError as error:
            self.summary.broken.append(error)
        self._merge_chunk(source, batch)
        self.summary.made_company = self._ingest.made_company
        summary.seconds += time.perf_counter() - started
        yield source.reader.size

    def _add_row(
        self, source: SourceFile, context: MappingContext, position: int, row: Any, batch: Batch
    ) -> RowProblem | None:
        """Map and validate a row: add it to the batch, or set it aside."""
        if isinstance(row, InvalidLine):
            return RowProblem(position, None, True, {"row": row.reason})
        if source.has_frontdesk_columns:
            return self._ingest.add_row(source.kind, batch, position, row)
        return self._ingest.add_payload(source.kind, batch, position, row, context)

    def _merge_chunk(self, source: SourceFile, batch: Batch) -> None:
        """Merge a chunk of good rows."""
        try:
            report = self._ingest.merge_chunk(source.kind, batch)
        except FrontdeskError as error:
            path = to_printable_line(str(source.reader.path))
            where = f"{path}, rows {batch.positions[0]} to {batch.positions[-1]}"
            again = "What came before is stored; the same import again goes on from there."
            raise type(error)(f"{where}: {error.message} {again}") from error
        refused, report.rejected = report.rejected, []
        for row in refused:
            self._record_problem(source, RowProblem(row.position, row.key, True, row.errors))
        self.summary.kinds[str(source.kind)].add(report)

    def _record_problem(self, source: SourceFile, problem: RowProblem) -> None:
        finding = ImportProblem(
            source.reader.path,
            str(source.kind),
            problem.position,
            problem.key,
            problem.is_rejected,
            problem.reasons,
        )
        counts = self.summary.kinds[str(source.kind)]
        if problem.is_rejected:
            counts.rows += 1
            counts.rejected += 1
        else:
            counts.warnings += 1
        self._found[problem.is_rejected] += 1
        if self._found[problem.is_rejected] <= MAX_KEPT:
            self.summary.problems.append(finding)
        self._on_problem(finding)
